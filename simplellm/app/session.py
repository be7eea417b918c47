"""A conversation: the model, the settings and what was said. No terminal here.

What earlier turns may take of the context: all but what the prompt takes and what is left free for the reply, which is
its longest length or half the context, whichever is less (a full context loses its older half, see sampler.py). The
oldest whole turns leave first.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from simplellm.app.conversation import Journal, Turn, load, save
from simplellm.app.preferences import SWITCHES, Preferences
from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import Notice, SettingError
from simplellm.inference.beams import reply_to
from simplellm.inference.reply import Reply, StreamedToken, random_seed
from simplellm.inference.sampler import Sampler

TURN_END = "\n"  # between a turn and the next prompt
SAME_AGAIN = (
    "once more; it will be the same where nothing is drawn (temperature 0, or several beams)"
)
SHOWN_BEFORE = 200  # characters of a reply shown again before it goes on
LONGEST_TOKEN = 512  # characters: splitting cuts words and runs before that, see tokenizer.py
ON_OFF = {"on": True, "off": False}


@dataclass(frozen=True)
class Opened:
    """A run that is ready to answer."""

    sampler: Sampler
    path: Path
    facts: dict[str, str]  # what /info tells of it


@dataclass(frozen=True)
class Answer:
    """A reply to be streamed by iterating, once; then `Session.keep` makes a turn of it."""

    kind: str  # ask, regen or extend
    turn: Turn  # so far: with the ids of the prompt, or of all that `extend` goes on from
    before: str  # shown dim before the reply
    reply: Reply
    notes: tuple[str, ...] = ()  # what a person should know first
    thoughts: list[StreamedToken] = field(default_factory=list)  # the pieces that have come

    def __iter__(self) -> Iterator[StreamedToken]:
        for piece in self.reply:
            if piece.token is not None or piece.text:
                self.thoughts.append(piece)
            yield piece


@dataclass
class Session:
    """What the slash commands read and change."""

    sampler: Sampler
    run_path: Path
    params: SamplingParams
    facts: dict[str, str] = field(default_factory=dict)  # what /info tells of the model
    defaults: SamplingParams = field(
        default_factory=SamplingParams
    )  # with the flags of the command line
    flags: tuple[
        str, ...
    ] = ()  # settings named there: they stand above those kept for the run, and are not kept
    turns: list[Turn] = field(default_factory=list)
    keeps_context: bool = False
    shows_probabilities: bool = False
    is_over: bool = False
    preferences: Preferences | None = None
    journal: Journal | None = None
    open_run: Callable[[str], Opened] | None = None
    checkpoints: Path = Path("checkpoints")
    notice: Notice = lambda text: None
    _chosen: dict[str, Any] = field(default_factory=dict)  # what is kept for the run
    _n_left_out: int = 0  # turns that were said to be out of the context

    # ------------------------------------------------------------ settings

    def change(self, name: str, text: str) -> None:
        """Set one sampling setting from what a person typed; SettingError leaves it as it was."""
        self._choose(name, SamplingParams.setting(name).parse(text))

    def add_stop(self, text: str) -> None:
        self._choose("stop", (*self.params.stop, text))

    def remove_stops(self) -> None:
        self._choose("stop", ())

    def set_context(self, text: str) -> None:
        self.keeps_context = self._parse_switch("context", text, "/context on keeps earlier turns")

    def set_probabilities(self, text: str) -> None:
        self.shows_probabilities = self._parse_switch(
            "probs", text, "/probs on shades each token by its probability"
        )

    def reset(self) -> None:
        """All settings as the command line has them; what was kept for the run is forgotten."""
        self.params, self._chosen = self.defaults, {}
        self.keeps_context = self.shows_probabilities = False
        self._keep_settings()

    def recall_settings(self) -> dict[str, Any]:
        """Take the settings kept for the run, under the flags; gives those that now hold."""
        if self.preferences is None:
            return {}
        self._chosen = self.preferences.read(self.run_path)
        now = {name: value for name, value in self._chosen.items() if name not in self.flags}
        self.params = replace(
            self.defaults, **{name: value for name, value in now.items() if name not in SWITCHES}
        )
        self.keeps_context = now.get("context", self.keeps_context)
        self.shows_probabilities = now.get("probs", self.shows_probabilities)
        return now

    def _choose(self, name: str, value: Any) -> None:
        self.params = replace(self.params, **{name: value})
        self._chosen[name] = getattr(self.params, name)
        self._keep_settings()

    def _parse_switch(self, name: str, text: str, fix: str) -> bool:
        if text not in ON_OFF:
            raise SettingError(f"{name} is on or off, got {text!r}", fix=fix)
        self._chosen[name] = ON_OFF[text]
        self._keep_settings()
        return ON_OFF[text]

    def _keep_settings(self) -> None:
        if self.preferences is not None:
            self.preferences.write(self.run_path, self._chosen)

    # ------------------------------------------------------------ talking

    def ask(self, text: str) -> Answer:
        """The model's continuation of `text`, after what was said before where that is kept."""
        ids, notes = self._read(text)
        return self._answer("ask", Turn(text, "", ids=tuple(ids)), text, len(self.turns), notes)

    def regen(self) -> Answer:
        """Another answer to the last prompt, with a seed that is random even where one is set."""
        last = self._last_turn()
        params = replace(self.params, seed=random_seed())
        also = (
            ""
            if self.params.seed is None
            else f"; the next prompt has seed {self.params.seed} again"
        )
        is_drawn = params.temperature > 0 and params.num_beams == 1
        ids, notes = self._read(last.prompt)
        notes.append(f"once more, with seed {params.seed}{also}" if is_drawn else SAME_AGAIN)
        return self._answer(
            "regen",
            Turn(last.prompt, "", ids=tuple(ids)),
            last.prompt,
            len(self.turns) - 1,
            notes,
            params,
        )

    def extend(self) -> Answer:
        """On from where the last reply ended, for whatever reason it did."""
        last = self._last_turn()
        self._ids_of(len(self.turns) - 1)
        said = (last.prompt + last.reply)[-SHOWN_BEFORE:].rsplit("\n", 1)[-1]
        return self._answer("extend", self.turns[-1], said, len(self.turns) - 1, [])

    def keep(self, answer: Answer) -> None:
        """Remember a turn, whole or cut short. An old one is not given up for nothing."""
        reply, turn = answer.reply, answer.turn
        if answer.kind != "ask" and not reply.new_ids:
            return
        text, new_ids = spoken(reply, self.sampler.tokenizer)
        ids = (*(turn.ids or ()), *new_ids) if new_ids is not None else None
        params = replace(reply.params, seed=reply.seed)
        thoughts = (*turn.thoughts, *answer.thoughts)
        kept = replace(
            turn, reply=turn.reply + text, stop_reason=reply.stop_reason, params=params, in_context=self.keeps_context,
            ids=ids, thoughts=thoughts,
        )  # fmt: skip
        self.turns[len(self.turns) - (answer.kind != "ask") :] = [kept]
        self._write_journal()

    def undo(self) -> Turn:
        """Take the last turn back."""
        last = self._last_turn()
        self.turns.pop()
        self._write_journal()
        return last

    def clear(self) -> None:
        """Forget what was said; the file that keeps it stays, and what follows begins another one."""
        self.turns = []
        self._begin_journal()

    def _last_turn(self) -> Turn:
        if not self.turns:
            raise SettingError(
                "nothing has been said yet", fix="type the beginning of a text first"
            )
        return self.turns[-1]

    def _answer(
        self,
        kind: str,
        turn: Turn,
        before: str,
        n_earlier: int,
        notes: list[str],
        params: SamplingParams | None = None,
    ) -> Answer:
        ids = turn.ids or ()
        context, n_left_out = self.context(n_earlier, len(ids))
        if n_left_out > self._n_left_out:
            notes = [*notes, left_out(n_left_out)]
        self._n_left_out = n_left_out
        return Answer(
            kind,
            turn,
            before,
            reply_to(self.sampler, [*context, *ids], params or self.params),
            tuple(notes),
        )

    # ------------------------------------------------------------ what the model looks at

    @property
    def context_limit(self) -> int:
        """Tokens that earlier turns and a prompt may take together."""
        block_size = self.sampler.block_size
        return block_size - min(self.params.max_new_tokens, block_size // 2)

    def context(self, n_turns: int | None = None, n_own: int = 0) -> tuple[list[int], int]:
        """Ids of the newest of the first `n_turns` (None: all) that fit before `n_own` tokens, and how many are left out."""
        n_turns = len(self.turns) if n_turns is None else n_turns
        ids: list[list[int]] = []
        room = self.context_limit - n_own
        for number in reversed(range(n_turns if self.keeps_context else 0)):
            turn = [*self._ids_of(number), *self.sampler.tokenizer.encode(TURN_END)]
            room -= len(turn)
            if room < 0:
                return [token for part in reversed(ids) for token in part], number + 1
            ids.append(turn)
        return [token for part in reversed(ids) for token in part], 0

    def n_context_tokens(self, typed: str = "") -> int:
        """How many tokens the model would look at if `typed` were sent; earlier turns are not read again for it."""
        n_own = len(self.sampler.encode(typed)) if typed else 0
        return n_own + len(self.context(n_own=n_own)[0])

    def here(self, text: str = "") -> list[int]:
        """Ids of what a reply to `text` would go on from; without a text, of what was said."""
        n_earlier = len(self.turns) - (not text and bool(self.turns))
        ids = self._ids_of(n_earlier) if n_earlier < len(self.turns) else self._read(text)[0]
        return [*self.context(n_earlier, len(ids))[0], *ids]

    def _read(self, text: str) -> tuple[list[int], list[str]]:
        """Ids of a prompt, and what should be said where they are more than the model can look at."""
        ids = self._encode(text)
        if len(ids) <= self.sampler.block_size:
            return ids, []
        n = self.context_limit
        return ids[-n:], [
            f"the prompt is longer than the context: only its newest {n} tokens are looked at"
        ]

    def _encode(self, text: str) -> list[int]:
        """Ids of `text`. Of one that is too long for the context only the end is read, but enough to be too long still."""
        return self.sampler.encode(text[-(self.sampler.block_size + 1) * LONGEST_TOKEN :])

    def _ids_of(self, number: int) -> tuple[int, ...]:
        """Ids of a turn to this model: those it said itself, or the text read once."""
        turn = self.turns[number]
        if turn.ids is None:
            turn = self.turns[number] = replace(
                turn, ids=tuple(self._encode(turn.prompt + turn.reply))
            )
        assert turn.ids is not None
        return turn.ids

    # ------------------------------------------------------------ files and models

    def save(self, text: str) -> Path:
        path = _path(text)
        save(path, self.turns, self.run_path)
        return path

    def load(self, text: str) -> Path:
        """Go on with a saved conversation, with context where it had it; TextError leaves everything as it was."""
        path = _path(text)
        self._go_on(load(path))
        self._begin_journal()
        return path

    def resume(self, journal: Journal, turns: list[Turn]) -> None:
        """Go on with a conversation that keeps itself, and let it do so."""
        self._go_on(turns)
        self.journal = self.journal and journal

    def _go_on(self, turns: list[Turn]) -> None:
        self.turns = turns
        if turns:
            self.keeps_context = turns[-1].in_context

    def switch(self, wish: str) -> None:
        """Let another run answer, with the settings kept for it; an error leaves everything as it was."""
        if self.open_run is None:
            raise SettingError("no other run can be opened here", fix="start again with --run")
        opened = self.open_run(wish)
        self.sampler, self.run_path, self.facts = opened.sampler, opened.path, opened.facts
        self.turns = [replace(turn, ids=None, thoughts=()) for turn in self.turns]
        self._begin_journal()
        self.recall_settings()

    def run_names(self) -> list[str]:
        return sorted(path.parent.name for path in self.checkpoints.glob("*/run.json"))

    def _begin_journal(self) -> None:
        self._n_left_out = 0
        if self.journal is not None:
            self.journal = self.journal.fresh(self.run_path)

    def _write_journal(self) -> None:
        """A conversation that cannot be kept goes on all the same; that is said once."""
        if self.journal is None:
            return
        try:
            self.journal.write(self.turns)
        except OSError as error:
            self.notice(
                f"this conversation is not kept: {error.strerror}: {error.filename or self.journal.folder}"
            )
            self.journal = None


def left_out(n: int) -> str:
    return (
        f"{n} earlier turns no longer fit and were left out"
        if n > 1
        else "1 earlier turn no longer fits and was left out"
    )


def spoken(reply: Reply, tokenizer: Tokenizer) -> tuple[str, tuple[int, ...] | None]:
    """The text of a reply without half a character at its end, and the ids that say just that; None where none do.

    A reply may have more ids than text: of the end of the text, of a stop text, of a character that was cut off.
    """
    decoder, n_whole = codecs.getincrementaldecoder("utf-8")("replace"), 0
    for number, token in enumerate(reply.new_ids, 1):
        decoder.decode(tokenizer.token_bytes(token))
        if not decoder.getstate()[0] and token != tokenizer.end_of_text:
            n_whole = number
    ids = tuple(reply.new_ids[:n_whole])
    text = tokenizer.decode(ids)
    is_all = reply.text in (text, text + "\ufffd")
    return (text, ids) if is_all else (reply.text, None)


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))
