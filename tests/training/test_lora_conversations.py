"""LoRA on conversations: a base without a template learns its new tokens, and ends its replies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import built_once
from small_runs import digests

from simplellm.app.cli import main
from simplellm.checkpoint.adapter_files import CONFIG_FILE, TRAINED_ROWS, WEIGHTS_FILE
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import OpenedModel, open_model
from simplellm.checkpoint.tensors import read_tensors
from simplellm.data.chat_template import IM_END, IM_START

CPU = torch.device("cpu")
FLAGS = [
    "--lora", "8", "--schedule", "constant", "--learning-rate", "0.02", "--precision", "float32",
    "--val-fraction", "0.3", "--batch-size", "4",
]  # fmt: skip


def run_program(folder: Path, *arguments: str) -> int:
    return main([*arguments, "--checkpoints", str(folder), "--device", "cpu"])


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run `tiny`, a text model, and `bot`, 40 steps of adapters on conversations."""

    def train(folder: Path) -> None:
        shutil.copytree(trained / "tiny", folder / "tiny")
        questions = ("Who are you?", "Who is it?", "Are you there?", "Is it you?", "Who?", "You?")
        lines = [{"prompt": question, "completion": "It is me."} for question in questions]
        (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, lines)))
        assert run_program(folder, *chat_training(folder), "--max-steps", "40") == 0

    shared = built_once(request, "lora-chat", train)
    return shutil.copytree(shared, tmp_path_factory.mktemp("lora-chat") / "runs")


def chat_training(folder: Path, name: str = "bot") -> list[str]:
    train = ["train", str(folder / "chats.jsonl"), "--from", "tiny", "--name", name]
    return [*train, *FLAGS, "--eval-interval", "20"]


def opened(run: RunFolder) -> OpenedModel:
    return open_model(run.last(), CPU)


def test_the_rows_of_the_new_tokens_are_learned(runs: Path) -> None:
    run = RunFolder(runs / "bot")
    bot = opened(run)
    start, end = (bot.tokenizer.special_tokens[name] for name in (IM_START, IM_END))
    base = open_model(run.path / "base", CPU).model.token_embedding.weight
    learned = bot.model.token_embedding.weight
    assert torch.equal(base[start], base[end])  # the mean of the other rows
    assert (learned[start] - learned[end]).abs().max() > 0.01
    others = [i for i in range(len(base)) if i not in (start, end)]
    assert torch.equal(learned[others], base[others])


def test_a_base_without_a_template_learns_to_end_its_replies(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate = ["generate", "--chat", "--prompt", "Who are you?", "--temperature", "0", "--json"]
    limits = ["--max-new-tokens", "30", "--run"]
    assert run_program(runs, *generate, *limits, str(RunFolder(runs / "bot").last())) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["stop_reason"] != "length" and reply["new_tokens"] < 30
    assert reply["text"].startswith("It is me")


def test_the_adapter_names_its_tokens_as_peft_reads_them(runs: Path) -> None:
    run = RunFolder(runs / "bot")
    bot = opened(run)
    ids = [bot.tokenizer.special_tokens[name] for name in (IM_START, IM_END)]
    config = json.loads((run.last() / CONFIG_FILE).read_text())
    assert config["trainable_token_indices"] == {"embed_tokens": ids, "lm_head": ids}
    assert Path(config["base_model_name_or_path"]).parts[-2:] == ("bot", "base")
    tensors = read_tensors(run.last() / WEIGHTS_FILE)
    for name, table in (
        ("model.embed_tokens", bot.model.token_embedding),
        ("lm_head", bot.model.head),
    ):
        assert torch.equal(tensors[f"base_model.model.{name}.{TRAINED_ROWS}"], table.weight[ids])
    assert run.read_info()["trained_tokens"] == ids


def test_a_resumed_chat_run_ends_with_the_same_bits(runs: Path, tmp_path: Path) -> None:
    for name in ("tiny", "chats.jsonl"):
        copy = shutil.copytree if (runs / name).is_dir() else shutil.copy
        copy(runs / name, tmp_path / name)
    whole, halves = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "halves")
    assert run_program(tmp_path, *chat_training(tmp_path, "whole"), "--max-steps", "4") == 0
    assert run_program(tmp_path, *chat_training(tmp_path, "halves"), "--max-steps", "2") == 0
    resume = ["train", "--resume", "--name", "halves", "--max-steps", "4"]
    assert run_program(tmp_path, *resume) == 0
    assert digests(halves) == digests(whole)


def test_a_second_lora_run_starts_from_the_merged_chat_model(runs: Path) -> None:
    train = [*chat_training(runs, "second"), "--max-steps", "1", "--from", "bot"]
    assert run_program(runs, *train) == 0
    second = RunFolder(runs / "second")
    assert json.loads((second.last() / CONFIG_FILE).read_text())["trainable_token_indices"] is None
    first, again = (opened(RunFolder(runs / name)).model for name in ("bot", "second"))
    best = open_model(RunFolder(runs / "bot").best(), CPU).model
    assert torch.equal(again.token_embedding.weight, best.token_embedding.weight)
    assert again.config == first.config


def test_damaged_trained_tokens_in_run_json_are_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "bot", tmp_path / "bot")
    path = tmp_path / "bot" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "trained_tokens": [-1]}))
    assert run_program(tmp_path, "train", "--resume", "--name", "bot", "--max-steps", "41") == 1
    assert "trained_tokens is [-1]" in capsys.readouterr().err


def test_verify_finds_a_damaged_or_missing_frozen_base(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "bot", tmp_path / "bot")
    base = tmp_path / "bot" / "base"

    def verdict() -> dict[str, object]:
        capsys.readouterr()
        run_program(tmp_path, "verify", "--run", "bot", "--json")
        verdicts = json.loads(capsys.readouterr().out)
        return next(one for one in verdicts if one["path"] == str(base))

    assert verdict()["whole"] is True
    assert run_program(tmp_path, "verify", "--run", "bot") == 0
    weights = base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "model.safetensors is damaged" in str(verdict()["problem"])
    assert run_program(tmp_path, "verify", "--run", "bot") == 1
    (base / "manifest.json").unlink()
    assert verdict()["whole"] is False
    shutil.rmtree(base)
    assert verdict()["whole"] is False
    assert run_program(tmp_path, "verify", "--run", "bot") == 1
