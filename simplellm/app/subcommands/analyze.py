"""The command `analyze`: the most likely next tokens of a prompt."""

from __future__ import annotations

from simplellm.app.console import write_json
from simplellm.app.options import AnalyzeOptions
from simplellm.app.subcommands.shared import (
    checkpoint_of,
    device_of,
    load_sampler,
    read_prompt,
    screen_of,
)
from simplellm.config.sampling import SamplingParams
from simplellm.evaluation.analyze import Candidate, candidates

HEADERS = ("token", "text", "probability", "after the settings")


def analyze(options: AnalyzeOptions) -> int:
    params = SamplingParams(**options.sampling)
    screen = screen_of(options)
    folder = checkpoint_of(options, screen)
    sampler = device_of(options, screen).run(lambda device: load_sampler(folder, device, options))
    ids = sampler.encode(read_prompt(options.prompt, screen))
    found = candidates(sampler, ids, params, options.top)
    if options.json:
        write_json({"candidates": [candidate.to_mapping() for candidate in found]})
    else:
        screen.table(HEADERS, [_row(candidate) for candidate in found])
    return 0


def _row(candidate: Candidate) -> tuple[str, ...]:
    sampled = f"{candidate.sampling_probability:.4f}" if candidate.kept else "-"
    return (str(candidate.token), repr(candidate.text), f"{candidate.probability:.4f}", sampled)
