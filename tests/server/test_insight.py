"""The endpoints under /simplellm/: what the page shows of the model and of its training."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import torch

from server.live_server import JSON, Live, live_server, wait_until
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model, open_model
from simplellm.config.sampling import SamplingParams
from simplellm.evaluation.analyze import attention, candidates
from simplellm.inference.sampler import Sampler
from simplellm.server.access import Access
from simplellm.server.checkpoint_replies import CheckpointReplies
from simplellm.server.run_facts import model_facts

PROMPT = "The judge"
GREEDY = {"temperature": 0, "max_new_tokens": 5}


@pytest.fixture(scope="module")
def best(trained: Path) -> Path:
    return RunFolder(trained / "tiny").best()


@pytest.fixture(scope="module")
def sampler(best: Path) -> Sampler:
    return Sampler(*load_model(best, torch.device("cpu")))


@pytest.fixture(scope="module")
def run(sampler: Sampler, best: Path) -> Iterator[Live]:
    """A server of the run `tiny`."""
    with live_server(sampler, folder=best) as server:
        yield server


def post(server: Live, name: str, **body: object):
    return server.request("POST", f"/simplellm/{name}", body)


# ---------------------------------------------------------------- the run


def test_the_run_has_its_model_its_checkpoints_and_its_settings(run, sampler, trained):
    facts = run.get("/simplellm/run").json
    folder = RunFolder(trained / "tiny")
    assert (facts["run"], facts["model"], facts["is_chat"]) == ("tiny", "tiny", False)
    assert facts["context"] == sampler.block_size
    assert facts["end_ids"] == [sampler.tokenizer.end_of_text]
    steps = [checkpoint["step"] for checkpoint in facts["checkpoints"]]
    assert steps == sorted(int(path.name[5:]) for path in folder.step_folders())
    (served,) = [one["step"] for one in facts["checkpoints"] if one["is_served"]]
    (is_best,) = [one["step"] for one in facts["checkpoints"] if one["is_best"]]
    assert served == is_best == facts["step"] == folder.pointer("best")["step"]
    declared = {setting.name: setting for setting in SamplingParams.settings()}
    assert {one["name"] for one in facts["settings"]} == declared.keys() - {"num_beams"}
    for one in facts["settings"]:
        setting = declared[one["name"]]
        assert (one["default"] or None) == (setting.default or None)
        assert (one["minimum"], one["maximum"]) == (setting.minimum, setting.maximum)


def test_the_training_has_its_curves_and_the_sample_of_each_evaluation(run, trained):
    found = run.get("/simplellm/training").json
    lines = (trained / "tiny" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    evaluations = [one for one in map(json.loads, lines) if one["kind"] == "evaluation"]
    assert [step for step, _ in found["validation"]] == [one["step"] for one in evaluations]
    assert [one["text"] for one in found["samples"]] == [one["sample"] for one in evaluations]
    assert found["best_step"] == min(evaluations, key=lambda one: one["loss"])["step"]
    assert found["train"]


def test_earlier_turns_are_read_unless_the_run_learned_single_questions(chat_sampler, tmp_path):
    found = []
    for n_replies in 10, 30:
        folder = RunFolder(tmp_path / f"of-{n_replies}")
        read = {"conversations": 10, "replies": n_replies}
        folder.write_info({"from": None, "conversations": read})
        facts = model_facts("tiny", folder.path / "step-000001", chat_sampler)
        found.append(facts["keeps_context"])
    assert found == [False, True]


def test_a_model_from_elsewhere_has_one_checkpoint_and_no_curve(live):
    assert [one["is_served"] for one in live.get("/simplellm/run").json["checkpoints"]] == [True]
    empty = {"train": [], "validation": [], "best_step": None, "samples": []}
    assert live.get("/simplellm/training").json == empty


# ---------------------------------------------------------------- the model


def test_the_next_tokens_are_those_of_analyze(run, sampler):
    ids = sampler.encode(PROMPT)
    settings = {"temperature": 0.5, "top_k": 3, "top_p": 0.9}
    found = post(run, "next", ids=ids, settings=settings, top=6).json
    expected = candidates(sampler, ids, SamplingParams(**settings), 6)
    assert [one["id"] for one in found["candidates"]] == [one.token for one in expected]
    for one, other in zip(found["candidates"], expected, strict=True):
        assert one["text"] == other.text
        assert one["probability"] == pytest.approx(other.probability, rel=1e-4)
        assert one["probabilities"][-1] == pytest.approx(other.sampling_probability, rel=1e-4)
        assert (one["removed_by"] is None) == other.kept
    assert [step["setting"] for step in found["steps"]][1:3] == ["temperature", "top_k"]


def test_attention_is_that_of_the_chosen_head_and_adds_up_to_one(run, sampler):
    ids = sampler.encode(PROMPT)
    weights = attention(sampler.model, ids)
    for layer, head, row in (1, 2, weights[0, 1]), (2, 0, weights[1].mean(0)):
        found = post(run, "attention", ids=ids, layer=layer, head=head).json
        shares = [span["share"] for span in found["spans"]]
        assert shares == pytest.approx(row.tolist(), abs=1e-5)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert "".join(span["text"] for span in found["spans"]) == PROMPT
    long = post(run, "attention", ids=ids * 20).json
    assert long["n_left_out"] + sum(one["n_tokens"] for one in long["spans"]) == len(ids * 20)


def test_each_checkpoint_answers_with_its_own_weights(run, sampler, best, trained):
    steps = [one["step"] for one in run.get("/simplellm/run").json["checkpoints"]]
    assert len(steps) > 1
    for step in steps:
        folder = trained / "tiny" / f"step-{step:06d}"
        own = Sampler(*load_model(folder, torch.device("cpu")))
        expected = own.stream(own.encode(PROMPT), SamplingParams(temperature=0, max_new_tokens=5))
        for _ in expected:
            pass
        found = post(run, "answer", step=step, prompt=PROMPT, settings=GREEDY).json
        assert found["step"] == step
        assert [token["id"] for token in found["tokens"]] == expected.new_ids
        assert found["text"] == expected.text


def test_a_checkpoint_that_is_gone_or_damaged_is_a_404_without_a_path(sampler, best, tmp_path):
    shutil.copytree(best.parent, tmp_path / "tiny")
    other = tmp_path / "tiny" / best.name
    (other / "model.safetensors").write_bytes(b"damaged")
    with live_server(sampler, folder=other) as server:
        facts = server.get("/simplellm/run").json
        for step in facts["step"], 12345:
            answer = post(server, "answer", step=step, prompt=PROMPT)
            assert (answer.status, answer.error["code"]) == (404, "no_checkpoint")
            assert str(tmp_path) not in answer.error["message"]


def test_few_checkpoints_are_open_at_once_and_the_newest_stay(sampler, best, monkeypatch):
    opened = []
    module = "simplellm.server.checkpoint_replies"
    monkeypatch.setattr(f"{module}.MOST_OPEN", 1)
    monkeypatch.setattr(
        f"{module}.open_model", lambda *one: opened.append(one[0].name) or open_model(*one)
    )
    replies = CheckpointReplies(best, sampler)
    params = SamplingParams(temperature=0, max_new_tokens=1)
    one, other = (int(path.name[5:]) for path in RunFolder(best.parent).step_folders())
    for step in one, one, other, other, one:
        replies.reply(step, PROMPT, params, threading.Event())
    assert opened == [f"step-{step:06d}" for step in (one, other, one)]


def test_a_cancelled_answer_opens_nothing_and_writes_no_further_token(sampler, best, monkeypatch):
    replies, cancelled = CheckpointReplies(best, sampler), threading.Event()
    params = SamplingParams(temperature=0, max_new_tokens=20)
    written = []

    def next_logits(own: Sampler, ids: list[int]):
        written.append(ids)
        cancelled.set()
        return computed(own, ids)

    computed = Sampler.next_logits
    monkeypatch.setattr(Sampler, "next_logits", next_logits)
    for n_written in 1, 1:  # the second one is cancelled before it begins
        with pytest.raises(CancelledError):
            replies.reply(30, PROMPT, params, cancelled)
        assert len(written) == n_written


def test_an_answer_whose_client_goes_is_cancelled(run, monkeypatch):
    events = []

    def waits(self, step, prompt, params, cancelled):
        events.append("started")
        events.append("cancelled" if cancelled.wait(30) else "not cancelled")
        raise CancelledError

    monkeypatch.setattr(CheckpointReplies, "reply", waits)
    connection = http.client.HTTPConnection("127.0.0.1", run.port, timeout=10)
    body = json.dumps({"step": 30, "prompt": PROMPT}).encode()
    connection.request("POST", "/simplellm/answer", body, JSON)
    wait_until(lambda: events == ["started"])
    connection.close()
    wait_until(lambda: len(events) == 2)
    assert events[1] == "cancelled"


# ---------------------------------------------------------------- requests that are wrong


@pytest.mark.parametrize(
    ("name", "body", "param"),
    [
        ("next", {}, "ids"),
        ("next", {"ids": []}, "ids"),
        ("next", {"ids": [10**9]}, "ids"),
        ("next", {"ids": [True]}, "ids"),
        ("next", {"ids": "text"}, "ids"),
        ("next", {"ids": [1], "top": 1000}, "top"),
        ("next", {"ids": [1], "also": -1}, "also"),
        ("next", {"ids": [1], "settings": []}, "settings"),
        ("next", {"ids": [1], "settings": {"temperature": 9}}, "temperature"),
        ("next", {"ids": [1], "settings": {"heat": 1}}, "heat"),
        ("next", {"ids": [1], "unknown": 1}, "unknown"),
        ("attention", {"ids": [1], "layer": 3}, "layer"),
        ("attention", {"ids": [1], "head": 9}, "head"),
        ("answer", {"step": 30}, "prompt"),
        ("answer", {"step": -1, "prompt": "a"}, "step"),
        ("answer", {"step": 30, "prompt": 5}, "prompt"),
    ],
)
def test_a_wrong_request_names_its_parameter(run, name, body, param):
    answer = post(run, name, **body)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_the_endpoints_need_the_key_of_the_server_and_the_page_does_not(byte_sampler):
    with live_server(byte_sampler, Access(api_key="secret")) as server:
        for path in "/simplellm/run", "/simplellm/training":
            assert server.get(path).status == 401
            assert server.get(path, authorization="Bearer secret").status == 200
        assert post(server, "next", ids=[1]).status == 401
        assert server.get("/").status == server.get("/page/main.js").status == 200
