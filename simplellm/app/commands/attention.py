"""The slash command /attn: attention weights as shaded text, or of each token as a matrix."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from simplellm.app.bar_chart import percent
from simplellm.app.commands.command import Command, Shown
from simplellm.app.commands.helpers import quoted, require_turn
from simplellm.app.results import Mark, Matrix, Tokens
from simplellm.app.session import Session
from simplellm.errors import SettingError
from simplellm.evaluation.analyze import (
    about_bytes,
    attention,
    attention_rows,
    character_spans,
    token_text,
)

MATRIX = "matrix"
MOST_MATRIX_TOKENS = 64
NAMED_TOKENS = 3  # below the shaded text
LEAST_LABELLED_SHARE = 0.01  # of the attention
LEGEND_STEPS = 4


def _attn(session: Session, text: str) -> Shown:
    """Attention weights of the last token over all tokens in the context, or of each token."""
    model = session.sampler.model
    words = text.split()
    is_matrix = MATRIX in words
    place = " ".join(word for word in words if word != MATRIX)
    layer, head = _layer_and_head(place, model.config.n_layer, model.config.n_head)
    require_turn(session)
    ids = session.sampler.truncate(session.ids_before_reply())
    return _matrix(session, ids, layer, head) if is_matrix else _last(session, ids, layer, head)


def _last(session: Session, ids: Sequence[int], layer: int, head: int) -> Tokens:
    sampler = session.sampler
    mean = _mean(attention(sampler.model, ids), layer, head).tolist()
    spans = list(character_spans(sampler.tokenizer, ids))
    shares = [sum(mean[first:last]) for _, first, last in spans]
    highest = max(shares)
    marks = tuple(
        Mark(
            name,
            (share / highest) ** 0.5,
            f"{share:.0%}" if share >= LEAST_LABELLED_SHARE else "",
        )
        for (name, _, _), share in zip(spans, shares, strict=True)
    )
    most = sorted(zip(shares, spans, strict=True), key=lambda pair: -pair[0])[:NAMED_TOKENS]
    names = ", ".join(f"{quoted(name)} {percent(share)}" for share, (name, _, _) in most)
    looking = quoted(token_text(sampler.tokenizer, ids[-1]))
    heads = _heads_in_words(layer, head)
    note = about_bytes([looking, *(mark.text for mark in marks)])
    return Tokens(
        marks,
        summary=f"{heads}: the last token, {looking}, looks at {names}" + f"; {note}" * bool(note),
        legend=_legend(highest),
        title=f"Attention of the token {looking}",
    )


def _matrix(session: Session, ids: Sequence[int], layer: int, head: int) -> Matrix:
    sampler = session.sampler
    n = min(len(ids), MOST_MATRIX_TOKENS)
    rows = _mean(attention_rows(sampler.model, ids, n), layer, head)[:, -n:]  # (n, n)
    names = tuple(quoted(token_text(sampler.tokenizer, token)) for token in ids[-n:])
    heads = _heads_in_words(layer, head)
    rest = (
        f"only the last {n} of {len(ids):,} tokens are shown"
        if n < len(ids)
        else "a row adds up to 100%"
    )
    note = about_bytes(names)
    return Matrix(
        names,
        tuple(tuple(row) for row in rows.tolist()),
        summary=f"{heads}: the token of a row looks at those of the columns; {rest}"
        + f"; {note}" * bool(note),
        legend=_legend(1.0),
        title=f"Attention: {heads}",
    )


def _mean(weights: Tensor, layer: int, head: int) -> Tensor:
    """The mean (...) of `weights` (L, H, ...) over the layers and heads that were asked for."""
    weights = weights[layer - 1 : layer] if layer else weights
    weights = weights[:, head - 1 : head] if head else weights
    return weights.mean((0, 1))


def _legend(highest: float) -> tuple[Mark, ...]:
    """Colours for shares up to `highest`; the level is the square root of the share."""
    levels = [step / LEGEND_STEPS for step in range(LEGEND_STEPS + 1)]
    shares = (Mark(f" {level**2 * highest:.1%} ", level) for level in levels)
    return Mark("share of the attention: ", None), *shares


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
            "/attn: mean of all; /attn 1.2 matrix: of each token",
        )
    return layer, head


def _head_names(session: Session, text: str) -> list[str]:
    config = session.sampler.model.config
    heads = [
        f"{layer}.{head}"
        for layer in range(1, config.n_layer + 1)
        for head in range(1, config.n_head + 1)
    ]
    return [MATRIX, *heads]


ATTENTION_COMMANDS = (
    Command(
        "attn", "[layer.head] [matrix]",
        "show the attention of the last token, or of each with matrix; without a head: the mean "
        "of all", _attn, complete=_head_names, draws=True,
    ),
)  # fmt: skip
