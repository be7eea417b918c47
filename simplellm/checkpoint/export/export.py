"""Export of a model: the request is checked before the model is loaded, and written atomically."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from simplellm.checkpoint.export.exported_model import ExportedModel
from simplellm.checkpoint.export.writers import Writer, writer_of
from simplellm.config.export_formats import EXPORT_FORMATS
from simplellm.errors import CheckpointError, SettingError
from simplellm.storage.outputs import check_output, new_output

SLOW_PARAMETERS = 20_000_000  # from which an export may take more than 3 seconds (measured)


@dataclass(frozen=True)
class Exported:
    """What was written: the path, the format, the number format of matrices, and the size."""

    path: str
    format: str
    type: str
    bytes: int


@dataclass(frozen=True)
class ExportJob:
    """A checked request to write a model in `format` to `path`.

    type: number format of the matrices. force: replace an earlier export at `path`.
    """

    format: str
    type: str
    path: Path
    force: bool
    writer: Writer

    @classmethod
    def of(cls, format: str, type: str | None, path: Path, force: bool = False) -> ExportJob:
        """SettingError for an unknown format or type, a missing package, or a wrong path."""
        facts = EXPORT_FORMATS.get(str(format))
        if facts is None:
            raise SettingError(
                f"--format is {', '.join(EXPORT_FORMATS)}, got {format!r:.50}", fix="--format gguf"
            )
        if type is not None and type not in facts.types:
            raise SettingError(
                f"--format {format} is written as {' or '.join(facts.types)}, got --type {type}",
                fix=f"--type {facts.types[0]}",
            )
        writer = writer_of(format)
        job = cls(format, type or facts.types[0], path, force, writer)
        check_output(path, is_folder=job.is_folder, force=force, replaceable=facts.files)
        return job

    @property
    def is_folder(self) -> bool:
        return not EXPORT_FORMATS[self.format].writes_file(self.path)

    def write(self, model: ExportedModel) -> Exported:
        """Write the model. CheckpointError, with nothing written, where that is impossible."""
        if model.n_parameters >= SLOW_PARAMETERS:
            model.notice(f"writing {self.path}: {model.n_parameters:,} parameters as {self.type}")
        try:
            with new_output(self.path, is_folder=self.is_folder, force=self.force) as temporary:
                self.writer(model, self.type, temporary)
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self.path}: {error.strerror or error}",
                fix="choose another --out, or make room there",
            ) from error
        return Exported(str(self.path), self.format, self.type, _size_of(self.path))


def _size_of(path: Path) -> int:
    files: Collection[Path] = [path] if path.is_file() else list(path.iterdir())
    return sum(file.stat().st_size for file in files)
