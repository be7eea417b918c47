"""Scoring on the validation text, of which evaluations during training read the first part."""

from __future__ import annotations

import numpy as np
import torch

from simplellm import device as devices
from simplellm.data.prepared_corpus import Prepared
from simplellm.model.scoring import Evaluation, evaluate, is_scored, token_scores
from simplellm.model.transformer import SimpleLLM

MAX_FINAL_TOKENS = 200_000  # takes a few seconds on 2 cores


class Validation:
    """The validation text of a run.

    eval_tokens: scored at each evaluation during training.
    """

    def __init__(self, prepared: Prepared, device: torch.device, eval_tokens: int) -> None:
        self._prepared = prepared
        self._unscored = prepared.tokenizer.bos_ids
        self._device = device
        self.eval_tokens = eval_tokens

    @property
    def n_tokens(self) -> int:
        """Tokens that can be scored: all but the first."""
        return len(self._prepared.val_ids) - 1

    @property
    def final_tokens(self) -> int:
        """Tokens on which the best checkpoint is scored at the end."""
        return min(self.n_tokens, max(MAX_FINAL_TOKENS, self.eval_tokens))

    def score(self, model: SimpleLLM, max_tokens: int | None = None) -> Evaluation:
        """Score the text, or its first `max_tokens`, with the weights that the model holds."""
        ids, n_bytes = self._text(max_tokens)
        with devices.fast_float32(self._device):
            return evaluate(model, ids, n_bytes, unscored=self._unscored)

    def score_final(self, model: SimpleLLM) -> tuple[Evaluation, Evaluation]:
        """In one pass, the scores on the first `eval_tokens` and on `final_tokens`."""
        ids, final_bytes = self._text(self.final_tokens)
        with devices.fast_float32(self._device):
            nats, hits = token_scores(model, ids, self._unscored)
        first, first_bytes = self._text(self.eval_tokens)
        n = int(is_scored(first[1:], self._unscored).sum())
        return (
            Evaluation.of(nats[:n], hits[:n], first_bytes),
            Evaluation.of(nats, hits, final_bytes),
        )

    def _text(self, max_tokens: int | None) -> tuple[np.ndarray, int]:
        """The ids of the text, or of its first tokens, and the bytes of the text they encode."""
        ids = self._prepared.val_ids
        if max_tokens is None or self.n_tokens <= max_tokens:
            return ids, self._prepared.val_bytes
        ids = ids[: max_tokens + 1]
        tokenizer = self._prepared.tokenizer
        return ids, sum(len(tokenizer.token_bytes(int(token))) for token in ids[1:])
