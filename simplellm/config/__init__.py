"""Declarations of every setting, and the recipe that chooses their values. Does not import torch."""
