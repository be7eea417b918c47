"""The commands that show what the model thinks."""

from __future__ import annotations

from simplellm.app.command import Command

INSIGHT_COMMANDS: tuple[Command, ...] = ()
