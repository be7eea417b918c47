"""Scoring on the validation data, of which evaluations during training read the first part."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from simplellm import device as devices
from simplellm.data.prepared_corpus import Prepared
from simplellm.data.prepared_marks import PreparedMarks
from simplellm.model.reply_scoring import evaluate_replies, reply_scores
from simplellm.model.scoring import Evaluation, evaluate, is_scored, token_scores
from simplellm.model.transformer import SimpleLLM

MAX_FINAL_TOKENS = 200_000  # takes a few seconds on 2 cores
TRAIN_REPLY_TOKENS = 1_000  # of training replies, the same at each evaluation


class Scorer(Protocol):
    """The validation data of a run. eval_tokens: scored at each evaluation during training."""

    eval_tokens: int

    @property
    def n_tokens(self) -> int:
        """Tokens that can be scored."""

    @property
    def final_tokens(self) -> int:
        """Tokens on which the best checkpoint is scored at the end."""

    def score(self, model: SimpleLLM, max_tokens: int | None = None) -> Evaluation:
        """Score all, or the first `max_tokens`, with the weights that the model holds."""

    def score_final(self, model: SimpleLLM) -> tuple[Evaluation, Evaluation]:
        """The scores on the first `eval_tokens` and on `final_tokens`."""


def validation_of(prepared: Prepared, device: torch.device, eval_tokens: int) -> Scorer:
    if prepared.marks is None:
        return Validation(prepared, device, eval_tokens)
    return ReplyValidation(prepared, prepared.marks, device, eval_tokens)


class Validation:
    """A validation text. See `Scorer`."""

    def __init__(self, prepared: Prepared, device: torch.device, eval_tokens: int) -> None:
        self._prepared = prepared
        self._unscored = prepared.tokenizer.bos_ids
        self._device = device
        self.eval_tokens = eval_tokens

    @property
    def n_tokens(self) -> int:
        """All tokens but the first."""
        return len(self._prepared.val_ids) - 1

    @property
    def final_tokens(self) -> int:
        return min(self.n_tokens, max(MAX_FINAL_TOKENS, self.eval_tokens))

    def score(self, model: SimpleLLM, max_tokens: int | None = None) -> Evaluation:
        ids, n_bytes = self._text(max_tokens)
        with devices.fast_float32(self._device):
            return evaluate(model, ids, n_bytes, unscored=self._unscored)

    def score_final(self, model: SimpleLLM) -> tuple[Evaluation, Evaluation]:
        """Both in one pass."""
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


class ReplyValidation:
    """Held-out conversations, of which the replies count. See `Scorer`.

    Tokens are those of replies; the last conversation that is scored is scored to its end. The text
    of mixed data is scored too, and reported beside the replies. So is the accuracy on a sample of
    the training replies, on which the best checkpoint depends (see checkpoint/pointers.py).
    """

    def __init__(
        self, prepared: Prepared, marks: PreparedMarks, device: torch.device, eval_tokens: int
    ) -> None:
        self._conversations = marks.val
        self._train_sample = marks.train_chats.sample(TRAIN_REPLY_TOKENS)
        self._tokenizer = prepared.tokenizer
        self._device = device
        self._text: Validation | None = None
        if marks.n_val_text > 1:
            ids = prepared.val_ids[: marks.n_val_text]
            text = replace(prepared, val_ids=ids, val_bytes=marks.val_text_bytes)
            self._text = Validation(text, device, eval_tokens)
        self.eval_tokens = eval_tokens
        self.n_tokens = marks.val.n_learned
        self.final_tokens = min(self.n_tokens, max(MAX_FINAL_TOKENS, eval_tokens))

    def score(self, model: SimpleLLM, max_tokens: int | None = None) -> Evaluation:
        conversations = self._conversations
        if max_tokens is not None and max_tokens < self.n_tokens:
            conversations = conversations.first(max_tokens)
        text = self._text.score(model, max_tokens) if self._text else None
        with devices.fast_float32(self._device):
            replies = evaluate_replies(model, conversations, self._tokenizer)
            _, hits = reply_scores(model, self._train_sample)
        return replace(replies, text=text, train_accuracy=float(hits.sum() / max(len(hits), 1)))

    def score_final(self, model: SimpleLLM) -> tuple[Evaluation, Evaluation]:
        if self.final_tokens <= self.eval_tokens:
            both = self.score(model, self.final_tokens)
            return both, both
        return self.score(model, self.eval_tokens), self.score(model, self.final_tokens)
