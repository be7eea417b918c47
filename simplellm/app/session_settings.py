"""The settings of a conversation: changed by slash commands, and kept for each run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from simplellm.app.preferences import SWITCHES, Preferences
from simplellm.config.sampling import SamplingParams
from simplellm.errors import SettingError

ON_OFF = {"on": True, "off": False}


class SessionSettings:
    """The part of a Session that changes its settings. Session declares and explains the fields."""

    run_path: Path
    params: SamplingParams
    defaults: SamplingParams
    flags: tuple[str, ...]
    keeps_context: bool
    shows_probabilities: bool
    preferences: Preferences | None
    is_chat: bool
    is_single_turn: bool
    system: str | None
    start_system: str | None
    _kept: dict[str, Any]

    def change(self, name: str, text: str) -> None:
        """Set one sampling setting to the value typed as `text`; SettingError changes nothing."""
        self._set(name, SamplingParams.setting(name).parse(text))

    def add_stop(self, text: str) -> None:
        self._set("stop", (*self.params.stop, text))

    def remove_stops(self) -> None:
        self._set("stop", ())

    def set_context(self, text: str) -> None:
        fix = "/context on keeps earlier turns as context"
        self.keeps_context = self._set_switch("context", text, fix)

    def set_probabilities(self, text: str) -> None:
        fix = "/probs on shades each token by its probability"
        self.shows_probabilities = self._set_switch("probs", text, fix)

    def reset(self) -> None:
        """Return all settings to their start values and forget those kept for the run."""
        self.params = self.defaults
        self._kept = {}
        self.shows_probabilities = False
        self.keeps_context = self.default_context
        self.system = self.start_system
        self._write_preferences()

    @property
    def default_context(self) -> bool:
        """A chat keeps earlier turns, unless its model never saw any before a question."""
        return self.is_chat and not self.is_single_turn

    def recall_settings(self) -> None:
        """Apply the settings kept for the run, except where a flag overrides them."""
        if self.preferences is None:
            return
        self._kept = self.preferences.read(self.run_path)
        recalled = {name: value for name, value in self._kept.items() if name not in self.flags}
        sampling = {name: value for name, value in recalled.items() if name not in SWITCHES}
        self.params = replace(self.defaults, **sampling)
        self.keeps_context = recalled.get("context", self.keeps_context)
        self.shows_probabilities = recalled.get("probs", self.shows_probabilities)

    def _set(self, name: str, value: Any) -> None:
        self.params = replace(self.params, **{name: value})
        self._kept[name] = getattr(self.params, name)
        self._write_preferences()

    def _set_switch(self, name: str, text: str, fix: str) -> bool:
        if text not in ON_OFF:
            raise SettingError(f"{name} is on or off, got {text!r}", fix=fix)
        self._kept[name] = ON_OFF[text]
        self._write_preferences()
        return ON_OFF[text]

    def _write_preferences(self) -> None:
        if self.preferences is not None:
            self.preferences.write(self.run_path, self._kept)

    def enter(self, is_chat: bool) -> None:
        """Begin a mode with its defaults: a chat keeps earlier turns and has longer replies."""
        self.is_chat = is_chat
        self.keeps_context = self._kept.get("context", self.default_context)
        if "max_new_tokens" not in self.flags:
            n = (SamplingParams.of_chat() if is_chat else SamplingParams()).max_new_tokens
            self.defaults = replace(self.defaults, max_new_tokens=n)
            if "max_new_tokens" not in self._kept:
                self.params = replace(self.params, max_new_tokens=n)
