"""Readers of models in other formats: one module for each format, all with the same result."""
