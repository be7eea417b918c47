"""From a text to a trained run, and on from where a run stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplellm.checkpoint.find_runs import free_name, new_run
from simplellm.checkpoint.pointers import mend_pointers
from simplellm.checkpoint.run import Run
from simplellm.checkpoint.run_log import JsonlSink, Sinks, cut_log
from simplellm.checkpoint.step_folder import load_model
from simplellm.checkpoint.training_state import load_training_state
from simplellm.config.model import ModelConfig
from simplellm.config.recipe import choose
from simplellm.config.training import TrainConfig
from simplellm.data.corpus import STDIN_NAME, Corpus
from simplellm.data.prepared import PREPARED_FOLDER, Prepared, prepare
from simplellm.data.tokenizer import Tokenizer
from simplellm.device import choose_precision, describe, relative_speed, reuse_freed_memory
from simplellm.errors import CheckpointError, SettingError, SimpleLLMError
from simplellm.model.scoring import evaluate
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.files import remove_leftovers
from simplellm.storage.lock import FolderLock
from simplellm.training import changes
from simplellm.training.budget import recorded_decisions, train_within_budget
from simplellm.training.clock import Heartbeat
from simplellm.training.context import Output, Runtime, TrainingContext
from simplellm.training.data import TrainingData
from simplellm.training.distributed import World, any_of, from_main, wait_for_all
from simplellm.training.initialization import initial_model
from simplellm.training.plan import compile_or_say, most_steps, plan
from simplellm.training.result import Result
from simplellm.training.run_info import Sources, absolute, corpus_info, recorded, run_info
from simplellm.training.saver import Saver
from simplellm.training.schedule import Decision
from simplellm.training.trainer import Trainer

PROBE_TOKENS = 4096  # of a new text, scored before a model is trained on it
STRANGE_TEXT_RATIO = 1.4  # bits per byte against those on its own text, from which a text is called very different (guess)
LEAST_SPEED_RATIO = 1.25  # of the second measurement to the first, from which a larger model is worth starting anew (guess)


class _FasterThanMeasured(Exception):
    """The machine is faster than the model was chosen for, and nothing has been saved yet."""

    def __init__(self, speed: float) -> None:
        self.speed = speed


@dataclass(frozen=True)
class Base:
    """A trained model that a run goes on from, with its own tokenizer."""

    folder: Path
    model: SimpleLLM
    tokenizer: Tokenizer
    bits_per_byte: float | None  # on the text it was trained for


def start(
    sources: Sources,
    given: Mapping[str, Any],
    name: str | None,
    context: TrainingContext,
    base_folder: Path | None = None,
) -> Result:
    """Train a new run called `name` (default: after the text). `given` settings override the recipe.

    `base_folder`: a checkpoint to go on from instead of weights drawn anew.
    """
    started_at = context.started_at or time.perf_counter()
    _refuse_stdin(sources.texts, context.world)
    run = new_run(name or _name_of(sources, context.checkpoints), context.checkpoints)
    wait_for_all(context.world)  # nothing is written before each has seen that the name is free
    with claimed(run, context) as lock, Heartbeat() as heartbeat:
        speed: float | None = None
        while True:
            try:
                return _begin(
                    sources, given, run, context, base_folder, lock, started_at, heartbeat, speed
                )
            except _FasterThanMeasured as faster:
                speed = faster.speed
            context.notice(
                "the machine is faster than it seemed: starting anew with a larger model"
            )
            context.sink.write({"kind": "restart"})


def _begin(
    sources: Sources,
    given: Mapping[str, Any],
    run: Run,
    context: TrainingContext,
    base_folder: Path | None,
    lock: FolderLock,
    started_at: float,
    heartbeat: Heartbeat,
    speed: float | None,
) -> Result:
    """Plan and train. Where `speed` is None, it may raise `_FasterThanMeasured` before anything is saved."""
    trainer, info = prepare_run(sources, given, run, context, base_folder, lock, started_at, speed)
    trainer.clock.before = time.perf_counter() - started_at - heartbeat.suspended()
    trainer.clock.leave_out(heartbeat.suspended)
    context.notice(_summary(trainer))
    if context.world.is_main:
        run.log_path.unlink(
            missing_ok=True
        )  # of a run of this name that ended before it saved anything
        run.write_info(
            info
            | {"model": trainer.model.config.to_mapping(), "training": trainer.config.to_mapping()}
        )
    wait_for_all(context.world)
    is_settled = speed is not None or base_folder is not None
    look = (
        None
        if is_settled
        else functools.partial(_look_again, info["corpus_bytes"], given, info["speed"])
    )
    return train_within_budget(trainer, given, most_steps(trainer, given.get("max_steps")), look)


def _look_again(
    corpus_bytes: int, given: Mapping[str, Any], speed: float, trainer: Trainer
) -> None:
    """Measure the machine's speed a second time, soon after the start, while another model costs little."""
    again = from_main(relative_speed(trainer.device), trainer.world, trainer.device)
    if again < LEAST_SPEED_RATIO * speed:
        return
    larger, _ = choose(corpus_bytes, given, None, again)
    if (
        larger.n_layer * larger.n_embd**2
        > trainer.model.config.n_layer * trainer.model.config.n_embd**2
    ):
        raise _FasterThanMeasured(again)


@contextlib.contextmanager
def claimed(run: Run, context: TrainingContext) -> Iterator[FolderLock]:
    """The run's folder for this training alone, without what others left half-done; CheckpointError names who has it."""
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


def prepare_run(
    sources: Sources,
    given: Mapping[str, Any],
    run: Run,
    context: TrainingContext,
    base_folder: Path | None = None,
    lock: FolderLock | None = None,
    started_at: float | None = None,
    speed: float | None = None,
) -> tuple[Trainer, dict[str, Any]]:
    """A trainer with its steps planned, and what run.json is to say; nothing is kept but prepared ids.

    `started_at`: when the budget began, by time.perf_counter. `speed`: of the machine, where it is measured already.
    """
    started_at = started_at or time.perf_counter()
    reuse_freed_memory()
    base = _open_base(base_folder) if base_folder else None
    base_config = base.model.config if base else None
    choose(0, given, base_config)  # what cannot be is said before anything is read or written
    corpus, val_corpus = sources.read(context.stdin)
    speed = speed or from_main(relative_speed(context.device), context.world, context.device)
    model_config, config = choose(corpus.n_bytes, given, base_config, speed)
    precision = choose_precision(context.device, config.precision)
    prepared = _prepared(
        corpus,
        val_corpus,
        config,
        model_config.vocab_size,
        context,
        base.tokenizer if base else None,
    )
    if base:
        _warn_of_other_text(base, prepared, context)
    model_config = dataclasses.replace(model_config, vocab_size=prepared.tokenizer.vocab_size)
    initial = base.model.state_dict() if base else None
    make = _maker(model_config, config, prepared, run, context, lock, initial)
    trainer = plan(make(config, precision), make, time.perf_counter() - started_at, context.notice)
    return trainer, run_info(
        trainer, sources, given, corpus, val_corpus, context.command, base_folder
    ) | {
        "corpus_bytes": corpus.n_bytes,
        "speed": speed,
    }


def _open_base(folder: Path) -> Base:
    model, tokenizer = load_model(folder, torch.device("cpu"))
    pointer = Run(folder.resolve().parent).pointer("best") or {}
    return Base(folder, model, tokenizer, pointer.get("bits_per_byte"))


def _warn_of_other_text(base: Base, prepared: Prepared, context: TrainingContext) -> None:
    """Say so when the model finds the new text much stranger than its own."""
    ids = np.asarray(prepared.val_ids[: PROBE_TOKENS + 1])
    n_bytes = sum(len(base.tokenizer.token_bytes(int(token))) for token in ids[1:])
    now = evaluate(base.model, ids, max(n_bytes, 1)).bits_per_byte
    if base.bits_per_byte and now > STRANGE_TEXT_RATIO * base.bits_per_byte:
        context.notice(
            f"this text is very different: {now:.2f} bits/byte before training, against {base.bits_per_byte:.2f} "
            "on the text the model was trained on; a new run may do better"
        )


def resume(
    run: Run,
    given: Mapping[str, Any],
    context: TrainingContext,
    texts: tuple[str, ...] = (),
    accept_changes: bool = False,
) -> Result:
    """Go on with a run from its newest whole checkpoint, exactly as if it had not stopped.

    `texts` and `given` may repeat what the run was started with; SettingError where they say something else.
    CheckpointError where its text, its tokenizer or its model changed. With `accept_changes` it goes on all the
    same, and run.json keeps what changed.
    """
    run.read_info()  # a run that is none is said before it is claimed
    with claimed(run, context) as lock, Heartbeat() as heartbeat:
        reuse_freed_memory()
        trainer, info, to_come = _prepare_resume(run, given, context, texts, accept_changes, lock)
        context.notice(
            f"resuming {run.name} after step {trainer.step} of {trainer.config.max_steps}"
        )
        if context.world.is_main:
            cut_log(run.log_path, trainer.step)
            run.write_info(info)
        wait_for_all(context.world)
        trainer.clock.leave_out(heartbeat.suspended)
        given = {**info["given"], **given}
        limit = most_steps(trainer, given.get("max_steps"))
        return train_within_budget(
            trainer, given, limit, None, to_come, info.get("decided_until", 0)
        )


def _prepare_resume(
    run: Run,
    given: Mapping[str, Any],
    context: TrainingContext,
    texts: tuple[str, ...],
    accept: bool,
    lock: FolderLock,
) -> tuple[Trainer, dict[str, Any], list[Decision]]:
    """A trainer that stands where the run was, what run.json is to say from now on, and recorded decisions to come."""
    info = run.read_info()
    sources, given_then, model_config, config = recorded(run, info)
    info = {**info, "given": given_then}
    if texts and absolute(texts) != absolute(sources.texts):
        raise SettingError(
            f"run {run.name} was started on other texts than {', '.join(texts)}",
            fix="leave TEXT out",
        )
    known = {**model_config.to_mapping(), **config.to_mapping()}
    config, changed = changes.with_settings(known, info["given"], config, given, accept)
    if "max_steps" in given and "budget" not in given:
        config = dataclasses.replace(config, budget=None)  # so many steps, however long they take
    if context.world.is_main:
        mend_pointers(run.path)
    wait_for_all(context.world)
    folder = run.last(context.notice)
    corpus, val_corpus = sources.read(context.stdin)
    model, tokenizer = load_model(folder, torch.device("cpu"))
    kept = [
        changes.texts(info, corpus, val_corpus),
        changes.tokenizer(info, tokenizer),
        changes.model(model_config, model.config),
    ]
    changed += [change for found in kept for change in found]
    changes.refuse(changed, accept)
    if kept[-1]:
        model_config = dataclasses.replace(model.config, dropout=model_config.dropout)
    prepared = _prepared(corpus, val_corpus, config, model_config.vocab_size, context, tokenizer)
    trainer = _maker(model_config, config, prepared, run, context, lock)(config, config.precision)
    state = load_training_state(folder)
    decisions, decided_until = recorded_decisions(run.name, info, state.figures, trainer.config)
    if decisions:
        trainer.decisions = [
            decision for decision in decisions if decision.step <= state.figures["step"]
        ]
        trainer.config = dataclasses.replace(
            trainer.config, max_steps=trainer.decisions[-1].max_steps
        )
    trainer.resume(model.state_dict(), state)
    if config.compile == "on" and trainer.step < (config.max_steps or 0):
        compile_or_say(trainer, context.notice)
    if changed:
        info = {
            **info,
            "given": {**info["given"], **given},
            **corpus_info(corpus, val_corpus, prepared),
        }
        info |= changes.record(info, changed, trainer.step)
    to_come = [decision for decision in decisions if decision.step > trainer.step]
    if decisions:
        mappings = [decision.to_mapping() for decision in decisions]
        info = {**info, "decisions": mappings, "decided_until": decided_until}
    return (
        trainer,
        {**info, "model": model_config.to_mapping(), "training": trainer.config.to_mapping()},
        to_come,
    )


def _maker(
    model_config: ModelConfig,
    config: TrainConfig,
    prepared: Prepared,
    run: Run,
    context: TrainingContext,
    lock: FolderLock | None,
    initial: Mapping[str, Tensor] | None = None,
) -> Callable[[TrainConfig, str], Trainer]:
    data = TrainingData.of(prepared, config, model_config.block_size)
    sinks = (JsonlSink(run.log_path, context.notice), context.sink) if context.world.is_main else ()
    preview = (
        context.make_preview(run, prepared)
        if context.make_preview and context.world.is_main
        else None
    )
    saver = Saver(run, context.world, context.device, context.notice, lock)
    output = Output(saver, Sinks(*sinks), preview)

    def make(config: TrainConfig, precision: str) -> Trainer:
        model = initial_model(model_config, config, context.device, initial)
        runtime = Runtime(context.device, precision, context.world, context.should_stop)
        return Trainer(model, config, data, runtime, output)

    return make


def _prepared(
    corpus: Corpus,
    val_corpus: Corpus | None,
    config: TrainConfig,
    vocab_size: int,
    context: TrainingContext,
    tokenizer: Any = None,
) -> Prepared:
    """Made by the main process first; the others find it, or make it where they do not share its disk."""
    folder, chosen = context.checkpoints / PREPARED_FOLDER, tokenizer or config.tokenizer
    if not context.world.is_main:
        wait_for_all(context.world)
    prepared = prepare(
        corpus, val_corpus, config.val_fraction, chosen, vocab_size, folder, context.notice
    )
    if context.world.is_main:
        wait_for_all(context.world)
    return prepared


def _refuse_stdin(texts: tuple[str, ...], world: World) -> None:
    if STDIN_NAME in texts and world.size > 1:
        raise SettingError(
            "several processes cannot read one standard input",
            fix="save the text to a file and name that",
        )


def _name_of(sources: Sources, folder: Path) -> str:
    first = sources.texts[0]
    return free_name("stdin" if first == "-" else Path(first).stem or "run", folder)


def _summary(trainer: Trainer) -> str:
    model, config = trainer.model.config, trainer.config
    return (
        f"training {trainer.run.name}: {trainer.data.prepared.train_bytes:,} bytes, "
        f"{model.architecture} {model.n_layer}x{model.n_embd}, "
        f"{trainer.model.n_parameters:,} parameters, vocabulary {model.vocab_size}, "
        f"{config.max_steps} steps of {trainer.tokens_per_step:,} tokens\n"
        f"on {describe(trainer.device, trainer.runtime.precision)}"
    )
