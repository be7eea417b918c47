"""Damage is found, changed inputs are refused, and prune deletes only what is not needed."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.tiny import STEPS, TEXT, digest, go_on, train, training_context, write_text
from simplellm.app.cli import main
from simplellm.app.subcommands import prune
from simplellm.checkpoint.pointers import mend_pointers
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import read_log
from simplellm.errors import CheckpointError, SettingError
from simplellm.storage.manifest import MANIFEST_NAME, verify_manifest, write_manifest

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoints folder with a finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    write_text(folder)
    train(folder / "checkpoints")
    return folder / "checkpoints"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    write_text(tmp_path)
    return Path(shutil.copytree(finished, tmp_path / "checkpoints"))


def files_of(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def stopped(checkpoints: Path, after: int, **given: object) -> RunFolder:
    """A run that was stopped after `after` steps."""
    asked = iter(range(10**9))
    train(
        checkpoints,
        context=training_context(checkpoints, should_stop=lambda: next(asked) == after),
        **given,
    )
    return RunFolder(checkpoints / "run")


# ---------------------------------------------------------------- flipped bits and truncations


def damages(size: int, generator: random.Random, count: int) -> list[Callable[[bytes], bytes]]:
    """Flips of one bit at the ends, the middle and random places, and truncations."""

    def flip(place: int, bit: int) -> Callable[[bytes], bytes]:
        return lambda data: data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]

    places = [0, size // 2, size - 1, *(generator.randrange(size) for _ in range(count))]
    lengths = [0, size // 2, size - 1, *(generator.randrange(size) for _ in range(count // 4))]
    flips = [flip(place, generator.randrange(8)) for place in places]
    return [
        *flips,
        *(lambda data, length=length: data[:length] for length in lengths),
        lambda data: data + b"\0",
    ]


def damage_all(checkpoints: Path, count: int) -> int:
    """Damage every file of the newest checkpoint in many ways; the number of ways.

    Each damage is reported by name, and the previous checkpoint is used.
    """
    run, generator, tried = RunFolder(checkpoints / "run"), random.Random(0), 0
    newest, previous = run.step_folders()[:2]
    for name in files_of(newest):
        whole = (newest / name).read_bytes()
        for damage in damages(len(whole), generator, count):
            (newest / name).write_bytes(damage(whole))
            notices: list[str] = []
            assert run.last(notices.append) == previous
            (notice,) = notices
            assert newest.name in notice and (name == MANIFEST_NAME or name in notice)
            assert notice.endswith("using an earlier checkpoint")
            tried += 1
        (newest / name).write_bytes(whole)
    assert run.last() == newest and tried > count * len(files_of(newest)) > 0
    return tried


FOUND = "{0} flipped bits and truncations in {1} files: {0} found, 0 used"


def test_a_damaged_bit_or_length_is_found(copy, report_count):
    n_files = len(files_of(RunFolder(copy / "run").last()))
    tried = damage_all(copy, 8)
    report_count(FOUND.format(tried, n_files))
    assert tried > 8 * n_files > 0


@pytest.mark.slow
def test_any_damaged_bit_or_length_is_found(copy, report_count):
    n_files = len(files_of(RunFolder(copy / "run").last()))
    tried = damage_all(copy, 400)
    report_count(FOUND.format(tried, n_files))
    assert tried > 400 * n_files > 0


@pytest.mark.parametrize(
    "change", ["link to a file", "link to a folder", "pipe", "extra", "folder", "link to itself"]
)
def test_a_checkpoint_with_links_or_extra_files_is_refused(copy, change):
    folder = RunFolder(copy / "run").last()
    path = folder / "config.json"
    if change != "extra":
        path.rename(copy / "elsewhere")
    if change == "pipe":
        os.mkfifo(path)
    elif change == "folder":
        path.mkdir()
    elif change == "extra":
        (folder / "training" / "more.bin").write_bytes(b"x")
    else:
        target = {
            "link to a file": copy / "elsewhere",
            "link to a folder": copy,
            "link to itself": path,
        }[change]
        path.symlink_to(target)
    with pytest.raises(
        CheckpointError, match=r"more\.bin" if change == "extra" else r"config\.json"
    ):
        verify_manifest(folder)


def test_a_manifest_that_points_outside_is_refused(copy):
    folder = RunFolder(copy / "run").last()
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["files"]["../../run.json"] = manifest["files"].pop("config.json")
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1) + "\n")
    with pytest.raises(CheckpointError):
        verify_manifest(folder)


# ---------------------------------------------------------------- resume after damage


@pytest.mark.parametrize("name", ["model.safetensors", "training/state.safetensors", MANIFEST_NAME])
def test_resume_reports_a_damaged_checkpoint_and_reaches_the_same_weights(
    checkpoints, undisturbed, name
):
    run, said = stopped(checkpoints, 10), []
    newest = run.step_folders()[0]
    (newest / name).write_bytes(b"damaged")
    go_on(checkpoints, context=training_context(checkpoints, said.append))
    assert newest.name in said[0] and "using an earlier checkpoint" in said[0]
    assert said[1] == f"resuming run after step 9 of {STEPS}"
    assert digest(run.last()) == undisturbed
    assert [
        record["step"] for record in read_log(run.log_path) if record["kind"] == "step"
    ] == list(range(1, STEPS + 1))


def test_resume_from_an_earlier_checkpoint_reaches_the_same_weights(checkpoints, undisturbed):
    run, said = stopped(checkpoints, 10), []
    shutil.rmtree(run.last())
    go_on(checkpoints, context=training_context(checkpoints, said.append))
    assert digest(run.last()) == undisturbed and said[-1].startswith("resuming run after step 9")


@pytest.mark.parametrize("which", ["best", "last"])
@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{}",
        "[]",
        "null",
        "\x00",
        '{"path": "../x", "step": 3}',
        '{"path": "step-000003", "step": 4}',
        '{"path": "step-000099", "step": 99}',
        '{"step": 12, "path": "step-000012", "val_loss": "x"}',
    ],
)
def test_a_damaged_pointer_is_rebuilt_from_the_checkpoints(copy, which, content):
    run = RunFolder(copy / "run")
    path = run.path / f"{which}.json"
    before = json.loads(path.read_text())
    path.unlink() if content is None else path.write_text(content)
    words = [
        "generate",
        "--prompt",
        "The",
        "--max-new-tokens",
        "2",
        "--checkpoints",
        str(copy),
        "--device",
        "cpu",
    ]
    assert main(words) == 0
    go_on(copy)
    after = json.loads(path.read_text())
    assert (after["step"], after["path"]) == (before["step"], before["path"])
    assert which == "last" or after["val_loss"] == pytest.approx(before["val_loss"], rel=0.2)


def test_a_damaged_best_checkpoint_is_replaced_by_the_best_of_the_others(copy):
    run = RunFolder(copy / "run")
    best = run.best()
    (best / "config.json").write_text("{}")
    others = [folder for folder in run.step_folders() if folder != best]
    mend_pointers(run.path)
    assert (
        run.best() in others
        and json.loads((run.path / "best.json").read_text())["path"] == run.best().name
    )
    assert go_on(copy).path == str(run.best())


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"texts": 5}', "\x00"])
def test_a_damaged_run_json_is_reported_with_a_fix(copy, content, capsys):
    path = copy / "run" / "run.json"
    path.unlink() if content is None else path.write_text(content)
    for words in (["train", "--resume", "--name", "run"], ["train", "--resume"]):
        capsys.readouterr()
        assert main([*words, "--checkpoints", str(copy), "--device", "cpu"]) == 1
        err = capsys.readouterr().err
        assert "run.json" in err and "--from run" in err and len(err.splitlines()) == 2
    words = [
        "generate",
        "--prompt",
        "The",
        "--max-new-tokens",
        "2",
        "--checkpoints",
        str(copy),
        "--device",
        "cpu",
    ]
    assert main(words) == 0


# ---------------------------------------------------------------- a stop is not an evaluation


@pytest.mark.parametrize("after", [1, 2, 4, 7, 11])
def test_a_stop_between_two_evaluations_changes_no_evaluation(checkpoints, undisturbed, after):
    train(checkpoints, "whole")
    run = stopped(checkpoints, after)
    assert run.best().is_dir() and run.last().name == f"step-{after:06d}"
    go_on(checkpoints)
    keys = ("step", "val_loss", "best", "accuracy")
    series = [
        [
            tuple(record[key] for key in keys)
            for record in read_log(log)
            if record["kind"] == "evaluation"
        ]
        for log in (RunFolder(checkpoints / "whole").log_path, run.log_path)
    ]
    assert series[0] == series[1] and len(series[0]) == 4 and digest(run.last()) == undisturbed
    assert run.pointer("best") == RunFolder(checkpoints / "whole").pointer("best")


def test_a_stop_does_not_count_as_an_evaluation(checkpoints):
    """The learning rate is so high that the loss rises: a stop sees the lowest loss of all."""
    wild = {
        "learning_rate": 10.0,
        "muon_learning_rate": 1.0,
        "warmup_steps": 0,
        "schedule": "constant",
        "patience": 2,
    }
    wild |= {"tie_embeddings": True, "induction": False}
    whole = train(checkpoints, "whole", max_steps=200, **wild)
    asked = 0

    def often() -> bool:
        nonlocal asked
        asked += 1
        return asked == 2 or asked % 6 == 0  # once before the first evaluation

    result = train(
        checkpoints, "run", training_context(checkpoints, should_stop=often), max_steps=200, **wild
    )
    while result.stopped:
        result = go_on(checkpoints, context=training_context(checkpoints, should_stop=often))
    assert (result.steps, result.best_step) == (whole.steps, whole.best_step) == (9, 3)


# ---------------------------------------------------------------- changes


def change_text(checkpoints: Path) -> None:
    (checkpoints.parent / "text.txt").write_text(TEXT + "More.")


def change_tokenizer(checkpoints: Path) -> None:
    folder = RunFolder(checkpoints / "run").last()
    content = json.loads((folder / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    first, second = list(vocab)[-2:]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / MANIFEST_NAME).unlink()
    write_manifest(folder)


def change_model(checkpoints: Path) -> None:
    run = RunFolder(checkpoints / "run")
    info = run.read_info()
    run.write_info({**info, "model": {**info["model"], "n_head": 4}})


CHANGES = {"text": change_text, "tokenizer": change_tokenizer, "model": change_model}


@pytest.mark.parametrize("what", CHANGES)
def test_resume_refuses_changed_inputs_unless_they_are_accepted(checkpoints, what):
    run = stopped(checkpoints, 4)
    CHANGES[what](checkpoints)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    for _ in range(2):
        with pytest.raises(CheckpointError, match=f"the {what} ") as found:
            go_on(checkpoints)
        assert "--accept-changes" in found.value.fix
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    words = [
        "train",
        "--resume",
        "--name",
        "run",
        "--accept-changes",
        "--checkpoints",
        str(checkpoints),
        "--device",
        "cpu",
    ]
    assert main(words) == 0
    (accepted,) = run.read_info()["accepted_changes"]
    assert what in accepted["what"] and accepted["step"] == 4 and accepted["when"].startswith("20")
    assert go_on(checkpoints, max_steps=STEPS + 2).steps == STEPS + 2, (
        "what was accepted is not asked again"
    )


def test_an_accepted_setting_is_taken_and_recorded(checkpoints):
    run = stopped(checkpoints, 4)
    with pytest.raises(SettingError, match="learning_rate"):
        go_on(checkpoints, learning_rate=1e-4)
    from simplellm.training.resume import resume

    resume(
        run,
        {"learning_rate": 1e-4, "batch_size": 4},
        training_context(checkpoints),
        accept_changes=True,
    )
    info = run.read_info()
    assert (info["training"]["learning_rate"], info["training"]["batch_size"]) == (1e-4, 4)
    assert [entry["what"] for entry in info["accepted_changes"]] == [
        "learning_rate 0.003 became 0.0001", "batch_size 2 became 4",
    ]  # fmt: skip
    assert go_on(checkpoints, learning_rate=1e-4).steps == STEPS


@pytest.mark.parametrize(
    "given", [{"n_layer": 2}, {"optimizer": "adamw"}, {"ema_decay": 0.5}, {"vocab_size": 400}]
)
def test_some_changes_are_refused_even_if_accepted(checkpoints, given):
    from simplellm.training.resume import resume

    run = stopped(checkpoints, 4)
    with pytest.raises(SettingError, match=next(iter(given))) as found:
        resume(run, given, training_context(checkpoints), accept_changes=True)
    assert "--accept-changes" not in found.value.fix


# ---------------------------------------------------------------- verify and prune


@pytest.fixture
def call(copy: Path, capsys: pytest.CaptureFixture[str]):
    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*words, "--checkpoints", str(copy)])
        return code, *capsys.readouterr()

    return call


def test_verify_lists_whole_and_damaged_checkpoints(copy, call):
    run = RunFolder(copy / "run")
    newest, *others = run.step_folders()
    code, out, err = call("verify")
    assert (code, err) == (0, "") and out.splitlines() == [
        f"{folder}\twhole" for folder in run.step_folders()
    ]
    (newest / "config.json").write_text("{}")
    code, out, _ = call("verify", "run", "--json")
    rows = json.loads(out)
    assert code == 1 and [sorted(row) for row in rows] == [
        ["path", "problem", "run", "step", "whole"]
    ] * len(rows)
    assert [(row["path"], row["whole"]) for row in rows] == [
        (str(newest), False),
        *((str(other), True) for other in others),
    ]
    assert "config.json is damaged" in rows[0]["problem"] and rows[1]["problem"] is None
    assert (
        call("verify", str(others[0]))[0] == 0
        and call("verify", str(newest))[0] == call("verify", "--run", "run")[0] == 1
    )


def test_verify_of_a_missing_run_is_one_error(call, copy):
    assert call("verify", "nothing")[0] == 1 and call("verify", "a b")[0] == 2
    for folder in RunFolder(copy / "run").step_folders():
        shutil.rmtree(folder)
    code, out, err = call("verify", "run")
    assert (code, out) == (1, "") and "no checkpoint" in err


def test_verify_finds_files_that_do_not_match(call, copy):
    folder = RunFolder(copy / "run").last()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    (folder / MANIFEST_NAME).unlink()
    write_manifest(folder)
    code, out, _ = call("verify", "run")
    assert code == 1 and "has no tensor" in out


def add_garbage(copy: Path) -> list[Path]:
    """Add an old checkpoint, files of killed processes and unused ids; their paths."""
    run = RunFolder(copy / "run")
    kept = run.step_folders()
    older = run.path / "step-000001"
    shutil.copytree(kept[-1], older)
    needed = run.read_info()["prepared"]
    prepared = copy / ".prepared"
    places = [
        older,
        run.path / ".tmp-step-000013-01234567",
        prepared / ".tmp-x-01234567",
        prepared / "0123456789abcdef",
        prepared / "0123456789abcdef-words",
    ]
    for place in places[1:]:
        shutil.copytree(prepared / needed, place)
    (run.path / ".tmp-last.json-01234567").write_text("{")
    return [*places, run.path / ".tmp-last.json-01234567"]


def tree(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def test_prune_without_yes_lists_and_deletes_nothing(copy, call):
    goes = add_garbage(copy)
    before = tree(copy)
    code, out, err = call("runs", "--prune")
    shown = {line.split("\t")[0] for line in out.splitlines()}
    assert code == 2 and shown == {str(path) for path in goes} and "--yes" in err and "MB" in err
    assert tree(copy) == before


def test_prune_deletes_exactly_what_it_lists(copy, call):
    before = tree(copy)
    goes = add_garbage(copy)
    code, out, _ = call("runs", "--prune", "--yes", "--json")
    assert code == 0 and {row["path"] for row in json.loads(out)} == {str(path) for path in goes}
    assert tree(copy) == before and all(row["bytes"] > 0 for row in json.loads(out))
    code, out, err = call("runs", "--prune", "--yes")
    assert (code, out) == (0, "") and "nothing to delete" in err


def test_prune_reports_folders_that_cannot_be_deleted(copy, call, monkeypatch):
    goes = add_garbage(copy)

    def refuse(path: Path) -> None:  # as Windows does while another program reads a file of it
        raise PermissionError(13, "Access is denied", str(path))

    monkeypatch.setattr(prune, "discard_folder", refuse)
    code, _, err = call("runs", "--prune", "--yes")
    named = [path for path in goes if path.is_dir() and not path.name.startswith(".")]
    assert code == 0 and all(path.exists() == (path in named) for path in goes)
    assert [f"{path} cannot be deleted (Access is denied)" in err for path in named] == [True] * 3
    assert f"deleted {len(goes) - 3}, " in err


def test_prune_keeps_the_last_whole_checkpoint(copy, call):
    run = RunFolder(copy / "run")
    newest, *others = run.step_folders()
    for folder in (newest, *others[:-1]):
        (folder / "config.json").write_text("{}")
    assert call("runs", "--prune", "--yes")[0] == 0
    assert run.step_folders() == [others[-1]] and run.last() == others[-1]
    (others[-1] / "config.json").write_text("{}")
    assert call("runs", "--prune", "--yes")[0] == 0 and run.step_folders() == [others[-1]]


def test_prune_skips_a_run_in_training(copy, call):
    from simplellm.storage.lock import FolderLock

    goes = add_garbage(copy)
    with FolderLock(copy / "run"):
        code, out, err = call("runs", "--prune", "--yes")
        assert (
            (code, out) == (0, "")
            and "is being trained" in err
            and all(path.exists() for path in goes)
        )


def test_prune_of_one_run_changes_no_other(copy, call):
    goes = add_garbage(copy)
    shutil.copytree(copy / "run", copy / "other")
    assert call("runs", "--prune", "--yes", "--run", "run")[0] == 0
    assert (copy / "other" / "step-000001").is_dir() and all(
        path.exists() for path in goes if ".prepared" in path.parts
    )


def test_prepared_ids_are_kept_while_a_run_does_not_name_its_own(copy, call):
    goes = [path for path in add_garbage(copy) if "0123456789abcdef" in path.name]
    run = RunFolder(copy / "run")
    run.write_info({name: value for name, value in run.read_info().items() if name != "prepared"})
    assert call("runs", "--prune", "--yes")[0] == 0 and all(path.exists() for path in goes)


@pytest.mark.parametrize("words", [["runs", "--prun"], ["verify", "a", "b"], ["verify", "--yes"]])
def test_wrong_arguments_exit_with_2(call, words):
    assert call(*words)[0] == 2
