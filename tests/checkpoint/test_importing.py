"""A model folder of transformers becomes a run, or is used directly; damage is one typed error."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults.layer import ERRORS, Disk, Fail

import simplellm
from simplellm.app.cli import main
from simplellm.app.subcommands import import_model
from simplellm.checkpoint.export import export
from simplellm.checkpoint.importing import hub
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import open_model
from simplellm.data.tokenizer import Tokenizer
from tests.model_folders import change_json, save_model

CPU = torch.device("cpu")
KINDS = ["Llama", "Mistral", "Qwen2", "Qwen3", "GPT2"]
pytestmark = pytest.mark.usefixtures("transformers")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A folder that tests must copy before they change it."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    save_model(folder, "Llama", tokenizer)
    return folder


@pytest.fixture
def copied(llama: Path, tmp_path: Path) -> Path:
    return shutil.copytree(llama, tmp_path / "llama")


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()  # what `transformers` wrote
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        result = model(ids)
    return getattr(result, "logits", result)


IDS = torch.randint(400, (1, 40), generator=torch.Generator().manual_seed(3))


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize("kind", KINDS)
def test_an_imported_run_has_the_logits_of_its_source(
    kind: str, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"sliding_window": None} if kind == "Mistral" else {}
    theirs = save_model(tmp_path / "source", kind, tokenizer, **options)
    runs = tmp_path / "runs"
    code, out, _ = run_command(
        capsys, "import", tmp_path / "source", "--name", "open", "--json", "--checkpoints", runs
    )
    assert code == 0
    result = json.loads(out)
    assert result == {
        "run": "open",
        "path": str(runs / "open" / "step-000000"),
        "architecture": kind.lower(),
        "parameters": sum(weight.numel() for weight in theirs.parameters()),
        "vocabulary": tokenizer.vocab_size,
        "context": 128,
    }
    ours = open_model(Path(result["path"]), CPU).model
    torch.testing.assert_close(logits_of(ours, IDS), logits_of(theirs, IDS), atol=1e-4, rtol=0)
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(result["path"]).eval()
    assert type(again) is type(theirs)
    assert torch.equal(logits_of(again, IDS), logits_of(theirs, IDS))


def test_the_size_of_a_large_model_is_shown_before_it_is_read_or_written(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = ["--name", "x", "--checkpoints", tmp_path / "runs"]
    assert "reading" not in run_command(capsys, "import", llama, *runs)[2]
    monkeypatch.setattr(import_model, "SLOW_PARAMETERS", 1000)
    monkeypatch.setattr(export, "SLOW_PARAMETERS", 1000)
    runs[1] = "y"
    _, _, err = run_command(capsys, "import", llama, *runs)
    assert err.startswith(f"reading {llama}: ") and " parameters\n" in err
    out = tmp_path / "out"
    _, _, err = run_command(capsys, "export", "--run", llama, "--format", "hf", "--out", out)
    assert err.startswith(f"writing {out}: ") and " parameters as f32\n" in err


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shards_of_half_precision_stay_so_on_disk(
    dtype: torch.dtype, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    theirs = save_model(source, "Qwen3", tokenizer, dtype, "50kB", head_dim=16)
    assert len(list(source.glob("*.safetensors"))) > 2
    arguments = ["import", str(source), "--name", "open", "--checkpoints", str(tmp_path / "runs")]
    assert main(arguments) == 0
    folder = tmp_path / "runs" / "open" / "step-000000"
    import safetensors.torch

    stored = safetensors.torch.load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype)[6:]
    opened = open_model(folder, CPU).model
    torch.testing.assert_close(logits_of(opened, IDS), logits_of(theirs, IDS), atol=1e-4, rtol=0)
    direct = open_model(source, CPU).model
    assert torch.equal(logits_of(direct, IDS), logits_of(opened, IDS))


def test_a_base_model_and_old_buffers_are_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The names of GPT-2 as OpenAI's weights are stored on the hub."""
    import safetensors.torch

    source = tmp_path / "source"
    theirs = save_model(source, "GPT2", tokenizer)
    path = source / "model.safetensors"
    state = {
        name.removeprefix("transformer."): tensor
        for name, tensor in safetensors.torch.load_file(path).items()
    }
    for layer in range(3):
        state[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 128, 128, dtype=torch.uint8)
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    safetensors.torch.save_file(state, path, {"format": "pt"})
    opened = open_model(source, CPU).model
    torch.testing.assert_close(logits_of(opened, IDS), logits_of(theirs, IDS), atol=1e-4, rtol=0)


def test_a_copy_of_a_tied_output_table_is_ignored(copied: Path, tokenizer: Tokenizer) -> None:
    import safetensors.torch

    theirs = save_model(copied, "Llama", tokenizer, tie_word_embeddings=True)
    path = copied / "model.safetensors"
    state = safetensors.torch.load_file(path)
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    safetensors.torch.save_file(state, path, {"format": "pt"})
    opened = open_model(copied, CPU).model
    torch.testing.assert_close(logits_of(opened, IDS), logits_of(theirs, IDS), atol=1e-4, rtol=0)


def test_a_table_with_more_rows_than_tokens_is_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    n_rows = tokenizer.vocab_size + 24
    save_model(tmp_path / "padded", "Qwen2", tokenizer, vocab_size=n_rows)
    assert simplellm.load(tmp_path / "padded").config.vocab_size == n_rows


# ---------------------------------------------------------------- commands


def test_every_command_uses_a_folder_directly(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("He was there. " * 30)
    runs = ("--checkpoints", tmp_path / "none", "--run", llama)
    prompt = ("--prompt", "He was", "--json")
    commands = [
        ("generate", *prompt, "--max-new-tokens", "5", "--temperature", "0"),
        ("generate", *prompt, "--max-new-tokens", "5", "--num-beams", "3"),
        ("generate", *prompt, "--max-new-tokens", "5", "--quantize", "int8"),
        ("analyze", *prompt, "--top", "3"),
        ("evaluate", "--data", text, "--json"),
        ("verify", "--json"),
        ("bench", "generate", "--max-new-tokens", "3", "--json"),
    ]
    for command in commands:
        code, out, err = run_command(capsys, *command, *runs)
        assert code == 0, err
        json.loads(out)
    assert not (tmp_path / "none").exists()


def test_bench_measures_the_model_of_a_run(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = ("bench", "generate", "--run", llama, "--max-new-tokens", "3")
    code, out, _ = run_command(capsys, *bench, "--json")
    assert code == 0
    assert json.loads(out)["parameters"] == simplellm.load(llama).network.n_parameters
    code, _, err = run_command(capsys, *bench, "--n-layer", "2")
    assert code == 2
    assert "got --n-layer" in err


def test_a_relative_name_of_a_folder_is_found(
    llama: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(llama.parent)
    code, out, _ = run_command(capsys, "verify", "--run", "llama")
    assert code == 0
    assert "whole" in out


def test_an_imported_run_is_listed_verified_and_not_resumed(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ("--checkpoints", tmp_path / "runs")
    assert run_command(capsys, "import", llama, *runs)[0] == 0
    code, out, _ = run_command(capsys, "runs", "--json", *runs)
    (row,) = json.loads(out)
    assert (row["run"], row["best_step"], row["val_loss"]) == ("llama", 0, None)
    assert row["architecture"] == "llama"
    assert "llama" in run_command(capsys, "runs", *runs)[1]
    assert run_command(capsys, "verify", "llama", *runs)[0] == 0
    code, _, err = run_command(capsys, "train", "--resume", "--name", "llama", *runs)
    assert code == 1
    assert "imported, not trained here" in err
    code, _, err = run_command(capsys, "import", llama, "--name", "llama", *runs)
    assert code == 1
    assert "already exists" in err


def test_the_info_of_a_run_names_its_source_and_the_digests(llama: Path, tmp_path: Path) -> None:
    assert main(["import", str(llama), "--checkpoints", str(tmp_path)]) == 0
    info = json.loads((tmp_path / "llama" / "run.json").read_text())
    manifest = json.loads((tmp_path / "llama" / "step-000000" / "manifest.json").read_text())
    imported = info["imported"]
    assert imported["source"] == str(llama)
    weights = "model.safetensors"
    assert imported["fingerprint"][weights] == manifest["files"][weights]["sha256"]


def test_the_chat_shows_where_a_run_was_imported_from(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = ("--checkpoints", tmp_path)
    assert run_command(capsys, "import", llama, *runs)[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("/info\nHe was\n/source\n"))
    code, out, err = run_command(
        capsys, "chat", "--run", "llama", "--max-new-tokens", 2, "--device", "cpu", *runs
    )
    assert f"imported from\t{llama}\n" in out
    assert f"llama was imported from {llama}; its training text is not known" in out + err
    info = tmp_path / "llama" / "run.json"
    for damaged in (3, {}, {"source": 5}):
        change_json(info, imported=damaged)
        assert RunFolder(info.parent).imported_from() == "an unknown source"


def test_the_context_can_be_limited(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simplellm.load(llama, context=50).config.block_size == 50
    assert simplellm.load(llama, context=5000).config.block_size == 128
    arguments = ("--context", "60", "--checkpoints", tmp_path, "--json")
    _, out, _ = run_command(capsys, "import", llama, *arguments)
    assert json.loads(out)["context"] == 60
    assert simplellm.load("llama", checkpoints=tmp_path).config.block_size == 60
    assert simplellm.load("llama", checkpoints=tmp_path, context=100).config.block_size == 100
    code, _, err = run_command(capsys, "generate", "--run", llama, "--prompt", "x", "--context", 1)
    assert code == 2
    assert "context is a whole number, 2 to" in err


# ---------------------------------------------------------------- generation


def test_special_tokens_and_the_chat_template_are_kept(
    copied: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    end = tokenizer.end_of_text
    change_json(copied / "generation_config.json", eos_token_id=[end, 5], bos_token_id=7)
    template = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    (copied / "chat_template.jinja").write_text(template)
    assert main(["import", str(copied), "--checkpoints", str(tmp_path / "runs")]) == 0
    folder = tmp_path / "runs" / "llama" / "step-000000"
    generation = open_model(folder, CPU).generation
    assert generation.eos_ids == (end, 5)
    assert generation.bos_id == 7
    assert generation.chat_template == template
    stated = json.loads((folder / "generation_config.json").read_text())
    assert (stated["eos_token_id"], stated["bos_token_id"]) == ([end, 5], 7)


def test_a_template_in_the_tokenizer_config_is_read(copied: Path) -> None:
    path = copied / "tokenizer_config.json"
    change_json(path, chat_template="{{ messages }}")
    assert open_model(copied, CPU).generation.chat_template == "{{ messages }}"
    named = [{"name": "tool", "template": "a"}, {"name": "default", "template": "b"}]
    change_json(path, chat_template=named)
    assert open_model(copied, CPU).generation.chat_template == "b"


def test_each_end_token_stops_a_reply(copied: Path) -> None:
    model = simplellm.load(copied)
    settings = {"temperature": 0, "max_new_tokens": 12}
    first = int(np.argmax(model._sampler.next_logits(model._sampler.encode("He was"))))
    assert model.generate("He was", **settings) != ""
    path = copied / "generation_config.json"
    change_json(path, eos_token_id=[model.tokenizer.end_of_text, first])
    assert simplellm.load(copied).generate("He was", **settings) == ""


def test_each_end_token_ends_a_beam(copied: Path) -> None:
    settings = {"num_beams": 3, "max_new_tokens": 12}
    assert simplellm.load(copied).generate("He was", **settings) != ""
    vocabulary = list(range(simplellm.load(copied).config.vocab_size))
    change_json(copied / "generation_config.json", eos_token_id=vocabulary)
    assert len(simplellm.load(copied).generate("He was", **settings).encode()) <= 1


# ---------------------------------------------------------------- bad input


def _first_shard_removed(folder: Path) -> None:
    min(folder.glob("model-*.safetensors")).unlink()


def _index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model.safetensors.index.json").read_text())


def _index_points_outside(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    shard = min(folder.glob("model-*.safetensors"))
    shutil.move(shard, outside)
    weights = {
        name: "../outside.safetensors" if file == shard.name else file
        for name, file in _index(folder)["weight_map"].items()
    }
    change_json(folder / "model.safetensors.index.json", weight_map=weights)


def _index_names_an_absent_tensor(folder: Path) -> None:
    weights = _index(folder)["weight_map"]
    shard = next(iter(weights.values()))
    change_json(
        folder / "model.safetensors.index.json", weight_map={**weights, "model.extra": shard}
    )


SHARD_DAMAGE: dict[str, Callable[[Path], None]] = {
    "a missing shard": _first_shard_removed,
    "an index that points outside": _index_points_outside,
    "an index with an absent tensor": _index_names_an_absent_tensor,
    "an index without a map": lambda folder: (
        (folder / "model.safetensors.index.json").write_text("{}"),
        None,
    )[1],
    "an index that is a list": lambda folder: change_json(
        folder / "model.safetensors.index.json", weight_map=[1, 2]
    ),
}


def _grow_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])


def _lying_shape(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = content[8 : 8 + length].replace(b'"shape":[', b'"shape":[99999999999,', 1)
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _not_finite(folder: Path) -> None:
    import safetensors.torch

    path = folder / "model.safetensors"
    state = safetensors.torch.load_file(path)
    state["model.norm.weight"][3] = float("nan")
    safetensors.torch.save_file(state, path)


def _other_type(folder: Path) -> None:
    import safetensors.torch

    path = folder / "model.safetensors"
    state = safetensors.torch.load_file(path)
    state["model.norm.weight"] = state["model.norm.weight"].double()
    safetensors.torch.save_file(state, path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a huge header": (_grow_header, "header"),
    "a lying shape": (_lying_shape, "bytes for a shape"),
    "a truncated file": (_truncated, "bytes"),
    "pickled weights only": (_pickle_only, "save it as safetensors"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
    "a value that is not finite": (_not_finite, "model.norm.weight"),
    "a tensor of doubles": (_other_type, "F64"),
    "fewer layers in the config": (
        lambda folder: change_json(folder / "config.json", num_hidden_layers=2),
        "layers.2",
    ),
    "more layers in the config": (
        lambda folder: change_json(folder / "config.json", num_hidden_layers=4),
        "layers.3",
    ),
    "heads too large for memory": (
        lambda folder: change_json(
            folder / "config.json", head_dim=60_000, max_position_embeddings=1_000_000
        ),
        "too long for its model",
    ),
    "another width in the config": (
        lambda folder: change_json(folder / "config.json", hidden_size=64),
        "shape",
    ),
    "a smaller table than the vocabulary": (
        lambda folder: change_json(folder / "config.json", vocab_size=400),
        "400",
    ),
    "another type": (
        lambda folder: change_json(folder / "config.json", model_type="gemma3"),
        "gemma3 is not supported",
    ),
    "a template that does not parse": (
        lambda folder: (folder / "chat_template.jinja").write_text("{% for %}"),
        "chat template",
    ),
    "a template that is no text": (
        lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff\xfe"),
        "not UTF-8",
    ),
    "an end token that is no id": (
        lambda folder: change_json(folder / "generation_config.json", eos_token_id="</s>"),
        "no ids",
    ),
    "positions that are no number": (
        lambda folder: change_json(folder / "config.json", max_position_embeddings="128"),
        "max_position_embeddings is a whole number over 0, got '128'",
    ),
    "no key heads": (
        lambda folder: change_json(folder / "config.json", num_key_value_heads=0),
        "num_key_value_heads is a whole number over 0, got 0",
    ),
    "heads that are an object": (
        lambda folder: change_json(folder / "config.json", num_attention_heads={}),
        "num_attention_heads is a whole number",
    ),
    "an unknown RoPE type": (
        lambda folder: change_json(folder / "config.json", rope_scaling={"type": "longrope"}),
        "the RoPE type 'longrope' is not supported",
    ),
    "a tokenizer of single words": (
        lambda folder: change_json(folder / "tokenizer.json", model={"type": "WordPiece"}),
        "WordPiece tokenizers are not supported",
    ),
    "a tokenizer that is no object": (
        lambda folder: change_json(folder / "tokenizer.json", model=3),
        "an entry has the wrong type",
    ),
    "a tokenizer in small letters": (
        lambda folder: change_json(folder / "tokenizer.json", normalizer={"type": "Lowercase"}),
        "the normalizer Lowercase is not supported",
    ),
    "a config that is no JSON": (
        lambda folder: (folder / "config.json").write_text("import os"),
        "not JSON",
    ),
}


def assert_refused(source: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> str:
    code, out, err = run_command(capsys, "import", source, "--name", "open", "--checkpoints", runs)
    assert code == 1
    assert out == ""
    assert len(err.strip().splitlines()) <= 2
    assert not runs.exists() or not any(runs.iterdir())
    return err


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_one_error_and_writes_nothing(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    damage, named = DAMAGE[kind]
    damage(copied)
    assert named in assert_refused(copied, tmp_path / "runs", capsys)


def test_an_error_about_a_source_says_what_to_name_instead(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = copied.rename(tmp_path / "모델 1")
    for file in ("model.safetensors", "config.json"):
        assert f"name the folder of the model: {copied}" in assert_refused(
            copied / file, tmp_path / "runs", capsys
        )
    for source in (copied / "model.safetensors", tmp_path):
        code, _, err = run_command(capsys, "generate", "--run", source, "--prompt", "x")
        assert code == 1
        assert str(copied) in err
    assert f"name a model in it: {copied}" in assert_refused(tmp_path, tmp_path / "runs", capsys)
    code, _, err = run_command(capsys, "import", "", "--checkpoints", tmp_path / "runs")
    assert code == 2 and err.startswith("error: SOURCE is empty")
    for name in ("https://huggingface.co/nobody/no-model", "nobody/no-model"):
        err = assert_refused(Path(name), tmp_path / "runs", capsys)
        assert "does not exist" in err
        assert "hf:nobody/no-model" in err


@pytest.mark.parametrize("kind", SHARD_DAMAGE)
def test_damaged_shards_are_one_error(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    save_model(tmp_path / "sharded", "Llama", tokenizer, shard_size="100KB")
    SHARD_DAMAGE[kind](tmp_path / "sharded")
    assert_refused(tmp_path / "sharded", tmp_path / "runs", capsys)


def test_code_in_a_folder_is_never_run(copied: Path, tmp_path: Path) -> None:
    change_json(copied / "config.json", auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    change_json(copied / "tokenizer_config.json", auto_map={"AutoTokenizer": ["t.T", None]})
    (copied / "modeling_x.py").write_text("raise SystemExit('this was run')")
    assert main(["import", str(copied), "--checkpoints", str(tmp_path / "runs")]) == 0
    written = tmp_path / "runs" / "llama" / "step-000000"
    assert not list(written.glob("*.py"))
    assert all(b"auto_map" not in path.read_bytes() for path in written.glob("*.json"))


def test_an_import_that_the_disk_refuses_leaves_no_run(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each write, rename and new folder fails, the first ones as in a read-only folder."""
    runs = tmp_path / "runs"
    command = ("import", llama, "--checkpoints", runs)
    with Disk(tmp_path) as disk:
        assert run_command(capsys, *command)[0] == 0
    n_events = len(disk.events)
    assert n_events > 10
    for at in range(n_events - 1):  # the last event makes the new name durable
        shutil.rmtree(runs)
        number = ERRORS[at % len(ERRORS)]
        with Disk(tmp_path, Fail(at, number, times=10**9)):
            code, out, err = run_command(capsys, *command)
        errors = [line for line in err.splitlines() if line.startswith("error:")]
        assert (code, out, len(errors)) == (1, "", 1), disk.events[at]
        assert os.strerror(number) in errors[0]
        assert not runs.exists() or list(runs.iterdir()) == []
        runs.mkdir(exist_ok=True)


@pytest.mark.parametrize("missing", ["nothing", "best.json", "step-000000"])
def test_a_killed_import_leaves_no_run(
    llama: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    missing: str,
) -> None:
    """A killed process cannot clean up: its temporary folder stays, until the next import."""
    runs = tmp_path / "runs"
    left = runs / ".tmp-llama-12345678"
    assert run_command(capsys, "import", llama, "--checkpoints", tmp_path / "other")[0] == 0
    shutil.copytree(tmp_path / "other" / "llama", left)
    if missing == "best.json":
        (left / missing).unlink()
    if missing == "step-000000":
        shutil.rmtree(left / missing)
    assert run_command(capsys, "runs", "--json", "--checkpoints", runs)[1].strip() == "[]"
    code, _, err = run_command(capsys, "generate", "--prompt", "x", "--checkpoints", runs)
    assert code == 1
    assert "no trained run" in err
    assert run_command(capsys, "import", llama, "--checkpoints", runs)[0] == 0
    assert [path.name for path in runs.iterdir()] == ["llama"]


# ---------------------------------------------------------------- the hub


def test_a_model_on_the_hub_is_imported_without_code(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked: list[tuple[str, str | None]] = []

    def fake(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in allow_patterns)
        return str(shutil.copytree(llama, tmp_path / "abc123"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    source = "hf:someone/Small-Llama@v1"
    code, out, _ = run_command(
        capsys, "import", source, "--json", "--checkpoints", tmp_path / "runs"
    )
    assert code == 0
    assert asked == [("someone/Small-Llama", "v1")]
    assert json.loads(out)["run"] == "Small-Llama"
    info = json.loads((tmp_path / "runs" / "Small-Llama" / "run.json").read_text())
    assert info["imported"]["source"] == "hf:someone/Small-Llama@abc123"


def test_a_hub_that_cannot_be_reached_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    code, _, err = run_command(
        capsys, "import", "hf:someone/model", "--checkpoints", tmp_path / "runs"
    )
    assert code == 1
    assert "the hub cannot be reached" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("source", ["hf:", "hf:name", "hf:../../x/y", "hf:a/b@", "hf:a b/c"])
def test_a_wrong_name_on_the_hub_is_refused(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_command(
        capsys, "import", source, "--name", "x", "--checkpoints", tmp_path / "runs"
    )
    assert code == 2
    assert "hf:OWNER/NAME" in err


def test_a_missing_package_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert hub.is_hub_name("hf:a/b")
    code, _, err = run_command(capsys, "import", "hf:a/b", "--checkpoints", tmp_path / "runs")
    assert code == 2
    assert 'pip install "simplellm[hub]"' in err
