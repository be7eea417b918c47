"""Numbers of heads and widths that fit together, for the settings that a user did not give."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from simplellm.config.architectures import ARCHITECTURES
from simplellm.config.model import ModelConfig
from simplellm.config.setting import ExplicitSettings


def fitted_shape(values: Mapping[str, Any], given: ExplicitSettings) -> dict[str, int]:
    """`n_head` and `n_embd` of `values`, changed so that they fit what was given.

    n_kv_head divides n_head, and the dimensions of a head are even, as rotary positions need. What
    was given stays; without a fitting choice the values do not fit, and ModelConfig says so.
    """
    n_embd, n_head = int(values["n_embd"]), int(values["n_head"])
    n_kv_head = int(values.get("n_kv_head") or 1)
    default = ModelConfig.setting("architecture").default
    is_rotary = ARCHITECTURES[values.get("architecture", default)].has_rotary_positions
    if "n_head" not in given:
        n_head = n_kv_head * math.ceil(n_head / n_kv_head)
        if "n_embd" in given:
            n_head = _most_heads(n_embd, n_head, n_kv_head)
    if "n_embd" not in given and n_embd % (2 * n_head if is_rotary else n_head):
        n_embd = 2 * n_head * math.ceil(n_embd / (2 * n_head))
    return {"n_head": n_head, "n_embd": n_embd}


def _most_heads(n_embd: int, n_head: int, n_kv_head: int) -> int:
    """The largest multiple of `n_kv_head` up to `n_head` with heads of an even size."""
    choices = range(n_head, 0, -n_kv_head)
    return next((heads for heads in choices if n_embd % (2 * heads) == 0), n_kv_head)
