"""Notes of a conversation about its context and about the seed of a reply."""

from __future__ import annotations

from simplellm.config.sampling import SamplingParams
from simplellm.errors import SettingError

SAME_REPLY = "this reply is the same again: temperature 0 and beam search are not random"

NO_TEMPLATE = "the model has no chat template: it was not trained on conversations"
CONTEXT_IS_FULL = (
    "the context is full: the oldest turns are left out from now on, the system message stays"
)


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


def no_turn(is_chat: bool) -> SettingError:
    first = "type a message first" if is_chat else "type the beginning of a text first"
    return SettingError("there is no turn yet", fix=first)


def about_long_system(n: int, block_size: int) -> SettingError:
    return SettingError(
        f"the system message has {n} tokens, the whole context {block_size}",
        fix="use one that takes less than half of the context",
    )
