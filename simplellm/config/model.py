"""Settings of the model: flags of `train`, `sweep`, `bench`, keys of [model] in a TOML file.

The facts have no flags: models trained from scratch have their defaults, and those of an imported
model are read from its files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from simplellm.config.architectures import ARCHITECTURES, IMPORTED, TRAINABLE, ArchitectureFacts
from simplellm.config.setting import Settings, fact, setting
from simplellm.errors import SettingError

DEFAULT_CONTEXT = 4096  # of an imported model, which may be made for a hundred times as many


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Architecture and shape of a model."""

    title: ClassVar[str] = "model"

    architecture: str = setting(
        "str",
        "modern",
        " or ".join(f"{name} ({facts.summary})" for name, facts in TRAINABLE.items()),
        choices=tuple(TRAINABLE),
        unoffered=IMPORTED,
    )
    n_layer: int = setting("int", 4, "transformer blocks", minimum=1, maximum=1000)
    n_head: int = setting("int", 4, "attention heads", minimum=1, maximum=1024)
    n_kv_head: int | None = setting(
        "int",
        None,
        "key and value heads, each shared by a group of attention heads",
        minimum=1,
        maximum=1024,
        auto="as n_head",
    )
    n_embd: int = setting("int", 128, "width of the residual stream", minimum=2, maximum=65536)
    n_inner: int | None = setting(
        "int",
        None,
        "width of the feed-forward layers",
        minimum=1,
        maximum=262144,
        auto=", ".join(f"{name} {f.inner_factor} n_embd" for name, f in TRAINABLE.items()),
    )
    block_size: int = setting("int", 64, "context length in tokens", minimum=2, maximum=1_048_576)
    vocab_size: int = setting(
        "int", 1024, "maximum number of tokens in the vocabulary", minimum=257, maximum=2_000_000
    )
    tie_embeddings: bool = setting(
        "bool", True, "use one table for the input and the output embeddings"
    )
    dropout: float = setting(
        "float",
        0.0,
        "share of activations dropped during training",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )

    head_dim: int | None = fact(
        "int",
        None,
        "dimensions of an attention head",
        minimum=2,
        maximum=65536,
        auto="n_embd / n_head",
    )
    max_positions: int | None = fact(
        "int",
        None,
        "positions that the model was made for; block_size of them are used",
        minimum=2,
        auto="block_size",
    )
    sliding_window: int | None = fact(
        "int",
        None,
        "tokens that a token attends to, as far as config.json says",
        minimum=1,
        auto="none",
    )
    norm_eps: float | None = fact(
        "float",
        None,
        "epsilon of the norms",
        minimum=0,
        maximum=1,
        auto="that of the architecture",
    )
    rope_base: float = fact(
        "float", 10_000.0, "base of the rotary frequencies", minimum=1, open_minimum=True
    )
    # Scaling of the rotary frequencies of Llama 3; see `model.rope.scaled_frequencies`.
    rope_factor: float = fact("float", 1.0, "divisor of low frequencies; 1 is none", minimum=1)
    rope_low: float = fact("float", 1.0, "low_freq_factor", minimum=0, open_minimum=True)
    rope_high: float = fact("float", 4.0, "high_freq_factor", minimum=0, open_minimum=True)
    rope_original_context: int = fact("int", 8192, "context before the scaling", minimum=1)
    attention_bias: bool = fact("bool", False, "biases of all matrices of the attention")
    mlp_bias: bool = fact("bool", False, "biases of the feed-forward layers")

    def check_fit(self) -> None:
        self._check_heads()
        if self.max_positions is not None and self.block_size > self.max_positions:
            raise SettingError(
                f"block_size is at most max_positions, got {self.block_size} "
                f"and {self.max_positions}",
                fix="use a shorter context",
            )
        if self.sliding_window is not None and self.block_size > self.sliding_window:
            raise SettingError(
                f"attention with a sliding window of {self.sliding_window} tokens is not "
                f"supported, got a context of {self.block_size}",
                fix=f"use a context of {self.sliding_window} or less",
            )
        if self.rope_factor > 1 and self.rope_high <= self.rope_low:
            raise SettingError(
                f"rope_high is above rope_low, got {self.rope_high:g} and {self.rope_low:g}",
                fix="use the config.json that belongs to the model",
            )

    def _check_heads(self) -> None:
        if self.head_dim is None and self.n_embd % self.n_head:
            raise SettingError(
                f"n_head has to divide n_embd, got {self.n_head} heads for {self.n_embd}",
                fix=f"--n-head {_nearest_divisor(self.n_embd, self.n_head)}",
            )
        if self.n_head % self.kv_heads:
            raise SettingError(
                f"n_kv_head has to divide n_head, got {self.n_kv_head} for {self.n_head} heads",
                fix=f"--n-kv-head {_nearest_divisor(self.n_head, self.kv_heads)}",
            )
        if self.kv_heads != self.n_head and not self.facts.allows_grouped_heads:
            grouped = [name for name, facts in ARCHITECTURES.items() if facts.allows_grouped_heads]
            raise SettingError(
                f"{self.architecture} has as many key heads as heads, "
                f"got n_kv_head {self.n_kv_head}",
                fix=f"leave --n-kv-head out, or use --architecture {' or '.join(grouped)}",
            )
        if self.facts.has_rotary_positions and self.head_size % 2:
            raise SettingError(
                f"rotary positions need an even head size, got {self._head_size_text()}",
                fix=f"--n-embd {self.n_head * (self.head_size + 1)}",
            )

    def _head_size_text(self) -> str:
        """The head size and where it comes from, for an error."""
        if self.head_dim is not None:
            return f"head_dim {self.head_dim}"
        return f"{self.n_embd} / {self.n_head} = {self.head_size}"

    @property
    def facts(self) -> ArchitectureFacts:
        return ARCHITECTURES[self.architecture]

    @property
    def head_size(self) -> int:
        return self.head_dim or self.n_embd // self.n_head

    @property
    def positions(self) -> int:
        """Positions that the model was made for."""
        return self.max_positions or self.block_size

    def with_context(self, n_tokens: int) -> ModelConfig:
        """This config with a context of at most `n_tokens`; the positions stay."""
        used = min(n_tokens, self.positions)
        rest = self.positions if self.positions > used else None
        return replace(self, block_size=used, max_positions=rest)

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def inner_size(self) -> int:
        """Width of the feed-forward layers."""
        return self.n_inner or self.facts.default_inner_size(self.n_embd)


def _nearest_divisor(number: int, requested: int) -> int:
    divisors = (divisor for divisor in range(1, number + 1) if number % divisor == 0)
    return min(divisors, key=lambda divisor: (abs(divisor - requested), divisor))
