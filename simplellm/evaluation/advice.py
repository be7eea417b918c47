"""What the figures of a run mean in plain words, what to try next, and which are worth nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from simplellm.config.model import ModelConfig
from simplellm.config.recipe import usual_epochs
from simplellm.config.setting import flag_of
from simplellm.config.training import TrainConfig
from simplellm.data.copies import not_held_out
from simplellm.evaluation.curves import LossCurves, overfitting_since

# The loss of one token has a standard deviation of about 2.5 nats (measured: The Verdict, 40
# steps), so the mean over 100 tokens is uncertain by 0.25 nats, and that over 3 tokens by 1.4.
FEWEST_TOKENS = 100
USUAL_STEPS_AT_MOST = 500  # of a text that a minute does not read once (guess)
FEW_STEPS_SHARE = 0.2  # of the usual steps, below which the steps are few (guess)
LEARNED_SHARE = 0.95  # of the tokens of training replies, from which most are given word for word
LOWER_IS_BETTER = "lower is better"
MEANINGS = {
    "tokens": "scored",
    "bytes": "UTF-8 bytes of the text",
    "loss": f"nats per token; {LOWER_IS_BETTER}",
    "perplexity": f"exp(loss); {LOWER_IS_BETTER}",
    "accuracy": "share of tokens that were the first choice, 0 to 1; higher is better",
    "bits_per_byte": f"compares any two models on the same text; {LOWER_IS_BETTER}",
    "replies": "in the conversations",
    "exact_match": "share of replies that greedy decoding gives word for word; higher is better",
    "exact_match_any": "the same, where any reply of these data to the same turns counts",
}
REGULARIZATION = (  # settings that raise the training loss above that of the same weights in use
    "dropout", "r_drop", "bpe_dropout", "renaming", "token_noise", "label_smoothing",
)  # fmt: skip


@dataclass(frozen=True)
class Course:
    """How a training went.

    usual_steps: of a training on this text. regularization: names of the settings in use.
    ended_early: it ran out of patience. passes: over the text, if their number ended it; None if
    not. usual_passes: after which more steps overfit.
    """

    steps: int
    usual_steps: int
    curves: LossCurves = field(default_factory=LossCurves)
    regularization: Sequence[str] = ()
    ended_early: bool = False
    passes: float | None = None
    usual_passes: float = 0.0

    @property
    def has_few_steps(self) -> bool:
        return not self.ended_early and self.steps < FEW_STEPS_SHARE * self.usual_steps


def is_too_short(n_tokens: int | None) -> bool:
    """Whether a text with so many scored tokens is too short for a figure; None is unknown."""
    return n_tokens is not None and n_tokens < FEWEST_TOKENS


def missing_figure(n_tokens: int | None, copied_share: float | None) -> str:
    """Why a run has no figure of its validation text, in a few words; empty if it has one.

    copied_share: of the validation text, what is also in the training text; None is unknown.
    """
    if is_too_short(n_tokens):
        return "too short"
    return "not held out" if not_held_out(copied_share or 0.0) else ""


def too_short_to_score(n_tokens: int, n_bytes: int, what: str, fix: str) -> str:
    return (
        f"{what} has only {_count(n_tokens, 'token')} ({_count(n_bytes, 'byte')}): too short for "
        f"a figure, which needs {FEWEST_TOKENS} tokens; {fix}"
    )


def short_validation(n_tokens: int, n_bytes: int) -> str:
    """What to say of a validation text that is too short; empty if it is long enough."""
    if not is_too_short(n_tokens):
        return ""
    fix = "use more text, --val-data FILE, or a larger --val-fraction"
    return too_short_to_score(n_tokens, n_bytes, "the held-out validation text", fix)


def usual_steps(
    train_bytes: int,
    train_tokens: int,
    tokens_per_step: float,
    is_warm: bool = False,
    is_chat: bool = False,
) -> int:
    """Optimizer updates of a usual training on data of this size, see `recipe.usual_epochs`."""
    epochs = usual_epochs(train_bytes, is_warm, is_chat)
    steps = epochs * train_tokens / max(tokens_per_step, 1)
    return max(round(min(steps, USUAL_STEPS_AT_MOST)), 1)


def regularization_of(model: ModelConfig, training: TrainConfig) -> list[str]:
    """The regularization that is switched on, by setting name."""
    settings = {**model.to_mapping(), **training.to_mapping()}
    return [name for name in REGULARIZATION if settings[name]]


def advice(course: Course) -> list[str]:
    """Warnings, what to try next, and why the training loss is where it is, one line each."""
    lines = [_few_steps(course), _next_step(course), _losses(course)]
    return [line for line in lines if line]


def _few_steps(course: Course) -> str:
    if not course.has_few_steps:
        return ""
    return (
        f"warning: {_count(course.steps, 'step')} are few for this text, "
        f"{course.usual_steps:,} are usual; use a longer --budget or more --max-steps"
    )


def _next_step(course: Course) -> str:
    validation = course.curves.validation
    if course.curves.accuracies:
        return _next_of_conversations(course, *course.curves.accuracies)
    since = overfitting_since(course.curves)
    if since is not None:
        return (
            f"what to try next: more text, because the validation loss has been rising since "
            f"step {since:,} (overfitting)"
        )
    best = course.curves.best
    is_falling = bool(best and validation and best[0] == validation[-1][0])
    if is_falling and not course.ended_early:
        return _more_steps(course)
    return "what to try next: more text, because the validation loss no longer fell"


def _more_steps(course: Course) -> str:
    """What to try where the validation loss was still falling at the end."""
    if course.passes is None:
        means = "more time (a longer --budget)"
    elif course.passes < course.usual_passes:
        means = "a higher --max-epochs"
    else:
        return (
            f"what to try next: more text, because after {course.passes:.3g} passes over this one "
            "more steps usually overfit"
        )
    return f"what to try next: {means}, because the validation loss was still falling"


def _next_of_conversations(course: Course, held_out: float, trained: float) -> str:
    """held_out, trained: share of the tokens of replies that were the first choice."""
    known = f"it knows {trained:.0%} of the tokens of its training replies"
    if trained < LEARNED_SHARE:
        means = "more time (a longer --budget)" if course.passes is None else "more --max-epochs"
        return f"what to try next: {means}: {known}"
    return (
        f"what to try next: more conversations: {known}, and {held_out:.0%} of those of replies "
        "that are held out"
    )


def _losses(course: Course) -> str:
    """Training loss against validation loss at the end."""
    train, validation = course.curves.train, course.curves.validation
    if not train or not validation:
        return ""
    ours, other = train[-1][1], validation[-1][1]
    figures = f"({ours:.3f} against {other:.3f})"
    if ours <= other:
        return (
            f"the training loss is below the validation loss {figures}: usual, the model has "
            "seen the training text before"
        )
    if not course.regularization:
        return (
            f"the training loss is above the validation loss {figures}: usual in a short training"
        )
    flags = ", ".join(map(flag_of, course.regularization))
    return (
        f"the training loss is above the validation loss {figures}: usual with regularization "
        f"({flags})"
    )


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
