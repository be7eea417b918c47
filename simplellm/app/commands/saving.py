"""`save FILE` at the end of a command that inspects the model: its result as a picture."""

from __future__ import annotations

import re
from pathlib import Path

from simplellm.app.commands.command import Command, Shown
from simplellm.app.pictures.draw import save
from simplellm.app.results import Bars, Columns, Lines, Matrix, Tokens
from simplellm.app.session import Session
from simplellm.errors import SettingError
from simplellm.evaluation.picture.save import check_picture_path
from simplellm.storage.user_paths import expand_user

# The last `save` of the argument and what follows: a file name, in quotes if it has spaces.
SAVE = re.compile(
    r"(?:(?P<before>.*)\s|)save\s+(?P<quote>[\"']?)(?P<file>\S.*?)(?P=quote)", re.DOTALL
)


def run(command: Command, session: Session, argument: str) -> Shown:
    """The result of a command, or a line that says where its picture was saved."""
    text, path = split_save(argument) if command.draws else (argument, None)
    if path is None:
        return command.handler(session, text)
    check_picture_path(path)
    shown = command.handler(session, text)
    if not isinstance(shown, (Tokens, Matrix, Bars, Columns)):
        raise SettingError(f"/{command.name} shows nothing to draw", fix=command.usage)
    save(shown, path)
    return Lines(f"saved a picture in {path}")


def split_save(argument: str) -> tuple[str, Path | None]:
    """The argument without `save FILE` at its end, and the file; None where there is none.

    Text that only contains the word is no file: FILE has a suffix, and spaces only in quotes.
    """
    match = SAVE.fullmatch(argument.rstrip())
    if match is None:
        return argument, None
    is_one_word = bool(match["quote"]) or not re.search(r"\s", match["file"])
    if not is_one_word or not Path(match["file"]).suffix:
        return argument, None
    return match["before"] or "", Path(expand_user(match["file"]))
