"""Default settings for a text, a device and a budget, from the trials in docs/recipe.md.

Pure functions, without torch. Settings that the user gave are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from simplellm.config import conversations
from simplellm.config.architectures import ARCHITECTURES
from simplellm.config.conversations import (
    ConversationLengths,
    for_conversations,
    warm_on_conversations,
)
from simplellm.config.fine_tuning import SMALL_TEXT_BYTES, epochs_of_small_text, fine_tuning
from simplellm.config.heads import fitted_shape
from simplellm.config.lora import adapted_matrices
from simplellm.config.model import ModelConfig
from simplellm.config.overfit import OVERFIT
from simplellm.config.setting import ExplicitSettings, Setting
from simplellm.config.training import TrainConfig
from simplellm.errors import SettingError

DEFAULT_BUDGET_SECONDS = 60.0
MIN_TUNED_BYTES = 18_000  # size of the smallest text of the trials
MAX_EPOCHS_OF_SMALL_TEXT = 85.0  # beyond, validation loss rises (300 steps on 18 kB)
# From here on a text is not segmented anew in each epoch: it is read once or twice, and its words
# do not fit the cache.
LARGE_TEXT_BYTES = 4_000_000
HEAD_SIZE = 64  # dimensions of an attention head
SHAPES = (  # minimum seconds of training, blocks, width
    (0, 4, 128),
    (45, 4, 192),
    (200, 6, 192),
    (400, 6, 256),
)
SECONDS_PER_MEGABYTE = 40.0  # from here on dropout pays, more with each doubling of the time
DROPOUT_PER_DOUBLING, MAX_DROPOUT = 0.05, 0.2
BPE_DROPOUT_FROM_DOUBLINGS = 1.0


def choose(
    train_bytes: int,
    given: ExplicitSettings,
    base: ModelConfig | None = None,
    speed: float = 1.0,
    is_open: bool = False,
    lengths: ConversationLengths | None = None,
) -> tuple[ModelConfig, TrainConfig]:
    """The configs for a text of `train_bytes`; settings in `given` override the recipe.

    base: the model that training continues from, whose shape stays. is_open: whether it was trained
    by others on very much text, and not by this recipe. speed: see `recipe`. lengths: of the
    conversations; None for texts only.
    SettingError for settings that do not fit together or would change the shape of `base`.
    """
    given = {name: _setting(name).check(value) for name, value in given.items()}
    known = {**(base.to_mapping() if base else {}), **given}
    chosen = {**recipe(train_bytes, known, speed, lengths), **given}
    if base is None:
        chosen |= fitted_shape(chosen, given)
    train = {name: value for name, value in chosen.items() if name in TrainConfig.names()}
    if base is None:
        names = ModelConfig.names()
        model = ModelConfig(**{name: value for name, value in chosen.items() if name in names})
    else:
        for_data = warm_on_conversations(is_open, train_bytes) if lengths else {}
        model, train = fine_tuning(base, chosen, train, given, is_open, train_bytes, for_data)
    if train.get("r_drop") and not model.dropout:
        if "r_drop" in given:
            raise SettingError(
                "r_drop compares passes with different dropout, got dropout 0",
                fix="use --dropout 0.1 or more",
            )
        train["r_drop"] = 0.0
    if train.get("freeze", 0) > model.n_layer:
        raise SettingError(
            f"freeze is at most n_layer, got {train['freeze']} of {model.n_layer}",
            fix="use a lower --freeze",
        )
    if train.get("lora") and base is None:
        raise _nothing_to_adapt()
    config = TrainConfig(**train)
    adapted_matrices(config, model)  # refuses what the model does not have
    return model, config


def _nothing_to_adapt() -> SettingError:
    return SettingError(
        "lora adapts a trained model, got none to start from",
        fix="--from RUN, --from base, or --from a model folder or .gguf file",
    )


def _setting(name: str) -> Setting:
    return (ModelConfig if name in ModelConfig.names() else TrainConfig).setting(name)


def recipe(
    train_bytes: int,
    given: Mapping[str, Any],
    speed: float = 1.0,
    lengths: ConversationLengths | None = None,
) -> dict[str, Any]:
    """Settings that suit a text of this size and this time.

    speed: of the machine, relative to that of the trials (2 CPU cores).
    """
    settings: dict[str, Any] = {
        "beta2": 0.95,
        "weight_decay": 0.0,
        "schedule": "wsd",
        "tie_embeddings": False,
    }
    if all(given.get(limit) is None for limit in ("budget", "max_steps", "max_epochs")):
        settings["budget"] = DEFAULT_BUDGET_SECONDS
    seconds = float(given.get("budget") or settings.get("budget") or DEFAULT_BUDGET_SECONDS) * speed
    if train_bytes < SMALL_TEXT_BYTES:
        settings |= _small_text(train_bytes)
        settings["max_epochs"] = _max_epochs(train_bytes)
    else:
        settings |= _larger_text(train_bytes, seconds)
    if lengths is not None:
        settings |= for_conversations(lengths, train_bytes)
    if given.get("max_steps") is not None:
        settings["max_epochs"] = None
    if given.get("tokenizer") == "gpt2":
        settings |= {"bpe_dropout": 0.0, "composition": 0.0}
    architecture = given.get("architecture", ModelConfig.setting("architecture").default)
    if given.get("optimizer") == "adamw" or not ARCHITECTURES[architecture].has_tuned_rates:
        settings |= {"weight_decay": 0.1, "learning_rate": 1e-3}
    if given.get("overfit"):
        settings |= OVERFIT
    n_embd = int(given.get("n_embd", settings["n_embd"]))
    settings["n_head"] = max(n_embd // HEAD_SIZE, given.get("n_kv_head") or 1)
    block_size = int(given.get("block_size", settings["block_size"]))
    settings["batch_size"] = max(settings.pop("tokens") // block_size, 1)
    return settings


def _small_text(train_bytes: int) -> dict[str, Any]:
    """A text that is read many times: strong regularization against overfitting."""
    return {
        "n_embd": 128,
        "block_size": 128 if train_bytes >= MIN_TUNED_BYTES else 64,
        "vocab_size": 1536,
        "tokens": 1024,
        "dropout": 0.3,
        "r_drop": 2.0,
        "bpe_dropout": 0.35,
        "renaming": 0.3,
        "induction": True,
        "token_noise": 0.15,
        "composition": 1.0,
        "learning_rate": 3e-3,
        "muon_learning_rate": 0.04,
        "ema_decay": 0.9,
        "patience": 10,
    }


def usual_epochs(train_bytes: int, is_warm: bool = False, is_chat: bool = False) -> float:
    """Passes over the data that a usual training makes.

    is_warm: from a trained model. is_chat: over conversations.
    """
    if is_chat:
        return conversations.usual_epochs(train_bytes, is_warm)
    if train_bytes >= SMALL_TEXT_BYTES:
        return 1.0
    return epochs_of_small_text(train_bytes) if is_warm else _max_epochs(train_bytes)


def _max_epochs(train_bytes: int) -> float:
    """Epochs after which validation loss begins to rise.

    A very small text has few steps in an epoch, but a model needs some steps to learn anything.
    """
    shortage = max(MIN_TUNED_BYTES / max(train_bytes, 1), 1.0)
    return MAX_EPOCHS_OF_SMALL_TEXT * math.sqrt(shortage)


def _larger_text(train_bytes: int, seconds: float) -> dict[str, Any]:
    """A text that is read a few times.

    More time allows a larger model; more time per byte needs more regularization.
    """
    n_layer, n_embd = next(shape for least, *shape in reversed(SHAPES) if seconds >= least)
    doublings = math.log2(max(seconds / (train_bytes / 1e6) / SECONDS_PER_MEGABYTE, 1e-9))
    settings: dict[str, Any] = {
        "n_layer": n_layer,
        "n_embd": n_embd,
        "block_size": 512,
        "vocab_size": 1024,
        "tokens": 2048,
        "dropout": round(min(max(DROPOUT_PER_DOUBLING * doublings, 0.0), MAX_DROPOUT), 2),
        "induction": True,
        "learning_rate": 1e-2 if n_layer == 4 else 6e-3,
        "muon_learning_rate": 0.02,
        "ema_decay": 0.98,
    }
    if train_bytes >= LARGE_TEXT_BYTES:
        return settings | {"vocab_size": 2048}
    settings["renaming"] = 0.5
    return settings | ({"bpe_dropout": 0.05} if doublings >= BPE_DROPOUT_FROM_DOUBLINGS else {})
