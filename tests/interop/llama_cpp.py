"""llama.cpp as a reader of GGUF files, through its server in the package xllamacpp."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

xllamacpp = pytest.importorskip("xllamacpp", reason="needs the package xllamacpp")
QUIET = -1


class LlamaCpp:
    """A model of llama.cpp on one thread, for the block.

    is_exact: attention in float32; otherwise as llama.cpp chooses, with keys and values in float16.
    """

    def __init__(self, path: Path, is_exact: bool = False) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = 0  # that of the model
        params.n_parallel = 1
        params.cpuparams.n_threads = 1
        params.warmup = False
        params.verbosity = QUIET
        params.port = 0
        if is_exact:
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        self._server = xllamacpp.Server(params)

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._server

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt, with what llama.cpp adds to it; special tokens are text."""
        content = {"content": text, "add_special": True, "parse_special": False}
        return self._post("/tokenize", content)["tokens"]

    def complete(self, ids: Sequence[int], n_tokens: int, **options: Any) -> dict[str, Any]:
        """The most likely continuation: `tokens`, `content` and `stop_type`, among others."""
        content = {
            "prompt": list(ids),
            "n_predict": n_tokens,
            "samplers": ["top_k"],
            "top_k": 1,
            "cache_prompt": False,
            "return_tokens": True,
            **options,
        }
        return self._post("/completion", content)

    def chat(self, messages: Sequence[dict[str, str]], n_tokens: int) -> dict[str, Any]:
        """The most likely answer to messages: `message` and `finish_reason`, by the template."""
        content = {"messages": list(messages), "max_tokens": n_tokens, "temperature": 0}
        return self._post("/v1/chat/completions", content)["choices"][0]

    def _post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
