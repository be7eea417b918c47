"""Every module and every command on imitations of Windows and macOS; see foreign_system.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import NO_AUGMENTATION, ROOT, STORY, TINY_FLAGS, built_once
from program import QUICK_CONSTANTS

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the imitations of other systems need Linux's /proc"
)

SYSTEMS = ("windows", "macos")
OF_EXTRAS = ("gguf", "onnx_ir", "onnxscript", "huggingface_hub", "resvg_py")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "simplellm").rglob("*.py")
    if path.name != "__main__.py"
)
# A path with spaces and Hangul, relative to the folder of the test; Windows accepts slashes too.
TEXT_FOLDER = "C:/Users/Kim Minsu/My Texts"
TEXT = f"{TEXT_FOLDER}/이야기 1.txt"
RUNS = "My Runs 한글 é 😀"
MANY_CHARACTERS = "한글 é “quotes” 😀 ─│█"
CHAT = [
    "The judge", f"/tokenize {MANY_CHARACTERS}", "/probs on", "한글 😀", "/next", "/attn 1.1",
    "/regen", "/continue", "/undo", "/save my talk 한글.jsonl", "/save my talk 한글.jsonl",
    "/load my talk 한글.jsonl", "/load no such file", "/source", "/runs", "/run second", "/info",
    "/temperature 뜨거운", "/help", "/context on", "The",
]  # fmt: skip


def typed_lines(*texts: str, encoding: str = "utf-8") -> str:
    """Lines typed into a pipe: bytes as latin-1 text."""
    return "".join(text + "\r\n" for text in texts).encode(encoding, "replace").decode("latin-1")


def step(*argv: str, **options: Any) -> dict[str, Any]:
    """A step of foreign_system.py that runs a command."""
    return {"argv": argv, "patch": QUICK_CONSTANTS, **options}


def scenario() -> dict[str, dict[str, Any]]:
    """Every command, in an order in which each finds the files it needs."""
    where = ["--checkpoints", RUNS, "--device", "cpu"]
    tiny = [flag for flag in TINY_FLAGS if flag not in ("--device", "cpu")] + NO_AUGMENTATION
    smallest = ["--n-layer", "1", "--n-embd", "16", "--n-head", "1"]
    quick = [*where, *tiny, "--max-steps", "4", "--eval-interval", "2"]
    quickest = [*where, *tiny, *smallest, "--max-steps", "1"]
    first = [*where, "--run", "first"]
    short_chat = ["chat", *first, "--max-new-tokens", "5"]
    story_start = STORY.read_text("utf-8")[:9000]
    korean, western = {"encoding": "cp949"}, {"encoding": "cp1252"}
    return {
        "train": step("train", TEXT, "--name", "first", *quick, **korean, terminal=True),
        "resume": step("train", "--resume", "--name", "first", *where, "--max-steps", "8",
                       "--accept-changes", "--json"),
        "train from": step("train", f"{TEXT_FOLDER}/*.txt", "--from", "first", "--name", "second",
                           *where, "--max-steps", "2", "--config", "my settings.toml",
                           "--val-data", "held out 한글.txt", **western),
        "train folder": step("train", TEXT_FOLDER, *quickest, **korean),
        "train stdin": step("train", "-", *quickest, **western, stdin=story_start),
        "train badly": step("train", "없는 파일 😀.txt", *quick, **korean),
        "find-lr": step("train", TEXT, "--find-lr", *where, *tiny, *smallest, **korean),
        "sweep": step("sweep", TEXT, "--learning-rate", "1e-3,2e-3", *where, "--max-steps", "2",
                      *smallest, "--block-size", "16", "--precision", "float32",
                      *NO_AUGMENTATION, "--json"),
        "generate": step("generate", *first, "--prompt", MANY_CHARACTERS, "--max-new-tokens", "8",
                         **korean),
        "generate as json": step("generate", *first, "--prompt", "-", "--max-new-tokens", "8",
                                 "--json", "--probs", **western,
                                 stdin=typed_lines(MANY_CHARACTERS)),
        "evaluate": step("evaluate", *first, "--data", TEXT, "--json", **korean),
        "analyze": step("analyze", *first, "--prompt", MANY_CHARACTERS, "--top", "3", **korean),
        "chat": step(*short_chat, **korean, stdin=typed_lines(*CHAT, encoding="cp949")),
        "chat on": step(*short_chat, "--continue", **western, stdin=typed_lines(*CHAT[:4])),
        "chat on again": step(*short_chat, "--continue", stdin=typed_lines("/continue")),
        "runs": step("runs", *where, **korean, terminal=True),
        "verify": step("verify", "first", *where, "--json", **korean),
        "prune": step("runs", "--prune", "--yes", *where, **korean),
        "bench train": step("bench", "train", *smallest, "--compile", "off", "--precision",
                            "float32", "--device", "cpu", "--json"),
        "bench generate": step("bench", "generate", *smallest, "--device", "cpu",
                               "--max-new-tokens", "8", "--json"),
        "closed pipe": step("runs", *where, closed_pipe=True),
    }  # fmt: skip


SCENARIO = scenario()
AS_JSON = [name for name, step in SCENARIO.items() if "--json" in step["argv"]]
EXIT_CODES = {"train badly": 1}  # of the commands that fail
ONLY_ON_WINDOWS = (  # to save time
    "train folder", "train stdin", "find-lr", "sweep", "bench train", "bench generate",
)  # fmt: skip
COMMANDS = [
    (system, name)
    for system in SYSTEMS
    for name in SCENARIO
    if system == "windows" or name not in ONLY_ON_WINDOWS
]


def run_jobs(home: Path, jobs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The results of the steps of each job; see foreign_system.py."""
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"],  # with the compiled library
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
        "PYTHONUTF8": "0",
    }
    script = str(ROOT / "tests" / "foreign_system.py")
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", script],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=env,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def job(system: str, folder: Path, steps: list[dict[str, Any]]) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return {"system": system, "folder": str(folder), "steps": steps}


def write_texts(folder: Path) -> None:
    """Write the files that the scenario reads."""
    text = folder / TEXT
    text.parent.mkdir(parents=True)
    text.write_text(STORY.read_text(encoding="utf-8")[:9000] + MANY_CHARACTERS, encoding="utf-8")
    (text.parent / "second.txt").write_bytes(STORY.read_bytes()[:4000].replace(b"\n", b"\r\n"))
    (folder / "held out 한글.txt").write_text(
        (ROOT / "the-verdict.txt").read_text("utf-8")[20000:], encoding="utf-8"
    )
    (folder / "my settings.toml").write_text(
        "\ufeff# 한글\n[training]\nbatch_size = 4\n", encoding="utf-8"
    )


def run_everything(folder: Path) -> None:
    """Import every module, run every command and every snippet of this file on each system.

    results.json has the results by system and name. One process imports torch for all of them.
    """
    jobs, names = [], []
    for system in SYSTEMS:
        home = folder / system
        write_texts(home)
        commands = {name: SCENARIO[name] for where, name in COMMANDS if where == system}
        steps = {"imports": {"imports": MODULES}} | commands
        names.append(list(steps))
        jobs.append(job(system, home, list(steps.values())))
    for system in SYSTEMS:  # each snippet in an empty folder
        codes = snippets(system)
        names.append([name for code in codes for name in (code, f"empty after {code}")])
        steps = [{"code": one} for code in codes for one in (code, EMPTY_FOLDER)]
        jobs.append(job(system, folder / f"{system} snippets", steps))
    results = [
        dict(zip(*pair, strict=True)) for pair in zip(names, run_jobs(folder, jobs), strict=True)
    ]
    for number, system in enumerate(SYSTEMS):
        home = folder / system
        files = sorted(str(path.relative_to(home)) for path in home.rglob("*"))
        of_system = results[number] | results[number + len(SYSTEMS)] | {"files": files}
        (folder / f"{system}.json").write_text(json.dumps(of_system))


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Any:
    """`results(system)`: the results of all steps on that system, by name."""

    @cache
    def results(system: str) -> dict[str, Any]:
        folder = built_once(request, "systems", run_everything)
        return json.loads((folder / f"{system}.json").read_text())

    return results


def needs_an_extra(error: str) -> bool:
    missing = re.search(r"No module named '(\w+)'", error)
    return missing is not None and missing[1] in OF_EXTRAS


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_module_can_be_imported(results: Any, system: str) -> None:
    """Modules whose package of an extra is not installed are left out."""
    errors = results(system)["imports"]["errors"]
    assert list(errors) == MODULES
    assert {name: e for name, e in errors.items() if e and not needs_an_extra(e)} == {}
    assert sum(error == "" for error in errors.values()) > 200


@pytest.mark.parametrize(("system", "command"), COMMANDS)
def test_every_command_ends_with_its_exit_code(results: Any, system: str, command: str) -> None:
    result = results(system)[command]
    notices = result["err"].encode("latin-1").decode("utf-8", "replace")
    assert result["error"] == "" and "Traceback" not in notices + result["out"]
    assert result["code"] == EXIT_CODES.get(command, 0), notices


@pytest.mark.parametrize(
    ("system", "command"), [(system, name) for system, name in COMMANDS if name in AS_JSON]
)
def test_json_output_is_valid_on_every_console(results: Any, system: str, command: str) -> None:
    out = results(system)[command]["out"].encode("latin-1")
    assert json.loads(out.decode(SCENARIO[command].get("encoding", "utf-8")))


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_temporary_file_and_no_lock_is_left(results: Any, system: str) -> None:
    files = [path for path in results(system)["files"] if path.startswith(RUNS)]
    assert any(path.endswith("manifest.json") for path in files)
    assert [path for path in files if ".tmp-" in path or path.endswith(".lock")] == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_input_in_the_encoding_of_the_console_is_read(results: Any, system: str) -> None:
    assert "한글" in results(system)["chat"]["out"].encode("latin-1").decode("cp949")


@pytest.mark.slow
def test_the_tests_are_collected_without_a_posix_system(tmp_path: Path) -> None:
    steps = [{"collect": str(ROOT / "tests")}]
    [[result]] = run_jobs(tmp_path, [job("windows", tmp_path, steps)])
    assert (result["code"], result["error"]) == (0, ""), result["out"][-3000:]
    assert (
        "test_cli.py::" in result["out"]
        and "test_terminal.py::" not in result["out"]
        and "skipped" in result["out"]
    )


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_pipe_is_read_as_utf_8_on_every_console(results: Any, system: str) -> None:
    """Characters that a Western European console cannot show are escaped."""
    assert "\\ud55c\\uae00 \\U0001f600" in results(system)["chat on"]["out"]


START = "from simplellm.app import cli; cli.main(['--version'])\n"
HANDLED_ON_WINDOWS = {
    "closing the window is a signal": START
    + "import signal; assert signal.getsignal(signal.SIGBREAK) is cli._terminate",
    "a virus scanner holds a file for a moment": """
import threading
from pathlib import Path
from simplellm.storage.files import replace_file
p = Path('f')
p.write_bytes(b'old')
f = open(p, 'rb')
threading.Timer(0.05, f.close).start()
replace_file(p, b'new')
assert p.read_bytes() == b'new'
""",
    "a file held for good is not replaced, and no other file is left": """
import os
from pathlib import Path
from simplellm.storage.files import replace_file
p = Path('f')
p.write_bytes(b'old')
f = open(p, 'rb')
try: replace_file(p, b'new')
except PermissionError: assert os.listdir() == ['f']
else: raise AssertionError
""",
    "an abandoned folder is a leftover after a day": """
import os
from pathlib import Path
from simplellm.storage.files import leftovers
new, old = Path('.tmp-a'), Path('.tmp-b')
new.mkdir()
old.mkdir()
os.utime(old, (1, 1))
assert leftovers(Path()) == [old]
assert leftovers(Path(), with_files=True) == [new, old]
""",
    "a released lock leaves no file": """
from pathlib import Path
from simplellm.storage.lock import FolderLock
with FolderLock(Path('run')): pass
assert not Path('run').exists()
""",
    "a typed path has two separators": r"""
from simplellm.app.commands.files import split_typed
assert split_typed(r'C:\Users\Kim Minsu\ta', ('/', '\\')) == ('C:\\Users\\Kim Minsu\\', 'ta')
""",
}


def test_the_restrictions_of_windows_are_handled(results: Any) -> None:
    errors = {name: results("windows")[code]["error"] for name, code in HANDLED_ON_WINDOWS.items()}
    assert errors == dict.fromkeys(HANDLED_ON_WINDOWS, "")


# ---------------------------------------------------------------- the imitations themselves

MAPPED = """import mmap
open('f', 'wb').write(b'x' * 9)
f = open('f', 'rb')
m = mmap.mmap(f.fileno(), 9, access=1)
f.close()
"""
MADE = """import os, shutil
from pathlib import Path
Path('d').mkdir()
Path('d/a').touch()
Path('b').touch()
"""
LOCKED = """import msvcrt, os
g, h = (os.open('l', os.O_RDWR | os.O_CREAT) for _ in '12')
msvcrt.locking(g, msvcrt.LK_NBLCK, 1)
"""
WINDOWS_REFUSES = {  # code -> part of the last line of the traceback
    "import termios": "ModuleNotFoundError",
    "import fcntl": "ModuleNotFoundError",
    "from resource import getrusage": "ModuleNotFoundError",
    "import signal; signal.SIGHUP": "AttributeError",
    "import signal; signal.SIGKILL": "AttributeError",
    "import signal; signal.signal(1, signal.SIG_DFL)": "ValueError",
    "from signal import SIGCONT": "ImportError",
    "import os; os.sched_getaffinity(0)": "AttributeError",
    "import os; os.getuid()": "AttributeError",
    "import os; os.fork()": "AttributeError",
    "import sys, os; assert (sys.platform, os.name) != ('win32', 'nt')": "AssertionError",
    "import ctypes; ctypes.CDLL(None)": "TypeError: argument of type 'NoneType'",
    "import ctypes; ctypes.CDLL('libc.so.6')": "FileNotFoundError",
    "import os; os.open('.', os.O_RDONLY)": "PermissionError",
    MADE + "f = open('b', 'rb'); os.unlink('b')": "WinError 32",
    MADE + "f = open('b', 'rb'); Path('b').unlink()": "WinError 32",
    MADE + "f = open('b', 'rb'); os.replace('d/a', 'b')": "WinError 5",
    MADE + "f = open('b', 'rb'); os.replace('b', 'd/a')": "WinError 32",
    MADE + "f = open('d/a', 'rb'); os.rename('d', 'e')": "WinError 32",
    MADE + "f = open('d/a', 'rb'); shutil.rmtree('d')": "WinError 32",
    MADE + "Path('e').mkdir(); os.rename('d', 'e')": "FileExistsError",
    MADE + "Path('b').rename('d/a')": "FileExistsError",
    MAPPED + "import os; os.remove('f')": "map of",
    MAPPED + "open('f', 'wb')": "the file is mapped",
    MAPPED
    + "import os; open('g', 'w', encoding='utf-8').close(); os.replace('g', 'f')": "WinError 5",
    "open('a:b', 'w', encoding='utf-8')": "not allowed on Windows",
    "open('NUL.txt', 'wb')": "not allowed on Windows",
    "import os; os.mkdir('com1')": "not allowed on Windows",
    "import os; os.mkdir('ends.')": "not allowed on Windows",
    "open('t', 'w', encoding='utf-8').write('a\\n')\n"
    "assert open('t', 'rb').read() == b'a\\n'": "AssertionError",
    "open('t', 'w')": "EncodingWarning",
    "from pathlib import Path; Path('t').read_text()": "EncodingWarning",
    LOCKED + "msvcrt.locking(h, msvcrt.LK_NBLCK, 1)": "PermissionError",
}
WINDOWS_ALLOWS = [
    MADE + "os.replace('d/a', 'b'); os.rename('d', 'e'); shutil.rmtree('e'); os.unlink('b')",
    "import os; f = open('f', 'wb'); os.fsync(f.fileno()); f.close(); os.remove('f')",
    MAPPED + "m.close(); import os; os.remove('f')",
    LOCKED + "os.close(g); msvcrt.locking(h, msvcrt.LK_NBLCK, 1)",
    "import ctypes, os, signal, sys; signal.SIGBREAK, os.cpu_count(), sys.argv",
]
MACOS_REFUSES = {
    "import os; os.sched_getaffinity(0)": "AttributeError",
    "import msvcrt": "ModuleNotFoundError",
    "import ctypes; ctypes.CDLL(None).mallopt": "AttributeError",
    "import sys; assert sys.platform != 'darwin'": "AssertionError",
    "import resource\n"
    "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    "assert peak < 10_000_000": "AssertionError",
}
MACOS_ALLOWS = [
    "import termios, fcntl, resource, signal; signal.SIGHUP",
    "import os; os.fsync(os.open('.', os.O_RDONLY))",
]
RULES = {"windows": (WINDOWS_REFUSES, WINDOWS_ALLOWS), "macos": (MACOS_REFUSES, MACOS_ALLOWS)}
EMPTY_FOLDER = """import gc, os, shutil
gc.collect()
for name in os.listdir():
    shutil.rmtree(name) if os.path.isdir(name) else os.remove(name)
"""


def snippets(system: str) -> list[str]:
    """All code of this file that is run on the system."""
    handled = HANDLED_ON_WINDOWS.values() if system == "windows" else ()
    return [*handled, *(code for codes in RULES[system] for code in codes)]


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_imitation_refuses_what_the_system_refuses(results: Any, system: str) -> None:
    refused, allowed = RULES[system]
    for code in (*refused, *allowed):
        assert results(system)[f"empty after {code}"]["error"] == ""
        error = results(system)[code]["error"].strip()
        last = error.splitlines()[-1] if error else "nothing"
        assert refused.get(code, "nothing") in last, code
