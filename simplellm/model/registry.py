"""The architectures by name."""

from __future__ import annotations

from simplellm.model.architecture import Architecture
from simplellm.model.gpt2 import GPT2
from simplellm.model.modern import Modern

ARCHITECTURES: dict[str, Architecture] = {
    "modern": Modern(),
    "gpt2": GPT2(),
}
