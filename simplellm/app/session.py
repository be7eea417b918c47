"""A conversation: the model, the settings and what was said. No terminal here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from simplellm.config import SamplingParams
from simplellm.errors import SettingError
from simplellm.sampler import Reply, Sampler


@dataclass
class Session:
    """What the slash commands read and change."""

    sampler: Sampler
    run_path: Path
    params: SamplingParams
    facts: dict[str, str] = field(default_factory=dict)  # what /info tells of the model
    defaults: SamplingParams = field(default_factory=SamplingParams)
    transcript: str = ""  # what was said, where earlier turns are kept as context
    keeps_context: bool = False
    is_over: bool = False

    def change(self, name: str, text: str) -> None:
        """Set one sampling setting from what a person typed; SettingError leaves it as it was."""
        setting = SamplingParams.setting(name)
        value = setting.parse(text)
        self.params = replace(self.params, **{name: value})

    def add_stop(self, text: str) -> None:
        self.params = replace(self.params, stop=(*self.params.stop, text))

    def reset(self) -> None:
        self.params = self.defaults

    def clear(self) -> None:
        self.transcript = ""

    def reply(self, text: str) -> Reply:
        """The model's continuation of `text`, after what was said before where that is kept."""
        prompt = self.transcript + text
        return self.sampler.stream(self.sampler.encode(prompt), self.params)

    def keep(self, text: str, reply: Reply) -> None:
        """Remember a turn, whole or cut short."""
        if self.keeps_context:
            self.transcript += text + reply.text + "\n"

    def set_context(self, text: str) -> None:
        words: dict[str, Any] = {"on": True, "off": False}
        if text not in words:
            raise SettingError(f"context is on or off, got {text!r}", fix="/context on keeps earlier turns")
        self.keeps_context = words[text]
