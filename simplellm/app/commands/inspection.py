"""Slash commands that look inside the model: /probs, /next, /tokenize, /attn, /source, /compare."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from simplellm.app.bar_chart import percent
from simplellm.app.commands.command import Command, Shown
from simplellm.app.results import Bar, Bars, Columns, Lines, Mark, Tokens
from simplellm.app.session import Session
from simplellm.app.shading import marks_of, summary_of
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import show
from simplellm.data.text_files import STDIN_NAME
from simplellm.errors import SettingError
from simplellm.evaluation.analyze import attention, candidates, character_spans, token_text
from simplellm.evaluation.copied_text.passages import PASSAGE_CHARACTERS, find_passages
from simplellm.evaluation.copied_text.training_text import Location, load_training_texts
from simplellm.inference.batch import ReplyBatch
from simplellm.inference.reply import random_seed

TOP = 10  # candidates
MOST_PASSAGE_CHARACTERS = 400  # shown of one passage
MOST_TOKENS = 2000  # shown of a text
BOUNDARY_LEVELS = (0.2, 0.6, 0.95)  # three, so that neighbours differ if a token is repeated
NAMED_TOKENS = 3  # below the shaded text of /attn
LEAST_LABELLED_SHARE = 0.01  # of the attention
FILTER_SETTINGS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def _probs(session: Session, text: str) -> Shown:
    if text:
        session.set_probabilities(text)
        return _legend() if session.shows_probabilities else Lines("replies are not shaded")
    pieces = session.turns[-1].pieces if session.turns else ()
    if pieces:
        return Tokens(marks_of(pieces), summary=summary_of(pieces))
    if session.shows_probabilities:
        return _legend()
    return Lines("probs off: /probs on shades each token of a reply by its probability")


def _legend() -> Tokens:
    marks = tuple(Mark(f" {level / 4:.0%} ", level / 4) for level in range(5))
    return Tokens(
        marks,
        summary="the colour of a token shows its probability; without colours, a number follows it",
    )


def _next(session: Session, text: str) -> Shown:
    """The most likely next tokens, before and after the sampling settings."""
    tokenizer = session.sampler.tokenizer
    params = session.params
    found = candidates(session.sampler, session.ids_before_reply(text), params, TOP)
    rows = tuple(
        Bar(
            _quoted(token_text(tokenizer, candidate.token)),
            candidate.probability,
            candidate.sampling_probability if candidate.kept else None,
        )
        for candidate in found
    )
    summary = ", ".join(f"{name} {show(getattr(params, name))}" for name in FILTER_SETTINGS)
    return Bars(rows, summary=summary)


def _tokenize(session: Session, text: str) -> Shown:
    tokenizer = session.sampler.tokenizer
    if not text:
        return Lines("/tokenize TEXT shows the tokens of a text and their ids")
    ids = tokenizer.encode(text)
    marks = tuple(
        Mark(
            token_text(tokenizer, token), BOUNDARY_LEVELS[number % len(BOUNDARY_LEVELS)], str(token)
        )
        for number, token in enumerate(ids[:MOST_TOKENS])
    )
    n_bytes = sum(len(tokenizer.token_bytes(token)) for token in ids)
    summary = (
        f"{_count(len(ids), 'token')}, {_count(n_bytes, 'byte')}, "
        f"{n_bytes / len(ids):.2f} bytes/token"
    )
    if len(ids) > MOST_TOKENS:
        summary += f"; only the first {MOST_TOKENS:,} are shown"
    return Tokens(marks, always_labels=True, summary=summary)


# ---------------------------------------------------------------- attention


def _attn(session: Session, text: str) -> Shown:
    """Attention weights of the last token over all tokens in the context."""
    sampler = session.sampler
    config = sampler.model.config
    layer, head = _layer_and_head(text, config.n_layer, config.n_head)
    _require_turn(session)
    ids = sampler.truncate(session.ids_before_reply())
    weights = attention(sampler.model, ids)  # (L, H, T)
    weights = weights[layer - 1 : layer] if layer else weights
    weights = weights[:, head - 1 : head] if head else weights
    mean = weights.mean((0, 1)).tolist()
    spans = list(character_spans(sampler.tokenizer, ids))
    shares = [sum(mean[first:last]) for _, first, last in spans]
    marks = tuple(
        Mark(
            name,
            (share / max(shares)) ** 0.5,
            f"{share:.0%}" if share >= LEAST_LABELLED_SHARE else "",
        )
        for (name, _, _), share in zip(spans, shares, strict=True)
    )
    highest = sorted(zip(shares, spans, strict=True), key=lambda pair: -pair[0])[:NAMED_TOKENS]
    names = ", ".join(f"{_quoted(name)} {percent(share)}" for share, (name, _, _) in highest)
    heads = _heads_in_words(layer, head)
    return Tokens(marks, summary=f"{heads}: attention of the last token: {names}")


def _heads_in_words(layer: int, head: int) -> str:
    if not layer:
        return "mean of all layers and heads"
    return f"layer {layer}, head {head}" if head else f"layer {layer}, mean of its heads"


def _layer_and_head(text: str, n_layer: int, n_head: int) -> tuple[int, int]:
    """Layer and head, counted from 1, of a text such as `2.3`; 0 is the mean of all of them.

    SettingError if there is no such head.
    """
    match = re.fullmatch(r"([0-9]{1,6})(?:\.([0-9]{1,6}))?", text) if text else None
    layer, head = (int(match[1]), int(match[2] or 0)) if match else (0, 0)
    if text and not (match and 1 <= layer <= n_layer and (match[2] is None or 1 <= head <= n_head)):
        raise SettingError(
            f"attn takes LAYER.HEAD, layers 1 to {n_layer} and heads 1 to {n_head}, got {text!r}",
            fix="/attn 1.2: second head of the first layer; /attn 1: mean of its heads; "
            "/attn: mean of all",
        )
    return layer, head


def _head_names(session: Session, text: str) -> list[str]:
    config = session.sampler.model.config
    return [
        f"{layer}.{head}"
        for layer in range(1, config.n_layer + 1)
        for head in range(1, config.n_head + 1)
    ]


# ---------------------------------------------------------------- three temperatures


def _compare(session: Session, text: str) -> Shown:
    """Replies with one seed at three temperatures. Ctrl-C ends them early."""
    seed = random_seed() if session.params.seed is None else session.params.seed
    params = replace(session.params, seed=seed, num_beams=1)
    settings = [
        replace(params, temperature=temperature) for temperature in temperatures(params.temperature)
    ]
    batch = ReplyBatch(session.sampler, session.ids_before_reply(text), settings)
    suffix = ""
    try:
        for _ in batch:
            pass
    except KeyboardInterrupt:
        suffix = ", interrupted"
    n_tokens = max(len(reply.new_ids) for reply in batch.replies)
    return Columns(
        tuple(f"temperature {params.temperature:g}" for params in settings),
        tuple(reply.text for reply in batch.replies),
        f"{n_tokens} tokens, seed {seed}{suffix}",
    )


def temperatures(current: float) -> Sequence[float]:
    """The current temperature and two others within the allowed range, in ascending order."""
    highest = SamplingParams.setting("temperature").maximum or current
    if current < 0.1:
        return current, 0.5, 1.0
    if current * 1.5 > highest:
        return round(current / 4, 2), round(current / 2, 2), current
    return round(current / 2, 2), current, round(current * 1.5, 2)


# ---------------------------------------------------------------- copied passages


def _source(session: Session, text: str) -> Shown:
    """Passages of the last reply that are copied from the training text, and their places."""
    _require_turn(session)
    trained = load_training_texts(session.run_path, session.notice)
    turn = session.turns[-1]
    found = find_passages(turn.reply, trained.texts, turn.prompt)
    share = f"{found.share:.0%}" if found.passages else "nothing"
    summary = (
        f"{share} of the reply is copied word for word from the training text, "
        f"in passages of at least {PASSAGE_CHARACTERS} characters"
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


def _require_turn(session: Session) -> None:
    if not session.turns:
        raise SettingError("there is no turn yet", fix="type the beginning of a text first")


def _quoted(text: str) -> str:
    """A token in quotes, so that spaces and line ends are visible."""
    return repr(text).replace("\\\\", "\\")


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


INSPECTION_COMMANDS = (
    Command(
        "probs", "[on|off]",
        "shade each token of a reply by its probability; without on or off: shade the last reply",
        _probs, values=("on", "off"),
    ),
    Command(
        "next", "[text]",
        "show the most likely next tokens, before and after the sampling settings", _next,
        takes_prompt=True,
    ),
    Command(
        "tokenize", "[text]", "show the tokens of a text and their ids", _tokenize
    ),
    Command(
        "attn", "[layer.head]",
        "show the attention of the last token; without a head: the mean of all", _attn,
        complete=_head_names,
    ),
    Command(
        "source", "", "show what the last reply copies word for word from the training text",
        _source,
    ),
    Command(
        "compare", "[text]", "show replies with one seed at three temperatures", _compare,
        takes_prompt=True,
    ),
)  # fmt: skip
