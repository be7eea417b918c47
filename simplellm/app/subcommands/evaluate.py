"""The command `evaluate`: score a text with a trained model."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import replace

import torch

from simplellm.app.console import standard_input, write_json
from simplellm.app.options import EvaluateOptions
from simplellm.app.subcommands.evaluate_conversations import evaluate_conversations, figure_rows
from simplellm.app.subcommands.shared import (
    checkpoint_of,
    device_of,
    load_sampler,
    read_options,
    screen_of,
    text_format,
)
from simplellm.data.corpus import read_corpus
from simplellm.data.encoded_text import encoded
from simplellm.device import fast_float32
from simplellm.evaluation.advice import is_too_short, too_short_to_score
from simplellm.model import scoring
from simplellm.model.scoring import Evaluation
from simplellm.training.conversation_sources import sort_files

PROGRESS_SECONDS = 0.5  # from one update to the next
PROGRESS_WIDTH = 50


def evaluate(options: EvaluateOptions) -> int:
    screen = screen_of(options)
    format = replace(text_format(options), keeps_duplicates=True)  # every token counts
    reading = read_options(options)
    found = sort_files([options.data], reading, format, standard_input(), screen.notice)
    if found.conversations:
        return evaluate_conversations(options, screen, found, _Progress)
    corpus = read_corpus([options.data], format, found.stdin, screen.notice)
    folder = checkpoint_of(options, screen)
    is_shown = not options.json and sys.stderr is not None and sys.stderr.isatty()

    def score(device: torch.device) -> Evaluation:
        sampler = load_sampler(folder, device, options)
        read = _Progress("encoded", is_shown)
        with encoded(corpus, sampler.tokenizer, read) as ids, fast_float32(device):
            scored = _Progress("scored", is_shown)
            scored.announce(f"scoring {len(ids):,} tokens")
            bos_ids = sampler.tokenizer.bos_ids
            return scoring.evaluate(sampler.model, ids, corpus.n_bytes, scored, bos_ids)

    evaluation = device_of(options, screen).run(score)
    if options.json:
        write_json(evaluation.to_mapping())
    else:
        screen.table(("", "", ""), figure_rows(evaluation.to_mapping()))
    n_copies = len(corpus.fingerprint) - len({*corpus.fingerprint.values()})
    if n_copies:
        files = "1 file is a copy" if n_copies == 1 else f"{n_copies} files are copies"
        screen.notice(f"{files} of another one; every file is scored, as with --val-data")
    if is_too_short(evaluation.tokens):
        size = evaluation.tokens, evaluation.bytes
        screen.notice(too_short_to_score(*size, "this text", "score a longer one"))
    return 0


class _Progress:
    """A line on the terminal: the share that is done, and an estimate of the time that is left."""

    def __init__(self, what: str, is_shown: bool) -> None:
        self._what = what
        self._is_shown = is_shown
        self._has_written = False
        self._started_at = time.monotonic()
        self._shown_at = self._started_at

    def announce(self, text: str) -> None:
        """Show a first line: a large model takes long until the first share of the text is done."""
        if self._is_shown:
            self._has_written = True
            self._write(text)

    def __call__(self, done: float) -> None:
        now = time.monotonic()
        if done >= 1 and self._has_written:
            self._write("")
        if not self._is_shown or now - self._shown_at < PROGRESS_SECONDS or done >= 1:
            return
        self._has_written = True
        self._shown_at = now
        left = (now - self._started_at) * (1 - done) / max(done, 1e-9)
        self._write(f"{self._what} {done:.0%}, about {left:,.0f} s left")

    def _write(self, text: str) -> None:
        # Spaces, not an escape sequence: they erase the line on every terminal.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"\r{text:<{PROGRESS_WIDTH}}\r")
            sys.stderr.flush()
