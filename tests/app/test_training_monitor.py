"""What is shown beside a training does not change it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import STORY, TINY_FLAGS

from simplellm.app import training_monitor
from simplellm.app.cli import main
from simplellm.checkpoint.run_log import read_log
from simplellm.checkpoint.step_folder import load_model
from simplellm.data.corpus import read_corpus
from simplellm.data.prepared_corpus import Prepared, prepare
from simplellm.errors import SamplingError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(
        read_corpus([str(STORY)]), None, 0.1, "bpe", 384, tmp_path_factory.mktemp("prepared")
    )


def test_a_sample_changes_neither_the_model_nor_the_random_state(
    trained: Path, prepared: Prepared
) -> None:
    model, _ = load_model(trained / "tiny" / "step-000030", torch.device("cpu"))
    model.train()
    before, weights = torch.get_rng_state(), [weight.clone() for weight in model.parameters()]
    texts = [training_monitor.sample(model, prepared, 20) for _ in range(2)]
    assert texts[0] == texts[1] != "" and model.training
    assert torch.equal(before, torch.get_rng_state())
    assert all(
        torch.equal(one, other) for one, other in zip(weights, model.parameters(), strict=True)
    )
    model(torch.tensor([[1, 2]])).sum().backward()  # nothing of inference mode is left behind


def test_a_sample_ends_in_time(trained: Path, prepared: Prepared) -> None:
    model, _ = load_model(trained / "tiny" / "step-000030", torch.device("cpu"))
    assert len(training_monitor.sample(model, prepared, 100, most_seconds=0.0)) < len(
        training_monitor.sample(model, prepared, 100)
    )


def test_a_model_that_cannot_be_sampled_does_not_stop_training(
    trained: Path, prepared: Prepared
) -> None:
    model, _ = load_model(trained / "tiny" / "step-000030", torch.device("cpu"))
    with torch.no_grad():
        model.token_embedding.weight.fill_(float("nan"))
    assert training_monitor.sample(model, prepared, 5) == ""


def test_training_is_identical_with_and_without_previews(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(name: str) -> bytes:
        assert main(["train", str(STORY), "--name", name, "--max-steps", "6", "--eval-interval",
        "2", "--dropout", "0.2",
                     "--checkpoints", str(tmp_path), *TINY_FLAGS]) == 0  # fmt: skip
        return (tmp_path / name / "step-000006" / "model.safetensors").read_bytes()

    with_previews = weights("with")
    monkeypatch.setattr(training_monitor, "sample", lambda *arguments: "")
    assert weights("without") == with_previews
    samples = [
        record["sample"]
        for record in read_log(tmp_path / "with" / "log.jsonl")
        if record["kind"] == "evaluation"
    ]
    assert len(samples) == 3 and all(samples)


def test_a_failed_report_does_not_fail_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def fail(*arguments: object) -> str:
        raise SamplingError("no luck")

    monkeypatch.setattr(training_monitor, "make_report", fail)
    code = main(
        [
            "train",
            str(STORY),
            "--name",
            "x",
            "--max-steps",
            "2",
            "--json",
            "--checkpoints",
            str(tmp_path),
            *TINY_FLAGS,
        ]
    )
    captured = capsys.readouterr()
    assert code == 0 and json.loads(captured.out)["run"] == "x"
    assert "no report of this run: no luck" in captured.err


def test_the_report_goes_to_stderr(tmp_path: Path, capsys) -> None:
    assert (
        main(
            [
                "train",
                str(STORY),
                "--max-steps",
                "2",
                "--json",
                "--checkpoints",
                str(tmp_path),
                *TINY_FLAGS,
            ]
        )
        == 0
    )
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    for words in ("byte unigram", "uniform bytes", "copied from the training text", "loss.svg"):
        assert words in captured.err
    report = captured.err[captured.err.index("on the held-out text") :].splitlines()
    assert len(report) <= 10
    assert all(len(line) <= 160 for line in report if str(tmp_path) not in line)


def test_a_preview_spells_bytes_that_are_no_character(
    trained: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load_model(trained / "tiny" / "step-000030", torch.device("cpu"))
    byte = prepared.tokenizer.encode("\u00e9")[0]
    letter = prepared.tokenizer.encode("z")[0]
    reply = SimpleNamespace(text="\ufffdz", new_ids=[byte, letter, byte], end_ids=frozenset())
    monkeypatch.setattr(training_monitor, "_sample", lambda *_: reply)
    assert training_monitor.preview(model, prepared) == "<0xC3>z"
