"""The commands about the conversation and the model that answers."""

from __future__ import annotations

from simplellm.app.command import Command, Lines, Rows, Shown
from simplellm.app.session import Session


def _clear(session: Session, text: str) -> Shown:
    session.clear()
    return Lines("forgot what was said")


def _context(session: Session, text: str) -> Shown:
    if text:
        session.set_context(text)
    return Lines("earlier turns are kept as context" if session.keeps_context else "each prompt stands alone")


def _info(session: Session, text: str) -> Shown:
    return Rows(("", ""), tuple(session.facts.items()))


def _quit(session: Session, text: str) -> Shown:
    session.is_over = True
    return Lines("")


TALK_COMMANDS = (
    Command("context", "[on|off]", "keep earlier turns as context", _context, values=("on", "off")),
    Command("clear", "", "forget what was said", _clear),
    Command("info", "", "the model that answers", _info),
    Command("quit", "", "leave", _quit, ("exit", "bye")),
)
