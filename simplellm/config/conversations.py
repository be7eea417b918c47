"""Settings of a training on conversations, from the trials in docs/recipe.md. Without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from simplellm.config.setting import flag_of
from simplellm.errors import SettingError

BYTES_PER_TOKEN = 2.5  # of a small vocabulary, with the tokens of the template (measured)
BLOCK_SIZES = (64, 128, 256, 512)  # tokens
COVERED = 0.9  # share of the conversations that are not cut (guess)
PROMPT_WEIGHT = 0.3  # of a small model; an open model knows the language of the prompts
# Augmentations of running text: blocks of conversations are made once, not anew in each epoch.
FOR_TEXTS: dict[str, Any] = {"bpe_dropout": 0.0, "renaming": 0.0, "token_noise": 0.0}


@dataclass(frozen=True)
class ConversationLengths:
    """typical: UTF-8 bytes that COVERED of the conversations do not exceed. longest: of all."""

    typical: int
    longest: int

    @classmethod
    def of(cls, sizes: Iterable[int]) -> ConversationLengths:
        ordered = sorted(sizes)
        return cls(ordered[min(int(COVERED * len(ordered)), len(ordered) - 1)], ordered[-1])


def for_conversations(lengths: ConversationLengths) -> dict[str, Any]:
    """What differs from the settings for a text of this size."""
    return {
        **FOR_TEXTS,
        "block_size": block_size(lengths),
        "prompt_weight": PROMPT_WEIGHT,
        "r_drop": 0.0,
        "dropout": 0.1,
        "label_smoothing": 0.2,
    }


def warm_on_conversations(is_open: bool) -> dict[str, Any]:
    """What differs where training continues from a model. is_open: others trained it."""
    return {**FOR_TEXTS, "prompt_weight": 0.0 if is_open else PROMPT_WEIGHT}


def block_size(lengths: ConversationLengths) -> int:
    """The smallest size in which a typical conversation fits."""
    tokens = lengths.typical / BYTES_PER_TOKEN
    return next((size for size in BLOCK_SIZES if size >= tokens), BLOCK_SIZES[-1])


def refuse_without_effect(given: Mapping[str, Any], has_conversations: bool) -> None:
    """SettingError for a setting that these data do not use."""
    unused = (*FOR_TEXTS, "stride") if has_conversations else ("prompt_weight",)
    data, other = ("conversations", "texts") if has_conversations else ("texts", "conversations")
    for name in unused:
        if given.get(name):
            raise SettingError(
                f"{name} has no effect on {data}, got {given[name]}",
                fix=f"leave {flag_of(name)} out: it is for {other}",
            )
