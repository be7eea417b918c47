"""The folder RUN/base of a LoRA run: the frozen model that its adapters belong to.

Checkpoints hold the merged model, from which the base cannot be computed exactly. With a copy of
its own a run can be resumed bit for bit also where the model of --from has been changed or deleted.
`transformers` opens the folder. It has a manifest, like a checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from simplellm.checkpoint.adapter_files import ADAPTER_FOLDER
from simplellm.checkpoint.generation import Generation
from simplellm.checkpoint.importing.weight_files import WEIGHTS_FILE
from simplellm.checkpoint.model_weights import are_bfloat16, lazy_weights
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import (
    description_files,
    open_model,
    verify_checkpoint,
)
from simplellm.checkpoint.tensors import tensor_chunks
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError, SimpleLLMError
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.files import discard_folder, new_folder
from simplellm.storage.manifest import ManifestWriter, verify_manifest

FOLDER = "base"


def frozen_base(run: RunFolder) -> Path:
    return run.path / FOLDER


def write_frozen_base(
    run: RunFolder, model: SimpleLLM, tokenizer: Tokenizer, generation: Generation
) -> None:
    """Write the weights of `model`, whose adapters have not been trained yet.

    In bfloat16 where that holds the same numbers, otherwise in float32.
    """
    discard_frozen_base(run)
    folder = frozen_base(run)
    dtype = torch.bfloat16 if are_bfloat16(model) else torch.float32
    dtype_name = str(dtype).removeprefix("torch.")
    with new_folder(folder) as temporary:
        files = ManifestWriter(temporary)
        described = description_files(model.config, tokenizer, dtype_name, generation)
        for name, data in described.items():
            files.write(name, data)
        chunks = tensor_chunks(lazy_weights(model, dtype), {"format": "pt"})
        files.write_chunks(WEIGHTS_FILE, chunks)
        files.finish()


def has_frozen_base(run: RunFolder) -> bool:
    """Whether the run trains adapters, as its checkpoints show, or has a folder of this name."""
    has_adapters = any((folder / ADAPTER_FOLDER).is_dir() for folder in run.step_folders())
    return has_adapters or frozen_base(run).exists()


def verify_frozen_base(run: RunFolder) -> None:
    """CheckpointError unless the folder is whole and has its manifest."""
    verify_manifest(frozen_base(run))
    verify_checkpoint(frozen_base(run))


def discard_frozen_base(run: RunFolder) -> None:
    """Delete the folder where a run that ended before it saved anything has left it."""
    if frozen_base(run).exists():
        discard_folder(frozen_base(run))


def read_frozen_base(run: RunFolder) -> dict[str, Tensor]:
    """The weights of the base by name, in float32; CheckpointError where they are not intact."""
    folder = frozen_base(run)
    try:
        verify_manifest(folder)  # a folder without one would be read as a model from elsewhere
        return open_model(folder, torch.device("cpu")).model.state_dict()
    except SimpleLLMError as error:
        raise CheckpointError(
            f"run {run.name} trains adapters of the model in {folder}, which is unusable: {error}",
            fix=f"put the folder back, or train TEXT --from {run.name}, which starts anew from its "
            "best checkpoint",
        ) from error
