"""Every slash command does what it says, without a terminal."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.app.chat import completions
from simplellm.app.command import Lines, Rows
from simplellm.app.commands import COMMANDS, dispatch, find, is_quit
from simplellm.app.session import Session
from simplellm.checkpoint import Run, load_model
from simplellm.config import SamplingParams
from simplellm.errors import SettingError
from simplellm.sampler import Sampler

BY_SETTING = {
    "temp": ("temperature", "0.5"), "tokens": ("max_new_tokens", "40"), "topk": ("top_k", "20"), "topp": ("top_p", "0.5"),
    "minp": ("min_p", "0.1"), "penalty": ("repetition_penalty", "1.5"), "seed": ("seed", "7"),
}  # fmt: skip
BAD = [
    "/temp hot", "/temp -1", "/temp nan", "/temp 5.1", "/topk -3", "/topk 1.5", "/topp 0", "/topp 2", "/minp 1", "/penalty 0",
    "/tokens 0", "/tokens 100001", "/seed -1", "/seed x", "/set temperature hot", "/set nothing 1", "/set temperature",
    "/context maybe",
]  # fmt: skip


@pytest.fixture(scope="module")
def sampler(trained: Path) -> Sampler:
    return Sampler(*load_model(Run(trained / "tiny").best(), torch.device("cpu")))


@pytest.fixture
def session(sampler: Sampler) -> Session:
    return Session(sampler, Path("tiny"), SamplingParams(), {"run": "tiny"}, SamplingParams())


def said(session: Session, line: str) -> str:
    shown = dispatch(session, line)
    return shown.text if isinstance(shown, Lines) else "\n".join("\t".join(row) for row in shown.rows)


@pytest.mark.parametrize("name", BY_SETTING)
def test_a_setting_command_sets_its_setting_and_says_so(session, name):
    setting, value = BY_SETTING[name]
    assert value in said(session, f"/{name} {value}") and setting in said(session, f"/{name} {value}")
    assert str(getattr(session.params, setting)) == value


@pytest.mark.parametrize("name", BY_SETTING)
def test_without_a_value_it_shows_value_range_and_meaning(session, name):
    setting = SamplingParams.setting(BY_SETTING[name][0])
    text = said(session, f"/{name}")
    assert setting.name in text and setting.default_text.split(",")[0].replace("random", "auto") in text
    assert setting.range in text and setting.help in text


@pytest.mark.parametrize("line", BAD)
def test_a_bad_value_changes_nothing_and_says_what_is_allowed(session, line):
    before = session.params
    with pytest.raises(SettingError) as found:
        dispatch(session, line)
    assert session.params is before and not session.keeps_context
    assert found.value.fix and len(str(found.value)) > 10


def test_help_lists_every_command(session):
    assert all(command.usage in said(session, "/help") and command.help in said(session, "/help") for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_tells_of_each_command(session, command):
    for word in (command.name, "/" + command.name, *command.aliases):
        assert command.usage in said(session, f"/help {word}") and command.help in said(session, f"/help {word}")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_runs_without_an_argument(session, command):
    assert isinstance(dispatch(session, f"/{command.name}"), Lines | Rows)
    assert session.is_over == (command.name == "quit")


def test_names_and_aliases_are_plain_and_taken_once():
    names = [name for command in COMMANDS for name in (command.name, *command.aliases)]
    assert len(set(names)) == len(names) and all(name == name.lower() and " " not in name for name in names)
    assert all(command.help and "\n" not in command.help for command in COMMANDS)


def test_a_unique_prefix_runs():
    assert find("pen").name == "penalty" and find("he").name == "help" and find("temper").name == "temp"


def test_an_ambiguous_prefix_lists_its_candidates():
    with pytest.raises(SettingError, match=r"/topk, /topp"):
        find("top")


@pytest.mark.parametrize(
    "word, guess", [("tmep", "/temp"), ("hlep", "/help"), ("tokns", "/tokens"), ("zzz", "/help"), ("", "/help")]
)
def test_an_unknown_command_is_guessed(word, guess):
    with pytest.raises(SettingError) as found:
        find(word)
    assert guess in found.value.fix


@settings(deadline=None)
@given(line=st.text(max_size=20))
def test_any_line_runs_or_is_one_typed_error(sampler, line):
    session = Session(sampler, Path("tiny"), SamplingParams())
    with contextlib.suppress(SettingError):
        assert isinstance(dispatch(session, "/" + line), Lines | Rows)
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
    assert all(item.name in said(session, "/set") and item.range in said(session, "/set") for item in SamplingParams.settings())
    assert "12" in said(session, "/set top_k 12") and session.params.top_k == 12


def test_reset_clear_context_and_info(session):
    said(session, "/temp 2")
    said(session, "/reset")
    assert session.params == SamplingParams()
    said(session, "/context on")
    session.transcript = "x"
    said(session, "/clear")
    assert session.keeps_context and session.transcript == "" and "tiny" in said(session, "/info")


@pytest.mark.parametrize("line", ["quit", "exit", " QUIT "])
def test_bare_words_leave(line):
    assert is_quit(line)


@pytest.mark.parametrize("line", ["quit it", "quitting", "the exit", ""])
def test_other_lines_do_not_leave(line):
    assert not is_quit(line)


@pytest.mark.parametrize("line", ["/quit", "/exit", "/bye"])
def test_slash_quits_leave(session, line):
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
