"""The run folder: what a training run keeps, how it is verified, and how it is found again.

    RUN/run.json        configs, corpus fingerprint, versions, command
    RUN/log.jsonl       a line per logged step and evaluation
    RUN/step-000400/    a model `transformers` opens; training/ is what only resume needs;
                        manifest.json (size and SHA-256 of every file) is written last
    RUN/best.json, RUN/last.json    pointers, swapped whole
    RUN/report.json, RUN/loss.svg   what the run came to, written at its end

A folder counts as a checkpoint only while its manifest verifies. A model file is data: there is no pickle
anywhere, and what a file says of its sizes is checked before it is believed.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from simplellm.checkpoint import pointers
from simplellm.checkpoint.hugging_face import (
    from_hub_config,
    from_hub_state,
    to_hub_config,
    to_hub_state,
)
from simplellm.checkpoint.pointers import STEP_NAME
from simplellm.checkpoint.pointers import step_name as step_name
from simplellm.checkpoint.pointers import step_of as step_of
from simplellm.config.model import ModelConfig
from simplellm.data.tokenizer import END_OF_TEXT, Tokenizer
from simplellm.errors import CheckpointError, Notice, SettingError
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.files import (
    TEMPORARY_MARK,
    discard_folder,
    make_folder,
    new_folder,
    replace_file,
    temporary_beside,
)
from simplellm.storage.json_files import json_bytes, read_json
from simplellm.storage.lock import LOCK_NAME, lock_holder
from simplellm.storage.manifest import MANIFEST_NAME, ManifestWriter, is_intact, verify_manifest
from simplellm.storage.safetensors_header import check_fit, read_header

RUN_VERSION = 1
WEIGHT_TYPES, STATE_TYPES = ("F32", "F16", "BF16"), ("F32",)
MOST_ROPE_BYTES, ROPE_PER_WEIGHTS = (
    1 << 28,
    64,
)  # the table of positions of a model: what a small file may ask for
NEVER_SAVED = ("run.json", "log.jsonl", LOCK_NAME)  # all that a run has before its first checkpoint
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
WINDOWS_DEVICE = re.compile(
    r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE
)  # no file may be called so there
KEPT_LAST = (
    2  # checkpoints kept besides the best: the newest, and one before it should that be damaged
)


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
        """What run.json says; CheckpointError, with what is left to do, where it is missing or damaged."""
        try:
            return read_json(self.path / "run.json")
        except CheckpointError as error:
            fix = f"its checkpoints can still be used: simplellm chat --run {self.name}, or train TEXT --from {self.name}"
            raise CheckpointError(
                str(error), fix=fix if self.step_folders() else "train it anew"
            ) from error

    def write_info(self, info: dict[str, Any]) -> None:
        """Create the folder if need be, and say in run.json what this run is."""
        make_folder(self.path)
        replace_file(self.path / "run.json", json_bytes({"version": RUN_VERSION, **info}))

    def step_folders(self) -> list[Path]:
        """Folders named as checkpoints, newest step first; they may be damaged."""
        return pointers.step_folders(self.path)

    def pointer(self, which: str) -> pointers.Pointer | None:
        """The content of best.json or last.json, made up from the checkpoints where it is damaged; None where there is none."""
        return pointers.read_pointer(self.path, which)

    def summary(self) -> dict[str, Any] | None:
        """Name, best checkpoint and its figures, for a list of runs; None where there is no best checkpoint."""
        best = self.pointer("best") or {}
        figures = {name: best.get(name) for name in ("val_loss", "bits_per_byte")}
        if not all(
            isinstance(figure, (int, float)) for figure in figures.values()
        ) or not isinstance(best.get("step"), int):
            return None
        return {
            "run": self.name,
            "path": str(self.path / best["path"]),
            "best_step": best["step"],
            **figures,
        }

    def save(
        self,
        step: int,
        model: SimpleLLM,
        tokenizer: Tokenizer,
        state: TrainingState,
        figures: dict[str, Any],
        best: bool,
    ) -> Path:
        """Commit a checkpoint, then swap the pointers, then let go of checkpoints nothing points to.

        CheckpointError, and nothing is written, where a number in it is not finite.
        """
        refuse_unfinite({**model.state_dict(), **state.tensors})
        folder = self.path / step_name(step)
        if not is_intact(folder):  # whole: committed already, when a pointer could not be swapped
            if folder.exists():
                discard_folder(folder)
            with new_folder(folder) as temporary:
                _write(
                    temporary,
                    model,
                    tokenizer,
                    replace(state, figures={**state.figures, "evaluation": figures}),
                )
        for which in ("last", "best") if best else ("last",):
            self.point(which, step, figures)
        self._retain(step)
        return folder

    def point(self, which: str, step: int, figures: dict[str, Any]) -> None:
        """Let best.json or last.json name the checkpoint of `step`, with its figures."""
        pointers.write_pointer(self.path, which, step, figures)

    def best(self, notice: Notice = lambda text: None) -> Path:
        """The verified best checkpoint; the newest whole one where the best is damaged, which is told to `notice`."""
        pointer = self.pointer("best")
        pointed = [self.path / pointer["path"]] if pointer else []
        return self._first_whole(
            [*pointed, *(path for path in self.step_folders() if path not in pointed)], notice
        )

    def last(self, notice: Notice = lambda text: None) -> Path:
        """The verified checkpoint of the highest step; what is wrong with later ones is told to `notice`."""
        folders, pointer = self.step_folders(), self.pointer("last")
        if pointer and folders and pointer["step"] > step_of(folders[0]):
            notice(f"{self.path / pointer['path']} is missing; using an earlier checkpoint")
        return self._first_whole(folders, notice)

    def _first_whole(self, folders: list[Path], notice: Notice) -> Path:
        for folder in folders:
            try:
                verify_manifest(folder)
            except CheckpointError as error:
                notice(f"{error}; using an earlier checkpoint")
            else:
                return folder
        raise CheckpointError(
            f"run {self.name} has no whole checkpoint", fix="train it anew, or name another --run"
        )

    def _retain(self, step: int) -> None:
        """Called when the checkpoint of `step` was committed, so that it is whole."""
        kept = {pointer["path"] for which in ("best", "last") if (pointer := self.pointer(which))}
        for folder in [folder for folder in self.step_folders() if step_of(folder) <= step][
            KEPT_LAST:
        ]:
            if folder.name not in kept:
                with contextlib.suppress(OSError):  # it can wait
                    discard_folder(folder)

    def superfluous(self) -> dict[Path, str]:
        """Checkpoints that retention lets go, each with the reason; none of a run of which no checkpoint is whole."""
        folders = self.step_folders()
        whole = [folder for folder in folders if is_intact(folder)]
        best = pointers.pointer_to_whole(self.path, "best", whole)
        kept = {*whole[:KEPT_LAST], *([self.path / best["path"]] if best else [])}
        reasons = {
            folder: "older checkpoint" if folder in whole else "damaged checkpoint"
            for folder in folders
        }
        return {
            folder: reason for folder, reason in reasons.items() if whole and folder not in kept
        }


def load_model(folder: Path, device: torch.device) -> tuple[SimpleLLM, Tokenizer]:
    """Verify a checkpoint and build its model (eval mode, float32) and tokenizer."""
    verify_manifest(folder)
    config, tokenizer = _described(folder)
    hub_state = _read_tensors(folder / "model.safetensors")
    with torch.device("meta"):
        model = SimpleLLM(config)
    state = from_hub_state(hub_state, model.state_dict(), config)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return model.to(device).eval(), tokenizer


def load_training_state(folder: Path) -> TrainingState:
    """The training/ part of a verified checkpoint: figures of its own step, tensors of finite numbers."""
    figures = read_json(folder / "training" / "state.json")
    if figures.get("step") != step_of(folder):
        raise CheckpointError(
            f"{folder / 'training' / 'state.json'} is of another step than {folder.name}"
        )
    path = folder / "training" / "state.safetensors"
    _refuse_types(path)
    tensors = _read_tensors(path)
    try:
        refuse_unfinite(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return TrainingState(figures, tensors)


def examine(folder: Path) -> None:
    """CheckpointError unless a checkpoint is whole and its parts fit together; no weights are read but to be hashed."""
    verify_manifest(folder)
    _described(folder)
    _refuse_types(folder / "training" / "state.safetensors")


def seconds_to_save(
    checkpoints: Path, model: SimpleLLM, tokenizer: Tokenizer, state: TrainingState
) -> float:
    """What it takes to write such a checkpoint here: one is, and is thrown away. 0 where that fails."""
    started_at, folder = time.perf_counter(), temporary_beside(checkpoints / "rehearsal")
    with contextlib.suppress(OSError):
        with new_folder(folder) as temporary:
            _write(temporary, model, tokenizer, state)
        discard_folder(folder)
        return time.perf_counter() - started_at
    return 0.0


def refuse_unfinite(tensors: Mapping[str, torch.Tensor]) -> None:
    """CheckpointError that names the first tensor with a number in it that is not finite."""
    for name, tensor in tensors.items():
        # Either is NaN where any number is; a fourteenth of the time that torch.isfinite takes.
        extremes = (
            torch.stack(tensor.aminmax()).tolist() if tensor.numel() else ()
        )  # one read from the device
        if not all(map(math.isfinite, extremes)):
            raise CheckpointError(f"{name!r} holds values that are not finite numbers")


def _described(folder: Path) -> tuple[ModelConfig, Tokenizer]:
    """What a checkpoint's model is, when its files agree on it; no weights are read."""
    config = from_hub_config(read_json(folder / "config.json"), str(folder / "config.json"))
    path = folder / "model.safetensors"
    header = read_header(path)
    with torch.device(
        "meta"
    ):  # a context of 2: the weights of `modern` do not depend on it, its table of positions does
        small = SimpleLLM(
            replace(config, block_size=2) if config.facts.has_rotary_positions else config
        )
    expected = to_hub_state(small.state_dict(), config)
    check_fit(
        path, header, {name: tuple(tensor.shape) for name, tensor in expected.items()}, WEIGHT_TYPES
    )
    rope_bytes = 8 * config.block_size * config.head_size
    if rope_bytes > max(MOST_ROPE_BYTES, ROPE_PER_WEIGHTS * path.stat().st_size):
        raise CheckpointError(
            f"{folder / 'config.json'} asks for a context of {config.block_size} tokens, too long for its model"
        )
    tokenizer = Tokenizer.from_mapping(
        read_json(folder / "tokenizer.json"), str(folder / "tokenizer.json")
    )
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{folder} has a tokenizer of {tokenizer.vocab_size} tokens, its model expects {config.vocab_size}",
            fix="use the tokenizer saved with the model",
        )
    return config, tokenizer


def _refuse_types(path: Path) -> None:
    """CheckpointError where a file of training state holds what this program never puts there."""
    header = read_header(path)
    check_fit(path, header, {name: entry.shape for name, entry in header.items()}, STATE_TYPES)


def find_run(wish: str | None, checkpoints: Path) -> tuple[Run, Path | None]:
    """The run named `wish` (a plain name, or the path of a run or of one of its checkpoints; None: the newest
    run with a best checkpoint), and the checkpoint when `wish` named one."""
    if wish is None:
        runs = [run for run in list_runs(checkpoints) if run.step_folders()]
        if not runs:
            raise CheckpointError(
                f"there is no trained run in {checkpoints}", fix="train one: simplellm train TEXT"
            )
        return runs[0], None
    path = checkpoints / wish if PLAIN_NAME.fullmatch(wish) else Path(wish)
    if (
        not PLAIN_NAME.fullmatch(wish)
        and "/" not in wish
        and "\\" not in wish
        and not path.is_dir()
    ):
        raise bad_name(wish)
    if STEP_NAME.fullmatch(path.name) and path.is_dir():
        return Run(path.resolve().parent), path
    if not (path / "run.json").is_file() and not Run(path).step_folders():
        names = ", ".join(run.name for run in list_runs(checkpoints)) or "none"
        raise CheckpointError(
            f"there is no run {wish} in {checkpoints}", fix=f"runs there: {names}"
        )
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
    raise CheckpointError(
        f"no run in {checkpoints} has a whole checkpoint", fix="train one: simplellm train TEXT"
    )


def list_runs(checkpoints: Path) -> list[Run]:
    """The runs in a folder, newest first (by when they were started, which run.json says)."""

    def started(run: Run) -> str:
        try:
            return str(run.read_info().get("started_at", ""))
        except CheckpointError:
            return ""

    found = {path.parent for path in checkpoints.glob("*/run.json")}
    found |= {
        path.parent.parent for path in checkpoints.glob(f"*/step-*/{MANIFEST_NAME}")
    }  # run.json may be lost
    return sorted(map(Run, found), key=lambda run: (started(run), run.name), reverse=True)


def new_run(name: str, checkpoints: Path) -> Run:
    """A run called `name` that is not there yet; SettingError for a name that is no plain name on every system."""
    if not PLAIN_NAME.fullmatch(name) or STEP_NAME.fullmatch(name) or name.endswith("."):
        raise bad_name(name)
    if WINDOWS_DEVICE.fullmatch(name):
        raise SettingError(
            f"{name} is the name of a device on Windows", fix="choose a name such as my-run"
        )
    if _is_taken(checkpoints / name):
        who = lock_holder(checkpoints / name)
        raise CheckpointError(
            f"run {name} is being trained by {who}" if who else f"run {name} is there already",
            fix=f"choose another --name than {name}"
            if who
            else f"--resume goes on with it; or choose another --name than {name}",
        )
    return Run(checkpoints / name)


def free_name(stem: str, checkpoints: Path) -> str:
    """A plain name made of `stem`, with a number behind it when the name is taken."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:60].rstrip("-._") or "run"
    plain = f"run-{plain}" if WINDOWS_DEVICE.fullmatch(plain) else plain
    names = (plain if number == 1 else f"{plain}-{number}" for number in range(1, 1_000_000))
    return next(name for name in names if not _is_taken(checkpoints / name))


def _is_taken(folder: Path) -> bool:
    """Whether a run lives here, or anything else: not what a run leaves that ended before its first checkpoint."""
    try:
        there = {path.name for path in folder.iterdir() if not path.name.startswith(TEMPORARY_MARK)}
    except OSError:  # not there, or no folder
        return folder.exists()
    return not there.issubset(NEVER_SAVED) or bool(lock_holder(folder))


def bad_name(name: str) -> SettingError:
    return SettingError(
        f"a run name has letters, digits, dots, dashes and underscores, got {name!r}",
        fix="choose a name such as my-run",
    )


def _write(folder: Path, model: SimpleLLM, tokenizer: Tokenizer, state: TrainingState) -> None:
    """The files of a checkpoint, the manifest last."""
    end = tokenizer.end_of_text
    hub_state = to_hub_state(
        {name: tensor.cpu() for name, tensor in model.state_dict().items()}, model.config
    )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    files = ManifestWriter(folder)
    files.write("config.json", json_bytes(to_hub_config(model.config, end)))
    files.write(
        "generation_config.json",
        json_bytes({"bos_token_id": end, "eos_token_id": end, "do_sample": True}),
    )
    files.write("tokenizer.json", _tokenizer_json(tokenizer))
    files.write("tokenizer_config.json", json_bytes(_tokenizer_config(model.config)))
    files.write("model.safetensors", safetensors.torch.save(hub_state, {"format": "pt"}))
    files.write("training/state.safetensors", safetensors.torch.save(tensors))
    files.write("training/state.json", json_bytes(state.figures))
    files.finish()


def _tokenizer_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT,
        "model_max_length": config.block_size, "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # <|endoftext|> typed in a text is text, here and there
    }  # fmt: skip


@functools.lru_cache(maxsize=1)
def _tokenizer_json(tokenizer: Tokenizer) -> bytes:
    """The same at each save of a run: made once."""
    return json_bytes(tokenizer.to_mapping())


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    read_header(path)
    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds no weights that can be read: {error}") from error
