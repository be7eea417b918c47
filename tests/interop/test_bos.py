"""Tokenizers that put a special token before each text: ids and losses of other programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from interop.llama_cpp import LlamaCpp
from interop.random_models import CONFIGS, exported, random_network
from interop.test_gguf import strings
from simplellm.app.cli import main
from simplellm.checkpoint.export.export import ExportJob
from simplellm.checkpoint.step_folder import OpenedModel, open_model
from simplellm.data.tokenizer import Tokenizer
from simplellm.model.scoring import evaluate
from tests.model_folders import with_bos

transformers = pytest.importorskip("transformers", reason="needs the package transformers")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """An imported run of a Llama with random weights."""
    expecting = with_bos(tokenizer)
    network = random_network(CONFIGS["llama-rope"], expecting.vocab_size)
    base = tmp_path_factory.mktemp("bos")
    ExportJob.of("hf", None, base / "model").write(exported("llama", network, expecting))
    arguments = [str(base / "model"), "--name", "bos", "--checkpoints", str(base)]
    assert main(["import", *arguments]) == 0
    return base / "bos" / "step-000000"


@pytest.fixture(scope="module")
def opened(folder: Path) -> OpenedModel:
    return open_model(folder, CPU)


def test_ids_of_prompts_equal_those_of_auto_tokenizer(folder: Path, opened: OpenedModel) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    for text in strings():
        assert opened.tokenizer.encode_prompt(text) == theirs.encode(text)


def test_ids_of_prompts_equal_those_of_llama_cpp(
    folder: Path, opened: OpenedModel, tmp_path: Path
) -> None:
    out = tmp_path / "model.gguf"
    assert main(["export", "--run", str(folder), "--format", "gguf", "--out", str(out)]) == 0
    with LlamaCpp(out) as llama_cpp:
        for text in strings()[:300]:
            assert opened.tokenizer.encode_prompt(text) == llama_cpp.encode(text)


def test_the_loss_is_that_of_transformers(folder: Path, opened: OpenedModel, story: str) -> None:
    text = story[:120]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = theirs(text, return_tensors="pt").input_ids
    assert ids.shape[1] <= opened.model.config.block_size
    with torch.no_grad():
        expected = float(model(ids, labels=ids).loss)
    found = evaluate(opened.model, ids[0].numpy(), len(text), unscored=opened.tokenizer.bos_ids)
    assert found.loss == pytest.approx(expected, rel=1e-4)
