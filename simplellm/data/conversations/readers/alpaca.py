"""The format `alpaca`: an instruction, an optional input, and the output.

    {"instruction": "Translate into Korean.", "input": "Good morning", "output": "좋은 아침이에요."}

The input follows the instruction after an empty line. `context` is another name of `input`, and
`response` of `output` (Dolly). `system` is the system message; `history` is a list of earlier
[prompt, reply] pairs.
"""

from __future__ import annotations

from typing import Any

from simplellm.data.conversations.conversation import ASSISTANT, USER, Turn
from simplellm.data.conversations.found import BadRecord, keys_of
from simplellm.data.conversations.readers.prompt_completion import before
from simplellm.data.conversations.readers.roles import refuse_tools

INPUT_KEYS = ("input", "context")
OUTPUT_KEYS = ("output", "response", "completion")


def fits(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("instruction"), str)
        and any(isinstance(record.get(key), str) for key in OUTPUT_KEYS)
    )


def turns(record: Any) -> list[Turn]:
    if not fits(record):
        found = f"its keys: {keys_of(record)}" if isinstance(record, dict) else "no JSON object"
        raise BadRecord(f'has no texts "instruction" and "output"; {found}')
    refuse_tools(record)
    parts = [record["instruction"], _first_text(record, INPUT_KEYS)]
    prompt = "\n\n".join(part.strip() for part in parts if part.strip())
    reply = _first_text(record, OUTPUT_KEYS).strip()
    return [*before(record), Turn(USER, prompt), Turn(ASSISTANT, reply)]


def _first_text(record: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((record[key] for key in keys if isinstance(record.get(key), str)), "")
