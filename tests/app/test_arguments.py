"""Arguments as users write them: dashes, switches, escapes, home folders, names in any script."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import STORY, TINY_FLAGS, posix_only
from hypothesis import given
from hypothesis import strategies as st
from program import sh

from simplellm.app.cli import main
from simplellm.app.parser import parse
from simplellm.checkpoint.find_runs import free_name, new_run
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import unescape
from simplellm.errors import SettingError
from simplellm.storage.user_paths import expand_user

FLAGS = [*TINY_FLAGS, "--max-steps", "4", "--eval-interval", "2", "--eval-tokens", "64"]


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("prompt", ["-hello", "---", "-", "-1", "--no such flag", "-x y"])
def test_a_prompt_may_begin_with_a_dash(prompt):
    assert parse(["generate", "--prompt", prompt]).prompt == prompt
    assert parse(["generate", "--top-k", "3", "--prompt", prompt, "--json"]).prompt == prompt
    assert parse(["generate", f"--prompt={prompt}"]).prompt == prompt


def test_a_run_may_be_called_like_a_command():
    options = parse(["--run", "train", "generate", "--prompt", "-hello"])
    assert (options.run, options.prompt) == ("train", "-hello")


def test_a_flag_is_not_taken_for_the_value_of_another():
    with pytest.raises(SettingError, match="expected one argument"):
        parse(["generate", "--prompt", "--top-k", "3"])


@pytest.mark.parametrize(
    "words", [["--run", "a", "evaluate", "--run", "b"], ["evaluate", "--run=a", "--run=b"]]
)
def test_two_runs_are_refused(words):
    with pytest.raises(SettingError, match="--run is given twice"):
        parse([*words, "--data", "x"])


@pytest.mark.parametrize("stop", ["---", "-", "--x", "a\\b"])
def test_a_stop_text_may_be_anything(stop):
    options = parse(["generate", "--prompt", "a", "--stop", stop, "--stop", "b"])
    assert options.sampling["stop"] == [stop, "b"]


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--tie-embeddings"], True),
        (["--tie-embeddings", "on"], True),
        (["--tie-embeddings", "off"], False),
        (["--tie-embeddings=on"], True),
        (["--tie-embeddings=OFF"], False),
        (["--no-tie-embeddings"], False),
    ],
)
def test_a_switch_takes_on_and_off_as_the_docs_say(words, value):
    options = parse(["train", *words, "text.txt"])
    assert options.settings["tie_embeddings"] is value and options.texts == ("text.txt",)


def test_a_switch_with_another_value_says_what_it_takes():
    with pytest.raises(SettingError, match="tie_embeddings is on or off, got 'maybe'"):
        parse(["train", "--tie-embeddings=maybe", "text.txt"])


@pytest.mark.parametrize(
    ("written", "meant"),
    [(r"\n", "\n"), (r"\t", "\t"), (r"\\n", r"\n"), (r"\\", "\\"), (r"\d", r"\d"), ("가", "가")],
)
def test_one_rule_of_escapes_for_stop_texts(written, meant):
    setting = SamplingParams.setting("stop")
    assert setting.parse(written) == (meant,) == (unescape(written),)


@given(st.text())
def test_every_text_can_be_written_with_escapes(text):
    assert unescape(text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")) == text


# ---------------------------------------------------------------- paths and names


def test_every_path_option_expands_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    options = parse(
        ["train", "a.txt", "--checkpoints", "~/runs", "--from", "~/runs/a", "--val-data", "~/v.txt",
         "--config", "~/c.toml", "--resume", "--run", "~/runs/b"]
    )  # fmt: skip
    places = (options.checkpoints, options.base, options.val_data, options.config, options.run)
    assert all(Path(str(place)).is_relative_to(tmp_path) for place in places)


@posix_only
def test_an_unknown_home_folder_is_an_error_and_creates_nothing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for text in ("~no-such-user/x", "~no-such-user"):
        with pytest.raises(SettingError, match="home folder"):
            expand_user(text)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "~draft.txt").touch()
    assert expand_user("~draft.txt") == "~draft.txt"


@pytest.mark.parametrize(
    ("stem", "name"),
    [("日記", "日記"), ("나의 글", "나의-글"), ("ñandú", "ñandú"), ("Ω-1", "Ω-1"), ("...", "run"),
     ("step-000400", "run-step-000400"), ("con", "run-con"), ("e\u0301te\u0301", "\u00e9t\u00e9"),
     ("가" * 200, "가" * 60), ("हिन्दी", "हिन्दी"), ("บันทึก", "บันทึก"), ("COM\u00b9", "run-COM\u00b9"),
     ("🎉 잔치 🎉", "잔치"), ("base", "run-base"), ("none", "run-none"), ("\U00020000" * 90,
     "\U00020000" * 47)],
)  # fmt: skip
def test_a_name_is_derived_from_a_text_in_any_script(tmp_path, stem, name):
    derived = free_name(stem, tmp_path)
    assert derived == name and new_run(derived, tmp_path).name == name


@given(st.text(max_size=120))
def test_every_derived_name_is_a_valid_one(text):
    folder = Path("no-such-folder")
    assert new_run(free_name(text, folder), folder).path.parent == folder


@pytest.mark.parametrize("name", ["가" * 90, "a/b", ".hidden", "a b", "step-000001", "x."])
def test_an_invalid_name_is_refused(tmp_path, name):
    with pytest.raises(SettingError, match="a run name"):
        new_run(name, tmp_path)


def test_a_run_with_a_korean_name_is_trained_listed_and_used(tmp_path, monkeypatch, capsys, story):
    monkeypatch.chdir(tmp_path)
    Path("일기 2024.txt").write_text(story[:4000], encoding="utf-8")
    assert main(["train", "일기 2024.txt", *FLAGS]) == 0
    capsys.readouterr()
    assert main(["runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["run"] == "일기-2024"
    assert main(["generate", "--run", "일기-2024", "--prompt", "a", "--device", "cpu"]) == 0


# ---------------------------------------------------------------- figures and resume


@pytest.fixture
def checkpoints(tmp_path: Path, trained: Path) -> Path:
    shutil.copytree(trained, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def call(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([*arguments, "--device", "cpu"])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_checkpoint_shows_the_figures_measured_on_it(checkpoints, capsys, monkeypatch):
    from simplellm.checkpoint.run import RunFolder

    run = RunFolder(checkpoints / "tiny")
    figures = {folder.name: run.figures_of(folder) for folder in run.step_folders()}
    losses = [
        json.loads(line) for line in run.log_path.read_text(encoding="utf-8").split("\n") if line
    ]
    by_step = {
        record["step"]: record["val_loss"] for record in losses if record["kind"] == "evaluation"
    }
    assert len(figures) > 1
    for folder in run.step_folders():
        if folder != run.best():
            step = figures[folder.name]["step"]
            assert folder.name.endswith(str(step))
            assert figures[folder.name]["val_loss"] == by_step[step]


def test_a_step_limit_below_the_steps_done_is_refused(checkpoints, capsys):
    resume = ["train", "--resume", "--name", "tiny", "--checkpoints", str(checkpoints)]
    code, _, err = call(capsys, *resume, "--max-steps", "7")
    assert code == 2 and "has done 30 steps, got max_steps 7" in err and "--max-steps 31" in err


def test_more_steps_for_a_finished_run_report_the_higher_learning_rate(checkpoints, capsys):
    resume = ["train", "--resume", "--name", "tiny", "--checkpoints", str(checkpoints)]
    code, _, err = call(capsys, *resume, "--max-steps", "60")
    assert code == 0 and "the learning rate rises from" in err and "step 60" in err


def test_another_number_of_processes_is_refused_or_recorded(checkpoints, capsys):
    path = checkpoints / "tiny" / "run.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**info, "world_size": 2}), encoding="utf-8")
    resume = ["train", "--resume", "--name", "tiny", "--checkpoints", str(checkpoints)]
    code, _, err = call(capsys, *resume, "--max-steps", "31")
    assert code == 1 and "started with 2 processes, got 1" in err
    assert call(capsys, *resume, "--max-steps", "31", "--accept-changes")[0] == 0
    changes = json.loads(path.read_text(encoding="utf-8"))["accepted_changes"]
    assert "2 processes" in changes[0]["what"]


# ---------------------------------------------------------------- pipes


@posix_only
def test_training_goes_on_when_the_reader_of_its_messages_leaves(tmp_path):
    done = sh(
        f"simplellm train {STORY} --name piped {' '.join(FLAGS)} 2>&1 | head -1", cwd=tmp_path
    )
    assert done.returncode == 0
    last = json.loads((tmp_path / "checkpoints" / "piped" / "last.json").read_text())
    assert last["step"] == 4


def test_a_stopped_run_is_known_as_unfinished(checkpoints):
    from simplellm.checkpoint.run import RunFolder

    run = RunFolder(checkpoints / "tiny")
    assert run.steps_missing() is None
    (run.path / "report.json").unlink()
    assert run.steps_missing() is None  # all of its 30 steps are done
    info = run.read_info()
    run.write_info({**info, "training": {**info["training"], "max_steps": 90}})
    assert run.steps_missing() == (30, 90)
    (run.path / "report.json").touch()  # patience ended it
    assert run.steps_missing() is None


@pytest.mark.parametrize("command", [["runs"], ["train", str(STORY)], ["chat"], ["verify"], []])
@pytest.mark.parametrize("below", ["", "runs"])
def test_a_file_in_place_of_the_folder_of_runs_is_refused_with_a_fix(
    tmp_path, capsys, command, below
):
    (tmp_path / "afile").write_text("x")
    code = main([*command, "--checkpoints", str(tmp_path / "afile" / below)])
    err = capsys.readouterr().err
    assert code == 2 and f"got the file {tmp_path / 'afile'}" in err and "fix: name a folder" in err


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (["train", "a.txt", "--run", "x"], "--run"),
        (["--run", "x", "train", "a.txt"], "--run"),
        (["train", "a.txt", "--accept-changes"], "--accept-changes"),
        (["train", "a.txt", "--find-lr", "--name", "x"], "--name"),
        (["train", "a.txt", "--find-lr", "--resume"], "--resume"),
        (["train", "a.txt", "--find-lr", "--track", "tensorboard"], "--track"),
        (["train", "a.txt", "--max-bad-share", "0.5"], "--max-bad-share"),
        (["evaluate", "--data", "a.txt", "--max-bad-share", "0.5"], "--max-bad-share"),
        (["sweep", "--run", "x"], "--run"),
        (["import", "folder", "--run", "x"], "--run"),
        (["runs", "--yes"], "--yes"),
    ],
)
def test_a_flag_without_effect_is_refused(command: list[str], flag: str) -> None:
    with pytest.raises(SettingError, match=flag) as refused:
        parse(command)
    assert refused.value.fix and refused.value.exit_code == 2


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--resume", "--run", "x", "--accept-changes"],
        ["train", "a.jsonl", "--skip-bad", "--max-bad-share", "0.5"],
        ["runs", "--prune", "--yes"],
    ],
)
def test_flags_that_belong_together_are_taken(command: list[str]) -> None:
    assert parse(command)
