"""The command `evaluate`: score a text with a trained model."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from simplellm.app.console import standard_input, write_json
from simplellm.app.options import EvaluateOptions
from simplellm.app.subcommands.shared import (
    checkpoint_of,
    device_of,
    load_sampler,
    screen_of,
    text_format,
)
from simplellm.data.corpus import read_corpus
from simplellm.data.prepared_corpus import encoded
from simplellm.device import fast_float32
from simplellm.errors import Notice
from simplellm.evaluation.advice import MEANINGS, is_too_short, too_short_to_score
from simplellm.model import scoring
from simplellm.model.scoring import Evaluation, Progress

PROGRESS_SECONDS = 5.0  # from one notice to the next


def evaluate(options: EvaluateOptions) -> int:
    screen = screen_of(options)
    format = replace(text_format(options), keeps_duplicates=True)  # every token counts
    corpus = read_corpus([options.data], format, standard_input(), screen.notice)
    folder = checkpoint_of(options, screen)

    def score(device: torch.device) -> Evaluation:
        sampler = load_sampler(folder, device, options)
        with encoded(corpus, sampler.tokenizer) as ids, fast_float32(device):
            progress = _progress(screen.notice)
            return scoring.evaluate(sampler.model, ids, corpus.n_bytes, progress)

    evaluation = device_of(options, screen).run(score)
    if options.json:
        write_json(evaluation.to_mapping())
    else:
        screen.table(("", "", ""), _rows(evaluation))
    if is_too_short(evaluation.tokens):
        size = evaluation.tokens, evaluation.bytes
        screen.notice(too_short_to_score(*size, "this text", "score a longer one"))
    return 0


def _rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each figure."""
    return [
        (name.replace("_", " "), f"{value:.6g}", MEANINGS[name])
        for name, value in evaluation.to_mapping().items()
    ]


def _progress(notice: Notice) -> Progress:
    """Shows the share that is done, in intervals, with an estimate of the time that is left."""
    started_at = reported_at = time.monotonic()

    def progress(done: float) -> None:
        nonlocal reported_at
        now = time.monotonic()
        if now - reported_at >= PROGRESS_SECONDS and done < 1:
            reported_at = now
            left = (now - started_at) * (1 - done) / done
            notice(f"scored {done:.0%}, about {left:.0f} s left")

    return progress
