"""Settings of the model: flags of `train`, `sweep`, `bench`, keys of [model] in a TOML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simplellm.config.architectures import ARCHITECTURES, ArchitectureFacts
from simplellm.config.setting import Settings, setting
from simplellm.errors import SettingError


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Architecture and shape of a model."""

    title: ClassVar[str] = "model"

    architecture: str = setting(
        "str",
        "modern",
        " or ".join(f"{name} ({facts.summary})" for name, facts in ARCHITECTURES.items()),
        choices=tuple(ARCHITECTURES),
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
        auto=", ".join(f"{name} {f.inner_factor} n_embd" for name, f in ARCHITECTURES.items()),
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
        if self.kv_heads != self.n_head and not self.facts.allows_grouped_heads:
            grouped = [name for name, facts in ARCHITECTURES.items() if facts.allows_grouped_heads]
            raise SettingError(
                f"{self.architecture} has as many key heads as heads, "
                f"got n_kv_head {self.n_kv_head}",
                fix=f"leave --n-kv-head out, or use --architecture {' or '.join(grouped)}",
            )
        if self.facts.has_rotary_positions and self.head_size % 2:
            raise SettingError(
                f"rotary positions need an even head size, "
                f"got {self.n_embd} / {self.n_head} = {self.head_size}",
                fix=f"--n-embd {self.n_head * (self.head_size + 1)}",
            )

    @property
    def facts(self) -> ArchitectureFacts:
        return ARCHITECTURES[self.architecture]

    @property
    def head_size(self) -> int:
        return self.n_embd // self.n_head

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
