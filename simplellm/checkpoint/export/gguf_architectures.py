"""Architectures by their name in `transformers` as llama.cpp knows them."""

from __future__ import annotations

from dataclasses import dataclass

import gguf
import numpy as np

from simplellm.checkpoint.export.exported_model import ExportedModel
from simplellm.errors import CheckpointError
from simplellm.model.rope import rope_frequencies


@dataclass(frozen=True)
class GgufArchitecture:
    """An architecture of llama.cpp, and what of it llama.cpp can compute.

    has_interleaved_rope: whether it rotates the dimensions (2 i, 2 i + 1) of a head, not
    (i, i + D / 2) as `transformers` does.
    reads_rope_factors: whether it divides each rotary frequency by a factor in the file.
    biases: the matrices that may have one; None is all.
    has_free_head_size: whether n_head * head_size may differ from n_embd.
    """

    arch: gguf.MODEL_ARCH
    has_interleaved_rope: bool = False
    reads_rope_factors: bool = False
    biases: tuple[str, ...] | None = None
    has_free_head_size: bool = True

    @property
    def name(self) -> str:
        return gguf.MODEL_ARCH_NAMES[self.arch]


LLAMA = GgufArchitecture(gguf.MODEL_ARCH.LLAMA, has_interleaved_rope=True, reads_rope_factors=True)
GGUF_ARCHITECTURES = {  # by the model_type of config.json
    "gpt2": GgufArchitecture(gguf.MODEL_ARCH.GPT2),
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": GgufArchitecture(
        gguf.MODEL_ARCH.QWEN2, biases=("q_proj", "k_proj", "v_proj"), has_free_head_size=False
    ),
    "qwen3": GgufArchitecture(gguf.MODEL_ARCH.QWEN3, biases=()),
}


def gguf_architecture(model: ExportedModel) -> GgufArchitecture:
    """The architecture of a model; CheckpointError for what llama.cpp cannot compute."""
    model_type = model.architecture.model_type
    found = GGUF_ARCHITECTURES.get(model_type)
    problem = f"the architecture {model_type}" if found is None else _problem(model, found)
    if found is None or problem:
        raise CheckpointError(
            f"llama.cpp cannot compute {model.name}: it does not support {problem}",
            fix="use --format hf or --format onnx",
        )
    return found


def _problem(model: ExportedModel, found: GgufArchitecture) -> str:
    """What of the model the architecture of llama.cpp lacks; empty for a model that it runs."""
    config = model.config
    if rope_factors(model) is not None and not found.reads_rope_factors:
        return f"scaled rotary frequencies of {found.name}"
    if config.n_head * config.head_size != config.n_embd and not found.has_free_head_size:
        return f"a head_dim of {config.head_size} in {found.name} (only n_embd / n_head)"
    matrices = (name.split(".")[-2] for name in model.tensors if name.endswith("proj.bias"))
    bias = next((name for name in matrices if name not in (found.biases or ())), None)
    return f"biases of {bias} in {found.name}" if bias and found.biases is not None else ""


def rope_factors(model: ExportedModel) -> np.ndarray | None:
    """Divisor of each rotary frequency (D / 2) float32; None where all are 1."""
    config = model.config
    if not config.facts.has_rotary_positions:
        return None
    base = float(model.hub_config["rope_theta"])
    scaled = model.architecture.rope_frequencies(config)
    factors = (rope_frequencies(config.head_size, base) / scaled).astype(np.float32)
    return None if np.allclose(factors, 1.0, rtol=1e-6) else factors
