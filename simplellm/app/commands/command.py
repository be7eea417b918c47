"""What a slash command is, and what it may give to show. No terminal here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from simplellm.app.session import Answer, Session
from simplellm.app.shades import Bars, Columns, Tokens


@dataclass(frozen=True)
class Lines:
    """Text to show."""

    text: str


@dataclass(frozen=True)
class Rows:
    """A table to show; headers may be empty."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Shown = Lines | Rows | Answer | Tokens | Bars | Columns
Handler = Callable[[Session, str], Shown]


@dataclass(frozen=True)
class Command:
    name: str
    argument: str
    help: str
    handler: Handler
    aliases: tuple[str, ...] = ()
    values: tuple[str, ...] = ()  # what completion offers as argument
    complete: Callable[[Session, str], Iterable[str]] | None = (
        None  # or what depends on the session and what is typed
    )

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.argument}".rstrip()
