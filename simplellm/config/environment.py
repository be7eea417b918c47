"""Defaults of environment variables that torch, numpy and OpenMP read once, when they are loaded.

Importing this package changes no environment variable. A program calls `set_defaults(os.environ)`
before it imports torch or numpy, as the command line does.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from simplellm.config.processor_time import busy_seconds

SHORT_SPIN = "1000"  # rounds, about 10 microseconds; the default of libgomp is 300,000


def set_defaults(environment: MutableMapping[str, str]) -> None:
    """Set the variables that are not set yet.

    - torch: operators that Apple's GPU lacks run on the CPU.
    - torch: its C++ parts write no warnings; what concerns a user is reported by this package.
    - numpy's BLAS: one thread, which already uses the whole memory bandwidth in decoding.
    - OpenMP of LLVM and Intel (torch on macOS and Windows): waiting threads sleep at once instead
      of after 200 ms.
    - libgomp (torch on Linux): waiting threads spin briefly, where the load of the machine cannot
      be measured. Elsewhere training/threads.py adapts the waiting to the load.
    """
    environment.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("KMP_BLOCKTIME", "0")
        if busy_seconds() is None:
            environment.setdefault("GOMP_SPINCOUNT", SHORT_SPIN)
