"""Declarations of all settings, and the recipe that chooses their values. Without torch."""
