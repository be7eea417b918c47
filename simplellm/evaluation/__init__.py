"""Measurements and reports of trained models."""
