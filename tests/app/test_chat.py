"""Chat: prompt, keys, history and completion on a terminal; plain lines in a pipe."""

from __future__ import annotations

import errno
import io
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import posix_only
from prompt_toolkit.application import create_app_session
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from simplellm.app import chat, prompt, reply_stream
from simplellm.app.commands.registry import COMMANDS
from simplellm.app.conversation import Turn, load
from simplellm.app.journal import Journal, last_conversation
from simplellm.app.pastes import Pastes, improve_pastes
from simplellm.app.screen import Screen
from simplellm.app.session import Session
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.config.sampling import SamplingParams
from simplellm.errors import SamplingError
from simplellm.inference.sampler import Sampler


@pytest.fixture
def session(trained: Path) -> Session:
    sampler = Sampler(*load_model(RunFolder(trained / "tiny").best(), torch.device("cpu")))
    params = SamplingParams(max_new_tokens=6, seed=3)
    return Session(sampler, trained / "tiny", params, {"run": "tiny"}, params)


def piped(session: Session, monkeypatch: pytest.MonkeyPatch, text: str) -> tuple[str, str]:
    """stdout and stderr of a chat whose piped input is `text`."""
    out, notices = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    chat.chat_loop(session, Screen(out=out, notices=notices))
    return out.getvalue(), notices.getvalue()


def continued(session: Session, text: str) -> str:
    return text + "".join(piece.text for piece in session.ask(text)) + "\n"


def test_a_pipe_gets_prompt_and_reply_and_nothing_else(session, monkeypatch):
    expected = continued(session, "The judge") + continued(session, "한국어 Jack")
    assert piped(session, monkeypatch, "The judge\n\n   \n한국어 Jack\n") == (expected, "")


def test_slash_commands_work_in_a_pipe_and_are_never_sent_to_the_model(session, monkeypatch):
    out, notices = piped(session, monkeypatch, "/temp 0.5\n/tepm 1\n/topk -3\n  /seed\n")
    assert out.startswith("temperature 0.5\nseed 3") and "\x1b" not in out + notices
    assert (
        "did you mean /temp?" in notices
        and "top_k" in notices
        and session.params.temperature == 0.5
    )


@pytest.mark.parametrize("word", ["quit", "exit", "/quit", "/exit", "/bye"])
def test_quit_ends_the_chat_and_later_lines_are_not_read(session, monkeypatch, word):
    assert piped(session, monkeypatch, f"{word}\nThe judge\n") == ("", "")


def test_a_last_line_without_a_line_end_is_answered(session, monkeypatch):
    assert piped(session, monkeypatch, "The judge")[0] == continued(session, "The judge")


def test_a_model_error_is_reported_and_the_chat_continues(session, monkeypatch):
    def fail(ids: list[int]) -> torch.Tensor:
        raise SamplingError("no logits")

    monkeypatch.setattr(session.sampler, "next_logits", fail)
    out, notices = piped(session, monkeypatch, "The judge\n/seed 5\n")
    assert "no logits" in notices and "seed 5" in out


def test_a_prompt_longer_than_the_context_is_answered(session, monkeypatch):
    assert piped(session, monkeypatch, "The judge said. " * 50)[0].startswith(
        "The judge said. The judge"
    )


def test_ctrl_c_ends_the_reply_and_keeps_its_text(session, monkeypatch):
    session.set_context("on")
    session.change("max_new_tokens", "100000")
    next_logits, calls = session.sampler.next_logits, []

    def interrupted_later(ids: list[int]) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return next_logits(ids)

    monkeypatch.setattr(session.sampler, "next_logits", interrupted_later)
    out, _ = piped(session, monkeypatch, "The judge\n/seed 5\n")
    assert len(calls) <= 5 and out.startswith("The judge") and "seed 5" in out
    assert (
        session.turns[0].stop_reason == "interrupted"
        and session.turns[0].reply
        and out.count("The judge") == 1
    )


def test_in_a_pipe_continue_does_not_repeat_text(session, monkeypatch):
    out, notices = piped(session, monkeypatch, "The judge\n/continue\n")
    said = session.turns[0].prompt + session.turns[0].reply
    assert (
        out.replace("\n", "") == said.replace("\n", "")
        and notices == ""
        and len(session.turns) == 1
    )


def test_fast_pieces_are_written_together_and_none_is_lost(session, monkeypatch):
    writes: list[str] = []
    screen = Screen(out=io.StringIO(), notices=io.StringIO())
    monkeypatch.setattr(screen, "write", lambda text, style="": writes.append(text))
    session.params = replace(session.params, max_new_tokens=2000, seed=1)
    started_at = time.perf_counter()
    chat.answer(session, screen, "The judge", is_live=True)
    frames = (time.perf_counter() - started_at) / reply_stream.FRAME_SECONDS
    assert len(session.turns[-1].ids) > 100 and len(writes) <= frames + 3
    assert "".join(writes).startswith("The judge" + session.turns[-1].reply)


def test_notes_go_to_stderr_and_not_into_the_reply(session, monkeypatch):
    out, notices = piped(session, monkeypatch, "The judge\n/regen\n" + "word " * 100 + "\n")
    assert (
        out.count("The judge") == 2
        and "new reply with seed" in notices
        and "longer than the context" in notices
    )
    assert notices.count("\n") == 2


def test_each_bad_line_gives_one_error_and_the_chat_continues(session, monkeypatch, tmp_path):
    (tmp_path / "foreign").write_text("my text")
    lines = [
        "/undo", "/regen", "/continue", "/temp hot", "/x", "/run missing", "/load missing",
        f"/load {tmp_path}",
        f"/load {tmp_path}/foreign", f"/save {tmp_path}", f"/save {tmp_path}/no/folder",
        f"/save {tmp_path}/foreign",
    ]  # fmt: skip
    out, notices = piped(session, monkeypatch, "\n".join([*lines, "/seed"]))
    assert out.startswith("seed 3") and notices.count("error: ") == notices.count("fix: ") == len(
        lines
    )
    assert (tmp_path / "foreign").read_text() == "my text" and session.turns == []


def test_a_prompt_of_five_megabytes_is_answered_quickly(session, monkeypatch):
    session.set_context("on")
    started_at = time.perf_counter()
    out, notices = piped(session, monkeypatch, "word " * 1_000_000 + "\nThe judge\n")
    assert time.perf_counter() - started_at < 5 and len(session.turns) == 2
    assert len(out) > 5_000_000 and notices.count("\n") == 2 and len(notices) < 200


def test_probabilities_are_shown_with_a_summary_below_the_reply(session, monkeypatch):
    session.set_probabilities("on")
    out, _ = piped(session, monkeypatch, "The judge\n")
    assert out.startswith("The judge") and "[" in out and "surprise" in out.splitlines()[-1]
    assert "[" not in session.turns[0].reply


def test_a_failure_within_a_reply_keeps_its_text(session, monkeypatch):
    next_logits, calls = session.sampler.next_logits, []

    def fail_later(ids: list[int]) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise SamplingError("no logits")
        return next_logits(ids)

    monkeypatch.setattr(session.sampler, "next_logits", fail_later)
    _, notices = piped(session, monkeypatch, "The judge\n")
    assert (
        "no logits" in notices
        and session.turns[0].reply
        and session.turns[0].stop_reason == "interrupted"
    )


# ---------------------------------------------------------------- Ctrl-C


def interrupted_at(session: Session, monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Presses Ctrl-C while token `n` is computed; the list grows with each computed token."""
    next_logits, calls = session.sampler.next_logits, list[int]()

    def next_logits_and_press(ids: list[int]) -> object:
        calls.append(len(ids))
        if len(calls) == number:
            signal.raise_signal(signal.SIGINT)
        return next_logits(ids)

    monkeypatch.setattr(session.sampler, "next_logits", next_logits_and_press)
    return calls


def live(session: Session, *lines: str) -> tuple[str, str]:
    """stdout and stderr of a chat in which these lines are typed."""
    out, notices, typed = io.StringIO(), io.StringIO(), iter([*lines, None])
    chat._loop(session, Screen(out=out, notices=notices), lambda: next(typed), is_live=True)
    return out.getvalue(), notices.getvalue()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_interrupted_reply_is_marked_and_can_be_continued(session, monkeypatch, number):
    session.change("temperature", "0")
    session.change("max_new_tokens", "8")
    whole = "".join(piece.text for piece in session.ask("The judge"))
    calls = interrupted_at(session, monkeypatch, number)
    out, _ = live(session, "The judge", "/continue")
    assert (
        "interrupted; /continue continues it" in out
        and len(calls) >= number + 8
        and len(session.turns) == 1
    )
    assert (session.turns[0].prompt + session.turns[0].reply).startswith("The judge" + whole)
    assert session.turns[0].stop_reason == "length"


def test_ctrl_c_while_the_model_reads_a_prompt_leaves_the_cache_correct(session, monkeypatch):
    """Ctrl-C interrupts the model within the prompt; then the prompt gets its usual answer."""
    session.change("temperature", "0")
    expected = "".join(piece.text for piece in session.ask("The judge said that the baker"))
    "".join(piece.text for piece in session.ask("The judge was old and he"))
    decoder, pressed = session.sampler.decoder, []
    *others, (attend, feed_forward) = decoder._layers

    def press_once(*arguments: Any) -> None:
        if not pressed:
            pressed.append(1)
            signal.raise_signal(signal.SIGINT)
        attend(*arguments)

    monkeypatch.setattr(decoder, "_layers", [*others, (press_once, feed_forward)])
    out, _ = live(session, "The judge said that the baker", "/regen")
    assert pressed and "0 tokens" in out and "interrupted" in out
    assert session.turns[0].reply == expected and len(session.turns) == 1


def test_ctrl_c_in_a_command_stops_only_the_command(session, monkeypatch):
    def press(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(1)

    session.load_run = press
    out, notices = live(session, "/run tiny", "/seed")
    assert notices == "stopped\n" and out.startswith("seed 3")


def test_ctrl_c_while_waiting_for_a_pipe_ends_the_program(session, monkeypatch):
    def press() -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        chat._loop(session, Screen(out=io.StringIO(), notices=io.StringIO()), press, is_live=False)


def test_the_handler_of_ctrl_c_is_restored_after_a_reply(session):
    before = signal.getsignal(signal.SIGINT)
    live(session, "The judge")
    assert signal.getsignal(signal.SIGINT) is before


# ---------------------------------------------------------------- the prompt, with real keys


@pytest.fixture
def type_keys(session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Presses keys at the prompt; returns what read_line gives, once per expected line."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def press(
        keys: str, lines: int = 1, keep_history: bool = True, later: str = ""
    ) -> list[str | None]:
        with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
            pipe.send_text(keys)
            if later:
                threading.Timer(
                    0.5, pipe.send_text, [later]
                ).start()  # prompt_toolkit reads the history in a thread
            read_line: Callable[[], str | None] = prompt.prompt_reader(session, keep_history)
            return [read_line() for _ in range(lines)]

    return press


CTRL_A, CTRL_C, CTRL_D, CTRL_J, UP, RIGHT, ALT_ENTER, TAB = (
    "\x01",
    "\x03",
    "\x04",
    "\n",
    "\x1b[A",
    "\x1b[C",
    "\x1b\r",
    "\t",
)
CTRL_R, SECONDS_TO_WAIT = "\x12", 10
PASTE, PASTE_END = "\x1b[200~", "\x1b[201~"


def test_enter_sends_and_alt_enter_and_ctrl_j_insert_a_line_end(type_keys):
    assert type_keys("hello\r") == ["hello"]
    assert type_keys(f"a{ALT_ENTER}b{CTRL_J}c\r") == ["a\nb\nc"]


def test_a_paste_is_one_message(type_keys):
    assert type_keys("\x1b[200~one\ntwo\x1b[201~\r") == ["one\ntwo"]


def test_ctrl_c_clears_a_typed_line(type_keys):
    assert type_keys(f"abc{CTRL_C}def\r") == ["def"]


def test_ctrl_c_on_an_empty_line_gives_a_hint(type_keys):
    with pytest.raises(KeyboardInterrupt):
        type_keys(CTRL_C)


def test_ctrl_d_on_an_empty_line_quits(type_keys):
    assert type_keys(CTRL_D) == [None]


def test_ctrl_d_within_a_line_only_deletes_a_character(type_keys):
    assert type_keys(f"abc{CTRL_A}{CTRL_D}\r") == ["bc"]


@posix_only
def test_history_is_kept_between_sessions_and_readable_only_by_its_owner(type_keys, tmp_path):
    assert type_keys("first\rsecond\r", lines=2) == ["first", "second"]
    assert type_keys("", later=f"{UP}{UP}\r") == ["first"]
    path = tmp_path / "simplellm" / "history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_history_nothing_is_written(type_keys, tmp_path):
    assert type_keys("secret\r", keep_history=False) == ["secret"]
    assert list(tmp_path.rglob("*")) == []


def test_a_history_that_cannot_be_written_is_ignored(type_keys, tmp_path):
    (tmp_path / "simplellm").write_text("a file where the folder should be")
    assert type_keys("hello\r") == ["hello"]


def test_a_damaged_history_is_ignored(type_keys, tmp_path):
    (tmp_path / "simplellm").mkdir()
    (tmp_path / "simplellm" / "history").write_bytes(b"\xff\xfe\x00+\n\n+x")
    assert type_keys(f"hello{UP}\r")[0] is not None


def test_the_completion_menu_has_every_command_with_help(session):
    found = list(prompt._completer(session).get_completions(Document("/"), None))
    assert [item.text for item in found] == [f"/{command.name}" for command in COMMANDS]
    assert all(item.display_meta_text for item in found)


@pytest.mark.parametrize("quality", ["none, the validation text is too short", "not measured"])
def test_the_toolbar_leaves_out_a_figure_that_is_missing(session, quality):
    session.facts = {"run": "x", "bits per byte": quality}
    assert "bits/byte" not in prompt.toolbar_text(session)
    assert prompt.toolbar_text(session).split()[:2] == ["x", "temp"]


def test_the_toolbar_shows_the_run_the_settings_and_the_context(session):
    size = session.sampler.block_size
    words = (
        "tiny",
        "temp 0.8",
        "top-k 50",
        "top-p 0.95",
        "bits/byte",
        f"context 0 used {size} left",
    )
    assert all(word in prompt.toolbar_text(session) for word in words)
    n = len(session.sampler.encode("The judge"))
    assert f"context {n} used {size - n} left" in prompt.toolbar_text(session, "The judge")
    assert "0 left" in prompt.toolbar_text(session, "word " * 1000)
    assert prompt.toolbar_text(session, "/set temperature 0.5") == prompt.toolbar_text(session)


def test_a_narrow_toolbar_shows_only_complete_parts(session):
    whole = prompt.toolbar_text(session)
    for columns in range(10, len(whole) + 1):
        line = prompt.toolbar_text(session, columns=columns)
        assert len(line) <= columns and line.startswith(" tiny ") and whole.startswith(line)


def test_the_toolbar_is_cheap(session, story):
    """The time per key does not depend on the length of the conversation or of the line."""
    session.set_context("on")
    session.turns = [Turn(story, story)] * 100
    started_at = time.perf_counter()
    for n in range(100):
        prompt.toolbar_text(session, story[: 300 * n])
    assert time.perf_counter() - started_at < 2.0


# ---------------------------------------------------------------- whole typed conversations


Step = (
    str | Callable[[Any], object]
)  # keys to press, or a condition of the prompt buffer to wait for


@pytest.fixture
def typed(session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Types keys into a conversation, and Ctrl-D at the end; returns stdout and stderr."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def press(*steps: Step) -> tuple[str, str]:
        out, notices = io.StringIO(), io.StringIO()
        screen = Screen(out=out, notices=notices)
        with (
            create_pipe_input() as pipe,
            create_app_session(input=pipe, output=DummyOutput()) as app_session,
        ):

            def send() -> None:
                ends_at = time.perf_counter() + SECONDS_TO_WAIT
                for step in [*steps, CTRL_D]:
                    if isinstance(step, str):
                        pipe.send_text(step)
                    else:
                        while time.perf_counter() < ends_at and not (
                            app_session.app and step(app_session.app.current_buffer)
                        ):
                            time.sleep(0.01)

            threading.Thread(target=send, daemon=True).start()
            chat._welcome(session, screen)
            chat._loop(session, screen, prompt.prompt_reader(session, True), is_live=True)
        return out.getvalue(), notices.getvalue()

    return press


def test_a_typed_conversation(typed, session):
    """Prompts, settings, a cleared line, a typo, /regen, /continue and /undo in one session."""
    out, notices = typed(
        "The judge\r", "/temp 0\r", f"in vain{CTRL_C}", f"two{ALT_ENTER}lines{CTRL_J}more\r",
        "/tmep\r", CTRL_C, "/regen\r",
        "/continue\r", "/undo\r", "/context on\r", "Jack\r",
    )  # fmt: skip
    lines = out.splitlines()
    assert (
        lines[0].startswith("tiny: ")
        and lines[2].startswith("The judge")
        and "temperature 0" in lines
    )
    assert out.count("two\nlines\nmore") == 2 and "in vain" not in out
    assert sum("tokens/s, seed" in line for line in lines) == 5
    assert [line.split(",")[0] for line in lines if line.startswith("removed the turn")] == [
        "removed the turn 'two lines more'; 1 turn left"
    ]
    assert (
        "did you mean /temp?" in notices
        and "Ctrl-D quits" in notices
        and "the same again" in notices
    )
    assert [turn.prompt for turn in session.turns] == ["The judge", "Jack"]
    assert [turn.in_context for turn in session.turns] == [
        False,
        True,
    ] and "\x1b" not in out + notices


def test_a_conversation_continues_in_the_next_session(typed, session, tmp_path):
    session.set_context("on")
    session.journal = Journal(tmp_path, session.run_path)
    typed("The judge\r", "/temp 0\r")
    session.resume(*last_conversation(tmp_path, session.run_path, print))
    out, _ = typed("Jack\r")
    assert (
        out.splitlines()[2].startswith("settings kept from the last session: temperature 0")
        and "The judge" in out.splitlines()[3]
    )
    assert [turn.prompt for turn in load(session.journal.path)] == [
        "The judge",
        "Jack",
    ] and session.turns[1].in_context


def test_a_long_paste_is_one_short_line_and_one_message(typed, session):
    text = "word\n" * 1_000_000
    started_at = time.perf_counter()
    out, notices = typed(f"Say {PASTE}{text}{PASTE_END}", "!\r")
    assert time.perf_counter() - started_at < 10  # 9 s more if each read searches all earlier input
    assert [turn.prompt for turn in session.turns] == [f"Say {text}!"]
    assert (
        len(out) < 10_000
        and "4,998,005 characters before" in out
        and notices.count("longer than the context") == 1
    )


def test_each_name_of_a_paste_is_replaced_by_its_text():
    pastes = Pastes()
    first, second = pastes.shown("a" * 20_000), pastes.shown("b" * 20_000)
    assert (
        pastes.shown("short") == "short" and max(len(first), len(second)) < 40 and first != second
    )
    assert (
        pastes.filled(f"{first}-{second}-{first}")
        == f"{'a' * 20_000}-{'b' * 20_000}-{'a' * 20_000}"
    )
    assert pastes.are_in(f"x{second}") and not pastes.are_in("x")


def test_a_long_paste_is_not_kept_in_the_history(typed, tmp_path):
    typed(f"{PASTE}{'x' * 20_000}{PASTE_END}\r", "short\r")
    history = (tmp_path / "simplellm" / "history").read_text()
    assert "short" in history and len(history) < 200


def test_a_paste_that_arrives_in_pieces_is_complete(type_keys):
    """The terminal may split a paste anywhere, also within its end mark."""
    text = "가나다 \x1b[201 x\ty" * 50
    assert type_keys(f"{PASTE}{text}{PASTE_END}\r") == [text]
    assert type_keys(f"{PASTE}a{PASTE_END}{PASTE}b{PASTE_END}c\r") == ["abc"]


@pytest.mark.parametrize("size", range(1, 9))
def test_the_end_of_a_paste_is_found_however_it_is_split(session, monkeypatch, tmp_path, size):
    keys: list[Any] = []
    with create_pipe_input() as pipe:
        improve_pastes(pipe)
        pipe.vt100_parser.feed_key_callback = keys.append
        data = f"a{PASTE}one\x1b[20{PASTE_END}b{PASTE}{PASTE_END}{PASTE}two{PASTE_END}c"
        for start in range(0, len(data), size):
            pipe.vt100_parser.feed(data[start : start + size])
    assert [key.data for key in keys] == ["a", "one\x1b[20", "b", "", "two", "c"]


@posix_only
def test_a_message_can_be_written_in_an_editor(typed, session, monkeypatch, tmp_path):
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nprintf ' and the baker' >> \"$1\"\n")
    editor.chmod(0o700)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.delenv("VISUAL", raising=False)
    typed("The judge", "\x18\x05", lambda _: session.turns)
    assert [" ".join(turn.prompt.split()) for turn in session.turns] == ["The judge and the baker"]


def test_the_right_arrow_accepts_a_suggestion_from_history(typed, session):
    typed(
        "The judge said\r",
        lambda _: session.turns,
        "The j",
        lambda buffer: buffer.suggestion,
        f"{RIGHT}\r",
    )
    assert [turn.prompt for turn in session.turns] == ["The judge said"] * 2


def test_ctrl_r_searches_the_history(typed, session):
    is_loaded = lambda buffer: len(session.turns) == 2 and len(buffer._working_lines) == 3  # noqa: E731
    typed(
        "The judge\r",
        "Jack\r",
        is_loaded,
        f"{CTRL_R}nothing{CTRL_C}",
        lambda buffer: buffer.text == "",
        f"{CTRL_R}udg\r\r",
    )
    assert [turn.prompt for turn in session.turns] == ["The judge", "Jack", "The judge"]


def test_tab_completes_commands_and_values(typed, session):
    out, _ = typed(
        "/pena", lambda buffer: buffer.text == "/pena" and buffer.complete_state, TAB,
        lambda buffer: buffer.text == "/penalty", " 2\r",
        "/help see", lambda buffer: buffer.text == "/help see" and buffer.complete_state, TAB,
        lambda buffer: buffer.text == "/help seed", "\r",
    )  # fmt: skip
    assert "repetition_penalty 2" in out and "/seed [number]" in out


def test_keys_typed_during_a_reply_are_not_lost(typed, session):
    typed("The judge\rJack\r")
    assert [turn.prompt for turn in session.turns] == ["The judge", "Jack"]


def test_a_failed_history_write_does_not_end_the_chat(typed, session, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FileHistory, "store_string", fail)
    typed("The judge\r", "Jack\r")
    assert len(session.turns) == 2


def test_ctrl_c_at_the_prompt_does_not_end_the_chat(session):
    answers = iter([KeyboardInterrupt(), "/seed 9", None])

    def read_line() -> str | None:
        answer = next(answers)
        if isinstance(answer, KeyboardInterrupt):
            raise answer
        return answer

    out, notices = io.StringIO(), io.StringIO()
    chat._loop(session, Screen(out=out, notices=notices), read_line, is_live=True)
    assert "Ctrl-D quits" in notices.getvalue() and session.params.seed == 9
