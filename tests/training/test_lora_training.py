"""Training of LoRA adapters: what is saved, resumed, repeated and refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import STORY, built_once
from small_runs import digests

from simplellm.app.cli import main
from simplellm.checkpoint.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import open_model
from simplellm.checkpoint.tensors import read_tensors
from simplellm.errors import CheckpointError
from simplellm.training.repetition import Repetition

CPU = torch.device("cpu")
FLAGS = ["--schedule", "constant", "--eval-interval", "2", "--precision", "float32"]
EMA = ["--ema-decay", "0.5", "--dropout", "0.1"]


def run_program(folder: Path, *arguments: str) -> int:
    return main([*arguments, "--checkpoints", str(folder), "--device", "cpu"])


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run `tiny`, and `adapted`, 4 steps of adapters for it."""

    def train(folder: Path) -> None:
        shutil.copytree(trained / "tiny", folder / "tiny")
        train = ["train", str(STORY), "--from", "tiny", "--lora", "3", *FLAGS, *EMA]
        assert run_program(folder, *train, "--name", "adapted", "--max-steps", "4") == 0

    shared = built_once(request, "lora", train)
    return shutil.copytree(shared, tmp_path_factory.mktemp("lora") / "runs")


def step(runs: Path, name: str = "adapted", number: int = 4) -> Path:
    return runs / name / f"step-{number:06}"


def test_the_checkpoint_is_the_base_plus_its_adapters(runs: Path) -> None:
    base = open_model(runs / "adapted" / "base", CPU).model
    first = open_model(RunFolder(runs / "tiny").best(), CPU).model.state_dict()
    assert all(torch.equal(value, first[name]) for name, value in base.state_dict().items())
    merged = open_model(step(runs), CPU).model.state_dict()
    adapters = read_tensors(step(runs) / WEIGHTS_FILE)
    prefix = "base_model.model.model.layers.1.self_attn"
    for part, name in zip(merged["blocks.1.attention.qkv.weight"].split(32), "qkv", strict=True):
        start = {"q": 0, "k": 32, "v": 64}[name]
        frozen = base.get_parameter("blocks.1.attention.qkv.weight")[start : start + 32]
        b, a = (adapters[f"{prefix}.{name}_proj.lora_{kind}.weight"] for kind in "BA")
        assert a.shape == (3, 32) and b.shape == (32, 3) and b.any()
        torch.testing.assert_close(part, frozen + 2 * b @ a, atol=1e-6, rtol=0)
    unchanged = ["token_embedding.weight", "final_norm.weight", "blocks.0.attention_norm.weight"]
    assert all(torch.equal(merged[name], first[name]) for name in unchanged)


def test_adapters_are_described_as_peft_reads_them(runs: Path) -> None:
    config = json.loads((step(runs) / CONFIG_FILE).read_text())
    assert config["peft_type"] == "LORA" and config["task_type"] == "CAUSAL_LM"
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (3, 6, 0.0)
    names = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert config["target_modules"] == names
    base = Path(config["base_model_name_or_path"])
    assert base.is_absolute() and base.parts[-2:] == RunFolder(runs / "tiny").best().parts[-2:]
    assert len(read_tensors(step(runs) / WEIGHTS_FILE)) == 2 * 2 * len(names)


def test_only_adapters_have_optimizer_state(runs: Path) -> None:
    tensors = read_tensors(step(runs) / "training" / "state.safetensors")
    kinds = {name.partition("/")[0] for name in tensors}
    assert kinds == {"adapter", "live", "optimizer"}
    assert all(".lora_" in name for name in tensors)
    info = json.loads((runs / "adapted" / "run.json").read_text())
    assert 0 < info["trained_parameters"] < info["parameters"] / 3
    n_adapters = sum(t.numel() for name, t in tensors.items() if name.startswith("adapter/"))
    assert info["trained_parameters"] == n_adapters


def test_a_resumed_run_ends_with_the_same_bits_also_without_its_base(
    runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / "tiny", tmp_path / "tiny")
    train = ["train", str(STORY), "--from", "tiny", "--lora", "3", *FLAGS, *EMA]
    assert run_program(tmp_path, *train, "--name", "adapted", "--max-steps", "2") == 0
    shutil.rmtree(tmp_path / "tiny")
    resume = ["train", "--resume", "--name", "adapted", "--max-steps", "4"]
    assert run_program(tmp_path, *resume) == 0
    assert digests(RunFolder(tmp_path / "adapted")) == digests(RunFolder(runs / "adapted"))


def test_a_run_without_its_frozen_base_is_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "adapted", tmp_path / "adapted")
    weights = tmp_path / "adapted" / "base" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    resume = ["train", "--resume", "--name", "adapted", "--max-steps", "6"]
    assert run_program(tmp_path, *resume) == 1
    error = capsys.readouterr().err
    assert "model.safetensors is damaged" in error and "--from adapted" in error
    shutil.rmtree(tmp_path / "adapted" / "base")
    assert run_program(tmp_path, *resume) == 1
    assert "adapters of the model in" in capsys.readouterr().err


def test_a_run_is_repeated_from_its_run_json(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    config = str(tmp_path / "runs" / "adapted" / "run.json")
    assert run_program(tmp_path / "runs", "train", "--config", config, "--name", "again") == 0
    again = RunFolder(tmp_path / "runs" / "again")
    assert digests(again) == digests(RunFolder(runs / "adapted"))


def test_a_run_from_a_file_is_repeated_from_that_file(runs: Path) -> None:
    repetition = Repetition.read(runs / "adapted" / "run.json", {})
    model = runs / "model.gguf"
    info = repetition.info.with_facts({"from": str(model)})
    with pytest.raises(CheckpointError, match="no longer at .*model.gguf"):
        assert replace(repetition, info=info).base_folder
    model.touch()
    assert replace(repetition, info=info).base_folder == model


def test_evaluation_and_preview_see_the_adapted_model(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = STORY.read_text(encoding="utf-8")
    info = json.loads((runs / "adapted" / "run.json").read_text())
    held_out = runs / "held-out.txt"
    n_held_out = int(len(text) * info["training"]["val_fraction"])
    held_out.write_text(text[-n_held_out:], encoding="utf-8")
    best = json.loads((runs / "adapted" / "best.json").read_text())
    tiny = json.loads((runs / "tiny" / "best.json").read_text())
    assert best["bits_per_byte"] < tiny["bits_per_byte"]
    capsys.readouterr()
    assert run_program(runs, "evaluate", "--run", "adapted", "--data", str(held_out), "--json") == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["bits_per_byte"] == pytest.approx(best["bits_per_byte"], rel=0.02)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--lora", "8"], "lora adapts a trained model, got none to start from"),
        (["--lora", "8", "--from", "none"], "lora adapts a trained model"),
        (["--lora", "33", "--from", "tiny"], "lora is at most 32 for q_proj, a matrix of 32 x 32"),
        (["--lora", "8", "--from", "tiny", "--lora-targets", "q_proj,c_fc"], "got 'c_fc'"),
        (["--lora", "8", "--from", "tiny", "--lora-targets", ""], "lora_targets is a text"),
        (["--lora", "8", "--from", "tiny", "--freeze", "1"], "are frozen, got freeze 1"),
        (["--lora", "8", "--from", "tiny", "--optimizer", "muon"], "got optimizer muon"),
        (["--lora-alpha", "8", "--from", "tiny"], "lora_alpha belongs to lora"),
        (["--lora-dropout", "0.1", "--from", "tiny"], "lora_dropout belongs to lora"),
        (["--lora", "-1", "--from", "tiny"], "lora is a whole number"),
        (["--lora", "8", "--from", "tiny", "--n-layer", "3"], "n_layer is 2"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    runs: Path, flags: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(runs, "train", str(STORY), "--name", "refused", *flags) == 2
    assert problem in capsys.readouterr().err
    assert not (runs / "refused").exists()


def test_a_resumed_run_keeps_its_rank(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resume = ["train", "--resume", "--name", "adapted", "--max-steps", "6", "--accept-changes"]
    assert run_program(runs, *resume, "--lora", "4") == 2
    assert "started with lora 3, got 4" in capsys.readouterr().err
    assert run_program(runs, *resume, "--lora-alpha", "4") == 2


def test_adapters_of_the_base_in_the_box_name_the_copy_in_the_run(
    runs: Path, small_base: Path
) -> None:
    train = ["train", str(STORY), "--from", "base", "--lora", "2", "--lora-targets", "up_proj"]
    assert run_program(runs, *train, *FLAGS, "--max-steps", "2", "--name", "boxed") == 0
    config = json.loads((step(runs, "boxed", 2) / CONFIG_FILE).read_text())
    assert config["base_model_name_or_path"] == str((runs / "boxed" / "base").resolve())
    assert config["target_modules"] == ["up_proj"]
    merged, base = (
        open_model(path, CPU).model.state_dict()
        for path in (step(runs, "boxed", 2), runs / "boxed" / "base")
    )
    changed = {name for name in merged if not torch.equal(merged[name], base[name])}
    assert changed == {f"blocks.{i}.feed_forward.up.weight" for i in range(2)}


def test_gradient_checkpointing_changes_no_bit(runs: Path) -> None:
    train = ["train", str(STORY), "--from", "tiny", "--lora", "3", *FLAGS, "--max-steps", "2"]
    train += ["--precision", "bf16", "--lora-dropout", "0.2"]
    for name, flags in (("plain", []), ("recomputed", ["--gradient-checkpointing"])):
        assert run_program(runs, *train, "--name", name, *flags) == 0
    plain, recomputed = (digests(RunFolder(runs / name)) for name in ("plain", "recomputed"))
    assert plain == recomputed
