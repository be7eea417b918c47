"""Whether a run was trained on single questions, so that a chat does not keep earlier turns."""

from __future__ import annotations

from simplellm.base.packaged import BASE
from simplellm.checkpoint.run import RunFolder
from simplellm.errors import CheckpointError

SINGLE_TURN_REPLIES = 1.25  # replies in a conversation, up to which a run is of single questions


def is_single_turn(run: RunFolder) -> bool:
    """Whether a run was trained on conversations of one question and one reply, with few others.

    Such a model has never seen a turn before a question: with kept turns, one on chatterbot-corpus
    gave 2 of 20 training replies, and without 19. Not so an open model, which knows longer chats.
    """
    try:
        info = run.read_info()
        read = info["conversations"]
        is_open = info["from"] not in (None, BASE)
        return not is_open and read["replies"] <= SINGLE_TURN_REPLIES * read["conversations"]
    except (CheckpointError, KeyError, TypeError):
        return False
