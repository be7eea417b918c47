"""The run folder: what a training run keeps.

    RUN/run.json        configs, fingerprint of the corpus, versions, command
    RUN/log.jsonl       one line per logged step and evaluation
    RUN/step-000400/    a checkpoint: a model that `transformers` opens; training/ is for resuming;
                        manifest.json (size and SHA-256 of every file) is written last
    RUN/base/           of a LoRA run: the frozen model, see frozen_base.py
    RUN/best.json, RUN/last.json    pointers to checkpoints, replaced atomically
    RUN/report.json, RUN/loss.svg   results, written at the end

A folder counts as a checkpoint only while its manifest verifies.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from simplellm.checkpoint import step_names
from simplellm.checkpoint.generation import NOTHING_STATED, Generation
from simplellm.checkpoint.pointers import (
    Figures,
    Pointer,
    Which,
    evaluation_of,
    pointer_to_intact,
    read_pointer,
    write_pointer,
)
from simplellm.checkpoint.step_folder import write_checkpoint
from simplellm.checkpoint.step_names import step_name, step_of
from simplellm.checkpoint.tensors import refuse_non_finite
from simplellm.checkpoint.training_state import TrainingState
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError, Notice
from simplellm.model.lora import is_adapted
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.files import discard_folder, make_folder, new_folder, replace_file
from simplellm.storage.json_files import JsonObject, json_bytes, read_json
from simplellm.storage.manifest import is_intact, verify_manifest

RUN_VERSION = 1
KEPT_LAST = 2  # checkpoints kept besides the best: the newest, and one more in case it is damaged


@dataclass(frozen=True)
class RunFolder:
    """A run folder, which may not exist yet."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def log_path(self) -> Path:
        return self.path / "log.jsonl"

    # ---------------------------------------------------------------- run.json

    def read_info(self) -> JsonObject:
        """The content of run.json; CheckpointError where it is missing or damaged."""
        try:
            return read_json(self.path / "run.json")
        except CheckpointError as error:
            usable = (
                "its checkpoints can still be used: "
                f"simplellm chat --run {self.name}, or train TEXT --from {self.name}"
            )
            fix = usable if self.step_folders() else "train it anew"
            raise CheckpointError(str(error), fix=fix) from error

    def write_info(self, info: JsonObject) -> None:
        """Write run.json; creates the folder if needed."""
        make_folder(self.path)
        replace_file(self.path / "run.json", json_bytes({"version": RUN_VERSION, **info}))

    def summary(self) -> JsonObject | None:
        """The row of `simplellm runs`; None where there is no evaluated checkpoint.

        An imported model has no evaluation: its figures are None.
        """
        best = self.pointer("best") or {}
        figures = {name: best.get(name) for name in ("val_loss", "bits_per_byte")}
        has_figures = all(isinstance(figure, (int, float)) for figure in figures.values())
        is_usable = has_figures or (bool(best) and self.is_imported())
        if not is_usable or not isinstance(best.get("step"), int):
            return None
        path = str(self.path / best["path"])
        row = {"run": self.name, "path": path, "best_step": best["step"], **figures}
        return {**row, "tokens": best.get("tokens"), **self._description()}

    def is_imported(self) -> bool:
        """Whether the run is a model from elsewhere that was not trained here."""
        try:
            return "imported" in self.read_info()
        except CheckpointError:
            return False

    def imported_from(self) -> str:
        """The folder, file or hub name that the run was imported from; empty if trained here."""
        try:
            imported = self.read_info().get("imported")
        except CheckpointError:
            return ""
        if imported is None:
            return ""
        source = imported.get("source") if isinstance(imported, dict) else None
        return source if isinstance(source, str) and source else "an unknown source"

    def recorded_text(self, key: str) -> str:
        """A text of run.json, such as the name of who replies (`me`); empty if there is none."""
        try:
            text = self.read_info().get(key)
        except CheckpointError:
            return ""
        return text.strip() if isinstance(text, str) else ""

    def copied_share(self) -> float:
        """Share of the validation text that is also in the training text; 0 where unknown."""
        share = self._description()["copied_share"]
        return float(share) if isinstance(share, (int, float)) else 0.0

    def _description(self) -> JsonObject:
        """What the run is: model, text, seed and date from run.json; None where that is damaged."""
        try:
            info = self.read_info()
        except CheckpointError:
            info = {}
        model, training = (
            info[name] if isinstance(info.get(name), dict) else {} for name in ("model", "training")
        )
        texts = info.get("texts")
        return {
            "architecture": model.get("architecture"),
            "n_layer": model.get("n_layer"),
            "n_embd": model.get("n_embd"),
            "parameters": info.get("parameters"),
            "texts": texts if isinstance(texts, list) else None,
            "seed": training.get("seed"),
            "started_at": info.get("started_at"),
            "copied_share": info.get("copied_share"),
        }

    # ---------------------------------------------------------------- checkpoints

    def step_folders(self) -> list[Path]:
        """Folders with the name of a checkpoint, newest first; they may be damaged."""
        return step_names.step_folders(self.path)

    def pointer(self, which: Which) -> Pointer | None:
        """best.json or last.json, made from the checkpoints where damaged; None without any."""
        return read_pointer(self.path, which)

    def point(self, which: Which, step: int, figures: Figures) -> None:
        """Make best.json or last.json point to the checkpoint of `step`, with its figures."""
        write_pointer(self.path, which, step, figures)

    def best(self, notice: Notice = lambda text: None) -> Path:
        """The best checkpoint, verified; the newest intact one (and a `notice`) if damaged."""
        pointer = self.pointer("best")
        first = [self.path / pointer["path"]] if pointer else []
        others = [folder for folder in self.step_folders() if folder not in first]
        return self._first_intact([*first, *others], notice)

    def last(self, notice: Notice = lambda text: None) -> Path:
        """The newest intact checkpoint; `notice` reports newer ones that are damaged or missing."""
        folders = self.step_folders()
        pointer = self.pointer("last")
        if pointer and folders and pointer["step"] > step_of(folders[0]):
            notice(f"{self.path / pointer['path']} is missing; using an earlier checkpoint")
        return self._first_intact(folders, notice)

    def _first_intact(self, folders: list[Path], notice: Notice) -> Path:
        for folder in folders:
            try:
                verify_manifest(folder)
            except CheckpointError as error:
                notice(f"{error}; using an earlier checkpoint")
            else:
                return folder
        raise CheckpointError(
            f"run {self.name} has no intact checkpoint", fix="train it anew, or name another --run"
        )

    def steps_missing(self) -> tuple[int, int] | None:
        """Last saved step and planned steps of a run that was stopped; None where it is finished.

        A report is written at the end of a training, also where patience ended it.
        """
        try:
            planned = self.read_info()["training"]["max_steps"]
        except (CheckpointError, KeyError, TypeError):
            return None
        last = self.pointer("last")
        if last is None or not isinstance(planned, int) or (self.path / "report.json").exists():
            return None
        return (last["step"], planned) if last["step"] < planned else None

    def figures_of(self, folder: Path) -> Figures:
        """The figures measured on a checkpoint of this run; empty where there are none.

        Those of the best one come from best.json: it is scored on more text at the end of a run.
        """
        best = self.pointer("best") or {}
        return best if best.get("path") == folder.name else evaluation_of(folder)

    # ---------------------------------------------------------------- saving and retention

    def save(
        self,
        step: int,
        model: SimpleLLM,
        tokenizer: Tokenizer,
        state: TrainingState,
        figures: Figures,
        best: bool,
        generation: Generation = NOTHING_STATED,
        base_name: str = "",
    ) -> Path:
        """Write a checkpoint, then the pointers, then delete checkpoints that are no longer needed.

        CheckpointError, with nothing written, where a number in it is not finite.
        """
        # Merged weights are checked when they are written: memory does not hold all of them.
        weights = {} if is_adapted(model) else model.state_dict()
        refuse_non_finite({**weights, **state.tensors})
        folder = self.path / step_name(step)
        if not is_intact(folder):  # intact: an earlier save failed to write a pointer
            if folder.exists():
                discard_folder(folder)
            with new_folder(folder) as temporary:
                write_checkpoint(
                    temporary,
                    model,
                    tokenizer,
                    state.with_evaluation(figures),
                    generation,
                    base_name,
                )
        self.point("last", step, figures)
        if best:
            self.point("best", step, figures)
        self._delete_old_checkpoints(step)
        return folder

    def _delete_old_checkpoints(self, step: int) -> None:
        """Called after the checkpoint of `step` was written."""
        pointers = [self.pointer("best"), self.pointer("last")]
        kept = {pointer["path"] for pointer in pointers if pointer}
        folders = [folder for folder in self.step_folders() if step_of(folder) <= step]
        for folder in folders[KEPT_LAST:]:
            if folder.name not in kept:
                with contextlib.suppress(OSError):  # the next save tries again
                    discard_folder(folder)

    def superfluous(self) -> dict[Path, str]:
        """Checkpoints not needed, each with the reason; none if no checkpoint is intact."""
        folders = self.step_folders()
        intact = [folder for folder in folders if is_intact(folder)]
        if not intact:
            return {}
        best = pointer_to_intact(self.path, "best", intact)
        kept = {*intact[:KEPT_LAST], *([self.path / best["path"]] if best else [])}
        return {
            folder: "older checkpoint" if folder in intact else "damaged checkpoint"
            for folder in folders
            if folder not in kept
        }
