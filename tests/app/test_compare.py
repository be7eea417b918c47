"""/compare: a setting, its values and a text, told apart from a plain text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simplellm.app.commands.compare import Comparison, parse
from simplellm.app.commands.registry import dispatch
from simplellm.app.results import Columns
from simplellm.app.session import Session
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.config.sampling import SamplingParams
from simplellm.errors import SettingError
from simplellm.inference.beams import reply_to
from simplellm.inference.sampler import Sampler

PARAMS = SamplingParams(max_new_tokens=6, seed=3)
VALUES = {
    "temperature": "0.2 1.4", "top_k": "1 50", "top_p": "0.3 1", "min_p": "0 0.5",
    "repetition_penalty": "1 2", "max_new_tokens": "2 5", "num_beams": "1 2 3", "seed": "1 2",
    "stop": "'e' \" t\"",
}  # fmt: skip


@pytest.fixture
def session(trained: Path) -> Session:
    sampler = Sampler(*load_model(RunFolder(trained / "tiny").best(), torch.device("cpu")))
    return Session(sampler, Path("tiny"), PARAMS, {"run": "tiny"}, PARAMS)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("temperature 0.2 0.8 1.4", Comparison("temperature", [0.2, 0.8, 1.4])),
        ("top-k 1 10 50", Comparison("top_k", [1, 10, 50])),
        ("topk 1 10 The  judge", Comparison("top_k", [1, 10], "The  judge")),
        ("0.2 0.8", Comparison("temperature", [0.2, 0.8])),
        ("0.2 0.8 한글 text", Comparison("temperature", [0.2, 0.8], "한글 text")),
        ("penalty 1 1.5", Comparison("repetition_penalty", [1.0, 1.5])),
        ('stop "." "a b"', Comparison("stop", [(".",), ("a b",)])),
    ],
)
def test_values_and_text_are_told_apart(argument, expected) -> None:
    assert parse(argument, 0.8) == expected


@pytest.mark.parametrize(
    "text",
    ["", "The judge", "3 men", "1984", "stop the car", "seed money", "Temperature rises"],
)
def test_a_plain_text_compares_three_temperatures(text: str) -> None:
    assert parse(text, 0.8) == Comparison("temperature", (0.4, 0.8, 1.2), text)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("top-k 1", "2 to 8 values of top_k, got 1"),
        ("top-k ten", "top_k is"),
        ("temperature 1 9", "temperature is"),
        ("0.5 -1", "temperature is"),
        ("tmperature 0.2 0.8", "no setting is called"),
        ("0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9", "got 9"),
        ('stop "."', "got 1"),
        ('stop "a', "quot"),
    ],
)
def test_wrong_values_are_one_error_with_a_fix(argument: str, words: str) -> None:
    with pytest.raises(SettingError, match=words) as found:
        parse(argument, 0.8)
    assert found.value.fix


@pytest.mark.parametrize("name", SamplingParams.names())
def test_every_setting_can_be_compared_and_gives_the_replies_of_its_values(session, name) -> None:
    words = VALUES[name]
    if name == "stop":
        dispatch(session, "/context off")
        line = f"/compare stop {words}"
        prompt = ""
    else:
        line, prompt = f"/compare {name} {words} The judge", "The judge"
    shown = dispatch(session, line)
    assert isinstance(shown, Columns) and shown.title
    comparison = parse(line.removeprefix("/compare "), 0.8)
    ids = session.ids_before_reply(prompt)
    for value, header, text in zip(comparison.values, shown.headers, shown.texts, strict=True):
        reply = reply_to(session.sampler, ids, replace(PARAMS, **{name: value}))
        list(reply)
        assert text == reply.text and header.startswith(name)
    assert session.turns == [] and session.params == PARAMS


def test_bytes_that_are_no_character_are_explained(session):
    session.params = SamplingParams(temperature=5, top_k=0, top_p=1, max_new_tokens=60, seed=1)
    wild = dispatch(session, "/compare temperature 4 5 The judge")
    calm = dispatch(session, "/compare max-new-tokens 1 2 The judge")
    assert isinstance(wild, Columns) and isinstance(calm, Columns)
    assert any("\ufffd" in text for text in wild.texts) and "no character" in wild.summary
    assert "\ufffd" in "".join(calm.texts) or "no character" not in calm.summary
