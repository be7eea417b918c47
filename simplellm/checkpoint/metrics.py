"""What is measured, and where measurements go."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from simplellm.model.transformer import SimpleLLM
from simplellm.storage.files import replace_file

TOKENS_PER_EVALUATION_BATCH = 8192


@dataclass(frozen=True)
class Evaluation:
    """A text scored by a model. Every token counts once, each with at least half a block before it."""

    tokens: int
    bytes: int  # UTF-8 bytes of the text that was scored
    loss: float  # nats per token
    accuracy: float  # share of tokens that were the most likely one

    @classmethod
    def of(cls, nats: np.ndarray, hits: np.ndarray, n_bytes: int) -> Evaluation:
        """From the nats of each token and whether it was the most likely one."""
        return cls(len(nats), n_bytes, float(nats.mean()), float(hits.mean()))

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))  # e^700 is the last a float can hold

    @property
    def bits_per_byte(self) -> float:
        """Comparable between vocabularies: total nats / ln 2 / bytes."""
        return self.loss * self.tokens / math.log(2) / self.bytes

    def to_mapping(self) -> dict[str, float]:
        return {
            "tokens": self.tokens,
            "bytes": self.bytes,
            "loss": self.loss,
            "perplexity": self.perplexity,
            "accuracy": self.accuracy,
            "bits_per_byte": self.bits_per_byte,
        }


def evaluate(model: SimpleLLM, ids: np.ndarray, n_bytes: int) -> Evaluation:
    """Score `ids[1:]`, the text; `ids[0]` (END_OF_TEXT) stands before it. Dropout off, float32.

    A window of T tokens moves on by T / 2, and scores only tokens that no window before it has scored.
    """
    nats, hits = token_scores(model, ids)
    return Evaluation.of(nats, hits, n_bytes)


@torch.no_grad()
def token_scores(model: SimpleLLM, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each of `ids[1:]`: its nats (float64), and whether it was the most likely token."""
    was_training = model.training
    model.eval()
    T, n_scored = model.config.block_size, len(ids) - 1
    device = model.token_embedding.weight.device
    nats, hits = np.empty(n_scored), np.empty(n_scored, dtype=bool)
    starts = window_starts(n_scored, T)
    per_batch = max(TOKENS_PER_EVALUATION_BATCH // T, 1)
    for i in range(0, len(starts), per_batch):
        rows = starts[i : i + per_batch]
        length = min(T, n_scored)
        block = torch.from_numpy(
            np.stack([ids[s : s + length + 1] for s in rows]).astype(np.int64)
        ).to(device)
        logits = model(block[:, :-1]).float()  # (B, T, V)
        losses = F.cross_entropy(
            logits.flatten(0, 1), block[:, 1:].flatten(), reduction="none"
        ).view(len(rows), length)
        right = logits.argmax(-1) == block[:, 1:]
        on_host = (
            torch.stack([losses, right.float()]).cpu().numpy()
        )  # (2, B, T): one copy; float64 exists on every host
        done = rows[0] + _first_new(starts, i, length)
        for row, start in enumerate(rows):
            nats[done : start + length] = on_host[0, row, done - start :]
            hits[done : start + length] = on_host[1, row, done - start :]
            done = start + length
    model.train(was_training)
    return nats, hits


def window_starts(n_scored: int, block_size: int) -> list[int]:
    """Where the windows of an evaluation begin; the last one is moved back to end with the text."""
    if n_scored <= block_size:
        return [0]
    last = n_scored - block_size
    return [*range(0, last, max(block_size // 2, 1)), last]


def _first_new(starts: Sequence[int], i: int, length: int) -> int:
    """How many tokens of window `i` the window before it has scored."""
    return 0 if i == 0 else starts[i - 1] + length - starts[i]


class Sink(Protocol):
    """Takes what a training run reports: records with "kind" (step, evaluation, ...) and figures."""

    def write(self, record: dict[str, Any]) -> None: ...


class Sinks:
    """Several sinks as one; none at all is the sink that keeps nothing."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def write(self, record: dict[str, Any]) -> None:
        for sink in self._sinks:
            sink.write(record)


class JsonlSink:
    """A line of JSON for each record, flushed at once.

    What cannot be written is told to `notice` once, and left out: a log is not worth a training.
    """

    def __init__(self, path: Path, notice: Callable[[str], None] = lambda text: None) -> None:
        self._path, self._notice = path, notice
        self._has_failed = False

    def write(self, record: dict[str, Any]) -> None:
        line_end = "\n" if self._has_failed else ""  # the line before may be there in part
        try:
            with open(self._path, "a", encoding="utf-8", newline="\n") as file:
                file.write(line_end + json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            if not self._has_failed:
                self._notice(f"cannot write {self._path}: {error.strerror}; going on without")
            self._has_failed = True
        else:
            self._has_failed = False


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a log.jsonl; a line cut off by a kill or by a full disk is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record


def cut_log(path: Path, step: int) -> None:
    """Drop the records after `step`, which a resumed run will write again."""
    kept = [record for record in read_log(path) if not _is_after(record, step)]
    replace_file(
        path, b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in kept)
    )


def _is_after(record: dict[str, Any], step: int) -> bool:
    return isinstance(record.get("step"), int) and record["step"] > step
