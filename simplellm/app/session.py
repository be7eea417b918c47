"""A conversation with a model: settings, turns and context. No terminal here.

The context of a prompt are the newest turns that fit. Room is left for the prompt and for the
reply: its maximum length, or half the context if that is less (a full context loses its older
half, see inference/sampler.py). Turns are left out as a whole, the oldest ones first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from simplellm.app.answer import Answer, complete_text
from simplellm.app.conversation import Turn, load, save
from simplellm.app.journal import Journal
from simplellm.app.preferences import SWITCHES, Preferences
from simplellm.app.prompt_text import notes_on
from simplellm.app.session_notes import about_left_out, about_seed
from simplellm.checkpoint.find_runs import list_runs
from simplellm.config.sampling import SamplingParams
from simplellm.errors import Notice, SettingError
from simplellm.inference.beams import reply_to
from simplellm.inference.reply import random_seed
from simplellm.inference.sampler import Sampler
from simplellm.storage.user_paths import expand_user

TURN_END = "\n"  # between a turn and the next prompt
SHOWN_BEFORE = 200  # characters of a reply that are shown again before its continuation
LONGEST_TOKEN = 512  # characters: longer words and runs are split before, see data/tokenizer.py
ON_OFF = {"on": True, "off": False}


@dataclass(frozen=True)
class LoadedRun:
    """A run whose model is loaded. facts: what /info shows of it."""

    sampler: Sampler
    path: Path
    facts: dict[str, str]


@dataclass
class Session:
    """A conversation and its settings. The slash commands read and change it.

    params: the current sampling settings. defaults: those at the start, with the flags.
    flags: names of the settings given as flags. They override the settings kept for the run, and
        are not kept themselves.
    preferences: where settings are kept for the next session; None keeps nothing.
    journal: where the conversation is saved automatically; None saves nothing.
    load_run: loads another run, for /run.
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
    _kept: dict[str, Any] = field(default_factory=dict)  # settings kept for the run
    _n_left_out: int = 0  # turns already reported as left out of the context

    # ------------------------------------------------------------ settings

    def change(self, name: str, text: str) -> None:
        """Set one sampling setting to the value typed as `text`; SettingError changes nothing."""
        self._set(name, SamplingParams.setting(name).parse(text))

    def add_stop(self, text: str) -> None:
        self._set("stop", (*self.params.stop, text))

    def remove_stops(self) -> None:
        self._set("stop", ())

    def set_context(self, text: str) -> None:
        fix = "/context on keeps earlier turns as context"
        self.keeps_context = self._set_switch("context", text, fix)

    def set_probabilities(self, text: str) -> None:
        fix = "/probs on shades each token by its probability"
        self.shows_probabilities = self._set_switch("probs", text, fix)

    def reset(self) -> None:
        """Return all settings to their start values and forget those kept for the run."""
        self.params = self.defaults
        self._kept = {}
        self.keeps_context = self.shows_probabilities = False
        self._write_preferences()

    def recall_settings(self) -> None:
        """Apply the settings kept for the run, except where a flag overrides them."""
        if self.preferences is None:
            return
        self._kept = self.preferences.read(self.run_path)
        recalled = {name: value for name, value in self._kept.items() if name not in self.flags}
        sampling = {name: value for name, value in recalled.items() if name not in SWITCHES}
        self.params = replace(self.defaults, **sampling)
        self.keeps_context = recalled.get("context", self.keeps_context)
        self.shows_probabilities = recalled.get("probs", self.shows_probabilities)

    def _set(self, name: str, value: Any) -> None:
        self.params = replace(self.params, **{name: value})
        self._kept[name] = getattr(self.params, name)
        self._write_preferences()

    def _set_switch(self, name: str, text: str, fix: str) -> bool:
        if text not in ON_OFF:
            raise SettingError(f"{name} is on or off, got {text!r}", fix=fix)
        self._kept[name] = ON_OFF[text]
        self._write_preferences()
        return ON_OFF[text]

    def _write_preferences(self) -> None:
        if self.preferences is not None:
            self.preferences.write(self.run_path, self._kept)

    # ------------------------------------------------------------ turns

    def ask(self, text: str) -> Answer:
        """The model's continuation of `text`, with earlier turns as context if they are kept."""
        ids, notes = self._encode_prompt(text)
        notes = notes or notes_on(text)  # one notice about a prompt is enough
        turn = Turn(text, "", ids=tuple(ids))
        return self._answer("ask", turn, text, len(self.turns), notes, self.params)

    def regen(self) -> Answer:
        """Another answer to the last prompt, with a random seed even if a seed is set."""
        last = self._last_turn()
        params = replace(self.params, seed=random_seed())
        ids, notes = self._encode_prompt(last.prompt)
        notes.append(about_seed(params, self.params.seed))
        turn = Turn(last.prompt, "", ids=tuple(ids))
        return self._answer("regen", turn, last.prompt, len(self.turns) - 1, notes, params)

    def extend(self) -> Answer:
        """A continuation of the last reply, whatever stopped it."""
        last = self._last_turn()
        self._ids_of(len(self.turns) - 1)
        last_line = (last.prompt + last.reply)[-SHOWN_BEFORE:].rsplit("\n", 1)[-1]
        n_earlier = len(self.turns) - 1
        return self._answer("extend", self.turns[-1], last_line, n_earlier, [], self.params)

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
            raise SettingError("there is no turn yet", fix="type the beginning of a text first")
        return self.turns[-1]

    def _answer(
        self,
        kind: Literal["ask", "regen", "extend"],
        turn: Turn,
        before: str,
        n_earlier: int,
        notes: list[str],
        params: SamplingParams,
    ) -> Answer:
        ids = turn.ids or ()
        context, n_left_out = self.context(n_earlier, len(ids))
        n_part = len(context) if n_left_out == n_earlier else 0  # tokens kept of the last turn
        if n_left_out > self._n_left_out:
            notes = [*notes, about_left_out(n_left_out, n_part)]
        self._n_left_out = n_left_out
        reply = reply_to(self.sampler, [*self._bos_ids, *context, *ids], params)
        return Answer(kind, turn, before, reply, tuple(notes))

    # ------------------------------------------------------------ context

    @property
    def context_limit(self) -> int:
        """Tokens that the earlier turns and a prompt may have together."""
        block_size = self.sampler.block_size
        n_for_reply = min(self.params.max_new_tokens, block_size // 2)
        return block_size - n_for_reply - len(self._bos_ids)

    @property
    def _bos_ids(self) -> tuple[int, ...]:
        """Before the whole context, not before each turn."""
        return self.sampler.tokenizer.bos_ids

    def context(self, n_turns: int | None = None, n_own: int = 0) -> tuple[list[int], int]:
        """Ids of the newest of the first `n_turns` (None: all) that fit before `n_own` tokens.

        If not even one turn fits, they are the newest tokens of the last turn.
        The second value is the number of turns that are left out, or of which only a part is kept.
        """
        n_turns = len(self.turns) if n_turns is None else n_turns
        ids: list[list[int]] = []
        room = self.context_limit - n_own
        for number in reversed(range(n_turns if self.keeps_context else 0)):
            turn = [*self._ids_of(number), *self.sampler.tokenizer.encode(TURN_END)]
            room -= len(turn)
            if room < 0:
                n_kept = max(room + len(turn), 0) if not ids else 0
                newest = turn[len(turn) - n_kept :]
                parts = [newest, *reversed(ids)]
                return [token for part in parts for token in part], number + 1
            ids.append(turn)
        return [token for part in reversed(ids) for token in part], 0

    def n_context_tokens(self, typed: str = "") -> int:
        """Tokens that the model would see if `typed` were sent. Encodes only `typed`."""
        n_own = len(self._encode(typed)) if typed else 0
        n_tokens = n_own + len(self.context(n_own=n_own)[0])
        return n_tokens + len(self._bos_ids) if n_tokens else 0

    def ids_before_reply(self, text: str = "") -> list[int]:
        """Ids that a reply to `text` would continue; without a text, those of the last turn."""
        n_earlier = len(self.turns) - (not text and bool(self.turns))
        if n_earlier < len(self.turns):
            ids: Sequence[int] = self._ids_of(n_earlier)
        else:
            ids = self._encode_prompt(text)[0]
        return [*self._bos_ids, *self.context(n_earlier, len(ids))[0], *ids]

    def _encode_prompt(self, text: str) -> tuple[list[int], list[str]]:
        """Ids of a prompt, and a note if the prompt is longer than the context."""
        ids = self._encode(text)
        if len(ids) + len(self._bos_ids) <= self.sampler.block_size:
            return ids, []
        n = self.context_limit
        note = f"the prompt is longer than the context: the model sees only its last {n} tokens"
        return ids[-n:], [note]

    def _encode(self, text: str) -> list[int]:
        """Ids of `text` without BOS.

        Of a very long text only the end is encoded, more than the context.
        """
        end = text[-(self.sampler.block_size + 1) * LONGEST_TOKEN :]
        return self.sampler.encode(end)[len(self._bos_ids) :]

    def _ids_of(self, number: int) -> tuple[int, ...]:
        """Ids of a turn: those that the model generated, or its text encoded once."""
        turn = self.turns[number]
        if turn.ids is None:
            ids = tuple(self._encode(turn.prompt + turn.reply))
            turn = self.turns[number] = replace(turn, ids=ids)
        assert turn.ids is not None
        return turn.ids

    # ------------------------------------------------------------ files and runs

    def save(self, text: str) -> Path:
        path = _path(text)
        save(path, self.turns, self.run_path)
        return path

    def load(self, text: str) -> Path:
        """Continue a saved conversation, with context if it had it; TextError changes nothing."""
        path = _path(text)
        self._continue_with(load(path))
        self._begin_journal()
        return path

    def resume(self, journal: Journal, turns: list[Turn]) -> None:
        """Continue a conversation that was saved automatically, in the same file."""
        self._continue_with(turns)
        self.journal = self.journal and journal

    def _continue_with(self, turns: list[Turn]) -> None:
        self.turns = turns
        if turns:
            self.keeps_context = turns[-1].in_context

    def switch(self, requested: str) -> None:
        """Continue with another run and the settings kept for it; an error changes nothing."""
        if self.load_run is None:
            raise SettingError("no other run can be loaded here", fix="start again with --run")
        loaded = self.load_run(requested)
        self.sampler = loaded.sampler
        self.run_path = loaded.path
        self.facts = loaded.facts
        self.turns = [replace(turn, ids=None, pieces=()) for turn in self.turns]
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
            self.journal.write(self.turns)
        except OSError as error:
            where = error.filename or self.journal.folder
            self.notice(f"this conversation is not saved: {error.strerror}: {where}")
            self.journal = None


def _path(text: str) -> Path:
    return Path(expand_user(text))
