"""Train a small language model on your own text, on the machine you have, and talk to it in the terminal."""

import os

__version__ = "0.1.0"

# Operators that Apple's GPU lacks run on the CPU; torch reads this once, when it is first imported.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
