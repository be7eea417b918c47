"""Notes of a conversation about its context and about the seed of a reply."""

from __future__ import annotations

from simplellm.config.sampling import SamplingParams

SAME_REPLY = "this reply is the same again: temperature 0 and beam search are not random"


def about_seed(params: SamplingParams, set_seed: int | None) -> str:
    """The note of /regen, whose settings are `params`; `set_seed` is that of the next prompt."""
    if params.temperature == 0 or params.num_beams > 1:
        return SAME_REPLY
    note = f"new reply with seed {params.seed}"
    return note if set_seed is None else f"{note}; the next prompt uses seed {set_seed} again"


def about_left_out(n: int, n_part: int) -> str:
    """n: turns that are left out. n_part: tokens kept of the newest of them."""
    part = f", except for the last {n_part} tokens of the newest one" if n_part else ""
    if n == 1:
        return f"1 earlier turn does not fit the context and was left out{part}"
    return f"{n} earlier turns do not fit the context and were left out{part}"
