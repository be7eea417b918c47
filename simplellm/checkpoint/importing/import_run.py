"""Makes a run of a model from elsewhere: one checkpoint, whose weights keep their format."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from simplellm.checkpoint.hugging_face import check_tensors, to_hub_state
from simplellm.checkpoint.importing.chat_template import check_template
from simplellm.checkpoint.importing.source_model import SourceModel
from simplellm.checkpoint.importing.weight_files import WEIGHTS_FILE
from simplellm.checkpoint.run import RUN_VERSION, RunFolder
from simplellm.checkpoint.step_folder import description_files, empty_model
from simplellm.checkpoint.step_names import step_name
from simplellm.checkpoint.tensors import LazyTensor, tensor_chunks
from simplellm.errors import CheckpointError
from simplellm.storage.files import discard_folder, new_folder, write_file
from simplellm.storage.json_files import JsonObject, json_bytes
from simplellm.storage.manifest import ManifestWriter

STEP = 0  # no step of training was done here


def import_run(source: SourceModel, run: RunFolder, facts: Mapping[str, Any]) -> tuple[Path, int]:
    """Write the run as a whole; returns its checkpoint and the number of its parameters.

    A failure leaves nothing behind.

    facts: further entries of run.json, such as the command.
    """
    tensors, n_parameters = _weights_of(source)
    if source.generation.chat_template is not None:
        check_template(source.generation.chat_template, source.source)
    if run.path.exists():  # remains of a run that never saved; `new_run` has checked it
        discard_folder(run.path)
    try:
        with new_folder(run.path) as folder:
            checkpoint = folder / step_name(STEP)
            checkpoint.mkdir()
            digests = _write_checkpoint(checkpoint, source, tensors)
            info = {**_info(source, digests, n_parameters), **facts}
            write_file(folder / "run.json", json_bytes({"version": RUN_VERSION, **info}))
            pointer = json_bytes({"step": STEP, "path": step_name(STEP)})
            for name in ("best.json", "last.json"):
                write_file(folder / name, pointer)
    except FileExistsError as error:
        raise CheckpointError(
            f"run {run.name} already exists", fix="choose another --name"
        ) from error
    return run.path / step_name(STEP), n_parameters


def _weights_of(source: SourceModel) -> tuple[dict[str, LazyTensor], int]:
    """The tensors that the model has, in its order, and the number of its parameters."""
    model = empty_model(source)
    template = model.state_dict()
    found = check_tensors(source.tensors, template, source.config, source.source)
    expected = to_hub_state(template, source.config)
    return {name: found[name] for name in expected}, model.n_parameters


def _write_checkpoint(
    folder: Path, source: SourceModel, tensors: Mapping[str, LazyTensor]
) -> dict[str, str]:
    """Returns the SHA-256 of each file."""
    dtype = next(iter(tensors.values())).dtype
    files = ManifestWriter(folder)
    described = description_files(
        source.config, source.tokenizer, str(dtype).removeprefix("torch."), source.generation
    )
    for name, data in described.items():
        files.write(name, data)
    files.write_chunks(WEIGHTS_FILE, tensor_chunks(tensors, {"format": "pt"}))
    files.finish()
    return files.digests()


def _info(source: SourceModel, digests: Mapping[str, str], n_parameters: int) -> JsonObject:
    """The content of run.json."""
    return {
        "started_at": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
        "imported": {"source": _absolute(source.source), "fingerprint": dict(digests)},
        "model": source.config.to_mapping(),
        "parameters": n_parameters,
    }


def _absolute(source: str) -> str:
    """The path of a local source from the root; a name on the hub stays."""
    return str(Path(source).resolve()) if Path(source).exists() else source
