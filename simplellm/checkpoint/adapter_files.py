"""The folder adapter/ of a checkpoint: the adapters of a LoRA run in the format of `peft`.

`PeftModel.from_pretrained(base, STEP_FOLDER / "adapter")` opens them on the base model.
"""

from __future__ import annotations

from typing import Any

from simplellm.checkpoint.tensors import State, tensors_bytes
from simplellm.model.lora import adapted_layers, adapted_tables
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.json_files import json_bytes

ADAPTER_FOLDER = "adapter"
CONFIG_FILE = f"{ADAPTER_FOLDER}/adapter_config.json"
WEIGHTS_FILE = f"{ADAPTER_FOLDER}/adapter_model.safetensors"
PREFIX = "base_model.model."  # of the names of all tensors in peft's files
TRAINED_ROWS = "token_adapter.trainable_tokens_delta"  # in place of those of the base


def adapter_files(model: SimpleLLM, base_name: str) -> dict[str, bytes]:
    """The content of each file by name; none for a model without adapters.

    base_name: of the base model, on the hub or as a path.
    """
    lora = next((layer.lora for _, layer in adapted_layers(model)), None)
    if lora is None:
        return {}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "revision": None,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted(lora.targets),
        "fan_in_fan_out": model.architecture.hub_names.has_transposed_matrices,
        "bias": "none",
        "init_lora_weights": True,
        "use_rslora": False,
        "modules_to_save": None,
        "trainable_token_indices": _trained_tokens(model) or None,
    }
    return {
        CONFIG_FILE: json_bytes(config),
        WEIGHTS_FILE: tensors_bytes(adapter_tensors(model), {"format": "pt"}),
    }


def _trained_tokens(model: SimpleLLM) -> dict[str, list[int]]:
    """The tokens whose rows are trained, by the last part of the name of each table."""
    names = model.architecture.hub_names.modules
    return {
        names[name].rpartition(".")[2]: table.new_ids.tolist()
        for name, table in adapted_tables(model)
    }


def adapter_tensors(model: SimpleLLM) -> State:
    """The trained tensors by their names in `peft`.

    A (R, columns) and B (rows, R) of each adapted matrix, and the trained rows of the tables.
    """
    names = model.architecture.hub_names
    tensors: State = {
        f"{PREFIX}{names.modules[name]}.{TRAINED_ROWS}": table.new_rows.detach().cpu()
        for name, table in adapted_tables(model)
    }
    for name, layer in adapted_layers(model):
        _, number, path = name.split(".", 2)
        for i, a, b in layer.adapters():
            module = f"{PREFIX}{names.block_prefix}{number}.{names.block_modules[path][i]}"
            tensors[f"{module}.lora_A.weight"] = a.cpu().contiguous()
            tensors[f"{module}.lora_B.weight"] = b.cpu().contiguous()
    return tensors
