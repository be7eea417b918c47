"""The slash commands: one registry that feeds dispatch, completion, `/help` and the README.

A handler takes the session and the argument, and returns something to show: tests need no terminal.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

from simplellm.app.session import Session
from simplellm.config import SamplingParams, show
from simplellm.errors import SettingError

BARE_QUITS = ("quit", "exit")  # leave without a slash


@dataclass(frozen=True)
class Lines:
    """Text to show."""

    text: str


@dataclass(frozen=True)
class Rows:
    """A table to show; headers may be empty."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Shown = Lines | Rows
Handler = Callable[[Session, str], Shown]


@dataclass(frozen=True)
class Command:
    name: str
    argument: str
    help: str
    handler: Handler
    aliases: tuple[str, ...] = ()
    values: tuple[str, ...] = ()  # what completion offers as argument

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.argument}".rstrip()


def dispatch(session: Session, line: str) -> Shown:
    """Run a line that begins with a slash; SettingError when there is no such command, or it refuses its argument."""
    word, _, argument = line[1:].partition(" ")
    return find(word).handler(session, argument.strip())


def find(word: str) -> Command:
    """The command called `word`, or the only one that begins so."""
    names = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}
    if word in names:
        return names[word]
    matches = {command.name: command for name, command in names.items() if word and name.startswith(word)}
    if len(matches) == 1:
        return next(iter(matches.values()))
    if matches:
        raise SettingError(f"/{word} may be {', '.join('/' + name for name in matches)}", fix="type more of it")
    near = difflib.get_close_matches(word, names, n=1)
    raise SettingError(f"there is no command /{word}", fix=f"did you mean /{near[0]}?" if near else "/help lists them")


def is_quit(line: str) -> bool:
    return line.strip().lower() in BARE_QUITS


def _setting_command(
    name: str, setting_name: str, argument: str, aliases: tuple[str, ...] = (), values: tuple[str, ...] = ()
) -> Command:
    """A command that shows a sampling setting, or sets it."""
    setting = SamplingParams.setting(setting_name)

    def handler(session: Session, text: str) -> Shown:
        if text:
            session.change(setting_name, text)
        now = show(getattr(session.params, setting_name))
        return Lines(f"{setting_name} {now}" if text else f"{setting_name} {now} ({setting.range}): {setting.help}")

    return Command(name, argument, f"{setting_name.replace('_', ' ')}: {setting.help}", handler, aliases, values)


def _stop(session: Session, text: str) -> Shown:
    if text in ("off", "none"):
        session.params = replace(session.params, stop=())
    elif text:
        session.add_stop(text.replace("\\n", "\n"))
    return Lines(f"stop {show(session.params.stop)}")


def _help(session: Session, text: str) -> Shown:
    if text:
        command = find(text.removeprefix("/"))
        also = f" (also {', '.join('/' + alias for alias in command.aliases)})" if command.aliases else ""
        return Lines(f"{command.usage}: {command.help}{also}")
    return Rows(("", ""), tuple((command.usage, command.help) for command in COMMANDS))


def _set(session: Session, text: str) -> Shown:
    if text:
        name, _, value = text.partition(" ")
        known = [setting.name for setting in SamplingParams.settings()]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise SettingError(
                f"no setting is called {name!r}", fix=f"did you mean {near[0]}?" if near else f"settings: {', '.join(known)}"
            )
        if not value.strip():
            raise SettingError(f"{name} needs a value, now {show(getattr(session.params, name))}", fix=f"/set {name} VALUE")
        session.change(name, value.strip())
        return Lines(f"{name} {show(getattr(session.params, name))}")
    rows = tuple(
        (setting.name, show(getattr(session.params, setting.name)), setting.range, setting.help)
        for setting in SamplingParams.settings()
    )
    return Rows(("setting", "now", "range", "meaning"), rows)


def _reset(session: Session, text: str) -> Shown:
    session.reset()
    return Lines("all settings are as at the start")


def _clear(session: Session, text: str) -> Shown:
    session.clear()
    return Lines("forgot what was said")


def _context(session: Session, text: str) -> Shown:
    if text:
        session.set_context(text)
    return Lines("earlier turns are kept as context" if session.keeps_context else "each prompt stands alone")


def _info(session: Session, text: str) -> Shown:
    return Rows(("", ""), tuple(session.facts.items()))


def _quit(session: Session, text: str) -> Shown:
    session.is_over = True
    return Lines("")


COMMANDS = (
    Command("help", "[command]", "what the commands do", _help, ("?",)),
    _setting_command("temp", "temperature", "[number]", ("temperature",)),
    _setting_command("tokens", "max_new_tokens", "[number]"),
    _setting_command("topk", "top_k", "[number]"),
    _setting_command("topp", "top_p", "[number]"),
    _setting_command("minp", "min_p", "[number]"),
    _setting_command("penalty", "repetition_penalty", "[number]"),
    _setting_command("seed", "seed", "[number]", values=("auto",)),
    Command("stop", "[text]", "add a text that ends a reply; off removes all", _stop, values=("off",)),
    Command(
        "set", "[name value]", "all settings, or change one", _set, values=tuple(s.name for s in SamplingParams.settings())
    ),
    Command("reset", "", "all settings as at the start", _reset),
    Command("context", "[on|off]", "keep earlier turns as context", _context, values=("on", "off")),
    Command("clear", "", "forget what was said", _clear),
    Command("info", "", "the model that answers", _info),
    Command("quit", "", "leave", _quit, ("exit", "bye")),
)
