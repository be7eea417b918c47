"""Results of commands that the screen can show. Plain data: no terminal and no torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lines:
    """Text."""

    text: str


@dataclass(frozen=True)
class Rows:
    """A table, and a summary line below it. The headers may be empty."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    summary: str = ""


@dataclass(frozen=True)
class Mark:
    """A piece of text, its level on the colour scale, and a label with the same information.

    level: 0 to 1; None is not shaded.
    """

    text: str
    level: float | None
    label: str = ""


@dataclass(frozen=True)
class Tokens:
    """Shaded text, with a summary line below it.

    Labels follow the tokens if the screen has no colours, or always with `always_labels`.
    legend: marks that explain the colours. title: of the picture of it. text: is shown before.
    """

    marks: tuple[Mark, ...]
    always_labels: bool = False
    summary: str = ""
    legend: tuple[Mark, ...] = ()
    title: str = ""
    text: str = ""


@dataclass(frozen=True)
class Matrix:
    """Shares of each token (row) of each token (column), and a summary line below them.

    rows: each as long as `names`; the shares are 0 after the token itself.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]
    summary: str = ""
    legend: tuple[Mark, ...] = ()
    title: str = ""


@dataclass(frozen=True)
class Bar:
    """A candidate token and its probability before and after the sampling settings.

    after: None if the settings exclude the token.
    """

    name: str
    before: float
    after: float | None


@dataclass(frozen=True)
class Bars:
    """Candidate tokens, each with two bars, and a summary line below them."""

    rows: tuple[Bar, ...]
    headers: tuple[str, str, str] = ("token", "the model", "after the settings")
    summary: str = ""
    title: str = ""


@dataclass(frozen=True)
class Columns:
    """Texts side by side, or one below the other on a narrow screen, and a summary line."""

    headers: tuple[str, ...]
    texts: tuple[str, ...]
    summary: str = ""
    title: str = ""


Drawable = Tokens | Matrix | Bars | Columns  # what a picture can show
