"""Slash commands of chat models: /system, /mode and /template."""

from __future__ import annotations

from simplellm.app.commands.command import Command, Shown
from simplellm.app.commands.inspection import token_marks
from simplellm.app.results import Lines, Tokens
from simplellm.app.session import MODES, Session
from simplellm.app.session_notes import NO_TEMPLATE
from simplellm.errors import SettingError

OFF = "off"
MODE_TEXTS = {
    True: "chat mode: the model answers messages, by its chat template",
    False: "text mode: the model continues what you type",
}


def _system(session: Session, text: str) -> Shown:
    if not session.is_chat:
        return _only_in_chat(session, "a system message", text)
    if text:
        session.set_system(None if text == OFF else text)
    if session.system is not None:
        return Lines(f"system message: {session.system}")
    hint = "; the template of the model may add its own (/template)"
    return Lines("no system message" + hint * session.require_template().has_default_system)


def _mode(session: Session, text: str) -> Shown:
    before = session.is_chat
    if text:
        session.set_mode(text)
    changed = "; a new conversation begins" if session.is_chat != before else ""
    return Lines(MODE_TEXTS[session.is_chat] + changed)


def _template(session: Session, text: str) -> Shown:
    """What the model reads before its next reply: the text and the ids."""
    if not session.is_chat:
        return _only_in_chat(session, "a template", text)
    reading = session.framing.before_reply(session.turns, len(session.turns), text)
    tokenizer = session.sampler.tokenizer
    marks, rest = token_marks(tokenizer, reading.ids)
    shown = "".join(
        tokenizer.special_text(token) or piece
        for token, piece in zip(reading.ids, tokenizer.decode_stream(reading.ids), strict=False)
    )
    message = "your message" if text else "an empty message; /template TEXT shows it with yours"
    return Tokens(
        marks,
        always_labels=True,
        summary=f"{len(reading.ids):,} tokens before the reply to {message}{rest}",
        title="What the model reads",
        text=shown,
    )


def _only_in_chat(session: Session, what: str, text: str) -> Shown:
    """In text mode: SettingError for a command with an argument, an explanation without."""
    problem = NO_TEMPLATE
    fix = "/run NAME opens another run"
    if session.sampler.template is not None:
        problem, fix = f"{what} belongs to chat mode; this is text mode", "/mode chat"
    if text not in ("", OFF):
        raise SettingError(problem, fix=fix)
    return Lines(f"{problem} ({fix})")


CHAT_COMMANDS = (
    Command(
        "system", "[text|off]", "show, change or remove the system message of a chat", _system,
        values=(OFF,),
    ),
    Command(
        "mode", "[chat|text]", "answer messages, or continue text; begins a new conversation",
        _mode, values=tuple(MODES),
    ),
    Command(
        "template", "[text]",
        "show the exact text and ids that a chat model reads before its next reply", _template,
        takes_prompt=True, draws=True,
    ),
)  # fmt: skip
