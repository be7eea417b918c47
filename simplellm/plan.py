"""How many steps fit a budget, in what number format, compiled or not.

Measured once, then fixed and recorded, so that a run can be resumed exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from simplellm import device as devices
from simplellm.checkpoint import seconds_to_save
from simplellm.config import TrainConfig
from simplellm.distributed import from_main
from simplellm.errors import SettingError
from simplellm.optim import warmup_steps
from simplellm.trainer import Trainer

BUDGET_MARGIN = 0.96  # steps are planned for this share of a budget: speed drifts
LATE_RATIO = 1.05  # a run that would take so many times its share of the budget is shortened
UNFORESEEING = ("wsd", "constant", "noam")  # schedules whose first half is the same however many steps follow
EVALUATIONS_PER_RUN = 20
EVALUATION_TIME_SHARE = 0.05  # evaluating may take this share of the steps' time
SAVE_TIME_SHARE = 0.025  # and saving this one: 3% are promised, and some saves take longer than others
TIMED_STEPS, WARM_UP_STEPS = 5, 2
TIMING_SHARE = 0.05  # of the budget: a slow or busy machine times fewer steps of each way (guess)
COMPILE_FROM_SECONDS = {"cuda": 120.0, "cpu": 300.0}  # of training, where compiling is tried: it takes up to a minute
LEAST_COMPILE_GAIN = 1.02  # the time to compile is spent either way, but a run that is resumed spends it again (guess)
Make = Callable[[TrainConfig, str], Trainer]


@dataclass(frozen=True)
class Way:
    """A way to take a step, and the seconds it takes."""

    precision: str
    is_compiled: bool
    seconds: float
    save_seconds: float = 0.0  # of a checkpoint, where it decides how often one is saved


def plan(trainer: Trainer, make: Make, seconds_spent: float, notice: Callable[[str], None]) -> Trainer:
    """The trainer with its steps fixed: from a few timed steps and what the config says of steps, epochs and time.

    `make(config, precision)` builds a trainer anew; `seconds_spent` of the budget are gone already.
    """
    config, started_at = trainer.config, time.perf_counter()
    way = _fastest_precision(trainer, make)
    seconds_left = from_main((config.budget or math.inf) * BUDGET_MARGIN - seconds_spent, trainer.world, trainer.device)
    way = _compiled(trainer, make, way, seconds_left, notice) or way
    evaluation_seconds = _median_seconds(lambda: trainer.evaluate(config.eval_tokens), times=1)
    preview_seconds = _median_seconds(trainer.sample, times=1)
    seconds_left -= time.perf_counter() - started_at
    seconds_left -= _final_seconds(trainer, evaluation_seconds)
    steps_that_fit = seconds_left * (1 - EVALUATION_TIME_SHARE) / way.seconds
    steps_that_fit = from_main(steps_that_fit, trainer.world, trainer.device)  # what is refused is refused by all
    if steps_that_fit < 1:
        needed = math.ceil((config.budget or 0) + (2 * way.seconds + evaluation_seconds - seconds_left) / BUDGET_MARGIN) + 1
        raise SettingError(
            f"a budget of {config.budget:g}s is too short here for one step and one evaluation",
            fix=f"--budget {needed}s or more",
        )
    max_steps = max(int(min(config.max_steps or math.inf, _steps_of_epochs(trainer), steps_that_fit)), 1)
    eval_interval = config.eval_interval or _eval_interval(max_steps, way, evaluation_seconds + preview_seconds)
    shared = [int(from_main(value, trainer.world, trainer.device)) for value in (max_steps, eval_interval, way.is_compiled)]
    fixed = replace(
        config, max_steps=shared[0], eval_interval=shared[1], precision=way.precision, compile="on" if shared[2] else "off"
    )
    planned = make(replace(fixed, warmup_steps=warmup_steps(fixed)), way.precision)
    if way.is_compiled:
        planned.model.compile_training()  # it worked on the trainer that was timed
    return planned


def shortened(trainer: Trainer) -> TrainConfig | None:
    """The config with fewer steps, where those that are left take longer than the budget has; None where they do not.

    Asked after an evaluation, it answers while a third to a half of the steps are done: enough to go by, and in the
    first half nothing depends on how many steps follow (where the schedule does not: elsewhere the answer is None).
    So at least twice the steps done are kept, and the run is the one that would have been, had it been planned so.
    """
    config, step = trainer.config, trainer.step
    planned = config.max_steps or 0
    if config.budget is None or config.schedule not in UNFORESEEING or not planned / 3 <= step <= planned / 2:
        return None
    seconds_left = config.budget * BUDGET_MARGIN - trainer.clock.seconds - _final_seconds(trainer, trainer.evaluation_seconds)
    steps_left = from_main(seconds_left / trainer.clock.seconds_per_step(step), trainer.world, trainer.device)
    if (planned - step) < LATE_RATIO * steps_left:
        return None
    return replace(config, max_steps=max(step + int(steps_left), 2 * step))


def _steps_of_epochs(trainer: Trainer) -> float:
    if trainer.config.max_epochs is None:
        return math.inf
    windows_per_step = trainer.tokens_per_step // trainer.dataset.block_size
    return math.ceil(trainer.config.max_epochs * trainer.dataset.windows_per_epoch / windows_per_step)


def _final_seconds(trainer: Trainer, evaluation_seconds: float) -> float:
    """What scoring the best checkpoint at the end will take."""
    tokens, eval_tokens = trainer.final_tokens, trainer.config.eval_tokens
    return evaluation_seconds * tokens / eval_tokens if tokens > eval_tokens else 0.0


def _eval_interval(max_steps: int, way: Way, evaluation_seconds: float) -> int:
    """Steps between evaluations: about 20 in a run, fewer where they, or their saves, would take more than their share."""
    shares = ((EVALUATION_TIME_SHARE, evaluation_seconds), (SAVE_TIME_SHARE, way.save_seconds))
    most = min(share * max_steps * way.seconds / max(seconds, 1e-3) for share, seconds in shares)
    return max(math.ceil(max_steps / max(min(EVALUATIONS_PER_RUN, most), 1)), 1)


def _fastest_precision(trainer: Trainer, make: Make) -> Way:
    """On a CPU that multiplies bf16 in hardware both formats are timed; elsewhere the choice is made already."""
    candidates = [trainer.precision]
    if trainer.config.precision == "auto" and devices.has_fast_bf16(trainer.device):
        candidates.append("bf16")
    ways = [_timed(_scratch(trainer, make, precision), precision) for precision in candidates]
    fastest = min(range(len(ways)), key=lambda i: ways[i].seconds)
    way = ways[int(from_main(fastest, trainer.world, trainer.device))]
    return replace(way, seconds=from_main(way.seconds, trainer.world, trainer.device))


def _compiled(trainer: Trainer, make: Make, eager: Way, seconds_left: float, notice: Callable[[str], None]) -> Way | None:
    """The compiled way where it is asked for, or where a long run repays what compiling takes; None elsewhere."""
    wish, worth_it_from = trainer.config.compile, COMPILE_FROM_SECONDS.get(trainer.device.type)
    steps = min(trainer.config.max_steps or math.inf, _steps_of_epochs(trainer))
    planned_seconds = min(seconds_left, steps * eager.seconds)
    if wish == "off" or (wish == "auto" and (worth_it_from is None or planned_seconds < worth_it_from)):
        return None
    started_at = time.perf_counter()
    scratch = _scratch(trainer, make, eager.precision)
    if not compile_or_say(scratch, notice):
        return None
    seconds = time.perf_counter() - started_at
    compiled = replace(_timed(scratch, eager.precision), is_compiled=True)
    gain = eager.seconds / compiled.seconds
    is_used = wish == "on" or gain > LEAST_COMPILE_GAIN
    notice(f"compiled in {seconds:.0f} s, {gain:.2f} times as fast: {'used' if is_used else 'not used'}")
    return compiled if is_used else None


def compile_or_say(trainer: Trainer, notice: Callable[[str], None]) -> bool:
    """Compile the trainer's steps, and try it on one whose gradients are thrown away; False where it fails, and why is said."""
    notice("compiling the training step: up to a minute, where it was not compiled before")
    try:
        trainer.model.compile_training()
        trainer.own_gradients()
    except Exception as error:  # whatever a compiler, or the lack of one, may raise
        trainer.model.compile_training(False)
        notice(why_not_compiled(error))
        return False
    finally:
        trainer.optimizer.zero_grad()
    return True


def why_not_compiled(error: Exception) -> str:
    return f"torch.compile does not work here ({type(error).__name__}); going on without"


def _scratch(trainer: Trainer, make: Make, precision: str) -> Trainer:
    """A trainer to time steps with and throw away."""
    return make(replace(trainer.config, max_steps=trainer.config.max_steps or 1_000_000), precision)


def _timed(trainer: Trainer, precision: str) -> Way:
    def step() -> None:
        trainer.train_step()
        devices.synchronize(trainer.device)

    most_seconds = TIMING_SHARE * (trainer.config.budget or math.inf)
    seconds = _median_seconds(step, TIMED_STEPS, WARM_UP_STEPS, most_seconds)
    is_wanted = trainer.config.eval_interval is None and trainer.world.is_main
    return Way(precision, False, seconds, _seconds_to_save(trainer) if is_wanted else 0.0)


def _seconds_to_save(trainer: Trainer) -> float:
    with trainer.average.in_place():
        return seconds_to_save(trainer.run.path.parent, trainer.model, trainer.prepared.tokenizer, trainer.state())


def _median_seconds(function: Callable[[], object], times: int, warm_up: int = 0, most_seconds: float = math.inf) -> float:
    """Of `times` calls, after `warm_up` others; of fewer where all take over `most_seconds`, but of one at least."""
    seconds: list[float] = []
    while len(seconds) < warm_up + times and (len(seconds) < 2 or sum(seconds) < most_seconds):
        started_at = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started_at)
    timed = sorted(seconds[min(warm_up, len(seconds) - 1) :])
    return timed[len(timed) // 2]
