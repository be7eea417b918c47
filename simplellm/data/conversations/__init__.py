"""Conversations as training data: readers of their formats, and the split for validation."""
