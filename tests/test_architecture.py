"""The architecture as a test: layers, no cycles, one importer per third-party library, and what the library never does.

Adding a module needs no edit here. A new package needs one word in LAYERS, a new library one line in LIBRARIES.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (  # packages and top-level modules; each imports only from those before it, and from itself
    "errors", "config", "device", "storage", "data", "model", "base", "checkpoint", "training", "inference", "evaluation",
    "api", "server", "app", "__main__",
)  # fmt: skip
COMPUTING = (
    "device",
    "data",
    "model",
    "checkpoint",
    "training",
    "inference",
    "evaluation",
    "api",
    "server",
    "app",
)
LIBRARIES = {  # third-party library -> the modules or packages that may import it
    "torch": COMPUTING, "numpy": COMPUTING,
    "torch.distributed": ("training.distributed",), "torch.utils.tensorboard": ("training.tracking",),
    "tiktoken": ("data.tokenizer",), "rustbpe": ("data.tokenizer",), "regex": ("data.tokenizer",),
    "safetensors": ("checkpoint.run",), "wandb": ("training.tracking",), "tomli": ("config.toml",),
    "rich": ("app.render",), "prompt_toolkit": ("app.chat",), "transformers": ("evaluation.benchmark",),
}  # fmt: skip
STANDARD_DOORS = {
    "argparse": ("app.cli",),
    "tomllib": ("config.toml",),
}  # parts of the standard library, likewise
HARDWARE = ("torch.cuda", "torch.backends", "torch.mps")
HARDWARE_ROOMS = {"device": HARDWARE, "training.distributed": ("torch.cuda.set_device",)}
NEVER_IMPORTED = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")
NEVER_CALLED = ("exec", "eval", "__import__", "torch.load", "torch.save", "importlib.import_module")
ONLY_IN_APP = ("print", "input", "sys.argv", "sys.stdin", "sys.stdout")


def _name(path: Path) -> str:
    """`app.cli` for simplellm/app/cli.py, `app` for simplellm/app/__init__.py, `` for simplellm/__init__.py."""
    parts = path.relative_to(ROOT / "simplellm").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _sources() -> dict[str, str]:
    return {
        _name(path): path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "simplellm").rglob("*.py"))
    }


SOURCES = _sources()


def _packages(names: Iterator[str] | Mapping[str, str]) -> set[str]:
    """The names that have modules below them."""
    return {name.rpartition(".")[0] for name in names if "." in name} | {""}


def imports(source: str, name: str, known: Mapping[str, str]) -> Iterator[str]:
    """What the source of module `name` imports, lazy imports included, as dotted names; ours begin with `simplellm`."""
    is_package = name in _packages(known)
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
                is_module = (
                    base.split(".")[0] != "simplellm" or full.removeprefix("simplellm.") in known
                )
                yield full if is_module else base


def own_imports(source: str, name: str, known: Mapping[str, str]) -> set[str]:
    """The modules of this project that `name` imports, without `simplellm` in front."""
    ours = (full for full in imports(source, name, known) if full.split(".")[0] == "simplellm")
    return {full.removeprefix("simplellm").removeprefix(".") for full in ours} - {""}


def layer(name: str) -> int:
    """The place of a module's package in LAYERS; a name that is not there comes after all."""
    first = name.split(".")[0]
    return LAYERS.index(first) if first in LAYERS else len(LAYERS)


def upward_imports(source: str, name: str, known: Mapping[str, str]) -> list[str]:
    """The modules that `name` imports though they belong to a layer that is not before its own."""
    package = name.split(".")[0]
    targets = own_imports(source, name, known)
    return sorted(
        target
        for target in targets
        if target.split(".")[0] != package and layer(target) >= layer(name)
    )


def cycles(sources: Mapping[str, str]) -> list[list[str]]:
    """Each group of modules that import each other, directly or through others."""
    graph = {
        name: own_imports(source, name, sources) & sources.keys()
        for name, source in sources.items()
    }
    reachable: dict[str, set[str]] = {}
    for name in graph:
        found, todo = set[str](), list(graph[name])
        while todo:
            target = todo.pop()
            if target not in found:
                found.add(target)
                todo += graph[target]
        reachable[name] = found
    groups = {
        tuple(sorted({name} | {other for other in found if name in reachable[other]}))
        for name, found in reachable.items()
        if name in found
    }
    return sorted(map(list, groups))


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
            aliases |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    names = set(imports(source, "", {}))
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
    """Libraries that module `name` uses without being in their line of LIBRARIES; an unlisted one is reported too."""
    used = {use for use in used_names(source) if use.split(".")[0] != "simplellm"}
    imported = {full.split(".")[0] for full in imports(source, name, SOURCES)} - {
        "simplellm",
        *sys.stdlib_module_names,
    }
    unlisted = imported - LIBRARIES.keys()
    closed = [
        library
        for library, doors in {**LIBRARIES, **STANDARD_DOORS}.items()
        if not any(_is_under(name, door) for door in doors)
        and any(_is_under(use, library) for use in used)
    ]
    return sorted([*unlisted, *closed])


def forbidden(source: str, name: str) -> list[str]:
    """What no file may do, and what a file outside app/ may not."""
    used = used_names(source)
    banned = [*NEVER_CALLED, *NEVER_IMPORTED, *([] if _is_under(name, "app") else ONLY_IN_APP)]
    return [one for one in banned if any(_is_under(use, one) for use in used)]


def hardware(source: str, name: str) -> list[str]:
    """The names by which file `name` asks the hardware, where it may not."""
    allowed = HARDWARE_ROOMS.get(name, ())
    asked = {use for use in used_names(source) if any(_is_under(use, root) for root in HARDWARE)}
    full = {
        use for use in asked if not any(other != use and _is_under(other, use) for other in asked)
    }
    return sorted(use for use in full if not any(_is_under(use, room) for room in allowed))


def test_there_is_something_to_check() -> None:
    assert {"errors", "model.transformer", "app.cli", "__main__", "", "app"} <= set(SOURCES)


def test_every_package_has_a_layer() -> None:
    assert {name.split(".")[0] for name in SOURCES} - {*LAYERS, ""} == set()


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_imports_only_from_layers_before_its_own(name: str) -> None:
    assert upward_imports(SOURCES[name], name, SOURCES) == []


def test_no_modules_import_each_other() -> None:
    assert cycles(SOURCES) == []


@pytest.mark.parametrize("name", SOURCES)
def test_a_library_is_imported_only_where_the_table_says(name: str) -> None:
    assert foreign_doors(SOURCES[name], name) == []


@pytest.mark.parametrize("name", SOURCES)
def test_no_file_does_what_is_forbidden(name: str) -> None:
    assert forbidden(SOURCES[name], name) == []


@pytest.mark.parametrize("name", SOURCES)
def test_only_device_asks_what_hardware_there_is(name: str) -> None:
    assert hardware(SOURCES[name], name) == []


def test_main_only_opens_the_command_line() -> None:
    source = (ROOT / "main.py").read_text(encoding="utf-8")
    assert set(imports(source, "", SOURCES)) == {"simplellm.app.cli"}
    assert forbidden(source, "app") == foreign_doors(source, "app") == []


KNOWN = dict.fromkeys(
    ("errors", "model.transformer", "training.trainer", "training.plan", "app.cli", "app.render"),
    "",
)


@pytest.mark.parametrize(
    ("source", "name", "found"),
    [
        ("from simplellm.training.trainer import Trainer", "app.cli", []),
        ("from simplellm.training.trainer import Trainer", "training.plan", []),
        (
            "from simplellm.training.trainer import Trainer",
            "model.transformer",
            ["training.trainer"],
        ),
        (
            "def f():\n    from simplellm.training.trainer import Trainer",
            "model.transformer",
            ["training.trainer"],
        ),
        (
            "if TYPE_CHECKING:\n    import simplellm.training.trainer as t",
            "model.transformer",
            ["training.trainer"],
        ),
        ("from simplellm.training import trainer as t", "model.transformer", ["training.trainer"]),
        ("from ..training.trainer import Trainer", "model.transformer", ["training.trainer"]),
        ("from . import trainer", "training.plan", []),
        ("from .app import cli", "errors", ["app.cli"]),
        ("from ..training.trainer import Trainer\nfrom . import cli", "app.render", []),
        ("from .errors import SimpleLLMError", "app.cli", []),
        ("from simplellm import __version__\nimport simplellm", "model.transformer", []),
        ("from simplellm.unknown import f", "model.transformer", ["unknown"]),
    ],
)
def test_an_upward_import_is_found(source: str, name: str, found: list[str]) -> None:
    assert upward_imports(source, name, KNOWN) == found


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ({"data.a": "from simplellm.data import b", "data.b": "import torch"}, []),
        ({"data.a": "from simplellm.data import b", "data.b": "from simplellm.data.a import f"}, [["data.a", "data.b"]]),
        ({"data.a": "from . import b", "data.b": "from . import c", "data.c": "from .a import f"},
         [["data.a", "data.b", "data.c"]]),
        ({"data.a": "from simplellm.data.a import f"}, [["data.a"]]),
    ],
)  # fmt: skip
def test_a_cycle_is_found(sources: dict[str, str], found: list[list[str]]) -> None:
    assert cycles(sources) == found


@pytest.mark.parametrize(
    ("source", "name", "found"),
    [
        ("import tiktoken", "data.tokenizer", []),
        ("import tiktoken", "data.dataset", ["tiktoken"]),
        ("import torch", "config.recipe", ["torch"]),
        ("def f():\n    from rich.text import Text", "app.chat", ["rich"]),
        ("import torch.distributed as dist", "training.trainer", ["torch.distributed"]),
        ("from torch import distributed", "training.trainer", ["torch.distributed"]),
        ("import torch\ntorch.distributed.barrier()", "training.trainer", ["torch.distributed"]),
        ("import torch as t\nt.distributed.barrier()", "training.trainer", ["torch.distributed"]),
        ("import safetensors.torch", "checkpoint.hugging_face", ["safetensors"]),
        ("import argparse, tomllib", "app.cli", ["tomllib"]),
        ("def f():\n    import requests", "app.cli", ["requests"]),
    ],
)
def test_a_library_in_the_wrong_place_is_found(source: str, name: str, found: list[str]) -> None:
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
        (
            "from importlib import import_module\nimport_module('x')",
            "model",
            ["importlib.import_module"],
        ),
    ],
)
def test_what_is_forbidden_is_found(source: str, name: str, found: list[str]) -> None:
    assert forbidden(source, name) == found


@pytest.mark.parametrize(
    ("source", "name", "found"),
    [
        ("import torch\ntorch.cuda.is_available()", "device", []),
        ("import torch\ntorch.cuda.set_device(1)", "training.distributed", []),
        (
            "import torch\ntorch.cuda.is_available()",
            "training.distributed",
            ["torch.cuda.is_available"],
        ),
        ("from torch import cuda", "trainer", ["torch.cuda"]),
        (
            "import torch\ntorch.backends.mps.is_available()",
            "model",
            ["torch.backends.mps.is_available"],
        ),
    ],
)
def test_a_question_about_hardware_is_found(source: str, name: str, found: list[str]) -> None:
    assert hardware(source, name) == found
