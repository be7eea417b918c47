"""Slash commands of the chat, in modules by topic."""
