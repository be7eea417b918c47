"""The architecture of the package: layers, no cycles, and where libraries may be imported.

A new module needs no change here. A new package needs an entry in LAYERS, a new library one in
LIBRARIES.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

MAX_MODULE_LINES = 350
MAX_FUNCTION_LINES = 45
MAX_TOP_LEVEL_MODULES = 5
ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "simplellm"
LAYERS = (  # packages and top-level modules; each imports only from those before it and from itself
    "errors", "config", "device", "storage", "data", "model", "base", "checkpoint", "training",
    "inference", "evaluation", "api", "server", "app", "__main__",
)  # fmt: skip
COMPUTING = (
    "device", "data", "model", "checkpoint", "training", "inference", "evaluation", "api",
    "server", "app",
)  # fmt: skip
LIBRARIES = {  # library -> the modules or packages that may import it
    "torch": COMPUTING,
    "numpy": COMPUTING,
    "torch.distributed": ("training.distributed", "training.rendezvous"),
    "torch.utils.tensorboard": ("training.trackers",),
    "tiktoken": ("data.tokenizer", "data.byte_pairs"),
    "rustbpe": ("data.tokenizer",),
    "regex": ("data.byte_pairs", "data.added_tokens", "data.special_text"),
    "safetensors": ("checkpoint.tensors",),
    "gguf": ("checkpoint.export", "checkpoint.importing"),
    "onnx_ir": ("checkpoint.export",),
    "onnxscript": ("checkpoint.export.onnx_parts",),
    "huggingface_hub": ("checkpoint.importing.hub",),
    "jinja2": ("data.template_sandbox",),
    "wandb": ("training.trackers",),
    "tomli": ("config.toml",),
    "rich": ("app.screen", "app.live_panel", "app.training_progress"),
    "prompt_toolkit": ("app.prompt", "app.pastes"),
    "transformers": ("evaluation.benchmark",),
    "resvg_py": ("evaluation.picture.save",),
    "starlette": ("server",),
    "uvicorn": ("server.running", "server.connections"),
    "h11": ("server.connections",),
    "argparse": ("app.parser", "app.flags", "app.generation_flags", "app.reading_flags"),
    "tomllib": ("config.toml",),
}
HARDWARE = ("torch.cuda", "torch.backends", "torch.mps")
MAY_USE_HARDWARE = {"device": HARDWARE, "training.distributed": ("torch.cuda.set_device",)}
NEVER_IMPORTED = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")
NEVER_CALLED = ("exec", "eval", "__import__", "torch.load", "torch.save", "importlib.import_module")
ONLY_IN_APP = ("print", "input", "sys.argv", "sys.stdin", "sys.stdout")


def module_name(path: Path) -> str:
    """`app.cli` for simplellm/app/cli.py, `app` for simplellm/app/__init__.py."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}


@cache
def nodes_of(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source)))


def packages(names: Iterable[str]) -> set[str]:
    """The packages that contain the named modules; `` is the package itself."""
    return {name.rpartition(".")[0] for name in names} | {""}


def imports(source: str, name: str, known: Mapping[str, str]) -> Iterator[str]:
    """Dotted names that module `name` imports anywhere, relative imports resolved.

    `from simplellm.a import b` gives `simplellm.a.b` where that is a module in `known`, else
    `simplellm.a`.
    """
    is_package = name in packages(known)
    for node in nodes_of(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = f"{PACKAGE}.{name}".rstrip(".").split(".")
                parents = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parents, base]).rstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                is_ours = base.split(".")[0] == PACKAGE
                yield base if is_ours and full.removeprefix(f"{PACKAGE}.") not in known else full


def own_imports(source: str, name: str, known: Mapping[str, str]) -> set[str]:
    """The modules of this project that `name` imports, without `simplellm.`."""
    ours = (full for full in imports(source, name, known) if full.split(".")[0] == PACKAGE)
    return {full.removeprefix(PACKAGE).removeprefix(".") for full in ours} - {""}


def layer(name: str) -> int:
    """Index of the module's layer; an unknown package is above all layers."""
    first = name.split(".")[0]
    return LAYERS.index(first) if first in LAYERS else len(LAYERS)


def upward_imports(source: str, name: str, known: Mapping[str, str]) -> list[str]:
    """Imports of modules that are neither in a lower layer nor in the package of `name`."""
    package = name.split(".")[0]
    return sorted(
        target
        for target in own_imports(source, name, known)
        if target.split(".")[0] != package and layer(target) >= layer(name)
    )


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """All nodes that can be reached from `start` in at least one step."""
    found: set[str] = set()
    todo = list(graph[start])
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += graph[node]
    return found


def cycles(sources: Mapping[str, str]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    graph = {
        name: own_imports(source, name, sources) & sources.keys()
        for name, source in sources.items()
    }
    targets = {name: reachable(graph, name) for name in graph}
    groups = {
        tuple(sorted({name, *(other for other in found if name in targets[other])}))
        for name, found in targets.items()
        if name in found
    }
    return sorted(map(list, groups))


def is_under(name: str, parent: str) -> bool:
    return name == parent or name.startswith(f"{parent}.")


def dotted(node: ast.expr) -> str:
    """`a.b.c` for such an expression, `` for any other."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return node.id if isinstance(node, ast.Name) else ""


@cache
def used_names(source: str) -> set[str]:
    """All dotted names in the source: imports, names and attributes, import aliases resolved."""
    nodes = nodes_of(source)
    aliases: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            aliases |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    names = set(imports(source, "", {}))
    for node in nodes:
        if isinstance(node, (ast.Name, ast.Attribute)) and (name := dotted(node)):
            first, _, rest = name.partition(".")
            names.add(".".join(filter(None, [aliases.get(first, first), rest])))
    return names


def misplaced_libraries(source: str, name: str) -> list[str]:
    """Libraries that module `name` uses although LIBRARIES does not allow or list it."""
    used = used_names(source)
    imported = {full.split(".")[0] for full in imports(source, name, SOURCES)}
    unlisted = imported - {PACKAGE, *sys.stdlib_module_names, *LIBRARIES}
    not_allowed = {
        library
        for library, importers in LIBRARIES.items()
        if not any(is_under(name, importer) for importer in importers)
        and any(is_under(use, library) for use in used)
    }
    return sorted(unlisted | not_allowed)


def forbidden_names(source: str, name: str) -> list[str]:
    """Names that no module may use, and outside app/ the names that only app/ may use."""
    used = used_names(source)
    only_in_app = () if is_under(name, "app") else ONLY_IN_APP
    forbidden = (*NEVER_CALLED, *NEVER_IMPORTED, *only_in_app)
    return [one for one in forbidden if any(is_under(use, one) for use in used)]


def hardware_names(source: str, name: str) -> list[str]:
    """The longest names of torch's hardware modules that module `name` must not use."""
    allowed = MAY_USE_HARDWARE.get(name, ())
    used = {use for use in used_names(source) if any(is_under(use, root) for root in HARDWARE)}
    longest = {use for use in used if not any(o != use and is_under(o, use) for o in used)}
    return sorted(use for use in longest if not any(is_under(use, one) for one in allowed))


def long_functions(source: str) -> list[str]:
    """Functions and methods of more than MAX_FUNCTION_LINES lines, without decorators."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        f"{node.name}: {n_lines} lines"
        for node in nodes_of(source)
        if isinstance(node, functions)
        and (n_lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


# ---------------------------------------------------------------- the package


def test_the_modules_are_found() -> None:
    assert {"errors", "model.transformer", "app.cli", "__main__", "", "app"} <= set(SOURCES)


def test_every_package_has_a_layer() -> None:
    assert {name.split(".")[0] for name in SOURCES} - {*LAYERS, ""} == set()


def in_all_modules(check: Callable[[str, str], list[str]]) -> dict[str, list[str]]:
    """What `check(source, name)` finds, by the name of each module where it finds anything."""
    return {name: found for name, source in SOURCES.items() if (found := check(source, name))}


def test_a_module_imports_only_from_lower_layers_and_its_own_package() -> None:
    assert in_all_modules(lambda source, name: upward_imports(source, name, SOURCES)) == {}


def test_there_are_no_import_cycles() -> None:
    assert cycles(SOURCES) == []


def test_a_library_is_imported_only_where_the_table_allows() -> None:
    assert in_all_modules(misplaced_libraries) == {}


def test_no_module_uses_a_forbidden_name() -> None:
    assert in_all_modules(forbidden_names) == {}


def test_only_the_device_module_queries_the_hardware() -> None:
    assert in_all_modules(hardware_names) == {}


def test_modules_and_functions_are_short() -> None:
    lengths = {name: len(source.splitlines()) for name, source in SOURCES.items()}
    assert {name: n for name, n in lengths.items() if n > MAX_MODULE_LINES} == {}
    assert in_all_modules(lambda source, name: long_functions(source)) == {}


def test_the_top_folder_of_the_package_has_few_modules() -> None:
    assert len(list((ROOT / PACKAGE).glob("*.py"))) <= MAX_TOP_LEVEL_MODULES


def test_main_only_starts_the_command_line() -> None:
    source = (ROOT / "main.py").read_text(encoding="utf-8")
    assert set(imports(source, "", SOURCES)) == {"simplellm.app.cli"}
    assert forbidden_names(source, "app") == misplaced_libraries(source, "app") == []


# ---------------------------------------------------------------- the checks themselves

KNOWN = dict.fromkeys(
    ("errors", "model.transformer", "training.trainer", "training.plan", "app.cli", "app.screen"),
    "",
)
TRAINER = "from simplellm.training.trainer import Trainer"
UPWARD = ["training.trainer"]


@pytest.mark.parametrize(
    ("source", "name", "found"),
    [
        (TRAINER, "app.cli", []),
        (TRAINER, "training.plan", []),
        (TRAINER, "model.transformer", UPWARD),
        (f"def f():\n    {TRAINER}", "model.transformer", UPWARD),
        ("if A:\n    import simplellm.training.trainer as t", "model.transformer", UPWARD),
        ("from simplellm.training import trainer as t", "model.transformer", UPWARD),
        ("from ..training.trainer import Trainer", "model.transformer", UPWARD),
        ("from . import trainer", "training.plan", []),
        ("from .app import cli", "errors", ["app.cli"]),
        ("from ..training.trainer import Trainer\nfrom . import cli", "app.screen", []),
        ("from .errors import SimpleLLMError", "app.cli", []),
        ("from simplellm import __version__\nimport simplellm", "model.transformer", []),
        ("from simplellm.unknown import f", "model.transformer", ["unknown"]),
    ],
)
def test_an_upward_import_is_found(source: str, name: str, found: list[str]) -> None:
    assert upward_imports(source, name, KNOWN) == found


IMPORT_B = "from simplellm.data import b"


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ({"data.a": IMPORT_B, "data.b": "import torch"}, []),
        ({"data.a": IMPORT_B, "data.b": "from simplellm.data.a import f"}, [["data.a", "data.b"]]),
        (
            {
                "data.a": "from . import b",
                "data.b": "from . import c",
                "data.c": "from .a import f",
            },
            [["data.a", "data.b", "data.c"]],
        ),
        ({"data.a": "from simplellm.data.a import f"}, [["data.a"]]),
    ],
)
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
        ("import argparse, tomllib", "app.parser", ["tomllib"]),
        ("def f():\n    import requests", "app.cli", ["requests"]),
    ],
)
def test_a_misplaced_library_is_found(source: str, name: str, found: list[str]) -> None:
    assert misplaced_libraries(source, name) == found


@pytest.mark.parametrize(
    ("source", "name", "found"),
    [
        ("print(3)", "model", ["print"]),
        ("print(3)\ninput()", "app.screen", []),
        ("import sys\nsys.argv[1:]", "trainer", ["sys.argv"]),
        ("from sys import argv", "trainer", ["sys.argv"]),
        ("model.eval()\nre.compile('a')\nregex.exec(3)", "model", []),
        ("eval('3')", "app.cli", ["eval"]),
        ("import torch\ntorch.load('a')", "checkpoint", ["torch.load"]),
        ("from torch import load", "checkpoint", ["torch.load"]),
        ("def f():\n    import pickle", "app.cli", ["pickle"]),
        ("from importlib import import_module as f\nf('x')", "model", ["importlib.import_module"]),
    ],
)
def test_a_forbidden_name_is_found(source: str, name: str, found: list[str]) -> None:
    assert forbidden_names(source, name) == found


def test_a_long_function_is_found() -> None:
    lines = "\n".join(["    pass"] * MAX_FUNCTION_LINES)
    assert long_functions(f"def f():\n{lines}") == [f"f: {MAX_FUNCTION_LINES + 1} lines"]
    assert long_functions(f"@decorator\ndef f():\n{lines[9:]}") == []


IS_AVAILABLE = "import torch\ntorch.cuda.is_available()"
HAS_MPS = "import torch\ntorch.backends.mps.is_available()"


@pytest.mark.parametrize(
    ("source", "name", "found"),
    [
        (IS_AVAILABLE, "device", []),
        ("import torch\ntorch.cuda.set_device(1)", "training.distributed", []),
        (IS_AVAILABLE, "training.distributed", ["torch.cuda.is_available"]),
        ("from torch import cuda", "trainer", ["torch.cuda"]),
        (HAS_MPS, "model", ["torch.backends.mps.is_available"]),
    ],
)
def test_a_hardware_query_is_found(source: str, name: str, found: list[str]) -> None:
    assert hardware_names(source, name) == found
