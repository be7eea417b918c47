"""Limits and statistics of the engine."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class EngineLimits:
    """What the engine may use.

    max_running: replies that are computed together. max_waiting: requests that wait for them.
    kv_bytes: keys and values of the running replies; a request that does not fit waits. One reply
    may always run. prefix_cache_bytes: keys and values of earlier texts.
    """

    max_running: int = 16
    max_waiting: int = 64
    kv_bytes: int = 2048 * MEBIBYTE
    prefix_cache_bytes: int = 512 * MEBIBYTE


@dataclass(frozen=True)
class Statistics:
    """The state of the engine now, and counts since its start.

    kv_bytes: reserved for the running replies. prefix_cache_bytes: of stored prefixes.
    prompt_tokens: of the requests that were started; cached_tokens of them were taken from the
    prefix cache. generated_tokens: with those that end a reply. steps: forward passes.
    """

    running: int = 0
    waiting: int = 0
    kv_bytes: int = 0
    prefix_cache_bytes: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    requests: int = 0
