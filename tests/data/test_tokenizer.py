"""The tokenizer accepts any text and any ids, takes linear time, and agrees with `tokenizers`."""

from __future__ import annotations

import copy
import json
import random
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tokenizers
from conftest import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from simplellm.data.split_patterns import (
    EARLIER_SPLIT_PATTERN,
    GPT2_SPLIT_PATTERN,
    SPLIT_PATTERN,
)
from simplellm.data.tokenizer import END_OF_TEXT, TextStream, Tokenizer
from simplellm.errors import TokenizerError

FAMILY = (
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 "
    "\U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1f0\U0001f1f7"
)
SAMPLES = [
    "", " ", "  \n\n\t ", "Hello, world's 1234 words!", "한국어 문장입니다.", FAMILY,
    unicodedata.normalize("NFD", "한국어 문장"),
    "\0\x01\x1b[31m\x7f\x80\x9f", "a\r\nb\rc\n", "\u202e\u2066\ufeff\u200b",
    "e\u0301\u0301\u0301", END_OF_TEXT,
    "\u0661\u0662 ²³ Ⅷ", "\U0010ffff\ue000", "x" * 200, "   x   y   \n   z", "'S'll'VE don't",
]  # fmt: skip
some_text = st.text(max_size=60) | st.text(
    alphabet=" \n\r\t'aL1가\u1100\u1161👍\u200d\ufe0f\u0301.é\0", max_size=60
)
law = settings(
    deadline=None,
    max_examples=examples(150),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def hf_tokenizer(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    return _in_tokenizers(tokenizer)


@pytest.fixture(scope="module")
def gpt2(shared_data: Path) -> Tokenizer:
    files = str(shared_data / "vocab.bpe"), str(shared_data / "encoder.json")
    return Tokenizer(data_gym_to_mergeable_bpe_ranks(*files), GPT2_SPLIT_PATTERN)


def _in_tokenizers(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    loaded = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.to_mapping()))
    loaded.encode_special_tokens = True
    return loaded


def _random_texts(n: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    ranges = [
        (0, 0x7F),
        (0x20, 0x7E),
        (0x20, 0x7E),
        (0, 0x2FF),
        (0x1100, 0x11FF),
        (0xAC00, 0xD7A3),
        (0x1F300, 0x1FAFF),
        (0, 0xD7FF),
    ]
    return [
        "".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randint(0, 40)))
        for _ in range(n)
    ]


@pytest.mark.parametrize("text", SAMPLES)
def test_samples_survive_encoding_and_decoding(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@law
@given(text=some_text)
def test_any_text_survives_encoding_and_decoding(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ten_thousand_texts_survive_encoding_and_streaming(tokenizer: Tokenizer) -> None:
    draw, lost = random.Random(3), []
    texts = _random_texts(7_000, 1) + ["".join(draw.choices(SAMPLES, k=3)) for _ in range(3_000)]
    for text in texts:
        ids = tokenizer.encode(text)
        if tokenizer.decode(ids) != text or "".join(tokenizer.decode_stream(ids)) != text:
            lost.append(text)
    assert len(texts) == 10_000 and lost == []


@law
@given(text=some_text)
def test_the_words_concatenate_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert "".join(tokenizer.split(text)) == text


@law
@given(text=some_text)
def test_no_token_crosses_a_word(tokenizer: Tokenizer, text: str) -> None:
    words = tokenizer.split(text)
    assert [token for word in words for token in tokenizer.encode(word)] == tokenizer.encode(text)


@law
@given(text=some_text)
def test_encode_array_equals_encode(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode_array(text).tolist() == tokenizer.encode(text)


@pytest.mark.parametrize(
    "character",
    [" ", "\n", "\t", "\r", "a", "1", ".", "'", "가", "\u1100", "\u0301", "👍", "\u200d", "\0"],
    ids=ascii,
)
@pytest.mark.parametrize("n_bytes", [200_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_long_run_of_one_character_is_encoded_in_linear_time(
    tokenizer: Tokenizer, character: str, n_bytes: int
) -> None:
    text = character * (n_bytes // len(character.encode()))
    started_at = time.process_time()
    ids = tokenizer.encode(text)
    assert time.process_time() - started_at < 2e-6 * n_bytes
    assert tokenizer.decode(ids) == text


RUNS = (1, 2, 3, 63, 64, 65, 66, 67, 127, 128, 129, 130, 131, 1000)


@pytest.mark.parametrize("character", [" ", "\n", "\t", "\u3000", "a", "1", ".", "가"], ids=ascii)
@pytest.mark.parametrize("ending", ["", "a", "1", ".", "\n", " ", " a"], ids=ascii)
def test_ids_of_long_runs_equal_those_of_tokenizers(
    tokenizer: Tokenizer, hf_tokenizer: tokenizers.Tokenizer, character: str, ending: str
) -> None:
    for text in [start + character * n + ending for n in RUNS for start in ("", "a", ".")]:
        assert tokenizer.encode(text) == hf_tokenizer.encode(text).ids


def test_a_long_run_becomes_no_long_token() -> None:
    texts = [character * 5_000 + "b" for character in " \na1.가"]
    tokenizer = Tokenizer.train(texts * 3, 400)
    assert max(len(token.decode(errors="replace")) for token in tokenizer.ranks) <= 65


def test_new_tokenizers_have_the_pattern_that_llama_cpp_calls_llama_bpe(
    tokenizer: Tokenizer,
) -> None:
    assert tokenizer.pattern == SPLIT_PATTERN
    text = "I'LL pay 12345 dollars.\n\n  Really,said  she\u0301"
    words = ["I", "'LL", " pay", " ", "123", "45", " dollars", ".\n\n", " ", " Really", ",said"]
    assert tokenizer.split(text) == [*words, " ", " she", "\u0301"]


def test_a_tokenizer_of_an_earlier_run_keeps_its_pattern(tokenizer: Tokenizer, story: str) -> None:
    earlier = Tokenizer(tokenizer.ranks, EARLIER_SPLIT_PATTERN)
    again = Tokenizer.from_mapping(json.loads(json.dumps(earlier.to_mapping())))
    assert again.fingerprint == earlier.fingerprint != tokenizer.fingerprint
    assert again.split("12345") == ["12", "34", "5"] and again.split("x" * 65) == ["x" * 64, "x"]
    assert again.encode(story) == _in_tokenizers(earlier).encode(story).ids


def test_lone_surrogates_are_replaced(tokenizer: Tokenizer) -> None:
    text = "a\udc80b\ud800"
    assert tokenizer.decode(tokenizer.encode(text)) == "a?b?" == "".join(tokenizer.split(text))
    assert tokenizer.encode_array(text).tolist() == tokenizer.encode(text)


def test_end_of_text_in_a_text_is_not_special(tokenizer: Tokenizer) -> None:
    assert tokenizer.end_of_text not in tokenizer.encode(END_OF_TEXT)
    assert tokenizer.decode(tokenizer.encode(END_OF_TEXT)) == END_OF_TEXT


def test_end_of_text_is_not_decoded(tokenizer: Tokenizer) -> None:
    assert (
        tokenizer.decode([tokenizer.end_of_text, *tokenizer.encode("a"), tokenizer.end_of_text])
        == "a"
    )


@law
@given(data=st.data())
def test_any_ids_decode_the_same_at_once_and_as_a_stream(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    assert "".join(tokenizer.decode_stream(ids)) == tokenizer.decode(ids)


def test_a_stream_yields_only_complete_characters(tokenizer: Tokenizer) -> None:
    byte_ids = [tokenizer.ranks[bytes([byte])] for byte in "가👍é".encode()]
    assert list(tokenizer.decode_stream(byte_ids)) == ["", "", "가", "", "", "", "👍", "", "é", ""]


@law
@given(
    data=st.binary(max_size=60)
    | some_text.map(str.encode)
    | st.sampled_from(SAMPLES).map(str.encode)
)
def test_a_stream_holds_back_at_most_three_bytes(tokenizer: Tokenizer, data: bytes) -> None:
    stream, shown = TextStream(tokenizer), ""
    for n_bytes, byte in enumerate(data, 1):
        shown += stream.push(tokenizer.ranks[bytes([byte])])
        assert any(
            shown == data[: n_bytes - held].decode("utf-8", "replace")
            for held in range(min(n_bytes, 3) + 1)
        )
    assert shown + stream.finish() == data.decode("utf-8", "replace")


@pytest.mark.parametrize("token", [-1, 9_999])
def test_unknown_ids_are_ignored_when_decoding(tokenizer: Tokenizer, token: int) -> None:
    assert tokenizer.decode([*tokenizer.encode("a"), token]).startswith("a")


def test_a_vocabulary_has_at_most_the_requested_size(story: str) -> None:
    assert Tokenizer.train([story], 300).vocab_size == 300
    assert Tokenizer.train(["ab"], 300).vocab_size <= 258


@pytest.mark.parametrize("texts", [[], [""], ["a"]])
def test_a_tokenizer_trained_on_almost_no_text_encodes_any_text(texts: list[str]) -> None:
    tokenizer = Tokenizer.train(texts, 257)
    assert tokenizer.vocab_size == 257 and tokenizer.decode(tokenizer.encode("ab 가")) == "ab 가"


def test_training_is_deterministic(story: str, tokenizer: Tokenizer) -> None:
    assert Tokenizer.train([story], 512).fingerprint == tokenizer.fingerprint
    assert Tokenizer.train([story[:5000]], 512).fingerprint != tokenizer.fingerprint


def test_dropout_of_a_word_of_100000_letters_takes_linear_time(tokenizer: Tokenizer) -> None:
    word, started_at = "ab" * 50_000, time.process_time()
    ids = tokenizer.encode_with_dropout(word, 0.3, random.Random(0).random)
    assert time.process_time() - started_at < 20.0  # 1 s; uncut 10 minutes
    assert tokenizer.decode(ids) == word


def test_dropout_zero_equals_plain_encoding(tokenizer: Tokenizer, story: str) -> None:
    for word in set(tokenizer.split(story)):
        assert tokenizer.encode_with_dropout(word, 0.0, lambda: 0.5) == tokenizer.encode(word)


@law
@given(word=st.text(min_size=1, max_size=20), seed=st.integers(0, 9))
def test_dropout_does_not_change_the_text(tokenizer: Tokenizer, word: str, seed: int) -> None:
    assert (
        tokenizer.decode(tokenizer.encode_with_dropout(word, 0.5, random.Random(seed).random))
        == word
    )


@law
@given(text=some_text)
def test_ids_equal_those_of_tokenizers_for_any_text(
    tokenizer: Tokenizer, hf_tokenizer: tokenizers.Tokenizer, text: str
) -> None:
    assert hf_tokenizer.encode(text).ids == tokenizer.encode(text)


def test_ids_equal_those_of_tokenizers_for_random_texts(
    tokenizer: Tokenizer, hf_tokenizer: tokenizers.Tokenizer, story: str
) -> None:
    for text in [story, *SAMPLES, *_random_texts(1_000, 2)]:
        assert hf_tokenizer.encode(text).ids == tokenizer.encode(text)


def test_a_tokenizer_survives_json(tokenizer: Tokenizer, story: str) -> None:
    again = Tokenizer.from_mapping(json.loads(json.dumps(tokenizer.to_mapping())))
    assert (
        again.fingerprint == tokenizer.fingerprint and again.to_mapping() == tokenizer.to_mapping()
    )
    assert again.encode(story) == tokenizer.encode(story)


def _damage(path: str, value: Any) -> Callable[[Any], None]:
    def apply(data: Any) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
        for key in parents:
            data = data[key]
        if value is None:
            del data[last]
        else:
            data[last] = value

    return apply


PATTERN = "pre_tokenizer/pretokenizers/0/pattern/Regex"
DAMAGES = {
    "no model": _damage("model", None),
    "no vocabulary": _damage("model/vocab", None),
    "empty vocabulary": _damage("model/vocab", {}),
    "vocabulary is a list": _damage("model/vocab", [1, 2]),
    "no byte": _damage("model/vocab/a", None),
    "two tokens of one id": _damage("model/vocab/a", 1),
    "id is a text": _damage("model/vocab/a", "1"),
    "id is negative": _damage("model/vocab/a", -1),
    "id is huge": _damage("model/vocab/a", 2**40),
    "unknown character": lambda data: data["model"]["vocab"].update({"한": 511}),
    "no special token": _damage("added_tokens", []),
    "special id is a text": _damage("added_tokens/0/id", "5"),
    "special id is a token's": _damage("added_tokens/0/id", 5),
    "special id is negative": _damage("added_tokens/0/id", -5),
    "no pattern": _damage(PATTERN, None),
    "pattern is no regex": _damage(PATTERN, "(("),
    "pattern is a number": _damage(PATTERN, 5),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_tokenizer_file_is_refused(
    tokenizer: Tokenizer, damage: Callable[[Any], None]
) -> None:
    data = copy.deepcopy(tokenizer.to_mapping())
    damage(data)
    with pytest.raises(TokenizerError):
        Tokenizer.from_mapping(data, "here.json")


@pytest.mark.parametrize("data", [None, [], "text", 5, {}])
def test_the_error_for_other_content_names_the_file(data: Any) -> None:
    with pytest.raises(TokenizerError, match=r"^here.json is not a byte-level BPE") as caught:
        Tokenizer.from_mapping(data, "here.json")
    assert caught.value.fix


def test_gpt2_ids_equal_those_of_tiktoken(gpt2: Tokenizer, story: str) -> None:
    reference = _reference(gpt2)
    assert gpt2.vocab_size == 50_257 and gpt2.end_of_text == 50_256
    assert gpt2.encode("Hello world") == [15496, 995]
    for text in [story, *SAMPLES, *_random_texts(100, 3)]:
        assert gpt2.encode(text) == reference.encode_ordinary(text)


@pytest.mark.slow  # its merges are derived from 50,000 tokens
def test_gpt2_ids_equal_those_of_tokenizers(gpt2: Tokenizer, story: str) -> None:
    hf_tokenizer = _in_tokenizers(gpt2)
    for text in [story, *SAMPLES, *_random_texts(100, 3)]:
        assert gpt2.encode(text) == hf_tokenizer.encode(text).ids


@pytest.mark.parametrize("character", [" ", "\n", "a", ".", "가"], ids=ascii)
@pytest.mark.parametrize("n_bytes", [200_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_gpt2_encodes_a_long_run_of_one_character_in_linear_time(
    gpt2: Tokenizer, character: str, n_bytes: int
) -> None:
    text = character * (n_bytes // len(character.encode()))
    started_at = time.process_time()
    ids = gpt2.encode(text)
    assert time.process_time() - started_at < 2e-6 * n_bytes
    assert gpt2.decode(ids) == text


def _reference(gpt2: Tokenizer) -> tiktoken.Encoding:
    published = (  # in tiktoken_ext
        r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++"""
        r"""|\s++$|\s+(?!\S)|\s"""
    )
    return tiktoken.Encoding(
        "gpt2", pat_str=published, mergeable_ranks=gpt2.ranks, special_tokens={END_OF_TEXT: 50_256}
    )


def test_gpt2_without_network_suggests_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str) -> tiktoken.Encoding:
        raise ConnectionError(f"no route for {name}")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(TokenizerError, match="cannot be downloaded") as caught:
        Tokenizer.gpt2()
    assert "--tokenizer bpe" in caught.value.fix
