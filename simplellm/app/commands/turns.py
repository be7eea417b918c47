"""Slash commands that change the turns of the conversation: /regen, /continue, /undo, ..."""

from __future__ import annotations

from simplellm.app.commands.command import Command, Shown
from simplellm.app.results import Lines
from simplellm.app.session import Session

BEGINNING_CHARACTERS = 40  # of a prompt that stands for a turn


def _regen(session: Session, text: str) -> Shown:
    return session.regen()


def _continue(session: Session, text: str) -> Shown:
    return session.extend()


def _undo(session: Session, text: str) -> Shown:
    removed = beginning(session.undo().prompt)
    return Lines(f"removed the turn {removed}; {n_turns(len(session.turns))} left")


def _context(session: Session, text: str) -> Shown:
    if text:
        session.set_context(text)
    if not session.keeps_context:
        return Lines("context off: the model sees only the current prompt")
    used = f"{session.n_context_tokens()} of {session.sampler.block_size} tokens used"
    return Lines(f"context on: the model also sees earlier turns ({used})")


def _clear(session: Session, text: str) -> Shown:
    session.clear()
    return Lines("started a new conversation")


def n_turns(n: int) -> str:
    return "1 turn" if n == 1 else f"{n} turns"


def beginning(text: str) -> str:
    """The beginning of a prompt in quotes, on one line."""
    line = " ".join(text[: BEGINNING_CHARACTERS + 1].split())
    if len(text) > BEGINNING_CHARACTERS:
        line = line[:BEGINNING_CHARACTERS] + "..."
    return repr(line)


TURN_COMMANDS = (
    Command("regen", "", "answer the last prompt again with a new seed", _regen),
    Command("continue", "", "continue the last reply, also after Ctrl-C", _continue),
    Command("undo", "", "remove the last turn", _undo),
    Command(
        "context", "[on|off]", "let the model see earlier turns", _context, values=("on", "off")
    ),
    Command("clear", "", "start a new conversation", _clear),
)
