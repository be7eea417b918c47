"""The architecture `qwen3`: QK-norm (Yang et al. 2025, "Qwen3 technical report")."""

from __future__ import annotations

from typing import Any

from simplellm.config.model import ModelConfig
from simplellm.model.architecture import HubConfig
from simplellm.model.llama_family import LlamaFamily, full_attention


class Qwen3(LlamaFamily):
    name = "qwen3"
    model_type = "qwen3"
    hub_class = "Qwen3ForCausalLM"
    has_qk_norm = True

    def own_hub_entries(self, config: ModelConfig) -> HubConfig:
        return full_attention(config)

    def facts_of(self, data: HubConfig) -> dict[str, Any]:
        return {"attention_bias": data.get("attention_bias", False)}
