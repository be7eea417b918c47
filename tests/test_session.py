"""A conversation keeps its settings whole and its turns in order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from simplellm.app.session import Session
from simplellm.checkpoint import Run, load_model
from simplellm.config import SamplingParams
from simplellm.errors import SettingError
from simplellm.sampler import Sampler


@pytest.fixture
def session(trained: Path) -> Session:
    sampler = Sampler(*load_model(Run(trained / "tiny").best(), torch.device("cpu")))
    params = SamplingParams(max_new_tokens=5, seed=3)
    return Session(sampler, trained / "tiny", params, defaults=params)


BAD = {
    "temperature": ["hot", "6", "nan"], "top_k": ["-3", "1.5"], "top_p": ["0", "1.1"], "min_p": ["1"], "seed": ["-1"],
    "repetition_penalty": ["0"], "max_new_tokens": ["0", "100001"],
}  # fmt: skip


@pytest.mark.parametrize("name, text", [(name, text) for name, texts in BAD.items() for text in texts])
def test_a_bad_value_leaves_the_settings_as_they_were(session, name, text):
    before = session.params
    with pytest.raises(SettingError):
        session.change(name, text)
    assert session.params is before


def test_a_change_makes_new_settings_and_reset_brings_the_old_ones_back(session):
    before = session.params
    session.change("temperature", "0.3")
    assert (before.temperature, session.params.temperature, session.params.top_k) == (0.8, 0.3, before.top_k)
    session.reset()
    assert session.params == before


def test_the_ninth_stop_text_is_refused(session):
    for n in range(8):
        session.add_stop(str(n))
    with pytest.raises(SettingError):
        session.add_stop("9")
    assert session.params.stop == tuple("01234567")


def turn(session: Session, text: str) -> list[int]:
    reply = session.reply(text)
    list(reply)
    session.keep(text, reply)
    return reply.prompt_ids


def test_each_prompt_stands_alone_unless_context_is_kept(session):
    turn(session, "The judge")
    assert turn(session, "Jack") == session.sampler.encode("Jack") and session.transcript == ""


def test_kept_context_comes_before_the_prompt_and_clear_forgets_it(session):
    session.set_context("on")
    turn(session, "The judge")
    before = session.transcript
    assert before.startswith("The judge") and turn(session, "Jack") == session.sampler.encode(before + "Jack")
    session.clear()
    assert turn(session, "Jack") == session.sampler.encode("Jack")


def test_context_is_on_or_off(session):
    with pytest.raises(SettingError):
        session.set_context("maybe")
    assert not session.keeps_context


def test_what_a_stop_text_hid_is_not_remembered(session):
    session.set_context("on")
    text = "".join(piece.text for piece in session.reply("The judge"))
    session.add_stop(text[1:3])
    reply = session.reply("The judge")
    shown = "".join(piece.text for piece in reply)
    session.keep("The judge", reply)
    assert session.transcript.strip() == ("The judge" + shown).strip()


def test_a_partial_reply_is_remembered(session):
    session.set_context("on")
    reply = session.reply("The judge")
    piece = next(iter(reply))
    session.keep("The judge", reply)
    assert session.transcript == "The judge" + session.sampler.tokenizer.decode([piece.token]) + "\n"
