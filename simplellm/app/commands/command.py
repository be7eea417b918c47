"""What a slash command is. No terminal here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from simplellm.app.answer import Answer
from simplellm.app.results import Bars, Columns, Lines, Matrix, Rows, Tokens
from simplellm.app.session import Session

SAVE_USAGE = "[save FILE]"
Shown = Lines | Rows | Answer | Tokens | Bars | Columns | Matrix
Handler = Callable[[Session, str], Shown]  # gets the argument as typed


@dataclass(frozen=True)
class Command:
    """A slash command.

    argument: how `/help` shows the argument, such as `[number]`.
    takes_prompt: the argument is a prompt: the spaces at its end belong to it.
    values: arguments that completion offers.
    complete: arguments that completion offers, from the session and what is typed so far.
    draws: whether `save FILE` at the end of the argument saves the result as a picture.
    """

    name: str
    argument: str
    help: str
    handler: Handler
    aliases: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    takes_prompt: bool = False
    complete: Callable[[Session, str], Iterable[str]] | None = None
    draws: bool = False

    @property
    def usage(self) -> str:
        return " ".join(filter(None, [f"/{self.name}", self.argument, SAVE_USAGE * self.draws]))
