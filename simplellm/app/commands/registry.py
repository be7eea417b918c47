"""The slash commands: one registry that feeds dispatch, completion, `/help` and the README.

A handler takes the session and the argument, and returns something to show: tests need no terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from simplellm.app.commands.command import Command, Lines, Rows, Shown
from simplellm.app.commands.conversation import TALK_COMMANDS
from simplellm.app.commands.insight import INSIGHT_COMMANDS
from simplellm.app.commands.settings import SETTINGS_COMMANDS
from simplellm.app.session import Session
from simplellm.config.suggest import did_you_mean
from simplellm.errors import SettingError, SimpleLLMError

BARE_QUITS = ("quit", "exit")  # leave without a slash


def dispatch(session: Session, line: str) -> Shown:
    """Run a line that begins with a slash; SettingError when there is no such command, or it refuses its argument."""
    word, _, argument = line[1:].partition(" ")
    return find(word).handler(session, argument.strip())


def find(word: str) -> Command:
    """The command called `word`, or the only one that begins so."""
    names = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}
    if word in names:
        return names[word]
    matches = {
        command.name: command for name, command in names.items() if word and name.startswith(word)
    }
    if len(matches) == 1:
        return next(iter(matches.values()))
    if matches:
        raise SettingError(
            f"/{word} may be {', '.join('/' + name for name in matches)}", fix="type more of it"
        )
    raise SettingError(
        f"there is no command /{word}",
        fix=did_you_mean(word, names, prefix="/", otherwise="/help lists them"),
    )


def is_quit(line: str) -> bool:
    return line.strip().lower() in BARE_QUITS


def completions(text: str, session: Session | None = None) -> Iterator[tuple[str, int, str]]:
    """What may stand for the last word of `text`: the word, how many characters it replaces, one line of help."""
    if not text.startswith("/"):
        return
    word, space, argument = text[1:].partition(" ")
    if not space:
        yield from (
            (f"/{command.name}", len(text), command.help)
            for command in COMMANDS
            if command.name.startswith(word)
        )
        return
    try:
        command = find(word)
    except SimpleLLMError:
        return
    values: Iterable[str] = command.values
    if command.name == "help":
        values = [other.name for other in COMMANDS]
    elif command.complete is not None and session is not None:
        values = command.complete(session, argument)
    yield from ((value, len(argument), "") for value in values if value.startswith(argument))


def _help(session: Session, text: str) -> Shown:
    if text:
        command = find(text.removeprefix("/"))
        also = (
            f" (also {', '.join('/' + alias for alias in command.aliases)})"
            if command.aliases
            else ""
        )
        return Lines(f"{command.usage}: {command.help}{also}")
    return Rows(("", ""), tuple((command.usage, command.help) for command in COMMANDS))


COMMANDS = (
    Command("help", "[command]", "what the commands do", _help, ("?",)),
    *SETTINGS_COMMANDS,
    *INSIGHT_COMMANDS,
    *TALK_COMMANDS,
)
