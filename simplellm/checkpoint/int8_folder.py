"""A model folder with weights in 8 bits, as the base model in the package is stored."""

from __future__ import annotations

import json
from pathlib import Path

from simplellm.checkpoint.hugging_face import to_hub_state
from simplellm.checkpoint.importing.hugging_face_folder import CONFIG_FILE
from simplellm.checkpoint.importing.weight_files import WEIGHTS_FILE
from simplellm.checkpoint.int8_tensors import METHOD, to_int8
from simplellm.checkpoint.step_folder import description_files
from simplellm.checkpoint.tensors import tensors_bytes
from simplellm.data.tokenizer import Tokenizer
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.json_files import json_bytes, read_json
from simplellm.storage.manifest import ManifestWriter

CARD_FILE = "README.md"


def write_int8_folder(folder: Path, model: SimpleLLM, tokenizer: Tokenizer, card: str) -> None:
    """Write the files into an empty folder; `open_model` reads them, `transformers` does not.

    card: the model card, in Markdown.
    """
    texts = description_files(model.config, tokenizer)
    config = {**json.loads(texts[CONFIG_FILE]), "quantization_config": {"quant_method": METHOD}}
    files = ManifestWriter(folder)
    for name, data in {**texts, CONFIG_FILE: json_bytes(config), CARD_FILE: card.encode()}.items():
        files.write(name, data)
    state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    files.write(WEIGHTS_FILE, tensors_bytes(to_int8(to_hub_state(state, model.config))))
    files.finish()


def is_int8_folder(folder: Path) -> bool:
    """Whether the weights of the model in `folder` are in 8 bits."""
    return read_json(folder / CONFIG_FILE).get("quantization_config") is not None
