"""Every setting of the project, declared once: name, type, default, range and help.

Flags, slash commands, TOML and JSON files and the tables of the README are read from here.
A config is frozen: a change makes a new object, so a refused change leaves the old one whole.
This file does not know torch, so that `--help` and a bad value answer at once.
"""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from simplellm.errors import SettingError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KIND_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "texts": "a list of texts",
    "seconds": "a time such as 60s, 10m or 2h",
}
LONGEST_QUOTE = 100  # characters of a wrong value that are told
SECONDS_PER_UNIT = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
TRUE_WORDS, FALSE_WORDS = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Setting:
    """One setting: what it is called, what it may be, and what it is for.

    kind: a key of KIND_NAMES. `minimum` and `maximum` are allowed themselves unless `open_minimum`
    or `open_maximum`. `auto` says what None means where None is allowed ("" where it is not).
    """

    name: str
    kind: str
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    open_minimum: bool = False
    open_maximum: bool = False
    choices: tuple[str, ...] = ()
    auto: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def range(self) -> str:
        """The allowed values in words: `0 to 5`, `over 0 to 1`, `a or b`."""
        if self.choices:
            return ", ".join(self.choices[:-1]) + f" or {self.choices[-1]}"
        if self.kind == "bool":
            return "on or off"
        if self.minimum is None and self.maximum is None:
            return KIND_NAMES[self.kind]
        if self.kind == "texts":
            return f"up to {self.maximum:g}"
        low = "" if self.minimum is None else f"{'over ' if self.open_minimum else ''}{self.minimum:g}"
        if self.maximum is None:
            return f"{low} or more" if not self.open_minimum else low
        high = f"{'under ' if self.open_maximum else ''}{_plain(self.maximum)}"
        return f"{low} to {high}"

    @property
    def default_text(self) -> str:
        return self.auto if self.default is None else show(self.default)

    def check(self, value: Any) -> Any:
        """The value as this setting's own type; SettingError when it is not allowed."""
        if value is None and self.auto:
            return None
        converted = _convert(self.kind, value)
        if converted is None or not self._allows(converted):
            raise SettingError(
                f"{self.name} is {self._expected()}, got {_quoted(value)}",
                fix=f"the default is {self.default_text}",
            )
        return converted

    def parse(self, text: str) -> Any:
        """The value written as `text` on a command line; `auto` stands for None where that is allowed."""
        text = text.strip() if self.kind not in ("str", "texts") else text
        if self.auto and text == "auto":
            return None
        if self.kind == "bool":
            words = {**dict.fromkeys(TRUE_WORDS, True), **dict.fromkeys(FALSE_WORDS, False)}
            return self.check(words.get(text.lower(), text))
        if self.kind in ("int", "float"):
            return self.check(_number(self.kind, text))
        return self.check((text,) if self.kind == "texts" else text)

    def _expected(self) -> str:
        if self.choices or self.kind in ("bool", "texts", "seconds"):
            return self.range if self.choices else KIND_NAMES[self.kind]
        plain = KIND_NAMES[self.kind]
        return plain if self.range == plain else f"{plain}, {self.range}"

    def _allows(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if self.kind == "texts":
            return all(value) and (self.maximum is None or len(value) <= self.maximum)
        if isinstance(value, (str, bool)):
            return True
        above = self.minimum is None or (value > self.minimum if self.open_minimum else value >= self.minimum)
        below = self.maximum is None or (value < self.maximum if self.open_maximum else value <= self.maximum)
        return value == value and above and below


def _number(kind: str, text: str) -> Any:
    """The number written in ASCII digits as `text`, or the text itself when it is none."""
    try:
        return (int(text) if kind == "int" else float(text)) if text.isascii() else text
    except ValueError:
        return text


def _convert(kind: str, value: Any) -> Any:
    """`value` as the type of `kind`, or None when it is of another type."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "int":
        return int(value) if is_number and (isinstance(value, int) or value.is_integer()) else None
    if is_number and abs(value) > sys.float_info.max:
        return None
    if kind == "float":
        return float(value) if is_number else None
    if kind == "seconds":
        return float(value) if is_number else _seconds(value) if isinstance(value, str) else None
    if kind == "texts":
        values = (value,) if isinstance(value, str) else value
        is_list = isinstance(values, (list, tuple)) and all(isinstance(item, str) for item in values)
        return tuple(values) if is_list else None
    return value if isinstance(value, bool if kind == "bool" else str) else None


def _seconds(text: str) -> float | None:
    """Seconds of `90`, `60s`, `1.5m`, `2h`; None for anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)([smh]?)", text.strip())
    return float(match[1]) * SECONDS_PER_UNIT[match[2]] if match else None


def _quoted(value: Any) -> str:
    """A value of any length, as part of one line."""
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "..."


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


def show(value: Any) -> str:
    """A value of any setting as a person writes it."""
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(repr(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def setting(kind: str, default: Any, help: str, **limits: Any) -> Any:
    """Declare a field of a config: its Setting travels in the field's metadata."""
    return field(default=default, metadata={"setting": {"kind": kind, "help": help, **limits}})


SelfSettings = TypeVar("SelfSettings", bound="Settings")


@dataclass(frozen=True)
class Settings:
    """Base of the configs: checks every field when it is built."""

    title: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for item in self.settings():
            object.__setattr__(self, item.name, item.check(getattr(self, item.name)))
        self.check_fit()

    def check_fit(self) -> None:
        """Raise SettingError when fields that are fine alone do not fit together."""

    @classmethod
    def settings(cls) -> tuple[Setting, ...]:
        return tuple(
            Setting(name=item.name, default=None if item.default is MISSING else item.default, **item.metadata["setting"])
            for item in dataclasses.fields(cls)
            if "setting" in item.metadata
        )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(item.name for item in cls.settings())

    @classmethod
    def setting(cls, name: str) -> Setting:
        return next(item for item in cls.settings() if item.name == name)

    @classmethod
    def from_mapping(cls: type[SelfSettings], values: Mapping[str, Any]) -> SelfSettings:
        """The config of `values`; unknown keys and wrong values raise SettingError."""
        reject_unknown_keys(values, [item.name for item in cls.settings()])
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in self.settings()}


@dataclass(frozen=True)
class ModelConfig(Settings):
    """The shape of a model. Two architectures: see model.py."""

    title: ClassVar[str] = "model"

    architecture: str = setting("str", "modern", "modern (RMSNorm, RoPE, QK-norm, SwiGLU) or gpt2", choices=("modern", "gpt2"))
    n_layer: int = setting("int", 4, "transformer blocks", minimum=1, maximum=1000)
    n_head: int = setting("int", 4, "attention heads", minimum=1, maximum=1024)
    n_kv_head: int | None = setting(
        "int", None, "key and value heads, shared by groups of heads", minimum=1, maximum=1024, auto="as n_head"
    )
    n_embd: int = setting("int", 128, "width of the residual stream", minimum=2, maximum=65536)
    n_inner: int | None = setting(
        "int", None, "width inside the feed-forward layer", minimum=1, maximum=262144, auto="4 n_embd; modern 8/3 n_embd"
    )
    block_size: int = setting("int", 64, "tokens the model sees at once", minimum=2, maximum=1_048_576)
    vocab_size: int = setting("int", 1024, "tokens of the vocabulary, at most", minimum=257, maximum=2_000_000)
    tie_embeddings: bool = setting("bool", True, "one table for the tokens read and the tokens predicted")
    dropout: float = setting(
        "float", 0.0, "share of activations dropped while training", minimum=0, maximum=1, open_maximum=True
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
        return 4 * self.n_embd if self.architecture == "gpt2" else 32 * math.ceil(self.n_embd * 8 / 3 / 32)


@dataclass(frozen=True)
class TrainConfig(Settings):
    """How a model is trained."""

    title: ClassVar[str] = "training"

    budget: float | None = setting(
        "seconds", None, "wall time for the whole training, such as 60s, 10m or 2h",
        minimum=0, open_minimum=True, maximum=31_536_000, auto="60s where max_steps is not given",
    )  # fmt: skip
    max_steps: int | None = setting(
        "int", None, "optimizer updates", minimum=1, maximum=1_000_000_000, auto="as many as fit the budget"
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
    gradient_accumulation: int = setting("int", 1, "micro steps in one step", minimum=1, maximum=1_000_000)
    stride: int | None = setting(
        "int", None, "tokens from one block to the next; less than block_size overlaps them", minimum=1, maximum=1_048_576,
        auto="block_size",
    )  # fmt: skip
    tokenizer: str = setting("str", "bpe", "bpe (trained on your text) or gpt2", choices=("bpe", "gpt2"))
    bpe_dropout: float = setting(
        "float",
        0.0,
        "share of merges left out, afresh each epoch; fades in the second half",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    renaming: float = setting(
        "float", 0.0, "share of the names in a passage exchanged for others, afresh each epoch", minimum=0, maximum=1
    )
    token_noise: float = setting(
        "float", 0.0, "share of input tokens replaced by others of the text", minimum=0, maximum=1, open_maximum=True
    )
    induction: bool = setting("bool", False, "begin with a pair of heads that know how to copy from the context")
    composition: float = setting(
        "float", 0.0, "how much a token's embedding is made of those of its parts", minimum=0, maximum=10
    )
    label_smoothing: float = setting(
        "float", 0.0, "share of each target spread over the whole vocabulary", minimum=0, maximum=1, open_maximum=True
    )
    consistency: float = setting(
        "float",
        0.0,
        "R-Drop: weight of how much two passes with different dropout disagree; 0 is one pass",
        minimum=0,
        maximum=100,
    )
    val_fraction: float = setting(
        "float", 0.1, "last part of the text that is held out", minimum=0, open_minimum=True, maximum=0.9
    )
    optimizer: str = setting("str", "muon", "muon (matrices; AdamW for the rest) or adamw", choices=("muon", "adamw"))
    learning_rate: float = setting("float", 3e-3, "peak rate of AdamW", minimum=0, open_minimum=True, maximum=10)
    muon_learning_rate: float = setting("float", 0.02, "peak rate of Muon", minimum=0, open_minimum=True, maximum=10)
    weight_decay: float = setting("float", 0.1, "pull of the matrices towards zero", minimum=0, maximum=10)
    beta1: float = setting("float", 0.9, "AdamW's memory of gradients", minimum=0, maximum=1, open_maximum=True)
    beta2: float = setting("float", 0.99, "AdamW's memory of squared gradients", minimum=0, maximum=1, open_maximum=True)
    grad_clip: float = setting("float", 1.0, "highest gradient norm; 0 is no limit", minimum=0, maximum=1_000_000)
    warmup_steps: int | None = setting(
        "int", None, "steps until the peak rate", minimum=0, maximum=1_000_000_000, auto="2% of the steps"
    )
    schedule: str = setting(
        "str", "linear", "how the rate falls after the warm-up", choices=("linear", "cosine", "constant", "wsd", "noam")
    )
    min_learning_rate: float = setting("float", 0.0, "last rate, as a share of the peak", minimum=0, maximum=1)
    ema_decay: float = setting(
        "float", 0.0, "memory of the averaged weights; 0 is off", minimum=0, maximum=1, open_maximum=True
    )
    eval_interval: int | None = setting(
        "int", None, "steps between evaluations", minimum=1, maximum=1_000_000_000, auto="about 20 in a run"
    )
    eval_tokens: int = setting(
        "int", 20_000, "held-out tokens scored at each evaluation but the last", minimum=64, maximum=1_000_000_000
    )
    patience: int = setting(
        "int", 0, "evaluations without a new best after which training ends; 0 is never", minimum=0, maximum=1_000_000
    )
    log_interval: int = setting("int", 10, "steps between lines of the log", minimum=1, maximum=1_000_000_000)
    seed: int = setting("int", 1337, "start of all randomness", minimum=0, maximum=2**63 - 1)
    gradient_checkpointing: bool = setting("bool", False, "compute activations twice to keep fewer: less memory, more time")
    compile: str = setting(
        "str", "auto", "torch.compile: auto tries it where a long run repays it", choices=("auto", "on", "off")
    )
    log_gradients: bool = setting("bool", False, "log the gradient norm of every layer")
    freeze: int = setting(
        "int", 0, "blocks that stay as they are, from the first, and with them the embeddings", minimum=0, maximum=1000
    )
    precision: str = setting("str", "auto", "number format of the matrix products", choices=("auto", "float32", "bf16", "fp16"))


@dataclass(frozen=True)
class SamplingParams(Settings):
    """How the next token is drawn. The filters run in the order of the fields (see sampler.py)."""

    title: ClassVar[str] = "sampling"

    temperature: float = setting("float", 0.8, "0 always takes the most likely token", minimum=0, maximum=5)
    top_k: int = setting("int", 50, "keep the k most likely tokens; 0 keeps all", minimum=0)
    top_p: float = setting(
        "float", 0.95, "keep the likeliest tokens that make up this share", minimum=0, open_minimum=True, maximum=1
    )
    min_p: float = setting(
        "float", 0.0, "keep tokens at least this share as likely as the likeliest", minimum=0, maximum=1, open_maximum=True
    )
    repetition_penalty: float = setting(
        "float", 1.0, "over 1 makes the last 64 tokens less likely again", minimum=0, open_minimum=True, maximum=10
    )
    max_new_tokens: int = setting("int", 100, "longest reply", minimum=1, maximum=100_000)
    stop: tuple[str, ...] = setting("texts", (), "texts that end a reply, up to 8, never shown", maximum=8)
    num_beams: int = setting(
        "int", 1, "over 1: search for the most likely text with so many beams; nothing is drawn then", minimum=1, maximum=64
    )
    seed: int | None = setting("int", None, "makes a reply repeatable", minimum=0, maximum=2**63 - 1, auto="random, and shown")


def reject_unknown_keys(values: Mapping[str, Any], known: list[str], source: str = "") -> None:
    """Raise SettingError that names the first key of `values` that is no setting, with the nearest that is."""
    import difflib

    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            where = f" in {source}" if source else ""
            raise SettingError(
                f"no setting is called {key!r}{where}",
                fix=f"did you mean {near[0]}?" if near else f"settings: {', '.join(known)}",
            )


def read_toml(path: Path) -> dict[str, Any]:
    """The settings of a TOML file as one flat mapping; tables [model] and [training] may group them."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror}", fix="name a TOML file that is there") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingError(f"{path} is not TOML: {error}", fix="write lines such as n_layer = 4") from error
    groups = {config.title: config for config in (ModelConfig, TrainConfig)}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in groups and isinstance(value, dict):
            reject_unknown_keys(value, [item.name for item in groups[key].settings()], f"[{key}] of {path}")
            flat.update(value)
        else:
            flat[key] = value
    known = [item.name for config in (ModelConfig, TrainConfig) for item in config.settings()]
    reject_unknown_keys(flat, known, str(path))
    return flat


def _nearest_divisor(number: int, wish: int) -> int:
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: (abs(d - wish), d))
