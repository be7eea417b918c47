"""What a checkpoint states about generation: special tokens and the chat template.

In files: generation_config.json (or config.json) and chat_template.jinja (or an entry of
tokenizer_config.json), as `transformers` reads and writes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simplellm.data.chat_template import ChatTemplate
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError, SimpleLLMError
from simplellm.storage.json_files import JsonMapping, JsonObject, read_json

TEMPLATE_FILE = "chat_template.jinja"
MAX_TEMPLATE_BYTES = 1 << 20  # those of real models have less than 20 kB
MAX_TOKEN_ID = 1 << 31


@dataclass(frozen=True)
class Generation:
    """eos_ids: tokens that end a reply. bos_id: the token before a text, if there is one.

    chat_template: a jinja2 template; None for a model without.
    """

    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    chat_template: str | None = None

    def template(self, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The chat template with its variables; None for a model without."""
        if self.chat_template is None:
            return None
        bos = None if self.bos_id is None else tokenizer.special_text(self.bos_id)
        eos = tokenizer.special_text(self.eos_ids[0] if self.eos_ids else tokenizer.end_of_text)
        return ChatTemplate(self.chat_template, bos or "", eos or "")

    def end_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """Tokens that end a reply: those that are stated, and the one of the template.

        A template that cannot be used has none; that is reported where it is used.
        """
        found: frozenset[int] = frozenset()
        with contextlib.suppress(SimpleLLMError):
            template = self.template(tokenizer)
            found = template.end_ids(tokenizer) if template else found
        return found.union(self.eos_ids)

    def special_ids(self, end_of_text: int) -> JsonObject:
        """The entries of config.json and generation_config.json.

        `end_of_text` is both where nothing is known.
        """
        if not self.eos_ids:
            bos = end_of_text if self.bos_id is None else self.bos_id
            return {"bos_token_id": bos, "eos_token_id": end_of_text}
        eos = self.eos_ids[0] if len(self.eos_ids) == 1 else list(self.eos_ids)
        return {"bos_token_id": self.bos_id, "eos_token_id": eos}


NOTHING_STATED = Generation()


def read_generation(folder: Path, config: JsonMapping) -> Generation:
    """From the files of a model folder; `config` is the content of its config.json.

    CheckpointError for ids that are not tokens, and for a template that is not text.
    """
    path = folder / "generation_config.json"
    stated: Mapping[str, Any] = {**config, **(_not_null(path) if path.is_file() else {})}
    return Generation(
        _ids(stated.get("eos_token_id"), path),
        next(iter(_ids(stated.get("bos_token_id"), path)), None),
        _chat_template(folder),
    )


def _not_null(path: Path) -> JsonObject:
    return {name: value for name, value in read_json(path).items() if value is not None}


def _ids(value: Any, path: Path) -> tuple[int, ...]:
    """One id, several, or none."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(number) is not int or not 0 <= number < MAX_TOKEN_ID for number in ids):
        raise CheckpointError(
            f"{path.parent} names special tokens that are no ids: {value!r}"[:200]
        )
    return tuple(ids)


def _chat_template(folder: Path) -> str | None:
    path = folder / TEMPLATE_FILE
    if path.is_file():
        return _read_template(path)
    path = folder / "tokenizer_config.json"
    template = read_json(path).get("chat_template") if path.is_file() else None
    if isinstance(template, list):  # several by name
        named = {
            item.get("name"): item.get("template") for item in template if isinstance(item, dict)
        }
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise CheckpointError(f"{path} has a chat_template that is not a text")
    return template


def _read_template(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TEMPLATE_BYTES:
            raise CheckpointError(f"{path} is not a chat template: it is too large")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not a chat template: it is not UTF-8") from error
