"""A model is exported whole or not at all, and every file says what the model is."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import posix_only
from faults.layer import ERRORS, Disk, Fail

from simplellm.app.cli import main
from simplellm.checkpoint.export.checkpoint_model import exported_model
from simplellm.checkpoint.export.export import ExportJob
from simplellm.checkpoint.export.exported_model import ExportedModel, source_of
from simplellm.checkpoint.export.model_card import model_card
from simplellm.checkpoint.export.writers import WRITERS
from simplellm.checkpoint.find_runs import find_checkpoint
from simplellm.checkpoint.generation import Generation
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import open_source
from simplellm.checkpoint.tensors import read_tensors
from simplellm.config.export_formats import EXPORT_FORMATS
from simplellm.config.model import ModelConfig
from simplellm.data.split_patterns import EARLIER_SPLIT_PATTERN, named_patterns
from simplellm.data.tokenizer import END_OF_TEXT, Tokenizer
from simplellm.errors import CheckpointError
from simplellm.model.transformer import SimpleLLM
from simplellm.training.held_out_text import held_out_documents
from tests.model_folders import LATER, MARK, with_gaps

gguf = pytest.importorskip("gguf", reason="needs the package gguf")

Call = Callable[..., tuple[int, str, str]]
FORMATS = [(name, type) for name, facts in EXPORT_FORMATS.items() for type in facts.types]


@pytest.fixture(autouse=True)
def empty_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX graphs are empty: torch's exporter takes seconds; tests/interop has real ones."""
    try:
        import onnx_ir

        from simplellm.checkpoint.export import onnx_model
    except ImportError:  # then the tests of this format are skipped
        return

    def graph(model: ExportedModel) -> Any:
        weight = onnx_ir.tensor(np.zeros(20_000, np.float32), name="weight")
        content = onnx_ir.Graph([], [], nodes=[], opset_imports={"": 20})
        content.register_initializer(onnx_ir.Value(name="weight", const_value=weight))
        return onnx_ir.Model(content, ir_version=10)

    monkeypatch.setattr(onnx_model, "_graph", graph)


def needs_packages(format: str) -> None:
    is_hidden = sys.modules.get("onnxscript", "") is None  # by a test
    if format == "onnx" and not is_hidden:
        pytest.importorskip("onnxscript", reason="needs the package onnxscript")


@pytest.fixture
def call(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """`call(format, name, *flags)` exports the trained run to tmp_path / name."""

    def call(format: str, name: str, *flags: str) -> tuple[int, str, str]:
        needs_packages(format)
        capsys.readouterr()
        arguments = ["--format", format, "--out", str(tmp_path / name), *flags]
        code = main(["export", "--run", "tiny", "--checkpoints", str(trained), *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def model(tiny_model: SimpleLLM, tokenizer: Tokenizer) -> ExportedModel:
    """Random weights of each architecture, with the first tokens of a real tokenizer."""
    ranks = {token: rank for token, rank in tokenizer.ranks.items() if rank < 299}
    small = Tokenizer(ranks, tokenizer.pattern, 299)
    return ExportedModel("random", source_of(tiny_model, small, "here"))


def export(model: ExportedModel, format: str, type: str, path: Path) -> Path:
    needs_packages(format)
    ExportJob.of(format, type, path).write(model)
    return path


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(("format", "type"), FORMATS)
def test_an_export_is_described_in_json(call: Call, tmp_path: Path, format: str, type: str) -> None:
    code, out, err = call(format, "model", "--type", type, "--json")
    path = tmp_path / "model"
    files = [path] if path.is_file() else list(path.iterdir())
    n_bytes = sum(file.stat().st_size for file in files)
    expected = {"path": str(path), "format": format, "type": type, "bytes": n_bytes}
    assert code == 0, err
    assert json.loads(out) == expected and os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_an_earlier_export_is_replaced_only_with_force(
    call: Call, tmp_path: Path, format: str
) -> None:
    assert call(format, "model")[0] == 0
    before = (tmp_path / "model").stat().st_mtime_ns
    code, out, err = call(format, "model")
    assert code == 2 and "already exists" in err and "--force" in err and err.count("\n") == 2
    assert (tmp_path / "model").stat().st_mtime_ns == before
    assert call(format, "model", "--force")[0] == 0
    assert (tmp_path / "model").stat().st_mtime_ns != before


@pytest.mark.parametrize(
    ("format", "name", "flags", "message"),
    [
        ("gguf", "missing/model.gguf", (), "needs a folder that exists"),
        ("gguf", ".", ("--force",), "got the folder"),
        ("hf", "missing/model", (), "needs a folder that exists"),
        ("hf", "file", ("--force",), "got the file"),
        ("hf", "other", ("--force",), "letters.txt"),
        ("hf", "model", ("--type", "q8_0"), "hf is written as f32 or f16 or bf16"),
        ("onnx", "model", ("--type", "f16"), "onnx is written as f32"),
        ("onnx", "file", ("--force",), "got the file"),
    ],
)
def test_a_wrong_request_is_refused_in_two_lines(
    call: Call, tmp_path: Path, format: str, name: str, flags: tuple[str, ...], message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letters.txt").touch()
    code, out, err = call(format, name, *flags)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 2
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]


@pytest.mark.parametrize(("format", "package"), [("gguf", "gguf"), ("onnx", "onnxscript")])
def test_a_missing_package_is_named_with_its_extra(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, package: str
) -> None:
    needs_packages(format)
    for name in [name for name in sys.modules if "checkpoint.export" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = call(format, "model")
    assert code == 2 and f"needs the package {package}" in err
    assert 'pip install "simplellm[export]"' in err and err.count("\n") == 2


def test_every_format_has_a_writer() -> None:
    assert set(WRITERS) == set(EXPORT_FORMATS)


# ---------------------------------------------------------------- gguf


def reader(path: Path) -> Any:
    return gguf.GGUFReader(path)


def value(file: Any, key: str) -> Any:
    return file.fields[key].contents()


def test_a_gguf_file_has_the_weights_and_the_facts(model: ExportedModel, tmp_path: Path) -> None:
    file = reader(export(model, "gguf", "f32", tmp_path / "model.gguf"))
    config = model.config
    name = value(file, "general.architecture")
    assert name == {"modern": "qwen3", "gpt2": "gpt2"}[config.architecture]
    for key, expected in {
        "context_length": config.block_size,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.inner_size,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_size,
        "attention.value_length": config.head_size,
        "vocab_size": config.vocab_size,
    }.items():
        assert value(file, f"{name}.{key}") == expected, key
    assert value(file, "general.name") == "random" and value(file, "general.file_type") == 0
    stored = {tensor.name: tensor.data for tensor in file.tensors}
    assert len(stored) == len(model.tensors)
    if name == "qwen3":
        key = model.tensors["model.layers.1.self_attn.k_proj.weight"].read()
        assert np.array_equal(stored["blk.1.attn_k.weight"], key.numpy())
    else:
        key = model.tensors["transformer.h.1.attn.c_attn.weight"].read()  # stored as (in, out)
        assert np.array_equal(stored["blk.1.attn_qkv.weight"], key.t().numpy())


def test_a_gguf_file_has_the_tokenizer(model: ExportedModel, tmp_path: Path) -> None:
    file = reader(export(model, "gguf", "f32", tmp_path / "model.gguf"))
    tokens, types = value(file, "tokenizer.ggml.tokens"), value(file, "tokenizer.ggml.token_type")
    assert len(tokens) == len(types) == model.config.vocab_size == 300
    assert tokens[299] == "<|endoftext|>" and types[299] == gguf.TokenType.CONTROL
    assert types[:299] == [gguf.TokenType.NORMAL] * 299 and tokens[ord(" ")] == "Ġ"
    assert len(value(file, "tokenizer.ggml.merges")) == 299 - 256
    assert value(file, "tokenizer.ggml.model") == "gpt2"
    assert value(file, "tokenizer.ggml.eos_token_id") == 299
    assert value(file, "tokenizer.ggml.add_bos_token") is False


@pytest.fixture
def with_unused_rows(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A model folder with ids that have no token: in the vocabulary, and beyond all tokens."""
    gaps = with_gaps(tokenizer)
    config = ModelConfig(
        architecture="llama", n_layer=1, n_head=2, n_embd=32, vocab_size=gaps.vocab_size + 6
    )
    network = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))
    return export(ExportedModel("gaps", source_of(network, gaps, "")), "hf", "f32", tmp_path / "hf")


def test_ids_without_a_token_are_padding_in_a_gguf_file_and_none_when_it_is_read(
    with_unused_rows: Path, tokenizer: Tokenizer, tmp_path: Path, story: str
) -> None:
    path, folder = tmp_path / "model.gguf", ["--checkpoints", str(tmp_path)]
    assert main(["import", str(with_unused_rows), "--name", "gaps", *folder]) == 0
    arguments = ["--run", "gaps", "--format", "gguf", "--out", str(path)]
    assert main(["export", *arguments, *folder]) == 0
    file = reader(path)
    tokens, types = value(file, "tokenizer.ggml.tokens"), value(file, "tokenizer.ggml.token_type")
    gaps = with_gaps(tokenizer)
    used = gaps.to_mapping()["model"]["vocab"]
    assert len(tokens) == len(types) == len(set(tokens)) == gaps.vocab_size + 6
    assert {text: tokens.index(text) for text in used} == used
    unused = sorted(set(range(len(tokens))) - set(used.values()))
    assert len(unused) > 10 and unused[0] < gaps.end_of_text
    assert [(tokens[i], types[i]) for i in unused] == [
        (f"[PAD{i}]", gguf.TokenType.UNUSED) for i in unused
    ]
    assert types[used[LATER]] == gguf.TokenType.CONTROL
    assert types[used[MARK]] == gguf.TokenType.USER_DEFINED
    again = open_source(path).tokenizer
    text = f"{story[:300]}{MARK}{LATER}[PAD{unused[0]}]"
    assert again.encode(text) == gaps.encode(text)
    assert again.encode_template(text) == gaps.encode_template(text)
    assert set(again.to_mapping()["model"]["vocab"]) == set(used)


def test_no_two_texts_of_a_gguf_file_are_equal(with_unused_rows: Path, tmp_path: Path) -> None:
    """A token that reads like the padding of another row; two tokens with one id are refused."""
    source = open_source(with_unused_rows)
    data = source.tokenizer.to_mapping()
    row = max(data["model"]["vocab"].values()) + 3
    data["model"]["vocab"][f"[PAD{row}]"] = row - 1
    model = ExportedModel("odd", replace(source, tokenizer=Tokenizer.from_mapping(data)))
    tokens = value(reader(export(model, "gguf", "f32", tmp_path / "a")), "tokenizer.ggml.tokens")
    assert len(set(tokens)) == len(tokens) and tokens[row] == f"[[PAD{row}]]"

    vocabulary = data["model"]["vocab"]
    del vocabulary[END_OF_TEXT]  # its id is then the number of tokens
    vocabulary[f"[PAD{row}]"] = len(vocabulary)
    model = ExportedModel("odd", replace(source, tokenizer=Tokenizer.from_mapping(data)))
    with pytest.raises(CheckpointError, match=r"odd has two tokens with the id \d+, .*endoftext"):
        export(model, "gguf", "f32", tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("format", ["gguf", "hf"])
def test_added_tokens_are_exported_with_the_ids_that_tokenizers_gives_them(
    with_unused_rows: Path, tmp_path: Path, format: str
) -> None:
    """The ids in a tokenizer.json that another program wrote may be others, and are ignored."""
    source = open_source(with_unused_rows)
    data = source.tokenizer.to_mapping()
    vocabulary = data["model"]["vocab"]
    vocabulary.update(dict(zip(vocabulary, range(len(vocabulary)), strict=True)))
    real = len(vocabulary) - 1
    del vocabulary[MARK]
    data["added_tokens"][-1] |= {"id": 10**6, "special": True}
    assert data["added_tokens"][-1]["content"] == MARK
    tokenizer = Tokenizer.from_mapping(data)
    generation = Generation((real,))
    odd = replace(source, tokenizer=tokenizer, generation=generation)
    path = export(ExportedModel("odd", odd), format, "f32", tmp_path / "model")
    if format == "gguf":
        assert value(reader(path), "tokenizer.ggml.tokens")[real] == MARK
    else:
        config = json.loads((path / "tokenizer_config.json").read_text())
        assert config["eos_token"] == MARK


@pytest.mark.parametrize("type", ["f16", "bf16", "q8_0"])
def test_matrices_have_the_requested_type_and_the_rest_is_float32(
    model: ExportedModel, tmp_path: Path, type: str
) -> None:
    exact = reader(export(model, "gguf", "f32", tmp_path / "exact"))
    rounded = reader(export(model, "gguf", type, tmp_path / "rounded"))
    error = {"f16": 1e-3, "bf16": 8e-3, "q8_0": 5e-3}[type]
    for before, after in zip(exact.tensors, rounded.tensors, strict=True):
        is_matrix = len(before.shape) == 2 and before.name != "position_embd.weight"
        assert after.tensor_type.name == (type.upper() if is_matrix else "F32"), after.name
        values = gguf.dequantize(after.data, after.tensor_type)
        assert np.abs(values - before.data).max() <= error * np.abs(before.data).max()


def test_q8_0_stores_narrow_matrices_as_f16_and_says_so(tmp_path: Path) -> None:
    config = ModelConfig(n_layer=1, n_head=2, n_embd=48, n_inner=64, vocab_size=257)
    network = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)})
    notices: list[str] = []
    source = source_of(network, tokenizer, "here")
    model = ExportedModel("narrow", source, notice=notices.append)
    file = reader(export(model, "gguf", "q8_0", tmp_path / "model.gguf"))
    types = {tensor.name: tensor.tensor_type.name for tensor in file.tensors}
    assert types["token_embd.weight"] == "F16" and types["blk.0.ffn_down.weight"] == "Q8_0"
    n_narrow = list(types.values()).count("F16")
    assert notices == [
        f"{n_narrow} of {len(types)} tensors are stored as f16, because q8_0 needs rows of a "
        "multiple of 32 numbers: token_embd.weight has 48"
    ]


@pytest.mark.parametrize("format", ["gguf", "hf"])
def test_a_number_that_f16_cannot_hold_is_named(
    model: ExportedModel, tiny_model: SimpleLLM, tmp_path: Path, format: str
) -> None:
    with torch.no_grad():
        tiny_model.token_embedding.weight[3, 3] = 1e6
    with pytest.raises(CheckpointError, match=r"embd|embed|wte") as found:
        export(model, format, "f16", tmp_path / "model")
    assert "bf16" in found.value.fix and os.listdir(tmp_path) == []


def test_a_run_of_an_earlier_version_names_the_nearest_pattern_and_counts_what_differs(
    tmp_path: Path,
) -> None:
    ranks = Tokenizer.train(["12345 12345 67890 abc abc"] * 20, 300).ranks
    tokenizer = Tokenizer(ranks, EARLIER_SPLIT_PATTERN)
    config = ModelConfig(n_layer=1, n_head=1, n_embd=8, vocab_size=tokenizer.vocab_size)
    network = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))
    documents = ["12345 abc", "abc abc"]
    notices: list[str] = []
    for held_out in (documents, documents[1:], []):
        source = source_of(network, tokenizer, "here")
        read = partial(list, held_out)
        model = ExportedModel("old", source, held_out=read, notice=notices.append)
        path = tmp_path / f"{len(held_out)}.gguf"
        file = reader(export(model, "gguf", "f32", path))
        assert value(file, "tokenizer.ggml.pre") in named_patterns()
    n_ids = sum(len(tokenizer.encode(text)) for text in documents)
    n_same = len(tokenizer.encode(documents[1]))
    assert re.search(rf": \d of the {n_ids} ids of its held-out text differ$", notices[0])
    assert notices[1].endswith(f": all {n_same} ids of its held-out text are the same")
    assert notices[2].endswith("the ids that differ are not counted")
    assert ", llama-bpe:" in notices[1] and ", llama-bpe:" in notices[2]


@pytest.mark.parametrize("lost", [False, True])
def test_the_held_out_text_of_a_run_is_read_again(
    trained: Path, tmp_path: Path, story: str, lost: bool
) -> None:
    folder = shutil.copytree(trained, tmp_path / "runs")
    if lost:  # then it comes from the file
        shutil.rmtree(folder / ".prepared")
    documents = held_out_documents(RunFolder(folder / "tiny"))
    assert len(documents) == 1 and len(documents[0]) > 500 and story.endswith(documents[0])


# ---------------------------------------------------------------- hf


def test_a_folder_has_the_files_of_the_checkpoint(
    call: Call, trained: Path, tmp_path: Path
) -> None:
    assert call("hf", "model")[0] == 0
    checkpoint = find_checkpoint("tiny", trained, print)
    exported = tmp_path / "model"
    names = {path.name for path in checkpoint.iterdir() if path.is_file()} - {"manifest.json"}
    assert {path.name for path in exported.iterdir()} == names | {"README.md"}
    for name in names - {"model.safetensors"}:
        assert (exported / name).read_bytes() == (checkpoint / name).read_bytes()
    before, after = (read_tensors(f / "model.safetensors") for f in (checkpoint, exported))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {path.stat().st_mode for path in exported.iterdir()} == {
        (exported / "config.json").stat().st_mode
    }


def test_a_model_card_names_the_text_the_scores_and_the_settings_but_no_path(
    trained: Path, tmp_path: Path
) -> None:
    model = exported_model(find_checkpoint("tiny", trained, print))
    card = model_card(model, "f32")
    digest = next(iter(model.info["fingerprint"].values()))
    assert f"`{digest}`" in card and f"{model.figures['bits_per_byte']:.5g}" in card
    assert "| `n_embd` | 32 |" in card and "# tiny" in card
    given = [*model.info["texts"], str(trained), str(tmp_path), "the-verdict", os.sep + "tmp"]
    for secret in (*given, getpass.getuser() + os.sep, socket.gethostname()):
        assert secret not in card, secret


def test_a_model_card_shows_nothing_of_a_forged_run_json(model: ExportedModel) -> None:
    forged = {
        "files": [{"sha256": "/home/x", "characters": 3}, "text", {"sha256": "a" * 64}],
        "val_fingerprint": ["/home/x"],
        "model": {"n_embd": "/home/x", "unknown": "/home/x", "n_layer": [1]},
        "training": "/home/x",
    }
    card = model_card(replace(model, info=forged, figures={"step": "/home/x"}), "f32")
    assert "/home" not in card and "##" not in card


# ---------------------------------------------------------------- failing disks


@pytest.mark.parametrize("format", EXPORT_FORMATS)
@pytest.mark.parametrize("exists", [False, True])
def test_each_failing_write_leaves_the_old_state_and_nothing_else(
    model: ExportedModel, tmp_path: Path, format: str, exists: bool
) -> None:
    needs_packages(format)
    path = tmp_path / "model"
    type = EXPORT_FORMATS[format].types[0]
    before = export(model, format, type, path) if exists else None
    old = contents(path) if before else {}
    with Disk(tmp_path) as disk:
        ExportJob.of(format, type, path, force=True).write(model)
    n_events = len(disk.events)
    assert n_events > 4
    for at in range(n_events):
        if not exists:
            remove(path)
        fail = Fail(at, ERRORS[at % len(ERRORS)])
        with Disk(tmp_path, fail), pytest.raises(CheckpointError, match="cannot write"):
            ExportJob.of(format, type, path, force=True).write(model)
        if at < n_events - 1:  # the last event makes the new name durable
            assert contents(path) == old
        assert os.listdir(tmp_path) == (["model"] if path.exists() else [])


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    return {file.name: file.read_bytes() for file in files}


def remove(path: Path) -> None:
    for file in path.iterdir() if path.is_dir() else []:
        file.unlink()
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


@posix_only
@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_a_file_that_the_system_refuses_leaves_nothing(
    call: Call, tmp_path: Path, format: str
) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # as a disk that is full
    try:
        code, out, err = call(format, "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1 and "cannot write" in err and err.count("\n") == 2
    assert os.listdir(tmp_path) == []
