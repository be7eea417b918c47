"""Every module and every command on imitations of Windows and macOS; see foreign_system.py."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, STORY, TINY_FLAGS
from program import QUICK_CONSTANTS

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the imitations of other systems need Linux's /proc"
)

SYSTEMS = ("windows", "macos")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "simplellm").rglob("*.py")
    if path.name != "__main__.py"
)
TEXT = "C:/Users/Kim Minsu/My Texts/이야기 1.txt"  # below the folder of the test; Windows takes these slashes too
RUNS = "My Runs 한글 é 😀"
MANY_CHARACTERS = "한글 é “quotes” 😀 ─│█"
CHAT = [
    "The judge", f"/tokenize {MANY_CHARACTERS}", "/probs on", "한글 😀", "/next", "/attn 1.1", "/regen", "/continue", "/undo",
    "/save my talk 한글.jsonl", "/save my talk 한글.jsonl", "/load my talk 한글.jsonl", "/load no such file", "/source",
    "/runs", "/run second", "/info", "/temperature 뜨거운", "/help", "/context on", "The",
]  # fmt: skip


def lines(*texts: str, encoding: str = "utf-8") -> str:
    """Lines typed into a pipe, as bytes in latin-1."""
    return "".join(text + "\r\n" for text in texts).encode(encoding, "replace").decode("latin-1")


def scenario() -> dict[str, dict[str, Any]]:
    """Every command, in an order in which each finds what it needs."""
    where = ["--checkpoints", RUNS, "--device", "cpu"]
    tiny = [flag for flag in TINY_FLAGS if flag not in ("--device", "cpu")]
    quick = [*where, *tiny, "--max-steps", "4", "--eval-interval", "2"]
    run = [*where, "--run", "first"]
    return {
        "train": {"argv": ["train", TEXT, "--name", "first", *quick], "encoding": "cp949", "terminal": True},
        "resume": {"argv": ["train", "--resume", "--name", "first", *where, "--max-steps", "8", "--accept-changes", "--json"]},
        "train from": {
            "argv": ["train", "C:/Users/Kim Minsu/My Texts/*.txt", "--from", "first", "--name", "second", *where,
                     "--max-steps", "2", "--config", "my settings.toml", "--val-data", TEXT],
            "encoding": "cp1252",
        },
        "train folder": {"argv": ["train", "C:/Users/Kim Minsu/My Texts", *quick], "encoding": "cp949"},
        "train stdin": {"argv": ["train", "-", *quick], "encoding": "cp1252", "stdin": STORY.read_text("utf-8")[:9000]},
        "train badly": {"argv": ["train", "없는 파일 😀.txt", *quick], "encoding": "cp949"},
        "find-lr": {"argv": ["train", TEXT, "--find-lr", *where, *tiny], "encoding": "cp949"},
        "sweep": {"argv": ["sweep", TEXT, "--learning-rate", "1e-3,2e-3", *where, "--max-steps", "2", "--n-layer", "1",
                           "--n-embd", "16", "--n-head", "1", "--block-size", "16", "--precision", "float32", "--json"]},
        "generate": {"argv": ["generate", *run, "--prompt", MANY_CHARACTERS, "--max-new-tokens", "8"], "encoding": "cp949"},
        "generate as json": {
            "argv": ["generate", *run, "--prompt", "-", "--max-new-tokens", "8", "--json", "--probs"],
            "encoding": "cp1252", "stdin": lines(MANY_CHARACTERS),
        },
        "evaluate": {"argv": ["evaluate", *run, "--data", TEXT, "--json"], "encoding": "cp949"},
        "analyze": {"argv": ["analyze", *run, "--prompt", MANY_CHARACTERS, "--top", "3"], "encoding": "cp949"},
        "chat": {"argv": ["chat", *run, "--max-new-tokens", "5"], "encoding": "cp949", "stdin": lines(*CHAT, encoding="cp949")},
        "chat on": {
            "argv": ["chat", *run, "--max-new-tokens", "5", "--continue"], "encoding": "cp1252", "stdin": lines(*CHAT[:4]),
        },
        "chat on again": {"argv": ["chat", *run, "--max-new-tokens", "5", "--continue"], "stdin": lines("/continue")},
        "runs": {"argv": ["runs", *where], "encoding": "cp949", "terminal": True},
        "verify": {"argv": ["verify", "first", *where, "--json"], "encoding": "cp949"},
        "prune": {"argv": ["runs", "--prune", "--yes", *where], "encoding": "cp949"},
        "bench train": {"argv": ["bench", "train", "--n-layer", "1", "--n-embd", "16", "--n-head", "1", "--compile", "off",
                                 "--precision", "float32", "--device", "cpu", "--json"]},
        "bench generate": {"argv": ["bench", "generate", "--n-layer", "1", "--n-embd", "16", "--n-head", "1", "--device", "cpu",
                                    "--max-new-tokens", "8", "--json"]},
        "no reader": {"argv": ["runs", *where], "reader_leaves": True},
    }  # fmt: skip


SCENARIO = scenario()
AS_JSON = [name for name, step in SCENARIO.items() if "--json" in step["argv"]]
CODES = {"train badly": 1}  # of those that do not end well
ONLY_ON_WINDOWS = (
    "train folder",
    "train stdin",
    "find-lr",
    "sweep",
    "bench train",
    "bench generate",
)  # to save time
COMMANDS = [
    (system, name)
    for system in SYSTEMS
    for name in SCENARIO
    if system == "windows" or name not in ONLY_ON_WINDOWS
]


def run_steps(system: str, folder: Path, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the steps came to, in one process of an imitated system."""
    bootstrap = [
        sys.executable,
        "-X",
        "warn_default_encoding",
        str(ROOT / "tests" / "foreign_system.py"),
        system,
        str(folder),
    ]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT), "TERM": "xterm", "OMP_NUM_THREADS": "1",
           "LC_ALL": "C.UTF-8", "PYTHONUTF8": "0"}  # fmt: skip
    done = subprocess.run(
        bootstrap,
        input=json.dumps(steps),
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=folder,
        env=env,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def prepare(folder: Path) -> None:
    """The files that the scenario reads."""
    text = folder / TEXT
    text.parent.mkdir(parents=True)
    text.write_text(STORY.read_text(encoding="utf-8")[:9000] + MANY_CHARACTERS, encoding="utf-8")
    (text.parent / "second.txt").write_bytes(STORY.read_bytes()[:4000].replace(b"\n", b"\r\n"))
    (folder / "my settings.toml").write_text(
        "\ufeff# 한글\n[training]\nbatch_size = 4\n", encoding="utf-8"
    )


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`ran(system)`: what importing each module and running each command came to there, by name."""

    @cache
    def results(system: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(system)
        prepare(folder)
        steps = {name: {"import": name} for name in MODULES} | {
            name: {**SCENARIO[name], "patch": QUICK_CONSTANTS}
            for where, name in COMMANDS
            if where == system
        }
        done = dict(zip(steps, run_steps(system, folder, list(steps.values())), strict=True))
        return done | {"files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))}

    return results


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_module_is_imported(ran: Any, system: str, module: str) -> None:
    assert ran(system)[module]["error"] == ""


@pytest.mark.parametrize(("system", "command"), COMMANDS)
def test_every_command_runs(ran: Any, system: str, command: str) -> None:
    result = ran(system)[command]
    told = result["err"].encode("latin-1").decode("utf-8", "replace")
    assert result["error"] == "" and "Traceback" not in told + result["out"]
    assert result["code"] == CODES.get(command, 0), told


@pytest.mark.parametrize(
    ("system", "command"), [(system, name) for system, name in COMMANDS if name in AS_JSON]
)
def test_json_stays_json_on_every_console(ran: Any, system: str, command: str) -> None:
    out = ran(system)[command]["out"].encode("latin-1")
    assert json.loads(out.decode(SCENARIO[command].get("encoding", "utf-8")))


@pytest.mark.parametrize("system", SYSTEMS)
def test_nothing_temporary_and_no_lock_is_left(ran: Any, system: str) -> None:
    files = [path for path in ran(system)["files"] if path.startswith(RUNS)]
    assert any(path.endswith("manifest.json") for path in files)
    assert [path for path in files if ".tmp-" in path or path.endswith(".lock")] == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_korean_typed_in_the_encoding_of_the_console_is_read(ran: Any, system: str) -> None:
    assert "한글" in ran(system)["chat"]["out"].encode("latin-1").decode("cp949")


@pytest.mark.slow
def test_the_tests_are_collected_without_a_posix_system(tmp_path: Path) -> None:
    (result,) = run_steps("windows", tmp_path, [{"collect": str(ROOT / "tests")}])
    assert (result["code"], result["error"]) == (0, ""), result["out"][-3000:]
    assert (
        "test_cli.py::" in result["out"]
        and "test_terminal.py::" not in result["out"]
        and "skipped" in result["out"]
    )


@pytest.mark.parametrize("system", SYSTEMS)
def test_utf_8_is_read_from_a_pipe_whatever_the_console_has(ran: Any, system: str) -> None:
    """What a console of Western Europe cannot show of it is escaped, not read as other characters."""
    assert "\\ud55c\\uae00 \\U0001f600" in ran(system)["chat on"]["out"]


STARTED = "from pathlib import Path; from simplellm.app import cli; cli.main(['--version']); "
FAULTS = {  # what goes well on Windows
    "a closed window is a signal": STARTED
    + "import signal; assert signal.getsignal(signal.SIGBREAK) is cli._terminate",
    "a virus scanner holds a file for a moment": (
        "import threading; from pathlib import Path; from simplellm.storage.files import replace_file; p = Path('f'); "
        "p.write_bytes(b'old'); f = open(p, 'rb'); threading.Timer(0.05, f.close).start(); replace_file(p, b'new'); "
        "assert p.read_bytes() == b'new'"
    ),
    "a file held for good is not replaced, and nothing else is left": (
        "import os; from pathlib import Path; from simplellm.storage.files import replace_file; p = Path('f'); "
        "p.write_bytes(b'old'); f = open(p, 'rb')\n"
        "try: replace_file(p, b'new')\nexcept PermissionError: assert os.listdir() == ['f']\nelse: raise AssertionError"
    ),
    "an abandoned folder is a leftover after a day": (
        "import os; from pathlib import Path; from simplellm.storage.files import leftovers\n"
        "new, old = Path('.tmp-a'), Path('.tmp-b'); new.mkdir(); old.mkdir(); os.utime(old, (1, 1))\n"
        "assert leftovers(Path()) == [old]\n"
        "assert leftovers(Path(), with_files=True) == [new, old]"
    ),
    "a released lock leaves no file": (
        "from pathlib import Path; from simplellm.storage.lock import FolderLock\nwith FolderLock(Path('run')): pass\n"
        "assert not Path('run').exists()"
    ),
    "a typed path has two separators": (
        "from simplellm.app.commands.conversation import split_typed; "
        "assert split_typed(r'C:\\Users\\Kim Minsu\\ta', ('/', '\\\\')) == ('C:\\\\Users\\\\Kim Minsu\\\\', 'ta')"
    ),
}


def test_what_windows_refuses_is_met(tmp_path: Path) -> None:
    steps = [{"code": code} for fault in FAULTS.values() for code in (fault, EMPTY)]
    errors = [result["error"] for result in run_steps("windows", tmp_path, steps)]
    assert dict(zip(FAULTS, errors[::2], strict=True)) == dict.fromkeys(FAULTS, "")


# ---------------------------------------------------------------- that the imitation is one

MAPPED = (
    "import mmap; open('f', 'wb').write(b'x' * 9); f = open('f', 'rb'); "
    "m = mmap.mmap(f.fileno(), 9, access=1); f.close(); "
)
MADE = "from pathlib import Path; import os, shutil; Path('d').mkdir(); Path('d/a').touch(); Path('b').touch(); "
LOCKED = (
    "import msvcrt, os; g, h = (os.open('l', os.O_RDWR | os.O_CREAT) for _ in '12'); "
    "msvcrt.locking(g, msvcrt.LK_NBLCK, 1); "
)
WINDOWS_RULES = {  # what is refused, and how
    "import termios": "ModuleNotFoundError", "import fcntl": "ModuleNotFoundError",
    "from resource import getrusage": "ModuleNotFoundError",
    "import signal; signal.SIGHUP": "AttributeError", "import signal; signal.SIGKILL": "AttributeError",
    "import signal; signal.signal(1, signal.SIG_DFL)": "ValueError", "from signal import SIGCONT": "ImportError",
    "import os; os.sched_getaffinity(0)": "AttributeError", "import os; os.getuid()": "AttributeError",
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
    MAPPED + "import os; os.remove('f')": "map of", MAPPED + "open('f', 'wb')": "the file is mapped",
    MAPPED + "import os; open('g', 'w', encoding='utf-8').close(); os.replace('g', 'f')": "WinError 5",
    "open('a:b', 'w', encoding='utf-8')": "no name on Windows", "open('NUL.txt', 'wb')": "no name on Windows",
    "import os; os.mkdir('com1')": "no name on Windows", "import os; os.mkdir('ends.')": "no name on Windows",
    "open('t', 'w', encoding='utf-8').write('a\\n'); assert open('t', 'rb').read() == b'a\\n'": "AssertionError",
    "open('t', 'w')": "EncodingWarning", "from pathlib import Path; Path('t').read_text()": "EncodingWarning",
    LOCKED + "msvcrt.locking(h, msvcrt.LK_NBLCK, 1)": "PermissionError",
}  # fmt: skip
WINDOWS_ALLOWS = [
    MADE + "os.replace('d/a', 'b'); os.rename('d', 'e'); shutil.rmtree('e'); os.unlink('b')",
    "import os; f = open('f', 'wb'); os.fsync(f.fileno()); f.close(); os.remove('f')",
    MAPPED + "m.close(); import os; os.remove('f')",
    LOCKED + "os.close(g); msvcrt.locking(h, msvcrt.LK_NBLCK, 1)",
    "import ctypes, os, signal, sys; signal.SIGBREAK, os.cpu_count(), sys.argv",
]
MACOS_RULES = {
    "import os; os.sched_getaffinity(0)": "AttributeError", "import msvcrt": "ModuleNotFoundError",
    "import ctypes; ctypes.CDLL(None).mallopt": "AttributeError",
    "import sys; assert sys.platform != 'darwin'": "AssertionError",
    "import resource; assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 10_000_000": "AssertionError",
}  # fmt: skip
MACOS_ALLOWS = [
    "import termios, fcntl, resource, signal, os; signal.SIGHUP, os.fsync(os.open('.', os.O_RDONLY))"
]
RULES = {"windows": (WINDOWS_RULES, WINDOWS_ALLOWS), "macos": (MACOS_RULES, MACOS_ALLOWS)}
EMPTY = "import gc, os, shutil; gc.collect(); [shutil.rmtree(n) if os.path.isdir(n) else os.remove(n) for n in os.listdir()]"


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_imitation_refuses_what_the_system_does(tmp_path: Path, system: str) -> None:
    refused, allowed = RULES[system]
    codes = [*refused, *allowed]
    steps = [{"code": code} for pair in ((code, EMPTY) for code in codes) for code in pair]
    errors = [result["error"] for result in run_steps(system, tmp_path, steps)]
    assert errors[1::2] == [""] * len(codes)
    for code, error in zip(codes, errors[::2], strict=True):
        last = error.strip().splitlines()[-1] if error else ""
        assert refused.get(code, "nothing") in (last or "nothing"), code
