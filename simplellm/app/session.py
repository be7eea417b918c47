"""A conversation with a model: settings, turns, mode and context. No terminal here.

In text mode the model continues a text; in chat mode, which needs a chat template, it answers a
message. framing.py says what it reads in each mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from simplellm.app.answer import Answer, complete_text
from simplellm.app.conversation import Conversation, Turn, read_conversation, save
from simplellm.app.framing import ChatFraming, Framing, Reading, TextFraming, messages_of
from simplellm.app.journal import Journal
from simplellm.app.loaded_run import LoadedRun, Names, has_chat
from simplellm.app.preferences import Preferences
from simplellm.app.prompt_text import notes_on
from simplellm.app.session_notes import (
    CONTEXT_IS_FULL,
    NO_TEMPLATE,
    about_left_out,
    about_long_system,
    about_seed,
    no_turn,
)
from simplellm.app.session_settings import SessionSettings
from simplellm.checkpoint.find_runs import list_runs
from simplellm.config.sampling import SamplingParams
from simplellm.data.chat_template import ChatTemplate
from simplellm.errors import Notice, SettingError
from simplellm.inference.beams import reply_to
from simplellm.inference.reply import random_seed
from simplellm.inference.sampler import Sampler
from simplellm.storage.user_paths import expand_user

SHOWN_BEFORE = 200  # characters of a reply that are shown again before its continuation
MODES = {"chat": True, "text": False}


@dataclass
class Session(SessionSettings):
    """A conversation and its settings. The slash commands read and change it.

    params: the current sampling settings. defaults: those at the start, with the flags.
    flags: names of the settings given as flags. They override the settings kept for the run, and
        are not kept themselves.
    preferences: where settings are kept for the next session; None keeps nothing.
    journal: where the conversation is saved automatically; None saves nothing.
    load_run: loads another run, for /run.
    is_chat: the mode. system: the system message of the conversation. start_system: that of a new
        session. names: who speaks, on the screen.
    is_single_turn: the model was trained on single questions; earlier turns are not kept then.
    """

    sampler: Sampler
    run_path: Path
    params: SamplingParams
    facts: dict[str, str] = field(default_factory=dict)
    defaults: SamplingParams = field(default_factory=SamplingParams)
    flags: tuple[str, ...] = ()
    turns: list[Turn] = field(default_factory=list)
    keeps_context: bool = False
    shows_probabilities: bool = False
    is_over: bool = False
    preferences: Preferences | None = None
    journal: Journal | None = None
    load_run: Callable[[str], LoadedRun] | None = None
    checkpoints: Path = Path("checkpoints")
    notice: Notice = lambda text: None
    is_chat: bool = False
    system: str | None = None
    start_system: str | None = None
    is_single_turn: bool = False
    names: Names = field(default_factory=Names)
    _kept: dict[str, Any] = field(default_factory=dict)  # settings kept for the run
    _n_left_out: int = 0  # turns already reported as left out of the context

    # ------------------------------------------------------------ turns

    def ask(self, text: str) -> Answer:
        """The model's continuation of `text`, with earlier turns as context if they are kept."""
        reading = self.framing.before_reply(self.turns, len(self.turns), text)
        # one notice about a prompt is enough
        notes = [*reading.notes] or (notes_on(text) if not self.is_chat else [])
        turn = Turn(text, "", ids=reading.turn_ids)
        return self._answer("ask", turn, text, reading, notes, self.params)

    def regen(self) -> Answer:
        """Another answer to the last prompt, with a random seed even if a seed is set."""
        last = self._last_turn()
        params = replace(self.params, seed=random_seed())
        reading = self.framing.before_reply(self.turns, len(self.turns) - 1, last.prompt)
        notes = [*reading.notes, about_seed(params, self.params.seed)]
        turn = Turn(last.prompt, "", ids=reading.turn_ids)
        return self._answer("regen", turn, last.prompt, reading, notes, params)

    def extend(self) -> Answer:
        """A continuation of the last reply, whatever stopped it."""
        last = self._last_turn()
        reading = self.framing.before_more(self.turns, len(self.turns) - 1)
        shown = last.reply if self.is_chat else last.prompt + last.reply
        last_line = shown[-SHOWN_BEFORE:].rsplit("\n", 1)[-1]
        turn = replace(last, ids=reading.turn_ids)
        return self._answer("extend", turn, last_line, reading, [], self.params)

    def keep(self, answer: Answer) -> None:
        """Add the answer to the turns, complete or interrupted.

        An empty answer to /regen or /continue does not replace the last turn.
        """
        reply = answer.reply
        turn = answer.turn
        if answer.kind != "ask" and not reply.new_ids:
            return
        text, new_ids = complete_text(reply, self.sampler.tokenizer)
        kept = replace(
            turn,
            reply=turn.reply + text,
            stop_reason=reply.stop_reason,
            params=replace(reply.params, seed=reply.seed),
            in_context=self.keeps_context,
            ids=(*(turn.ids or ()), *new_ids) if new_ids is not None else None,
            pieces=(*turn.pieces, *answer.pieces),
        )
        n_replaced = 0 if answer.kind == "ask" else 1
        self.turns[len(self.turns) - n_replaced :] = [kept]
        self._write_journal()

    def undo(self) -> Turn:
        """Delete the last turn and return it."""
        last = self._last_turn()
        self.turns.pop()
        self._write_journal()
        return last

    def clear(self) -> None:
        """Start a new conversation. The file of the old one stays."""
        self.turns = []
        self._begin_journal()

    def _last_turn(self) -> Turn:
        if not self.turns:
            raise no_turn(self.is_chat)
        return self.turns[-1]

    def _answer(
        self,
        kind: Literal["ask", "regen", "extend"],
        turn: Turn,
        before: str,
        reading: Reading,
        notes: list[str],
        params: SamplingParams,
    ) -> Answer:
        n_left_out = reading.n_left_out
        if self.is_chat and n_left_out and not self._n_left_out:
            notes = [*notes, CONTEXT_IS_FULL]
        if not self.is_chat and n_left_out > self._n_left_out:
            notes = [*notes, about_left_out(n_left_out, reading.n_part)]
        self._n_left_out = max(n_left_out, self._n_left_out * self.is_chat)
        reply = reply_to(self.sampler, reading.ids, params)
        return Answer(kind, turn, before, reply, tuple(notes))

    # ------------------------------------------------------------ chat mode

    def set_mode(self, text: str) -> None:
        """Change to the mode `chat` or `text`, which begins a new conversation."""
        if text not in MODES:
            raise SettingError(f"a mode is chat or text, got {text!r}", fix="/mode text")
        if MODES[text]:
            self.require_template().check(self.sampler.tokenizer)
        if MODES[text] != self.is_chat:
            self.enter(MODES[text])
            self.clear()

    def set_system(self, text: str | None) -> None:
        """Change the system message, or remove it; an error changes nothing."""
        template = self.require_template()
        if text is not None:
            one = messages_of([Turn("a", "")], text)[:2]
            n = len(template.encode(one, self.sampler.tokenizer, is_open=True))
            if n > self.sampler.block_size // 2:
                raise about_long_system(n, self.sampler.block_size)
        self.system = text
        if self.turns:
            self._write_journal()

    def require_template(self) -> ChatTemplate:
        """The template of the model; SettingError if it has none."""
        if self.sampler.template is None:
            raise SettingError(NO_TEMPLATE, fix="/run NAME opens another run")
        return self.sampler.template

    # ------------------------------------------------------------ context

    @property
    def framing(self) -> Framing:
        """How turns become what the model reads, in the current mode."""
        n_for_reply = min(self.params.max_new_tokens, self.sampler.block_size // 2)
        template = self.sampler.template
        if self.is_chat and template is not None:
            return ChatFraming(self.sampler, n_for_reply, self.keeps_context, template, self.system)
        return TextFraming(self.sampler, n_for_reply, self.keeps_context)

    @property
    def context_limit(self) -> int:
        """Tokens that the earlier turns and a prompt may have together."""
        return self.framing.limit

    def n_context_tokens(self, typed: str = "") -> int:
        """Tokens that the model would see if `typed` were sent. Encodes only `typed`."""
        return self.framing.n_tokens(self.turns, typed)

    def ids_before_reply(self, text: str = "") -> list[int]:
        """Ids that a reply to `text` would continue; without a text, those of the last turn."""
        if not text and self.turns:
            return self.framing.before_more(self.turns, len(self.turns) - 1).ids
        return self.framing.before_reply(self.turns, len(self.turns), text).ids

    # ------------------------------------------------------------ files and runs

    def save(self, text: str) -> Path:
        path = _path(text)
        save(path, self.conversation, self.run_path)
        return path

    def load(self, text: str) -> Path:
        """Continue a saved conversation, with context if it had it; TextError changes nothing."""
        path = _path(text)
        self._continue_with(read_conversation(path))
        self._begin_journal()
        return path

    def resume(self, journal: Journal, conversation: Conversation) -> None:
        """Continue a conversation that was saved automatically, in the same file."""
        if conversation.turns:
            self._continue_with(conversation)
        self.journal = self.journal and journal

    @property
    def conversation(self) -> Conversation:
        return Conversation(self.turns, self.is_chat, self.system)

    def _continue_with(self, conversation: Conversation) -> None:
        if conversation.is_chat:
            self.require_template().check(self.sampler.tokenizer)
        if conversation.is_chat != self.is_chat:
            self.enter(conversation.is_chat)
        self.turns = conversation.turns
        self.system = conversation.system
        if self.turns:
            self.keeps_context = self.turns[-1].in_context

    def switch(self, requested: str) -> None:
        """Continue with another run and the settings kept for it; an error changes nothing."""
        if self.load_run is None:
            raise SettingError("no other run can be loaded here", fix="start again with --run")
        loaded = self.load_run(requested)
        self.sampler = loaded.sampler
        self.run_path = loaded.path
        self.facts = loaded.facts
        self.names = loaded.names
        had_default = self.keeps_context == self.default_context
        self.is_single_turn = loaded.is_single_turn
        is_chat = has_chat(loaded.sampler, self.notice)
        kept = self.turns if is_chat == self.is_chat else []
        self.turns = [replace(turn, ids=None, pieces=()) for turn in kept]
        if is_chat != self.is_chat:
            self.enter(is_chat)
        elif had_default:
            self.keeps_context = self.default_context
        self._begin_journal()
        self.recall_settings()

    def run_names(self) -> list[str]:
        return sorted(run.name for run in list_runs(self.checkpoints))

    def _begin_journal(self) -> None:
        self._n_left_out = 0
        if self.journal is not None:
            self.journal = self.journal.fresh(self.run_path)

    def _write_journal(self) -> None:
        """Save the conversation. A failure is reported once and does not end the conversation."""
        if self.journal is None:
            return
        try:
            self.journal.write(self.conversation)
        except OSError as error:
            where = error.filename or self.journal.folder
            self.notice(f"this conversation is not saved: {error.strerror}: {where}")
            self.journal = None


def _path(text: str) -> Path:
    return Path(expand_user(text))
