"""Observes a training: shows progress, makes a sample at each evaluation, tracks, and reports."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from simplellm.app.screen import Screen
from simplellm.app.training_progress import TrainingProgress
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import LogRecord, read_log
from simplellm.checkpoint.step_folder import load_model
from simplellm.config.sampling import SamplingParams
from simplellm.data.copies import not_held_out
from simplellm.data.prepared_corpus import Prepared
from simplellm.device import failures_reported
from simplellm.errors import SamplingError, SimpleLLMError
from simplellm.evaluation.advice import short_validation
from simplellm.evaluation.analyze import text_with_bytes
from simplellm.evaluation.chart import loss_svg
from simplellm.evaluation.curves import LossCurves
from simplellm.evaluation.picture.save import save_picture
from simplellm.evaluation.report import Report, make_report, report_lines
from simplellm.inference.reply import Reply
from simplellm.inference.sampler import Sampler
from simplellm.model.transformer import SimpleLLM
from simplellm.training.context import Preview
from simplellm.training.result import Result
from simplellm.training.trackers import Tracking

PROMPT_TOKENS = 16  # beginning of the validation text, the prompt of each sample
PREVIEW_TOKENS = 60
REPORT_TOKENS = 256
REPORT_SECONDS = 1.0  # a large model on a small machine writes fewer tokens
SAMPLE_SEED = 1


class TrainingMonitor:
    """The log sink and the preview maker of one training, and its report at the end."""

    def __init__(self, screen: Screen, trackers: Sequence[str]) -> None:
        self._screen = screen
        self._tracking = Tracking(trackers)
        self._progress = TrainingProgress(screen)
        self._run: RunFolder | None = None
        self._prepared: Prepared | None = None
        self._is_first = True
        self.has_saved = False  # a checkpoint, since the training started

    def make_preview(self, run: RunFolder, prepared: Prepared) -> Preview:
        """Called once the text of a run is prepared; returns the function that makes samples.

        Samples differ only by the weights of the model.
        """
        self._run = run
        self._prepared = prepared
        self._tracking.follow(run.path)
        return lambda model: preview(model, prepared)

    def write(self, record: LogRecord) -> None:
        """Show and track a log record. The first one also recalls the log of a resumed run."""
        if self._is_first and self._run is not None and "step" in record:
            self._is_first = False
            self._progress.recall(
                old for old in read_log(self._run.log_path) if old.get("step", 0) < record["step"]
            )
            self._warn_of_validation()
        self.has_saved = self.has_saved or bool(record.get("saved"))
        self._progress.write(record)
        self._tracking.write(record)

    def _warn_of_validation(self) -> None:
        """Say why the figures of the validation text will mean nothing."""
        assert self._prepared is not None and self._run is not None
        n_tokens, n_bytes = self._prepared.scored
        if why := short_validation(n_tokens, n_bytes) or not_held_out(self._run.copied_share()):
            self._screen.notice(why)

    def keep_panel(self) -> None:
        """End the panel and leave its figures on the screen: the training has ended."""
        self._progress.close(keep=True)

    def show_trackers(self) -> None:
        """Say how the trackers of this run are opened."""
        for command in self._tracking.how_to_open():
            self._screen.notice(f"see it: {command}")

    @property
    def run(self) -> RunFolder | None:
        """The run that is trained, once its text is prepared."""
        return self._run

    def report(self, result: Result, device: torch.device) -> None:
        """Make, save and show the report of a finished training. A failure never harms the run."""
        try:
            report = self._make_report(result, device)
        except (SimpleLLMError, OSError) as error:
            self._screen.notice(f"no report of this run: {error}")
        else:
            for line in report_lines(report):
                self._screen.notice(line)

    def save_chart(self, path: Path) -> None:
        """Write the loss curve of the run to `path` too. A failure never harms the run."""
        assert self._run is not None
        name = self._run.name
        try:
            save_picture(path, loss_svg(LossCurves.of(read_log(self._run.log_path)), name), name)
        except (SimpleLLMError, OSError) as error:
            self._screen.notice(f"no loss curve in {path}: {error}")
        else:
            self._screen.notice(f"loss curve: {path}")

    def _make_report(self, result: Result, device: torch.device) -> Report:
        assert self._run is not None and self._prepared is not None
        with failures_reported(device):
            model, _ = load_model(Path(result.path), device)
        text = sample(model, self._prepared, REPORT_TOKENS, REPORT_SECONDS)
        figures = {name: value for name, value in asdict(result).items() if name != "stopped"}
        log = read_log(self._run.log_path)
        return make_report(self._run.path, self._prepared, log, figures, text)

    def __enter__(self) -> TrainingMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()
        self._tracking.close()


def preview(model: SimpleLLM, prepared: Prepared) -> str:
    """A short sample to show; bytes that are no character are spelled as `<0xED>`."""
    reply = _sample(model, prepared, PREVIEW_TOKENS)
    ids = [token for token in reply.new_ids if token not in reply.end_ids]
    is_whole = "\ufffd" not in reply.text
    return reply.text if is_whole else text_with_bytes(prepared.tokenizer, ids)


def sample(
    model: SimpleLLM, prepared: Prepared, n_tokens: int, most_seconds: float = float("inf")
) -> str:
    """The continuation of the beginning of the validation text; empty if no token can be sampled.

    Uses its own random generator and restores the mode of the model: training is not affected.
    """
    return _sample(model, prepared, n_tokens, most_seconds).text


def prompt_of(prepared: Prepared) -> list[int]:
    """What a sample answers or continues: the first held-out question, or the validation text."""
    if prepared.marks is None:
        return prepared.val_ids[:PROMPT_TOKENS].tolist()
    return prepared.marks.first_question()


def _sample(
    model: SimpleLLM, prepared: Prepared, n_tokens: int, most_seconds: float = float("inf")
) -> Reply:
    """The reply of `sample`; without ids and text if no token can be sampled."""
    was_training = model.training
    started_at = time.perf_counter()
    params = SamplingParams(max_new_tokens=n_tokens, seed=SAMPLE_SEED)
    prompt = prompt_of(prepared)
    reply = Sampler(model, prepared.tokenizer, prepared.end_ids).stream(prompt, params)
    try:
        for _ in reply:
            if time.perf_counter() - started_at > most_seconds:
                break
    except SamplingError:
        reply.text = ""
        reply.new_ids.clear()
    finally:
        model.train(was_training)
    return reply
