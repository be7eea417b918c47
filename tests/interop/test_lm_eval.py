"""lm-eval measures a run through the server: the same loss as `simplellm evaluate`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("aiohttp")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

TEXTS = ["The judge was quiet.", 'The baker said: "No."']  # each fits the context of 32 tokens
CHOICES = [" lamp", " bell", " coat"]


@pytest.fixture
def measured(trained: Path, tmp_path: Path) -> Callable[..., Any]:
    """`measured(**task)`: what lm-eval finds with a task on `docs.jsonl`, through a server."""
    import torch
    from lm_eval import simple_evaluate
    from server.live_server import live_server

    from simplellm.checkpoint.find_runs import find_checkpoint
    from simplellm.checkpoint.step_folder import load_model
    from simplellm.inference.sampler import Sampler

    folder = find_checkpoint("tiny", trained, print)
    sampler = Sampler(*load_model(folder, torch.device("cpu")))

    def measure(docs: list[dict[str, Any]], **task: Any) -> Any:
        path = tmp_path / "docs.jsonl"
        path.write_text("".join(json.dumps(doc) + "\n" for doc in docs), encoding="utf-8")
        config = {
            "task": "local", "dataset_path": "json", "test_split": "test", **task,
            "dataset_kwargs": {"data_files": {"test": str(path)}},
        }  # fmt: skip
        with live_server(sampler) as server:
            arguments = {
                "base_url": f"{server.url}/v1/completions", "model": "tiny",
                "tokenizer": str(folder), "tokenizer_backend": "huggingface",
                "max_length": 33, "num_concurrent": 2,
            }  # fmt: skip
            return simple_evaluate(
                "local-completions", arguments, [config], bootstrap_iters=0, log_samples=True
            )

    return measure


def test_rolling_likelihoods_are_those_of_evaluate(
    measured: Callable[..., Any],
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    report_count: Callable[[str], None],
) -> None:
    from simplellm.app.cli import main

    found = measured(
        [{"text": text} for text in TEXTS],
        output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
        metric_list=[{"metric": "bits_per_byte"}],
    )  # fmt: skip
    capsys.readouterr()
    nats = 0.0
    for text in TEXTS:
        data = tmp_path / "text.txt"
        data.write_text(text, encoding="utf-8")
        flags = ["--run", "tiny", "--checkpoints", str(trained), "--data", str(data), "--json"]
        assert main(["evaluate", *flags]) == 0
        figures = json.loads(capsys.readouterr().out)
        nats += figures["loss"] * figures["tokens"]
    expected = nats / math.log(2) / sum(len(text.encode()) for text in TEXTS)
    bits = found["results"]["local"]["bits_per_byte,none"]
    report_count(f"lm-eval: {bits:.6f} bits per byte, evaluate: {expected:.6f}")
    assert bits == pytest.approx(expected, rel=1e-5)


def test_the_likeliest_choice_is_that_of_the_model(measured: Callable[..., Any]) -> None:
    docs = [{"question": "The judge looked at the", "choices": CHOICES, "answer": 0}]
    found = measured(
        docs, output_type="multiple_choice", doc_to_text="{{question}}",
        doc_to_choice="{{choices}}", doc_to_target="{{answer}}", target_delimiter="",
        metric_list=[{"metric": "acc"}],
    )  # fmt: skip
    (sample,) = found["samples"]["local"]
    likelihoods = [float(response[0][0]) for response in sample["resps"]]
    assert len(set(likelihoods)) == 3 and all(value < 0 for value in likelihoods)
    is_first = likelihoods[0] == max(likelihoods)
    assert found["results"]["local"]["acc,none"] == float(is_first)
