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

from terminal import SIMPLELLM, Key, Terminal, environment  # noqa: E402

STORY = DOCS.parent / "the-verdict.txt"
SECONDS_TO_TRAIN = 600
COLUMNS, DIM = 100, "8a8a8a"
EMPTY_BRAILLE = "\u2800"  # not every font has it
PYTE_NAMES = {"brown": "yellow", "brightbrown": "bright_yellow"}
TYPED = ["/probs on", "The judge", "/next The judge put on the"]


class GreyScreen(pyte.HistoryScreen):
    """pyte has no dim text; here it is grey."""

    def select_graphic_rendition(self, *attributes: int, **kwargs: Any) -> None:
        """Dim comes first where rich writes it; elsewhere a 2 is part of a colour."""
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
    colors = []
    for color in (cell.fg, cell.bg):
        name = PYTE_NAMES.get(color, color.replace("bright", "bright_"))
        colors.append(
            None
            if color == "default"
            else f"#{color}"
            if re.fullmatch("[0-9a-f]{6}", color)
            else name
        )
    return Style(
        color=colors[0],
        bgcolor=colors[1],
        bold=cell.bold,
        italic=cell.italics,
        reverse=cell.reverse,
    )


def draw(screen: pyte.Screen, title: str, path: Path) -> None:
    """The screen as a picture; of empty lines that follow each other one is left."""
    console = Console(
        record=True,
        width=screen.columns,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    shown = [line.strip() for line in screen.display]
    for y in range(max(y for y, line in enumerate(shown) if line) + 1):
        if shown[y] or shown[y - 1]:
            cells = (screen.buffer[y][x] for x in range(screen.columns))
            runs = (
                (style, "".join(cell.data for cell in run))
                for style, run in groupby(cells, style_of)
            )
            console.print(
                Text.assemble(*((text.replace(EMPTY_BRAILLE, " "), style) for style, text in runs))
            )
    svg = console.export_svg(title=title)
    path.write_text(
        re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8"
    )  # nothing from elsewhere


def training(folder: str, path: Path) -> None:
    """Train on the story; the picture is of the panel halfway."""
    command = [
        *SIMPLELLM,
        "train",
        str(STORY),
        "--name",
        "the-verdict",
        "--checkpoints",
        folder,
        "--seed",
        "1",
    ]
    terminal = open_terminal(command, environment(COLORTERM="truecolor"), rows=30)

    def is_halfway() -> bool:
        found = re.search(r"step ([\d,]+)/([\d,]+)", terminal.text)
        if not found:
            return False
        step, steps = (int(number.replace(",", "")) for number in found.groups())
        return step > 0.6 * steps and "held-out" in terminal.text

    terminal.wait(is_halfway, SECONDS_TO_TRAIN)
    terminal.settle(0.02)
    draw(terminal.screen, "simplellm train the-verdict.txt", path)
    terminal.wait_for_end(SECONDS_TO_TRAIN)


def chat(folder: str, path: Path) -> None:
    """A reply with its probabilities, and what may come next."""
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
