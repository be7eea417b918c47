"""The commands of docs/serving.md do what the page says, against a server of a trained run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT

pytest.importorskip("openai")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

if TYPE_CHECKING:
    from server.live_server import Live

PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture
def base(trained: Path) -> Iterator[Live]:
    """A server whose model has the name that the page uses."""
    import torch
    from server.live_server import live_server

    from simplellm.checkpoint.find_runs import find_checkpoint
    from simplellm.checkpoint.step_folder import load_model
    from simplellm.inference.sampler import Sampler

    folder = find_checkpoint("tiny", trained, print)
    with live_server(Sampler(*load_model(folder, torch.device("cpu")))) as server:
        server.service.model = replace(server.service.model, name="base")
        yield server


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_curl_command_is_answered(base: Live) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (command,) = [block for block in blocks("sh") if block.startswith("curl")]
    words = shlex.split(command.replace("\\\n", " ").replace(ADDRESS, base.url))
    answer = subprocess.run([*words, "--silent"], capture_output=True, check=True, timeout=60)
    assert b'"object":"text_completion"' in answer.stdout


def test_the_program_streams_a_reply(base: Live, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = blocks("python")
    exec(program.replace(ADDRESS, base.url), {})
    assert capsys.readouterr().out


def test_the_server_starts_as_the_page_says() -> None:
    from simplellm.app.options import ServeOptions
    from simplellm.app.parser import parse

    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [line.split(" # ")[0] for line in lines if line.startswith("simplellm serve")]
    options = [parse(shlex.split(command)[1:]) for command in commands]
    assert len(options) == 2 and all(isinstance(one, ServeOptions) for one in options)
    assert f"http://{options[0].host}:{options[0].port}" == ADDRESS  # type: ignore[attr-defined]
