"""Command line: outputs, exit codes, and errors of one or two lines."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, STORY, TINY_FLAGS, posix_only
from fork_server import ForkedProcess
from program import SIMPLELLM, environment, fork_server, quick

from simplellm import __version__
from simplellm.app.cli import main
from simplellm.app.parser import COMMANDS, parse
from simplellm.inference.decoder import Decoder
from simplellm.model.transformer import SimpleLLM
from simplellm.training import preparation

GENERATE = ["generate", "--prompt", "The judge", "--max-new-tokens", "5"]
KEYS = {
    "evaluate": "tokens bytes loss perplexity accuracy bits_per_byte",
    "generate": "text prompt_tokens new_tokens seconds tokens_per_second seed stop_reason",
    "analyze": "candidates",
    "candidate": "token text probability kept sampling_probability",
    "train": "run path steps best_step val_loss perplexity bits_per_byte train_seconds "
    "tokens_per_second parameters",
    "runs": "run path best_step val_loss bits_per_byte tokens copied_share architecture n_layer "
    "n_embd parameters texts seed started_at",
}


@pytest.fixture
def call(trained: Path, capsys: pytest.CaptureFixture[str]):
    """Runs a command on the trained run, in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str, checkpoints: Path = trained) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(["--checkpoints", str(checkpoints), *arguments])
        except SystemExit as end:  # the process would end with this code
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


def spawn(
    *arguments: str, is_quick: bool = False, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    command = [*SIMPLELLM, *arguments]
    env = environment() if env is None else env
    return subprocess.Popen(
        quick(command, env) if is_quick else command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def start(
    command: list[str], notices: Path, is_quick: bool
) -> subprocess.Popen[bytes] | ForkedProcess:
    """A process that signals can be sent to; it writes its messages to a file."""
    env = environment()
    with notices.open("wb") as file, open(os.devnull, "r+b") as nothing:
        streams = [nothing.fileno(), nothing.fileno(), file.fileno()]
        if is_quick and fork_server().can_start(command, env):
            return fork_server().start(command, env, ROOT, streams)
        stdin, stdout, stderr = streams
        return subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=stdin, stdout=stdout, stderr=stderr
        )


def keys(name: str) -> list[str]:
    return sorted(KEYS[name].split())


def test_json_has_the_keys_of_the_contract(call, tmp_path):
    for command in (
        GENERATE,
        ["evaluate", "--data", str(STORY)],
        ["analyze", "--prompt", "The", "--top", "3"],
    ):
        code, out, _ = call(*command, "--json")
        assert code == 0 and sorted(json.loads(out)) == keys(command[0]) and out.count("\n") == 1
    assert all(
        sorted(candidate) == keys("candidate") for candidate in json.loads(out)["candidates"]
    )
    _, out, _ = call("runs", "--json")
    assert [sorted(run) for run in json.loads(out)] == [keys("runs")]
    assert Path(json.loads(out)[0]["path"], "manifest.json").is_file()
    _, out, _ = call(
        "train", str(STORY), "--max-steps", "2", "--json", *TINY_FLAGS, checkpoints=tmp_path
    )
    assert sorted(json.loads(out)) == keys("train") and json.loads(out)["run"] == "the-verdict"


@pytest.mark.parametrize("command", ["train", "sweep", "bench train"])
@pytest.mark.parametrize(
    ("former", "current"),
    [("--min-learning-rate", "--min-lr-ratio"), ("--consistency", "--r-drop")],
)
def test_a_former_flag_works_but_is_not_in_the_help(call, command, former, current):
    words = command.split()
    options = [parse([*words, flag, "0.5"]) for flag in (former, current)]
    assert replace(options[0], arguments=()) == replace(options[1], arguments=())
    _, out, _ = call(*words, "--help")
    assert current in out and former not in out
    code, _, err = call(*words, former, "0.5", current, "0.5")
    assert code == 2 and "is the former name of" in err and err.count("\n") <= 2


def test_common_flags_may_come_before_or_after_the_command(call):
    flags = ["--seed", "5", "--json", "--device", "cpu", "--run", "tiny", "--no-color"]
    texts = [
        json.loads(call(*order)[1])["text"] for order in ([*flags, *GENERATE], [*GENERATE, *flags])
    ]
    assert texts[0] == texts[1]


def test_stdout_of_generate_is_only_the_text(call):
    text = json.loads(call(*GENERATE, "--seed", "3", "--json")[1])["text"]
    assert call(*GENERATE, "--seed", "3") == (0, text + "\n", "")


def test_a_prompt_may_come_from_stdin(call, monkeypatch):
    expected = call(*GENERATE, "--seed", "3")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The judge")))
    assert call("generate", "--prompt", "-", "--max-new-tokens", "5", "--seed", "3") == expected


def test_flags_override_a_config_file(call, tmp_path):
    (tmp_path / "c.toml").write_text(
        "max_steps = 1\n[model]\nn_layer = 1\n[training]\nlog_interval = 1\n"
    )
    assert TINY_FLAGS[0] == "--n-layer"
    call("train", str(STORY), "--name", "x", "--config", str(tmp_path / "c.toml"), "--max-steps",
    "2",
         *TINY_FLAGS[2:], checkpoints=tmp_path)  # fmt: skip
    info = json.loads((tmp_path / "x" / "run.json").read_text())
    assert (info["training"]["max_steps"], info["model"]["n_layer"]) == (2, 1)


def test_without_a_command_the_newest_run_chats(call, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("The judge\n"))
    code, out, _ = call()
    assert code == 0 and out.startswith("The judge")


def test_an_empty_folder_has_no_runs(call, tmp_path):
    assert call("runs", "--json", checkpoints=tmp_path) == (0, "[]\n", "")
    assert call("runs", checkpoints=tmp_path)[:2] == (0, "")


@pytest.mark.parametrize(
    "content", ['{"path": 5}', '{"path": "x", "bits_per_byte": "y"}', "[]", ""]
)
def test_a_damaged_pointer_causes_no_traceback(call, trained, tmp_path, content, monkeypatch):
    shutil.copytree(trained, tmp_path / "copy")
    (tmp_path / "copy" / "tiny" / "best.json").write_text(content)
    monkeypatch.setattr(sys, "stdin", io.StringIO("/info\n"))
    assert call("chat", checkpoints=tmp_path / "copy")[0] == 0
    assert call("runs", "--json", checkpoints=tmp_path / "copy")[0] == 0


def files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


TRAIN = ["train", "TEXT", "--max-steps", "1"]
MISTAKES: dict[str, tuple[int, list[str], str]] = {
    "missing text": (1, ["train", "nowhere.txt"], "nowhere.txt"),
    "empty text": (1, ["train", "EMPTY"], "no text"),
    "white space": (1, ["train", "SPACE"], "no text"),
    "too short a text": (1, ["train", "SHORT"], "more text"),
    "binary": (1, ["train", "BINARY"], "byte 3"),
    "not UTF-8": (1, ["train", "LATIN"], "--encoding"),
    "an empty folder": (1, ["train", "FOLDER"], "no text file"),
    "a glob without match": (1, ["train", "x*.nothing"], "no file matches"),
    "an unknown encoding": (1, [*TRAIN, "--encoding", "klingon"], "klingon"),
    "no text given": (2, ["train"], "TEXT"),
    "an unknown run": (1, ["chat", "--run", "nothing"], "tiny"),
    "an unknown run to resume": (1, ["train", "--resume", "--name", "nothing"], "tiny"),
    "a name that is taken": (1, [*TRAIN, "--name", "tiny"], "already exists"),
    "a bad run name": (2, ["chat", "--run", "a b"], "run name"),
    "a bad new name": (2, [*TRAIN, "--name", "../x"], "run name"),
    "a bad flag value": (2, [*GENERATE, "--temperature", "hot"], "0 to 5"),
    "a value out of range": (2, [*GENERATE, "--top-k", "-3"], "top_k"),
    "a bad seed": (2, ["--seed", "-1", *GENERATE], "seed"),
    "a bad budget": (2, ["train", "TEXT", "--budget", "soon"], "60s"),
    "settings that do not fit": (2, [*TRAIN, "--n-embd", "30", "--n-head", "4"], "--n-head"),
    "an unknown flag": (2, [*GENERATE, "--temprature", "1"], "did you mean --temperature?"),
    "an abbreviated flag": (2, [*GENERATE, "--temp", "1"], "--temp"),
    "an unknown command": (2, ["generat"], "did you mean generate?"),
    "no prompt": (2, ["generate"], "--prompt"),
    "an unknown device": (2, [*GENERATE, "--device", "tpu"], "cuda"),
    "a bad TOML key": (2, [*TRAIN, "--config", "BADKEY"], "did you mean n_layer?"),
    "a bad TOML value": (2, [*TRAIN, "--config", "BADVALUE"], "n_layer"),
    "no TOML": (2, [*TRAIN, "--config", "TEXT"], "TOML"),
    "a missing TOML": (2, [*TRAIN, "--config", "nowhere.toml"], "nowhere.toml"),
    "nine stops": (2, [*GENERATE, *[flag for n in range(9) for flag in ("--stop", str(n))]],
    "stop"),
    "an empty stop": (2, [*GENERATE, "--stop", ""], "stop"),
    "fp16 on a cpu": (2, [*TRAIN, "--device", "cpu", "--precision", "fp16"], "bf16"),
    "nothing to evaluate": (1, ["evaluate", "--data", "EMPTY"], "no text"),
    "evaluate a missing file": (1, ["evaluate", "--data", "nowhere.txt"], "nowhere.txt"),
    "a top of 0": (2, ["analyze", "--prompt", "x", "--top", "0"], "top"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_in_one_or_two_lines_and_writes_nothing(
    call, trained, tmp_path, name
):
    code, arguments, said = MISTAKES[name]
    texts = {"EMPTY": b"", "SPACE": b" \n\t", "SHORT": b"a b", "BINARY": b"abc\0def",
    "LATIN": b"caf\xe9 au lait",
             "TEXT": STORY.read_bytes(), "BADKEY": b"n_layr = 2",
             "BADVALUE": b"n_layer = 'x'"}  # fmt: skip
    for file_name, content in texts.items():
        (tmp_path / file_name).write_bytes(content)
    (tmp_path / "FOLDER").mkdir()
    before = files(trained / "tiny"), sorted(path.name for path in trained.iterdir())
    places = {*texts, "FOLDER"}
    got, out, err = call(*(str(tmp_path / word) if word in places else word for word in arguments))
    lines = err.splitlines()
    assert (got, out) == (code, "") and 1 <= len(lines) <= 2, err
    assert lines[0].startswith("error: ") and said in err
    assert (files(trained / "tiny"), sorted(path.name for path in trained.iterdir())) == before


def test_a_damaged_checkpoint_is_named_and_another_one_is_used(call, trained, tmp_path):
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    (copy / "tiny" / "step-000030" / "config.json").write_text("{}")
    code, out, err = call(*GENERATE, checkpoints=copy)
    assert (
        code == 0
        and out
        and "step-000030/config.json is damaged" in err
        and len(err.splitlines()) == 1
    )
    (copy / "tiny" / "step-000020" / "config.json").unlink()
    code, out, err = call(*GENERATE, "--run", "tiny", checkpoints=copy)
    assert (code, out) == (1, "") and "no intact checkpoint" in err
    assert call(*GENERATE, "--run", str(copy / "tiny" / "step-000020"), checkpoints=copy)[0] == 1


def test_a_checkpoints_folder_below_a_file_is_reported_in_one_line(call, tmp_path):
    (tmp_path / "file").write_text("x")
    code, out, err = call(
        *TRAIN[:1], str(STORY), "--max-steps", "1", *TINY_FLAGS, checkpoints=tmp_path / "file" / "x"
    )
    assert (code, out) == (2, "") and "error: " in err and len(err.splitlines()) <= 3


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_text_is_prepared_ends_with_its_code(
    call, tmp_path, monkeypatch, number, code
):
    prepare = preparation.prepare

    def signalled(*arguments: Any) -> Any:
        signal.raise_signal(number)
        return prepare(*arguments)

    monkeypatch.setattr(preparation, "prepare", signalled)
    got, _, err = call("train", str(STORY), "--max-steps", "3", *TINY_FLAGS, checkpoints=tmp_path)
    assert got == code and "Traceback" not in err and not list(tmp_path.glob("*/step-*"))


# ---------------------------------------------------------------- in a separate process


def test_help_and_usage_errors_answer_quickly_and_without_torch():
    for arguments in (["--help"], ["train", "--help"], ["generate"], ["chat", "--nothing"]):
        seconds = [math.inf]  # of the processor, where the system reports it for child processes
        while min(seconds) >= 1.0 and len(seconds) <= 3:
            before = os.times()
            done = spawn(*arguments)
            out, err = done.communicate(timeout=30)
            after = os.times()
            seconds.append(after.children_user - before.children_user)
        assert done.returncode == (0 if "--help" in arguments else 2) and bool(out) == (
            "--help" in arguments
        )
        assert min(seconds) < 1.0, f"{arguments}: {seconds}"  # about 0.2 s
    code = (
        "import sys\nfrom simplellm.app.cli import main\n"
        "try:\n main(['--help'])\nexcept SystemExit: pass\nmain(['generate'])\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code + "assert 'torch' not in sys.modules and 'numpy' not in sys.modules",
        ],
        cwd=ROOT,
    )
    assert done.returncode == 0


def test_help_lists_every_command_and_version_shows_the_version(capsys):
    for flag, expected in (("--help", COMMANDS), ("--version", [__version__])):
        assert main([flag]) == 0
        out = capsys.readouterr().out
        assert all(word in out for word in expected)


def test_a_closed_pipe_ends_the_program_quietly(trained):
    child = spawn(
        "generate",
        "--prompt",
        "The judge",
        "--max-new-tokens",
        "3000",
        "--checkpoints",
        str(trained),
        is_quick=True,
    )
    child.stdout.read(1)
    child.stdout.close()
    assert (child.wait(timeout=60), child.stderr.read()) == (0, b"")


def test_invalid_bytes_cause_no_traceback(trained):
    child = spawn(
        "chat",
        "--checkpoints",
        str(trained),
        stdin=subprocess.PIPE,
        env=environment(PYTHONIOENCODING="utf-8"),
        is_quick=True,
    )
    out, err = child.communicate(b"caf\xe9\n/tokens 5\n", timeout=60)
    assert child.returncode == 0 and b"Traceback" not in err and b"max_new_tokens 5" in out


@posix_only
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("is_quick", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_signal_while_training_saves_and_ends_with_its_code(tmp_path, number, code, is_quick):
    endless = [
        "--max-steps",
        "100000",
        "--eval-interval",
        "100000",
        "--log-interval",
        "1",
        "--compile",
        "off",
    ]
    arguments = ["train", str(STORY), "--name", "x", *endless, "--checkpoints", str(tmp_path)]
    notices = tmp_path / "notices"
    child = start([*SIMPLELLM, *arguments, *TINY_FLAGS], notices, is_quick)
    log, started_at = tmp_path / "x" / "log.jsonl", time.perf_counter()
    while not (log.exists() and log.stat().st_size) and time.perf_counter() - started_at < 60:
        time.sleep(0.05)
    child.send_signal(number)
    assert child.wait(timeout=20) == code
    err = notices.read_text(encoding="utf-8")
    assert "Traceback" not in err and "--resume --name x" in err
    pointer = json.loads((tmp_path / "x" / "last.json").read_text())
    assert (tmp_path / "x" / pointer["path"] / "manifest.json").is_file()


def test_a_signal_that_arrives_in_a_finalizer_is_not_lost():
    """Python ignores exceptions in finalizers."""
    code = (
        "import os, signal, sys, time\nfrom simplellm.app import cli\n"
        "class Finalized:\n    def __del__(self): signal.raise_signal(signal.SIGTERM)\n"
        "def run(arguments):\n    Finalized()\n    time.sleep(20)\n    return 0\n"
        "cli._run = run\nraise SystemExit(cli.main([]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")


# ---------------------------------------------------------------- out of memory


@pytest.mark.parametrize(
    "command",
    [
        ["train", str(STORY), "--n-embd", "65536", "--n-head", "2"],
        ["train", str(STORY), "--n-layer", "1000", "--n-embd", "16384"],
        ["train", str(STORY), "--batch-size", "1000000", "--n-embd", "4096"],
        ["train", str(STORY), "--find-lr", "--n-embd", "65536"],
        ["bench", "train", "--n-embd", "65536"],
        ["bench", "train", "--batch-size", "1000000", "--n-embd", "4096"],
        ["bench", "generate", "--n-embd", "65536", "--n-layer", "100"],
    ],
)
def test_a_model_that_does_not_fit_into_memory_is_one_line(
    call, tmp_path: Path, command: list[str]
) -> None:
    code, out, err = call(*command, "--device", "cpu", checkpoints=tmp_path)
    lines = [line for line in err.splitlines() if line.startswith(("error:", "fix:"))]
    assert code == 1 and not out and len(lines) == 2 and "Traceback" not in err
    assert "out of memory" in lines[0]
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize("method", ["hidden", "logits"])
@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--prompt", "The judge"],
        ["generate", "--prompt", "The judge", "--num-beams", "3"],
        ["evaluate", "--data", str(STORY)],
        ["analyze", "--prompt", "The judge"],
    ],
)
def test_out_of_memory_while_a_model_runs_is_one_line(
    call, monkeypatch: pytest.MonkeyPatch, command: list[str], method: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: ... 8000000000 bytes")

    monkeypatch.setattr(SimpleLLM, method, fail)
    monkeypatch.setattr(Decoder, "read", fail)
    code, out, err = call(*command, "--run", "tiny", "--device", "cpu")
    assert code == 1 and not out and err.startswith("error: out of memory\nfix:"), err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")])
def test_out_of_memory_anywhere_else_is_one_line(
    call, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("simplellm.app.subcommands.verify.verify", fail)
    monkeypatch.setattr("simplellm.app.subcommands.dispatch.verify", fail)
    code, _, err = call("verify")
    assert code == 1 and err.startswith("error: out of memory\nfix:")
