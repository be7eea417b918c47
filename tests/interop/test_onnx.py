"""ONNX Runtime gives the logits and the tokens of this program, with its cache."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

from interop.random_models import CONFIGS, exported, random_network
from simplellm.checkpoint.export.export import ExportJob
from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import Tokenizer
from simplellm.inference.sampler import Sampler
from simplellm.model.transformer import SimpleLLM

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")
onnx = pytest.importorskip("onnx", reason="needs the package onnx")
pytest.importorskip("onnxscript", reason="needs the package onnxscript")
N_NEW = 32
Cache = Mapping[str, np.ndarray]


class Reader:
    """A model of ONNX Runtime that keeps the cache of its last call."""

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.cached = [i for i in self.session.get_inputs() if i.name.startswith("past_key_values")]
        self.cache: Cache = {}

    def start(self, batch_size: int) -> None:
        """An empty cache."""
        self.cache = {
            entry.name: np.zeros((batch_size, entry.shape[1], 0, entry.shape[3]), np.float32)
            for entry in self.cached
        }

    def read(self, ids: np.ndarray, mask: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Logits (B, T, V) of ids (B, T); mask is (B, P + T)."""
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        logits, *present = self.session.run(None, {**inputs, **self.cache})
        self.cache = {entry.name: value for entry, value in zip(self.cached, present, strict=True)}
        return logits

    def greedy(self, prompts: Sequence[Sequence[int]], n_new: int) -> list[list[int]]:
        """The most likely continuations of prompts of any lengths, padded on the left."""
        length = max(map(len, prompts))
        mask = np.array([[0] * (length - len(p)) + [1] * len(p) for p in prompts], np.int64)
        ids = np.array([[0] * (length - len(p)) + list(p) for p in prompts], np.int64)
        positions = (mask.cumsum(1) - 1).clip(min=0)
        self.start(len(prompts))
        found: list[list[int]] = [[] for _ in prompts]
        for _ in range(n_new):
            ids = self.read(ids, mask, positions)[:, -1:].argmax(-1)
            for tokens, token in zip(found, ids[:, 0].tolist(), strict=True):
                tokens.append(token)
            mask = np.concatenate([mask, np.ones_like(ids)], axis=1)
            positions = positions[:, -1:] + 1
        return found


@pytest.fixture(
    scope="module", params=[name for name in CONFIGS if name not in ("mistral", "gpt2-cut")]
)  # as llama
def pair(
    request: pytest.FixtureRequest,
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[SimpleLLM, Path]:
    """A model and its export as a single file."""
    network = random_network(CONFIGS[request.param], tokenizer.vocab_size)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    ExportJob.of("onnx", None, path).write(exported(request.param, network, tokenizer))
    return network, path


def random_ids(network: SimpleLLM, batch_size: int, length: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(3)
    shape = (batch_size, length)
    return torch.randint(network.config.vocab_size, shape, generator=generator).numpy()


def test_logits_are_the_same_in_one_part_and_in_several(pair: tuple[SimpleLLM, Path]) -> None:
    network, path = pair
    reader = Reader(path)
    ids = random_ids(network, 2, 24)
    positions = np.arange(24)[None].repeat(2, axis=0)
    with torch.no_grad():
        expected = network(torch.from_numpy(ids)).numpy()
    assert expected.std() > 0.1
    for cuts in ([0, 24], [0, 1, 2, 24], [0, 9, 10, 11, 17, 24]):
        reader.start(2)
        parts = [
            reader.read(ids[:, a:b], np.ones((2, b), np.int64), positions[:, a:b])
            for a, b in zip(cuts, cuts[1:], strict=False)
        ]
        np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=1e-3)


def test_greedy_tokens_of_a_batch_are_the_same(
    pair: tuple[SimpleLLM, Path], tokenizer: Tokenizer
) -> None:
    network, path = pair
    sampler = Sampler(network, tokenizer)
    prompts = [ids.tolist() for ids in random_ids(network, 2, 16)]
    prompts[1] = prompts[1][:5]
    expected = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(N_NEW):
            ids.append(int(sampler.next_logits(ids).argmax()))
        expected.append(ids[len(prompt) :])
    assert Reader(path).greedy(prompts, N_NEW) == expected
    assert Reader(path).greedy(prompts[1:], N_NEW) == expected[1:]


def test_the_graph_is_plain_small_and_without_paths(pair: tuple[SimpleLLM, Path]) -> None:
    network, path = pair
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    layers = [f"{i}.{kind}" for i in range(network.config.n_layer) for kind in ("key", "value")]
    inputs = ["input_ids", "attention_mask", "position_ids"]
    assert [i.name for i in model.graph.input] == inputs + [f"past_key_values.{n}" for n in layers]
    assert [o.name for o in model.graph.output] == ["logits"] + [f"present.{n}" for n in layers]
    content = path.read_bytes()
    assert len(content) < 4 * network.n_parameters + 200_000
    for secret in (str(ROOT), ".py", "site-packages", "/home", "/tmp"):
        assert secret.encode() not in content, secret


def test_a_single_file_has_the_tokenizer_in_its_metadata(
    pair: tuple[SimpleLLM, Path], tokenizer: Tokenizer
) -> None:
    network, path = pair
    metadata: dict[str, Any] = Reader(path).session.get_modelmeta().custom_metadata_map
    again = Tokenizer.from_mapping(json.loads(metadata["tokenizer.json"]))
    assert again.fingerprint == tokenizer.fingerprint
    assert json.loads(metadata["config.json"])["vocab_size"] == network.config.vocab_size


@pytest.mark.parametrize("is_large", [False, True])
def test_a_folder_has_all_files_and_large_weights_beside_the_graph(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    from simplellm.checkpoint.export import onnx_model
    from simplellm.errors import CheckpointError

    network = random_network(CONFIGS["llama"], tokenizer.vocab_size)
    model = exported("llama", network, tokenizer)
    if is_large:
        monkeypatch.setattr(onnx_model, "MAX_FILE_BYTES", 1000)
        with pytest.raises(CheckpointError, match="at most 2 GB"):
            ExportJob.of("onnx", None, tmp_path / "model.onnx").write(model)
    done = ExportJob.of("onnx", None, tmp_path / "model").write(model)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    data = {"model.onnx_data"} if is_large else set()
    described = {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert names == described | {"model.onnx"} | data
    assert done.bytes > 4 * network.n_parameters
    prompt = random_ids(network, 1, 8).tolist()[0]
    sampler = Sampler(network, tokenizer)
    reply = sampler.stream(prompt, SamplingParams(temperature=0, max_new_tokens=8))
    assert list(reply)
    found = Reader(tmp_path / "model" / "model.onnx").greedy([prompt], 8)[0]
    assert found[: len(reply.new_ids)] == reply.new_ids
