"""Settings of LoRA that fit a model: which matrices are adapted, and up to which rank."""

from __future__ import annotations

from simplellm.config.model import ModelConfig
from simplellm.config.training import TrainConfig
from simplellm.errors import SettingError

ALL = "all"


def adapted_matrices(config: TrainConfig, model: ModelConfig) -> tuple[str, ...]:
    """Names of the matrices that get adapters, as in `transformers`; none without LoRA.

    SettingError for a name that the model does not have, and for a rank above the size of a matrix.
    """
    if not config.lora:
        return ()
    shapes = matrix_shapes(model)
    names = tuple(dict.fromkeys(name.strip() for name in config.lora_targets.split(",")))
    if names == (ALL,):
        names = tuple(shapes)
    for name in names:
        if name not in shapes:
            raise SettingError(
                f"lora_targets are all, or names of matrices of {model.architecture}, "
                f"got {name[:50]!r}",
                fix=f"--lora-targets {','.join(shapes)}, or some of them",
            )
        if config.lora > min(shapes[name]):
            n_rows, n_columns = shapes[name]
            raise SettingError(
                f"lora is at most {min(shapes[name])} for {name}, a matrix of "
                f"{n_rows} x {n_columns}, got {config.lora}",
                fix="use a lower --lora, or leave the matrix out of --lora-targets",
            )
    return names


def matrix_shapes(model: ModelConfig) -> dict[str, tuple[int, int]]:
    """Rows and columns of the matrices of a block, by name.

    The smaller of the two matrices of a gpt2 block that are called c_proj.
    """
    width, inner = model.n_embd, model.inner_size
    n_queries, n_keys = model.n_head * model.head_size, model.kv_heads * model.head_size
    if model.architecture == "gpt2":
        return {
            "c_attn": (n_queries + 2 * n_keys, width),
            "c_proj": (width, min(n_queries, inner)),
            "c_fc": (inner, width),
        }
    return {
        "q_proj": (n_queries, width),
        "k_proj": (n_keys, width),
        "v_proj": (n_keys, width),
        "o_proj": (width, n_queries),
        "gate_proj": (inner, width),
        "up_proj": (inner, width),
        "down_proj": (width, inner),
    }
