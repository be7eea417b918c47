"""Slash commands that look inside the model: /probs, /next, /tokenize, /source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simplellm.app.commands.command import Command, Shown
from simplellm.app.commands.helpers import context_of, quoted, require_message, require_turn
from simplellm.app.results import Bar, Bars, Lines, Mark, Tokens
from simplellm.app.session import Session
from simplellm.app.shading import marks_of, summary_of
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import show
from simplellm.data.text_files import STDIN_NAME
from simplellm.data.tokenizer import Tokenizer
from simplellm.evaluation.analyze import Candidate, about_bytes, candidates, token_text
from simplellm.evaluation.copied_text.passages import PASSAGE_CHARACTERS, find_passages
from simplellm.evaluation.copied_text.training_text import Location, load_training_texts

TOP = 10  # candidates
MOST_PASSAGE_CHARACTERS = 400  # shown of one passage
MOST_TOKENS = 2000  # shown of a text
BOUNDARY_LEVELS = (0.2, 0.6, 0.95)  # three, so that neighbours differ if a token is repeated
FILTER_SETTINGS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def _probs(session: Session, text: str) -> Shown:
    if text:
        session.set_probabilities(text)
        return _legend() if session.shows_probabilities else Lines("replies are not shaded")
    pieces = session.turns[-1].pieces if session.turns else ()
    if pieces:
        return Tokens(
            marks_of(pieces),
            summary=summary_of(pieces),
            legend=(Mark("probability: ", None), *_levels()),
            title="Probability of each token of a reply",
        )
    if session.shows_probabilities:
        return _legend()
    return Lines("probs off: /probs on shades each token of a reply by its probability")


def _legend() -> Tokens:
    return Tokens(
        _levels(),
        summary="the colour of a token shows its probability; without colours, a number follows it",
        title="Colours of probabilities",
    )


def _levels() -> tuple[Mark, ...]:
    return tuple(Mark(f" {level / 4:.0%} ", level / 4) for level in range(5))


def _next(session: Session, text: str) -> Shown:
    """The most likely next tokens, before and after the sampling settings."""
    require_message(session, text)
    params = session.params
    found = candidates(session.sampler, session.ids_before_reply(text), params, TOP)
    tokenizer = session.sampler.tokenizer
    return next_token_bars(found, tokenizer, params, context_of(session, text))


def next_token_bars(
    found: Sequence[Candidate], tokenizer: Tokenizer, params: SamplingParams, context: str
) -> Bars:
    """Candidates as bars; `context`: the end of the text before them, for the title."""
    rows = tuple(
        Bar(
            quoted(token_text(tokenizer, candidate.token)),
            candidate.probability,
            candidate.sampling_probability if candidate.kept else None,
        )
        for candidate in found
    )
    summary = ", ".join(f"{name} {show(getattr(params, name))}" for name in FILTER_SETTINGS)
    if note := about_bytes(row.name for row in rows):
        summary += f"; {note}"
    title = f"Next token after \u201c{context}\u201d" if context else "First token of a text"
    return Bars(rows, summary=summary, title=title)


def _tokenize(session: Session, text: str) -> Shown:
    tokenizer = session.sampler.tokenizer
    if not text:
        return Lines("/tokenize TEXT shows the tokens of a text and their ids")
    ids = tokenizer.encode(text)
    marks, rest = token_marks(tokenizer, ids)
    n_bytes = sum(len(tokenizer.token_bytes(token)) for token in ids)
    summary = (
        f"{_count(len(ids), 'token')}, {_count(n_bytes, 'byte')}, "
        f"{n_bytes / len(ids):.2f} bytes/token{rest}"
    )
    return Tokens(marks, always_labels=True, summary=summary, title="Tokens and their ids")


def token_marks(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[tuple[Mark, ...], str]:
    """Tokens with their ids, in alternating colours, and what to add to the summary."""
    marks = tuple(
        Mark(
            token_text(tokenizer, token), BOUNDARY_LEVELS[number % len(BOUNDARY_LEVELS)], str(token)
        )
        for number, token in enumerate(ids[:MOST_TOKENS])
    )
    rest = f"; only the first {MOST_TOKENS:,} are shown" if len(ids) > MOST_TOKENS else ""
    note = about_bytes(mark.text for mark in marks)
    return marks, rest + f"; {note}" * bool(note)


# ---------------------------------------------------------------- copied passages


def _source(session: Session, text: str) -> Shown:
    """Passages of the last reply that are copied from the training text, and their places."""
    require_turn(session)
    trained = load_training_texts(session.run_path, session.notice)
    turn = session.turns[-1]
    found = find_passages(turn.reply, trained.texts, turn.prompt)
    summary = (
        f"{found.share:.0%} of the reply is copied word for word from the training text, "
        f"in passages of at least {PASSAGE_CHARACTERS} characters"
        if found.passages
        else f"no passage of {PASSAGE_CHARACTERS} or more characters of the reply occurs word for "
        "word in the training text"
    )
    passages = [
        f"{_in_words(passage.location)}: {'...' * passage.began_before}{_shortened(passage.text)}"
        for passage in found.passages
    ]
    missing = [f"not searched: {what}" for what in trained.missing]
    return Lines("\n".join([summary + ":" * bool(passages), *passages, *missing]))


def _in_words(location: Location | None) -> str:
    """FILE:LINE, with the file relative to the current folder."""
    if location is None:
        return "unknown location"
    path = location.path
    here = Path.cwd()
    if path == STDIN_NAME:
        path = "standard input"
    elif Path(path).is_relative_to(here):
        path = str(Path(path).relative_to(here))
    return f"{path}:{location.line}" + (f" ({location.state})" if location.state else "")


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_PASSAGE_CHARACTERS else line[:MOST_PASSAGE_CHARACTERS] + "..."


# ---------------------------------------------------------------- helpers


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


INSPECTION_COMMANDS = (
    Command(
        "probs", "[on|off]",
        "shade each token of a reply by its probability; without on or off: shade the last reply",
        _probs, values=("on", "off"), draws=True,
    ),
    Command(
        "next", "[text]",
        "show the most likely next tokens, before and after the sampling settings", _next,
        takes_prompt=True, draws=True,
    ),
    Command(
        "tokenize", "[text]", "show the tokens of a text and their ids", _tokenize, draws=True
    ),
    Command(
        "source", "", "show what the last reply copies word for word from the training text",
        _source,
    ),
)  # fmt: skip
