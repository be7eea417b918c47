"""Helpers of several commands that inspect the model."""

from __future__ import annotations

from simplellm.app.session import Session
from simplellm.app.session_notes import no_turn

CONTEXT_CHARACTERS = 40  # of a text, in the title of a picture


def require_turn(session: Session) -> None:
    if not session.turns:
        raise no_turn(session.is_chat)


def require_message(session: Session, text: str) -> None:
    """A chat model replies to a message: one of the conversation, or `text`."""
    if session.is_chat and not text:
        require_turn(session)


def quoted(text: str) -> str:
    """A token in quotes, so that spaces and line ends are visible."""
    return repr(text).replace("\\\\", "\\")


def end_of(text: str) -> str:
    """The end of a text on one line, for a title."""
    line = " ".join(text.split())
    return line if len(line) <= CONTEXT_CHARACTERS else "\u2026" + line[-CONTEXT_CHARACTERS:]


def context_of(session: Session, text: str) -> str:
    """The end of what a reply to `text` would continue: without a text, the last turn."""
    if text or not session.turns:
        return end_of(text)
    if session.is_chat:
        return end_of(session.turns[-1].reply)
    return end_of(session.turns[-1].prompt + session.turns[-1].reply)
