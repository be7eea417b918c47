"""The model under training, and the optimizer step that updates it.

A step is a pure function of the weights and (seed, step): batches and dropout masks depend on
nothing else.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from simplellm import device as devices
from simplellm.config.training import TrainConfig
from simplellm.data.packed_dataset import Batch
from simplellm.errors import DeviceError, TrainingError, is_out_of_memory
from simplellm.model.lora import trained_weights
from simplellm.model.transformer import SimpleLLM
from simplellm.training.composed_embedding import composition_matrices
from simplellm.training.context import Output, Runtime
from simplellm.training.distributed import World, average_gradients, mean
from simplellm.training.ema import EMA
from simplellm.training.optimizer import Optimizer
from simplellm.training.progress import Progress
from simplellm.training.schedule import (
    CONSTANT_SHARE,
    Decision,
    progress,
    rate_factor,
    warmup_steps,
)
from simplellm.training.training_data import TrainingData

# Times that the host waits for the device in a step: loss and gradient norm are read together,
# because the step is taken only if both are finite.
READS_PER_STEP = 1
FP16_READS_PER_STEP = 1  # more, for Muon: GradScaler asks whether its gradients overflowed
SKIPPED_STEPS_LIMIT = 20  # fp16 overflows in a row; each halves the scale, all together by 2^20


class Learner:
    """A model with its data, optimizer, EMA, loss scaler and schedule.

    output: names the last checkpoint in errors.
    """

    def __init__(
        self,
        model: SimpleLLM,
        config: TrainConfig,
        data: TrainingData,
        runtime: Runtime,
        output: Output,
    ) -> None:
        self.model = model
        self.config = config
        self.data = data
        self.runtime = runtime
        self.output = output
        self.progress = Progress()
        max_steps = config.max_steps or 1
        self.decisions = [Decision(0, max_steps, config.eval_interval or max_steps)]
        self.dataset = data.dataset(config, runtime.world.size, self.share_done)
        tied = model.config.tie_embeddings
        compositions = composition_matrices(data.prepared.tokenizer, config.composition, tied)
        self.optimizer = Optimizer(model, config, compositions)
        self.ema = EMA(model, config.ema_decay)
        self.scaler = devices.grad_scaler(runtime.device, runtime.precision)
        self.loss = math.nan  # of the last step, in nats per token
        self.gradient_norm = math.nan  # of the last step, before clipping
        self.gradient_norms: dict[str, float] = {}  # by layer, of the last logged step

    @property
    def device(self) -> torch.device:
        return self.runtime.device

    @property
    def world(self) -> World:
        return self.runtime.world

    @property
    def step(self) -> int:
        """Optimizer updates so far."""
        return self.progress.step

    @property
    def tokens_per_step(self) -> int:
        blocks = self.config.batch_size * self.config.gradient_accumulation * self.world.size
        return blocks * self.dataset.block_size

    def train_step(self, rate: float | None = None) -> None:
        """One update of the weights, at `rate` times the peak rates (default: by the schedule).

        TrainingError, before the update, where the loss or the gradient is not finite. The host
        waits for the device READS_PER_STEP times; fp16 with Muon adds FP16_READS_PER_STEP, a step
        that logs gradient norms one more.
        """
        self.optimizer.set_rate(self.rate_factor if rate is None else rate)
        try:
            loss = self.accumulate_gradients()
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._out_of_memory() from error
            raise
        self.loss, self.gradient_norm = torch.stack([loss, self.clip_gradients()]).tolist()
        if self.check_finite():
            self.optimizer.step(self.scaler)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.ema.update(self.step)
        self.progress.step += 1

    def accumulate_gradients(self) -> Tensor:
        """Gradients of the mean loss over all micro steps and ranks; returns that loss in nats."""
        loss = self.own_gradients()
        average_gradients(self.model, self.world)
        return mean(loss, self.world)

    def own_gradients(self) -> Tensor:
        """Gradients of this rank's share of the step; returns its share of the loss."""
        config = self.config
        total = torch.zeros((), device=self.device)
        self.model.train()
        for micro_step in range(config.gradient_accumulation):
            batch = self._batch(micro_step)
            devices.seed_dropout(self.device, config.seed, self.step, micro_step, self.world.rank)
            with devices.fast_float32(self.device):
                with devices.autocast(self.device, self.runtime.precision):
                    loss = self._loss(batch)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _loss(self, batch: Batch) -> Tensor:
        """This batch's part of the mean over all targets of the step.

        With weights, it is the mean over all targets of the step with their weights, whatever
        micro step and rank they are in.
        """
        config = self.config
        if batch.share is None:
            loss = self.model.loss(batch.ids, batch.targets, config.label_smoothing, config.r_drop)
            return loss / config.gradient_accumulation
        loss = self.model.loss(
            batch.ids,
            batch.targets,
            config.label_smoothing,
            config.r_drop,
            batch.weights,
            batch.documents,
        )
        return loss * batch.share

    def _batch(self, micro_step: int) -> Batch:
        parts = self.dataset.batch(
            self.step,
            micro_step,
            self.config.batch_size,
            self.config.gradient_accumulation,
            self.world.rank,
            self.world.size,
        )
        return Batch(*parts).on(lambda tensor: devices.upload(tensor, self.device))

    def clip_gradients(self) -> Tensor:
        """Scale the gradients down to norm `grad_clip`; returns their norm before."""
        self.optimizer.unscale(self.scaler)
        if self.config.log_gradients and self._is_due(self.config.log_interval, self.step + 1):
            self.gradient_norms = self.optimizer.gradient_norms()
        limit = self.config.grad_clip or math.inf
        return torch.nn.utils.clip_grad_norm_(self.optimizer.weights, limit)

    def check_finite(self) -> bool:
        """Whether the step may be taken; TrainingError where training has to end.

        After an fp16 overflow the step is skipped, and the scaler lowers its scale.
        """
        if math.isfinite(self.loss) and math.isfinite(self.gradient_norm):
            self.progress.skipped_steps = 0
            return True
        may_skip = self.progress.skipped_steps < SKIPPED_STEPS_LIMIT
        if self.scaler.is_enabled() and math.isfinite(self.loss) and may_skip:
            self.progress.skipped_steps += 1
            self.progress.overflows += 1
            return False
        raise TrainingError(
            f"step {self.step + 1}: loss {self.loss:g}, gradient norm {self.gradient_norm:g}; "
            "stopped before the update",
            fix=f"use a lower --learning-rate; {self.output.saver.fix()}",
        )

    # ------------------------------------------------------------------ schedule

    @property
    def rate_factor(self) -> float:
        """The learning rate of the next step, as a share of the peak."""
        config = self.config
        warmup = warmup_steps(config)
        return rate_factor(self.step, self.decisions, warmup, config.schedule, config.min_lr_ratio)

    def take(self, decision: Decision) -> None:
        """Follow a new decision about the end of the run; earlier steps are not affected."""
        self.decisions.append(decision)
        self.config = replace(self.config, max_steps=decision.max_steps)

    def share_done(self, step: float) -> float:
        """Share of the run (0 to 1) that is done before `step`, by the decisions until then."""
        return progress(step, self.decisions, CONSTANT_SHARE.get(self.config.schedule, 0.0))

    def _is_due(self, interval: int, step: int | None = None) -> bool:
        step = self.step if step is None else step
        return step % interval == 0 or step == self.config.max_steps

    # ------------------------------------------------------------------ state

    def state_tensors(self) -> dict[str, Tensor]:
        """The live weights and the optimizer's state by name, while the EMA is applied.

        With LoRA also the adapters, because the checkpoint's model has them merged.
        """
        trained = trained_weights(self.model)
        tensors = {f"optimizer/{name}": value for name, value in self.optimizer.state().items()}
        live = zip(trained, self.ema.stored(), strict=False)  # none without EMA
        tensors |= {f"live/{name}": value for name, value in live}
        if self.config.lora:
            tensors |= {f"adapter/{name}": value.detach() for name, value in trained.items()}
        return tensors

    def load_state_tensors(self, averaged: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
        """The inverse of `state_tensors`; `averaged` are the weights of the checkpoint's model.

        KeyError, RuntimeError or ValueError where the tensors do not fit.
        """
        by_kind: dict[str, dict[str, Tensor]] = {"live": {}, "optimizer": {}, "adapter": {}}
        for path, tensor in tensors.items():
            kind, _, name = path.partition("/")
            by_kind[kind][name] = tensor
        self._load_trained(by_kind["adapter"] if self.config.lora else averaged)
        if self.ema.decay:
            self.ema.load(list(trained_weights(self.model).values()))
            self._load_trained(by_kind["live"])
        self.optimizer.load_state(by_kind["optimizer"])

    def _load_trained(self, weights: dict[str, Tensor]) -> None:
        """Set the weights that training changes; RuntimeError where they do not fit."""
        if not self.config.lora:
            self.model.load_state_dict(weights)
            return
        trained = trained_weights(self.model)
        if trained.keys() != weights.keys():
            raise RuntimeError("the adapters are of other matrices")
        for name, weight in trained.items():
            if weight.shape != weights[name].shape:
                raise RuntimeError(f"{name} is of another rank")
            weight.data.copy_(weights[name])

    def _out_of_memory(self) -> DeviceError:
        batch_size, accumulation = self.config.batch_size, self.config.gradient_accumulation
        fix = "use --gradient-checkpointing, a smaller --block-size or a smaller model"
        if batch_size > 1:
            fix = (
                f"--batch-size {batch_size // 2} --gradient-accumulation {accumulation * 2} "
                "keeps the tokens per step"
            )
        block_size = self.dataset.block_size
        return DeviceError(
            f"out of memory with {batch_size} x {block_size} tokens; {self.output.saver.fix()}",
            fix=fix,
        )
