"""The export formats by name, each with the function that writes it.

Packages that only some formats need are imported here, when a format is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from simplellm.checkpoint.export.exported_model import ExportedModel
from simplellm.errors import SettingError

Writer = Callable[[ExportedModel, str, Path], None]  # model, type, file or existing empty folder


def writer_of(format: str) -> Writer:
    """The writer of a format; SettingError where a package that it needs is missing."""
    try:
        return WRITERS[format]()
    except ImportError as error:
        package = error.name or str(error)
        raise SettingError(
            f"--format {format} needs the package {package}", fix='pip install "simplellm[export]"'
        ) from error


def _gguf() -> Writer:
    from simplellm.checkpoint.export import gguf_file

    return gguf_file.write


def _onnx() -> Writer:
    from simplellm.checkpoint.export import onnx_model

    return onnx_model.write


def _hf() -> Writer:
    from simplellm.checkpoint.export import hf_folder

    return hf_folder.write


WRITERS: dict[str, Callable[[], Writer]] = {
    "gguf": _gguf,
    "onnx": _onnx,
    "hf": _hf,
}
