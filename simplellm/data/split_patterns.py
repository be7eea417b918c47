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

# Merges of a new tokenizer are learned from words of at most 64 characters, so that no run of one
# character becomes a token. Shorter words are those of SPLIT_PATTERN.
TRAINING_PATTERN = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?+\p{L}{1,64}|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]{1,64}[\r\n]{0,64}|\s{0,64}[\r\n]|\s{1,64}(?!\S)|\s{1,64}"
)

_SPACE_RUNS = r"|(?:\s{64}(?=\s\s))*+\s+(?!\S)|\s"
_LLAMA3_ENDING = r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s*[\r\n]+" + _SPACE_RUNS


@dataclass(frozen=True)
class SplitPattern:
    """name: llama.cpp's, empty where it has none. linear: the regular expression that is run."""

    name: str
    linear: str


_BY_REGEX = {
    SPLIT_PATTERN: SplitPattern(
        "llama-bpe", _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+" + _LLAMA3_ENDING
    ),
    GPT2_SPLIT_PATTERN: SplitPattern(
        "gpt-2",
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++" + _SPACE_RUNS,
    ),
    EARLIER_SPLIT_PATTERN: SplitPattern("", EARLIER_SPLIT_PATTERN),
    EARLIER_GPT2_SPLIT_PATTERN: SplitPattern("", EARLIER_GPT2_SPLIT_PATTERN),
}


def find_pattern(expression: str) -> SplitPattern | None:
    """The known pattern that is written as `expression`."""
    return _BY_REGEX.get(expression)


def named_patterns() -> dict[str, str]:
    """The patterns that llama.cpp knows, by its name for them."""
    return {pattern.name: expression for expression, pattern in _BY_REGEX.items() if pattern.name}
