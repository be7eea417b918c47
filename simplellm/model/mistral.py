"""The architecture `mistral`, for contexts that are not longer than its sliding window.

Within the window, attention is the same as without one (Jiang et al. 2023, "Mistral 7B").
"""

from __future__ import annotations

from typing import Any

from simplellm.config.model import DEFAULT_CONTEXT, ModelConfig
from simplellm.model.architecture import HubConfig, refuse
from simplellm.model.llama_family import LlamaFamily

CLASS_WINDOW = 4096  # default of `transformers` where config.json has no entry


class Mistral(LlamaFamily):
    name = "mistral"
    model_type = "mistral"
    hub_class = "MistralForCausalLM"

    def own_hub_entries(self, config: ModelConfig) -> HubConfig:
        return {"sliding_window": config.sliding_window}

    def from_hub_config(self, data: HubConfig, context: int | None = None) -> ModelConfig:
        window = data.get("sliding_window", CLASS_WINDOW)
        used = min(data["max_position_embeddings"], context or DEFAULT_CONTEXT)
        if window is not None and window < used:
            refuse(
                f"a sliding window of {window} tokens in a context of {used}",
                f"--context {window} or less",
            )
        return super().from_hub_config(data, context)

    def facts_of(self, data: HubConfig) -> dict[str, Any]:
        return {"sliding_window": data.get("sliding_window", CLASS_WINDOW)}
