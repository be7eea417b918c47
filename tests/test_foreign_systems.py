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

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the imitations of other systems need Linux's /proc")

SYSTEMS = ("windows", "macos")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "simplellm").rglob("*.py")
    if path.name != "__main__.py"
)
TEXT = "C:/Users/Kim Minsu/My Texts/이야기 1.txt"  # below the folder of the test; Windows takes these slashes too
RUNS = "My Runs 한글"
MANY_CHARACTERS = "한글 é “quotes” 😀 ─│█"
CHAT = ["The judge", f"/tokenize {MANY_CHARACTERS}", "/probs on", "한글 😀", "/next", "/attn 1.1", "/regen", "/continue", "/undo",
        '/save my talk 한글.jsonl', '/save my talk 한글.jsonl', "/load my talk 한글.jsonl", "/load no such file", "/find the",
        "/runs", "/run second", "/info", "/temperature 뜨거운", "/help", "/context on", "The"]  # fmt: skip


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
            "argv": ["train", "C:/Users/Kim Minsu/My Texts/*.txt", "--from", "first", "--name", "second", *where, "--max-steps", "2",
                     "--config", "my settings.toml", "--val-data", TEXT],
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
        "chat on": {"argv": ["chat", *run, "--max-new-tokens", "5", "--continue"], "encoding": "cp1252", "stdin": lines(*CHAT[:4])},
        "chat on again": {"argv": ["chat", *run, "--max-new-tokens", "5", "--continue"], "stdin": lines("/continue")},
        "runs": {"argv": ["runs", *where], "encoding": "cp949", "terminal": True},
        "verify": {"argv": ["verify", "first", *where, "--json"], "encoding": "cp949"},
        "prune": {"argv": ["runs", "--prune", "--yes", *where], "encoding": "cp949"},
        "bench train": {"argv": ["bench", "train", "--n-layer", "1", "--n-embd", "16", "--n-head", "1", "--compile", "off",
                                 "--precision", "float32", "--device", "cpu", "--json"]},
        "bench generate": {"argv": ["bench", "generate", "--n-layer", "1", "--n-embd", "16", "--n-head", "1", "--device", "cpu",
                                    "--max-new-tokens", "8", "--json"]},
    }  # fmt: skip


SCENARIO = scenario()
AS_JSON = [name for name, step in SCENARIO.items() if "--json" in step["argv"]]
CODES = {"train badly": 1}  # of those that do not end well


def run_steps(system: str, folder: Path, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the steps came to, in one process of an imitated system."""
    bootstrap = [sys.executable, "-X", "warn_default_encoding", str(ROOT / "tests" / "foreign_system.py"), system, str(folder)]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT), "TERM": "xterm", "OMP_NUM_THREADS": "1",
           "LC_ALL": "C.UTF-8", "PYTHONUTF8": "0"}  # fmt: skip
    done = subprocess.run(
        bootstrap, input=json.dumps(steps), capture_output=True, text=True, encoding="utf-8", cwd=folder, env=env, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def prepare(folder: Path) -> None:
    """The files that the scenario reads."""
    text = folder / TEXT
    text.parent.mkdir(parents=True)
    text.write_text(STORY.read_text(encoding="utf-8")[:9000] + MANY_CHARACTERS, encoding="utf-8")
    (text.parent / "second.txt").write_bytes(STORY.read_bytes()[:4000].replace(b"\n", b"\r\n"))
    (folder / "my settings.toml").write_text("\ufeff# 한글\n[training]\nbatch_size = 4\n", encoding="utf-8")


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`ran(system)`: what importing each module and running each command came to there, by name."""

    @cache
    def results(system: str) -> dict[str, dict[str, Any]]:
        """Cached where it fails too: each test then fails at once."""
        folder = tmp_path_factory.mktemp(system)
        prepare(folder)
        steps = {**{name: {"import": name} for name in MODULES}, **SCENARIO}
        return dict(zip(steps, run_steps(system, folder, list(steps.values())), strict=True))

    return results


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_module_is_imported(ran: Any, system: str, module: str) -> None:
    assert ran(system)[module]["error"] == ""


@pytest.mark.parametrize("command", SCENARIO)
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_command_runs(ran: Any, system: str, command: str) -> None:
    result = ran(system)[command]
    told = result["err"].encode("latin-1").decode("utf-8", "replace")
    assert result["error"] == "" and "Traceback" not in told + result["out"]
    assert result["code"] == CODES.get(command, 0), told


@pytest.mark.parametrize("command", AS_JSON)
@pytest.mark.parametrize("system", SYSTEMS)
def test_json_stays_json_on_every_console(ran: Any, system: str, command: str) -> None:
    out = ran(system)[command]["out"].encode("latin-1")
    json.loads(out.decode(SCENARIO[command].get("encoding", "utf-8")))
