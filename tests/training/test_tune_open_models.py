"""Fine-tuning of an open model: low rates, nothing for fresh weights, saved as it came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from simplellm.app.cli import main
from simplellm.checkpoint.find_runs import find_checkpoint
from simplellm.checkpoint.step_folder import open_model
from simplellm.data.tokenizer import Tokenizer
from tests.conftest import STORY
from tests.model_folders import change_json, save_model

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("transformers")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A folder of runs: `open` was imported and has unusual facts; `mine` was trained from it."""
    folder = tmp_path_factory.mktemp("open")
    options: dict[str, Any] = {
        "head_dim": 20,
        "rms_norm_eps": 1e-4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 250_000.0},
        "vocab_size": tokenizer.vocab_size + 8,
        "attention_bias": True,
    }
    save_model(folder / "source", "Llama", tokenizer, **options)
    end = tokenizer.end_of_text
    change_json(folder / "source" / "generation_config.json", eos_token_id=[end, 5])
    (folder / "source" / "chat_template.jinja").write_text("{{ messages }}")
    runs = ["--checkpoints", str(folder)]
    assert main(["import", str(folder / "source"), "--name", "open", *runs]) == 0
    steps = ["--max-steps", "4", "--eval-interval", "2", "--block-size", "32"]
    assert main(["train", str(STORY), "--from", "open", "--name", "mine", *steps, *runs]) == 0
    return folder


def test_the_recipe_for_fresh_weights_is_not_used(tuned: Path) -> None:
    training = json.loads((tuned / "mine" / "run.json").read_text())["training"]
    assert training["optimizer"] == "adamw"
    assert training["learning_rate"] <= 1e-4
    for name in ("r_drop", "bpe_dropout", "renaming", "token_noise", "composition", "induction"):
        assert not training[name], name


def test_the_result_is_saved_as_the_architecture_it_came_from(tuned: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = find_checkpoint("mine", tuned, print)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert theirs.config.model_type == "llama"
    assert theirs.config.max_position_embeddings == 128
    ids = torch.randint(400, (1, 30), generator=torch.Generator().manual_seed(1))
    ours = open_model(folder, CPU)
    with torch.no_grad():
        logits = ours.model(ids)
        torch.testing.assert_close(logits, theirs(ids).logits, atol=1e-4, rtol=0)
        base = open_model(find_checkpoint("open", tuned, print), CPU).model(ids)
    assert float((logits - base).abs().max()) > 1e-3


def test_context_end_tokens_and_template_are_kept(tuned: Path) -> None:
    opened = open_model(find_checkpoint("mine", tuned, print), CPU)
    assert opened.model.config.block_size == 32
    assert opened.model.config.positions == 128
    assert opened.generation.eos_ids[1] == 5
    assert opened.generation.chat_template == "{{ messages }}"


def test_evaluate_gives_the_figure_of_the_training(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = json.loads((tuned / "mine" / "run.json").read_text())
    n_held_out = int(len(STORY.read_text(encoding="utf-8")) * info["training"]["val_fraction"])
    held_out = tmp_path / "held-out.txt"
    held_out.write_text(STORY.read_text(encoding="utf-8")[-n_held_out:], encoding="utf-8")
    best = json.loads((tuned / "mine" / "best.json").read_text())
    arguments = ["evaluate", "--run", "mine", "--data", str(held_out), "--json"]
    capsys.readouterr()
    assert main([*arguments, "--checkpoints", str(tuned)]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["bits_per_byte"] == pytest.approx(best["bits_per_byte"], rel=0.02)


def test_a_stopped_fine_tuning_resumes_bit_for_bit(tuned: Path) -> None:
    runs = ["--checkpoints", str(tuned)]
    settings = ["--eval-interval", "2", "--block-size", "32", "--precision", "float32"]
    train = ["train", str(STORY), "--from", "open", *settings, *runs]
    assert main([*train, "--max-steps", "2", "--schedule", "constant", "--name", "short"]) == 0
    assert main([*train, "--max-steps", "4", "--schedule", "constant", "--name", "long"]) == 0
    assert main(["train", "--resume", "--name", "short", "--max-steps", "4", *runs]) == 0
    weights = [
        open_model(tuned / name / "step-000004", CPU).model.state_dict()
        for name in ("short", "long")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_shape_and_a_longer_context_are_refused(
    tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", str(STORY), "--from", "open", "--name", "x", "--checkpoints", str(tuned)]
    assert main([*train, "--n-layer", "5"]) == 2
    assert "n_layer is 3 in the model that training goes on from" in capsys.readouterr().err
    assert main([*train, "--block-size", "129"]) == 2
    assert "has 128 positions" in capsys.readouterr().err
    assert not (tuned / "x").exists()


def test_architectures_of_open_models_cannot_be_trained_from_scratch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(STORY), "--architecture", "llama", "--checkpoints", str(tmp_path)]
    assert main(arguments) == 2
    assert "architecture is modern or gpt2, got 'llama'" in capsys.readouterr().err
