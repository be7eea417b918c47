"""The README tells the truth: its tables are those of the code. `python tests/test_readme.py` writes them anew."""

from __future__ import annotations

import ast
import re
from functools import partial
from pathlib import Path

import pytest

from simplellm.app.commands.registry import COMMANDS
from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.config.training import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
LISTED = ("main.py", "simplellm/*.py", "simplellm/app/*.py")


def settings_table() -> str:
    rows = ["| setting | default | range | meaning |", "|---|---|---|---|"]
    for config in (ModelConfig, TrainConfig, SamplingParams):
        rows.append(f"| **{config.title}** | | | |")
        rows += [
            f"| `{s.name}` | {s.default_text} | {s.range} | {s.help} |" for s in config.settings()
        ]
    return "\n".join(rows)


def commands_table() -> str:
    rows = ["| command | does |", "|---|---|"]
    return "\n".join(
        [*rows, *(f"| `{_cell(command.usage)}` | {_cell(command.help)} |" for command in COMMANDS)]
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def tree() -> str:
    paths = [path for pattern in LISTED for path in sorted(ROOT.glob(pattern))]
    lines = [(path.relative_to(ROOT).as_posix(), first_line(path)) for path in paths]
    return "\n".join(["```", *(f"{name:<34}{text}" for name, text in lines), "```"])


def first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


BLOCKS = {"slash commands": commands_table, "settings": settings_table, "tree": tree}


def block_pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: [^>]*-->\n)(.*?)(<!-- end -->)", re.DOTALL)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_table_of_the_readme_is_that_of_the_code(name: str) -> None:
    found = block_pattern(name).search(README.read_text(encoding="utf-8"))
    assert found is not None
    assert found[2].strip() == BLOCKS[name]()


def test_the_two_commands_stand_in_the_readme() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("pip install -e . && python main.py ") for line in lines)
    assert any(line.startswith('pip install -e ".[test]" && python -m pytest ') for line in lines)


def test_every_file_says_what_it_is_for() -> None:
    assert [str(path) for path in (ROOT / "simplellm").rglob("*.py") if not first_line(path)] == []


def test_every_command_of_the_readme_is_one_of_the_program() -> None:
    from simplellm.app.cli import COMMANDS as PROGRAM

    text = README.read_text(encoding="utf-8")
    assert {
        word
        for word in re.findall(r"^\| `([a-z]+)[ `]", text, re.MULTILINE)
        if f"| `{word}` | " not in settings_table()
    } == set(PROGRAM)


def _filled(found: re.Match[str], table: str) -> str:
    return f"{found[1]}{table}\n{found[3]}"


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    for name, make in BLOCKS.items():
        text = block_pattern(name).sub(partial(_filled, table=make()), text)
    README.write_text(text, encoding="utf-8")
