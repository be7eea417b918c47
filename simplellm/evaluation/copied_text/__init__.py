"""Passages of a reply that are copied word for word from the training text."""
