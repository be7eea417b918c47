"""How the threads of torch and numpy wait for each other, set before either is loaded.

After each parallel loop the threads of OpenMP wait at a barrier, and by default they do so by spinning: for milliseconds.
On a busy machine a spinning thread uses up the time slice that the thread it waits for needs, and training becomes three
to eight times slower. A short spin costs nothing on a quiet machine: docs/speed.md has the measurements.
"""

from __future__ import annotations

from collections.abc import MutableMapping

SPINS = {
    "GOMP_SPINCOUNT": "1000",  # libgomp (torch on Linux): rounds, about 10 microseconds; its default is 300,000
    "KMP_BLOCKTIME": "0",  # LLVM and Intel (torch on macOS, MKL on Windows): milliseconds; their default is 200
}


def limit_spinning(environment: MutableMapping[str, str]) -> None:
    """Let threads sleep soon where nobody set otherwise, and numpy's BLAS use one thread while a reply is decoded.

    Has an effect only before torch and numpy are imported.
    """
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")  # one core reads memory as fast as it comes
    if "OMP_WAIT_POLICY" not in environment:
        for name, value in SPINS.items():
            environment.setdefault(name, value)
