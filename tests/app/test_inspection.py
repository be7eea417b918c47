"""Inspection commands show what the model computes, and do not change later replies."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from simplellm.app.cli import main
from simplellm.app.commands.compare import temperatures
from simplellm.app.commands.inspection import MOST_TOKENS, TOP
from simplellm.app.commands.registry import dispatch
from simplellm.app.results import Bars, Columns, Lines, Tokens
from simplellm.app.session import Session
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.config.sampling import SamplingParams
from simplellm.errors import SettingError
from simplellm.evaluation.analyze import attention, character_spans
from simplellm.inference.batch import ReplyBatch
from simplellm.inference.filters import distribution
from simplellm.inference.sampler import Sampler

PARAMS = SamplingParams(max_new_tokens=8, seed=3)


@pytest.fixture(scope="module")
def sampler(trained: Path) -> Sampler:
    return Sampler(*load_model(RunFolder(trained / "tiny").best(), torch.device("cpu")))


@pytest.fixture
def session(sampler: Sampler) -> Session:
    return Session(sampler, Path("tiny"), PARAMS, {"run": "tiny"}, PARAMS)


def say(session: Session, text: str) -> str:
    answer = session.ask(text)
    list(answer)
    session.keep(answer)
    return answer.reply.text


def shown(session: Session, line: str, kind: type) -> Tokens | Bars | Columns | Lines:
    found = dispatch(session, line)
    assert isinstance(found, kind)
    return found


# ---------------------------------------------------------------- probs


def test_probs_switches_shading_on_and_off(session) -> None:
    assert "off" in shown(session, "/probs", Lines).text
    assert [mark.level for mark in shown(session, "/probs on", Tokens).marks] == [
        0,
        0.25,
        0.5,
        0.75,
        1,
    ]
    assert session.shows_probabilities and isinstance(dispatch(session, "/probs"), Tokens)
    shown(session, "/probs off", Lines)
    assert not session.shows_probabilities


def test_probs_without_argument_shades_the_last_reply(session) -> None:
    reply = say(session, "The judge")
    found = shown(session, "/probs", Tokens)
    assert "".join(mark.text for mark in found.marks) == reply and "bits/token" in found.summary
    ids = list(session.turns[-1].ids)
    n_prompt = len(session.sampler.encode("The judge"))
    with torch.no_grad():
        log_probabilities = session.sampler.model(torch.tensor([ids]))[0].double().log_softmax(-1)
    own = [float(log_probabilities[n - 1, ids[n]]) for n in range(n_prompt, len(ids))]
    assert np.prod([mark.level for mark in found.marks]) == pytest.approx(
        np.exp(sum(own)), rel=1e-3
    )


def test_probs_takes_on_or_off(session) -> None:
    with pytest.raises(SettingError, match="on or off"):
        dispatch(session, "/probs maybe")
    assert not session.shows_probabilities


# ---------------------------------------------------------------- next


@pytest.mark.parametrize(
    "line", ["/temp 0", "/topk 3", "/topp 0.4", "/minp 0.3", "/penalty 4", "/temp 3"]
)
def test_next_shows_probabilities_before_and_after_the_settings(session, line: str) -> None:
    dispatch(session, line)
    found = shown(session, "/next The judge", Bars)
    ids = session.sampler.encode("The judge")
    with torch.no_grad():
        logits = session.sampler.model(torch.tensor([ids]))[0, -1]
    plain = logits.double().softmax(0).sort(descending=True).values[:TOP]
    assert [bar.before for bar in found.rows] == pytest.approx(plain.tolist(), abs=1e-5)
    tokens, after = distribution(logits.numpy(), ids, session.params)
    kept = {bar.after for bar in found.rows if bar.after is not None}
    assert max(kept) == pytest.approx(float(after.max()), abs=1e-5) and len(kept) <= len(tokens)
    assert (
        sum(bar.after is not None for bar in found.rows) == min(TOP, len(tokens))
        or session.params.repetition_penalty != 1
    )


@pytest.mark.parametrize("context", ["on", "off"])
def test_next_without_a_text_continues_the_conversation(session, context: str) -> None:
    dispatch(session, f"/context {context}")
    say(session, "The judge")
    say(session, "The baker")
    rows = shown(session, "/next", Bars).rows
    ids = session.ids_before_reply()
    with torch.no_grad():
        plain = session.sampler.model(torch.tensor([ids]))[0, -1].softmax(0).topk(TOP).values
    assert [bar.before for bar in rows] == pytest.approx(plain.tolist(), abs=1e-5)
    if context == "off":
        assert ids == list(session.turns[-1].ids)
    else:
        assert len(session.ids_before_reply()) > len(session.turns[-1].ids)


def test_next_before_the_first_turn_starts_a_document(session) -> None:
    assert session.ids_before_reply() == [session.sampler.tokenizer.end_of_text]
    assert len(shown(session, "/next", Bars).rows) == TOP


# ---------------------------------------------------------------- tokenize


@pytest.mark.parametrize("text", ["The judge had", "한글 and 🙂", "a", "\t\x00", "<|endoftext|>"])
def test_tokenize_shows_every_token_with_its_id(session, text: str) -> None:
    found = shown(session, f"/tokenize {text}", Tokens)
    ids = session.sampler.tokenizer.encode(text.strip())
    assert [mark.label for mark in found.marks] == [
        str(token) for token in ids
    ] and found.always_labels
    assert all(
        one.level != other.level for one, other in zip(found.marks, found.marks[1:], strict=False)
    )
    n_bytes = len(text.strip().encode())
    assert f"{len(ids)} token" in found.summary and f"{n_bytes} byte" in found.summary
    assert f"{n_bytes / len(ids):.2f} bytes/token" in found.summary


def test_part_of_a_character_is_shown_as_bytes(session) -> None:
    texts = [mark.text for mark in shown(session, "/tokenize 뷁", Tokens).marks]
    assert texts == ["<0xEB>", "<0xB7>", "<0x81>"]
    assert (
        "a character that is split into several tokens"
        in shown(session, "/tokenize 뷁", Tokens).summary
    )
    assert "several tokens" not in shown(session, "/tokenize a", Tokens).summary


def test_a_character_that_is_cut_off_is_shown_as_bytes(session) -> None:
    tokenizer = session.sampler.tokenizer
    ids = [
        token
        for part in (b"a", "뷁".encode()[:2])
        for token in map(tokenizer.ranks.get, [part[i : i + 1] for i in range(len(part))])
    ]
    names = [name for name, _, _ in character_spans(tokenizer, ids)]
    assert names == ["a", "<0xEB><0xB7>"]
    assert (
        "".join(name for name, _, _ in character_spans(tokenizer, tokenizer.encode("뷁 a")))
        == "뷁 a"
    )


def test_all_tokens_of_a_long_text_are_counted_and_the_first_shown(session) -> None:
    found = shown(session, "/tokenize " + "xyz " * 3000, Tokens)
    assert (
        len(found.marks) == MOST_TOKENS
        and "first 2,000" in found.summary
        and "11,999 bytes" in found.summary
    )


def test_tokenize_without_a_text_shows_its_usage(session) -> None:
    assert "TEXT" in shown(session, "/tokenize", Lines).text


# ---------------------------------------------------------------- attention


def looks(session: Session) -> torch.Tensor:
    return attention(session.sampler.model, session.sampler.truncate(session.ids_before_reply()))


@pytest.mark.parametrize(
    "place, pick",
    [
        ("", lambda a: a.mean((0, 1))),
        ("2", lambda a: a[1].mean(0)),
        ("1.2", lambda a: a[0, 1]),
        ("2.1", lambda a: a[1, 0]),
    ],
)
def test_attn_shades_each_token_by_the_attention_of_the_last_one(
    session, place: str, pick: Callable
) -> None:
    reply = say(session, "The judge")
    found = shown(session, f"/attn {place}".strip(), Tokens)
    expected = pick(looks(session))
    assert "".join(mark.text for mark in found.marks) == "The judge" + reply
    levels = torch.tensor([mark.level for mark in found.marks])
    assert float(levels.max()) == 1 and len(levels) == len(expected)
    torch.testing.assert_close(levels**2 * expected.max(), expected, atol=1e-5, rtol=1e-4)
    assert f"{float(expected.max()):.1%}" in found.summary


def test_attn_works_with_a_full_context_and_partial_characters(session) -> None:
    say(session, "한글 뷁 " * 20)
    found = shown(session, "/attn", Tokens)
    assert "뷁" in "".join(mark.text for mark in found.marks)
    numbers = [float(mark.label.rstrip("%") or 0) for mark in found.marks]
    assert 50 < sum(numbers) <= 100 + len(numbers)


@pytest.mark.parametrize(
    "place",
    ["0", "3", "1.0", "1.3", "x", "1.", ".1", "1.1.1", "-1", "1e9", "99999999999.1", "①", "1 1"],
)
def test_an_unknown_head_is_reported_in_one_line(session, place: str) -> None:
    say(session, "The judge")
    with pytest.raises(SettingError, match="layers 1 to 2 and heads 1 to 2") as found:
        dispatch(session, f"/attn {place}")
    assert found.value.fix


def test_attn_before_the_first_turn_is_an_error(session) -> None:
    with pytest.raises(SettingError, match="there is no turn yet"):
        dispatch(session, "/attn")


# ---------------------------------------------------------------- compare


@pytest.mark.parametrize("now", [0, 0.05, 0.1, 0.3, 0.8, 1, 2, 10 / 3, 4, 5])
def test_the_temperatures_are_three_allowed_ones_with_the_current_one(now: float) -> None:
    found = list(temperatures(now))
    assert now in found and len(set(found)) == 3 and found == sorted(found)
    assert all(SamplingParams(temperature=value) for value in found)


def test_compare_shows_three_replies_with_one_seed_and_three_temperatures(session) -> None:
    found = shown(session, "/compare The judge", Columns)
    assert (
        found.headers == ("temperature 0.4", "temperature 0.8", "temperature 1.2")
        and "seed 3" in found.summary
    )
    for text, temperature in zip(found.texts, (0.4, 0.8, 1.2), strict=True):
        reply = session.sampler.stream(
            session.sampler.encode("The judge"), replace(PARAMS, temperature=temperature)
        )
        list(reply)
        assert text == reply.text
    assert session.turns == []


def test_compare_without_a_seed_shows_its_random_seed(session) -> None:
    dispatch(session, "/seed auto")
    dispatch(session, "/beams 3")
    found = shown(session, "/compare The judge", Columns)
    dispatch(session, f"/seed {found.summary.split()[-1]}")
    assert shown(session, "/compare The judge", Columns) == found


def test_ctrl_c_ends_a_comparison_and_keeps_its_texts(session, monkeypatch) -> None:
    compute_logits, calls = ReplyBatch.compute_logits, []

    def interrupted_later(batch: ReplyBatch) -> None:
        calls.append(1)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        compute_logits(batch)

    monkeypatch.setattr(ReplyBatch, "compute_logits", interrupted_later)
    assert threading.current_thread() is threading.main_thread()
    found = shown(session, "/compare The judge", Columns)
    assert len(calls) <= 6 and "interrupted" in found.summary and all(found.texts)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    "line", ["/next", "/next The", "/attn", "/compare", "/compare x", "/tokenize The", "/probs"]
)
def test_inspection_does_not_change_later_replies(session, line: str) -> None:
    expected = [say(session, "The judge"), say(session, "The baker")]
    session.clear()
    found = []
    for text in ("The judge", "The baker"):
        found.append(say(session, text))
        dispatch(session, line)
    assert found == expected and len(session.turns) == 2


# ---------------------------------------------------------------- generate


def generated(capsys, trained: Path, *flags: str) -> tuple[str, str]:
    code = main(["generate", "--checkpoints", str(trained), "--run", "tiny", "--prompt",
    "The judge", "--seed", "3",
                 "--max-new-tokens", "8", "--device", "cpu", *flags])  # fmt: skip
    assert code == 0
    return capsys.readouterr()


@pytest.mark.parametrize(
    "flags", [[], ["--temperature", "0"], ["--num-beams", "3"], ["--stop", "e"]]
)
def test_generate_adds_the_numbers_of_each_token(capsys, trained: Path, flags: list[str]) -> None:
    plain = json.loads(generated(capsys, trained, "--json", *flags)[0])
    found = json.loads(generated(capsys, trained, "--json", "--probs", *flags)[0])
    assert "probs" not in plain and found["text"] == plain["text"]
    assert len(found["probs"]) == found["new_tokens"]
    model, tokenizer = load_model(RunFolder(trained / "tiny").best(), torch.device("cpu"))
    ids = tokenizer.encode("The judge")
    for one in found["probs"]:
        assert list(one) == ["token", "id", "probability", "rank", "entropy"]
        with torch.no_grad():
            probabilities = model(torch.tensor([ids]))[0, -1].double().softmax(0)
        assert one["probability"] == pytest.approx(float(probabilities[one["id"]]), abs=1e-5)
        assert one["rank"] == 1 + int((probabilities > probabilities[one["id"]]).sum())
        assert one["entropy"] == pytest.approx(
            float(torch.special.entr(probabilities).sum()), abs=1e-4
        )
        ids.append(one["id"])


def test_generate_shows_numbers_without_colours(capsys, trained: Path) -> None:
    text = generated(capsys, trained)[0]
    out, notices = generated(capsys, trained, "--probs")
    assert out.count("[") >= 5 and "bits/token" in notices and out != text


def test_beam_search_reports_the_settings_it_ignores(capsys, trained: Path) -> None:
    out, notices = generated(capsys, trained, "--num-beams", "2", "--top-k", "3")
    assert "top_k, seed" in notices and out.strip()


@pytest.mark.parametrize("value", ["0", "65", "many"])
def test_beams_out_of_range_are_reported_in_one_line(capsys, trained: Path, value: str) -> None:
    assert (
        main(["generate", "--checkpoints", str(trained), "--prompt", "x", "--num-beams", value])
        == 2
    )
    assert "num_beams" in capsys.readouterr().err


RANDOM = ["--temperature", "5", "--top-k", "0", "--top-p", "1", "--max-new-tokens", "60"]


def test_generate_explains_the_replacement_character_once(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--prompt", "The", "--run", "tiny", "--checkpoints", str(trained)]
    assert main([*words, "--seed", "1", *RANDOM]) == 0
    out, err = capsys.readouterr()
    assert "\ufffd" in out and err.count("bytes that are no character") == 1
    assert main([*words, "--seed", "1", *RANDOM, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["invalid_bytes"] > 0 and err == ""
    assert main([*words, "--temperature", "0", "--max-new-tokens", "3", "--json"]) == 0
    assert "invalid_bytes" not in json.loads(capsys.readouterr().out)
