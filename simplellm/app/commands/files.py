"""Slash commands that save and load conversations: /save and /load."""

from __future__ import annotations

import os
from collections.abc import Iterator

from simplellm.app.commands.command import Command, Shown
from simplellm.app.commands.turns import beginning, n_turns
from simplellm.app.conversation import load
from simplellm.app.journal import saved_conversations
from simplellm.app.results import Lines, Rows
from simplellm.app.session import Session
from simplellm.errors import TextError

MOST_LISTED = 10  # conversations
MOST_OFFERED = 100  # files


def _save(session: Session, text: str) -> Shown:
    if text:
        path = session.save(text)
        return Lines(f"saved {n_turns(len(session.turns))} in {path}")
    if session.journal is None:
        return Lines("this conversation is not saved automatically; /save FILE saves it")
    where = session.journal.path or f"{session.journal.folder}, after its first turn"
    return Lines(f"this conversation is saved automatically in {where}; /save FILE makes a copy")


def _load(session: Session, text: str) -> Shown:
    if not text:
        return _list(session)
    path = session.load(text)
    context = "on" if session.keeps_context else "off"
    system = "; with a system message" if session.system is not None else ""
    return Lines(f"{n_turns(len(session.turns))} from {path}; context {context}{system}")


def _list(session: Session) -> Shown:
    """The newest conversations with this run that were saved automatically."""
    paths = saved_conversations(session.journal.folder, session.run_path) if session.journal else []
    rows = []
    for path in paths[:MOST_LISTED]:
        try:
            turns = load(path)
        except TextError:
            continue
        rows.append((str(path), n_turns(len(turns)), beginning(turns[0].prompt) if turns else ""))
    if not rows:
        return Lines("no saved conversations; /load FILE loads a file that /save FILE wrote")
    return Rows(("conversation", "", "begins with"), tuple(rows))


def _file_names(session: Session, text: str) -> Iterator[str]:
    """Folders and saved conversations whose path begins with `text`."""
    stem, start = split_typed(text)
    folder = os.path.expanduser(stem) or "."
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (OSError, ValueError):
        return
    for entry in entries[:MOST_OFFERED]:
        if entry.name.startswith(".") and not start.startswith("."):
            continue
        if entry.is_dir():
            yield f"{stem}{entry.name}/"
        elif entry.name.endswith(".jsonl"):
            yield f"{stem}{entry.name}"


def split_typed(text: str, separators: tuple[str, ...] = ("/", os.sep)) -> tuple[str, str]:
    """Split a path that is being typed: the folder with its separator, and the start of a name.

    Windows has two separators.
    """
    cut = 1 + max(text.rfind(separator) for separator in separators)
    return text[:cut], text[cut:]


FILE_COMMANDS = (
    Command("save", "[file]", "save the conversation in a file", _save, complete=_file_names),
    Command(
        "load",
        "[file]",
        "continue a saved conversation; without a file: list the saved ones",
        _load,
        complete=_file_names,
    ),
)
