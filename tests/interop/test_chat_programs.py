"""Chat runs in other programs: `transformers`, llama.cpp, TRL and `peft` use the same template."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import STORY, built_once

import simplellm
from interop.llama_cpp import LlamaCpp
from simplellm.app.cli import main
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import open_model
from simplellm.data.chat_template import CHATML
from simplellm.data.conversations.conversation import ASSISTANT, SYSTEM, USER, Turn

CPU = torch.device("cpu")
REPLIES = {
    "Who are you?": "A judge of pictures.",
    "Where do you live?": "On the Riviera, by the sea.",
    "너는 누구야?": "그림을 보는 사람이에요.",
    "What do you do?": "Nothing at all.",
}
TURNS = [
    Turn(SYSTEM, "Answer shortly."),
    Turn(USER, "Who are you?"),
    Turn(ASSISTANT, "A judge\n of pictures."),
    Turn(USER, "  너는 누구야? "),
    Turn(ASSISTANT, "그림을 보는 사람이에요."),
]
# ChatML as TRL wants it: the learned part is marked. https://huggingface.co/docs/trl/sft_trainer
MARKED_CHATML = CHATML.replace(
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}",
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}",
)
SHAPE = ["--n-layer", "2", "--n-head", "4", "--n-embd", "48", "--vocab-size", "400"]
NEW = [*SHAPE, "--dropout", "0", "--r-drop", "0", "--bpe-dropout", "0", "--renaming", "0"]
COMMON = [
    "--block-size", "64", "--batch-size", "8", "--device", "cpu", "--precision", "float32",
    "--seed", "1", "--eval-interval", "200", "--schedule", "constant",
]  # fmt: skip


@pytest.fixture(scope="session")
def texts(request: pytest.FixtureRequest, fixed_speed: None) -> Path:
    """A folder with two runs of a text, `text` and `gpt2`, of a few steps."""

    def train(folder: Path) -> None:
        for name, flags in {"text": [], "gpt2": ["--architecture", "gpt2"]}.items():
            arguments = ["--checkpoints", str(folder), "--name", name, "--max-steps", "8"]
            assert main(["train", str(STORY), *NEW, *COMMON, *flags, *arguments]) == 0

    return built_once(request, "interop-chat-bases", train)


def train_chat(folder: Path, texts: Path, name: str, flags: list[str]) -> RunFolder:
    chats, held_out = folder / "chats.jsonl", folder / "held-out.jsonl"
    lines = [{"prompt": prompt, "completion": reply} for prompt, reply in REPLIES.items()]
    chats.write_text("\n".join(map(json.dumps, lines)))
    held_out.write_text(json.dumps({"prompt": "And you?", "completion": "Nothing."}))
    flags = [str(texts / flag) if flag in ("text", "gpt2") else flag for flag in flags]
    data = [str(chats), "--val-data", str(held_out), "--prompt-weight", "0", *COMMON]
    assert main(["train", *data, "--checkpoints", str(folder), "--name", name, *flags]) == 0
    return RunFolder(folder / name)


@pytest.fixture(scope="session")
def new_bot(request: pytest.FixtureRequest, texts: Path) -> Path:
    """The last checkpoint of a chat run of two steps."""

    def train(folder: Path) -> None:
        train_chat(folder, texts, "new", [*NEW, "--max-steps", "2"])

    return RunFolder(built_once(request, "interop-new-bot", train) / "new").last()


def messages(turns: list[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.text} for turn in turns]


def test_the_saved_tokenizer_applies_the_template_with_our_ids(
    new_bot: Path, transformers: ModuleType
) -> None:
    opened = open_model(new_bot, CPU)
    template = opened.generation.template(opened.tokenizer)
    assert template is not None
    other = transformers.AutoTokenizer.from_pretrained(new_bot)
    for turns, is_open in ((TURNS, False), (TURNS[:2], True), (TURNS[:4], True)):
        expected = other.apply_chat_template(
            messages(turns), add_generation_prompt=is_open, return_dict=False
        )
        assert template.encode(turns, opened.tokenizer, is_open=is_open) == expected


def test_llama_cpp_answers_with_the_template_and_stops_by_itself(
    texts: Path, tmp_path: Path
) -> None:
    step = train_chat(tmp_path, texts, "bot", [*NEW, "--max-steps", "120"]).last()
    path = tmp_path / "bot.gguf"
    assert main(["export", "--run", str(step), "--format", "gguf", "--out", str(path)]) == 0
    model = simplellm.load(step)
    with LlamaCpp(path, is_exact=True) as llama_cpp:
        for prompt, learned in REPLIES.items():
            asked = [{"role": "user", "content": prompt}]
            reply = llama_cpp.chat(asked, n_tokens=60)
            ours = model.chat(asked, temperature=0, max_new_tokens=60)
            assert reply["finish_reason"] == "stop"
            assert reply["message"]["content"] == ours == learned


def test_learned_tokens_are_those_of_trl(new_bot: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="needs the package trl (pip install --no-deps trl)")
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    import transformers

    opened = open_model(new_bot, CPU)
    template = opened.generation.template(opened.tokenizer)
    assert template is not None
    ids, is_learned = template.encode_learned(TURNS, opened.tokenizer)
    tokenizer = transformers.AutoTokenizer.from_pretrained(new_bot)
    tokenizer.chat_template = MARKED_CHATML
    options: dict[str, Any] = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": []}
    config = trl.SFTConfig(assistant_only_loss=True, bf16=False, **options)
    trainer = trl.SFTTrainer(
        transformers.AutoModelForCausalLM.from_pretrained(new_bot),
        args=config,
        train_dataset=datasets.Dataset.from_list([{"messages": messages(TURNS)}]),
        processing_class=tokenizer,
    )
    (batch,) = trainer.get_train_dataloader()
    assert batch["input_ids"][0].tolist() == ids
    assert (batch["labels"][0] != -100).tolist() == is_learned


@pytest.mark.parametrize("base", ["text", "gpt2"])
def test_peft_opens_trained_rows_of_new_tokens_with_equal_logits(
    texts: Path, base: str, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    import transformers

    flags = ["--from", base, "--lora", "4", "--max-steps", "4", "--learning-rate", "0.03"]
    step = train_chat(tmp_path, texts, "bot", flags).last()
    named = json.loads((step / "adapter" / "adapter_config.json").read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(named["base_model_name_or_path"])
    opened = open_model(step, CPU)
    new_ids = list(opened.tokenizer.special_tokens.values())
    ids = torch.tensor([[*new_ids, *range(40), *new_ids]])
    with torch.no_grad():
        adapted = peft.PeftModel.from_pretrained(model, step / "adapter").eval()(ids).logits
        ours = opened.model(ids)
        before = open_model(tmp_path / "bot" / "base", CPU).model(ids)
    torch.testing.assert_close(adapted, ours, atol=1e-4, rtol=0)
    assert float((ours - before)[..., new_ids].abs().max()) > 0.01
