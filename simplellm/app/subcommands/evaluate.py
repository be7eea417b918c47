"""The command `evaluate`: score a text with a trained model."""

from __future__ import annotations

import torch

from simplellm.app.console import standard_input, write_json
from simplellm.app.options import EvaluateOptions
from simplellm.app.subcommands.shared import checkpoint_of, device_of, load_sampler, screen_of
from simplellm.data.corpus import read_corpus
from simplellm.data.dataset import encode_document
from simplellm.device import fast_float32
from simplellm.model import scoring
from simplellm.model.scoring import Evaluation


def evaluate(options: EvaluateOptions) -> int:
    screen = screen_of(options)
    text = read_corpus([options.data], options.encoding, standard_input()).text()
    folder = checkpoint_of(options, screen)

    def score(device: torch.device) -> Evaluation:
        sampler = load_sampler(folder, device, options)
        ids = encode_document(sampler.tokenizer, text)
        with fast_float32(device):
            return scoring.evaluate(sampler.model, ids, len(text.encode("utf-8", "replace")))

    evaluation = device_of(options, screen).run(score)
    if options.json:
        write_json(evaluation.to_mapping())
    else:
        figures = evaluation.to_mapping().items()
        screen.table(
            ("", ""), [(name.replace("_", " "), f"{value:.6g}") for name, value in figures]
        )
    return 0
