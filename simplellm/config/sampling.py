"""Settings of sampling: flags of `chat`, `generate`, `analyze` and `serve`, names for /set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from simplellm.config.setting import Settings, setting

CHAT_MAX_NEW_TOKENS = 500  # of a chat model, which ends its replies itself


@dataclass(frozen=True)
class SamplingParams(Settings):
    """How the next token is chosen. The filters are applied in the order of the fields."""

    title: ClassVar[str] = "sampling"

    temperature: float = setting(
        "float", 0.8, "0 always takes the most likely token", minimum=0, maximum=5
    )
    top_k: int = setting("int", 50, "keep the k most likely tokens; 0 keeps all", minimum=0)
    top_p: float = setting(
        "float",
        0.95,
        "keep the most likely tokens whose probabilities add up to this share",
        minimum=0,
        open_minimum=True,
        maximum=1,
    )
    min_p: float = setting(
        "float",
        0.0,
        "keep tokens at least this share as likely as the most likely one",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    repetition_penalty: float = setting(
        "float",
        1.0,
        "over 1 makes each of the last 64 tokens less likely",
        minimum=0,
        open_minimum=True,
        maximum=10,
    )
    max_new_tokens: int = setting(
        "int", 100, "maximum length of a reply in tokens", minimum=1, maximum=100_000
    )
    stop: tuple[str, ...] = setting(
        "texts", (), "up to 8 texts that end a reply and are not shown", maximum=8
    )
    num_beams: int = setting(
        "int",
        1,
        "beams of a search for the most likely text; 1 samples instead",
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

    @classmethod
    def of_chat(cls, **given: Any) -> SamplingParams:
        """The settings of a chat model: replies may be longer by default."""
        return cls(**{"max_new_tokens": CHAT_MAX_NEW_TOKENS, **given})
