"""The architecture `modern`: RMSNorm, rotary positions, QK-norm, SwiGLU, no biases.

On disk it is a Qwen3. It differs from an imported one in its initial weights.
"""

from __future__ import annotations

from simplellm.config.model import ModelConfig
from simplellm.model.architecture import HubConfig
from simplellm.model.block import residual_stream_std
from simplellm.model.llama_family import NORM_EPS
from simplellm.model.qwen3 import Qwen3
from simplellm.model.rope import ROPE_BASE

HEAD_STD = 0.02  # of a separate output table, as in GPT-2


class Modern(Qwen3):
    name = "modern"

    def initial_std(self, config: ModelConfig, name: str) -> float:
        """Matrices keep the scale of their input, and each block starts as the identity."""
        if name == "token_embedding.weight":
            return residual_stream_std(config)
        if name == "head.weight":
            return HEAD_STD
        if name.endswith(("attention.proj.weight", "feed_forward.down.weight")):
            return 0.0  # adds nothing to the residual stream
        return config.n_embd**-0.5

    def describes(self, data: HubConfig) -> bool:
        """A config.json written for `modern` states these facts and has no `layer_types`."""
        facts = {"rope_theta": ROPE_BASE, "rms_norm_eps": NORM_EPS, "attention_bias": False}
        has_facts = all(data.get(name) == fact for name, fact in facts.items())
        return super().describes(data) and has_facts and "layer_types" not in data

    def own_hub_entries(self, config: ModelConfig) -> HubConfig:
        return {"use_sliding_window": False}

    def default_context(self, positions: int) -> int:
        return positions
