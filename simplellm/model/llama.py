"""The architecture `llama`: Llama 2 and 3, SmolLM2, TinyLlama."""

from __future__ import annotations

from typing import Any

from simplellm.config.model import ModelConfig
from simplellm.model.architecture import HubConfig
from simplellm.model.llama_family import LlamaFamily


class Llama(LlamaFamily):
    name = "llama"
    model_type = "llama"
    hub_class = "LlamaForCausalLM"

    def own_hub_entries(self, config: ModelConfig) -> HubConfig:
        return {"mlp_bias": config.mlp_bias}

    def facts_of(self, data: HubConfig) -> dict[str, Any]:
        return {
            "attention_bias": data.get("attention_bias", False),
            "mlp_bias": data.get("mlp_bias", False),
        }
