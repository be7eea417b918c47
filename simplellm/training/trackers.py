"""TensorBoard and Weights & Biases, which are imported only where `--track` names them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from simplellm.checkpoint.run_log import LogRecord
from simplellm.errors import SettingError, TrainingError
from simplellm.storage.json_files import JsonObject

TRACKED_KINDS = ("step", "evaluation")
HPARAMS_METRICS = ("evaluation/bits_per_byte", "evaluation/val_loss")


class Tracker(Protocol):
    """Receives the scalars and the sample of each record; closed once at the end."""

    def log(self, scalars: Mapping[str, float], sample: str, step: int) -> None: ...

    def close(self) -> None: ...

    def how_to_open(self) -> str:
        """What a user runs or opens to see the run."""


class TensorBoard:
    """Event files in the run folder, whose name is that of the run in TensorBoard.

    A resumed run hides events after its first step. Runs that keep their events in RUN/tensorboard,
    as earlier versions did, go on there.
    """

    def __init__(self, run_folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        earlier = run_folder / "tensorboard"
        folder = earlier if earlier.is_dir() else run_folder
        self._runs = run_folder.parent
        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step)
        self._log_settings(settings_of(run_folder))

    def _log_settings(self, settings: Mapping[str, Any]) -> None:
        """Fill the tab HPARAMS, in this run: `add_hparams` would make a run of its own."""
        from torch.utils.tensorboard import summary

        values = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in settings.items()
        }
        for part in summary.hparams(values, dict.fromkeys(HPARAMS_METRICS, 0.0)):
            self._writer.file_writer.add_summary(part)

    def log(self, scalars: Mapping[str, float], sample: str, step: int) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        if sample:  # indented: Markdown shows it as it is
            self._writer.add_text("sample", "    " + sample.replace("\n", "\n    "), step)

    def close(self) -> None:
        self._writer.close()

    def how_to_open(self) -> str:
        return f"tensorboard --logdir {shlex.quote(str(self._runs))}"


class WeightsAndBiases:
    """A W&B run of project simplellm, in RUN/wandb; WANDB_MODE and other variables apply."""

    def __init__(self, run_folder: Path, first_step: int) -> None:
        import wandb

        info = _run_info(run_folder)
        started = f"{run_folder.name} {info.get('started_at')}"  # the same when resumed
        identity = hashlib.sha256(started.encode()).hexdigest()[:16]
        reported = ("model", "training", "fingerprint", "versions")
        config = {name: info[name] for name in reported if name in info}
        self._run = wandb.init(
            project="simplellm",
            name=run_folder.name,
            id=identity,
            resume="allow",
            dir=str(run_folder),
            config=config,
        )

    def log(self, scalars: Mapping[str, float], sample: str, step: int) -> None:
        self._run.log({**scalars, **({"sample": sample} if sample else {})}, step=step)

    def close(self) -> None:
        self._run.finish()

    def how_to_open(self) -> str:
        """The page of the run; offline, the command that uploads it."""
        if url := getattr(self._run, "url", None):
            return str(url)
        return f"wandb sync {shlex.quote(str(Path(self._run.dir).parent))}"


TRACKERS: dict[str, Callable[[Path, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


class Tracking:
    """The sink of a run for the named trackers.

    They are opened by the first record. SettingError at once where a package is missing;
    TrainingError where a tracker cannot be started.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._folder: Path | None = None
        self._trackers: list[Tracker] | None = None
        for name in names:
            _require(name)

    def follow(self, run_folder: Path) -> None:
        """Set the run folder; nothing is written there before the first record."""
        self._folder = run_folder

    def write(self, record: LogRecord) -> None:
        if not self._names or self._folder is None or record["kind"] not in TRACKED_KINDS:
            return
        if self._trackers is None:
            self._trackers = []
            for name in self._names:
                self._trackers.append(_open(name, self._folder, record["step"]))
        for tracker in self._trackers:
            tracker.log(scalars(record), str(record.get("sample") or ""), record["step"])

    def how_to_open(self) -> list[str]:
        """A line for each tracker that has received something, until they are closed."""
        return [tracker.how_to_open() for tracker in self._trackers or []]

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # closes all, also where one fails
            for tracker in self._trackers or []:
                stack.callback(tracker.close)
        self._trackers = None

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record by `kind/name`, those of a mapping by `kind/name/member`."""
    return {f"{record['kind']}/{name}": value for name, value in _numbers(record) if name != "step"}


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{member}", number) for member, number in _numbers(value))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, value


def _require(name: str) -> None:
    try:
        if name == "tensorboard":
            import torch.utils.tensorboard  # noqa: F401
        else:
            import wandb  # noqa: F401
    except ImportError as error:
        raise SettingError(
            f"--track {name} is not installed ({error})", fix='pip install "simplellm[track]"'
        ) from error


def _open(name: str, folder: Path, first_step: int) -> Tracker:
    try:
        return TRACKERS[name](folder, first_step)
    except Exception as error:  # a tracker may raise anything: no login, no network, no space
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrainingError(
            f"{name} cannot be started: {why}",
            fix="WANDB_MODE=offline works without an account; or leave --track out",
        ) from error


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings of model and training in run.json, by name; empty where it is damaged."""
    groups = (_run_info(folder).get(name) for name in ("model", "training"))
    return {name: value for group in groups if isinstance(group, dict)
            for name, value in group.items()}  # fmt: skip


def _run_info(folder: Path) -> JsonObject:
    try:
        return dict(json.loads((folder / "run.json").read_bytes()))
    except (OSError, ValueError):
        return {}
