"""Learning-rate schedules, and the decisions of a run about when it ends.

A schedule is a function of progress, the share of the run that is done (0 to 1). Progress is a
function of the step and of the decisions made so far, so that a resumed run repeats the rates bit
for bit. A run with a fixed number of steps has one decision. A run with a time budget makes more
during training (see budget.py). Nothing in the constant part of a schedule depends on how many
steps follow, so there each decision recomputes the progress.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from simplellm.config.training import TrainConfig

WARMUP_SHARE = 0.02  # of the steps, where warmup_steps is not given (guess)
# Last share of the steps, in which wsd decays (measured; MiniCPM 2024 has 10-20% of longer runs).
WSD_DECAY_SHARE = 0.4
# Share of the progress in which a schedule does not depend on the end of the run; else 0.
CONSTANT_SHARE = {"wsd": 1.0 - WSD_DECAY_SHARE, "constant": 1.0, "noam": 1.0}


@dataclass(frozen=True)
class Decision:
    """From `step` on the run ends after `max_steps`, and is evaluated every `eval_interval`."""

    step: int
    max_steps: int
    eval_interval: int

    def to_mapping(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Decision:
        """The inverse of `to_mapping`; ValueError or KeyError for anything else."""
        decision = cls(*(int(values[name]) for name in ("step", "max_steps", "eval_interval")))
        is_ordered = 0 <= decision.step <= decision.max_steps
        if not is_ordered or decision.eval_interval < 1 or decision.max_steps < 1:
            raise ValueError(f"{decision} is not a decision")
        return decision


def progress(
    step: float, decisions: Sequence[Decision], constant_share: float = 0.0, first_step: int = 0
) -> float:
    """Share of the run that is done before `step`: 0 at `first_step`, 1 at the decided end.

    Progress is linear from each decision to its end. A decision made while progress is below
    `constant_share` recomputes it, as if the run had been planned that way from its start.
    """
    begin, share, end = first_step, 0.0, decisions[0].max_steps
    for decision in decisions[1:]:
        if decision.step > step:
            break
        share = _line(decision.step, begin, share, end)
        if share < constant_share:
            share = min(_line(decision.step, first_step, 0.0, decision.max_steps), constant_share)
        begin, end = max(decision.step, first_step), decision.max_steps
    return _line(step, begin, share, end)


def _line(step: float, begin: int, share: float, end: int) -> float:
    """Linear interpolation from `share` at `begin` to 1 at `end`."""
    done = min(max(step - begin, 0) / max(end - begin, 1), 1.0)
    return share + (1.0 - share) * done


def warmup_steps(config: TrainConfig) -> int:
    """Steps over which the rate rises: those of the config, or a share of all steps."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    return round(WARMUP_SHARE * (config.max_steps or 1))


def rate_factor(
    step: int, decisions: Sequence[Decision], warmup_steps: int, schedule: str, minimum: float = 0.0
) -> float:
    """Share of the peak rate at `step` (0 is the first).

    All schedules first rise linearly over `warmup_steps`. constant and noam do not depend on the
    end of the run, wsd only in its last part; the curves of linear and cosine change at each new
    decision, without a jump.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "noam":  # Vaswani et al. 2017, section 5.3, relative to its peak
        return math.sqrt(max(warmup_steps, 1) / max(step, 1))
    done = progress(step, decisions, CONSTANT_SHARE.get(schedule, 0.0), warmup_steps)
    falls = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        "wsd": min(1.0, (1.0 - done) / WSD_DECAY_SHARE),
    }
    return minimum + (1.0 - minimum) * falls[schedule]
