"""`return_token_ids`: the ids of prompts and replies, and the bytes of each token."""

from __future__ import annotations

import pytest

SEEDED = {"seed": 1, "max_tokens": 6, "return_token_ids": True}


def joined(parts, key):
    return [one for part in parts for one in part["choices"][0].get(key, [])]


@pytest.mark.parametrize("is_chat", [False, True])
def test_ids_continue_the_prompt_and_have_the_bytes_of_the_text(live, chat, is_chat):
    server = chat if is_chat else live
    ask = server.chat if is_chat else server.complete
    whole = ask("ab", **SEEDED).json
    choice = whole["choices"][0]
    prompt_ids = whole["prompt_token_ids"] if is_chat else choice["prompt_token_ids"]
    text = choice["message"]["content"] if is_chat else choice["text"]
    tokenizer = server.service.model.sampler.tokenizer
    ids = [one for one in choice["token_ids"] if tokenizer.special_text(one) is None]
    assert tokenizer.decode(ids).rstrip("\ufffd") == text.rstrip("\ufffd")
    assert [bytes(data) for data in choice["token_bytes"]][: len(ids)] == [
        tokenizer.token_bytes(one) for one in ids
    ]
    # a completion of the same ids is the same reply
    again = server.complete(prompt_ids, **SEEDED).json["choices"][0]
    assert again["token_ids"][: len(choice["token_ids"])] == choice["token_ids"]


@pytest.mark.parametrize("is_chat", [False, True])
def test_a_stream_has_the_ids_of_the_answer_that_is_not_streamed(live, chat, is_chat):
    ask = chat.chat if is_chat else live.complete
    whole = ask("ab", **SEEDED).json
    parts = ask("ab", **SEEDED, stream=True).events
    for key in "token_ids", "token_bytes":
        assert joined(parts, key) == whole["choices"][0][key]
    found = [
        part.get("prompt_token_ids") or part["choices"][0].get("prompt_token_ids") for part in parts
    ]
    first, others = found[0], found[1:]
    assert first == (whole if is_chat else whole["choices"][0])["prompt_token_ids"]
    assert not any(others)


def test_without_the_parameter_there_are_no_ids(live, chat):
    for answer in live.complete("ab", max_tokens=1), chat.chat("ab", max_tokens=1):
        assert "token_ids" not in answer.body.decode()
