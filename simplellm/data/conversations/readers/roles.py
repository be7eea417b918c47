"""Names of roles in data sets, and what is refused by name: tool calls, pictures and sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simplellm.data.conversations.conversation import ASSISTANT, ROLES, SYSTEM, USER
from simplellm.data.conversations.found import MAX_QUOTE, BadRecord

ROLE_NAMES = {
    SYSTEM: ("system", "developer"),
    USER: ("user", "human", "prompter", "customer"),
    ASSISTANT: (
        "assistant", "gpt", "chatgpt", "bing", "bard", "claude", "bot", "chatbot", "model", "ai",
    ),
}  # fmt: skip
ROLE_OF_NAME = {name: role for role, names in ROLE_NAMES.items() for name in names}
TOOL_ROLES = (
    "tool", "tools", "function", "function_call", "function_response", "function-call",
    "function-response", "tool_call", "tool_calls", "tool_response", "tool_result", "observation",
    "ipython",
)  # fmt: skip
TOOL_KEYS = ("tool_calls", "function_call", "tools", "functions", "tool_call_id")
NO_TOOLS = "leave these conversations out of the file, or use --skip-bad"


def role_of(name: Any) -> str:
    """The role that a data set calls `name`; BadRecord if there is none."""
    if not isinstance(name, str):
        raise BadRecord("has a turn without a role")
    key = name.strip().lower()
    if key in TOOL_ROLES:
        raise BadRecord(
            f"has a turn of the role {key!r}: tool calls are not supported", fix=NO_TOOLS
        )
    if key not in ROLE_OF_NAME:
        known = ", ".join(ROLES)
        raise BadRecord(f"has the unknown role {name[:MAX_QUOTE]!r}; known are {known}")
    return ROLE_OF_NAME[key]


def refuse_tools(mapping: Mapping[str, Any]) -> None:
    """BadRecord if a record or a message has tools or calls of them."""
    for key in TOOL_KEYS:
        if mapping.get(key):
            names = _function_names(mapping[key])
            raise BadRecord(f"has {key!r}{names}: tool calls are not supported", fix=NO_TOOLS)


def _function_names(value: Any) -> str:
    """` of NAME` for the first function that is called or declared, where it has a name."""
    first = value[0] if isinstance(value, list) else value
    if isinstance(first, dict):
        function = first.get("function", first)
        name = function.get("name") if isinstance(function, dict) else None
        return f" of {name[:MAX_QUOTE]!r}" if isinstance(name, str) else ""
    return ""


def text_of(content: Any) -> str:
    """The text of a message: a text, null, or a list of text parts; BadRecord for anything else."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part(part) for part in content)
    raise BadRecord(f"has a turn whose content is no text but {type(content).__name__}")


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise BadRecord(f"has a part of a turn that is no text but {type(part).__name__}")
    kind = part.get("type", "text")
    if kind not in ("text", "input_text", "output_text"):
        raise BadRecord(
            f"has a part of the type {str(kind)[:MAX_QUOTE]!r}: only text is supported",
            fix=NO_TOOLS,
        )
    text = part.get("text", part.get("content"))
    if not isinstance(text, str):
        raise BadRecord(f"has a part of a turn that is no text but {type(text).__name__}")
    return text
