"""Identifiers, times and token counts of responses."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

from simplellm.inference.engine.request import End
from simplellm.storage.json_files import JsonObject


@dataclass(frozen=True)
class ResponseHead:
    """What all parts of a response have in common. prefix: of its identifier."""

    prefix: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: secrets.token_hex(12))

    def to_mapping(self, kind: str) -> JsonObject:
        return {
            "id": f"{self.prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }


@dataclass
class Usage:
    """Token counts of a response. A prompt counts once, also where it has several replies."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def add(self, end: End, is_first: bool) -> None:
        """Count a reply. is_first: of its prompt."""
        self.completion_tokens += end.new_tokens
        if is_first:
            self.prompt_tokens += end.prompt_tokens
            self.cached_tokens += end.cached_tokens

    def to_mapping(self) -> JsonObject:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
