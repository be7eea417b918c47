"""The public Python API: train, load, generate, stream, evaluate, next_tokens and export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, STORY

import simplellm
from simplellm.app.cli import main
from simplellm.checkpoint.export.export import Exported

TINY: dict[str, Any] = {
    "n_layer": 1, "n_embd": 32, "block_size": 32, "vocab_size": 300, "batch_size": 4,
    "max_steps": 12, "eval_tokens": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> simplellm.Run:
    folder = tmp_path_factory.mktemp("checkpoints")
    return simplellm.train(STORY, name="story", checkpoints=folder, device="cpu", **TINY)


@pytest.fixture(scope="module")
def model(run: simplellm.Run) -> simplellm.Model:
    return simplellm.load(run, device="cpu")


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_importing_the_package_loads_no_torch_and_changes_no_environment():
    code = (
        "import os, sys; before = dict(os.environ); import simplellm; "
        "simplellm.SimpleLLMError, simplellm.SamplingParams(top_k=3); "
        "print('torch' in sys.modules, dict(os.environ) == before)"
    )
    assert python(code) == "False True\n"


def test_importing_the_package_takes_less_than_50_ms():
    code = "import time; t = time.process_time(); import simplellm; print(time.process_time() - t)"
    assert min(float(python(code)) for _ in range(5)) < 0.05


def test_every_public_name_is_there_and_no_other():
    assert {name: getattr(simplellm, name) for name in simplellm.__all__}
    assert set(simplellm.__all__) <= set(dir(simplellm))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        simplellm.trian  # noqa: B018


def test_a_run_has_the_figures_that_the_command_line_lists(run, capsys):
    assert main(["runs", "--json", "--checkpoints", str(run.path.parent)]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["run"], row["best_step"]) == (run.name, run.best_step) == ("story", 12)
    assert (row["val_loss"], row["bits_per_byte"]) == (run.val_loss, run.bits_per_byte)


def test_generate_is_the_reply_of_the_command_line(run, model, capsys):
    command = ["generate", "--run", str(run.path), "--prompt", "The judge", "--seed", "5", "--json"]
    assert main([*command, "--max-new-tokens", "9", "--top-k", "7", "--device", "cpu"]) == 0
    expected = json.loads(capsys.readouterr().out)["text"]
    assert model.generate("The judge", seed=5, max_new_tokens=9, top_k=7) == expected
    params = simplellm.SamplingParams(seed=5, max_new_tokens=9)
    assert model.generate("The judge", params, top_k=7) == expected


def test_beams_are_searched_where_they_are_asked_for(model):
    replies = {model.generate("The", num_beams=3, max_new_tokens=6) for _ in range(2)}
    assert len(replies) == 1


def test_a_stream_joined_is_the_whole_reply(model):
    pieces = list(model.stream("판사는", seed=2, max_new_tokens=12))
    assert len(pieces) > 1 and all(pieces)
    assert "".join(pieces) == model.generate("판사는", seed=2, max_new_tokens=12)


def test_a_stream_samples_nothing_before_it_is_read(model, monkeypatch):
    calls: list[int] = []
    next_logits = model._sampler.next_logits
    monkeypatch.setattr(
        model._sampler, "next_logits", lambda ids: (calls.append(1), next_logits(ids))[1]
    )
    stream = model.stream("The", max_new_tokens=3)
    assert calls == []
    assert "".join(stream) and len(calls) == 3


def test_evaluate_is_the_evaluation_of_the_command_line(run, model, tmp_path, capsys):
    text = "The judge looked at the picture.\n" * 9
    (tmp_path / "text.txt").write_text(text)
    command = ["evaluate", "--run", str(run.path), "--data", str(tmp_path / "text.txt"), "--json"]
    assert main([*command, "--device", "cpu"]) == 0
    assert model.evaluate(text).to_mapping() == json.loads(capsys.readouterr().out)


def test_next_tokens_come_most_likely_first_with_their_probabilities(model):
    tokens = model.next_tokens("The", top=5, top_k=2)
    probabilities = [token.probability for token in tokens]
    assert probabilities == sorted(probabilities, reverse=True) and len(tokens) == 5
    assert [token.kept for token in tokens] == [True, True, False, False, False]


def test_training_reports_records_and_messages_and_prints_nothing(tmp_path, capsys):
    records: list[dict[str, Any]] = []
    notices: list[str] = []
    run = simplellm.train(
        [STORY], checkpoints=tmp_path, device="cpu", log=records.append, notice=notices.append,
        **{**TINY, "max_steps": 2},
    )  # fmt: skip
    assert {"step", "evaluation"} <= {record["kind"] for record in records}
    assert any("the-verdict" in notice for notice in notices) and run.name == "the-verdict"
    assert capsys.readouterr() == ("", "")


def test_a_text_with_line_breaks_is_the_text_itself(tmp_path):
    settings = {**TINY, "max_steps": 1}
    text = "그림은 벽에 걸려 있었다.\n" * 200
    names = [
        simplellm.train(text, checkpoints=tmp_path, device="cpu", **settings).name for _ in "12"
    ]
    assert names == ["text", "text-2"]


def test_a_run_is_the_base_of_another(run, tmp_path):
    settings = {"max_steps": 1, "eval_tokens": 64}
    again = simplellm.train(STORY, base=run, checkpoints=tmp_path, device="cpu", **settings)
    info = json.loads((again.path / "run.json").read_text())
    assert Path(info["from"]).parent == run.path and again.parameters == run.parameters


def test_a_model_loads_by_run_name_path_or_as_the_newest(run, model):
    for source in (run, "story", run.path, model.path, None):
        loaded = simplellm.load(source, checkpoints=run.path.parent, device="cpu")
        assert loaded.path.samefile(model.path)
        assert loaded.generate("a", seed=1) == model.generate("a", seed=1)


def test_int8_weights_reply(run):
    assert run.load().generate("a", seed=1, max_new_tokens=3)
    assert simplellm.load(run, quantize="int8").generate("a", seed=1, max_new_tokens=3)


@pytest.mark.parametrize(("format", "type"), [("gguf", "f32"), ("gguf", "q8_0"), ("hf", "bf16")])
def test_an_export_has_the_files_of_the_command(run, model, tmp_path, format, type):
    pytest.importorskip("gguf", reason="needs the package gguf")
    exported = model.export(tmp_path / "own", format, type)
    command = ["export", "--run", "story", "--checkpoints", str(run.path.parent)]
    flags = ["--format", format, "--type", type, "--out", str(tmp_path / "other")]
    assert main([*command, *flags]) == 0
    own, other = (_contents(tmp_path / name) for name in ("own", "other"))
    assert own == other and len(own) == (1 if format == "gguf" else 6)
    n_bytes = sum(map(len, own.values()))
    assert exported == Exported(str(tmp_path / "own"), format, type, n_bytes)


def _contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else path.iterdir()
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


def test_an_export_has_the_weights_of_the_network_as_they_are_now(run, tmp_path):
    changed, quantized = run.load(), simplellm.load(run, quantize="int8")
    with torch.no_grad():
        changed.network.final_norm.weight.fill_(0.25)
    changed.export(tmp_path / "model", format="hf")
    again = simplellm.load(tmp_path / "model")
    assert (again.network.final_norm.weight == 0.25).all()
    assert again.generate("The", seed=2) == changed.generate("The", seed=2)
    with pytest.raises(simplellm.SimpleLLMError, match="already exists"):
        quantized.export(tmp_path / "model", format="hf")
    quantized.export(tmp_path / "model", format="hf", force=True)
    again = simplellm.load(tmp_path / "model")  # the weights in 8 bits cannot be written
    assert torch.equal(again.network.final_norm.weight, run.load().network.final_norm.weight)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: simplellm.train("no-such-file.txt"), "no-such-file.txt"),
        (lambda model: simplellm.train(STORY, n_layr=3), "n_layr"),
        (lambda model: simplellm.train(STORY, n_layer=0), "n_layer"),
        (lambda model: simplellm.train(STORY, r_drop=1, consistency=1), "former name"),
        (lambda model: simplellm.train([]), "needs a text"),
        (lambda model: simplellm.train(None), "needs a text"),
        (lambda model: simplellm.load(3), "a name or a path"),
        (lambda model: model.generate(None), "a text is a str"),
        (lambda model: model.evaluate(""), "no text to evaluate"),
        (lambda model: model.next_tokens(5), "a text is a str"),
        (lambda model: simplellm.train("-"), "needs a text"),
        (lambda model: simplellm.load("no-such-run"), "no-such-run"),
        (lambda model: simplellm.load(quantize="int4"), "int4"),
        (lambda model: model.generate("a", top_q=1), "top_q"),
        (lambda model: model.generate("a", temperature=-1), "temperature"),
        (lambda model: model.export("a", format="ggml"), "gguf, onnx, hf"),
        (lambda model: model.export("a", format=None), "gguf, onnx, hf"),
        (lambda model: model.export("a", format="hf", type="q8_0"), "f32 or f16 or bf16"),
        (lambda model: model.export("no/such/folder", format="hf"), "a folder that exists"),
        (lambda model: model.export(3, format="hf"), "needs a path"),
    ],
)
def test_a_mistake_raises_an_error_of_the_package_that_names_it(
    model, call, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(simplellm.SimpleLLMError, match=words):
        call(model)
    assert list(tmp_path.iterdir()) == []
