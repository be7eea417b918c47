"""The chat loop: reads lines from a terminal or a pipe, and runs commands or asks the model."""

from __future__ import annotations

import sys

from simplellm.app.answer import Answer
from simplellm.app.commands.command import Shown
from simplellm.app.commands.registry import dispatch, is_quit
from simplellm.app.commands.runs import changed_settings
from simplellm.app.console import input_lines
from simplellm.app.prompt import ReadLine, prompt_reader
from simplellm.app.prompt_text import without_line_end
from simplellm.app.reply_stream import stream_reply
from simplellm.app.results import Bars, Columns, Lines, Matrix, Rows, Tokens
from simplellm.app.screen import Screen
from simplellm.app.session import Session
from simplellm.app.typeahead import early_keys, keep_typeahead
from simplellm.errors import SimpleLLMError, is_out_of_memory, out_of_memory

SINGLE_TURN = (
    "trained on single questions: each message is answered by itself; /context on keeps turns"
)
TAIL_TURNS = 2  # of a continued conversation that are shown again
TAIL_CHARACTERS = 600  # of each of them


def chat_loop(session: Session, screen: Screen, keep_history: bool = True) -> None:
    """Chat until the input ends or the user quits.

    A terminal gets a prompt with history and completion.
    """
    if screen.is_interactive:
        with keep_typeahead(sys.stdin, for_prompt=True):
            _welcome(session, screen)
            _loop(session, screen, prompt_reader(session, keep_history), is_live=True)
    else:
        lines = input_lines()
        _loop(session, screen, lambda: next(lines, None), is_live=False)


def _loop(session: Session, screen: Screen, read_line: ReadLine, is_live: bool) -> None:
    while not session.is_over:
        line: str | None = ""
        try:
            line = read_line()
            if line is None or is_quit(line):
                return
            if line.strip():
                answer(session, screen, line, is_live)
        except KeyboardInterrupt:  # at the prompt or in a command; replies handle Ctrl-C themselves
            if not is_live:
                raise
            early_keys.discard()
            screen.notice("stopped" if line else "Ctrl-D quits, /help lists the commands")


def answer(session: Session, screen: Screen, line: str, is_live: bool) -> None:
    """Run a command, or let the model continue a text.

    Errors are shown and change nothing; when memory is exhausted, too, the chat goes on.
    """
    try:
        is_command = line.lstrip().startswith("/")
        shown = (
            dispatch(session, line.lstrip()) if is_command else session.ask(without_line_end(line))
        )
        if isinstance(shown, Answer):
            stream_reply(session, screen, shown, is_live)
        else:
            show(screen, shown)
    except SimpleLLMError as error:
        screen.error(error)
    except (MemoryError, RuntimeError, ValueError) as error:
        if not is_out_of_memory(error):
            raise
        screen.error(out_of_memory(error))


def show(screen: Screen, shown: Shown) -> None:
    """Show the result of a command. Answers of the model are streamed instead."""
    match shown:
        case Rows():
            screen.table(shown.headers, shown.rows)
            if shown.summary:
                screen.line(shown.summary, "dim")
        case Lines():
            if shown.text:
                screen.line(shown.text)
        case Tokens():
            screen.tokens(shown)
        case Bars():
            screen.bars(shown)
        case Columns():
            screen.columns(shown)
        case Matrix():
            screen.matrix(shown)


def _welcome(session: Session, screen: Screen) -> None:
    run = session.facts.get("run", "")
    what = (
        "a message; the model answers"
        if session.is_chat
        else "the beginning of a text; the model continues it"
    )
    screen.line(f"{run}: type {what}.", "dim")
    screen.line("/help for help, Ctrl-D quits.", "dim")
    if session.is_chat and session.is_single_turn and not session.keeps_context:
        screen.line(SINGLE_TURN, "dim")
    if session.system is not None:
        screen.line(f"system message: {session.system}", "dim")
    if changed := changed_settings(session):
        screen.line(f"settings kept from the last session: {changed}", "dim")
    for turn in session.turns[-TAIL_TURNS:]:
        if session.is_chat:
            screen.line(session.names.prompt() + turn.prompt[-TAIL_CHARACTERS:], "dim")
            screen.line(session.names.label() + turn.reply[-TAIL_CHARACTERS:], "dim")
        else:
            screen.line((turn.prompt + turn.reply)[-TAIL_CHARACTERS:], "dim")
