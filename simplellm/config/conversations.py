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
# Of a new model, and of a small one that training continues from. An open model knows the language
# of the prompts.
PROMPT_WEIGHT, WARM_PROMPT_WEIGHT = 0.3, 0.1
# Passes over the conversations until a model gives its training replies (measured on 84 kB). Less
# data has as many steps.
NEW_EPOCHS, WARM_EPOCHS = 16.0, 10.0
TUNED_BYTES = 84_000
# Of training, from which the base model learns replies by heart too: seconds for a megabyte, on the
# machine of the trials beside other programs (measured: docs/recipe.md). A new model needs a third.
BASE_SECONDS_PER_MEGABYTE = 1700.0
OPEN_EPOCHS = 10.0  # of an open model: 200 conversations with 20 facts (measured)
# A bot shall give the replies that it was taught. What keeps a model from learning a text by heart
# is left out; the smoothing keeps the loss on held-out replies from rising as much.
TOKENS, WARM_TOKENS, OPEN_TOKENS = 1536, 2048, 256  # in a step
LEARNED_BY_HEART: dict[str, Any] = {"dropout": 0.0, "r_drop": 0.0, "label_smoothing": 0.1}
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


def for_conversations(lengths: ConversationLengths, train_bytes: int) -> dict[str, Any]:
    """What differs from the settings for a text of this size."""
    return {
        **FOR_TEXTS,
        **LEARNED_BY_HEART,
        "block_size": block_size(lengths),
        "prompt_weight": PROMPT_WEIGHT,
        "tokens": TOKENS,
        "max_epochs": usual_epochs(train_bytes, is_warm=False),
    }


def warm_on_conversations(is_open: bool, train_bytes: int) -> dict[str, Any]:
    """What differs where training continues from a model. is_open: others trained it."""
    if is_open:
        return {
            **FOR_TEXTS,
            "prompt_weight": 0.0,
            "tokens": OPEN_TOKENS,
            "max_epochs": OPEN_EPOCHS,
        }
    return {
        **FOR_TEXTS,
        **LEARNED_BY_HEART,
        "prompt_weight": WARM_PROMPT_WEIGHT,
        "tokens": WARM_TOKENS,
        "learning_rate": 5e-3,
        "muon_learning_rate": 0.04,
        "max_epochs": usual_epochs(train_bytes, is_warm=True),
    }


def seconds_from_base(train_bytes: int, speed: float) -> float:
    """The budget from which the base model learns conversations of this size by heart.

    speed: of the machine, relative to that of the trials.
    """
    return BASE_SECONDS_PER_MEGABYTE * train_bytes / 1e6 / max(speed, 1e-9)


def usual_epochs(train_bytes: int, is_warm: bool) -> float:
    """Passes over conversations of this size. is_warm: from a model of this project."""
    epochs = WARM_EPOCHS if is_warm else NEW_EPOCHS
    return epochs * max(TUNED_BYTES / max(train_bytes, 1), 1.0)


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
