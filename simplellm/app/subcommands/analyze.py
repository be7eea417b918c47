"""The command `analyze`: the most likely next tokens of a prompt."""

from __future__ import annotations

from simplellm.app.commands.helpers import end_of
from simplellm.app.commands.inspection import next_token_bars
from simplellm.app.console import write_json
from simplellm.app.options import AnalyzeOptions
from simplellm.app.pictures.draw import save
from simplellm.app.subcommands.shared import (
    checkpoint_of,
    device_of,
    load_sampler,
    read_prompt,
    screen_of,
)
from simplellm.config.sampling import SamplingParams
from simplellm.evaluation.analyze import Candidate, about_bytes, candidates
from simplellm.evaluation.picture.save import check_picture_path

HEADERS = ("token", "text", "probability", "after the settings")


def analyze(options: AnalyzeOptions) -> int:
    if options.save is not None:
        check_picture_path(options.save)
    params = SamplingParams(**options.sampling)
    screen = screen_of(options)
    folder = checkpoint_of(options, screen)
    sampler = device_of(options, screen).run(lambda device: load_sampler(folder, device, options))
    prompt = read_prompt(options.prompt, screen)
    ids = sampler.encode(prompt)
    found = candidates(sampler, ids, params, options.top)
    if options.json:
        write_json({"candidates": [candidate.to_mapping() for candidate in found]})
    else:
        screen.table(HEADERS, [_row(candidate) for candidate in found])
        if note := about_bytes(candidate.text for candidate in found):
            screen.notice(note)
    if options.save is not None:
        save(next_token_bars(found, sampler.tokenizer, params, end_of(prompt)), options.save)
        screen.notice(f"saved a picture in {options.save}")
    return 0


def _row(candidate: Candidate) -> tuple[str, ...]:
    sampled = f"{candidate.sampling_probability:.4f}" if candidate.kept else "-"
    return (str(candidate.token), repr(candidate.text), f"{candidate.probability:.4f}", sampled)
