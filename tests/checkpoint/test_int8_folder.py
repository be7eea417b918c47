"""Model folders with weights in 8 bits, as the base model of the package is stored."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from simplellm.checkpoint.int8_tensors import from_int8, to_int8
from simplellm.checkpoint.step_folder import load_model
from simplellm.checkpoint.tensors import read_tensors, save_tensors
from simplellm.errors import CheckpointError
from simplellm.storage.manifest import verify_manifest, write_manifest

CPU = torch.device("cpu")


def test_each_weight_is_rounded_by_at_most_half_a_step_of_its_row() -> None:
    matrix = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    matrix[2] = 0  # stays zero
    matrix[3] *= 1000
    stored = to_int8({"a": matrix, "norm": torch.ones(3)})
    integers, scales = stored["a"], stored["a.scale"]
    assert integers.dtype == torch.int8 and torch.equal(stored["norm"], torch.ones(3))
    error = (from_int8(integers, scales) - matrix).abs()
    assert bool((error <= scales[:, None] / 2 * 1.001).all()) and not error[2].any()


def test_a_folder_in_8_bits_is_a_quarter_as_large_and_predicts_alike(small_base, trained_model):
    model, tokenizer = trained_model
    rounded, same_tokenizer = load_model(small_base, CPU)
    verify_manifest(small_base)
    ids = torch.tensor([tokenizer.encode("The judge sat up.")])
    assert same_tokenizer.fingerprint == tokenizer.fingerprint
    with torch.no_grad():
        assert float((rounded(ids) - model(ids)).abs().max()) < 0.1
    size = (small_base / "model.safetensors").stat().st_size
    assert size < 0.35 * 4 * model.n_parameters


@pytest.mark.parametrize("damage", ["missing", "shape", "type"])
def test_rows_without_a_scale_are_refused(small_base: Path, damage: str) -> None:
    path = small_base / "model.safetensors"
    tensors = read_tensors(path)
    name = next(name for name in tensors if name.endswith(".scale"))
    scale = tensors.pop(name)
    if damage != "missing":
        tensors[name] = scale[1:].clone() if damage == "shape" else scale.half()
    save_tensors(path, tensors)
    (small_base / "manifest.json").unlink()
    write_manifest(small_base)
    with pytest.raises(CheckpointError, match="without a scale for each row"):
        load_model(small_base, CPU)


def test_a_run_becomes_the_base_model_with_one_command(trained, tmp_path, capsys):
    path = ROOT / "base" / "install.py"
    if not path.is_file():
        pytest.skip("base/install.py is in the repository only")
    spec = importlib.util.spec_from_file_location("install", path)
    assert spec is not None and spec.loader is not None
    install = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(install)
    text, report = tmp_path / "held-out.txt", tmp_path / "report.json"
    text.write_text("The judge sat up. " * 20, encoding="utf-8")
    report.write_text('{"sources": {"jargon": {"licence": "public domain", "characters": 1234}}}')
    out = tmp_path / "model"
    flags = ["--checkpoints", str(trained), "--out", str(out), "--report", str(report)]
    for _ in range(2):  # the second time it replaces the folder
        install.main(["tiny", *flags, "--data", str(text)])
    verify_manifest(out)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "| jargon | public domain | 1,234 |" in card and "rounding" in capsys.readouterr().out
