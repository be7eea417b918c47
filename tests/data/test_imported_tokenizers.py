"""Imported tokenizers give the ids of the library `tokenizers`, or are refused by name."""

from __future__ import annotations

import copy
import functools
import json
import random
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from conftest import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_tokenizer import SAMPLES, _random_texts
from tokenizers import models, pre_tokenizers, processors, trainers

from simplellm.data.byte_alphabet import CHARACTER_OF_BYTE
from simplellm.data.split_patterns import _KNOWN, GPT2_SPLIT_PATTERN, SplitPattern, pattern_named
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import TokenizerError
from simplellm.evaluation.analyze import character_spans, token_text
from simplellm.storage.json_files import read_json

Json = dict[str, Any]
PARTS = [
    "\x04", "\x06", " ", "  ", "\n", "\r\n", "\t", "a", "the ", "1", "23", "'s", "'S", "'ſ", "ſ",
    "가", "\u1100", "\u1161", "\u11a8", "e\u0301", "é", "👍", "👩\u200d👩", "\u3000", "Ab", "AB",
    "/", "!!", "<think>", "<|im_start|>", "<tok>", "<tok>a", "def f(x):\n    return x\n", "İ", "²",
]  # fmt: skip
NEW_TOKENS = [("<|im_start|>", False, True), ("<think>", False, False), ("<tok>", True, False)]
PATTERNS = [pattern for pattern in _KNOWN if pattern.name]
any_text = st.text(max_size=40) | st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
law = settings(
    deadline=None,
    max_examples=examples(60),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def pre_tokenizer(pattern: SplitPattern) -> pre_tokenizers.PreTokenizer:
    """As a tokenizer.json has it for this pattern."""
    byte_level = functools.partial(pre_tokenizers.ByteLevel, add_prefix_space=False)
    if pattern.splits_digits_first:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, byte_level(use_regex=True)])
    if pattern.expression == GPT2_SPLIT_PATTERN:
        return byte_level(use_regex=True)
    split = pre_tokenizers.Split(tokenizers.Regex(pattern.expression), "isolated")
    return pre_tokenizers.Sequence([split, byte_level(use_regex=False)])


def trained(story: str, pattern: SplitPattern, all_bytes: bool = True) -> Json:
    """The tokenizer.json of a tokenizer that `tokenizers` trained."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer(pattern)
    alphabet = pre_tokenizers.ByteLevel.alphabet() if all_bytes else []
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([story, "".join(PARTS) * 9], trainer)
    return json.loads(tokenizer.to_str())


@pytest.fixture(scope="module")
def plain(story: str) -> Json:
    return trained(story, pattern_named("qwen2"))


@pytest.fixture(scope="module")
def corpus(story: str) -> list[str]:
    draw = random.Random(4)
    texts = SAMPLES + _random_texts(6_000, 5)
    texts += ["".join(draw.choices(PARTS, k=draw.randint(1, 14))) for _ in range(7_000)]
    texts = [text for text in texts if _is_of_unicode_14(text)]
    return texts + [story[i : i + 400] for i in range(0, len(story), 1_009)]


def _is_of_unicode_14(text: str) -> bool:
    """`tokenizers` and tiktoken disagree on the class of characters that are newer."""
    return all(unicodedata.category(character) != "Cn" for character in text)


def differences(data: Json, texts: list[str]) -> list[str]:
    """The texts whose ids differ from those of `tokenizers`."""
    reference = tokenizers.Tokenizer.from_str(json.dumps(data))
    reference.encode_special_tokens = True
    imported = Tokenizer.from_mapping(copy.deepcopy(data))
    encoded = reference.encode_batch(texts, add_special_tokens=False)
    return [
        text
        for text, ids in zip(texts, encoded, strict=True)
        if ids.ids != imported.encode(text) or ids.ids != imported.encode_array(text).tolist()
    ]


@pytest.mark.parametrize("every", [70, pytest.param(17, marks=pytest.mark.slow)])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
def test_ids_equal_those_of_tokenizers_for_each_pattern(
    story: str, pattern: SplitPattern, corpus: list[str], every: int
) -> None:
    assert differences(trained(story, pattern), corpus[::every]) == []


def _shuffled_ids(data: Json) -> None:
    vocabulary = data["model"]["vocab"]
    ids = [3 * number for number in vocabulary.values()]
    random.Random(1).shuffle(ids)
    data["model"]["vocab"] = dict(zip(vocabulary, ids, strict=True))


def _shuffled_merges(data: Json) -> None:
    random.Random(2).shuffle(data["model"]["merges"])


def _all_splits(data: Json) -> None:
    """Each token of each pair that gives it, as transformers writes vocabularies of tiktoken."""
    vocabulary = data["model"]["vocab"]
    data["model"]["merges"] = [
        pair
        for token in sorted(vocabulary, key=vocabulary.__getitem__)
        for pair in sorted(
            (
                [token[:i], token[i:]]
                for i in range(1, len(token))
                if token[:i] in vocabulary and token[i:] in vocabulary
            ),
            key=lambda pair: [vocabulary[part] for part in pair],
        )
    ]


def _tokens_without_merges(data: Json) -> None:
    vocabulary = data["model"]["vocab"]
    for i, token in enumerate(["ab", "qzqz", "Ġtheory", "Ġa1", "thethe"]):
        vocabulary.setdefault(token, 5_000 + 7 * i)


def _added_tokens(data: Json) -> None:
    data["normalizer"] = {"type": "NFC"}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    data["added_tokens"] = [
        {
            "id": len(data["model"]["vocab"]) + i,
            "content": content,
            "normalized": normalized,
            "special": special,
            **flags,
        }
        for i, (content, normalized, special) in enumerate(NEW_TOKENS)
    ]


def _stripping_tokens(data: Json) -> None:
    _added_tokens(data)
    data["added_tokens"][1] |= {"lstrip": True, "rstrip": True}
    data["added_tokens"][2] |= {"single_word": True}


def _legacy_merges(data: Json) -> None:
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]


def _set(**values: Any) -> Callable[[Json], None]:
    return lambda data: data["model"].update(values)


VARIANTS: dict[str, list[Callable[[Json], None]]] = {
    "as it is": [],
    "ids in another order, with gaps": [_shuffled_ids],
    "merges as texts": [_legacy_merges],
    "merges in another order": [_shuffled_merges],
    "all pairs of each token": [_all_splits, _set(ignore_merges=True)],
    "whole words first": [_set(ignore_merges=True)],
    "whole words without merges": [_tokens_without_merges, _set(ignore_merges=True)],
    "tokens without merges": [_tokens_without_merges],
    "added tokens and NFC": [_added_tokens],
    "added tokens that strip": [_stripping_tokens],
    "all at once": [_shuffled_ids, _tokens_without_merges, _added_tokens, _shuffled_merges],
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_ids_equal_those_of_tokenizers_for_each_kind_of_file(
    plain: Json, corpus: list[str], changes: list[Callable[[Json], None]]
) -> None:
    data = copy.deepcopy(plain)
    for change in changes:
        change(data)
    assert differences(data, corpus[::40]) == []


@pytest.mark.slow
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_ids_equal_those_of_tokenizers_on_ten_thousand_texts(
    plain: Json, corpus: list[str], changes: list[Callable[[Json], None]]
) -> None:
    data = copy.deepcopy(plain)
    for change in changes:
        change(data)
    assert len(corpus) > 10_000
    assert differences(data, corpus) == []


@pytest.mark.parametrize("unknown", [{}, {"unk_token": "a"}, {"unk_token": "a", "fuse_unk": True}])
@pytest.mark.parametrize("ignore_merges", [False, True])
@pytest.mark.parametrize("every", [40, pytest.param(5, marks=pytest.mark.slow)])
def test_bytes_without_a_token_are_treated_as_tokenizers_does(
    story: str, corpus: list[str], unknown: Json, ignore_merges: bool, every: int
) -> None:
    data = trained(story, pattern_named("smollm"), all_bytes=False)
    data["model"] |= {"ignore_merges": ignore_merges, **unknown}
    assert differences(data, corpus[::every]) == []


@law
@given(text=any_text.filter(_is_of_unicode_14))
def test_ids_of_any_text_equal_those_of_tokenizers(plain: Json, text: str) -> None:
    assert differences(plain, [text]) == []


def test_special_tokens_come_from_templates_only(plain: Json) -> None:
    data = copy.deepcopy(plain)
    _added_tokens(data)
    tokenizer = Tokenizer.from_mapping(data)
    assert tokenizer.special_tokens == {"<|im_start|>": 700}
    assert tokenizer.decode(tokenizer.encode("<|im_start|>")) == "<|im_start|>"
    assert 700 not in tokenizer.encode("<|im_start|>")
    assert tokenizer.encode("<think>") == [701] == tokenizer.encode_template("<think>")
    reference = tokenizers.Tokenizer.from_str(json.dumps(data))
    template = "<|im_start|>user\nA<think>b<|im_start|>"
    assert tokenizer.encode_template(template) == reference.encode(template).ids
    assert tokenizer.decode(tokenizer.encode_template(template)) == "user\nA<think>b"


def test_tokens_that_another_program_added_to_a_tokenizer_of_ours_are_known(
    tokenizer: Tokenizer, corpus: list[str]
) -> None:
    saved = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.to_mapping()))
    saved.add_special_tokens(["<|im_start|>"])
    saved.add_tokens(["<think>"])
    data = json.loads(saved.to_str())
    imported = Tokenizer.from_mapping(data)
    new = {"<|im_start|>": tokenizer.vocab_size, "<think>": tokenizer.vocab_size + 1}
    assert imported.special_tokens.items() >= {("<|im_start|>", new["<|im_start|>"])}
    assert imported.encode_template("".join(new)) == list(new.values())
    assert imported.end_of_text == tokenizer.end_of_text
    assert differences(data, corpus[::17]) == []


def test_an_imported_tokenizer_is_saved_as_it_was_read(plain: Json, corpus: list[str]) -> None:
    tokenizer = Tokenizer.from_mapping(copy.deepcopy(plain))
    assert tokenizer.to_mapping() == plain
    again = Tokenizer.from_mapping(tokenizer.to_mapping())
    assert again.fingerprint == tokenizer.fingerprint


def test_random_segmentations_of_an_imported_tokenizer_are_the_text(plain: Json) -> None:
    data = copy.deepcopy(plain)
    _shuffled_ids(data)
    tokenizer = Tokenizer.from_mapping(data)
    draw = random.Random(0)
    for word in tokenizer.split("There were seventeen judges, and 한국어."):
        assert tokenizer.encode_with_dropout(word, 0.0, draw.random) == tokenizer.encode(word)
        assert tokenizer.decode(tokenizer.encode_with_dropout(word, 0.5, draw.random)) == word


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
REFUSALS: dict[str, tuple[Callable[[Json], Any], str]] = {
    "unigram": (lambda d: d["model"].update(type="Unigram"), "SentencePiece tokenizers are not"),
    "byte fallback": (lambda d: d["model"].update(byte_fallback=True), "SentencePiece"),
    "metaspace": (lambda d: d.update(pre_tokenizer=METASPACE), "SentencePiece"),
    "wordpiece": (lambda d: d["model"].update(type="WordPiece"), "WordPiece tokenizers are not"),
    "suffix": (lambda d: d["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    "dropout": (lambda d: d["model"].update(dropout=0.1), "dropout"),
    "no words": (lambda d: d.update(pre_tokenizer=None), "only byte-level BPE"),
    "lower case": (lambda d: d.update(normalizer={"type": "Lowercase"}), "normalizer Lowercase"),
    "prefix space": (
        lambda d: d["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
        "add_prefix_space",
    ),
    "another step": (
        lambda d: d["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Punctuation"}),
        "pre-tokenizer step Punctuation",
    ),
    "exponential pattern": (
        lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "(a+)+$"}),
        r"split pattern is unknown: \(a\+\)\+\$",
    ),
    "two ids": (lambda d: d["model"]["vocab"].update(a=1, b=1), "same id"),
    "huge id": (lambda d: d["model"]["vocab"].update(a=1 << 40), "not a number of a token"),
    "merge of three": (lambda d: d["model"]["merges"].append(["a", "b", "c"]), "not a pair"),
    "merge of one": (lambda d: d["model"].update(merges=["ab"]), "not a pair"),
    "unknown merge": (lambda d: d["model"]["merges"].append(["a", "한"]), "no token"),
    "merges of numbers": (lambda d: d["model"].update(merges=[[1, 2]]), "byte-level BPE|no token"),
    "vocabulary is a list": (lambda d: d["model"].update(vocab=[1]), "not a list of tokens"),
    "no merges": (lambda d: d["model"].pop("merges"), "merges"),
    "added token is a number": (
        lambda d: d.update(added_tokens=[{"id": 5, "content": 7}]),
        "not a text",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_is_not_supported_is_refused_by_name(
    plain: Json, change: Callable[[Json], None], message: str
) -> None:
    data = copy.deepcopy(plain)
    change(data)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.from_mapping(data, "here.json")
    assert str(caught.value).startswith("here.json") and caught.value.fix


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
@pytest.mark.parametrize("character", [" ", "\n", " \n", "a", "A", "1", ".", "\u0301"], ids=ascii)
def test_every_known_pattern_cuts_in_linear_time(pattern: SplitPattern, character: str) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    tokenizer = Tokenizer(ranks)
    tokenizer._encoder = type(tokenizer._encoder)(pattern.linear, ranks, tokenizer._encoder.ids)
    text = character * 300_000
    started_at = time.process_time()
    assert len(tokenizer.encode(text)) == len(text.encode())
    assert time.process_time() - started_at < 3.0  # 0.2 s


@pytest.mark.slow
def test_a_vocabulary_of_256000_tokens_loads_in_two_seconds(tmp_path: Path) -> None:
    draw, tokens = random.Random(1), list(CHARACTER_OF_BYTE.values())
    known, merges = set(tokens), []
    while len(tokens) < 256_000:
        left, right = draw.choice(tokens), draw.choice(tokens[:500])
        if len(left + right) <= 20 and left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
            merges.append([left, right])
    data = {
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {"type": "BPE", "merges": merges, "vocab": {t: i for i, t in enumerate(tokens)}},
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    seconds = []
    for _ in range(3):
        started_at = time.process_time()
        tokenizer = Tokenizer.from_mapping(read_json(path))
        seconds.append(time.process_time() - started_at)
        assert tokenizer.vocab_size == 256_000
    assert min(seconds) < 2.0  # 1.4 s on two cores that nine programs share


def test_a_special_token_is_shown_by_its_own_text(plain: Json) -> None:
    data = copy.deepcopy(plain)
    _added_tokens(data)
    tokenizer = Tokenizer.from_mapping(data)
    assert token_text(tokenizer, 700) == "<|im_start|>" and tokenizer.decode([700]) == ""
    spans = list(character_spans(tokenizer, [700, *tokenizer.encode("a")]))
    assert "".join(text for text, _, _ in spans) == "<|im_start|>a"


# ---------------------------------------------------------------- tokens before a text


def _template(*parts: str) -> processors.PostProcessor:
    """Special tokens of `with_post_processor`; $A is the text."""
    single = [part if part == "$A" else f"{part}:0" for part in parts]
    ids = [("<|im_start|>", 700), ("<tok>", 702)]
    return processors.TemplateProcessing(single=single, special_tokens=ids)


POST_PROCESSORS = {
    "no token": (_template("$A"), ()),
    "one token": (_template("<|im_start|>", "$A"), (700,)),
    "two tokens": (_template("<|im_start|>", "<tok>", "$A"), (700, 702)),
    "byte level": (processors.ByteLevel(), ()),
    "Llama 3": (
        processors.Sequence([processors.ByteLevel(), _template("<|im_start|>", "$A")]),
        (700,),
    ),
    "RoBERTa": (processors.RobertaProcessing(("<tok>", 702), ("<|im_start|>", 700)), (700,)),
}


def with_post_processor(plain: Json, processor: processors.PostProcessor) -> tokenizers.Tokenizer:
    data = copy.deepcopy(plain)
    _added_tokens(data)
    reference = tokenizers.Tokenizer.from_str(json.dumps(data))
    reference.post_processor = processor
    return reference


@pytest.mark.parametrize("name", POST_PROCESSORS)
def test_a_prompt_begins_with_the_tokens_of_the_post_processor(plain: Json, name: str) -> None:
    processor, bos_ids = POST_PROCESSORS[name]
    reference = with_post_processor(plain, processor)
    tokenizer = Tokenizer.from_mapping(json.loads(reference.to_str()))
    assert tokenizer.bos_ids == bos_ids
    for text in ("He was", "가 2", "<think>"):
        ids = tokenizer.encode_prompt(text)
        assert ids == reference.encode(text).ids[: len(ids)]
        assert ids[len(bos_ids) :] == tokenizer.encode(text)
    assert tokenizer.encode_prompt("") == (list(bos_ids) or [tokenizer.end_of_text])


def test_a_token_after_a_prompt_is_left_out(plain: Json) -> None:
    reference = with_post_processor(plain, _template("<|im_start|>", "$A", "<tok>"))
    tokenizer = Tokenizer.from_mapping(json.loads(reference.to_str()))
    assert [*tokenizer.encode_prompt("He was"), 702] == reference.encode("He was").ids


@pytest.mark.parametrize("ids", [[9000], [-1], ["7"], [700] * 9, None])
def test_an_unknown_token_before_a_text_is_refused(plain: Json, ids: object) -> None:
    reference = with_post_processor(plain, _template("<|im_start|>", "$A"))
    data = json.loads(reference.to_str())
    data["post_processor"]["special_tokens"]["<|im_start|>"]["ids"] = ids
    with pytest.raises(TokenizerError, match="puts tokens before a text|not a byte-level BPE"):
        Tokenizer.from_mapping(data)
