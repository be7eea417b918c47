"""Repetition of a run from its run.json: the same text, settings, seed and decisions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from simplellm.base.packaged import BASE, base_folder
from simplellm.checkpoint.run import RunFolder
from simplellm.config.setting import ExplicitSettings, SettingValue, show
from simplellm.data.conversations.options import ReadOptions
from simplellm.data.source import TextFormat
from simplellm.data.text_files import STDIN_NAME
from simplellm.errors import CheckpointError, Notice, SettingError, TextError
from simplellm.storage.json_files import read_json
from simplellm.training import run_differences
from simplellm.training.budget import RecordedDecisions, decisions_in
from simplellm.training.plan import try_to_compile
from simplellm.training.run_info import DAMAGED, RunInfo
from simplellm.training.schedule import Decision
from simplellm.training.sources import Sources
from simplellm.training.step_limits import LIMITS, replaced_limits
from simplellm.training.trainer import Trainer

RUN_FILE = "run.json"
FROM_STEPS = ("eval_interval", "warmup_steps")


@dataclass(frozen=True)
class Repetition:
    """A recorded run to train again.

    name: of the run. info: its run.json. overrides: settings given now that differ from it. Other
    limits plan the number of steps anew; all else repeats the recorded steps. unfinished: the last
    saved step and the planned steps of a run that was stopped.
    """

    name: str
    info: RunInfo
    overrides: ExplicitSettings
    unfinished: tuple[int, int] | None = None

    @classmethod
    def read(cls, path: Path, overrides: ExplicitSettings) -> Repetition:
        """From a run.json, of a run folder or a copy; SettingError where it is none."""
        path = path / RUN_FILE if path.is_dir() else path
        try:
            info = RunInfo.of(read_json(path))
            decisions_in(info)
        except (CheckpointError, SettingError, *DAMAGED) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise SettingError(
                f"{path} is not the run.json of a training: {what}",
                fix="name a run.json in a run folder, or a TOML file",
            ) from error
        known = {**info.model.to_mapping(), **info.training.to_mapping()}
        changed = {name: value for name, value in overrides.items() if value != known[name]}
        if path.name != RUN_FILE:
            return cls(path.stem, info, changed)
        run = RunFolder(path.resolve().parent)
        return cls(run.name, info, changed, run.steps_missing())

    @property
    def is_replanned(self) -> bool:
        """Whether the number of steps is planned anew, because a limit was given."""
        return any(name in self.overrides for name in LIMITS)

    @property
    def _dropped(self) -> set[str]:
        """Recorded settings that do not apply, because a limit was given."""
        if not self.is_replanned:
            return set()
        replaced = replaced_limits(self.overrides)
        follow = {name for name in FROM_STEPS if name not in self.info.given}
        return (replaced | follow) - set(self.overrides)

    @property
    def settings(self) -> dict[str, SettingValue]:
        """Every setting of the training, so that nothing is left to the recipe."""
        recorded = {**self.info.model.to_mapping(), **self.info.training.to_mapping()}
        return {**recorded, **dict.fromkeys(self._dropped), **self.overrides}

    @property
    def given(self) -> ExplicitSettings:
        """What run.json records as given by the user."""
        kept = {
            name: self.info.given[name] for name in self.info.given if name not in self._dropped
        }
        return {**kept, **self.overrides}

    def recorded_in(self, info: RunInfo) -> RunInfo:
        """`info` of the new run, with what this repetition knows: given settings and decisions."""
        decisions = self.decisions
        training = info.training
        if decisions.decisions:
            training = replace(training, max_steps=decisions.decisions[-1].max_steps)
        facts = {"repeats": self.name, **decisions.facts()}
        return replace(info, given=self.given, training=training).with_facts(facts)

    @property
    def decisions(self) -> RecordedDecisions:
        """The recorded decisions; no other one is made. None where the steps are planned anew."""
        training = self.info.training
        if self.is_replanned or training.budget is None:
            return RecordedDecisions()
        recorded = decisions_in(self.info).decisions
        if not recorded:
            steps = training.max_steps or 1
            recorded = (Decision(0, steps, training.eval_interval or steps),)
        interval = self.overrides.get("eval_interval")
        if isinstance(interval, int):
            recorded = tuple(replace(decision, eval_interval=interval) for decision in recorded)
        return RecordedDecisions(recorded, recorded[-1].max_steps)

    def restore(self, trainer: Trainer, notice: Notice) -> Trainer:
        """`trainer`, at its first step, with the execution mode and the decisions of the run."""
        first = self.decisions.until(0)
        if first:
            trainer.decisions = first
            trainer.config = replace(trainer.config, max_steps=first[-1].max_steps)
        if trainer.config.compile == "on":
            try_to_compile(trainer, notice)
        return trainer

    # ---------------------------------------------------------------- what differs

    def report(self, now: RunInfo) -> list[str]:
        """Notices: what was changed by flags, and what keeps the weights from being the same."""
        known = {**self.info.model.to_mapping(), **self.info.training.to_mapping()}
        changed = [
            f"{name} {show(known[name])} became {show(value)}"
            for name, value in self.overrides.items()
        ]
        reasons = [
            *run_differences.of_texts(self.info, now),
            *run_differences.of_base(self.info, now),
            *run_differences.of_environment(self.info.facts, now.facts),
            *self._parts(),
        ]
        lines = [f"changed from {self.name}: {', '.join(changed)}"] if changed else []
        if self.unfinished and not self.is_replanned:
            lines.append(
                f"{self.name} was stopped at step {self.unfinished[0]}; "
                f"this training goes on to the planned step {self.unfinished[1]}"
            )
        if reasons:
            return [*lines, f"the weights of {self.name} cannot be repeated: {'; '.join(reasons)}"]
        if changed:
            return lines
        return [
            *lines,
            f"repeating {self.name}: same text, settings and versions give the same weights",
        ]

    def _parts(self) -> list[str]:
        """Changes that were made while the run was resumed: they apply from the start now."""
        parts = self.info.facts.get("resumed")
        if not isinstance(parts, list):  # earlier versions recorded accepted changes only
            accepted = self.info.facts.get("accepted_changes")
            parts = [
                {"step": entry.get("step"), "changes": [entry.get("what")]}
                for entry in (accepted if isinstance(accepted, list) else [])
            ]
        return [
            f"from step {part.get('step')} on it was trained with changes "
            f"({', '.join(map(str, part['changes']))}), which now apply from the start"
            for part in parts
            if part.get("changes")
        ]

    # ---------------------------------------------------------------- sources

    def sources(
        self,
        texts: tuple[str, ...],
        val_data: str | None,
        format: TextFormat,
        reading: ReadOptions | None = None,
    ) -> Sources:
        """The recorded texts, or those that are given; TextError where they are missing."""
        recorded = self.info.sources
        if format == TextFormat():
            format = recorded.format
        if reading is None or reading == ReadOptions():
            reading = recorded.reading
        val_data_now = val_data or recorded.val_data
        sources = replace(recorded, val_data=val_data_now, format=format, reading=reading)
        if texts:
            return replace(sources, texts=texts, files=())
        if STDIN_NAME in (*recorded.texts, sources.val_data if not val_data else None):
            raise SettingError(
                f"{self.name} was trained on standard input, which run.json does not contain",
                fix="name the text before --config, or - to read standard input again",
            )
        own = [sources.val_data] if sources.val_data and not val_data else []
        for name in (*(sources.files or sources.texts), *own):
            if not Path(name).exists() and not any(mark in name for mark in "*?["):
                raise TextError(
                    f"the text of {self.name} is no longer at {name}",
                    fix="name it: train TEXT --config ..., or --val-data for a validation text",
                )
        return sources

    @property
    def base_folder(self) -> Path | None:
        """The checkpoint that training started from; CheckpointError where it is missing."""
        recorded = self.info.facts.get("from")
        if not recorded:
            return None
        if recorded == BASE:
            return base_folder()
        if not Path(str(recorded)).exists():  # a folder, or a .gguf file
            raise CheckpointError(
                f"the model that {self.name} started from is no longer at {recorded}",
                fix="name it: --from RUN",
            )
        return Path(str(recorded))
