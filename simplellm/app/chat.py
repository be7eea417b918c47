"""The conversation on a terminal, or line by line through a pipe. The only room that knows prompt_toolkit."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from simplellm.app.commands.command import Lines, Rows, Shown
from simplellm.app.commands.conversation import settings_told
from simplellm.app.commands.registry import completions, dispatch, is_quit
from simplellm.app.console import input_lines
from simplellm.app.keyboard import overflow, typed_ahead_waits
from simplellm.app.preferences import OWNER_ONLY, make_private, state_folder
from simplellm.app.render import Screen
from simplellm.app.sanitize import stand_ins
from simplellm.app.session import Answer, Session
from simplellm.app.shades import Bars, Columns, Tokens, summary_of
from simplellm.errors import SimpleLLMError
from simplellm.inference.reply import StreamedToken

ECHO = 2000  # characters of a prompt shown again on a terminal
LONG_PASTE = 10_000  # characters; a longer paste is shown as one short line, for a terminal takes minutes over megabytes
COUNTED = 2000  # characters of a line whose tokens are counted while it is typed
FRAME_SECONDS = 0.02  # pieces that come faster are written together: to write each would slow a small model by a third
TAIL_TURNS, TAIL_CHARACTERS = 2, 600  # of a resumed conversation that are shown again
PASTE_END = "\x1b[201~"

ReadLine = Callable[[], str | None]  # None at the end of input; KeyboardInterrupt for Ctrl-C


def is_terminal(screen: Screen) -> bool:
    """Whether a person sits there."""
    return sys.stdin is not None and sys.stdin.isatty() and screen.is_terminal


def chat(session: Session, screen: Screen, keep_history: bool = True) -> None:
    """Talk until the input ends or a quit; on a terminal with a prompt, history and completion."""
    if is_terminal(screen):
        with typed_ahead_waits(sys.stdin, for_prompt=True):
            _welcome(session, screen)
            _converse(session, screen, _prompt_reader(session, keep_history), is_live=True)
    else:
        _converse(session, screen, _pipe_reader(), is_live=False)


def _converse(session: Session, screen: Screen, read_line: ReadLine, is_live: bool) -> None:
    while not session.is_over:
        line: str | None = ""
        try:
            line = read_line()
            if line is None or is_quit(line):
                return
            if line.strip():
                answer(session, screen, line, is_live)
        except KeyboardInterrupt:  # at the prompt, or in a command; a reply has its own way to end
            if not is_live:
                raise
            screen.notice("stopped" if line else "Ctrl-D leaves, /help lists the commands")


def answer(session: Session, screen: Screen, line: str, is_live: bool) -> None:
    """Run a command, or let the model go on with what was typed. Mistakes are told, and change nothing."""
    try:
        is_command = line.lstrip().startswith("/")
        shown = dispatch(session, line.strip()) if is_command else session.ask(line.rstrip())
        if isinstance(shown, Answer):
            _reply(session, screen, shown, is_live)
        else:
            show(screen, shown)
    except SimpleLLMError as error:
        screen.error(error)


def show(screen: Screen, shown: Shown) -> None:
    """Show what a command gives, other than a reply to be streamed."""
    if isinstance(shown, Rows):
        screen.table(shown.headers, shown.rows)
    elif isinstance(shown, Lines):
        if shown.text:
            screen.line(shown.text)
    elif isinstance(shown, Tokens):
        screen.tokens(shown)
    elif isinstance(shown, Bars):
        screen.bars(shown)
    elif isinstance(shown, Columns):
        screen.columns(shown)


# ---------------------------------------------------------------- a reply


def _reply(session: Session, screen: Screen, answer: Answer, is_live: bool) -> None:
    """Stream a reply. Ctrl-C ends it; what was said stays and is marked."""
    show = _show_tokens if session.shows_probabilities else _show_text
    pending: list[StreamedToken] = []
    shown_at = 0.0
    for note in answer.notes:
        screen.notice(note)
    with CtrlC() as ctrl_c:
        try:
            if (
                is_live or answer.kind != "extend"
            ):  # in a pipe the text that goes on stands there already
                screen.write(_echo(answer.before) if is_live else answer.before, "dim")
            for piece in _pieces(answer, ctrl_c):
                pending.append(piece)
                if (now := time.perf_counter()) - shown_at >= FRAME_SECONDS:
                    show(screen, pending)
                    pending, shown_at = [], now
        finally:
            if answer.reply.new_ids or ctrl_c.is_pressed:
                session.keep(answer)  # first, for the terminal may be gone
            show(screen, pending)
            screen.line()
        _tell_of(session, screen, answer, is_live)


def _show_text(screen: Screen, pieces: list[StreamedToken]) -> None:
    screen.write("".join(piece.text for piece in pieces))


def _show_tokens(screen: Screen, pieces: list[StreamedToken]) -> None:
    with screen.together():
        for piece in pieces:
            screen.token(piece)


def _pieces(answer: Answer, ctrl_c: CtrlC) -> Iterator[StreamedToken]:
    """The pieces until Ctrl-C. Nothing is written before the first, so reading a long prompt is torn off at once."""
    pieces = iter(answer)
    ctrl_c.raises = True
    try:
        piece = next(pieces, None)
    except KeyboardInterrupt:
        return
    finally:
        ctrl_c.raises = False
    while piece is not None:
        yield piece
        if ctrl_c.is_pressed:
            answer.reply.stop_reason = "interrupted"
            return
        piece = next(pieces, None)


def _tell_of(session: Session, screen: Screen, answer: Answer, is_live: bool) -> None:
    reply = answer.reply
    summary = summary_of(answer.thoughts) if session.shows_probabilities else ""
    if summary:
        screen.line(summary, "dim")
    if is_live:
        figures = f"{len(reply.new_ids)} tokens, {reply.tokens_per_second:.0f} tokens/s, seed {reply.seed}, {reply.stop_reason}"
        screen.line(
            figures + ("; /continue goes on" if reply.stop_reason == "interrupted" else ""), "dim"
        )


def _echo(text: str) -> str:
    """A prompt as it is shown again: its end alone where it is very long."""
    return text if len(text) <= ECHO else f"[{len(text) - ECHO:,} characters before] {text[-ECHO:]}"


class CtrlC:
    """Within the block Ctrl-C only raises a flag, so that it never tears a token or a write apart."""

    def __init__(self) -> None:
        self.is_pressed = False
        self.raises = False  # KeyboardInterrupt as well
        self._is_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> CtrlC:
        if self._is_main:
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_main:
            signal.signal(signal.SIGINT, self._before)

    def _press(self, number: int, frame: FrameType | None) -> None:
        self.is_pressed = True
        overflow.discard()
        if self.raises:
            raise KeyboardInterrupt


# ---------------------------------------------------------------- where lines come from


def _pipe_reader() -> ReadLine:
    lines = input_lines()
    return lambda: next(lines, None)


def _welcome(session: Session, screen: Screen) -> None:
    run = session.facts.get("run", "")
    screen.line(
        f"{run}: type the beginning of a text and the model goes on. /help, Ctrl-D leaves.", "dim"
    )
    if told := settings_told(session):
        screen.line(f"kept from the last time: {told}", "dim")
    for turn in session.turns[-TAIL_TURNS:]:
        screen.line((turn.prompt + turn.reply)[-TAIL_CHARACTERS:], "dim")


def _prompt_reader(session: Session, keep_history: bool) -> ReadLine:
    """A prompt with history over sessions, completion of commands and values, and a toolbar."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
    from prompt_toolkit.layout.screen import Char

    Char.display_mappings = (
        stand_ins() | Char.display_mappings
    )  # it has its own for control characters, and none for others
    pastes = Pastes()
    prompt: Any = PromptSession(
        history=_history(_history_path() if keep_history else None, pastes),
        auto_suggest=AutoSuggestFromHistory(),
        completer=_completer(session),
        complete_while_typing=True,
        key_bindings=_keys(pastes),
        prompt_continuation="  ",
        enable_open_in_editor=True,
        enable_suspend=True,
        bottom_toolbar=lambda: _toolbar(
            session, prompt.default_buffer.text, prompt.output.get_size().columns
        ),
    )
    _read_pastes_in_linear_time(prompt.input)

    def read_line() -> str | None:
        try:
            with overflow.reading():
                _type(overflow.taken(), prompt.input)
                return pastes.filled(str(prompt.prompt("> ")))
        except EOFError:
            return None

    return read_line


def _type(typed: bytes, source: Any) -> None:
    """Let the next prompt read these keys before those that come from `source`."""
    from prompt_toolkit.input.typeahead import store_typeahead
    from prompt_toolkit.input.vt100_parser import Vt100Parser
    from prompt_toolkit.key_binding import KeyPress

    keys: list[KeyPress] = []
    parser = Vt100Parser(keys.append)
    parser.feed(typed.decode("utf-8", "replace"))
    parser.flush()
    store_typeahead(source, keys)


class Pastes:
    """Long pastes, of which the prompt shows one short line each; the message holds them whole."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def shown(self, text: str) -> str:
        if len(text) <= LONG_PASTE:
            return text
        name = f"[paste {len(self._texts) + 1}: {len(text):,} characters]"
        self._texts[name] = text
        return name

    def filled(self, line: str) -> str:
        for name, text in self._texts.items():
            line = line.replace(name, text)
        return line

    def has(self, line: str) -> bool:
        return any(name in line for name in self._texts)


def _history(path: Path | None, pastes: Pastes) -> Any:
    """Lines of earlier sessions. One with a long paste in it is not kept: its text would be missing."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class History(FileHistory):
        def store_string(self, string: str) -> None:
            if not pastes.has(string):
                with contextlib.suppress(OSError):  # a full disk is no reason to stop talking
                    super().store_string(string)

    return History(str(path)) if path else InMemoryHistory()


def _read_pastes_in_linear_time(source: Any) -> None:
    """Let prompt_toolkit look for the end of a paste in what is new: it searches all that has come, at every read."""
    from prompt_toolkit.input.vt100_parser import Vt100Parser

    class Parser(Vt100Parser):
        parts: list[str] = []
        end = ""  # of what has come

        def feed(self, data: str) -> None:
            if not self._in_bracketed_paste:
                super().feed(data)
                return
            self.parts.append(data)
            recent, self.end = self.end + data, (self.end + data)[-len(PASTE_END) :]
            if PASTE_END in recent:
                self._paste_buffer, self.parts, self.end = "".join(self.parts), [], ""
                super().feed("")

    if isinstance(getattr(source, "vt100_parser", None), Vt100Parser):
        source.vt100_parser = Parser(source.vt100_parser.feed_key_callback)


def _history_path() -> Path | None:
    """The history file, readable by its owner alone; None where it cannot be written."""
    path = state_folder() / "history"
    try:
        make_private(path.parent)
        path.touch(mode=OWNER_ONLY)
        path.chmod(OWNER_ONLY)
    except OSError:
        return None
    return path


def _toolbar(session: Session, typed: str = "", columns: int = 1000) -> str:
    """What there is room for: the run, its quality, the settings, the context, the device."""
    params, facts = session.params, session.facts
    used, size = session.n_context_tokens(typed[-COUNTED:]), session.sampler.block_size
    parts = [
        facts.get("run", ""), f"{facts.get('bits per byte', '?')} bits/byte",
        f"temp {params.temperature:g} top-k {params.top_k} top-p {params.top_p:g}",
        f"context {used} used {max(size - used, 0)} left", re.split("[(,]", facts.get("device", ""))[0].strip(),
    ]  # fmt: skip
    line = ""
    for part in parts:
        if line and len(line) + len(part) + 3 > columns:
            break
        line += f" {part} "
    return line


def _keys(pastes: Pastes) -> Any:
    """Alt-Enter and Ctrl-J begin a new line, Ctrl-C clears the line (on an empty one it gives a hint)."""
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import has_focus
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.keys import Keys

    keys, in_line = KeyBindings(), has_focus(DEFAULT_BUFFER)  # and not in a search with Ctrl-R

    @keys.add(Keys.BracketedPaste, filter=in_line)
    def _paste(event: Any) -> None:
        text = event.data.replace("\r\n", "\n").replace("\r", "\n")
        event.current_buffer.insert_text(pastes.shown(text))

    @keys.add("escape", "enter", filter=in_line)
    @keys.add("c-j", filter=in_line)
    def _new_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c", filter=in_line)
    def _clear(event: Any) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return keys


def _completer(session: Session) -> Any:
    from prompt_toolkit.completion import Completer, Completion

    class CommandCompleter(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterable[Any]:
            yield from (
                Completion(word, start_position=-length, display_meta=meta)
                for word, length, meta in completions(document.text_before_cursor, session)
            )

    return CommandCompleter()
