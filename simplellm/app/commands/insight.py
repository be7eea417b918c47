"""The commands that show what the model thinks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from simplellm.app.commands.command import Command, Lines, Shown
from simplellm.app.session import Session
from simplellm.app.shades import Bar, Bars, Columns, Mark, Tokens, marks_of, percent, summary_of
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import show
from simplellm.data.corpus import STDIN_NAME
from simplellm.errors import SettingError
from simplellm.evaluation.analyze import attention, candidates, character_spans, token_text
from simplellm.evaluation.passages import PASSAGE_CHARACTERS, find_passages
from simplellm.evaluation.training_text import Location, load_training_texts
from simplellm.inference.batch import ReplyBatch
from simplellm.inference.reply import random_seed

TOP = 10  # candidates
MOST_PASSAGE_CHARACTERS = 400  # shown of one
MOST_TOKENS = 2000  # shown of a text
BOUNDARY_LEVELS = (
    0.2,
    0.6,
    0.95,
)  # three, so that neighbours differ where a token is seen twice in a row
LOOKED_AT_MOST = 3  # tokens named under the shades
LEAST_LOOK = 0.01  # that gets a number


def _probs(session: Session, text: str) -> Shown:
    if text:
        session.set_probabilities(text)
        return _legend() if session.shows_probabilities else Lines("replies are plain text")
    pieces = session.turns[-1].thoughts if session.turns else ()
    if not pieces:
        return (
            _legend()
            if session.shows_probabilities
            else Lines("probs off: /probs on shades each token of a reply")
        )
    return Tokens(marks_of(pieces), summary=summary_of(pieces))


def _legend() -> Tokens:
    marks = tuple(Mark(f" {level / 4:.0%} ", level / 4) for level in range(5))
    return Tokens(
        marks,
        summary="each token of a reply in the colour of its probability, or with the number behind it",
    )


def _next(session: Session, text: str) -> Shown:
    """What may come next, before and after the settings."""
    tokenizer, params = session.sampler.tokenizer, session.params
    found = candidates(session.sampler, session.here(text), params, TOP)
    rows = tuple(
        Bar(
            _name(token_text(tokenizer, one.token)),
            one.probability,
            one.sampling_probability if one.kept else None,
        )
        for one in found
    )
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    return Bars(rows, summary=", ".join(f"{name} {show(getattr(params, name))}" for name in names))


def _tokenize(session: Session, text: str) -> Shown:
    tokenizer = session.sampler.tokenizer
    if not text:
        return Lines("/tokenize TEXT shows the tokens of a text, and their ids")
    ids = tokenizer.encode(text)
    marks = tuple(
        Mark(
            token_text(tokenizer, token), BOUNDARY_LEVELS[number % len(BOUNDARY_LEVELS)], str(token)
        )
        for number, token in enumerate(ids[:MOST_TOKENS])
    )
    n_bytes = sum(len(tokenizer.token_bytes(token)) for token in ids)
    more = f"; the first {MOST_TOKENS:,} are shown" if len(ids) > MOST_TOKENS else ""
    summary = f"{_count(len(ids), 'token')}, {_count(n_bytes, 'byte')}, {n_bytes / len(ids):.2f} bytes/token{more}"
    return Tokens(marks, always_labels=True, summary=summary)


# ---------------------------------------------------------------- attention


def _attn(session: Session, text: str) -> Shown:
    """How much the last token looked at each before it."""
    sampler, config = session.sampler, session.sampler.model.config
    layer, head = _place(text, config.n_layer, config.n_head)
    if not session.turns:
        raise SettingError("nothing has been said yet", fix="type the beginning of a text first")
    ids = sampler.truncate(session.here())
    looks = attention(sampler.model, ids)  # (L, H, T)
    looks = looks[layer - 1 : layer] if layer else looks
    looks = looks[:, head - 1 : head] if head else looks
    weights = looks.mean((0, 1)).tolist()
    units = list(character_spans(sampler.tokenizer, ids))
    shares = [sum(weights[first:last]) for _, first, last in units]
    marks = tuple(
        Mark(name, (share / max(shares)) ** 0.5, f"{share:.0%}" if share >= LEAST_LOOK else "")
        for (name, _, _), share in zip(units, shares, strict=True)
    )
    most = sorted(zip(shares, units, strict=True), key=lambda pair: -pair[0])[:LOOKED_AT_MOST]
    told = ", ".join(f"{_name(name)} {percent(share)}" for share, (name, _, _) in most)
    where = (
        f"layer {layer}" + (f", head {head}" if head else ", all heads")
        if layer
        else "all layers and heads"
    )
    return Tokens(marks, summary=f"{where}: the last token looked most at {told}")


def _place(text: str, n_layer: int, n_head: int) -> tuple[int, int]:
    """Layer and head, counted from 1, of `2.3`; 0 is all of them. SettingError where there is no such head."""
    match = re.fullmatch(r"([0-9]{1,6})(?:\.([0-9]{1,6}))?", text) if text else None
    layer, head = (int(match[1]), int(match[2] or 0)) if match else (0, 0)
    if text and not (match and 1 <= layer <= n_layer and (match[2] is None or 1 <= head <= n_head)):
        raise SettingError(
            f"attn takes layer.head, layers 1 to {n_layer} and heads 1 to {n_head}, got {text!r}",
            fix="/attn 1.2 is the second head of the first layer, /attn 1 the mean of its heads, /attn of all",
        )
    return layer, head


def _heads(session: Session, text: str) -> list[str]:
    config = session.sampler.model.config
    return [
        f"{layer}.{head}"
        for layer in range(1, config.n_layer + 1)
        for head in range(1, config.n_head + 1)
    ]


# ---------------------------------------------------------------- three temperatures


def _compare(session: Session, text: str) -> Shown:
    """Replies with one seed at three temperatures. Ctrl-C ends them; what was said stays."""
    seed = random_seed() if session.params.seed is None else session.params.seed
    params = replace(session.params, seed=seed, num_beams=1)
    settings = [
        replace(params, temperature=temperature) for temperature in temperatures(params.temperature)
    ]
    batch = ReplyBatch(session.sampler, session.here(text), settings)
    try:
        for _ in batch:
            pass
    except KeyboardInterrupt:
        stopped = ", interrupted"
    else:
        stopped = ""
    headers = tuple(_said_at(params) for params in settings)
    n_tokens = max(len(reply.new_ids) for reply in batch.replies)
    return Columns(
        headers,
        tuple(reply.text for reply in batch.replies),
        f"{n_tokens} tokens, seed {seed}{stopped}",
    )


def _said_at(params: SamplingParams) -> str:
    return f"temperature {params.temperature:g}"


def temperatures(now: float) -> Sequence[float]:
    """The one that is set, and two others within what is allowed: colder and warmer where there is room."""
    highest = SamplingParams.setting("temperature").maximum or now
    if now < 0.1:
        return now, 0.5, 1.0
    if now * 1.5 > highest:
        return round(now / 4, 2), round(now / 2, 2), now
    return round(now / 2, 2), now, round(now * 1.5, 2)


# ---------------------------------------------------------------- copied passages


def _source(session: Session, text: str) -> Shown:
    """What of the last reply the model has by heart, and from where."""
    if not session.turns:
        raise SettingError("nothing has been said yet", fix="type the beginning of a text first")
    trained = load_training_texts(session.run_path, session.notice)
    turn = session.turns[-1]
    found = find_passages(turn.reply, trained.texts, turn.prompt)
    share, least = f"{found.share:.0%}" if found.passages else "nothing", PASSAGE_CHARACTERS
    said = f"{share} of the reply stands word for word in the training text, in passages of {least} characters or more"
    lines = [
        f"{_where(passage.location)}: {'...' * passage.began_before}{_cut(passage.text)}"
        for passage in found.passages
    ]
    missing = [f"not looked at: {what}" for what in trained.missing]
    return Lines("\n".join([said + ":" * bool(lines), *lines, *missing]))


def _where(location: Location | None) -> str:
    """FILE:LINE, the file as seen from here."""
    if location is None:
        return "somewhere"
    path, here = location.path, Path.cwd()
    if path == STDIN_NAME:
        path = "standard input"
    elif Path(path).is_relative_to(here):
        path = str(Path(path).relative_to(here))
    return f"{path}:{location.line}" + (f" ({location.state})" if location.state else "")


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_PASSAGE_CHARACTERS else line[:MOST_PASSAGE_CHARACTERS] + "..."


def _name(text: str) -> str:
    """A token as it is named in a line: its spaces and line ends can be seen."""
    return repr(text).replace("\\\\", "\\")


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


INSIGHT_COMMANDS: tuple[Command, ...] = (
    Command("probs", "[on|off]", "shade each token of a reply by its probability; alone: the last reply so", _probs,
            values=("on", "off")),
    Command("next", "[text]", "what may come after a text, or after what was said, before and after the settings", _next),
    Command("tokenize", "[text]", "the tokens of a text, with their ids", _tokenize),
    Command("attn", "[layer.head]", "what the last token looked at; alone: the mean of all layers and heads", _attn,
            complete=_heads),
    Command("source", "", "what of the last reply stands word for word in the training text, and where", _source),
    Command("compare", "[text]", "replies with one seed at three temperatures", _compare),
)  # fmt: skip
