"""Fine-tuning: weights, tokenizer and shape of the base, with lower learning rates."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import STORY
from small_runs import digests, training_context

from simplellm.app.cli import main
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import read_log
from simplellm.checkpoint.step_folder import load_model
from simplellm.errors import SettingError
from simplellm.training.result import Result
from simplellm.training.resume import resume
from simplellm.training.sources import Sources
from simplellm.training.start import start

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "vocab_size": 300}
TRAINING = {
    "batch_size": 8, "eval_tokens": 1000, "log_interval": 1, "precision": "float32",
    "bpe_dropout": 0.0, "patience": 0,
    "token_noise": 0.0, "dropout": 0.0, "ema_decay": 0.0, "eval_interval": 100,
}  # fmt: skip
HANGUL = "".join(chr(code) for code in range(0xAC00, 0xAC00 + 2000))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run of 150 steps on the story."""
    folder = tmp_path_factory.mktemp("base")
    return start(
        Sources((str(STORY),)),
        {**SHAPE, **TRAINING, "max_steps": 150},
        "base",
        training_context(folder),
    )


@pytest.fixture
def go_on(base: Result, tmp_path: Path):
    """Trains on from the base run; keyword arguments are settings."""

    def go_on(
        text: Path = STORY, notice: Callable[[str], None] = lambda text: None, **given: Any
    ) -> Result:
        context = training_context(tmp_path, given.pop("stop_after", None), notice)
        name = given.pop("name", "next")
        return start(
            Sources((str(text),)),
            {**TRAINING, "max_steps": 2, **given},
            name,
            context,
            Path(base.path),
        )

    return go_on


def weights(path: str | Path) -> dict[str, torch.Tensor]:
    return dict(load_model(Path(path), torch.device("cpu"))[0].named_parameters())


def new_text(tmp_path: Path, kind: str) -> Path:
    draw = random.Random(1)
    texts = {
        "korean": " ".join("".join(draw.choices(HANGUL, k=3)) for _ in range(1000)),
        "digits": "".join(draw.choices("0123456789", k=6000)),
    }
    (tmp_path / f"{kind}.txt").write_text(texts[kind], encoding="utf-8")
    return tmp_path / f"{kind}.txt"


def test_fine_tuning_begins_at_the_loss_of_the_base(go_on, base, tmp_path):
    result = go_on(eval_interval=1, max_steps=1)
    assert result.val_loss == pytest.approx(base.val_loss, abs=0.1)
    fresh = start(
        Sources((str(STORY),)),
        {**SHAPE, **TRAINING, "max_steps": 1},
        "fresh",
        training_context(tmp_path),
    )
    assert fresh.val_loss > base.val_loss + 0.5


def test_fine_tuning_lowers_the_training_loss(go_on):
    result = go_on(max_steps=60, eval_interval=60)
    losses = [
        record["loss"]
        for record in read_log(RunFolder(Path(result.path).parent).log_path)
        if record["kind"] == "step"
    ]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_fine_tuning_keeps_the_tokenizer_of_the_base(go_on, base, tmp_path):
    result = go_on(new_text(tmp_path, "korean"))
    digests = {
        hashlib.sha256((Path(path) / "tokenizer.json").read_bytes()).hexdigest()
        for path in (base.path, result.path)
    }
    assert len(digests) == 1


def test_run_json_records_the_base(go_on, base):
    assert RunFolder(Path(go_on().path).parent).read_info()["from"] == str(
        Path(base.path).resolve()
    )


def test_fine_tuning_lowers_learning_rates_that_were_not_given(go_on, base):
    of_base = RunFolder(Path(base.path).parent).read_info()["training"]
    lower = RunFolder(Path(go_on().path).parent).read_info()["training"]
    for name in ("learning_rate", "muon_learning_rate"):
        assert lower[name] < 0.5 * of_base[name]
    given = RunFolder(Path(go_on(name="given", learning_rate=5e-3).path).parent).read_info()[
        "training"
    ]
    assert (given["learning_rate"], given["muon_learning_rate"]) == (
        5e-3,
        lower["muon_learning_rate"],
    )


@pytest.mark.parametrize(
    "flags",
    [
        ["--n-embd", "64"],
        ["--n-layer", "3"],
        ["--vocab-size", "999"],
        ["--block-size", "32"],
        ["--architecture", "gpt2"],
    ],
)
def test_another_shape_is_refused_before_anything_is_written(base, tmp_path, capsys, flags):
    folder = tmp_path / "checkpoints"
    code = main(
        [
            "train",
            str(STORY),
            "--from",
            base.path,
            "--max-steps",
            "1",
            "--checkpoints",
            str(folder),
            *flags,
        ]
    )
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and flags[0][2:].replace("-", "_") in err and "--from" in err
    assert len(err.splitlines()) <= 2 and not folder.exists()


def test_the_shape_of_the_base_may_be_given(go_on):
    assert go_on(**SHAPE).steps == 2


def test_a_missing_base_is_named_in_the_error(tmp_path, capsys):
    code = main(
        [
            "train",
            str(STORY),
            "--from",
            "nothing",
            "--max-steps",
            "1",
            "--checkpoints",
            str(tmp_path),
        ]
    )
    out, err = capsys.readouterr()
    assert (code, out) == (1, "") and "nothing" in err and len(err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("kind", "is_strange"), [("korean", True), ("digits", True), ("story", False)]
)
def test_a_notice_appears_for_a_very_different_text_only(go_on, tmp_path, kind, is_strange):
    said: list[str] = []
    go_on(STORY if kind == "story" else new_text(tmp_path, kind), said.append, max_steps=1)
    assert any("very different" in line for line in said) == is_strange


@pytest.mark.parametrize(("n", "optimizer"), [(0, "muon"), (1, "muon"), (2, "muon"), (1, "adamw")])
def test_frozen_blocks_and_embeddings_stay_bit_for_bit_and_others_change(go_on, base, n, optimizer):
    before = weights(base.path)
    result = go_on(freeze=n, optimizer=optimizer, weight_decay=0.1, max_steps=4, eval_interval=4)
    after = weights(RunFolder(Path(result.path).parent).last())
    stayed = {name for name in before if torch.equal(before[name], after[name])}
    frozen = ("token_embedding.", *(f"blocks.{layer}." for layer in range(n))) if n else ()
    assert stayed == {name for name in before if name.startswith(frozen or "none")}


def test_freezing_more_blocks_than_the_model_has_is_refused(go_on):
    with pytest.raises(SettingError, match="freeze"):
        go_on(freeze=3)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_run_with_frozen_blocks_resumes_bit_for_bit(go_on, tmp_path, ema_decay):
    given = {
        "freeze": 1,
        "max_steps": 6,
        "eval_interval": 2,
        "dropout": 0.2,
        "ema_decay": ema_decay,
    }
    go_on(name="whole", **given)
    go_on(name="cut", stop_after=3, **given)
    assert resume(RunFolder(tmp_path / "cut"), {}, training_context(tmp_path)).steps == 6
    assert digests(RunFolder(tmp_path / "cut")) == digests(RunFolder(tmp_path / "whole"))
