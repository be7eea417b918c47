"""Train a small language model on your own text, on the machine you have, and talk to it in the terminal."""

__version__ = "0.1.0"
