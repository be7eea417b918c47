"""The slash commands: one registry for dispatch, completion, `/help` and the documentation.

A handler takes the session and the argument and returns something to show, so that tests need no
terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from simplellm.app.commands import saving
from simplellm.app.commands.attention import ATTENTION_COMMANDS
from simplellm.app.commands.chat_mode import CHAT_COMMANDS
from simplellm.app.commands.command import Command, Shown
from simplellm.app.commands.compare import COMPARE_COMMANDS
from simplellm.app.commands.files import FILE_COMMANDS
from simplellm.app.commands.inspection import INSPECTION_COMMANDS
from simplellm.app.commands.runs import RUN_COMMANDS
from simplellm.app.commands.settings import SETTINGS_COMMANDS
from simplellm.app.commands.turns import TURN_COMMANDS
from simplellm.app.prompt_text import without_line_end
from simplellm.app.results import Lines, Rows
from simplellm.app.session import Session
from simplellm.config.did_you_mean import did_you_mean
from simplellm.errors import SettingError, SimpleLLMError

BARE_QUITS = ("quit", "exit")  # quit without a slash


def dispatch(session: Session, line: str) -> Shown:
    """Run a line that begins with a slash; SettingError for an unknown command or argument."""
    word, _, argument = without_line_end(line)[1:].partition(" ")
    command = find(word.rstrip())
    text = argument.lstrip() if command.takes_prompt else argument.strip()
    if text and not command.argument:
        raise SettingError(f"/{command.name} takes no argument, got {text!r}", fix=command.usage)
    return saving.run(command, session, text)


def find(word: str) -> Command:
    """The command named `word`, or the only one whose name begins with it."""
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
            f"several commands begin with /{word}: {', '.join('/' + name for name in matches)}",
            fix="type more characters",
        )
    raise SettingError(
        f"there is no command /{word}",
        fix=did_you_mean(word, names, prefix="/", otherwise="/help lists the commands"),
    )


def is_quit(line: str) -> bool:
    return line.strip().lower() in BARE_QUITS


def completions(text: str, session: Session | None = None) -> Iterator[tuple[str, int, str]]:
    """Completions of the last word of `text`.

    Each has the word, the number of characters that it replaces, and one line of help.
    """
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
        values = _argument_values(find(word), argument, session)
    except SimpleLLMError:
        return
    yield from ((value, len(argument), "") for value in values if value.startswith(argument))


def _argument_values(command: Command, argument: str, session: Session | None) -> Iterable[str]:
    if command.name == "help":
        return [other.name for other in COMMANDS]
    if command.complete is not None and session is not None:
        return command.complete(session, argument)
    return command.values


def _help(session: Session, text: str) -> Shown:
    if not text:
        return Rows(("", ""), tuple((command.usage, command.help) for command in COMMANDS))
    command = find(text.removeprefix("/"))
    aliases = ", ".join(f"/{alias}" for alias in command.aliases)
    return Lines(f"{command.usage}: {command.help}" + (f" (also {aliases})" if aliases else ""))


def _quit(session: Session, text: str) -> Shown:
    session.is_over = True
    return Lines("")


COMMANDS = (
    Command("help", "[command]", "explain the commands", _help, ("?",)),
    *CHAT_COMMANDS,
    *SETTINGS_COMMANDS,
    *INSPECTION_COMMANDS,
    *ATTENTION_COMMANDS,
    *COMPARE_COMMANDS,
    *TURN_COMMANDS,
    *FILE_COMMANDS,
    *RUN_COMMANDS,
    Command("quit", "", "quit", _quit, ("exit", "bye")),
)
