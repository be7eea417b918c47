"""The commands about the conversation and the model that answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from simplellm.app.commands.command import Command, Lines, Rows, Shown
from simplellm.app.conversation import conversations, load
from simplellm.app.session import Session
from simplellm.checkpoint.find_runs import list_runs
from simplellm.config.setting import show
from simplellm.errors import SettingError, TextError

RUN_HEADERS = ("run", "best step", "loss", "bits/byte", "best checkpoint")
LISTED = 10  # conversations
FILES_OFFERED = 100
BEGINNING = 40  # characters of a prompt that stand for a turn


def _regen(session: Session, text: str) -> Shown:
    return session.regen()


def _continue(session: Session, text: str) -> Shown:
    return session.extend()


def _undo(session: Session, text: str) -> Shown:
    return Lines(
        f"took back {_beginning(session.undo().prompt)}; {_turns(len(session.turns))} left"
    )


def _clear(session: Session, text: str) -> Shown:
    session.clear()
    return Lines("forgot what was said")


def _context(session: Session, text: str) -> Shown:
    if text:
        session.set_context(text)
    if not session.keeps_context:
        return Lines("each prompt stands alone")
    return Lines(
        f"earlier turns are kept as context: {session.n_context_tokens()} of {session.sampler.block_size} tokens now"
    )


def _save(session: Session, text: str) -> Shown:
    if text:
        return Lines(f"saved {_turns(len(session.turns))} in {session.save(text)}")
    if session.journal is None:
        return Lines("this conversation is not kept; /save FILE keeps it")
    where = session.journal.path or f"{session.journal.folder}, from its first turn on"
    return Lines(f"this conversation keeps itself in {where}; /save FILE writes it elsewhere too")


def _load(session: Session, text: str) -> Shown:
    if not text:
        return _conversations(session)
    path = session.load(text)
    return Lines(
        f"{_turns(len(session.turns))} from {path}; {'' if session.keeps_context else 'no '}earlier turns as context"
    )


def _conversations(session: Session) -> Shown:
    """The conversations with this run that kept themselves."""
    paths = (
        conversations(session.journal.folder, session.run_path)[:LISTED] if session.journal else []
    )
    rows = []
    for path in paths:
        try:
            turns = load(path)
        except TextError:
            continue
        rows.append((str(path), _turns(len(turns)), _beginning(turns[0].prompt) if turns else ""))
    return (
        Rows(("conversation", "", "begins"), tuple(rows))
        if rows
        else Lines("/load FILE goes on with what /save FILE wrote")
    )


def _runs(session: Session, text: str) -> Shown:
    return runs_table(session.checkpoints) or Lines(f"no runs in {session.checkpoints}")


def runs_table(checkpoints: Path) -> Rows | None:
    """The runs in a folder that have a best checkpoint; None where there is none."""
    rows = [row for run in list_runs(checkpoints) if (row := run.summary())]
    cells = tuple(
        (
            row["run"],
            str(row["best_step"]),
            f"{row['val_loss']:.3f}",
            f"{row['bits_per_byte']:.3f}",
            row["path"],
        )
        for row in rows
    )
    return Rows(RUN_HEADERS, cells) if cells else None


def _run(session: Session, text: str) -> Shown:
    if not text:
        return Lines(
            f"{session.facts.get('run', session.run_path.name)} answers; /runs lists the others"
        )
    session.switch(_run_called(session, text))
    told = settings_told(session)
    now = f"{session.facts.get('run')} answers, {session.facts.get('bits per byte')} bits/byte"
    return Lines(f"{now}; {told}" if told else now)


def _run_called(session: Session, text: str) -> str:
    """The run of this name, or the only one whose name begins so; what is neither is left as it is."""
    names = session.run_names()
    matches = [name for name in names if name.startswith(text)]
    if text in names or not matches:
        return text
    if len(matches) > 1:
        raise SettingError(f"run {text} may be {', '.join(matches)}", fix="type more of it")
    return matches[0]


def settings_told(session: Session) -> str:
    """What is set otherwise than at the start, in words."""
    changed = [
        f"{name} {show(value)}"
        for name, value in session.params.to_mapping().items()
        if value != getattr(session.defaults, name)
    ]
    changed += ["context on"] * session.keeps_context + ["probs on"] * session.shows_probabilities
    return f"{', '.join(changed)} (/reset for the defaults)" if changed else ""


def _info(session: Session, text: str) -> Shown:
    return Rows(("", ""), tuple(session.facts.items()))


def _quit(session: Session, text: str) -> Shown:
    session.is_over = True
    return Lines("")


def _turns(n: int) -> str:
    return "1 turn" if n == 1 else f"{n} turns"


def _beginning(text: str) -> str:
    line = " ".join(text[: BEGINNING + 1].split())
    return repr(line if len(text) <= BEGINNING else line[:BEGINNING] + "...")


def _run_names(session: Session, text: str) -> Iterator[str]:
    yield from session.run_names()


def _files(session: Session, text: str) -> Iterator[str]:
    """Folders and saved conversations that begin with what is typed."""
    stem, start = split_typed(text)
    folder = os.path.expanduser(stem) or "."
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (OSError, ValueError):
        return
    for entry in entries[:FILES_OFFERED]:
        if entry.name.startswith(".") and not start.startswith("."):
            continue
        if entry.is_dir():
            yield f"{stem}{entry.name}/"
        elif entry.name.endswith(".jsonl"):
            yield f"{stem}{entry.name}"


def split_typed(text: str, separators: tuple[str, ...] = ("/", os.sep)) -> tuple[str, str]:
    """A path that is being typed: the folder with its separator, and the beginning of a name. Windows has two separators."""
    cut = 1 + max(text.rfind(separator) for separator in separators)
    return text[:cut], text[cut:]


TALK_COMMANDS = (
    Command("regen", "", "answer the last prompt again, with a new seed", _regen),
    Command("continue", "", "go on with the last reply, also after Ctrl-C", _continue),
    Command("undo", "", "take the last turn back", _undo),
    Command("context", "[on|off]", "keep earlier turns as context", _context, values=("on", "off")),
    Command("clear", "", "forget what was said", _clear),
    Command("save", "[file]", "write the conversation to a file", _save, complete=_files),
    Command(
        "load",
        "[file]",
        "go on with a saved conversation; without a file: those there are",
        _load,
        complete=_files,
    ),
    Command("run", "[name]", "let another run answer", _run, complete=_run_names),
    Command("runs", "", "the trained runs", _runs),
    Command("info", "", "the model that answers", _info),
    Command("quit", "", "leave", _quit, ("exit", "bye")),
)
