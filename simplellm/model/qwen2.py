"""The architecture `qwen2` (Qwen 2 and 2.5): biases of queries, keys and values."""

from __future__ import annotations

from simplellm.config.model import ModelConfig
from simplellm.model.architecture import HubConfig
from simplellm.model.llama_family import LlamaFamily, full_attention


class Qwen2(LlamaFamily):
    name = "qwen2"
    model_type = "qwen2"
    hub_class = "Qwen2ForCausalLM"
    has_qkv_bias = True

    def own_hub_entries(self, config: ModelConfig) -> HubConfig:
        return full_attention(config)
