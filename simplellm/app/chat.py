"""The conversation on a terminal, or line by line through a pipe. The only room that knows prompt_toolkit."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simplellm.app.command import Lines, Shown
from simplellm.app.commands import COMMANDS, dispatch, find, is_quit
from simplellm.app.render import Screen
from simplellm.app.session import Session
from simplellm.errors import SimpleLLMError

ReadLine = Callable[[], str | None]  # None at the end of input; KeyboardInterrupt for Ctrl-C


def chat(session: Session, screen: Screen, keep_history: bool = True) -> None:
    """Talk until the input ends or a quit; on a terminal with a prompt, history and completion."""
    if sys.stdin.isatty() and screen.is_terminal:
        _welcome(session, screen)
        _converse(session, screen, _prompt_reader(session, keep_history), is_live=True)
    else:
        _converse(session, screen, _pipe_reader(), is_live=False)


def _converse(session: Session, screen: Screen, read_line: ReadLine, is_live: bool) -> None:
    while not session.is_over:
        try:
            line = read_line()
        except KeyboardInterrupt:
            screen.notice("Ctrl-D leaves, /help lists the commands")
            continue
        if line is None or is_quit(line):
            return
        if line.strip():
            answer(session, screen, line, is_live)


def answer(session: Session, screen: Screen, line: str, is_live: bool) -> None:
    """Run a command, or let the model go on with what was typed. Mistakes are told, and change nothing."""
    try:
        if line.lstrip().startswith("/"):
            show(screen, dispatch(session, line.strip()))
        else:
            _reply(session, screen, line.rstrip(), is_live)
    except SimpleLLMError as error:
        screen.error(error)


def show(screen: Screen, shown: Shown) -> None:
    if isinstance(shown, Lines):
        if shown.text:
            screen.line(shown.text)
    else:
        screen.table(shown.headers, shown.rows)


def _reply(session: Session, screen: Screen, text: str, is_live: bool) -> None:
    """Stream the continuation. Ctrl-C ends it; what was said stays and is marked."""
    reply = session.reply(text)
    screen.write(text, "dim")
    with _interruptible() as is_interrupted:
        for piece in reply:
            screen.write(piece.text)
            if is_interrupted():
                reply.stop_reason = "interrupted"
                break
    session.keep(text, reply)
    screen.line()
    if is_live:
        screen.line(
            f"{len(reply.new_ids)} tokens, {reply.tokens_per_second:.0f} tokens/s, seed {reply.seed}, {reply.stop_reason}",
            "dim",
        )


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C only raises a flag, so that it never tears a token or a write apart."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted.is_set
        return
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _pipe_reader() -> ReadLine:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text are no reason to stop
    lines = iter(sys.stdin)
    return lambda: next((line.rstrip("\r\n") for line in lines), None)


def _welcome(session: Session, screen: Screen) -> None:
    screen.line(
        f"{session.facts.get('run', '')}: type the beginning of a text and the model goes on. /help, Ctrl-D leaves.", "dim"
    )


def _prompt_reader(session: Session, keep_history: bool) -> ReadLine:
    """A prompt with history over sessions, completion of commands and values, and a toolbar."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = _history_path() if keep_history else None
    prompt: Any = PromptSession(
        history=FileHistory(str(path)) if path else InMemoryHistory(),
        auto_suggest=AutoSuggestFromHistory(),
        completer=_completer(),
        complete_while_typing=True,
        key_bindings=_keys(),
        prompt_continuation="  ",
        enable_open_in_editor=True,
        bottom_toolbar=lambda: _toolbar(session),
    )

    def read_line() -> str | None:
        try:
            return str(prompt.prompt("> "))
        except EOFError:
            return None

    return read_line


def _history_path() -> Path | None:
    """The history file, readable by its owner alone; None where it cannot be written."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "simplellm"
    path = folder / "history"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError:
        return None
    return path


def _toolbar(session: Session) -> str:
    params, facts = session.params, session.facts
    return (
        f" {facts.get('run', '')}  {facts.get('bits per byte', '?')} bits/byte  temp {params.temperature:g}  "
        f"top-k {params.top_k}  top-p {params.top_p:g}  {facts.get('device', '')}"
    )


def _keys() -> Any:
    """Enter sends, Alt-Enter and Ctrl-J begin a new line, Ctrl-C clears the line (on an empty one it gives a hint)."""
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _new_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("enter")
    def _send(event: Any) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("c-c")
    def _clear(event: Any) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return keys


def _completer() -> Any:
    from prompt_toolkit.completion import Completer, Completion

    class CommandCompleter(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterable[Any]:
            yield from (
                Completion(word, start_position=-length, display_meta=meta)
                for word, length, meta in completions(document.text_before_cursor)
            )

    return CommandCompleter()


def completions(text: str) -> Iterator[tuple[str, int, str]]:
    """What may stand for the last word of `text`: the word, how many characters it replaces, one line of help."""
    if not text.startswith("/"):
        return
    word, space, argument = text[1:].partition(" ")
    if not space:
        yield from ((f"/{command.name}", len(text), command.help) for command in COMMANDS if command.name.startswith(word))
        return
    try:
        command = find(word)
    except SimpleLLMError:
        return
    names = [other.name for other in COMMANDS] if command.name == "help" else command.values
    yield from ((value, len(argument), "") for value in names if value.startswith(argument))
