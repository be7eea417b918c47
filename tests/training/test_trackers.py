"""Trackers receive every number, are opened by the first record and always closed."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
import types

import pytest
from conftest import STORY, TINY_FLAGS

from simplellm.app.cli import main
from simplellm.app.parser import parse
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import read_log
from simplellm.errors import SettingError, TrainingError
from simplellm.training.trackers import Tracking, scalars

RECORD = {
    "kind": "step",
    "step": 10,
    "loss": 2.5,
    "best": True,
    "sample": "x",
    "gradient_norms": {"head": 0.5},
    "epoch": 1,
}


class FakeWandb(types.ModuleType):
    """Enough of wandb to see what is done with it."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: list[tuple] = []

    def init(self, **options):
        self.calls.append(("init", options))
        return self

    def log(self, values, step):
        self.calls.append(("log", step, values))

    def finish(self):
        self.calls.append(("finish",))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def tensorboard(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    calls: list[tuple] = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            calls.append(("open", folder, purge_step))

            self.file_writer = self

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def add_text(self, name, text, step):
            calls.append((name, text, step))

        def add_summary(self, part):
            calls.append(part)

        def close(self):
            calls.append(("close",))

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter
    fake.summary = types.SimpleNamespace(hparams=lambda values, metrics: [("hparams", values)])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    return calls


def test_every_number_is_a_scalar_and_nothing_else_is():
    assert scalars(RECORD) == {"step/loss": 2.5, "step/gradient_norms/head": 0.5, "step/epoch": 1}


def test_both_trackers_get_steps_and_evaluations_and_are_closed(tmp_path, wandb, tensorboard):
    (tmp_path / "run.json").write_text(json.dumps({"started_at": "now", "model": {"n_layer": 2}}))
    with Tracking(["tensorboard", "wandb"]) as tracking:
        tracking.follow(tmp_path)
        assert not tensorboard and not wandb.calls, "nothing is opened before the first record"
        tracking.write(RECORD)
        tracking.write({"kind": "evaluation", "step": 10, "val_loss": 3.0, "sample": "a\nb"})
        tracking.write({"kind": "early_stop", "step": 10, "patience": 3})
    assert tensorboard == [
        ("open", str(tmp_path), 10),
        ("hparams", {"n_layer": 2}),
        ("step/loss", 2.5, 10),
        ("step/gradient_norms/head", 0.5, 10),
        ("step/epoch", 1, 10),
        ("sample", "    x", 10),
        ("evaluation/val_loss", 3.0, 10),
        ("sample", "    a\n    b", 10),
        ("close",),
    ]
    init, *logged, last = wandb.calls
    assert (
        init[1]["config"] == {"model": {"n_layer": 2}}
        and init[1]["dir"] == str(tmp_path)
        and last == ("finish",)
    )
    assert logged == [
        ("log", 10, {**scalars(RECORD), "sample": "x"}),
        ("log", 10, {"evaluation/val_loss": 3.0, "sample": "a\nb"}),
    ]


def test_trackers_are_closed_when_training_fails(tmp_path, wandb, tensorboard):
    with pytest.raises(ZeroDivisionError), Tracking(["wandb", "tensorboard"]) as tracking:
        tracking.follow(tmp_path)
        tracking.write(RECORD)
        raise ZeroDivisionError
    assert wandb.calls[-1] == ("finish",) and tensorboard[-1] == ("close",)


def test_all_trackers_are_closed_where_one_fails_to_close(tmp_path, wandb, tensorboard):
    wandb.finish = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError), Tracking(["tensorboard", "wandb"]) as tracking:
        tracking.follow(tmp_path)
        tracking.write(RECORD)
    assert tensorboard[-1] == ("close",)


def test_a_tracker_that_cannot_start_is_one_training_error(tmp_path, wandb):
    def init(**options):
        raise RuntimeError("no API key\nconfigured")

    wandb.init = init
    tracking = Tracking(["wandb"])
    tracking.follow(tmp_path)
    with pytest.raises(
        TrainingError, match="wandb cannot be started: no API key configured"
    ) as caught:
        tracking.write(RECORD)
    assert "WANDB_MODE=offline" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")]
)
def test_a_missing_package_is_reported_before_anything_is_written(
    tmp_path, monkeypatch, capsys, name, module
):
    monkeypatch.setitem(sys.modules, module, None)
    code = main(
        [
            "train",
            str(STORY),
            "--track",
            name,
            "--checkpoints",
            str(tmp_path / "c"),
            "--max-steps",
            "1",
            *TINY_FLAGS,
        ]
    )
    captured = capsys.readouterr()
    assert (
        code == 2
        and 'pip install "simplellm[track]"' in captured.err
        and len(captured.err.splitlines()) <= 2
    )
    assert not (tmp_path / "c").exists() and captured.out == ""


def test_track_is_a_list_of_known_names():
    assert parse(["train", "x", "--track", "wandb, tensorboard,wandb"]).track == (
        "wandb",
        "tensorboard",
    )
    assert parse(["train", "x"]).track == ()
    with pytest.raises(SettingError, match="tensorboard or wandb"):
        parse(["train", "x", "--track", "mlflow"])


def test_a_tracked_run_logs_the_gradient_norm_of_every_layer(tmp_path, tensorboard):
    flags = ["--track", "tensorboard", "--log-gradients", "--log-interval", "2"]
    flags += ["--checkpoints", str(tmp_path), "--max-steps", "5", "--grad-clip", "0.01"]
    code = main(["train", str(STORY), "--name", "x", *flags, *TINY_FLAGS])
    assert code == 0 and tensorboard[-1] == ("close",)
    steps = [
        record
        for record in read_log(RunFolder(tmp_path / "x").log_path)
        if record["kind"] == "step"
    ]
    assert [record["step"] for record in steps] == [2, 4, 5]
    for record in steps:
        assert {"blocks.00", "blocks.01", "token_embedding", "final_norm", "head"} == set(
            record["gradient_norms"]
        )
        whole = math.sqrt(sum(norm**2 for norm in record["gradient_norms"].values()))
        assert whole == pytest.approx(record["gradient_norm"], rel=1e-4) and whole > 0.01, (
            "before clipping"
        )
    assert any(call[0] == "step/gradient_norms/blocks.01" for call in tensorboard)


def test_gradient_norms_are_logged_only_on_request(trained):
    assert all(
        "gradient_norms" not in record for record in read_log(trained / "tiny" / "log.jsonl")
    )


def test_events_of_an_earlier_version_are_continued_where_they_are(tmp_path, tensorboard):
    (tmp_path / "tensorboard").mkdir()
    with Tracking(["tensorboard"]) as tracking:
        tracking.follow(tmp_path)
        tracking.write(RECORD)
    assert tensorboard[0] == ("open", str(tmp_path / "tensorboard"), 10)


def require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'{package} is not installed: pip install "simplellm[track]"')


@pytest.fixture
def tracked(tmp_path, capsys):
    """`tracked(tracker)` trains the run 제-run and returns what was printed on stderr."""

    def tracked(tracker: str) -> str:
        flags = ["--name", "제-run", "--track", tracker, "--max-steps", "2", *TINY_FLAGS]
        assert main(["train", str(STORY), "--checkpoints", str(tmp_path), *flags]) == 0
        return capsys.readouterr().err

    return tracked


def test_tensorboard_has_the_runs_name_figures_settings_and_samples(tracked, tmp_path):
    require("tensorboard")
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    assert f"see it: tensorboard --logdir {tmp_path}" in tracked("tensorboard")
    events = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    assert list(events.Runs()) == ["제-run"]
    tags = events.Runs()["제-run"]
    assert "evaluation/val_loss" in tags["scalars"] + tags["tensors"]
    assert any(tag.startswith("sample") for tag in tags["tensors"])
    data = events.SummaryMetadata("제-run", "_hparams_/session_start_info").plugin_data.content
    assert b"learning_rate" in data and b"n_layer" in data


def test_wandb_is_told_the_runs_name_and_how_to_upload_it(tracked, tmp_path, monkeypatch):
    require("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    shown = tracked("wandb")
    assert "see it: wandb sync " in shown
    words = [word.encode() for word in ("제-run", "n_layer", "learning_rate", "sample")]
    end, content = time.monotonic() + 20, b""
    # wandb's own process writes the file, and may still write when `finish` has returned.
    while not all(word in content for word in words) and time.monotonic() < end:
        time.sleep(0.1)
        files = (tmp_path / "제-run" / "wandb").rglob("*.wandb")
        content = b"".join(path.read_bytes() for path in files)
    assert [word for word in words if word not in content] == []
