"""A line in, a reply out; the prompt has the keys, history and completion people expect."""

from __future__ import annotations

import io
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from prompt_toolkit.application import create_app_session
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from simplellm.app import chat as room
from simplellm.app.commands import COMMANDS
from simplellm.app.render import Screen
from simplellm.app.session import Session
from simplellm.checkpoint import Run, load_model
from simplellm.config import SamplingParams
from simplellm.errors import SamplingError
from simplellm.sampler import Sampler


@pytest.fixture
def session(trained: Path) -> Session:
    sampler = Sampler(*load_model(Run(trained / "tiny").best(), torch.device("cpu")))
    params = SamplingParams(max_new_tokens=6, seed=3)
    return Session(sampler, trained / "tiny", params, {"run": "tiny"}, params)


def piped(session: Session, monkeypatch: pytest.MonkeyPatch, text: str) -> tuple[str, str]:
    """What stdout and stderr get when `text` is piped in."""
    out, notices = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    room.chat(session, Screen(out=out, notices=notices))
    return out.getvalue(), notices.getvalue()


def continued(session: Session, text: str) -> str:
    return text + "".join(piece.text for piece in session.reply(text)) + "\n"


def test_a_line_in_a_reply_out_and_nothing_else(session, monkeypatch):
    expected = continued(session, "The judge") + continued(session, "한국어 Jack")
    assert piped(session, monkeypatch, "The judge\n\n   \n한국어 Jack\n") == (expected, "")


def test_slash_commands_work_in_a_pipe_and_are_never_sent_to_the_model(session, monkeypatch):
    out, notices = piped(session, monkeypatch, "/temp 0.5\n/tepm 1\n/topk -3\n  /seed\n")
    assert out.startswith("temperature 0.5\nseed 3") and "\x1b" not in out + notices
    assert "did you mean /temp?" in notices and "top_k" in notices and session.params.temperature == 0.5


@pytest.mark.parametrize("word", ["quit", "exit", "/quit", "/exit", "/bye"])
def test_a_quit_leaves_and_what_follows_is_not_read(session, monkeypatch, word):
    assert piped(session, monkeypatch, f"{word}\nThe judge\n") == ("", "")


def test_a_last_line_without_a_line_end_is_answered(session, monkeypatch):
    assert piped(session, monkeypatch, "The judge")[0] == continued(session, "The judge")


def test_a_mistake_of_the_model_is_told_and_the_chat_goes_on(session, monkeypatch):
    def fail(ids: list[int]) -> torch.Tensor:
        raise SamplingError("no logits")

    monkeypatch.setattr(session.sampler, "next_logits", fail)
    out, notices = piped(session, monkeypatch, "The judge\n/seed 5\n")
    assert "no logits" in notices and "seed 5" in out


def test_a_prompt_longer_than_the_context_is_answered(session, monkeypatch):
    assert piped(session, monkeypatch, "The judge said. " * 50)[0].startswith("The judge said. The judge")


def test_ctrl_c_ends_the_reply_and_keeps_what_was_said(session, monkeypatch):
    session.set_context("on")
    session.change("max_new_tokens", "100000")
    next_logits, calls = session.sampler.next_logits, []

    def interrupted_later(ids: list[int]) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return next_logits(ids)

    monkeypatch.setattr(session.sampler, "next_logits", interrupted_later)
    out, _ = piped(session, monkeypatch, "The judge\n/seed 5\n")
    assert len(calls) <= 5 and out.startswith("The judge") and "seed 5" in out
    assert len(session.transcript) > len("The judge\n")


# ---------------------------------------------------------------- the prompt, with keys that are really pressed


@pytest.fixture
def type_keys(session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Presses keys at the prompt; returns what read_line gives, once per expected line."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def press(keys: str, lines: int = 1, keep_history: bool = True, later: str = "") -> list[str | None]:
        with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
            pipe.send_text(keys)
            if later:
                threading.Timer(0.5, pipe.send_text, [later]).start()  # history is read by a thread of the prompt's
            read_line: Callable[[], str | None] = room._prompt_reader(session, keep_history)
            return [read_line() for _ in range(lines)]

    return press


CTRL_A, CTRL_C, CTRL_D, CTRL_J, UP, ALT_ENTER, TAB = "\x01", "\x03", "\x04", "\n", "\x1b[A", "\x1b\r", "\t"


def test_enter_sends_and_alt_enter_and_ctrl_j_begin_a_line(type_keys):
    assert type_keys("hello\r") == ["hello"]
    assert type_keys(f"a{ALT_ENTER}b{CTRL_J}c\r") == ["a\nb\nc"]


def test_a_paste_is_one_message(type_keys):
    assert type_keys("\x1b[200~one\ntwo\x1b[201~\r") == ["one\ntwo"]


def test_ctrl_c_clears_a_typed_line(type_keys):
    assert type_keys(f"abc{CTRL_C}def\r") == ["def"]


def test_ctrl_c_on_an_empty_line_gives_a_hint(type_keys):
    with pytest.raises(KeyboardInterrupt):
        type_keys(CTRL_C)


def test_ctrl_d_on_an_empty_line_leaves(type_keys):
    assert type_keys(CTRL_D) == [None]


def test_ctrl_d_within_a_line_only_deletes(type_keys):
    assert type_keys(f"abc{CTRL_A}{CTRL_D}\r") == ["bc"]


def test_history_lasts_over_sessions_and_is_the_owners_alone(type_keys, tmp_path):
    assert type_keys("first\rsecond\r", lines=2) == ["first", "second"]
    assert type_keys("", later=f"{UP}{UP}\r") == ["first"]
    path = tmp_path / "simplellm" / "history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_history_nothing_is_written(type_keys, tmp_path):
    assert type_keys("secret\r", keep_history=False) == ["secret"]
    assert list(tmp_path.rglob("*")) == []


def test_a_history_that_cannot_be_written_is_done_without(type_keys, tmp_path):
    (tmp_path / "simplellm").write_text("a file where the folder should be")
    assert type_keys("hello\r") == ["hello"]


def test_a_damaged_history_is_done_without(type_keys, tmp_path):
    (tmp_path / "simplellm").mkdir()
    (tmp_path / "simplellm" / "history").write_bytes(b"\xff\xfe\x00+\n\n+x")
    assert type_keys(f"hello{UP}\r")[0] is not None


def test_the_completion_menu_has_every_command_with_help():
    found = list(room._completer().get_completions(Document("/"), None))
    assert [item.text for item in found] == [f"/{command.name}" for command in COMMANDS]
    assert all(item.display_meta_text for item in found)


def test_the_toolbar_tells_the_run_and_the_settings(session):
    assert all(word in room._toolbar(session) for word in ("tiny", "temp 0.8", "top-k 50", "top-p 0.95", "bits/byte"))


def test_ctrl_c_at_the_prompt_does_not_end_the_chat(session):
    answers = iter([KeyboardInterrupt(), "/seed 9", None])

    def read_line() -> str | None:
        answer = next(answers)
        if isinstance(answer, KeyboardInterrupt):
            raise answer
        return answer

    out, notices = io.StringIO(), io.StringIO()
    room._converse(session, Screen(out=out, notices=notices), read_line, is_live=True)
    assert "Ctrl-D leaves" in notices.getvalue() and session.params.seed == 9
