"""The model card of an exported folder: README.md as Hugging Face reads it.

It has nothing that names a person, a machine or a path: texts are named by their SHA-256 only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from simplellm import __version__
from simplellm.checkpoint.export.exported_model import ExportedModel
from simplellm.config.model import ModelConfig
from simplellm.config.training import TrainConfig

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- simplellm
---

# {name}

A language model with {parameters:,} parameters, architecture `{architecture}`, a vocabulary of
{vocabulary:,} tokens and a context of {context:,} tokens. Exported with SimpleLLM {version};
weights in {type}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
```
{sections}"""
FIGURES = {  # names in best.json -> what the card calls them
    "step": "training steps",
    "bits_per_byte": "bits per byte on held-out text",
    "val_loss": "loss on held-out text (nats per token)",
    "perplexity": "perplexity on held-out text",
    "accuracy": "share of tokens that were the most likely one",
}
SHA256 = re.compile(r"[0-9a-f]{64}")
WORD = re.compile(r"[\w.-]{1,40}")  # the choices of a setting


def model_card(model: ExportedModel, type: str) -> str:
    """The text of README.md."""
    return CARD.format(
        name=model.name,
        parameters=model.n_parameters,
        architecture=model.hub_config["architectures"][0],
        vocabulary=model.config.vocab_size,
        context=model.config.positions,
        version=__version__,
        type=type,
        sections="".join(_sections(model)),
    )


def _sections(model: ExportedModel) -> Iterator[str]:
    texts = list(_text_rows(model))
    if texts:
        yield _table("Training text", ("SHA-256 of the text", "characters"), texts)
    figures = list(_figure_rows(model))
    if figures:
        yield _table("Results", ("figure", "value"), figures)
    settings = list(_setting_rows(model))
    if settings:
        yield _table("Settings", ("setting", "value"), settings)


def _text_rows(model: ExportedModel) -> Iterator[tuple[str, str]]:
    """Digest and length of each training text of the run, and of a separate validation text."""
    files = model.info.get("files")
    for file in files if isinstance(files, list) else []:
        digest, characters = (
            (file.get("sha256"), file.get("characters")) if isinstance(file, dict) else ("", "")
        )
        if SHA256.fullmatch(str(digest)) and isinstance(characters, int):
            yield f"`{digest}`", f"{characters:,}"
    held_out = model.info.get("val_fingerprint")
    for digest in held_out.values() if isinstance(held_out, dict) else []:
        if SHA256.fullmatch(str(digest)):
            yield f"`{digest}`", "held out"


def _figure_rows(model: ExportedModel) -> Iterator[tuple[str, str]]:
    for name, title in FIGURES.items():
        figure = model.figures.get(name)
        if isinstance(figure, (int, float)):
            yield title, f"{figure:.5g}" if isinstance(figure, float) else f"{figure:,}"


def _setting_rows(model: ExportedModel) -> Iterator[tuple[str, str]]:
    """The settings of the run, of which only known names and plain values are shown."""
    for key, config in (("model", ModelConfig), ("training", TrainConfig)):
        given = model.info.get(key)
        values = given if isinstance(given, Mapping) else {}
        for name in config.names():
            value = values.get(name)
            if value is not None and _is_plain(value):
                yield f"`{name}`", str(value)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) or WORD.fullmatch(str(value)) is not None


def _table(title: str, headers: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [headers, ("---", "---"), *rows]
    return f"\n## {title}\n\n" + "".join(f"| {left} | {right} |\n" for left, right in lines)
