"""Texts and a base that are named again when a run is resumed: refused where they are others."""

from __future__ import annotations

from dataclasses import dataclass

from simplellm.base.packaged import BASE, NONE
from simplellm.data.source import TextFormat
from simplellm.errors import SettingError
from simplellm.training.run_info import RunInfo
from simplellm.training.sources import absolute_paths


@dataclass(frozen=True)
class NamedSources:
    """What a command that resumes a run names of the sources of the run; nothing by default.

    start: what training is said to have started from: `none`, or as in `run_info.start_name`.
    """

    texts: tuple[str, ...] = ()
    val_data: str | None = None
    format: TextFormat = TextFormat()
    start: str | None = None

    def check(self, name: str, info: RunInfo) -> None:
        """SettingError where something that is named is not what the run `name` has."""
        sources = info.sources
        if self.texts and absolute_paths(self.texts) != absolute_paths(sources.texts):
            raise SettingError(
                f"run {name} was started on other texts than {', '.join(self.texts)}",
                fix="leave TEXT out",
            )
        if self.val_data:
            recorded = [sources.val_data] if sources.val_data else []
            if absolute_paths([self.val_data]) != absolute_paths(recorded):
                own = sources.val_data or "the last part of its text"
                raise _other(name, "--val-data", f"validation on {own}", self.val_data)
        plain, now, then = (form.to_facts() for form in (TextFormat(), self.format, sources.format))
        for key in ("encoding", "text_key", "max_bad_share"):
            if now[key] not in (plain[key], then[key]):
                flag = "skip-bad" if key == "max_bad_share" else key.replace("_", "-")
                raise _other(name, f"--{flag}", f"{key} {then[key]}", str(now[key]))
        recorded_start = info.facts.get("from") or NONE
        if self.start not in (None, recorded_start):
            known = {NONE: "random weights", BASE: "the base model"}
            started = known.get(recorded_start, f"the model {recorded_start}")
            raise _other(name, "--from", started, str(self.start))


def _other(name: str, flag: str, started: str, got: str) -> SettingError:
    return SettingError(
        f"run {name} was started with {started}, got {flag} {got}",
        fix=f"leave {flag} out, or start a new run",
    )
