r"""Split patterns: how a text is cut into words, which tokens never cross.

A pattern of a foreign file is never run: it selects an entry of the tables below. The regular
expressions that tokenizers publish overflow the stack of tiktoken on a million spaces, so each
entry has a form that cuts in the same places in linear time:

- Quantifiers are possessive where what follows cannot match the same characters.
- `\s+(?!\S)` (a run of white space but its last character, which the next word may take) consumes
  the run 64 characters at a time, while two remain, before it backtracks.

Names are those of llama.cpp (`tokenizer.ggml.pre`, src/llama-vocab.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"

# New runs. llama.cpp knows it as llama-bpe and cuts with it in linear time; of the patterns that it
# knows, this one is nearest to the one of earlier runs (docs/recipe.md, "Split pattern").
SPLIT_PATTERN = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

# Earlier runs cut runs of one class at 64 characters, and white space for GPT-2 at 512.
EARLIER_SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{M}\p{N}]?+[\p{L}\p{M}]{1,64}|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{M}\p{N}]{1,64}[\r\n]{0,64}|\s{0,64}[\r\n]|\s{1,64}(?!\S)|\s{1,64}"
)
EARLIER_GPT2_SPLIT_PATTERN = (
    r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s{1,512}(?!\S)|\s{1,512}"""
)

OWN_PATTERNS = (
    SPLIT_PATTERN,
    GPT2_SPLIT_PATTERN,
    EARLIER_SPLIT_PATTERN,
    EARLIER_GPT2_SPLIT_PATTERN,
)

# Merges of a new tokenizer are learned from words of at most 64 characters, so that no run of one
# character becomes a token. Shorter words are those of SPLIT_PATTERN.
TRAINING_PATTERN = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?+\p{L}{1,64}|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]{1,64}[\r\n]{0,64}|\s{0,64}[\r\n]|\s{1,64}(?!\S)|\s{1,64}"
)


@dataclass(frozen=True)
class SplitPattern:
    """A pattern that is known.

    name: llama.cpp's, empty where it has none. expression: as written in tokenizer.json. linear:
    the regular expression that is run. splits_digits_first: a step before the pattern makes each
    digit a word.
    """

    name: str
    expression: str
    linear: str
    splits_digits_first: bool = False


_SPACES, _LINEAR_SPACES = r"|\s+(?!\S)|\s+", r"|(?:\s{64}(?=\s\s))*+\s+(?!\S)|\s"
_LINES = r"|\s*[\r\n]+"

# `(?i:'s)` also matches the letter U+017F, which llama.cpp's spelling (_CONTRACTIONS) does not.
_ANY_CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ANY_CASE_OF_CL100K = r"'(?i:[sdmt]|ll|ve|re)"

_GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++"
_GPT2_LINEAR = _GPT2_WORDS + r"| ?\p{N}++| ?[^\s\p{L}\p{N}]++" + _LINEAR_SPACES
_GPT2_OTHERWISE = r"'s|'t|'re|'ve|'m|'ll|'d" + GPT2_SPLIT_PATTERN[GPT2_SPLIT_PATTERN.index("| ?") :]
# Spaces before a digit are a word of their own, because digits are cut off first.
_SMOLLM_LINEAR = (
    _GPT2_WORDS + r"|\p{N}| ?[^\s\p{L}\p{N}]++|(?:\s{64}(?=\s\s))*+\s+(?![^\s\p{N}])|\s"
)

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE_LETTERS = r"[^\r\n\p{L}\p{N}]?"
_SYMBOLS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"


def _cased_words(ending: str) -> str:
    return (
        f"{_BEFORE_LETTERS}{_UPPER}*{_LOWER}+{ending}|{_BEFORE_LETTERS}{_UPPER}+{_LOWER}*{ending}"
    )


def _llama3_style(name: str, digits: str) -> Iterator[SplitPattern]:
    """Llama 3's pattern with `digits` as numbers, in the spellings that are found in files."""
    words = r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    linear = r"|[^\r\n\p{L}\p{N}]?+\p{L}++|" + digits + r"| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    for contractions in (_CONTRACTIONS, _ANY_CASE, _ANY_CASE_OF_CL100K):
        run = contractions + linear + _LINES + _LINEAR_SPACES
        yield SplitPattern(name, contractions + words + _LINES + _SPACES, run)
        # `\s*[\r\n]` ends at the last line end of a run, too.
        yield SplitPattern(name, contractions + words + r"|\s*[\r\n]" + _SPACES, run)
        possessive = r"|[^\r\n\p{L}\p{N}]?+\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]++[\r\n]*"
        yield SplitPattern(name, contractions + possessive + r"|\s*[\r\n]" + _SPACES, run)


def _unbounded(name: str, words: str) -> SplitPattern:
    """A pattern whose words are run as they are written."""
    return SplitPattern(name, words + _LINES + _SPACES, words + _LINES + _LINEAR_SPACES)


_KNOWN = (
    *_llama3_style("llama-bpe", r"\p{N}{1,3}"),
    *_llama3_style("qwen2", r"\p{N}"),
    SplitPattern("gpt-2", GPT2_SPLIT_PATTERN, _GPT2_LINEAR),
    SplitPattern("gpt-2", _GPT2_OTHERWISE, _GPT2_LINEAR),
    SplitPattern("smollm", GPT2_SPLIT_PATTERN, _SMOLLM_LINEAR, splits_digits_first=True),
    SplitPattern("smollm", _GPT2_OTHERWISE, _SMOLLM_LINEAR, splits_digits_first=True),
    *(
        _unbounded(
            "qwen35",
            contractions + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        )
        for contractions in (_CONTRACTIONS, _ANY_CASE)
    ),
    _unbounded("tekken", _cased_words("") + r"|\p{N}" + _SYMBOLS),
    _unbounded("gpt-4o", _cased_words(_ANY_CASE + "?") + r"|\p{N}{1,3}" + _SYMBOLS),
    SplitPattern("", EARLIER_SPLIT_PATTERN, EARLIER_SPLIT_PATTERN),
    SplitPattern("", EARLIER_GPT2_SPLIT_PATTERN, EARLIER_GPT2_SPLIT_PATTERN),
)

# Other names that llama.cpp gives to the same patterns.
_ALIASES = {
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 dbrx smaug-bpe glm4 "
    "chatglm-bpe",
    "qwen2": "deepseek-r1-qwen kormo f2llmv2 stablelm2 megrez hunyuan solar-open grok-2 "
    "bailingmoe bailingmoe2 llada-moe",
    "gpt-2": "gpt2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum mpt olmo "
    "jais exaone4 trillion granite-docling",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b",
    "gpt-4o": "llama4 minimax-m2",
}


def find_pattern(expression: str, splits_digits_first: bool = False) -> SplitPattern | None:
    """The known pattern that is written as `expression`."""
    return _BY_REGEX.get((expression, splits_digits_first))


def pattern_named(name: str) -> SplitPattern | None:
    """The pattern by its name in llama.cpp, as llama.cpp itself spells it."""
    return _BY_NAME.get(name)


def known_names() -> list[str]:
    return sorted({pattern.name for pattern in _KNOWN} - {""})


def named_patterns() -> dict[str, str]:
    """The patterns without a step before them that llama.cpp knows, by its name for them."""
    return {
        pattern.name: pattern.expression
        for pattern in reversed(_KNOWN)
        if pattern.name and not pattern.splits_digits_first
    }


_BY_REGEX = {(pattern.expression, pattern.splits_digits_first): pattern for pattern in _KNOWN}
_BY_NAME = {pattern.name: pattern for pattern in reversed(_KNOWN) if pattern.name}
_BY_NAME |= {
    alias: _BY_NAME[name] for name, aliases in _ALIASES.items() for alias in aliases.split()
}
