"""Untrusted text on every route to a real terminal: only our own control sequences arrive."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import SIMPLELLM, environment, quick
from terminal import SECONDS_TO_START, Key, Terminal

from simplellm.app.sanitize import visible

SEQUENCES = [
    "\x1b[7;41m", "\x1b]52;c;aGk=\x07", "\x1b]8;;http:x\x1b\\", "\x1b]0;title", "\x1b[5n",
    "\x1bP+q54\x1b\\", "\x1b(0", "\x1bc",
]  # fmt: skip
OTHERS = (
    "\x9b31m\x9d0;t\x9c\x85\x7f\x08\r\x0e\u202eevil\u2066\u200f\u061c\u2028\U000e0041"
    "[red]x[|][link=y]:smile:"
)
HOSTILE = "".join(SEQUENCES) + OTHERS  # also the name of a file
OURS = re.compile(
    r"\x1b\[(?:[0-9;]*[mABCDGHJK]|\?[0-9;]+[hl]|6n)|\x08|\r"
)  # styles, cursor movements, modes, cursor position request
FOREIGN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\U000e0000-\U000e007f]"
)
WILD = (
    "--temperature",
    "5",
    "--top-k",
    "0",
    "--top-p",
    "1",
    "--seed",
    "4",
)  # a hardly trained model generates any bytes
TINY = (
    "--n-layer", "1", "--n-head", "2", "--n-embd", "32", "--block-size", "32", "--vocab-size",
    "400", "--device", "cpu",
    "--precision", "float32", "--max-steps", "12", "--eval-interval", "4",
)  # fmt: skip
ALL_IN_ONE = """
import json, sys
from simplellm.app.cli import main
for arguments in json.load(open(sys.argv[1])):
    main(arguments)
"""


def leaks(raw: bytes) -> list[str]:
    """Control bytes and sequences that are not ours."""
    text = raw.decode("utf-8", "surrogateescape")
    found = [sequence for sequence in SEQUENCES if sequence in text]
    return found + FOREIGN.findall(OURS.sub("", text))


@pytest.fixture(scope="module")
def zoo(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a config and a run whose names and contents are HOSTILE."""
    folder = tmp_path_factory.mktemp("zoo")
    (folder / f"{HOSTILE}.txt").write_text(
        (HOSTILE + " The judge sat.\n") * 400, encoding="utf-8", newline=""
    )
    (folder / "binary.txt").write_bytes(b"\x00\x9b31m\xff")
    (folder / "name.toml").write_text(f"{json.dumps(HOSTILE)} = 3\n")
    (folder / "value.toml").write_text(f"n_layer = {json.dumps(HOSTILE)}\n")
    shutil.copytree(trained / "tiny", folder / "runs" / HOSTILE)
    return folder


def commands(zoo: Path, trained: Path) -> Iterator[list[str]]:
    text = str(zoo / f"{HOSTILE}.txt")
    runs, a_run = ["--checkpoints", str(zoo / "runs")], ["--run", str(zoo / "runs" / HOSTILE)]
    good = ["--checkpoints", str(trained)]
    for form in ([], ["--json"]):
        yield ["generate", *good, "--prompt", HOSTILE, *WILD, "--max-new-tokens", "800", *form]
        yield ["analyze", *good, "--prompt", HOSTILE, *WILD, "--top", "400", *form]
        yield ["generate", *a_run, "--prompt", "a", "--max-new-tokens", "3", *form]
        yield ["runs", *runs, *form]
        yield ["evaluate", *good, "--data", text, *form]
    yield ["train", text, *runs, *TINY]  # the panel shows samples of such a model
    for name in (
        "name",
        "from",
        "val-data",
        "encoding",
        "track",
        "architecture",
        "n-layer",
        "dropout",
        "config",
        HOSTILE,
    ):
        yield ["train", text, *runs, f"--{name}", HOSTILE]
    yield ["train", text, *runs, "--resume", "--name", HOSTILE]
    yield ["train", text, *runs, "--config", str(zoo / "name.toml")]
    yield ["train", text, *runs, "--config", str(zoo / "value.toml")]
    yield ["train", str(zoo / "binary.txt"), *runs]
    for command in ("train", "bench", "runs", "chat"):
        yield [command, HOSTILE]
    for name in ("temperature", "run", "checkpoints", "device", "seed"):
        yield ["generate", "--prompt", "a", f"--{name}", HOSTILE]
    yield ["generate", "--prompt", "a", "--stop", HOSTILE, *good]
    yield ["evaluate", "--data", HOSTILE]
    yield ["sweep", "--dropout", HOSTILE]
    yield [HOSTILE]
    yield [f"--{HOSTILE}"]


def test_no_command_lets_untrusted_text_control_the_terminal(
    zoo: Path, trained: Path, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps(list(commands(zoo, trained))))
    terminal = Terminal(
        [sys.executable, "-c", ALL_IN_ONE, str(jobs)], environment(XDG_STATE_HOME=str(tmp_path))
    )
    terminal.wait_for_end(SECONDS_TO_START)
    assert terminal.exit_code() == 0 and b"Traceback" not in terminal.raw
    assert leaks(terminal.raw) == []
    assert terminal.raw.decode().count(visible("\x1b[7;41m")) > 10  # made visible, not deleted


CHAT_LINES = [
    HOSTILE, f"/{HOSTILE}", f"/stop {HOSTILE}", "/stop", "/stop off", f"/temp {HOSTILE}",
    f"/set {HOSTILE} 3", "/info", "/runs",
    f"/run {HOSTILE}", f"/load {HOSTILE}", f"/save /nowhere/{HOSTILE}", f"/next {HOSTILE}",
    f"/tokenize {HOSTILE}", "/load",
    f"/help {HOSTILE}", f"/attn {HOSTILE}", "/source", f"/compare {HOSTILE}", "/probs on", HOSTILE,
    "/probs", "/undo", "/regen",
    "/continue", "/attn", "/source", "/next", "/compare",
]  # fmt: skip


def a_line(text: str) -> str:
    return re.sub("[\r\n]", "", text)


def test_no_line_of_a_chat_controls_the_terminal(zoo: Path, tmp_path: Path) -> None:
    """Input comes from a pipe, output goes to a terminal."""
    (tmp_path / "lines").write_text("\n".join(map(a_line, CHAT_LINES)) + "\n", encoding="utf-8")
    run = zoo / "runs" / HOSTILE
    env = environment(XDG_STATE_HOME=str(tmp_path / HOSTILE))
    chat = [*SIMPLELLM, "chat", "--run", str(run), *WILD, "--max-new-tokens", "300"]
    command = shlex.join(quick(chat, env))
    terminal = Terminal(["sh", "-c", f"{command} < {shlex.quote(str(tmp_path / 'lines'))}"], env)
    terminal.wait_for_end(SECONDS_TO_START)
    assert terminal.exit_code() == 0 and b"Traceback" not in terminal.raw
    assert leaks(terminal.raw) == []
    assert terminal.raw.decode().count(visible("\x1b[7;41m")) > 5


def test_no_key_history_or_completion_controls_the_terminal(zoo: Path, tmp_path: Path) -> None:
    history = tmp_path / "simplellm" / "history"
    history.parent.mkdir()
    history.write_text(f"\n+{a_line(HOSTILE)}\n", encoding="utf-8")
    run = zoo / "runs" / HOSTILE
    command = [
        *SIMPLELLM,
        "chat",
        "--checkpoints",
        str(zoo / "runs"),
        "--run",
        str(run),
        *WILD,
        "--max-new-tokens",
        "50",
    ]
    terminal = Terminal(command, environment(XDG_STATE_HOME=str(tmp_path)), columns=300)
    terminal.ready(seconds=SECONDS_TO_START)
    terminal.press(Key.UP)  # from the history
    terminal.see("[red]x[|]")
    terminal.press(Key.CTRL_C)
    terminal.ready()
    terminal.paste(a_line(HOSTILE).replace("\x1b[200~", ""))
    terminal.see("[red]x[|]")
    terminal.press(Key.ENTER)
    terminal.see("tokens/s")
    terminal.ready()
    terminal.press("/run ")  # completion of the names in the folder
    terminal.see("7-41m-52")  # and the other
    terminal.press(Key.CTRL_C)
    terminal.ready()
    terminal.press(Key.CTRL_D)
    assert terminal.exit_code() == 0
    assert leaks(terminal.raw) == []
