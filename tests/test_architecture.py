"""The architecture is a test: who may import whom, which library has which door, what the library never does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = [  # a file imports only from files before it
    "errors", "clock", "threads", "setting", "config", "curves", "storage", "lock", "tokenizer", "corpus", "renaming",
    "segment", "dataset", "kernels", "model", "induction", "composition", "schedule", "optim", "device", "distributed",
    "metrics", "tracking", "hub", "header", "manifest", "pointers", "checkpoint", "recipe", "saver", "trainer", "budget",
    "plan", "changes", "run_info", "training", "find_rate", "quantize", "decoder", "sampler", "batch", "beams", "analyze",
    "bench", "concordance", "passages", "chart", "report", "app.sanitize", "app.keyboard", "app.panel", "app.shades",
    "app.render", "app.watch", "app.preferences", "app.conversation", "app.session", "app.console", "app.command",
    "app.settings_commands", "app.talk_commands", "app.insight_commands", "app.commands", "app.chat", "app.interrupt",
    "app.attempt", "app.actions", "app.upkeep", "app.experiments", "app.cli", "__main__",
]  # fmt: skip
PACKAGES = ("", "app")  # their __init__ imports nothing of the package; importing them is always allowed
DOORS = {  # outside library -> the one file that may import it
    "tiktoken": "tokenizer", "rustbpe": "tokenizer", "regex": "tokenizer", "safetensors": "checkpoint",
    "torch.distributed": "distributed", "rich": "app.render", "prompt_toolkit": "app.chat", "argparse": "app.cli",
    "tomllib": "config", "tomli": "config", "wandb": "tracking", "torch.utils.tensorboard": "tracking",
}  # fmt: skip
HARDWARE = ("torch.cuda", "torch.backends", "torch.mps")
HARDWARE_ROOMS = {"device": HARDWARE, "distributed": ("torch.cuda.set_device",)}
NEVER_IMPORTED = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")
NEVER_CALLED = ("exec", "eval", "__import__", "torch.load", "torch.save", "importlib.import_module")
ONLY_IN_APP = ("print", "input", "sys.argv", "sys.stdin", "sys.stdout")


def _name(path: Path) -> str:
    """`app.cli` for simplellm/app/cli.py, `app` for simplellm/app/__init__.py, `` for simplellm/__init__.py."""
    parts = path.relative_to(ROOT / "simplellm").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _sources() -> dict[str, str]:
    return {_name(path): path.read_text(encoding="utf-8") for path in sorted((ROOT / "simplellm").rglob("*.py"))}


SOURCES = _sources()


def imports(source: str, name: str, known: tuple[str, ...]) -> Iterator[str]:
    """What the source of file `name` imports, lazy imports included, as dotted names; ours begin with `simplellm`."""
    is_package = name in PACKAGES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = f"simplellm.{name}".rstrip(".").split(".")
                parents = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parents, base]).rstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                is_module = base.split(".")[0] != "simplellm" or full.removeprefix("simplellm.") in known
                yield full if is_module else base


def upward_imports(source: str, name: str) -> list[str]:
    """The files of this project that `name` imports though they do not stand before it."""
    allowed = set(ORDER[: ORDER.index(name)]) if name in ORDER else set()
    ours = [full for full in imports(source, name, (*ORDER, *PACKAGES)) if full.split(".")[0] == "simplellm"]
    targets = [full.removeprefix("simplellm").removeprefix(".") for full in ours]
    return sorted({target for target in targets if target not in allowed and target not in PACKAGES})


def _is_under(name: str, root: str) -> bool:
    return name == root or name.startswith(root + ".")


def used_names(source: str) -> set[str]:
    """Every dotted name in the source: imports, plain names and attributes of names, aliases of modules resolved."""
    tree = ast.parse(source)
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    names = set(imports(source, "", ()))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)) and (dotted := _dotted(node)):
            first, _, rest = dotted.partition(".")
            names.add(".".join(filter(None, [aliases.get(first, first), rest])))
    return names


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return node.id if isinstance(node, ast.Name) else ""


def foreign_doors(source: str, name: str) -> list[str]:
    """Outside libraries used by file `name` though another file is their door."""
    used = used_names(source)
    return [library for library, door in DOORS.items() if door != name and any(_is_under(one, library) for one in used)]


def forbidden(source: str, name: str) -> list[str]:
    """What no file may do, and what a file outside app/ may not."""
    used = used_names(source)
    banned = [*NEVER_CALLED, *NEVER_IMPORTED, *([] if _is_under(name, "app") else ONLY_IN_APP)]
    return [one for one in banned if any(_is_under(use, one) for use in used)]


def hardware(source: str, name: str) -> list[str]:
    """The names by which file `name` asks the hardware, where it may not."""
    allowed = HARDWARE_ROOMS.get(name, ())
    asked = {use for use in used_names(source) if any(_is_under(use, root) for root in HARDWARE)}
    full = {use for use in asked if not any(other != use and _is_under(other, use) for other in asked)}
    return sorted(use for use in full if not any(_is_under(use, room) for room in allowed))


def test_there_is_something_to_check() -> None:
    assert {"errors", "model", "app.cli", "__main__", "", "app"} <= set(SOURCES)


def test_every_file_has_its_place() -> None:
    assert sorted(set(SOURCES) - {*ORDER, *PACKAGES}) == []


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_imports_only_from_files_before_it(name: str) -> None:
    assert upward_imports(SOURCES[name], name) == []


@pytest.mark.parametrize("name", SOURCES)
def test_an_outside_library_has_one_door(name: str) -> None:
    assert foreign_doors(SOURCES[name], name) == []


@pytest.mark.parametrize("name", SOURCES)
def test_no_file_does_what_is_forbidden(name: str) -> None:
    assert forbidden(SOURCES[name], name) == []


@pytest.mark.parametrize("name", SOURCES)
def test_only_device_asks_what_hardware_there_is(name: str) -> None:
    assert hardware(SOURCES[name], name) == []


def test_main_only_opens_the_command_line() -> None:
    source = (ROOT / "main.py").read_text(encoding="utf-8")
    assert set(imports(source, "", tuple(ORDER))) == {"simplellm.app.cli"}
    assert forbidden(source, "app") == foreign_doors(source, "app") == []


@pytest.mark.parametrize(
    ("source", "name", "found"),
    [
        ("from simplellm.trainer import Trainer", "sampler", []),
        ("from simplellm.trainer import Trainer", "model", ["trainer"]),
        ("def f():\n    from simplellm.trainer import Trainer", "model", ["trainer"]),
        ("if TYPE_CHECKING:\n    import simplellm.trainer as t", "model", ["trainer"]),
        ("from simplellm import checkpoint as c, errors", "model", ["checkpoint"]),
        ("from .trainer import Trainer", "model", ["trainer"]),
        ("from . import trainer", "model", ["trainer"]),
        ("from .app import cli", "model", ["app.cli"]),
        ("from ..trainer import Trainer\nfrom . import cli", "app.render", ["app.cli"]),
        ("from .cli import main", "app", ["app.cli"]),
        ("from .errors import SimpleLLMError", "", ["errors"]),
        ("from simplellm import __version__\nimport simplellm", "model", []),
        ("from simplellm.unknown import f", "model", ["unknown"]),
        ("from simplellm.model import SimpleLLM", "model", ["model"]),
    ],
)
def test_an_upward_import_is_found(source: str, name: str, found: list[str]) -> None:
    assert upward_imports(source, name) == found


@pytest.mark.parametrize(
    ("source", "name", "found"),
    [
        ("import tiktoken", "tokenizer", []),
        ("import tiktoken", "dataset", ["tiktoken"]),
        ("def f():\n    from rich.text import Text", "app.chat", ["rich"]),
        ("import torch.distributed as dist", "trainer", ["torch.distributed"]),
        ("from torch import distributed", "trainer", ["torch.distributed"]),
        ("import torch\ntorch.distributed.barrier()", "trainer", ["torch.distributed"]),
        ("import torch as t\nt.distributed.barrier()", "trainer", ["torch.distributed"]),
        ("import safetensors.torch", "hub", ["safetensors"]),
        ("import richer, regexes", "model", []),
    ],
)
def test_a_foreign_door_is_found(source: str, name: str, found: list[str]) -> None:
    assert foreign_doors(source, name) == found


@pytest.mark.parametrize(
    ("source", "name", "found"),
    [
        ("print(3)", "model", ["print"]),
        ("print(3)\ninput()", "app.render", []),
        ("import sys\nsys.argv[1:]", "trainer", ["sys.argv"]),
        ("from sys import argv", "trainer", ["sys.argv"]),
        ("model.eval()\nre.compile('a')\nregex.exec(3)", "model", []),
        ("eval('3')", "app.cli", ["eval"]),
        ("import torch\ntorch.load('a')", "checkpoint", ["torch.load"]),
        ("from torch import load", "checkpoint", ["torch.load"]),
        ("def f():\n    import pickle", "app.cli", ["pickle"]),
        ("from importlib import import_module\nimport_module('x')", "model", ["importlib.import_module"]),
    ],
)
def test_what_is_forbidden_is_found(source: str, name: str, found: list[str]) -> None:
    assert forbidden(source, name) == found


@pytest.mark.parametrize(
    ("source", "name", "found"),
    [
        ("import torch\ntorch.cuda.is_available()", "device", []),
        ("import torch\ntorch.cuda.set_device(1)", "distributed", []),
        ("import torch\ntorch.cuda.is_available()", "distributed", ["torch.cuda.is_available"]),
        ("from torch import cuda", "trainer", ["torch.cuda"]),
        ("import torch\ntorch.backends.mps.is_available()", "model", ["torch.backends.mps.is_available"]),
    ],
)
def test_a_question_about_hardware_is_found(source: str, name: str, found: list[str]) -> None:
    assert hardware(source, name) == found
