"""Prompts as typed: one rule for the chat, `--prompt TEXT` and `--prompt -`.

The model gets the text as typed, with its spaces, but without one line end at its end: editors,
`echo` and pastes add it.
"""

from __future__ import annotations

ABOUT_SPACE = (
    "the prompt ends in white space; replies are usually better without it, because the space "
    "before a word is part of its token"
)
LINE_ENDS = ("\r\n", "\n", "\r")


def without_line_end(text: str) -> str:
    """`text` without the line end at its end, if it has one."""
    line_end = next((end for end in LINE_ENDS if text.endswith(end)), "")
    return text.removesuffix(line_end)


def notes_on(prompt: str) -> list[str]:
    """Notices for the user about a prompt, before the reply."""
    ends_in_space = prompt[-1:].isspace() and prompt[-1] not in "\r\n"
    return [ABOUT_SPACE] if ends_in_space else []
