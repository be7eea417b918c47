"""Train a small language model on your own text, on the machine you have, and talk to it.

The names below are the public Python API. Importing the package imports none of them: torch is
loaded at the first use of one that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simplellm.api import Model, Run, load, train
    from simplellm.config.sampling import SamplingParams
    from simplellm.errors import SimpleLLMError

__version__ = "0.1.0"
__all__ = ["Model", "Run", "SamplingParams", "SimpleLLMError", "load", "train"]


def __getattr__(name: str) -> Any:
    if name == "SimpleLLMError":
        from simplellm.errors import SimpleLLMError

        return SimpleLLMError
    if name == "SamplingParams":
        from simplellm.config.sampling import SamplingParams

        return SamplingParams
    if name in __all__:
        _prepare_environment()
        from simplellm import api

        return getattr(api, name)
    raise AttributeError(f"module 'simplellm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _prepare_environment() -> None:
    """Set what torch reads once, when it is first imported, as the command line does."""
    import os
    import sys

    if "torch" not in sys.modules:
        from simplellm.config.environment import set_defaults

        set_defaults(os.environ)
