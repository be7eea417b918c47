"""Settings of the runs of a sweep: what the sweep does not name is as in its first run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simplellm.config.conversations import ConversationLengths
from simplellm.config.model import ModelConfig
from simplellm.config.overfit import OVERFIT
from simplellm.config.recipe import choose
from simplellm.config.setting import ExplicitSettings, SettingValue, show
from simplellm.errors import SettingError

# Never taken over: they follow from the limits of a run and from its text.
OWN = ("max_steps", "vocab_size", "overfit")
# They follow from the number of steps, and are taken over where that is the same in all runs.
FROM_STEPS = ("eval_interval", "warmup_steps")


@dataclass(frozen=True)
class FirstRun:
    """What the first run of a sweep was trained with.

    values: all its settings, also those that the recipe chose or that were measured.
    corpus_bytes: of its text. has_fixed_steps: every run of the sweep has as many steps. base: the
    model that it continued from; None for random weights. lengths: of its conversations; None for
    texts.
    """

    values: Mapping[str, SettingValue]
    corpus_bytes: int
    has_fixed_steps: bool
    base: ModelConfig | None = None
    lengths: ConversationLengths | None = None

    def equalized(self, given: ExplicitSettings) -> dict[str, SettingValue]:
        """`given`, and the other settings of the first run.

        A setting that does not fit those of `given` is left to the recipe.
        """
        excluded = {*OWN, *(() if self.has_fixed_steps else FROM_STEPS)}
        if given.get("overfit", False) != self.values["overfit"]:
            excluded |= OVERFIT.keys()
        settings = dict(given)
        base, lengths = self.base, self.lengths
        for name, value in self.values.items():
            if name in settings or name in excluded or value is None:
                continue
            try:
                choose(self.corpus_bytes, {**settings, name: value}, base, lengths=lengths)
            except SettingError:
                continue
            settings[name] = value
        return settings

    def overruled(self, given: ExplicitSettings) -> list[str]:
        """The settings taken over from the first run where the recipe has another value."""
        settings = self.equalized(given)
        model, training = choose(self.corpus_bytes, given, self.base, lengths=self.lengths)
        recipe = {**model.to_mapping(), **training.to_mapping()}
        return [
            f"{name} {show(value)} (recipe: {show(recipe[name])})"
            for name, value in settings.items()
            if name not in given and recipe[name] not in (None, "auto", value)
        ]
