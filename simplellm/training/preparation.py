"""Preparation of a run: its folder, its data and a trainer with planned steps."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from simplellm.checkpoint.generation import NOTHING_STATED, Generation
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import JsonlSink, Sinks
from simplellm.config.conversations import ConversationLengths, refuse_without_effect
from simplellm.config.model import ModelConfig
from simplellm.config.recipe import choose
from simplellm.config.setting import ExplicitSettings
from simplellm.config.training import TrainConfig
from simplellm.data.prepared_conversations import ChatData, prepare_conversations
from simplellm.data.prepared_corpus import PREPARED_FOLDER, Prepared, prepare, text_split
from simplellm.data.tokenizer import Tokenizer
from simplellm.device import (
    choose_precision,
    has_fast_bf16,
    relative_speed,
    reuse_freed_memory,
)
from simplellm.errors import CheckpointError, SimpleLLMError
from simplellm.storage.files import remove_leftovers
from simplellm.storage.lock import FolderLock
from simplellm.training.base_choice import Choice, choose_start
from simplellm.training.chat_setup import chat_generation, template_for
from simplellm.training.context import Output, Runtime, TrainingContext
from simplellm.training.distributed import any_of, from_main, wait_for_all
from simplellm.training.initial_model import Weights, initial_model
from simplellm.training.known_text import without_known_figures
from simplellm.training.plan import plan
from simplellm.training.repetition import Repetition
from simplellm.training.run_info import RunInfo, start_facts, text_facts
from simplellm.training.saver import Saver
from simplellm.training.sources import Corpora, Sources
from simplellm.training.trained_base import TrainedBase
from simplellm.training.trainer import Trainer
from simplellm.training.training_data import TrainingData


@dataclass(frozen=True)
class Attempt:
    """What `start` adds to a preparation.

    started_at: time.perf_counter() at which the budget began; by default now. speed: of the
    machine, by default measured. repetition: the recorded run that is trained again.
    may_choose_base: whether the base model of the package is used where that pays.
    """

    lock: FolderLock | None = None
    started_at: float = dataclasses.field(default_factory=time.perf_counter)
    speed: float | None = None
    repetition: Repetition | None = None
    may_choose_base: bool = False


@dataclass(frozen=True)
class TrainerFactory:
    """Builds trainers of one run, which differ in their config and number format only.

    weights: initial ones by name; by default random.
    """

    model: ModelConfig
    data: TrainingData
    context: TrainingContext
    output: Output
    weights: Weights | None = None

    def __call__(self, config: TrainConfig, precision: str) -> Trainer:
        context = self.context
        runtime = Runtime(context.device, precision, context.world, context.should_stop)
        model = initial_model(self.model, config, context.device, self.weights)
        trainer = Trainer(model, config, self.data, runtime, self.output)
        trainer.is_warm = self.weights is not None
        return trainer


def prepare_run(
    sources: Sources,
    given: ExplicitSettings,
    run: RunFolder,
    context: TrainingContext,
    base_folder: Path | None = None,
    attempt: Attempt | None = None,
) -> tuple[Trainer, RunInfo]:
    """A trainer with planned steps, and the content of run.json. Only prepared ids are written.

    `given` settings override the recipe. `base_folder`: a checkpoint to continue from.
    """
    reuse_freed_memory()
    attempt = attempt or Attempt()
    given = attempt.repetition.settings if attempt.repetition else given
    base = TrainedBase.open(base_folder) if base_folder else None
    _, config = _configs(0, given, base)  # refuses wrong settings before any file is read
    corpora = sources.read(config.val_fraction, context.stdin, context.notice)
    refuse_without_effect(given, corpora.conversations is not None)
    speed = attempt.speed or measured_speed(context)
    is_chosen = attempt.may_choose_base and base is None
    choice = choose_start(corpora, config, given, context, speed) if is_chosen else Choice(base)
    base = choice.base
    corpora = without_known_figures(corpora, base, config.val_fraction, context.notice)
    model_config, config = _configs(corpora.n_bytes, given, base, speed, lengths_of(corpora))
    prepared, stated = _prepared_for(base, corpora, config, model_config, context)
    n_tokens = prepared.tokenizer.vocab_size
    n_rows = max(base.model.config.vocab_size if base else 0, n_tokens)
    model_config = dataclasses.replace(model_config, vocab_size=n_rows)
    origin = base.hub_name_or_path(run, n_tokens) if base else ""
    output = make_output(run, prepared, context, attempt.lock, stated, origin)
    data = TrainingData.of(prepared, config, model_config.block_size)
    config = with_lora_precision(config, context.device)
    weights = base.taken_weights(config, context.device, prepared) if base else None
    factory = TrainerFactory(model_config, data, context, output, weights)
    trainer = _planned(factory, config, attempt)
    facts = {
        **start_facts(trainer, context.command, base.folder if base else None, choice.line),
        **sources.to_mapping(),
        **text_facts(corpora, prepared, config.val_fraction),
        "speed": speed,
    }
    info = RunInfo(sources, given, trainer.model.config, trainer.config, facts)
    return trainer, attempt.repetition.recorded_in(info) if attempt.repetition else info


def _prepared_for(
    base: TrainedBase | None,
    corpora: Corpora,
    config: TrainConfig,
    model: ModelConfig,
    context: TrainingContext,
) -> tuple[Prepared, Generation]:
    """The token ids, and what checkpoints state about generation."""
    stated = base.generation if base else NOTHING_STATED
    tokenizer = base.tokenizer if base else config.tokenizer
    prepared = prepared_corpora(corpora, config, tokenizer, model, context, stated)
    if prepared.marks:
        stated = chat_generation(stated, prepared.tokenizer)
    elif base:
        base.report_different_text(prepared, context.notice)
    return prepared, stated


def _configs(
    train_bytes: int,
    given: ExplicitSettings,
    base: TrainedBase | None,
    speed: float = 1.0,
    lengths: ConversationLengths | None = None,
) -> tuple[ModelConfig, TrainConfig]:
    """By the recipe, for a new model or for `base`. lengths: None for texts only."""
    shape, is_open = (base.model.config, base.is_open) if base else (None, False)
    return choose(train_bytes, given, shape, speed, is_open, lengths)


def _planned(factory: TrainerFactory, config: TrainConfig, attempt: Attempt) -> Trainer:
    """A trainer with planned steps, or with those of the run that is repeated."""
    precision = choose_precision(factory.context.device, config.precision)
    trainer, notice = factory(config, precision), factory.context.notice
    if attempt.repetition and not attempt.repetition.is_replanned:
        return attempt.repetition.restore(trainer, notice)
    return plan(trainer, factory, time.perf_counter() - attempt.started_at, notice)


def with_lora_precision(config: TrainConfig, device: torch.device) -> TrainConfig:
    """`config`; with LoRA and precision auto, bf16 where the hardware multiplies it.

    Then the frozen weights need half the memory, and steps are faster on every such CPU: they are
    not timed in float32, which would need a copy of the weights in float32 too.
    """
    if not config.lora or config.precision != "auto" or not has_fast_bf16(device):
        return config
    return dataclasses.replace(config, precision="bf16")


def measured_speed(context: TrainingContext) -> float:
    """The machine's speed relative to that of the recipe's trials; the same on all ranks."""
    return from_main(relative_speed(context.device), context.world, context.device)


@contextlib.contextmanager
def claimed(run: RunFolder, context: TrainingContext) -> Iterator[FolderLock]:
    """Lock the run folder for this training and remove unfinished files of earlier ones.

    CheckpointError, on all ranks, where another process holds the lock.
    """
    lock = FolderLock(run.path)
    refused: Exception | None = None
    if context.world.is_main:
        try:
            lock.acquire()
        except (SimpleLLMError, OSError) as error:
            refused = error
    if any_of(refused is not None, context.world, context.device):
        raise refused or CheckpointError(f"the main process cannot train {run.name}")
    try:
        if context.world.is_main:
            remove_leftovers(run.path, with_files=True)
            remove_leftovers(context.checkpoints)
            remove_leftovers(context.checkpoints / PREPARED_FOLDER)
        yield lock
    finally:
        lock.release()


def prepared_corpora(
    corpora: Corpora,
    config: TrainConfig,
    tokenizer: str | Tokenizer,
    model: ModelConfig,
    context: TrainingContext,
    generation: Generation = NOTHING_STATED,
) -> Prepared:
    """The token ids of the texts. generation: of the model that the tokenizer belongs to.

    The main rank prepares them first. The others find them on disk, or prepare their own where
    they do not share the disk.
    """
    if not context.world.is_main:
        wait_for_all(context.world)
    folder = context.checkpoints / PREPARED_FOLDER
    if corpora.conversations:
        own = tokenizer if isinstance(tokenizer, Tokenizer) else None
        template, special_tokens = template_for(generation, own)
        chats = chat_data(corpora, config.val_fraction)
        sizes = model.vocab_size, model.block_size
        prepared = prepare_conversations(chats, tokenizer, template, special_tokens, sizes, folder)
    else:
        prepared = prepare(
            corpora.train,
            corpora.validation,
            config.val_fraction,
            tokenizer,
            model.vocab_size,
            folder,
            context.notice,
        )
    if context.world.is_main:
        wait_for_all(context.world)
    return prepared


def chat_data(corpora: Corpora, val_fraction: float) -> ChatData:
    """What is prepared of corpora with conversations."""
    conversations = corpora.conversations
    assert conversations is not None
    has_text = corpora.train.n_characters > 0
    texts = text_split(corpora.train, corpora.validation, val_fraction) if has_text else None
    files = tuple(file.source.name for file in conversations.files)
    return ChatData(conversations.split, files, texts)


def lengths_of(corpora: Corpora) -> ConversationLengths | None:
    """Of the conversations that are trained; None for texts only."""
    return corpora.conversations.lengths if corpora.conversations else None


def make_output(
    run: RunFolder,
    prepared: Prepared,
    context: TrainingContext,
    lock: FolderLock | None,
    generation: Generation | None = None,
    base_name: str = "",
) -> Output:
    """The saver of a run, its sinks and its preview; only the main rank logs and previews."""
    stated = generation or NOTHING_STATED
    saver = Saver(run, context.world, context.device, context.notice, lock, stated, base_name)
    if not context.world.is_main:
        return Output(saver)
    sink = Sinks(JsonlSink(run.log_path, context.notice), context.sink)
    return Output(saver, sink, context.make_preview and context.make_preview(run, prepared))
