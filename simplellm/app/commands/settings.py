"""The commands that show and change the sampling settings."""

from __future__ import annotations

from simplellm.app.commands.command import Command, Lines, Rows, Shown
from simplellm.app.session import Session
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import show
from simplellm.config.suggest import did_you_mean
from simplellm.errors import SettingError


def _setting_command(
    name: str,
    setting_name: str,
    argument: str,
    aliases: tuple[str, ...] = (),
    values: tuple[str, ...] = (),
) -> Command:
    """A command that shows a sampling setting, or sets it."""
    setting = SamplingParams.setting(setting_name)

    def handler(session: Session, text: str) -> Shown:
        if text:
            session.change(setting_name, text)
        now = show(getattr(session.params, setting_name))
        return Lines(
            f"{setting_name} {now}"
            if text
            else f"{setting_name} {now} ({setting.range}): {setting.help}"
        )

    return Command(
        name,
        argument,
        f"{setting_name.replace('_', ' ')}: {setting.help}",
        handler,
        aliases,
        values,
    )


def _stop(session: Session, text: str) -> Shown:
    if text in ("off", "none"):
        session.remove_stops()
    elif text:
        session.add_stop(text.replace("\\n", "\n"))
    return Lines(f"stop {show(session.params.stop)}")


def _set(session: Session, text: str) -> Shown:
    if text:
        name, _, value = text.partition(" ")
        known = [setting.name for setting in SamplingParams.settings()]
        if name not in known:
            raise SettingError(
                f"no setting is called {name!r}",
                fix=did_you_mean(name, known, otherwise=f"settings: {', '.join(known)}"),
            )
        if not value.strip():
            raise SettingError(
                f"{name} needs a value, now {show(getattr(session.params, name))}",
                fix=f"/set {name} VALUE",
            )
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


SETTINGS_COMMANDS = (
    _setting_command("temp", "temperature", "[number]", ("temperature",)),
    _setting_command("tokens", "max_new_tokens", "[number]"),
    _setting_command("topk", "top_k", "[number]"),
    _setting_command("topp", "top_p", "[number]"),
    _setting_command("minp", "min_p", "[number]"),
    _setting_command("penalty", "repetition_penalty", "[number]"),
    _setting_command("beams", "num_beams", "[number]"),
    _setting_command("seed", "seed", "[number]", values=("auto",)),
    Command(
        "stop", "[text]", "add a text that ends a reply; off removes all", _stop, values=("off",)
    ),
    Command(
        "set",
        "[name value]",
        "all settings, or change one",
        _set,
        values=tuple(s.name for s in SamplingParams.settings()),
    ),
    Command(
        "reset", "", "all settings as at the start; what was kept for the run is forgotten", _reset
    ),
)
