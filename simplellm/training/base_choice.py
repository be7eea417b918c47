"""Whether a training starts from the base model in the package: scored on a sample of its text."""

from __future__ import annotations

import bz2
import math
from typing import NamedTuple

from simplellm.base.packaged import base_folder, is_present
from simplellm.config.conversations import seconds_from_base
from simplellm.config.fine_tuning import contradiction, pays_to_start_warm
from simplellm.config.setting import ExplicitSettings
from simplellm.config.training import TrainConfig
from simplellm.data.prepared_corpus import train_characters
from simplellm.errors import CheckpointError
from simplellm.training.context import TrainingContext
from simplellm.training.distributed import from_main
from simplellm.training.sources import Corpora
from simplellm.training.trained_base import TrainedBase

# The sample: passages at equal distances in the first part of the training text. Scoring it takes
# 0.4 s of processor time (measured).
PASSAGES, PASSAGE_CHARACTERS = 6, 1000
READ_CHARACTERS = 4_000_000
COMPRESSED_BYTES = 800_000  # one block of bz2; takes 0.1 s
RANDOM_WEIGHTS = "starting from random weights"


class Choice(NamedTuple):
    """base: None for random weights. line: what was chosen and why; empty without a base model."""

    base: TrainedBase | None = None
    line: str = ""


def choose_start(
    corpora: Corpora,
    config: TrainConfig,
    given: ExplicitSettings,
    context: TrainingContext,
    speed: float = 1.0,
) -> Choice:
    """The base model where starting from it pays, with a notice; the same choice on all ranks.

    config: of a new model. given: settings of the user. speed: see `recipe`.
    """
    if not is_present():
        return Choice()
    if line := _no_time_for_replies(corpora, config, speed):
        choice = Choice(None, line)
    else:
        text = _sample(corpora, None if corpora.validation else config.val_fraction)
        choice = _choice(text, corpora.n_bytes, given, context)
    context.notice(choice.line)
    return choice


def _no_time_for_replies(corpora: Corpora, config: TrainConfig, speed: float) -> str:
    """Why conversations are not learned from the base, which is larger than a new model."""
    if corpora.conversations is None or config.budget is None:
        return ""
    needed = seconds_from_base(corpora.n_bytes, speed)
    if config.budget >= needed:
        return ""
    return (
        f"{RANDOM_WEIGHTS}, not the base model: it needs about {math.ceil(needed / 10) * 10} s to "
        "learn these replies; for the base, a longer --budget or --from base"
    )


def _choice(
    text: str,
    n_bytes: int,
    given: ExplicitSettings,
    context: TrainingContext,
) -> Choice:
    """text: the beginning of the training data. n_bytes: of all data."""
    try:
        base = TrainedBase.open(base_folder())
    except CheckpointError as error:
        return Choice(None, f"{RANDOM_WEIGHTS}, because the base model is unusable: {error}")
    if setting := contradiction(base.model.config, given):
        return Choice(None, f"{RANDOM_WEIGHTS}: {setting}")
    own = base.bits_per_byte_of(_passages(text))
    bits = from_main(own, context.world, context.device)
    compressed = compressed_bits(text)
    scores = f"{bits:.2f} bits/byte on a sample of this text, bz2 {compressed:.2f}"
    if pays_to_start_warm(bits, compressed, n_bytes):
        return Choice(
            base, f"starting from the base model: {scores}; for random weights, --from none"
        )
    return Choice(
        None, f"{RANDOM_WEIGHTS}, not the base model: {scores}; for the base, --from base"
    )


def _sample(corpora: Corpora, val_fraction: float | None) -> str:
    """The beginning of the training text, and what is said in the training conversations."""
    corpus, conversations = corpora.train, corpora.conversations
    n_train = train_characters(corpus.n_characters, val_fraction)
    text = corpus.text(0, min(n_train, READ_CHARACTERS))
    train = conversations.split.train if conversations else ()
    chats = "\n\n".join("\n".join(turn.text for turn in one.turns) for one in train)
    return (text + chats)[:READ_CHARACTERS]


def _passages(text: str) -> list[str]:
    """Passages at equal distances."""
    distance = max(len(text) // PASSAGES, PASSAGE_CHARACTERS)
    starts = range(0, len(text), distance)[:PASSAGES]
    return [text[start : start + PASSAGE_CHARACTERS] for start in starts]


def compressed_bits(text: str) -> float:
    """Bits per byte that the last tenth of a text adds to its size, compressed by bz2."""
    data = text.encode("utf-8", "replace")[:COMPRESSED_BYTES]
    known = data[: len(data) * 9 // 10]
    added = len(bz2.compress(data)) - len(bz2.compress(known))
    return 8 * added / max(len(data) - len(known), 1)
