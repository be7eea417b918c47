"""Slash commands about the trained runs: /run, /runs and /info."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from simplellm.app.commands.command import Command, Shown
from simplellm.app.results import Lines, Rows
from simplellm.app.session import Session
from simplellm.checkpoint.find_runs import list_runs
from simplellm.config.setting import show
from simplellm.errors import SettingError
from simplellm.evaluation.advice import missing_figure
from simplellm.storage.json_files import JsonObject

NO_FIGURES = ("none", "not measured")  # how the words begin that are shown instead of a figure
HEADERS = ("run", "best step", "loss", "bits/byte", "model", "text", "started")
READING = (
    "loss (nats per token) and bits/byte: on the validation text of each run, lower is better; "
    "compare only runs on the same text"
)


def quality(facts: Mapping[str, str]) -> str:
    """The quality of a loaded run in a few words; empty where it has no figure."""
    figure = facts.get("bits per byte", "?")
    return "" if figure.startswith(NO_FIGURES) else f"{figure} bits/byte"


def _run(session: Session, text: str) -> Shown:
    if not text:
        name = session.facts.get("run", session.run_path.name)
        return Lines(f"the current run is {name}; /runs lists all runs")
    session.switch(_full_name(session, text))
    facts = session.facts
    line = ", ".join(filter(None, (f"the current run is {facts.get('run')}", quality(facts))))
    changed = changed_settings(session)
    return Lines(f"{line}; {changed}" if changed else line)


def _full_name(session: Session, text: str) -> str:
    """The run `text`, or the only run whose name begins with it. Other texts are returned as is."""
    names = session.run_names()
    matches = [name for name in names if name.startswith(text)]
    if text in names or not matches:
        return text
    if len(matches) > 1:
        raise SettingError(
            f"several runs begin with {text}: {', '.join(matches)}", fix="type more characters"
        )
    return matches[0]


def _run_names(session: Session, text: str) -> Iterator[str]:
    yield from session.run_names()


def _runs(session: Session, text: str) -> Shown:
    return runs_table(session.checkpoints) or Lines(f"no runs in {session.checkpoints}")


def runs_table(checkpoints: Path) -> Rows | None:
    """The runs in a folder that have a best checkpoint; None if there is none."""
    rows = [row for run in list_runs(checkpoints) if (row := run.summary())]
    cells = tuple(
        (
            row["run"],
            str(row["best_step"]),
            *_figures(row),
            *_description(row),
        )
        for row in rows
    )
    return Rows(HEADERS, cells, READING) if cells else None


def _figures(row: JsonObject) -> tuple[str, str]:
    """Loss and bits per byte, or why the validation text has none.

    An imported model has none.
    """
    if row["val_loss"] is None:
        return "-", "-"
    if missing := missing_figure(row["tokens"], row["copied_share"]):
        return missing, missing
    return f"{row['val_loss']:.3f}", f"{row['bits_per_byte']:.3f}"


def _description(row: JsonObject) -> tuple[str, ...]:
    """Model, text and date of a run; a dash where they are unknown."""
    cells = (
        f"{row['architecture']} {row['n_layer']}x{row['n_embd']}" if row["architecture"] else None,
        ", ".join(Path(str(text)).name for text in row["texts"] or ()),
        str(row["started_at"] or "")[:10],
    )
    return tuple(cell or "-" for cell in cells)


def _info(session: Session, text: str) -> Shown:
    return Rows(("", ""), tuple(session.facts.items()), "bits per byte: lower is better")


def changed_settings(session: Session) -> str:
    """The settings that differ from those at the start, on one line; empty if none does."""
    changed = [
        f"{name} {show(value)}"
        for name, value in session.params.to_mapping().items()
        if value != getattr(session.defaults, name)
    ]
    if session.keeps_context != session.default_context:
        changed.append("context on" if session.keeps_context else "context off")
    changed += ["probs on"] * session.shows_probabilities
    return f"{', '.join(changed)} (/reset for the defaults)" if changed else ""


RUN_COMMANDS = (
    Command("run", "[name]", "continue with another run", _run, complete=_run_names),
    Command("runs", "", "list the trained runs", _runs),
    Command("info", "", "show facts about the model", _info),
)
