"""Whether a training starts from the base model in the package: scored on a sample of its text."""

from __future__ import annotations

from typing import NamedTuple

from simplellm.base.packaged import base_folder, is_present
from simplellm.config.fine_tuning import contradiction, pays_to_start_warm
from simplellm.config.setting import ExplicitSettings
from simplellm.config.training import TrainConfig
from simplellm.data.corpus import Corpus
from simplellm.data.prepared_corpus import train_characters
from simplellm.errors import CheckpointError
from simplellm.training.context import TrainingContext
from simplellm.training.distributed import from_main
from simplellm.training.sources import Corpora
from simplellm.training.trained_base import TrainedBase

# The sample: passages at equal distances in the first part of the training text. Scoring it takes
# 0.2 s (measured, 2 cores).
PASSAGES, PASSAGE_CHARACTERS = 8, 1500
SAMPLED_CHARACTERS = 4_000_000
RANDOM_WEIGHTS = "starting from random weights"


class Choice(NamedTuple):
    """base: None for random weights. line: what was chosen and why; empty without a base model."""

    base: TrainedBase | None = None
    line: str = ""


def choose_start(
    corpora: Corpora,
    config: TrainConfig,
    given: ExplicitSettings,
    speed: float,
    context: TrainingContext,
) -> Choice:
    """The base model where starting from it pays, with a notice; the same choice on all ranks.

    config: of a new model. given: settings of the user. speed: of the machine, see `config.recipe`.
    """
    if not is_present():
        return Choice()
    fraction = None if corpora.validation else config.val_fraction
    choice = _choice(corpora.train, fraction, given, speed, context)
    context.notice(choice.line)
    return choice


def _choice(
    corpus: Corpus,
    val_fraction: float | None,
    given: ExplicitSettings,
    speed: float,
    context: TrainingContext,
) -> Choice:
    try:
        base = TrainedBase.open(base_folder())
    except CheckpointError as error:
        return Choice(None, f"{RANDOM_WEIGHTS}, because the base model is unusable: {error}")
    if setting := contradiction(base.model.config, given):
        return Choice(None, f"{RANDOM_WEIGHTS}: {setting}")
    own = base.bits_per_byte_of(_sample(corpus, val_fraction))
    bits = from_main(own, context.world, context.device)
    reads = f"it reads a sample of this text at {bits:.2f} bits/byte"
    if pays_to_start_warm(bits, corpus.n_bytes, given, speed):
        return Choice(base, f"starting from the base model: {reads}; --from none does not")
    return Choice(None, f"{RANDOM_WEIGHTS}, not the base model: {reads}; --from base does")


def _sample(corpus: Corpus, val_fraction: float | None) -> list[str]:
    """Passages of the training text, without any of the validation text."""
    end = min(train_characters(corpus.n_characters, val_fraction), SAMPLED_CHARACTERS)
    text = corpus.text(0, end)
    distance = max(end // PASSAGES, PASSAGE_CHARACTERS)
    return [text[start : start + PASSAGE_CHARACTERS] for start in range(0, end, distance)]
