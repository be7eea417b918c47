"""The chat prompt on a terminal: history, completion, key bindings and a toolbar."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from simplellm.app.commands.registry import completions
from simplellm.app.commands.runs import quality
from simplellm.app.dumb_prompt import TEXT_PROMPT, Echo
from simplellm.app.dumb_terminal import is_dumb
from simplellm.app.pastes import Pastes, improve_pastes, make_history
from simplellm.app.preferences import OWNER_ONLY, make_private, state_folder
from simplellm.app.sanitize import stand_ins
from simplellm.app.session import Session
from simplellm.app.typeahead import early_keys, report_pastes

COUNTED_CHARACTERS = 2000  # of the typed line whose tokens the toolbar counts
SEPARATOR_COLUMNS = 3  # between two parts of the toolbar

ReadLine = Callable[[], str | None]  # None at the end of input; KeyboardInterrupt for Ctrl-C


def prompt_reader(session: Session, keep_history: bool) -> ReadLine:
    """A function that shows the prompt and returns the line typed there."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.layout.screen import Char
    from prompt_toolkit.output import DummyOutput
    from prompt_toolkit.utils import get_cwidth

    # prompt_toolkit has a mapping for control characters, but not for other unsafe ones
    Char.display_mappings = stand_ins() | Char.display_mappings
    pastes = Pastes()
    echo = Echo(_write, get_cwidth, lambda: message()) if is_dumb() else None

    def message() -> str:
        return session.names.prompt() if session.is_chat else TEXT_PROMPT

    def toolbar() -> str:
        return toolbar_text(session, prompt.default_buffer.text, prompt.output.get_size().columns)

    prompt: Any = PromptSession(
        **_editing(session, keep_history, pastes),
        prompt_continuation=lambda width, line, wraps: " " * width,
        bottom_toolbar=toolbar,
        output=DummyOutput() if echo else None,
    )
    # no warning where the terminal does not report its cursor: only the toolbar is missing there
    prompt.app.renderer.cpr_not_supported_callback = None
    if echo:
        prompt.default_buffer.on_text_changed += lambda buffer: echo.show(buffer.text)
    improve_pastes(prompt.input)

    def read_line() -> str | None:
        try:
            with early_keys.reading(), echo.shown() if echo else nullcontext():
                _feed(early_keys.taken(), prompt.input)
                return pastes.filled(str(prompt.prompt(message())))
        except EOFError:
            return None
        finally:
            if early_keys.are_watched:
                report_pastes(True)  # the prompt has turned it off

    return read_line


def _editing(session: Session, keep_history: bool, pastes: Pastes) -> dict[str, Any]:
    """How a line is edited: history, completion and keys."""
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory

    return {
        "history": make_history(_history_path() if keep_history else None, pastes),
        "auto_suggest": AutoSuggestFromHistory(),
        "completer": _completer(session),
        "complete_while_typing": True,
        "key_bindings": _key_bindings(pastes),
        "enable_open_in_editor": True,
        "enable_suspend": True,
    }


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def toolbar_text(session: Session, typed: str = "", columns: int = 1000) -> str:
    """As many of these as fit: the run, its quality, the settings, the context, the device."""
    params = session.params
    facts = session.facts
    prompt = "" if typed.lstrip().startswith("/") else typed  # the model never sees a command
    used = session.n_context_tokens(prompt[-COUNTED_CHARACTERS:])
    left = max(session.sampler.block_size - used, 0)
    parts = [
        facts.get("run", ""),
        quality(facts),
        f"temp {params.temperature:g} top-k {params.top_k} top-p {params.top_p:g}",
        f"context {used} used {left} left",
        re.split("[(,]", facts.get("device", ""))[0].strip(),
    ]
    line = ""
    for part in filter(None, parts):
        if line and len(line) + len(part) + SEPARATOR_COLUMNS > columns:
            break
        line += f" {part} "
    return line


def _feed(typed: bytes, source: Any) -> None:
    """Let the next prompt read the keys `typed` before those that come from `source`."""
    from prompt_toolkit.input.typeahead import store_typeahead

    if typed:  # its own parser: a paste may have begun that has not ended yet
        source.vt100_parser.feed(typed.decode("utf-8", "replace"))
        store_typeahead(source, source.flush_keys())


def _history_path() -> Path | None:
    """The history file, which only its owner can read; None if it cannot be written."""
    folder = state_folder()
    if folder is None:
        return None
    path = folder / "history"
    try:
        make_private(path.parent)
        path.touch(mode=OWNER_ONLY)
        path.chmod(OWNER_ONLY)
    except OSError:
        return None
    return path


def _key_bindings(pastes: Pastes) -> Any:
    """Alt-Enter and Ctrl-J insert a line end. Ctrl-C clears the line, or shows a hint if empty."""
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import has_focus
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.keys import Keys

    keys = KeyBindings()
    in_line = has_focus(DEFAULT_BUFFER)  # not during a search with Ctrl-R

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
                Completion(word, start_position=-length, display_meta=help)
                for word, length, help in completions(document.text_before_cursor, session)
            )

    return CommandCompleter()
