"""Every slash command does what it says, without a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.app.answer import Answer
from simplellm.app.commands.command import Shown
from simplellm.app.commands.registry import COMMANDS, completions, dispatch, find, is_quit
from simplellm.app.conversation import Turn
from simplellm.app.journal import Journal
from simplellm.app.loaded_run import LoadedRun
from simplellm.app.results import Lines, Rows
from simplellm.app.session import Session
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.config.sampling import SamplingParams
from simplellm.errors import CheckpointError, SettingError, SimpleLLMError
from simplellm.inference.sampler import Sampler

BY_SETTING = {
    "temp": ("temperature", "0.5"), "tokens": ("max_new_tokens", "40"), "topk": ("top_k", "20"),
    "topp": ("top_p", "0.5"),
    "minp": ("min_p", "0.1"), "penalty": ("repetition_penalty", "1.5"), "seed": ("seed", "7"),
    "beams": ("num_beams", "3"),
}  # fmt: skip
BAD = [
    "/temp hot", "/temp -1", "/temp nan", "/temp 5.1", "/topk -3", "/topk 1.5", "/topp 0",
    "/topp 2", "/minp 1", "/penalty 0",
    "/tokens 0", "/tokens 100001", "/seed -1", "/seed x", "/set temperature hot", "/set nothing 1",
    "/set temperature",
    "/context maybe", "/beams 0", "/beams 65", "/run missing", "/load /missing",
    "/save /missing/file", "/save /",
]  # fmt: skip


@pytest.fixture(scope="module")
def sampler(trained: Path) -> Sampler:
    return Sampler(*load_model(RunFolder(trained / "tiny").best(), torch.device("cpu")))


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Relative file names of commands are in a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield


@pytest.fixture
def session(sampler: Sampler, trained: Path) -> Session:
    """A session with one turn."""
    session = Session(sampler, trained / "tiny", SamplingParams(max_new_tokens=5), {"run": "tiny"})
    session.turns = [Turn("The judge", " said nothing")]
    return session


def said(session: Session, line: str) -> str:
    shown = dispatch(session, line)
    assert isinstance(shown, Lines | Rows)
    return (
        shown.text if isinstance(shown, Lines) else "\n".join("\t".join(row) for row in shown.rows)
    )


@pytest.mark.parametrize("name", BY_SETTING)
def test_a_setting_command_changes_its_setting_and_shows_it(session, name):
    setting, value = BY_SETTING[name]
    assert value in said(session, f"/{name} {value}") and setting in said(
        session, f"/{name} {value}"
    )
    assert str(getattr(session.params, setting)) == value


@pytest.mark.parametrize("name", BY_SETTING)
def test_without_a_value_it_shows_value_range_and_meaning(session, name):
    setting = SamplingParams.setting(BY_SETTING[name][0])
    text = said(session, f"/{name}")
    assert (
        setting.name in text
        and setting.default_text.split(",")[0].replace("random", "auto") in text
    )
    assert setting.range in text and setting.help in text


@pytest.mark.parametrize("line", BAD)
def test_a_bad_value_changes_nothing_and_the_error_shows_the_range(session, line):
    before, turns = session.params, list(session.turns)
    with pytest.raises(SimpleLLMError) as found:
        dispatch(session, line)
    assert session.params is before and session.turns == turns and not session.keeps_context
    assert found.value.fix and len(str(found.value)) > 10


def test_help_lists_every_command(session):
    assert all(
        command.usage in said(session, "/help") and command.help in said(session, "/help")
        for command in COMMANDS
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_explains_each_command(session, command):
    for word in (command.name, "/" + command.name, *command.aliases):
        assert command.usage in said(session, f"/help {word}") and command.help in said(
            session, f"/help {word}"
        )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_runs_without_an_argument(session, command):
    assert isinstance(dispatch(session, f"/{command.name}"), Shown)
    assert session.is_over == (command.name == "quit")


def test_names_and_aliases_are_plain_and_unique():
    names = [name for command in COMMANDS for name in (command.name, *command.aliases)]
    assert len(set(names)) == len(names) and all(
        name == name.lower() and " " not in name for name in names
    )
    assert all(command.help and "\n" not in command.help for command in COMMANDS)


def test_a_unique_prefix_runs_the_command():
    assert (
        find("pen").name == "penalty"
        and find("he").name == "help"
        and find("temper").name == "temp"
    )


def test_an_ambiguous_prefix_lists_its_candidates():
    with pytest.raises(SettingError, match=r"/topk, /topp"):
        find("top")


@pytest.mark.parametrize(
    "word, guess",
    [("tmep", "/temp"), ("hlep", "/help"), ("tokns", "/tokens"), ("zzz", "/help"), ("", "/help")],
)
def test_an_unknown_command_gets_a_suggestion(word, guess):
    with pytest.raises(SettingError) as found:
        find(word)
    assert guess in found.value.fix


@settings(deadline=None)
@given(line=st.text(max_size=20))
def test_any_line_runs_or_raises_one_typed_error(sampler, line):
    session = Session(sampler, Path("tiny"), SamplingParams())
    with contextlib.suppress(SimpleLLMError):
        assert isinstance(dispatch(session, "/" + line), Shown)
    assert isinstance(session.params, SamplingParams)


def test_stop_texts_are_added_and_removed(session):
    assert "'END'" in said(session, "/stop END") and said(session, "/stop a\\nb")
    assert session.params.stop == ("END", "a\nb")
    said(session, "/stop off")
    assert session.params.stop == ()


def test_seed_auto_is_random_again(session):
    said(session, "/seed 5")
    said(session, "/seed auto")
    assert session.params.seed is None


def test_set_lists_and_changes_every_setting(session):
    assert all(
        item.name in said(session, "/set") and item.range in said(session, "/set")
        for item in SamplingParams.settings()
    )
    assert "12" in said(session, "/set top_k 12") and session.params.top_k == 12


def test_reset_clear_context_and_info(session):
    said(session, "/temp 2")
    said(session, "/reset")
    assert session.params == SamplingParams()
    said(session, "/context on")
    said(session, "/clear")
    assert session.keeps_context and session.turns == [] and "tiny" in said(session, "/info")


# ---------------------------------------------------------------- the conversation


def test_regen_and_continue_give_an_answer_to_stream(session):
    for line, kind in (("/regen", "regen"), ("/continue", "extend")):
        answer = dispatch(session, line)
        assert isinstance(answer, Answer) and answer.kind == kind
        list(islice(answer, 3))
        session.keep(answer)
        assert len(session.turns) == 1 and session.turns[0].prompt == "The judge"


def test_undo_names_the_turn_it_removed(session):
    assert (
        said(session, "/undo") == "removed the turn 'The judge'; 0 turns left"
        and session.turns == []
    )
    session.turns = [Turn("long " * 1000, "")]
    assert len(said(session, "/undo")) < 100


def test_save_and_load_show_what_they_did(session, tmp_path):
    path = tmp_path / "with a space.jsonl"
    assert said(session, f"/save {path}") == f"saved 1 turn in {path}"
    session.clear()
    assert (
        said(session, f"/load {path}").startswith(f"1 turn from {path}")
        and session.turns[0].reply == " said nothing"
    )


def test_file_names_may_begin_with_the_home_folder(session, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    said(session, "/save ~/c")
    assert (tmp_path / "c").is_file() and said(session, "/load ~/c")


def test_save_and_load_without_a_file_show_automatic_files(session, tmp_path):
    assert "not saved" in said(session, "/save") and "/save FILE" in said(session, "/load")
    session.journal = Journal(tmp_path, session.run_path)
    assert str(tmp_path) in said(session, "/save")
    session.keep(session.ask("Who"))
    assert str(session.journal.path) in said(session, "/save")
    assert str(session.journal.path) in said(session, "/load") and "2 turns\t'The judge'" in said(
        session, "/load"
    )


@pytest.fixture
def runs(session: Session, trained: Path) -> Session:
    """The session with a folder of runs, in which only `tiny` can be loaded."""

    def load_run(requested: str) -> LoadedRun:
        if requested != "tiny":
            raise CheckpointError(f"run {requested} has no whole checkpoint", fix="name another")
        return LoadedRun(session.sampler, trained / "tiny", {"run": "tiny", "bits per byte": "2.5"})

    session.checkpoints, session.load_run, session.facts = trained, load_run, {"run": "before"}
    return session


def test_runs_are_listed(runs, tmp_path):
    assert said(runs, "/runs").startswith("tiny\t") and len(said(runs, "/runs").split("\t")) == 7
    runs.checkpoints = tmp_path
    assert said(runs, "/runs") == f"no runs in {tmp_path}"


@pytest.mark.parametrize("name", ["tiny", "tin", "t"])
def test_run_accepts_a_name_or_its_beginning(runs, name):
    assert said(runs, "/run") == "the current run is before; /runs lists all runs"
    assert (
        said(runs, f"/run {name}").startswith("the current run is tiny, 2.5 bits/byte")
        and runs.facts["run"] == "tiny"
    )


def test_an_ambiguous_beginning_names_all_matching_runs(runs, tmp_path):
    for name in ("one-a", "one-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").touch()
    runs.checkpoints = tmp_path
    with pytest.raises(SettingError, match="one-a, one-b"):
        dispatch(runs, "/run one")
    with pytest.raises(CheckpointError):
        dispatch(runs, "/run one-a")
    assert runs.facts == {"run": "before"}


def test_run_shows_the_settings_that_differ_from_the_start(runs):
    said(runs, "/context on")
    assert said(runs, "/run tiny").endswith("context on (/reset for the defaults)")


@pytest.mark.parametrize("line", ["quit", "exit", " QUIT "])
def test_quit_words_without_a_slash_quit(line):
    assert is_quit(line)


@pytest.mark.parametrize("line", ["quit it", "quitting", "the exit", ""])
def test_other_lines_do_not_quit(line):
    assert not is_quit(line)


@pytest.mark.parametrize("line", ["/quit", "/exit", "/bye"])
def test_slash_quit_commands_quit(session, line):
    dispatch(session, line)
    assert session.is_over


def test_completion_offers_commands_with_their_help():
    assert [word for word, _, _ in completions("/")] == [f"/{command.name}" for command in COMMANDS]
    assert list(completions("/hel")) == [("/help", 4, find("help").help)]
    assert list(completions("hel")) == [] and list(completions("/zzz x")) == []


def test_completion_offers_values():
    assert ("top_k", 3, "") in list(completions("/set top"))
    assert [word for word, _, _ in completions("/context o")] == ["on", "off"]
    assert ("temp", 2, "") in list(completions("/help te"))


def test_completion_offers_runs_and_files(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("a.jsonl", "folder/b c.jsonl", "other.txt", ".hidden.jsonl"):
        (tmp_path / name).touch()

    def offered(line: str) -> list[str]:
        return [word for word, _, _ in completions(line, runs)]

    assert offered("/run ") == offered("/run ti") == ["tiny"] and offered("/run x") == []
    assert offered("/load ") == offered("/save ") == ["a.jsonl", "folder/"]
    assert offered("/load folder/") == ["folder/b c.jsonl"] and offered("/load .h") == [
        ".hidden.jsonl"
    ]
    assert offered(f"/load {tmp_path}/a") == [f"{tmp_path}/a.jsonl"]
    assert offered("/load missing/") == offered("/load \0/") == []
    monkeypatch.setenv("HOME", str(tmp_path))
    assert offered("/load ~/a") == ["~/a.jsonl"]


@pytest.mark.parametrize("name", ["regen", "continue", "undo", "clear", "runs", "info", "reset"])
def test_a_command_without_argument_refuses_one(runs, name):
    with pytest.raises(SettingError, match=f"/{name} takes no argument, got '5'"):
        dispatch(runs, f"/{name} 5")
