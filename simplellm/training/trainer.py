"""The training loop: step, evaluate, save.

The step itself is in training_step.py. A run that was stopped continues exactly as if it had not
been.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from simplellm import device as devices
from simplellm.checkpoint.pointers import Figures
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.checkpoint.step_names import step_name, step_of
from simplellm.checkpoint.training_state import TrainingState
from simplellm.config.training import TrainConfig
from simplellm.errors import CheckpointError, StoppedEarly, TrainingError
from simplellm.model.scoring import Evaluation
from simplellm.model.transformer import SimpleLLM
from simplellm.training.clock import Clock
from simplellm.training.context import Output, Runtime
from simplellm.training.distributed import any_of
from simplellm.training.progress import Progress, Score
from simplellm.training.result import Result
from simplellm.training.training_data import TrainingData
from simplellm.training.training_step import Learner
from simplellm.training.validation import validation_of

RECENT_SECONDS = 3.0  # window over which the current speed is measured
MAX_STOPPING_TOKENS = 2048  # scored when stopped before the first evaluation: stopping is quick
# Limits of scoring the weights of a base on as much text as `score_best` reads: evaluations that
# cost as much, and multiplications (10 s on 2 cores).
MAX_BASE_EVALUATIONS, MAX_BASE_PRODUCTS = 3, 1e12
DAMAGED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Trainer(Learner):
    """Trains one model, evaluates it and saves its checkpoints."""

    def __init__(
        self,
        model: SimpleLLM,
        config: TrainConfig,
        data: TrainingData,
        runtime: Runtime,
        output: Output,
    ) -> None:
        super().__init__(model, config, data, runtime, output)
        self.validation = validation_of(data.prepared, runtime.device, config.eval_tokens)
        self.final = Score(0)  # of the last step, on as much text as `score_best` reads
        self.is_warm = False  # starts from trained weights, which count as step 0
        self.clock = Clock()
        self.after_step: Callable[[Trainer], None] = lambda trainer: None  # may call `take`

    # ------------------------------------------------------------------ the recipe

    def train(self) -> Result:
        """Train until the last step or a request to stop; the last checkpoint is then saved."""
        assert self.config.max_steps is not None, "the caller plans the steps"
        self.clock.begin(self.step)
        self.output.saver.remember_info()
        if self.is_warm and self.progress.last is None:
            self.evaluate_and_save()
        while self.step < self.config.max_steps and not self.is_out_of_patience:
            if any_of(self.runtime.should_stop(), self.world, self.device):  # one answer for all
                break
            with self.clock.timed_step():
                self.train_step()
            self.after_step(self)
            if self._is_due(self.config.log_interval):
                self._report_step()
            if self._is_evaluation_due():
                self.evaluate_and_save()
        if self.is_out_of_patience:
            self._report("early_stop", {"step": self.step, "patience": self.config.patience})
        while self.progress.saved_step < self.step:  # no evaluation was due, or its save failed
            self.save_unevaluated()
        if self.step == self.config.max_steps or self.is_out_of_patience:
            self.score_best()
        return self.result()

    # ------------------------------------------------------------------ evaluate and save

    def evaluate(self, max_tokens: int | None = None) -> Evaluation:
        """Score the validation text, or its first `max_tokens`, with the model's weights."""
        return self.validation.score(self.model, max_tokens)

    def evaluate_and_save(self) -> Evaluation:
        """Score the averaged weights on the validation text and save them as a checkpoint."""
        started_at = self.clock.seconds
        step_seconds = self.clock.step_seconds(RECENT_SECONDS)
        with self.ema.applied():
            evaluation = self._evaluate_step()
            evaluated_at = self.clock.seconds
            sample = self.sample()
        if not math.isfinite(evaluation.loss):
            raise TrainingError(
                f"step {self.step}: validation loss {evaluation.loss:g}; not saved",
                fix=self.output.saver.fix(),
            )
        score = Score(self.step, evaluation)
        is_best = self._is_better(score)
        self.progress.record(score, is_best)
        is_saved = self._save(is_best)
        if step_seconds is not None and not self.progress.evaluation_steps:
            # Measured once: later, other programs may slow down the evaluation and not the steps.
            self.progress.evaluation_steps = (evaluated_at - started_at) / step_seconds
            self.progress.pause_steps = (self.clock.seconds - started_at) / step_seconds
        outcome = {"best": is_best, "sample": sample, "saved": is_saved}
        figures = {**score.to_mapping(), **outcome, "save_seconds": self.output.saver.seconds}
        self._report("evaluation", {**figures, "seconds": self.clock.seconds})
        return evaluation

    def _evaluate_step(self) -> Evaluation:
        """Score on `eval_tokens`; at the last step also on as many as `score_best` reads.

        Before the first step too, unless that is very much more.
        """
        most = MAX_BASE_EVALUATIONS * self.config.eval_tokens
        most = int(min(most, MAX_BASE_PRODUCTS / self.model.n_parameters))
        is_base_compared = self.step == 0 and self.validation.final_tokens <= most
        if self.step != self.config.max_steps and not is_base_compared:
            return self.evaluate(self.config.eval_tokens)
        evaluation, final = self.validation.score_final(self.model)
        self.final = Score(self.step, final)
        if self.step == 0:
            self._report("base", self.final.to_mapping())
        return evaluation

    def save_unevaluated(self) -> None:
        """Save where no evaluation is due, or the last save failed.

        A run resumed from here is not changed by it. Without a best checkpoint this one takes its
        place, with a short evaluation that is not recorded.
        """
        if self.progress.last is None or self.progress.last.step != self.step:
            evaluation = None
            if self.progress.best is None:
                with self.ema.applied():
                    evaluation = self.evaluate(min(self.config.eval_tokens, MAX_STOPPING_TOKENS))
            self.progress.last = Score(self.step, evaluation)
            self.progress.last_counts = False
        last = self.progress.last
        self._save(last.evaluation is not None and self._is_better(last))

    def _save(self, is_best: bool) -> bool:
        """Whether the averaged weights were saved; only then can they be the best."""
        last, best_before = self.progress.last, self.progress.best
        assert last is not None
        if is_best and self.progress.last_counts:
            self.progress.best = last
        with self.ema.applied():
            is_saved = self.output.saver.save(
                self.step,
                self.model,
                self.data.prepared.tokenizer,
                self.state(),
                last.to_mapping(),
                is_best,
            )
        if is_saved:
            self.progress.saved_step = self.step
        else:
            self.progress.best = best_before
        return is_saved

    def _is_better(self, score: Score) -> bool:
        """Whether a score is better than the best one, or the best checkpoint has been removed."""
        best = self.progress.best
        is_better = score.is_better_than(best) if best else True
        if best and not is_better:
            is_better = not (self.run.path / step_name(best.step)).is_dir()
        return any_of(is_better, self.world, self.device)

    def score_best(self) -> None:
        """Score the best checkpoint on more of the validation text: `validation.final_tokens`."""
        best, final_tokens = self.progress.best, self.validation.final_tokens
        if best is None or best.evaluation is None or best.evaluation.tokens >= final_tokens:
            return
        folder = self.run.best(self.output.saver.notice)
        score = self.final
        if score.evaluation is None or score.step != step_of(folder):
            model, _ = load_model(folder, self.device)
            score = Score(step_of(folder), self.validation.score(model, final_tokens))
        self.progress.best = score
        self.output.saver.point_best(score.to_mapping())
        self._report("final", {**score.to_mapping(), "seconds": self.clock.seconds})

    def sample(self) -> str:
        """A preview of the model's text; empty without a preview callback."""
        return self.output.preview(self.model) if self.output.preview and self.world.is_main else ""

    def state(self) -> TrainingState:
        """What resume needs besides the model; called while the averaged weights are applied."""
        figures = {
            **self.progress.to_mapping(),
            "decisions": [decision.to_mapping() for decision in self.decisions],
            "scaler": self.scaler.state_dict(),
            "seconds": self.clock.seconds,
        }
        return TrainingState(figures, self.state_tensors())

    def resume(self, averaged: dict[str, Tensor], state: TrainingState) -> None:
        """Continue from a checkpoint: `averaged` are its model's weights, `state` the rest.

        CheckpointError where they do not belong to such a run.
        """
        try:
            self.load_state_tensors(averaged, state.tensors)
            self._restore_figures(state.figures)
        except DAMAGED as error:
            why = (str(error).splitlines() or [""])[0][:200]
            raise CheckpointError(
                f"the training state of {self.run.name} does not fit its model: {why}"
            ) from error

    def _restore_figures(self, figures: Figures) -> None:
        self.progress = Progress.from_mapping(figures, self.decisions[-1].eval_interval)
        pointer, best = self.run.pointer("best"), self.progress.best
        self.progress.last = Score.from_mapping(pointer) if pointer else None
        is_removed = best is not None and self._is_better(Score(0))
        if best and pointer and (is_removed or pointer["step"] == best.step):
            # best.json may have a final score on more text, or name a substitute.
            self.progress.best = Score.from_mapping({**best.to_mapping(), **pointer})
        self.scaler.load_state_dict(figures["scaler"])
        self.clock = Clock(float(figures["seconds"]))

    # ------------------------------------------------------------------ figures

    @property
    def run(self) -> RunFolder:
        return self.output.saver.run

    @property
    def is_out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.progress.evaluations_without_best

    def result(self) -> Result:
        """The figures of the run so far. StoppedEarly where nothing has been trained yet."""
        best = self.progress.best or self.progress.last
        if best is None or best.evaluation is None:
            raise StoppedEarly(
                "stopped before the first step was done; nothing was saved", fix="start again"
            )
        seconds, is_last = self.clock.seconds, self.step >= (self.config.max_steps or 0)
        return Result(
            run=self.run.name,
            path=str(self.run.path / step_name(best.step)),
            steps=self.step,
            best_step=best.step,
            val_loss=best.loss,
            perplexity=best.evaluation.perplexity,
            bits_per_byte=best.evaluation.bits_per_byte,
            train_seconds=seconds,
            tokens_per_second=self.step * self.tokens_per_step / max(seconds, 1e-9),
            parameters=self.model.n_parameters,
            stopped=not is_last and not self.is_out_of_patience,
        )

    def _report(self, kind: str, figures: Figures) -> None:
        self.output.sink.write({"kind": kind, **figures})

    def _report_step(self) -> None:
        blocks_read = self.step * self.tokens_per_step // self.dataset.block_size
        by_layer = {"gradient_norms": self.gradient_norms} if self.config.log_gradients else {}
        figures = {
            "step": self.step,
            "max_steps": self.config.max_steps,
            "epoch": self.dataset.epoch_of(blocks_read),
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            **by_layer,
            "learning_rate": self.optimizer.groups[0]["lr"],
            "tokens_per_second": self.clock.lap(self.step) * self.tokens_per_step,
            "tokens_per_step": self.tokens_per_step,
            "memory_bytes": devices.peak_memory_bytes(self.device),
            "seconds": self.clock.seconds,
        }
        self._report("step", figures)

    def _is_evaluation_due(self) -> bool:
        steps_since = self.step - self.progress.evaluated_step
        is_last = self.step == self.config.max_steps
        return steps_since >= self.decisions[-1].eval_interval or is_last
