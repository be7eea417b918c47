"""The architectures by name."""

from __future__ import annotations

from simplellm.model.architecture import Architecture
from simplellm.model.gpt2 import GPT2
from simplellm.model.llama import Llama
from simplellm.model.mistral import Mistral
from simplellm.model.modern import Modern
from simplellm.model.qwen2 import Qwen2
from simplellm.model.qwen3 import Qwen3

# `modern` stands before `qwen3`, which it is on disk: the first that describes a config.json counts
ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (Modern(), GPT2(), Llama(), Mistral(), Qwen2(), Qwen3())
}
