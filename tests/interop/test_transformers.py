"""transformers opens an exported folder: the same logits and the same ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from interop.random_models import CONFIGS, exported, random_network
from simplellm.checkpoint.export.export import ExportJob
from simplellm.data.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers", reason="needs the package transformers")
TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def opened(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("type", TYPES)
def test_transformers_gives_the_same_logits(
    tokenizer: Tokenizer, tmp_path: Path, name: str, type: str
) -> None:
    network = random_network(CONFIGS[name], tokenizer.vocab_size)
    ExportJob.of("hf", type, tmp_path / "model").write(exported(name, network, tokenizer))
    theirs = opened(tmp_path / "model")
    assert theirs.dtype == TYPES[type]
    ids = torch.randint(tokenizer.vocab_size, (2, 24), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(weight.to(TYPES[type]))  # as they are in the file
        expected = network(ids)
        found = theirs.float()(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_transformers_gives_the_same_ids_and_stops_at_the_end_of_text(
    tokenizer: Tokenizer, story: str, tmp_path: Path
) -> None:
    network = random_network(CONFIGS["modern"], tokenizer.vocab_size)
    folder = tmp_path / "model"
    ExportJob.of("hf", None, folder).write(exported("modern", network, tokenizer))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.encode(story) == tokenizer.encode(story)
    assert theirs.eos_token_id == tokenizer.end_of_text
    assert opened(folder).generation_config.eos_token_id == tokenizer.end_of_text
