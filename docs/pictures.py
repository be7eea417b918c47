"""Draw chat.svg and training.svg in this folder from a real terminal session. Takes two minutes.

pip install -e ".[test]" && python docs/pictures.py
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "tests"))

from program import SIMPLELLM, environment  # noqa: E402
from terminal import Key, Terminal  # noqa: E402

STORY = DOCS.parent / "the-verdict.txt"
SECONDS_TO_TRAIN = 600
COLUMNS, DIM = 100, "8a8a8a"
EVALUATED = re.compile("validation")  # an evaluation is on the panel
EMPTY_BRAILLE = "\u2800"  # not every font has it
PYTE_NAMES = {"brown": "yellow", "brightbrown": "bright_yellow"}
TYPED = ["/probs on", "The judge", "/next The judge put on the"]


class GreyScreen(pyte.HistoryScreen):
    """A screen that shows dim text, which pyte does not know, in grey."""

    def select_graphic_rendition(self, *attributes: int, **kwargs: Any) -> None:
        """rich writes dim (2) first; in other places a 2 is part of a colour."""
        is_dim = attributes[:1] == (2,)
        super().select_graphic_rendition(*attributes[is_dim:] or (0,), **kwargs)
        if is_dim:
            self.cursor.attrs = self.cursor.attrs._replace(fg=DIM)


def open_terminal(command: list[str], env: dict[str, str], rows: int) -> Terminal:
    terminal = Terminal(command, env, COLUMNS, rows)
    terminal.screen = GreyScreen(COLUMNS, rows)
    terminal.screen.write_process_input = terminal.press
    terminal.stream = pyte.Stream(terminal.screen)
    return terminal


def style_of(cell: Any) -> Style:
    return Style(
        color=color_of(cell.fg),
        bgcolor=color_of(cell.bg),
        bold=cell.bold,
        italic=cell.italics,
        reverse=cell.reverse,
    )


def color_of(name: str) -> str | None:
    """The name that rich has for a colour of pyte."""
    if name == "default":
        return None
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return PYTE_NAMES.get(name, name.replace("bright", "bright_"))


def draw(screen: pyte.Screen, title: str, path: Path) -> None:
    """Write the screen as an SVG picture, with at most one empty line at a time."""
    console = Console(
        record=True,
        width=screen.columns,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    shown = [line.strip() for line in screen.display]
    last = max(y for y, line in enumerate(shown) if line)
    for y in range(last + 1):
        if shown[y] or shown[y - 1]:
            console.print(styled_line(screen, y))
    svg = console.export_svg(title=title)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # no fonts from the network
    path.write_text(svg, encoding="utf-8")


def styled_line(screen: pyte.Screen, y: int) -> Text:
    cells = (screen.buffer[y][x] for x in range(screen.columns))
    parts = []
    for style, run in groupby(cells, style_of):
        text = "".join(cell.data for cell in run).replace(EMPTY_BRAILLE, " ")
        parts.append((text, style))
    return Text.assemble(*parts)


def training(folder: str, path: Path) -> None:
    """Train on the story and draw the panel halfway."""
    flags = ["--name", "the-verdict", "--checkpoints", folder, "--seed", "1"]
    env = environment(COLORTERM="truecolor")
    terminal = open_terminal([*SIMPLELLM, "train", str(STORY), *flags], env, rows=30)

    def is_halfway() -> bool:
        found = re.search(r"step ([\d,]+)/([\d,]+)", terminal.text)
        if not found:
            return False
        step, steps = (int(number.replace(",", "")) for number in found.groups())
        return step > 0.6 * steps and EVALUATED.search(terminal.text) is not None

    terminal.wait(is_halfway, SECONDS_TO_TRAIN)
    terminal.settle(0.02)
    draw(terminal.screen, "simplellm train the-verdict.txt", path)
    terminal.wait_for_end(SECONDS_TO_TRAIN)


def chat(folder: str, path: Path) -> None:
    """Draw a reply with its probabilities, and the candidates of /next."""
    flags = ["--checkpoints", folder, "--seed", "7", "--max-new-tokens", "80", "--no-history"]
    env = environment(COLORTERM="truecolor", XDG_STATE_HOME=folder)
    terminal = open_terminal([*SIMPLELLM, "chat", *flags], env, rows=45)
    terminal.ready()
    for line in TYPED:
        terminal.press(line + Key.ENTER)
        terminal.settle(1)
        terminal.ready()
    terminal.settle(1)
    draw(terminal.screen, "simplellm chat", path)
    terminal.press(Key.CTRL_D)
    terminal.wait_for_end()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        training(folder, DOCS / "training.svg")
        chat(folder, DOCS / "chat.svg")
