"""Scoring of the replies in conversations: each conversation alone, learned tokens only.

Short conversations are packed into rows in which they do not see each other; those that are longer
than a block are scored in overlapping windows, like a text (see scoring.py).

Shapes: B rows, T tokens of a row, N scored tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from simplellm.data.marked_ids import MarkedIds
from simplellm.data.packed_dataset import pack
from simplellm.data.tokenizer import Tokenizer
from simplellm.model.scoring import (
    TOKENS_PER_EVALUATION_BATCH,
    Evaluation,
    Progress,
    row_scores,
    token_scores,
)
from simplellm.model.transformer import SimpleLLM


def evaluate_replies(
    model: SimpleLLM,
    conversations: MarkedIds,
    tokenizer: Tokenizer,
    progress: Progress = lambda done: None,
) -> Evaluation:
    """Score the learned tokens. Bytes are those of the replies; the ends of turns have none."""
    nats, hits = reply_scores(model, conversations, progress)
    return Evaluation.of(nats, hits, conversations.learned_bytes(tokenizer))


@torch.no_grad()
def reply_scores(
    model: SimpleLLM, conversations: MarkedIds, progress: Progress = lambda done: None
) -> tuple[np.ndarray, np.ndarray]:
    """For each learned token, in order: its loss in nats (N) float64, and whether it is likeliest.

    Dropout is off.
    """
    was_training = model.training
    model.eval()
    scores = np.zeros((2, len(conversations.ids)))
    T = model.config.block_size
    n_done = 0
    for batch in _batches(conversations.lengths - 1, T):
        _score_rows(model, conversations, batch, scores)
        n_done += sum(len(row) for row in batch)
        progress(n_done / len(conversations))
    for number in np.flatnonzero(conversations.lengths - 1 > T):
        start, stop = conversations.starts[number : number + 2]
        nats, hits = token_scores(model, conversations.ids[start:stop])
        scores[:, start + 1 : stop] = nats, hits
        n_done += 1
        progress(n_done / len(conversations))
    model.train(was_training)
    nats, hits = scores[:, conversations.is_target]
    return nats, hits.astype(bool)


def _batches(sizes: np.ndarray, T: int) -> Iterator[list[list[int]]]:
    """Rows of conversations that together have at most T inputs, in batches."""
    short = np.flatnonzero((sizes <= T) & (sizes > 0))
    by_size = short[np.argsort(-sizes[short], kind="stable")]
    rows = [[int(by_size[i]) for i in row] for row in pack(sizes[by_size].tolist(), T)]
    n_rows = max(TOKENS_PER_EVALUATION_BATCH // T, 1)
    for first in range(0, len(rows), n_rows):
        yield rows[first : first + n_rows]


def _score_rows(
    model: SimpleLLM, conversations: MarkedIds, rows: Sequence[Sequence[int]], scores: np.ndarray
) -> None:
    """Set the scores (2, ids) of the learned tokens of the conversations in `rows`."""
    starts, sizes = conversations.starts, conversations.lengths - 1
    T = max(int(sizes[list(row)].sum()) for row in rows)
    source = np.full((len(rows), T), -1, np.int64)  # which of all ids an input is; -1 is padding
    documents = np.full((len(rows), T), max(map(len, rows)), np.int64)
    for place, row in enumerate(rows):
        end = 0
        for document, number in enumerate(row):
            part = slice(end, end + int(sizes[number]))
            source[place, part] = np.arange(starts[number], starts[number] + sizes[number])
            documents[place, part] = document
            end = part.stop
    device = model.token_embedding.weight.device
    inputs = np.where(source >= 0, conversations.ids[source], 0).astype(np.int64)
    hidden = model.hidden(
        torch.from_numpy(inputs).to(device), documents=torch.from_numpy(documents).to(device)
    ).flatten(0, 1)  # (B T, C)
    is_scored = (source >= 0) & conversations.is_target[source + 1]
    targets = source[is_scored] + 1  # which of all ids
    if not len(targets):
        return
    wanted = torch.from_numpy(conversations.ids[targets].astype(np.int64)).to(device)
    chosen = torch.from_numpy(np.flatnonzero(is_scored)).to(device)
    scores[:, targets] = row_scores(model, hidden[chosen], wanted)
