"""Resume of a run from its newest verified checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from simplellm.checkpoint.frozen_base import read_frozen_base
from simplellm.checkpoint.generation import Generation
from simplellm.checkpoint.pointers import mend_pointers
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import cut_log, read_log
from simplellm.checkpoint.step_folder import open_model
from simplellm.checkpoint.training_state import load_training_state
from simplellm.config.setting import ExplicitSettings
from simplellm.config.training import TrainConfig
from simplellm.data.tokenizer import Tokenizer
from simplellm.device import reuse_freed_memory
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.lock import FolderLock
from simplellm.training import resume_changes as changes
from simplellm.training.budget import RecordedDecisions, recorded_decisions, train_within_budget
from simplellm.training.clock import Heartbeat
from simplellm.training.context import TrainingContext
from simplellm.training.distributed import wait_for_all
from simplellm.training.initial_model import frozen_weights
from simplellm.training.plan import try_to_compile
from simplellm.training.preparation import (
    TrainerFactory,
    claimed,
    make_output,
    prepared_corpora,
)
from simplellm.training.result import Result
from simplellm.training.resume_limits import NewLimits, refuse_without_effect
from simplellm.training.resume_sources import NamedSources
from simplellm.training.run_differences import of_environment
from simplellm.training.run_info import (
    RunInfo,
    environment_facts,
    text_facts,
    trained_tokens,
)
from simplellm.training.schedule import warmup_steps
from simplellm.training.sources import Corpora
from simplellm.training.step_limits import Limits
from simplellm.training.trainer import Trainer
from simplellm.training.training_data import TrainingData

HIGHER_RATE = 1.5  # times the rate before, from which a rise is reported (guess)


@dataclass(frozen=True)
class _Request:
    """What the user asked for, beside the run."""

    given: ExplicitSettings
    named: NamedSources
    accept_changes: bool


@dataclass(frozen=True)
class _Checkpoint:
    """The checkpoint to continue from."""

    folder: Path
    model: SimpleLLM
    tokenizer: Tokenizer
    generation: Generation


def resume(
    run: RunFolder,
    given: ExplicitSettings,
    context: TrainingContext,
    texts: tuple[str, ...] = (),
    accept_changes: bool = False,
    named: NamedSources | None = None,
) -> Result:
    """Continue a run from its newest whole checkpoint, exactly as if it had not stopped.

    `given`, and `texts` or all of `named`, may repeat what the run was started with; SettingError
    where they differ.
    CheckpointError where its text, its tokenizer or its model changed. With `accept_changes` it
    continues nevertheless, and run.json records the changes.
    """
    run.read_info()  # refuses a folder that is no run before it is locked
    request = _Request(given, named or NamedSources(texts), accept_changes)
    with claimed(run, context) as lock, Heartbeat() as heartbeat:
        reuse_freed_memory()
        trainer, info, recorded = _restore(run, request, context, lock)
        max_steps = trainer.config.max_steps
        context.notice(f"resuming {run.name} after step {trainer.step} of {max_steps}")
        if trainer.step == max_steps:
            context.notice("this run is finished; --max-steps or --budget trains it longer")
        _report_higher_rate(trainer, context)
        if context.world.is_main:
            cut_log(run.log_path, trainer.step)
            run.write_info(info.to_mapping())
        wait_for_all(context.world)
        trainer.clock.leave_out(heartbeat.suspended)
        limits = Limits.of(trainer, info.given)
        return train_within_budget(trainer, limits, recorded=recorded.after(trainer.step))


def _restore(
    run: RunFolder, request: _Request, context: TrainingContext, lock: FolderLock
) -> tuple[Trainer, RunInfo, RecordedDecisions]:
    """A trainer in the state of the checkpoint, and the content of run.json from now on."""
    info = RunInfo.read(run)
    sources = request.named.sources(run.name, info)
    config, changed = changes.with_settings(info, request.given, request.accept_changes)
    limits = NewLimits.of(info, request.given)
    config = limits.applied(config)
    checkpoint = _newest_checkpoint(run, context)
    corpora = sources.read(config.val_fraction, context.stdin, context.notice)
    if sources != info.sources:
        request.named.check_content(run.name, info, corpora)
    model_changes = changes.of_model(info.model, checkpoint.model.config)
    changed += changes.of_world(info, context.world.size)
    changed += changes.of_texts(info, corpora)
    changed += changes.of_tokenizer(info, checkpoint.tokenizer)
    changed += model_changes
    changes.refuse(changed, request.accept_changes)
    model_config = info.model
    if model_changes:
        model_config = dataclasses.replace(checkpoint.model.config, dropout=model_config.dropout)
    info = dataclasses.replace(info, model=model_config)
    trainer, recorded = _trainer_at(checkpoint, run, info, config, corpora, context, lock, limits)
    refuse_without_effect(trainer, info, request.given, limits)
    for change in changed:
        context.notice(f"accepted: {change}")
    info = _with_part(limits.remembered(info), config, changed, trainer, context)
    if changed:
        info = info.with_facts({"world_size": context.world.size})
        info = info.with_facts(changes.accepted_facts(info, changed, trainer.step))
    if changed or sources != info.sources:
        info = info.with_facts(
            {
                **sources.to_mapping(),
                **text_facts(corpora, trainer.data.prepared, config.val_fraction),
            }
        )
    info = info.with_facts(recorded.facts())
    return trainer, dataclasses.replace(info, training=trainer.config), recorded


def _with_part(
    info: RunInfo,
    config: TrainConfig,
    changed: list[str],
    trainer: Trainer,
    context: TrainingContext,
) -> RunInfo:
    """`info` with a record of this part of the run, where something is not as it was at its start.

    A repetition of the run cannot make such a change in the middle.
    """
    extended = changes.extended(info.training, config)
    environment = of_environment(info.facts, environment_facts(trainer))
    for what in environment:
        context.notice(f"not bit for bit the run that was not interrupted: {what}")
    return info.with_facts(
        changes.part_facts(info, [*changed, *extended, *environment], trainer.step)
    )


def _report_higher_rate(trainer: Trainer, context: TrainingContext) -> None:
    """A notice where the learning rate rises again, because the run now ends later."""
    records = [record for record in read_log(trainer.run.log_path) if record["kind"] == "step"]
    before = records[-1].get("learning_rate") if records else None
    trainer.optimizer.set_rate(trainer.rate_factor)
    now = trainer.optimizer.groups[0]["lr"]
    is_warm = trainer.step > warmup_steps(trainer.config)
    if isinstance(before, float) and is_warm and now > HIGHER_RATE * before:
        context.notice(
            f"the learning rate rises from {before:.2g} to {now:.2g}, because the schedule "
            f"now ends at step {trainer.config.max_steps}"
        )


def _newest_checkpoint(run: RunFolder, context: TrainingContext) -> _Checkpoint:
    if context.world.is_main:
        mend_pointers(run.path)
    wait_for_all(context.world)
    folder = run.last(context.notice)
    opened = open_model(folder, torch.device("cpu"))
    return _Checkpoint(folder, opened.model, opened.tokenizer, opened.generation)


def _trainer_at(
    checkpoint: _Checkpoint,
    run: RunFolder,
    info: RunInfo,
    config: TrainConfig,
    corpora: Corpora,
    context: TrainingContext,
    lock: FolderLock,
    limits: NewLimits,
) -> tuple[Trainer, RecordedDecisions]:
    """A trainer in the state of the checkpoint, and the decisions recorded for the run."""
    prepared = prepared_corpora(
        corpora, config, checkpoint.tokenizer, info.model, context, checkpoint.generation
    )
    data = TrainingData.of(prepared, config, info.model.block_size)
    base_name = str(info.facts.get("adapter_base", ""))
    output = make_output(run, prepared, context, lock, checkpoint.generation, base_name)
    base = None
    if config.lora:
        new_ids = trained_tokens(info.facts, info.model.vocab_size)
        base = frozen_weights(read_frozen_base(run), config.precision, new_ids)
    trainer = TrainerFactory(info.model, data, context, output, base)(config, config.precision)
    trainer.is_warm = False  # step 0 has been saved
    state = load_training_state(checkpoint.folder)
    recorded = recorded_decisions(run.name, info, state.figures, trainer.config)
    if recorded.decisions:
        trainer.decisions = recorded.until(state.figures["step"])
        max_steps = trainer.decisions[-1].max_steps
        trainer.config = dataclasses.replace(trainer.config, max_steps=max_steps)
    trainer.resume(checkpoint.model.state_dict(), state)
    if limits.changed:
        trainer.decisions = [limits.plan(trainer)]
        max_steps = trainer.decisions[0].max_steps
        trainer.config = dataclasses.replace(trainer.config, max_steps=max_steps)
        recorded = RecordedDecisions(tuple(trainer.decisions) if config.budget else ())
    if config.compile == "on" and trainer.step < (trainer.config.max_steps or 0):
        try_to_compile(trainer, context.notice)
    return trainer, recorded
