"""Post-processor of a tokenizer.json: the special tokens that `AutoTokenizer` puts before a text.

Llama 3 begins each text with <|begin_of_text|>; most models with byte-level BPE have no such token.
Tokens after the text are left out, because a reply continues it.
"""

from __future__ import annotations

from typing import Any

from simplellm.errors import TokenizerError
from simplellm.storage.json_files import JsonObject

MAX_BOS_TOKENS = 8  # of real models: 1


def bos_ids_of(post_processor: JsonObject | None, n_ids: int) -> tuple[int, ...]:
    """Ids of the special tokens before a text.

    n_ids: highest id of the tokenizer + 1; TokenizerError for ids above it.
    """
    ids: list[int] = []
    for step in _steps(post_processor):
        ids = [*_ids_before_text(step), *ids]
    if len(ids) > MAX_BOS_TOKENS or any(type(x) is not int or not 0 <= x < n_ids for x in ids):
        raise TokenizerError("the tokenizer puts tokens before a text that it does not have")
    return tuple(ids)


def bos_processor(name: str, number: int) -> JsonObject:
    """A step that puts the special token `name` with the id `number` before each text."""
    first = [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = [{"SpecialToken": {"id": name, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, *second],
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}},
    }


def _steps(processor: JsonObject | None) -> list[JsonObject]:
    """The steps of a Sequence, in their order, or the one step that it is."""
    if not processor:
        return []
    if "processors" in processor:
        return [inner for step in processor["processors"] for inner in _steps(step)]
    return [processor]


def _ids_before_text(step: JsonObject) -> list[Any]:
    kind = step.get("type")
    if kind in ("BertProcessing", "RobertaProcessing"):
        return [step["cls"][1]]
    ids: list[Any] = []
    if kind == "TemplateProcessing":
        for part in step["single"]:
            if "SpecialToken" not in part:
                break
            ids += step["special_tokens"][part["SpecialToken"]["id"]]["ids"]
    return ids
