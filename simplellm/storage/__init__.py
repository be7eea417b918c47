"""Atomic file writes, locks, manifests and header checks."""
