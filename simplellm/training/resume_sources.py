"""Texts and a base that are named again when a run is resumed: refused where they are others.

Texts that were moved may be named where they are now.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass, replace
from pathlib import Path

from simplellm.base.packaged import BASE, NONE
from simplellm.data.conversations.options import ReadOptions
from simplellm.data.source import TextFormat
from simplellm.data.text_files import STDIN_NAME
from simplellm.errors import SettingError, TextError
from simplellm.storage.user_paths import expand_user
from simplellm.training.run_info import RunInfo
from simplellm.training.sources import Corpora, Sources, absolute_paths


@dataclass(frozen=True)
class NamedSources:
    """What a command that resumes a run names of the sources of the run; nothing by default.

    start: what training is said to have started from: `none`, or as in `run_info.start_name`.
    """

    texts: tuple[str, ...] = ()
    val_data: str | None = None
    format: TextFormat = TextFormat()
    start: str | None = None
    reading: ReadOptions = ReadOptions()

    def sources(self, name: str, info: RunInfo) -> Sources:
        """Where the texts of the run `name` are now; their content is not read.

        SettingError where something that is named is not what the run has, TextError where a text
        is no longer there and is not named.
        """
        self._check_format_and_start(name, info)
        sources = info.sources
        if self.texts and absolute_paths(self.texts) != absolute_paths(sources.texts):
            if not all(map(_is_there, self.texts)):
                raise self._other_texts(name)
            sources = replace(sources, texts=self.texts, files=())
        if self.val_data:
            recorded = [sources.val_data] if sources.val_data else []
            if absolute_paths([self.val_data]) != absolute_paths(recorded):
                if not recorded or not _is_there(self.val_data):
                    raise self._other_validation(name, info)
                sources = replace(sources, val_data=self.val_data)
        for path in (*(sources.files or sources.texts), *filter(None, [sources.val_data])):
            if not _is_there(path) and not glob.has_magic(path):
                raise TextError(
                    f"the text of run {name} is no longer at {path}",
                    fix="restore it, or name the texts (--val-data) where they are now",
                )
        return sources

    def check_content(self, name: str, info: RunInfo, corpora: Corpora) -> None:
        """SettingError where a text that is named, and is elsewhere now, has another content."""
        if self.texts and list(corpora.fingerprint.values()) != info.text_digests:
            raise self._other_texts(name)
        now = list((corpora.val_fingerprint or {}).values())
        if self.val_data and now != info.val_digests:
            raise self._other_validation(name, info)

    def _other_texts(self, name: str) -> SettingError:
        return SettingError(
            f"run {name} was started on other texts than {', '.join(self.texts)}",
            fix="leave TEXT out, or start a new run",
        )

    def _other_validation(self, name: str, info: RunInfo) -> SettingError:
        own = info.sources.val_data or "the last part of its text"
        return _other(name, "--val-data", f"validation on {own}", str(self.val_data))

    def _check_format_and_start(self, name: str, info: RunInfo) -> None:
        sources = info.sources
        plain, now, then = (form.to_facts() for form in (TextFormat(), self.format, sources.format))
        for key in ("encoding", "text_key", "max_bad_share"):
            if now[key] not in (plain[key], then[key]):
                flag = "skip-bad" if key == "max_bad_share" else key.replace("_", "-")
                raise _other(name, f"--{flag}", f"{key} {then[key]}", str(now[key]))
        self._check_reading(name, sources.reading)
        recorded_start = info.facts.get("from") or NONE
        if self.start not in (None, recorded_start):
            known = {NONE: "random weights", BASE: "the base model"}
            started = known.get(recorded_start, f"the model {recorded_start}")
            raise _other(name, "--from", started, str(self.start))

    def _check_reading(self, name: str, then: ReadOptions) -> None:
        """SettingError where conversations are to be read in another way than at the start."""
        plain, now = ReadOptions(), self.reading
        flags = (
            ("--format", plain.format, now.format, then.format),
            ("--me", plain.me, now.me, then.me),
            ("--gap", plain.gap_seconds, now.gap_seconds, then.gap_seconds),
        )
        for flag, default, given, recorded in flags:
            if given not in (default, recorded):
                started = f"{flag} {recorded}" if recorded != default else f"no {flag}"
                raise _other(name, flag, started, str(given))


def _is_there(text: str) -> bool:
    return text == STDIN_NAME or Path(expand_user(text)).exists()


def _other(name: str, flag: str, started: str, got: str) -> SettingError:
    return SettingError(
        f"run {name} was started with {started}, got {flag} {got}",
        fix=f"leave {flag} out, or start a new run",
    )
