"""The documentation agrees with the code. `python tests/test_docs.py` rewrites its tables."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyte
import pytest
from test_architecture import LAYERS

from simplellm.app import parser as command_line
from simplellm.app.commands.registry import COMMANDS
from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.config.toml import read_toml
from simplellm.config.training import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
README, KOREAN_README = ROOT / "README.md", ROOT / "README.ko.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, KOREAN_README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *GUIDES]
README_LINES = 150
COLUMNS = 100
CONFIGS = (ModelConfig, TrainConfig, SamplingParams)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")


# ---------------------------------------------------------------- generated tables


def settings_table() -> str:
    rows = []
    for config in CONFIGS:
        rows.append((f"**{config.title}**", "", "", ""))
        rows += [(f"`{s.name}`", s.default_text, s.range, s.help) for s in config.settings()]
    return table(("setting", "default", "range", "meaning"), rows)


def slash_commands_table() -> str:
    rows = [(f"`{command.usage}`", command.help) for command in COMMANDS]
    return table(("command", "does"), rows)


def common_flags_table() -> str:
    parser = command_line.build_parser()
    rows = [flag_cells(action) for action in own_flags(parser) if action.dest != "version"]
    return table(("flag", "meaning"), rows)


def command_flags_table() -> str:
    parser = command_line.build_parser()
    common = {action.dest for action in own_flags(parser)}
    rows = [
        (f"`{name}`", *flag_cells(action))
        for name, command in parser.commands.items()
        for action in own_flags(command)
        if action.dest not in common
    ]
    return table(("command", "flag", "meaning"), rows)


def own_flags(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The flags of a parser that are not settings, which have a table of their own."""
    settings = {name for config in CONFIGS for name in config.names()} - {"seed"}
    for action in parser._actions:
        is_hidden = action.help == argparse.SUPPRESS
        if action.option_strings and not is_hidden and action.dest not in settings | {"help"}:
            yield action


def flag_cells(action: argparse.Action) -> tuple[str, str]:
    takes_value = action.nargs != 0
    value = action.metavar or "|".join(action.choices or ()) if takes_value else ""
    return f"`{' '.join(filter(None, [action.option_strings[-1], str(value)]))}`", action.help or ""


def modules_table() -> str:
    paths = sorted((ROOT / "simplellm").rglob("*.py"), key=reading_order)
    return table(("module", "contains"), [module_cells(path) for path in paths])


def module_cells(path: Path) -> tuple[str, str]:
    """A link to a module and its first line; for a package its folder, in bold."""
    name = path.relative_to(ROOT).as_posix()
    if path.name == "__init__.py":
        folder = name.removesuffix("__init__.py")
        return f"**[`{folder}`](../{folder})**", f"**{first_line(path)}**"
    return f"[`{name}`](../{name})", first_line(path)


def reading_order(path: Path) -> tuple[int, str, bool, str]:
    """Packages in the order of the layers; in each the package itself, then its modules."""
    parts = path.relative_to(ROOT / "simplellm").with_suffix("").parts
    layer = -1 if parts == ("__init__",) else LAYERS.index(parts[0])
    return layer, "/".join(parts[:-1]), parts[-1] != "__init__", parts[-1]


def first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [headers, ("---",) * len(headers), *rows]
    cells = [" | ".join(text.replace("|", "\\|") for text in line) for line in lines]
    return "\n".join(f"| {line} |" for line in cells)


GENERATED: dict[str, tuple[str, Callable[[], str]]] = {
    "slash commands": ("docs/chat.md", slash_commands_table),
    "common flags": ("docs/settings.md", common_flags_table),
    "command flags": ("docs/settings.md", command_flags_table),
    "settings": ("docs/settings.md", settings_table),
    "modules": ("docs/architecture.md", modules_table),
}


def block_pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: [^>]*-->\n)(.*?)(<!-- end -->)", re.DOTALL)


def _filled(found: re.Match[str], content: str) -> str:
    return f"{found[1]}{content}\n{found[3]}"


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_table_agrees_with_the_code(name: str) -> None:
    page, make = GENERATED[name]
    found = block_pattern(name).search((ROOT / page).read_text(encoding="utf-8"))
    assert found is not None
    assert found[2].strip() == make(), "run: python tests/test_docs.py"


def test_every_module_says_what_it_contains() -> None:
    assert [str(path) for path in (ROOT / "simplellm").rglob("*.py") if not first_line(path)] == []


def test_every_command_is_in_the_table_of_commands() -> None:
    text = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    section = text.split("\n## ")[1]
    assert set(re.findall(r"^\| `([a-z]+)[ `]", section, re.MULTILINE)) == set(
        command_line.COMMANDS
    )


# ---------------------------------------------------------------- the two READMEs


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < README_LINES


def test_the_readme_shows_the_command_to_start_and_the_command_to_test() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("pip install -e . && python main.py") for line in lines)
    assert any(line.startswith('pip install -e ".[test]" && python -m pytest') for line in lines)


def test_the_korean_readme_has_the_same_code() -> None:
    assert code_without_comments(KOREAN_README) == code_without_comments(README)


def test_the_korean_readme_has_the_same_images_and_links() -> None:
    def targets(page: Path) -> list[tuple[str, str]]:
        names = LINK.findall(page.read_text(encoding="utf-8"))
        return sorted(found for found in names if not found[1].startswith("README"))

    assert targets(KOREAN_README) == targets(README)


def test_the_korean_readme_has_the_same_structure() -> None:
    def structure(page: Path) -> list[str]:
        text = FENCE.sub("code", page.read_text(encoding="utf-8"))
        return re.findall(r"^(#+ |\| |\d+\. |code|!)", text, re.MULTILINE)

    assert structure(KOREAN_README) == structure(README)


def code_without_comments(page: Path) -> list[tuple[str, str]]:
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    return [(language, re.sub(r"\s+# .*$", "", code, flags=re.M)) for language, code in blocks]


# ---------------------------------------------------------------- all pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for _, target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if "://" in target:
            continue
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_is_wrapped(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    text = FENCE.sub(lambda block: block[0] if block[1] else "", text)  # output keeps its lines
    lines = [line for line in text.splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > COLUMNS] == []


def shell_commands() -> Iterator[str]:
    """Every command of this program in the shell blocks of the documentation."""
    for page in PAGES:
        for language, code in FENCE.findall(page.read_text(encoding="utf-8")):
            for line in code.splitlines() if language == "sh" else ():
                command = re.split(r"\s+# ", line)[0].split(" | ")[-1]
                command = re.split(r" [<>] ", command)[0]
                if command.startswith("simplellm "):
                    yield command


@pytest.mark.parametrize("command", sorted(set(shell_commands())))
def test_every_command_of_the_documentation_is_accepted(command: str) -> None:
    words = shlex.split(command)[1:]
    assert command_line.parse(words).arguments == tuple(words)


@pytest.mark.parametrize("page", [*GUIDES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_every_module_that_is_named_exists(page: Path) -> None:
    folders = ("simplellm", "tests", "examples", "base", "bench", "docs")
    known = {path.as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py")}
    known.add((ROOT / "main.py").as_posix())
    named = set(re.findall(r"[\w/]+\.py\b", page.read_text(encoding="utf-8")))
    ends = {name.removeprefix("../").removeprefix("/") for name in named}
    assert [name for name in ends if not any(path.endswith(f"/{name}") for path in known)] == []


def test_every_toml_block_is_a_valid_config_file(tmp_path: Path) -> None:
    for page in PAGES:
        for language, code in FENCE.findall(page.read_text(encoding="utf-8")):
            if language == "toml":
                (tmp_path / "config.toml").write_text(code, encoding="utf-8")
                assert read_toml(tmp_path / "config.toml")


def test_every_python_block_is_a_program() -> None:
    blocks = [
        code
        for page in PAGES
        for language, code in FENCE.findall(page.read_text(encoding="utf-8"))
        if language == "python"
    ]
    assert blocks and all(ast.parse(code).body for code in blocks)


def test_the_pictures_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("termios", reason="this system has no pseudo-terminals")
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        pictures = importlib.import_module("pictures")
    finally:
        sys.path.remove(str(ROOT / "docs"))
    screen = pictures.GreyScreen(40, 5)
    pyte.Stream(screen).feed("\x1b[2mdim\x1b[0m \x1b[1;31mred\x1b[0m\r\n\r\n\r\nend")
    pictures.draw(screen, "title", tmp_path / "screen.svg")
    picture = (tmp_path / "screen.svg").read_text(encoding="utf-8")
    assert all(word in picture for word in ("title", "dim", "red", "end", f"#{pictures.DIM}"))


if __name__ == "__main__":
    for block, (page_name, make_block) in GENERATED.items():
        page_path = ROOT / page_name
        page_text = page_path.read_text(encoding="utf-8")
        page_text = block_pattern(block).sub(partial(_filled, content=make_block()), page_text)
        page_path.write_text(page_text, encoding="utf-8")
