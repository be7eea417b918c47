"""Random numbers in tests, derived from the name of the running test.

A test does the same each time, whatever ran before it. A reply without a seed would otherwise
differ in its text and length, which may be that of an early end.
"""

from __future__ import annotations

import os
import random
import zlib


class SeedsOfTests:
    """The part of the module `secrets` that a reply uses. A test draws the same seeds each time.

    pytest keeps the name of the running test in an environment variable, which the copies of the
    fork server get too.
    """

    def __init__(self) -> None:
        self._name = ""
        self._random = random.Random()

    def randbits(self, n_bits: int) -> int:
        name = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]  # without the phase
        if name != self._name:
            self._name, self._random = name, random.Random(name)
        return self._random.getrandbits(n_bits)


def seed_libraries(name: str) -> None:
    """Seed the generators of Python, NumPy and torch that a test may use without its own."""
    import numpy as np
    import torch

    seed = zlib.crc32(name.encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
