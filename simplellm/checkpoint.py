"""The run folder: what a training run keeps, how it is verified, and how it is found again.

    RUN/run.json        configs, corpus fingerprint, versions, command
    RUN/log.jsonl       a line per logged step and evaluation
    RUN/step-000400/    a model `transformers` opens; training/ is what only resume needs;
                        manifest.json (size and SHA-256 of every file) is written last
    RUN/best.json, RUN/last.json    pointers, swapped whole
    RUN/report.json, RUN/loss.svg   what the run came to, written at its end

A folder counts as a checkpoint only while its manifest verifies. There is no pickle anywhere.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from simplellm.errors import CheckpointError, SettingError
from simplellm.hub import from_hub_config, from_hub_state, to_hub_config, to_hub_state
from simplellm.model import SimpleLLM
from simplellm.storage import new_folder, replace_file, sha256_of, temporary_beside, to_json, write_file
from simplellm.tokenizer import END_OF_TEXT, Tokenizer

MANIFEST_VERSION = RUN_VERSION = 1
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
STEP_NAME = re.compile(r"step-(\d{6,})")
KEPT_LAST = 2  # checkpoints kept besides the best: the newest, and one before it should that be damaged
Notice = Callable[[str], None]


@dataclass(frozen=True)
class TrainingState:
    """What only resume needs: figures, and tensors (live weights, averaged weights, optimizer)."""

    figures: dict[str, Any]
    tensors: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def log_path(self) -> Path:
        return self.path / "log.jsonl"

    def read_info(self) -> dict[str, Any]:
        return _read_json(self.path / "run.json")

    def write_info(self, info: dict[str, Any]) -> None:
        """Create the folder if need be, and say in run.json what this run is."""
        self.path.mkdir(parents=True, exist_ok=True)
        replace_file(self.path / "run.json", to_json({"version": RUN_VERSION, **info}))

    def step_folders(self) -> list[Path]:
        """Folders named as checkpoints, newest step first; they may be damaged."""
        folders = [path for path in self.path.glob("step-*") if STEP_NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(folders, key=step_of, reverse=True)

    def pointer(self, which: str) -> dict[str, Any] | None:
        """The content of best.json or last.json; None when there is none or it points nowhere."""
        try:
            pointer = _read_json(self.path / f"{which}.json")
        except CheckpointError:
            return None
        return pointer if STEP_NAME.fullmatch(str(pointer.get("path"))) else None

    def save(
        self, step: int, model: SimpleLLM, tokenizer: Tokenizer, state: TrainingState, figures: dict[str, Any], best: bool
    ) -> Path:
        """Commit a checkpoint, then swap the pointers, then let go of checkpoints nothing points to."""
        folder = self.path / step_name(step)
        if folder.exists():  # left by a kill after the rename, or by a resume from before it
            _discard(folder)
        with new_folder(folder) as temporary:
            _write_model(temporary, model, tokenizer)
            _write_state(temporary / "training", state)
            write_manifest(temporary)
        for which in ("last", "best") if best else ("last",):
            self.point(which, step, figures)
        self._retain()
        return folder

    def point(self, which: str, step: int, figures: dict[str, Any]) -> None:
        """Let best.json or last.json name the checkpoint of `step`, with its figures."""
        replace_file(self.path / f"{which}.json", to_json({"step": step, "path": step_name(step), **figures}))

    def best(self, notice: Notice = lambda text: None) -> Path:
        """The verified best checkpoint; the newest whole one where the best is damaged, which is told to `notice`."""
        pointer = self.pointer("best")
        pointed = [self.path / pointer["path"]] if pointer else []
        return self._first_whole([*pointed, *(path for path in self.step_folders() if path not in pointed)], notice)

    def last(self, notice: Notice = lambda text: None) -> Path:
        """The verified checkpoint of the highest step."""
        return self._first_whole(self.step_folders(), notice)

    def _first_whole(self, folders: list[Path], notice: Notice) -> Path:
        for folder in folders:
            try:
                verify(folder)
            except CheckpointError as error:
                notice(f"{error}; using an earlier checkpoint")
            else:
                return folder
        raise CheckpointError(f"run {self.name} has no whole checkpoint", fix="train it anew, or name another --run")

    def _retain(self) -> None:
        pointers = [pointer for which in ("best", "last") if (pointer := self.pointer(which))]
        kept = {str(pointer["path"]) for pointer in pointers}
        for folder in self.step_folders()[KEPT_LAST:]:
            if folder.name not in kept:
                _discard(folder)


def step_name(step: int) -> str:
    return f"step-{step:06d}"


def step_of(folder: Path) -> int:
    match = STEP_NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def write_manifest(folder: Path) -> None:
    """Say the size and SHA-256 of every file in `folder`; written last, it makes the folder a checkpoint."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_file(folder / "manifest.json", to_json({"version": MANIFEST_VERSION, "files": files}))


def verify(folder: Path) -> None:
    """Raise CheckpointError that names the first file of `folder` which is missing, extra or changed."""
    manifest = _read_json(folder / "manifest.json")
    if (folder / "manifest.json").read_bytes() != to_json(manifest):
        raise CheckpointError(f"{folder / 'manifest.json'} is damaged")
    try:
        files = {str(name): (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
        version = manifest["version"]
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'manifest.json'} is damaged") from error
    if version != MANIFEST_VERSION:
        raise CheckpointError(f"{folder} is of version {version}, this program reads {MANIFEST_VERSION}")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"manifest.json"}
    for name in sorted(there.symmetric_difference(files)):
        raise CheckpointError(f"{folder / name} is {'not in the manifest' if name in there else 'missing'}")
    for name, (size, digest) in files.items():
        try:
            whole = (folder / name).stat().st_size == size and sha256_of(folder / name) == digest
        except OSError as error:
            raise CheckpointError(f"cannot read {folder / name}: {error.strerror}") from error
        if not whole:
            raise CheckpointError(f"{folder / name} is damaged")


def load_model(folder: Path, device: torch.device) -> tuple[SimpleLLM, Tokenizer]:
    """Verify a checkpoint and build its model (eval mode, float32) and tokenizer."""
    verify(folder)
    config = from_hub_config(_read_json(folder / "config.json"), str(folder / "config.json"))
    tokenizer = Tokenizer.from_json(_read_json(folder / "tokenizer.json"), str(folder / "tokenizer.json"))
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{folder} has a tokenizer of {tokenizer.vocab_size} tokens, its model expects {config.vocab_size}",
            fix="use the tokenizer saved with the model",
        )
    hub_state = _read_tensors(folder / "model.safetensors")
    with torch.device("meta"):
        model = SimpleLLM(config)
    state = from_hub_state(hub_state, model.state_dict(), config)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return model.to(device).eval(), tokenizer


def load_training_state(folder: Path) -> TrainingState:
    """The training/ part of a verified checkpoint."""
    figures = _read_json(folder / "training" / "state.json")
    return TrainingState(figures, _read_tensors(folder / "training" / "state.safetensors"))


def find_run(wish: str | None, checkpoints: Path) -> tuple[Run, Path | None]:
    """The run named `wish` (a plain name, or the path of a run or of one of its checkpoints; None: the newest
    run with a best checkpoint), and the checkpoint when `wish` named one."""
    if wish is None:
        runs = [run for run in list_runs(checkpoints) if run.step_folders()]
        if not runs:
            raise CheckpointError(f"there is no trained run in {checkpoints}", fix="train one: simplellm train TEXT")
        return runs[0], None
    path = checkpoints / wish if PLAIN_NAME.fullmatch(wish) else Path(wish)
    if not PLAIN_NAME.fullmatch(wish) and "/" not in wish and "\\" not in wish and not path.is_dir():
        raise bad_name(wish)
    if STEP_NAME.fullmatch(path.name) and (path / "manifest.json").exists():
        return Run(path.resolve().parent), path
    if not (path / "run.json").is_file():
        names = ", ".join(run.name for run in list_runs(checkpoints)) or "none"
        raise CheckpointError(f"there is no run {wish} in {checkpoints}", fix=f"runs there: {names}")
    return Run(path), None


def find_checkpoint(wish: str | None, checkpoints: Path, notice: Notice) -> Path:
    """The checkpoint to talk to: the one named, or the best of the run named, or of the newest run that has one."""
    run, folder = find_run(wish, checkpoints)
    if folder is not None:
        return folder
    if wish is not None:
        return run.best(notice)
    for candidate in list_runs(checkpoints):
        with contextlib.suppress(CheckpointError):
            return candidate.best(notice)
    raise CheckpointError(f"no run in {checkpoints} has a whole checkpoint", fix="train one: simplellm train TEXT")


def list_runs(checkpoints: Path) -> list[Run]:
    """The runs in a folder, newest first (by when they were started, which run.json says)."""

    def started(run: Run) -> str:
        try:
            return str(run.read_info().get("started_at", ""))
        except CheckpointError:
            return ""

    runs = [Run(path.parent) for path in checkpoints.glob("*/run.json")]
    return sorted(runs, key=lambda run: (started(run), run.name), reverse=True)


def new_run(name: str, checkpoints: Path) -> Run:
    """A run called `name` that is not there yet; SettingError for a name that is no plain name."""
    if not PLAIN_NAME.fullmatch(name) or STEP_NAME.fullmatch(name):
        raise bad_name(name)
    if (checkpoints / name).exists():
        raise CheckpointError(
            f"run {name} is there already", fix=f"--resume goes on with it; or choose another --name than {name}"
        )
    return Run(checkpoints / name)


def free_name(stem: str, checkpoints: Path) -> str:
    """A plain name made of `stem`, with a number behind it when the name is taken."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:60] or "run"
    taken = (plain if number == 1 else f"{plain}-{number}" for number in range(1, 1_000_000))
    return next(name for name in taken if not (checkpoints / name).exists())


def bad_name(name: str) -> SettingError:
    return SettingError(
        f"a run name has letters, digits, dots, dashes and underscores, got {name!r}", fix="choose a name such as my-run"
    )


def _write_model(folder: Path, model: SimpleLLM, tokenizer: Tokenizer) -> None:
    end = tokenizer.end_of_text
    files = {
        "config.json": to_hub_config(model.config, end),
        "generation_config.json": {"bos_token_id": end, "eos_token_id": end, "do_sample": True},
        "tokenizer.json": tokenizer.to_json(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT,
            "model_max_length": model.config.block_size, "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # <|endoftext|> typed in a text is text, here and there
        },
    }  # fmt: skip
    for name, content in files.items():
        write_file(folder / name, to_json(content))
    hub_state = to_hub_state({name: tensor.cpu() for name, tensor in model.state_dict().items()}, model.config)
    write_file(folder / "model.safetensors", safetensors.torch.save(hub_state, {"format": "pt"}))


def _write_state(folder: Path, state: TrainingState) -> None:
    folder.mkdir()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    write_file(folder / "state.safetensors", safetensors.torch.save(tensors))
    write_file(folder / "state.json", to_json(state.figures))


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds no weights that can be read: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it holds no JSON object")
    return content


def _discard(folder: Path) -> None:
    """Delete a checkpoint so that no half of it is ever taken for one."""
    hidden = temporary_beside(folder)
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a log.jsonl; a last line cut off by a kill is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def cut_log(path: Path, step: int) -> None:
    """Drop the records after `step`, which a resumed run will write again."""
    kept = [record for record in read_log(path) if record.get("step", 0) <= step]
    replace_file(path, b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in kept))
