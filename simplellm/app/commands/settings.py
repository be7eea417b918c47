"""Slash commands that show and change the sampling settings: /temp, /topk, /set, /reset, ..."""

from __future__ import annotations

from simplellm.app.commands.command import Command, Shown
from simplellm.app.results import Lines, Rows
from simplellm.app.session import Session
from simplellm.config.did_you_mean import did_you_mean
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import show, unescape
from simplellm.errors import SettingError


def _setting_command(
    name: str,
    setting_name: str,
    argument: str,
    aliases: tuple[str, ...] = (),
    values: tuple[str, ...] = (),
) -> Command:
    """A command that shows a sampling setting, or changes it."""
    setting = SamplingParams.setting(setting_name)

    def handler(session: Session, text: str) -> Shown:
        if text:
            session.change(setting_name, text)
            return Lines(_current(session, setting_name))
        return Lines(f"{_current(session, setting_name)} ({setting.range}): {setting.help}")

    help = f"{setting_name.replace('_', ' ')}: {setting.help}"
    return Command(name, argument, help, handler, aliases, values)


def _current(session: Session, name: str) -> str:
    return f"{name} {show(getattr(session.params, name))}"


def _stop(session: Session, text: str) -> Shown:
    if text in ("off", "none"):
        session.remove_stops()
    elif text:
        session.add_stop(unescape(text))
    return Lines(_current(session, "stop"))


def _set(session: Session, text: str) -> Shown:
    if not text:
        return _all_settings(session)
    name, _, value = text.partition(" ")
    known = SamplingParams.names()
    if name not in known:
        raise SettingError(
            f"no setting is called {name!r}",
            fix=did_you_mean(name, known, otherwise=f"settings: {', '.join(known)}"),
        )
    if not value.strip():
        now = show(getattr(session.params, name))
        raise SettingError(f"{name} needs a value; it is {now} now", fix=f"/set {name} VALUE")
    session.change(name, value.strip())
    return Lines(_current(session, name))


def _all_settings(session: Session) -> Rows:
    rows = tuple(
        (setting.name, show(getattr(session.params, setting.name)), setting.range, setting.help)
        for setting in SamplingParams.settings()
    )
    return Rows(("setting", "value", "range", "meaning"), rows)


def _reset(session: Session, text: str) -> Shown:
    session.reset()
    return Lines("all settings have their start values again")


COMMAND_SETTINGS = {  # command -> the setting that it shows and changes
    "temp": "temperature",
    "tokens": "max_new_tokens",
    "topk": "top_k",
    "topp": "top_p",
    "minp": "min_p",
    "penalty": "repetition_penalty",
    "beams": "num_beams",
    "seed": "seed",
}
SETTING_NAMES = {**{name: name for name in SamplingParams.names()}, **COMMAND_SETTINGS}
ALIASES = {"temp": ("temperature",)}
VALUES = {"seed": ("auto",)}
SETTINGS_COMMANDS = (
    *(
        _setting_command(name, setting, "[number]", ALIASES.get(name, ()), VALUES.get(name, ()))
        for name, setting in COMMAND_SETTINGS.items()
    ),
    Command(
        "stop",
        "[text]",
        "add a text that ends a reply; off removes all of them",
        _stop,
        values=("off",),
    ),
    Command(
        "set", "[name value]", "show all settings, or change one", _set,
        values=SamplingParams.names(),
    ),
    Command(
        "reset", "", "return all settings to their start values, and forget those kept for the run",
        _reset,
    ),
)  # fmt: skip
