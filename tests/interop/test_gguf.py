"""llama.cpp reads an exported GGUF file: the same ids, the same tokens, the same end."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from interop.conftest import LEARNED_CHARACTERS
from interop.learned_models import learned_network
from interop.llama_cpp import LlamaCpp
from interop.random_models import CONFIGS, LLAMA3_ROPE, exported, random_network
from simplellm.app.cli import main
from simplellm.checkpoint.export.export import ExportJob
from simplellm.checkpoint.export.exported_model import ExportedModel, source_of
from simplellm.checkpoint.find_runs import find_checkpoint
from simplellm.checkpoint.step_folder import load_model
from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError
from simplellm.inference.sampler import Sampler
from simplellm.model.transformer import SimpleLLM
from tests.model_folders import LATER, MARK, with_gaps

N_STRINGS = 1000
N_NEW = 64
LEARNED_HERE = 2000  # characters that a model of each architecture learns
N_PROMPTS, N_FIRST, MIN_EQUAL = 64, 16, 60  # prompts, and those whose first tokens are equal
PIECES = [
    "The judge", "it's", " I'LL", "don't've", "é", "e\u0301", "ñandú", "Straße", "ﬁ", "x²", "½",
    "안녕하세요", " 판사는 말했다", "ㄱㄴㄷ", "가\u0301", "日本語", "中文，标点。", "Привет",
    "שלום", "مرحبا", "ไทย", "हिन्दी", "👩\u200d👩\u200d👧", "🇰🇷", "👍🏽", "0", "12", "345",
    "6789012345", "٣٤", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\t\t\n",
    "\u00a0", "\u3000", "\u2028", "\u200b", "\ufeff", "\x00", "\x7f", "...", "!?", "--", "(",
    "def f(x):\n    return x ** 2\n", "#include <a.h>\n", "a_b.c[0] += 1;", "{}", "\\n", "'",
    "https://example.com/?q=1&r=%20", "<|endoftext|>", "</s>", "$", "€5.00", '"', "_",
]  # fmt: skip


def strings() -> list[str]:
    draw = random.Random(1)
    return ["".join(draw.choices(PIECES, k=draw.randint(1, 12))) for _ in range(N_STRINGS)]


@pytest.fixture
def sampler(runs: Path, run: str) -> Sampler:
    return Sampler(*load_model(find_checkpoint(run, runs, print), torch.device("cpu")))


def export(runs: Path, run: str, path: Path, type: str = "f32") -> Path:
    arguments = ["--checkpoints", str(runs), "--format", "gguf", "--type", type, "--out", str(path)]
    assert main(["export", "--run", run, *arguments]) == 0
    return path


def greedy(sampler: Sampler, ids: list[int], n_tokens: int) -> list[int]:
    reply = sampler.stream(ids, SamplingParams(temperature=0, max_new_tokens=n_tokens))
    assert list(reply)
    return reply.new_ids


def prompts(sampler: Sampler, story: str) -> list[list[int]]:
    """Eight words each from places all over the text that the model has learned."""
    words = story[:LEARNED_CHARACTERS].split()
    step = (len(words) - 8) / N_PROMPTS
    starts = [int(i * step) for i in range(N_PROMPTS)]
    return [sampler.encode(" ".join(words[start : start + 8])) for start in starts]


def test_llama_cpp_gives_the_same_ids(
    runs: Path, run: str, sampler: Sampler, tmp_path: Path
) -> None:
    with LlamaCpp(export(runs, run, tmp_path / "model.gguf")) as reader:
        for text in strings():
            assert reader.encode(text) == sampler.tokenizer.encode(text), repr(text)


def test_llama_cpp_gives_the_same_ids_where_some_have_no_token(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Rows of the table without a token: in the vocabulary, after it, and beyond all tokens."""
    gaps = with_gaps(tokenizer)
    network = random_network(CONFIGS["llama"], gaps.vocab_size + 30)
    ExportJob.of("hf", None, tmp_path / "hf").write(exported("gaps", network, gaps))
    folder = ["--checkpoints", str(tmp_path)]
    assert main(["import", str(tmp_path / "hf"), "--name", "gaps", *folder]) == 0
    sampler = Sampler(*load_model(find_checkpoint("gaps", tmp_path, print), torch.device("cpu")))
    added = [MARK, LATER, "<mark", f"[PAD{gaps.vocab_size + 3}]"]
    texts = strings() + [f"{text}{token} {text}" for text in strings()[:100] for token in added]
    with LlamaCpp(export(tmp_path, "gaps", tmp_path / "model.gguf"), is_exact=True) as reader:
        for text in texts:
            assert reader.encode(text) == sampler.tokenizer.encode(text), repr(text)
        ids = sampler.encode("The judge put")
        assert reader.complete(ids, 32)["tokens"] == greedy(sampler, ids, 32)


def test_llama_cpp_gives_the_same_tokens_from_float32(
    runs: Path, run: str, sampler: Sampler, story: str, tmp_path: Path
) -> None:
    with LlamaCpp(export(runs, run, tmp_path / "model.gguf"), is_exact=True) as reader:
        for ids in prompts(sampler, story)[::8]:
            expected = greedy(sampler, ids, N_NEW)
            assert reader.complete(ids, N_NEW)["tokens"] == expected


@pytest.mark.parametrize("type", ["f16", "bf16", "q8_0"])
def test_llama_cpp_nearly_always_gives_the_same_tokens_from_fewer_bits(
    runs: Path, run: str, sampler: Sampler, story: str, tmp_path: Path, type: str
) -> None:
    with LlamaCpp(export(runs, run, tmp_path / "model.gguf", type)) as reader:
        n_equal = sum(
            reader.complete(ids, N_FIRST)["tokens"] == greedy(sampler, ids, N_FIRST)
            for ids in prompts(sampler, story)
        )
    assert n_equal >= MIN_EQUAL


@pytest.mark.parametrize("name", CONFIGS)
def test_llama_cpp_nearly_always_gives_the_same_tokens_of_every_architecture(
    tokenizer: Tokenizer, story: str, tmp_path: Path, name: str
) -> None:
    text = story[:LEARNED_HERE]
    network = learned_network(CONFIGS[name], tokenizer.encode(text), tokenizer.vocab_size)
    sampler = Sampler(network, tokenizer)
    ids = prompts(sampler, text)
    expected = [greedy(sampler, prompt, N_FIRST) for prompt in ids]
    for type in ("f16", "q8_0"):
        path = tmp_path / f"{type}.gguf"
        ExportJob.of("gguf", type, path).write(exported(name, network, tokenizer))
        with LlamaCpp(path) as reader:
            found = [reader.complete(prompt, N_FIRST)["tokens"] for prompt in ids]
        assert sum(map(list.__eq__, found, expected)) >= MIN_EQUAL, type


def prompt_before_a_letter(network: SimpleLLM, tokenizer: Tokenizer) -> torch.Tensor:
    """Random ids (1, 24), after which the most likely token is ASCII text.

    llama.cpp reports no probabilities of an end, nor of a part of a character.
    """
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(tokenizer.end_of_text, (1, 24), generator=generator)
        text = tokenizer.token_bytes(int(network(ids)[0, -1].argmax()))
        if text and text.isascii():
            return ids
    raise AssertionError("no such prompt")


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_llama_cpp_gives_the_same_probabilities_for_every_architecture(
    tokenizer: Tokenizer, tmp_path: Path, name: str
) -> None:
    network = random_network(CONFIGS[name], tokenizer.vocab_size)
    path = tmp_path / "model.gguf"
    ExportJob.of("gguf", None, path).write(exported(name, network, tokenizer))
    ids = prompt_before_a_letter(network, tokenizer)
    expected = torch.log_softmax(network(ids)[0, -1], -1).tolist()
    with LlamaCpp(path, is_exact=True) as reader:
        reply = reader.complete(ids[0].tolist(), 1, n_probs=tokenizer.vocab_size)
    first = reply["completion_probabilities"][0]
    found = {entry["id"]: entry["logprob"] for entry in first["top_logprobs"]}
    assert len(found) == tokenizer.vocab_size
    # llama.cpp reads GELU, which only gpt2 has, from a table of float16
    tolerance = 2e-2 if name.startswith("gpt2") else 1e-3
    assert max(abs(found[token] - expected[token]) for token in found) < tolerance


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"architecture": "qwen3", "attention_bias": True}, "biases of q_proj in qwen3"),
        ({"architecture": "qwen2", "head_dim": 20}, "a head_dim of 20 in qwen2"),
        ({"architecture": "qwen3", **LLAMA3_ROPE}, "scaled rotary frequencies of qwen3"),
    ],
)
def test_what_llama_cpp_cannot_compute_is_refused_by_name(
    tokenizer: Tokenizer, tmp_path: Path, facts: dict[str, Any], message: str
) -> None:
    model = exported("odd", random_network(facts, tokenizer.vocab_size), tokenizer)
    with pytest.raises(CheckpointError, match=message):
        ExportJob.of("gguf", None, tmp_path / "model.gguf").write(model)
    assert not list(tmp_path.iterdir())


def test_the_end_of_text_stops_a_reply(
    runs: Path, run: str, sampler: Sampler, tmp_path: Path
) -> None:
    """END_OF_TEXT gets the embedding of the most likely token, so that it comes next."""
    ids = sampler.encode("The judge")
    model, end = sampler.model, sampler.tokenizer.end_of_text
    likely = int(sampler.next_logits(ids).argmax())
    with torch.no_grad():
        table = model.token_embedding.weight if model.config.tie_embeddings else model.head.weight
        table[end] = 2 * table[likely]
    source = source_of(model, sampler.tokenizer, "here")
    path = tmp_path / "model.gguf"
    ExportJob.of("gguf", None, path).write(ExportedModel("ending", source))
    with LlamaCpp(path) as reader:
        reply = reader.complete(ids, 20)
    assert reply["stop_type"] == "eos" and reply["content"] == ""
