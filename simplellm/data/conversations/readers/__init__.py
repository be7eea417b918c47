"""Readers of conversation formats: one module for each format, and the registry of all."""
