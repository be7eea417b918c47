"""Every setting of the project, declared once: name, type, default, range and help.

Flags, slash commands, TOML and JSON files and the tables of the README are read from here.
This file does not know torch, so that `--help` and a bad value answer at once.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simplellm.config.setting import Settings, current_names, reject_unknown_keys, setting
from simplellm.errors import SettingError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class ModelConfig(Settings):
    """The shape of a model. Two architectures: see model.py."""

    title: ClassVar[str] = "model"

    architecture: str = setting(
        "str",
        "modern",
        "modern (RMSNorm, RoPE, QK-norm, SwiGLU) or gpt2",
        choices=("modern", "gpt2"),
    )
    n_layer: int = setting("int", 4, "transformer blocks", minimum=1, maximum=1000)
    n_head: int = setting("int", 4, "attention heads", minimum=1, maximum=1024)
    n_kv_head: int | None = setting(
        "int",
        None,
        "key and value heads, shared by groups of heads",
        minimum=1,
        maximum=1024,
        auto="as n_head",
    )
    n_embd: int = setting("int", 128, "width of the residual stream", minimum=2, maximum=65536)
    n_inner: int | None = setting(
        "int",
        None,
        "width inside the feed-forward layer",
        minimum=1,
        maximum=262144,
        auto="4 n_embd; modern 8/3 n_embd",
    )
    block_size: int = setting(
        "int", 64, "tokens the model sees at once", minimum=2, maximum=1_048_576
    )
    vocab_size: int = setting(
        "int", 1024, "tokens of the vocabulary, at most", minimum=257, maximum=2_000_000
    )
    tie_embeddings: bool = setting(
        "bool", True, "one table for the tokens read and the tokens predicted"
    )
    dropout: float = setting(
        "float",
        0.0,
        "share of activations dropped while training",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )

    def check_fit(self) -> None:
        if self.n_embd % self.n_head:
            raise SettingError(
                f"n_head has to divide n_embd, got {self.n_head} heads for {self.n_embd}",
                fix=f"--n-head {_nearest_divisor(self.n_embd, self.n_head)}",
            )
        if self.n_head % self.kv_heads:
            raise SettingError(
                f"n_kv_head has to divide n_head, got {self.n_kv_head} for {self.n_head} heads",
                fix=f"--n-kv-head {_nearest_divisor(self.n_head, self.kv_heads)}",
            )
        if self.architecture == "gpt2" and self.kv_heads != self.n_head:
            raise SettingError(
                f"gpt2 has as many key heads as heads, got n_kv_head {self.n_kv_head}",
                fix="leave --n-kv-head out, or use --architecture modern",
            )
        if self.architecture == "modern" and self.head_size % 2:
            raise SettingError(
                f"rotary positions need an even head size, got {self.n_embd} / {self.n_head} = {self.head_size}",
                fix=f"--n-embd {self.n_head * (self.head_size + 1)}",
            )

    @property
    def head_size(self) -> int:
        return self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def inner_size(self) -> int:
        """Width of the feed-forward layer; modern keeps the parameter count of 4 n_embd with three matrices."""
        if self.n_inner:
            return self.n_inner
        return (
            4 * self.n_embd
            if self.architecture == "gpt2"
            else 32 * math.ceil(self.n_embd * 8 / 3 / 32)
        )


@dataclass(frozen=True)
class TrainConfig(Settings):
    """How a model is trained."""

    title: ClassVar[str] = "training"

    budget: float | None = setting(
        "seconds", None, "wall time for the whole training, such as 60s, 10m or 2h; suspensions do not count",
        minimum=0, open_minimum=True, maximum=31_536_000, auto="60s where max_steps is not given",
    )  # fmt: skip
    max_steps: int | None = setting(
        "int",
        None,
        "optimizer updates",
        minimum=1,
        maximum=1_000_000_000,
        auto="as many as fit the budget",
    )
    max_epochs: float | None = setting(
        "float",
        None,
        "times the text is gone through, at most",
        minimum=0,
        open_minimum=True,
        maximum=1_000_000,
        auto="no limit",
    )
    batch_size: int = setting("int", 32, "blocks in one micro step", minimum=1, maximum=1_000_000)
    gradient_accumulation: int = setting(
        "int", 1, "micro steps in one step", minimum=1, maximum=1_000_000
    )
    stride: int | None = setting(
        "int", None, "tokens from one block to the next; less than block_size overlaps them", minimum=1, maximum=1_048_576,
        auto="block_size",
    )  # fmt: skip
    tokenizer: str = setting(
        "str", "bpe", "bpe (trained on your text) or gpt2", choices=("bpe", "gpt2")
    )
    bpe_dropout: float = setting(
        "float",
        0.0,
        "share of merges left out, afresh each epoch; fades in the second half",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    renaming: float = setting(
        "float",
        0.0,
        "share of the names in a passage exchanged for others, afresh each epoch",
        minimum=0,
        maximum=1,
    )
    token_noise: float = setting(
        "float",
        0.0,
        "share of input tokens replaced by others of the text",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    induction: bool = setting(
        "bool", False, "begin with a pair of heads that know how to copy from the context"
    )
    composition: float = setting(
        "float",
        0.0,
        "how much a token's embedding is made of those of its parts",
        minimum=0,
        maximum=10,
    )
    label_smoothing: float = setting(
        "float",
        0.0,
        "share of each target spread over the whole vocabulary",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    r_drop: float = setting(
        "float",
        0.0,
        "R-Drop: weight of the divergence between two passes with different dropout; 0 is one pass",
        minimum=0,
        maximum=100,
        aliases=("consistency",),
    )
    val_fraction: float = setting(
        "float",
        0.1,
        "last part of the text that is held out",
        minimum=0,
        open_minimum=True,
        maximum=0.9,
    )
    optimizer: str = setting(
        "str", "muon", "muon (matrices; AdamW for the rest) or adamw", choices=("muon", "adamw")
    )
    learning_rate: float = setting(
        "float", 3e-3, "peak rate of AdamW", minimum=0, open_minimum=True, maximum=10
    )
    muon_learning_rate: float = setting(
        "float", 0.02, "peak rate of Muon", minimum=0, open_minimum=True, maximum=10
    )
    weight_decay: float = setting(
        "float", 0.1, "pull of the matrices towards zero", minimum=0, maximum=10
    )
    beta1: float = setting(
        "float", 0.9, "AdamW's memory of gradients", minimum=0, maximum=1, open_maximum=True
    )
    beta2: float = setting(
        "float",
        0.99,
        "AdamW's memory of squared gradients",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    grad_clip: float = setting(
        "float", 1.0, "highest gradient norm; 0 is no limit", minimum=0, maximum=1_000_000
    )
    warmup_steps: int | None = setting(
        "int",
        None,
        "steps until the peak rate",
        minimum=0,
        maximum=1_000_000_000,
        auto="2% of the steps",
    )
    schedule: str = setting(
        "str",
        "linear",
        "how the rate falls after the warm-up",
        choices=("linear", "cosine", "constant", "wsd", "noam"),
    )
    min_lr_ratio: float = setting(
        "float",
        0.0,
        "final learning rate, as a share of the peak",
        minimum=0,
        maximum=1,
        aliases=("min_learning_rate",),
    )
    ema_decay: float = setting(
        "float",
        0.0,
        "memory of the averaged weights; 0 is off",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    eval_interval: int | None = setting(
        "int",
        None,
        "steps between evaluations",
        minimum=1,
        maximum=1_000_000_000,
        auto="about 20 in a run",
    )
    eval_tokens: int = setting(
        "int",
        20_000,
        "held-out tokens scored at each evaluation but the last",
        minimum=64,
        maximum=1_000_000_000,
    )
    patience: int = setting(
        "int",
        0,
        "evaluations without a new best after which training ends; 0 is never",
        minimum=0,
        maximum=1_000_000,
    )
    log_interval: int = setting(
        "int", 10, "steps between lines of the log", minimum=1, maximum=1_000_000_000
    )
    seed: int = setting("int", 1337, "start of all randomness", minimum=0, maximum=2**63 - 1)
    gradient_checkpointing: bool = setting(
        "bool", False, "compute activations twice to keep fewer: less memory, more time"
    )
    compile: str = setting(
        "str",
        "auto",
        "torch.compile: auto tries it where a long run repays it",
        choices=("auto", "on", "off"),
    )
    log_gradients: bool = setting("bool", False, "log the gradient norm of every layer")
    freeze: int = setting(
        "int",
        0,
        "blocks that stay as they are, from the first, and with them the embeddings",
        minimum=0,
        maximum=1000,
    )
    precision: str = setting(
        "str",
        "auto",
        "number format of the matrix products",
        choices=("auto", "float32", "bf16", "fp16"),
    )


@dataclass(frozen=True)
class SamplingParams(Settings):
    """How the next token is drawn. The filters run in the order of the fields (see sampler.py)."""

    title: ClassVar[str] = "sampling"

    temperature: float = setting(
        "float", 0.8, "0 always takes the most likely token", minimum=0, maximum=5
    )
    top_k: int = setting("int", 50, "keep the k most likely tokens; 0 keeps all", minimum=0)
    top_p: float = setting(
        "float",
        0.95,
        "keep the likeliest tokens that make up this share",
        minimum=0,
        open_minimum=True,
        maximum=1,
    )
    min_p: float = setting(
        "float",
        0.0,
        "keep tokens at least this share as likely as the likeliest",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    repetition_penalty: float = setting(
        "float",
        1.0,
        "over 1 makes the last 64 tokens less likely again",
        minimum=0,
        open_minimum=True,
        maximum=10,
    )
    max_new_tokens: int = setting("int", 100, "longest reply", minimum=1, maximum=100_000)
    stop: tuple[str, ...] = setting(
        "texts", (), "texts that end a reply, up to 8, never shown", maximum=8
    )
    num_beams: int = setting(
        "int",
        1,
        "over 1: search for the most likely text with so many beams; nothing is drawn then",
        minimum=1,
        maximum=64,
    )
    seed: int | None = setting(
        "int",
        None,
        "makes a reply repeatable",
        minimum=0,
        maximum=2**63 - 1,
        auto="random, and shown",
    )


def read_toml(path: Path) -> dict[str, Any]:
    """The settings of a TOML file as one flat mapping; tables [model] and [training] may group them.

    A byte order mark, which Windows editors write, is skipped.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingError(
            f"cannot read {path}: {error.strerror}", fix="name a TOML file that is there"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingError(
            f"{path} is not TOML: {error}", fix="write lines such as n_layer = 4"
        ) from error
    groups = {config.title: config for config in (ModelConfig, TrainConfig)}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in groups and isinstance(value, dict):
            current = current_names(value, groups[key].settings())
            reject_unknown_keys(current, list(groups[key].names()), f"[{key}] of {path}")
            flat.update(value)
        else:
            flat[key] = value
    flat = current_names(flat, [*ModelConfig.settings(), *TrainConfig.settings()])
    reject_unknown_keys(flat, [*ModelConfig.names(), *TrainConfig.names()], str(path))
    return flat


def _nearest_divisor(number: int, wish: int) -> int:
    return min(
        (d for d in range(1, number + 1) if number % d == 0), key=lambda d: (abs(d - wish), d)
    )
