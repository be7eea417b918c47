"""Facts about each export format that the command line needs; its module writes it.

An export format is added by one module in checkpoint/export/, one entry here and one line in
checkpoint/export/writers.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True)
class ExportFormat:
    """summary: for help texts. types: number formats of the weights, the default first.

    file_suffix: a path with this suffix is one file; "" where the format is always a folder.
    is_file: whether a path without the suffix is a file as well.
    files: what the folder may contain.
    """

    summary: str
    types: tuple[str, ...]
    file_suffix: str = ""
    is_file: bool = False
    files: tuple[str, ...] = ()

    def writes_file(self, path: PurePath) -> bool:
        """Whether the export to `path` is one file; otherwise it is a folder."""
        return self.is_file or (bool(self.file_suffix) and path.suffix.lower() == self.file_suffix)


MODEL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja",
)  # fmt: skip
EXPORT_FORMATS = {
    "gguf": ExportFormat(
        "llama.cpp and Ollama", ("f32", "f16", "bf16", "q8_0"), file_suffix=".gguf", is_file=True
    ),
    "onnx": ExportFormat(
        "ONNX Runtime",
        ("f32",),
        file_suffix=".onnx",
        files=(*MODEL_FILES, "model.onnx", "model.onnx_data"),
    ),
    "hf": ExportFormat(
        "a model folder for transformers",
        ("f32", "f16", "bf16"),
        files=(*MODEL_FILES, "model.safetensors", "README.md"),
    ),
}
EXPORT_TYPES = tuple(dict.fromkeys(name for each in EXPORT_FORMATS.values() for name in each.types))
