"""The training loop: step, evaluate, keep.

A step is a pure function of the weights and (seed, step): batches and dropout are drawn from those
alone. A run that was stopped goes on exactly as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplellm import device as devices
from simplellm.checkpoint.pointers import best_by
from simplellm.checkpoint.run import Run, TrainingState, load_model, step_name, step_of
from simplellm.checkpoint.run_log import Sink, Sinks
from simplellm.config.model import ModelConfig
from simplellm.config.training import TrainConfig
from simplellm.data.dataset import TextDataset
from simplellm.data.prepared import Prepared
from simplellm.errors import CheckpointError, DeviceError, StoppedEarly, TrainingError
from simplellm.model.induction import plant_induction_heads
from simplellm.model.scoring import Evaluation, evaluate, token_scores
from simplellm.model.transformer import SimpleLLM
from simplellm.training.clock import Clock
from simplellm.training.composition import composition_matrices
from simplellm.training.distributed import World, any_of, average_gradients, mean
from simplellm.training.ema import EMA
from simplellm.training.execution import checkpoint_gradients
from simplellm.training.freezing import freeze
from simplellm.training.optimizer import Optimizer
from simplellm.training.saver import Saver
from simplellm.training.schedule import (
    CONSTANT_SHARE,
    Decision,
    progress,
    rate_factor,
    warmup_steps,
)

READS_PER_STEP = (
    1  # loss and gradient norm together: whether both are finite decides if the step is taken
)
FP16_READS_PER_STEP = 1  # GradScaler asks whether Muon's gradients overflowed; fused AdamW takes the answer on the device
SKIPPED_STEPS_LIMIT = (
    20  # fp16 overflows in a row; the scaler halves its scale each time, so this is 2^20
)
RECENT_SECONDS = 3.0  # over which steps tell how fast the machine is now
MOST_FINAL_TOKENS = 200_000  # a few seconds on 2 cores
MOST_STOPPING_TOKENS = 2048  # scored where it is stopped before the first evaluation: who stops it does not want to wait
Preview = Callable[[SimpleLLM], str]
DatasetOf = Callable[[TrainConfig, Callable[[float], float]], TextDataset]


@dataclass(frozen=True)
class Result:
    """What a run came to. Figures are those of the best checkpoint."""

    run: str
    path: str
    steps: int
    best_step: int
    val_loss: float
    perplexity: float
    bits_per_byte: float
    train_seconds: float
    tokens_per_second: float
    parameters: int
    stopped: bool  # before the last step, because it was asked to


class Trainer:
    """Trains one model on one prepared corpus and keeps its run folder."""

    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainConfig,
        prepared: Prepared,
        dataset_of: DatasetOf,
        run: Run,
        device: torch.device,
        precision: str,
        world: World | None = None,
        sink: Sink | None = None,
        preview: Preview | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        initial: Mapping[str, Tensor] | None = None,
        saver: Saver | None = None,
    ) -> None:
        """`initial`: weights to go on from, by name (default: drawn anew).

        `dataset_of` makes the dataset from the config and from the share of the run that is done before a step.
        """
        self.prepared, self.run, self.config = prepared, run, config
        max_steps = config.max_steps or 1
        self.decisions = [Decision(0, max_steps, config.eval_interval or max_steps)]
        self.dataset = dataset_of(config, self.share_done)
        self.device, self.precision = device, precision
        self.world, self.sink = world or World(), sink or Sinks()
        self.preview, self.should_stop, self.saver = (
            preview,
            should_stop,
            saver or Saver(run, self.world, device),
        )
        self.model = _model(model_config, config, device, initial)
        compositions = composition_matrices(
            prepared.tokenizer, config.composition, model_config.tie_embeddings
        )
        self.optimizer = Optimizer(self.model, config, compositions)
        self.ema = EMA(self.model, config.ema_decay)
        self.scaler = devices.grad_scaler(device, precision)
        self.step = self.saved_step = 0
        self.best: dict[str, Any] = {
            "val_loss": math.inf
        }  # of the evaluations whose checkpoint is on the disk
        self.last: dict[str, Any] = {}  # evaluation, whether saved or not
        self.last_counts = True  # for the best one and for patience
        self.evaluations_without_best = 0
        self.evaluated_step = 0  # of the last evaluation
        self.final: tuple[int, Evaluation | None] = (
            0,
            None,
        )  # the last step, scored as `score_best` does
        # Cost of an evaluation, and of one with its sample and save, in units of the time of a step; 0 where it is unknown.
        # It is measured once: other programs may slow the evaluation and not the steps before it, or the other way round.
        self.evaluation_steps = self.pause_steps = 0.0
        self.skipped_steps = self.overflows = 0  # in a row, and all
        self.gradient_norms: dict[
            str, float
        ] = {}  # by layer, of the last step to be logged, where they are asked for
        self.clock = Clock()
        self.after_step: Callable[[Trainer], None] = lambda trainer: (
            None
        )  # may move the end of the run, see `take`

    def take(self, decision: Decision) -> None:
        """Follow `decision` from its step on; the steps before it stay as they are."""
        self.decisions.append(decision)
        self.config = replace(self.config, max_steps=decision.max_steps)

    def share_done(self, step: float) -> float:
        """Share of the run, 0 to 1, that is done before `step`, as it was decided by then."""
        constant_share = CONSTANT_SHARE.get(self.config.schedule, 0.0)
        return progress(step, self.decisions, constant_share)

    # ------------------------------------------------------------------ the recipe

    def train(self) -> Result:
        """Train until the last step, or until asked to stop; returns when the last checkpoint is on the disk."""
        assert self.config.max_steps is not None, "the caller plans the steps"
        self.clock.begin(self.step)
        self.saver.remember_info()
        while (
            self.step < self.config.max_steps
            and not self.is_out_of_patience
            and not self._is_told_to_stop()
        ):
            with self.clock.timed_step():
                self.train_step()
            self.after_step(self)
            if self._is_due(self.config.log_interval):
                self._report_step()
            if self._is_evaluation_due():
                self.evaluate_and_save()
        if self.is_out_of_patience:
            self.sink.write(
                {"kind": "early_stop", "step": self.step, "patience": self.config.patience}
            )
        while (
            self.saved_step < self.step
        ):  # stopped between two evaluations, or the last save failed
            self.save_here()
        if self.step == self.config.max_steps or self.is_out_of_patience:
            self.score_best()
        return self.result()

    @property
    def is_out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.evaluations_without_best

    def train_step(self, rate: float | None = None) -> None:
        """One update of the weights, at `rate` times the peak rates (default: as the schedule has it).

        Raises TrainingError, and leaves the weights, when a number is not finite. The host waits for the device
        READS_PER_STEP times; fp16 with Muon adds FP16_READS_PER_STEP, a step that logs gradient norms one more.
        """
        self.optimizer.set_rate(self.rate_factor if rate is None else rate)
        try:
            loss = self.accumulate_gradients()
        except (RuntimeError, MemoryError) as error:
            if devices.is_out_of_memory(error):
                raise self._out_of_memory() from error
            raise
        self.loss, self.gradient_norm = torch.stack([loss, self.clip_gradients()]).tolist()
        if self.check_finite():
            self.optimizer.step(self.scaler)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.ema.update(self.step)
        self.step += 1

    def accumulate_gradients(self) -> Tensor:
        """Gradients of the mean loss over all micro steps and ranks; returns that loss, in nats per token."""
        loss = self.own_gradients()
        average_gradients(self.model, self.world)
        return mean(loss, self.world)

    def own_gradients(self) -> Tensor:
        """Gradients of this rank's share of the step; returns its share of the loss."""
        config, total = self.config, torch.zeros((), device=self.device)
        self.model.train()
        for micro_step in range(config.gradient_accumulation):
            ids, targets = self.dataset.batch(
                self.step,
                micro_step,
                config.batch_size,
                config.gradient_accumulation,
                self.world.rank,
                self.world.size,
            )
            ids, targets = devices.upload(ids, self.device), devices.upload(targets, self.device)
            devices.seed_dropout(self.device, config.seed, self.step, micro_step, self.world.rank)
            with devices.fast_float32(self.device):
                with devices.autocast(self.device, self.precision):
                    loss = self.model.loss(ids, targets, config.label_smoothing, config.r_drop)
                    loss = loss / config.gradient_accumulation
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def clip_gradients(self) -> Tensor:
        """Scale the gradients down to norm `grad_clip`; returns the norm they had."""
        self.optimizer.unscale(self.scaler)
        if self.config.log_gradients and self._is_due(self.config.log_interval, self.step + 1):
            self.gradient_norms = self.optimizer.gradient_norms()
        limit = self.config.grad_clip or math.inf
        return torch.nn.utils.clip_grad_norm_(self.optimizer.weights, limit)

    def check_finite(self) -> bool:
        """Whether the step may be taken. A loss may be finite and its gradient not: both are looked at.

        An fp16 overflow is no harm: the step is left out and the scaler lowers its scale.
        """
        if math.isfinite(self.loss) and math.isfinite(self.gradient_norm):
            self.skipped_steps = 0
            return True
        if (
            self.scaler.is_enabled()
            and math.isfinite(self.loss)
            and self.skipped_steps < SKIPPED_STEPS_LIMIT
        ):
            self.skipped_steps += 1
            self.overflows += 1
            return False
        raise TrainingError(
            f"step {self.step + 1}: loss {self.loss:g}, gradient norm {self.gradient_norm:g}; stopped before the update",
            fix=f"use a lower --learning-rate; {self.saver.fix()}",
        )

    @property
    def rate_factor(self) -> float:
        config = self.config
        return rate_factor(
            self.step,
            self.decisions,
            warmup_steps(config),
            config.schedule,
            config.min_lr_ratio,
        )

    # ------------------------------------------------------------------ measure and keep

    def evaluate_and_save(self) -> Evaluation:
        """Score the averaged weights on held-out text and commit them as a checkpoint."""
        started_at, step_seconds = self.clock.seconds, self.clock.step_seconds(RECENT_SECONDS)
        with self.ema.applied():
            evaluation = (
                self._evaluate_last()
                if self.step == self.config.max_steps
                else self.evaluate(self.config.eval_tokens)
            )
            evaluated_at = self.clock.seconds
            sample = self.sample()
        if not math.isfinite(evaluation.loss):
            raise TrainingError(
                f"step {self.step}: held-out loss {evaluation.loss:g}; not saved",
                fix=self.saver.fix(),
            )
        self.last, self.last_counts, self.evaluated_step = (
            _figures(self.step, evaluation),
            True,
            self.step,
        )
        is_best = self._is_better(evaluation.loss)
        self.evaluations_without_best = 0 if is_best else self.evaluations_without_best + 1
        record = {
            "kind": "evaluation",
            **self.last,
            "best": is_best,
            "sample": sample,
            "saved": self._save(is_best),
        }
        if step_seconds is not None and not self.evaluation_steps:
            self.evaluation_steps = (evaluated_at - started_at) / step_seconds
            self.pause_steps = (self.clock.seconds - started_at) / step_seconds
        self.sink.write(
            record | {"save_seconds": self.saver.seconds, "seconds": self.clock.seconds}
        )
        return evaluation

    def save_here(self) -> None:
        """Save where no evaluation is due, or the last save failed; it changes nothing for a run that is resumed from here.

        Where there is no best checkpoint yet this one stands in for it.
        """
        if self.last.get("step") != self.step:
            self.last, self.last_counts = {"step": self.step}, False
            if not math.isfinite(self.best["val_loss"]):
                with self.ema.applied():
                    evaluation = self.evaluate(min(self.config.eval_tokens, MOST_STOPPING_TOKENS))
                self.last = _figures(self.step, evaluation)
        self._save("val_loss" in self.last and self._is_better(self.last["val_loss"]))

    def _save(self, is_best: bool) -> bool:
        """Whether the averaged weights are on the disk now; only then are they the best."""
        best_before = self.best
        if is_best and self.last_counts:
            self.best = self.last
        with self.ema.applied():
            is_saved = self.saver.save(
                self.step, self.model, self.prepared.tokenizer, self.state(), self.last, is_best
            )
        self.best, self.saved_step = (
            (self.best, self.step) if is_saved else (best_before, self.saved_step)
        )
        return is_saved

    def _is_better(self, loss: float) -> bool:
        """Whether a loss is below the best one, or that one's checkpoint has vanished."""
        is_better = (
            loss < self.best["val_loss"]
            or not (self.run.path / step_name(self.best["step"])).is_dir()
        )
        return any_of(is_better, self.world, self.device)

    def score_best(self) -> None:
        """Score the best checkpoint on more of the held-out text than the evaluations on the way: all of it, up to a limit."""
        if self.best.get("tokens", self.final_tokens) >= self.final_tokens:
            return
        folder = self.run.best(self.saver.notice)
        step, evaluation = self.final
        if evaluation is None or step != step_of(folder):
            evaluation = self.evaluate(self.final_tokens, load_model(folder, self.device)[0])
        self.best = _figures(step_of(folder), evaluation)
        self.saver.point_best(self.best)
        self.sink.write({"kind": "final", **self.best, "seconds": self.clock.seconds})

    @property
    def final_tokens(self) -> int:
        """Held-out tokens the best checkpoint is scored on at the end."""
        return min(len(self.prepared.val_ids) - 1, max(MOST_FINAL_TOKENS, self.config.eval_tokens))

    def evaluate(
        self, most_tokens: int | None = None, model: SimpleLLM | None = None
    ) -> Evaluation:
        """Score the held-out text, or its first `most_tokens`, with the weights the model (default: in training) holds."""
        ids, n_bytes = self._held_out(most_tokens)
        with devices.fast_float32(self.device):
            return evaluate(model or self.model, ids, n_bytes)

    def _evaluate_last(self) -> Evaluation:
        """Score as much as `score_best` does, once, and return the part that the evaluations before it have scored."""
        ids, n_bytes = self._held_out(self.final_tokens)
        with devices.fast_float32(self.device):
            nats, hits = token_scores(self.model, ids)
        self.final = self.step, Evaluation.of(nats, hits, n_bytes)
        beginning, n_bytes = self._held_out(self.config.eval_tokens)
        return Evaluation.of(nats[: len(beginning) - 1], hits[: len(beginning) - 1], n_bytes)

    def _held_out(self, most_tokens: int | None) -> tuple[np.ndarray, int]:
        """The ids of the held-out text, or of its first tokens, and the bytes of text behind them."""
        ids, n_bytes = self.prepared.val_ids, self.prepared.val_bytes
        if most_tokens is not None and len(ids) - 1 > most_tokens:
            ids = ids[: most_tokens + 1]
            n_bytes = sum(len(self.prepared.tokenizer.token_bytes(int(token))) for token in ids[1:])
        return ids, n_bytes

    def sample(self) -> str:
        """What the model writes with the weights it holds; nothing where no preview is wanted."""
        return self.preview(self.model) if self.preview and self.world.is_main else ""

    def state(self) -> TrainingState:
        """Called while the averaged weights are in place, so that the live ones are those kept aside."""
        tensors = {f"optimizer/{name}": value for name, value in self.optimizer.state().items()}
        names = [name for name, _ in self.model.named_parameters()]
        tensors |= {
            f"live/{name}": value for name, value in zip(names, self.ema.stored(), strict=False)
        }
        figures = {
            "step": self.step,
            "best": self.best if math.isfinite(self.best["val_loss"]) else None,
            "evaluations_without_best": self.evaluations_without_best,
            "evaluated_step": self.evaluated_step,
            "evaluation_steps": self.evaluation_steps,
            "pause_steps": self.pause_steps,
            "decisions": [decision.to_mapping() for decision in self.decisions],
            "skipped_steps": self.skipped_steps,
            "overflows": self.overflows,
            "scaler": self.scaler.state_dict(),
            "seconds": self.clock.seconds,
        }
        return TrainingState(figures, tensors)

    def resume(self, averaged: dict[str, Tensor], state: TrainingState) -> None:
        """Go on from a checkpoint: `averaged` are the weights it saved, `state` what lies in its training/.

        CheckpointError where they are not those of such a run.
        """
        try:
            self._restore_weights(averaged, state.tensors)
            self._restore_figures(state.figures)
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            why = (str(error).splitlines() or [""])[0][:200]
            raise CheckpointError(
                f"the training state of {self.run.name} does not fit its model: {why}"
            ) from error

    def _restore_weights(self, averaged: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict(averaged)
        by_kind: dict[str, dict[str, Tensor]] = {"live": {}, "optimizer": {}}
        for path, tensor in tensors.items():
            kind, _, name = path.partition("/")
            by_kind[kind][name] = tensor
        if self.config.ema_decay:
            self.ema.load(list(self.model.parameters()))
            self.model.load_state_dict(by_kind["live"])
        self.optimizer.load_state(by_kind["optimizer"])

    def _restore_figures(self, figures: dict[str, Any]) -> None:
        self.step = self.saved_step = int(figures["step"])
        self.evaluation_steps = float(figures.get("evaluation_steps", 0.0))
        self.pause_steps = float(figures.get("pause_steps", 0.0))
        self.evaluated_step = int(
            figures.get("evaluated_step", self.step - self.step % self.decisions[-1].eval_interval)
        )
        pointer = self.run.pointer("best") or {}
        self.best, self.last = (
            best_by(self.step, figures["best"]) if figures["best"] else self.best,
            pointer,
        )
        is_gone = "step" in self.best and self._is_better(math.inf)
        if is_gone or pointer.get("step") == self.best.get(
            "step"
        ):  # or scored on the whole held-out text meanwhile
            self.best |= {name: pointer[name] for name in self.best if name in pointer}
        self.evaluations_without_best = int(figures["evaluations_without_best"])
        self.skipped_steps, self.overflows = (
            int(figures["skipped_steps"]),
            int(figures.get("overflows", 0)),
        )
        self.scaler.load_state_dict(figures["scaler"])
        self.clock = Clock(float(figures["seconds"]))

    def result(self) -> Result:
        """The figures of the run as it stands. TrainingError when nothing has been trained yet."""
        best = self.best if math.isfinite(self.best["val_loss"]) else self.last
        if not best:
            raise StoppedEarly(
                "stopped before the first step was done; nothing was saved", fix="start again"
            )
        evaluation = Evaluation(best["tokens"], best["bytes"], best["val_loss"], best["accuracy"])
        return Result(
            run=self.run.name,
            path=str(self.run.path / step_name(best["step"])),
            steps=self.step,
            best_step=best["step"],
            val_loss=best["val_loss"],
            perplexity=evaluation.perplexity,
            bits_per_byte=evaluation.bits_per_byte,
            train_seconds=self.clock.seconds,
            tokens_per_second=self.step * self.tokens_per_step / max(self.clock.seconds, 1e-9),
            parameters=self.model.n_parameters,
            stopped=self.step < (self.config.max_steps or 0) and not self.is_out_of_patience,
        )

    # ------------------------------------------------------------------ figures

    @property
    def tokens_per_step(self) -> int:
        config = self.config
        return (
            config.batch_size
            * config.gradient_accumulation
            * self.world.size
            * self.dataset.block_size
        )

    def _report_step(self) -> None:
        self.sink.write(
            {
                "kind": "step",
                "step": self.step,
                "max_steps": self.config.max_steps,
                "epoch": self.dataset.epoch_of(
                    self.step * self.tokens_per_step // self.dataset.block_size
                ),
                "loss": self.loss,
                "gradient_norm": self.gradient_norm,
                **({"gradient_norms": self.gradient_norms} if self.config.log_gradients else {}),
                "learning_rate": self.optimizer.groups[0]["lr"],
                "tokens_per_second": self.clock.lap(self.step) * self.tokens_per_step,
                "tokens_per_step": self.tokens_per_step,
                "memory_bytes": devices.peak_memory_bytes(self.device),
                "seconds": self.clock.seconds,
            }
        )

    def _is_due(self, interval: int, step: int | None = None) -> bool:
        step = self.step if step is None else step
        return step % interval == 0 or step == self.config.max_steps

    def _is_evaluation_due(self) -> bool:
        return (
            self.step - self.evaluated_step >= self.decisions[-1].eval_interval
            or self.step == self.config.max_steps
        )

    def _is_told_to_stop(self) -> bool:
        """One answer for all ranks: a signal may have reached only one of them."""
        return any_of(self.should_stop(), self.world, self.device)

    def _out_of_memory(self) -> DeviceError:
        batch_size, accumulation = self.config.batch_size, self.config.gradient_accumulation
        smaller = f"--batch-size {batch_size // 2} --gradient-accumulation {accumulation * 2} keeps the tokens per step"
        fix = (
            smaller
            if batch_size > 1
            else "use --gradient-checkpointing, a smaller --block-size or a smaller model"
        )
        return DeviceError(
            f"out of memory with {batch_size} x {self.dataset.block_size} tokens; {self.saver.fix()}",
            fix=fix,
        )


def _model(
    model_config: ModelConfig,
    config: TrainConfig,
    device: torch.device,
    initial: Mapping[str, Tensor] | None,
) -> SimpleLLM:
    """A model on `device`, ready to be trained as `config` says, with weights drawn anew or those of `initial`."""
    generator = torch.Generator().manual_seed(config.seed)
    model = SimpleLLM(model_config).init_weights(generator)
    if config.induction:
        plant_induction_heads(model, generator)
    model.to(device)
    if initial is not None:
        model.load_state_dict(initial)
    freeze(model, config.freeze)
    if config.gradient_checkpointing:
        checkpoint_gradients(model)
    return model


def _figures(step: int, evaluation: Evaluation) -> dict[str, Any]:
    return {"step": step, "val_loss": evaluation.loss, **evaluation.to_mapping()}
