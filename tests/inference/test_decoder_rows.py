"""The decoder gives a token the same bits, whatever other tokens are in the same pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from byte_models import byte_model
from test_decoder import cache_of, without_compiler

from simplellm.inference.decoder import Decoder
from simplellm.inference.places import Part
from simplellm.inference.quantize import quantize
from simplellm.inference.row_operations import MAX_ROWS
from simplellm.model.cache import KVCache
from simplellm.model.transformer import SimpleLLM

LENGTHS = (1, 2, 5, 40, 150)
KINDS = ("float32", "int8", "float32 without a compiler", "int8 without a compiler")


def model_of(architecture: str, kind: str) -> SimpleLLM:
    model = byte_model(architecture, block_size=200, n_head=4)
    return quantize(model) if kind.startswith("int8") else model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["modern", "gpt2", "llama", "qwen2"])
def test_logits_and_caches_do_not_depend_on_the_parts_that_are_read_together(
    architecture, kind, monkeypatch
):
    if kind.endswith("without a compiler"):
        without_compiler(monkeypatch)
    model = model_of(architecture, kind)
    decoder, draw = Decoder(model), np.random.default_rng(0)
    texts = [draw.integers(0, 256, n).tolist() for n in LENGTHS]
    expected, alone = [], []
    for text in texts:
        alone.append(cache_of(model))
        expected.append([decoder.read(alone[-1], [token]).tobytes() for token in text][-1])
    together = [cache_of(model) for _ in texts]
    logits = read_in_random_parts(decoder, texts, together, draw)
    assert logits == expected
    for one, other in zip(alone, together, strict=True):
        assert one.length == other.length
        assert torch.equal(one.keys[:, :, :, : one.length], other.keys[:, :, :, : one.length])
        assert torch.equal(one.values[:, :, :, : one.length], other.values[:, :, :, : one.length])


def read_in_random_parts(
    decoder: Decoder, texts: list[list[int]], caches: list[KVCache], draw: np.random.Generator
) -> list[bytes]:
    """The last logits of each text; the texts are read in parts of random sizes, in one pass."""
    found = [b""] * len(texts)
    while not all(found):
        unread = [number for number in range(len(texts)) if not found[number]]
        room = MAX_ROWS - len(unread)
        parts = []
        for number in unread:
            rest = texts[number][caches[number].length :]
            n = 1 + int(draw.integers(0, min(room, len(rest) - 1) + 1))
            room -= n - 1
            parts.append(Part(caches[number], rest[:n], n == len(rest)))
        for number, logits in zip(unread, decoder.read_parts(parts), strict=True):
            found[number] = b"" if logits is None else logits.tobytes()
    return found


@pytest.mark.parametrize("width", [32, 36, 70])
def test_odd_widths_have_the_same_bits_too(width):
    """Rows of matrices that are no multiple of the vectors of the processor."""
    from test_decoder import random_model

    model = random_model(architecture="gpt2", n_embd=width, n_head=2, block_size=24)
    decoder = Decoder(model)
    ids = list(range(20))
    alone = cache_of(model)
    expected = [decoder.read(alone, [token]).tobytes() for token in ids]
    together = [cache_of(model) for _ in ids]
    parts = [Part(cache, ids[: n + 1], True) for n, cache in enumerate(together[:9])]
    assert [logits.tobytes() for logits in decoder.read_parts(parts)] == expected[:9]
