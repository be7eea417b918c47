"""A run whose model is loaded for a conversation."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from simplellm.app.sanitize import visible
from simplellm.errors import Notice, SimpleLLMError
from simplellm.inference.sampler import Sampler

QUANTIZATION = re.compile(r"[.-](i?q[0-9]\w*|b?f16|f32)$", re.IGNORECASE)
MOST_NAME = 24  # characters of a name that is shown


@dataclass(frozen=True)
class Names:
    """Names on the screen: of the person at the keyboard, and of who replies."""

    user: str = "you"
    model: str = ""

    def prompt(self) -> str:
        """What a message is typed after."""
        return f"{_short(self.user)}> "

    def label(self) -> str:
        """What stands before a reply."""
        return f"{_short(self.model)}> " if self.model else ""


@dataclass(frozen=True)
class LoadedRun:
    """A run whose model is loaded. facts: what /info shows of it.

    is_single_turn: it was trained on conversations of one question and one reply.
    """

    sampler: Sampler
    path: Path
    facts: dict[str, str]
    names: Names = field(default_factory=Names)
    is_single_turn: bool = False


def _short(name: str) -> str:
    """A name on one line; a long one is cut."""
    line = visible(" ".join(name.split()))
    return line if len(line) <= MOST_NAME else line[: MOST_NAME - 1] + "\u2026"


def display_name(run: str) -> str:
    """The name of a run; of a GGUF file without its suffix and number format."""
    return QUANTIZATION.sub("", run.removesuffix(".gguf")) if run.endswith(".gguf") else run


def has_chat(sampler: Sampler, notice: Notice) -> bool:
    """Whether a model opens in chat mode; a template that cannot be used is reported."""
    if sampler.template is None:
        return False
    try:
        sampler.template.check(sampler.tokenizer)
    except SimpleLLMError as error:
        notice(f"{error}; the model continues text instead" + f" ({error.fix})" * bool(error.fix))
        return False
    return True
