"""POST /v1/completions: prompts, choices, streams, probabilities, stop sequences and counts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from server.live_server import Live
    from simplellm.inference.sampler import Sampler

PLAIN = {"temperature": 1, "top_k": 0, "top_p": 1, "seed": 7, "max_tokens": 12}


def text_of(live: Live, **parameters: object) -> str:
    return live.complete("The", **{**PLAIN, **parameters}).json["choices"][0]["text"]


def test_a_seed_gives_the_reply_of_the_terminal(live: Live, byte_sampler: Sampler) -> None:
    from simplellm.config.sampling import SamplingParams
    from simplellm.inference.sampler import Sampler

    params = SamplingParams(temperature=1, top_k=0, top_p=1, seed=7, max_new_tokens=12)
    alone = Sampler(byte_sampler.model, byte_sampler.tokenizer)
    reply = alone.stream(alone.encode("The"), params)
    assert text_of(live) == "".join(token.text for token in reply)


def test_a_response_has_the_shape_of_openai(live: Live) -> None:
    answer = live.complete("The", **PLAIN).json
    assert set(answer) == {"id", "object", "created", "model", "choices", "usage"}
    assert (answer["object"], answer["model"]) == ("text_completion", "tiny")
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "length" and choice["logprobs"] is None
    counts = answer["usage"]
    assert (counts["prompt_tokens"], counts["completion_tokens"]) == (3, 12)
    assert counts["total_tokens"] == 15


@pytest.mark.parametrize("extra", [{}, {"n": 3}, {"echo": True, "logprobs": 2}])
def test_the_parts_of_a_stream_are_the_whole_response(live: Live, extra: dict) -> None:
    whole = live.complete(["The", "judge"], **PLAIN, **extra).json
    options = {"stream": True, "stream_options": {"include_usage": True}}
    events = live.complete(["The", "judge"], **PLAIN, **extra, **options).events
    joined = {choice["index"]: dict(choice, text="", logprobs=None) for choice in whole["choices"]}
    logprobs: dict[int, dict[str, list]] = {}
    for event in events[:-1]:
        (part,) = event["choices"]
        choice = joined[part["index"]]
        choice["text"] += part["text"]
        for key, values in (part["logprobs"] or {}).items():
            logprobs.setdefault(part["index"], {}).setdefault(key, []).extend(values)
    for index, found in logprobs.items():
        joined[index]["logprobs"] = found
    assert list(joined.values()) == whole["choices"]
    assert events[-1]["choices"] == []
    without_cache = {
        key: events[-1]["usage"][key] for key in ("prompt_tokens", "completion_tokens")
    }
    assert without_cache.items() <= whole["usage"].items()


def test_prompts_may_be_texts_or_token_ids(live: Live) -> None:
    ids = list(b"The")
    prompts = ["The", ["The"], ids, [ids]]
    answers = [live.complete(prompt, **PLAIN).json["choices"] for prompt in prompts]
    assert all(choices == answers[0] for choices in answers)
    both = live.complete(["a", "The"], **PLAIN).json["choices"]
    assert [choice["index"] for choice in both] == [0, 1]
    assert both[1]["text"] == answers[0][0]["text"]


def test_choices_of_one_prompt_differ_and_the_first_is_that_of_the_seed(live: Live) -> None:
    three = live.complete("The", **PLAIN, n=3).json
    texts = [choice["text"] for choice in three["choices"]]
    assert len(set(texts)) == 3 and texts[0] == text_of(live)
    assert three["usage"]["prompt_tokens"] == 3
    assert three["usage"]["completion_tokens"] == 36


def test_a_stop_sequence_is_found_across_tokens_and_left_out(live: Live) -> None:
    text = text_of(live)
    stop = text[4:7]
    assert text.index(stop) == 4
    for given in stop, ["never", stop]:
        (choice,) = live.complete("The", **{**PLAIN, "stop": given, "logprobs": 0}).json["choices"]
        assert (choice["text"], choice["finish_reason"]) == (text[:4], "stop")
        offsets = choice["logprobs"]["text_offset"]
        assert offsets[0] == 0 and max(offsets) < 4 and offsets == sorted(offsets)


def test_echo_scores_the_prompt_as_the_model_does(live: Live, byte_sampler: Sampler) -> None:
    import torch

    text = "The judge"
    for max_tokens in (0, 1):
        parameters = {**PLAIN, "max_tokens": max_tokens, "echo": True, "logprobs": 1}
        (choice,) = live.complete(text, **parameters).json["choices"]
        found = choice["logprobs"]
        assert choice["text"].startswith(text)
        assert found["tokens"][: len(text)] == list(text)
        assert len(found["tokens"]) == len(text) + max_tokens
        assert found["text_offset"] == list(range(len(text) + max_tokens))
        with torch.no_grad():
            logits = byte_sampler.model(torch.tensor([list(text.encode())]))[0]
        logs = torch.log_softmax(logits.float(), -1)
        assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
        for place, token in enumerate(text.encode()[1:]):
            assert math.isclose(
                found["token_logprobs"][place + 1], float(logs[place, token]), abs_tol=1e-4
            )
            assert math.isclose(
                max(found["top_logprobs"][place + 1].values()), float(logs[place].max()),
                abs_tol=1e-4,
            )  # fmt: skip


def test_no_tokens_without_echo_give_an_empty_text(live: Live) -> None:
    answer = live.complete("The", max_tokens=0).json
    assert answer["choices"][0]["text"] == ""
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == 3 and answer["usage"]["completion_tokens"] == 0


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(live: Live) -> None:
    assert live.complete("a" * 64, max_tokens=1).status == 200
    answer = live.complete("a" * 65, max_tokens=1)
    assert answer.status == 400 and answer.error["code"] == "context_length_exceeded"
    assert "64" in answer.error["message"] and "65" in answer.error["message"]
