"""`peft` opens the adapters of a LoRA run on the same base, with the logits of the merged model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import STORY

from simplellm.app.cli import main
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import open_model

CPU = torch.device("cpu")
FLAGS = ["--lora", "4", "--max-steps", "6", "--eval-interval", "6", "--learning-rate", "0.03"]


@pytest.mark.parametrize("targets", [[], ["--lora-targets", "q_proj,down_proj,c_attn"]])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_adapters_open_on_their_base_with_equal_logits(
    runs: Path, run: str, targets: list[str], precision: str
) -> None:
    peft = pytest.importorskip("peft")
    import transformers

    targets = [name.replace(",c_attn", "") for name in targets] if run == "modern" else targets
    targets = [name.replace("q_proj,down_proj,", "") for name in targets]
    name = f"{run}-{precision}-{len(targets)}"
    train = ["train", str(STORY), "--checkpoints", str(runs), "--from", run, "--name", name]
    assert main([*train, *FLAGS, *targets, "--precision", precision]) == 0
    step = RunFolder(runs / name).last()
    named = json.loads((step / "adapter" / "adapter_config.json").read_text())
    base = transformers.AutoModelForCausalLM.from_pretrained(named["base_model_name_or_path"])
    ids = torch.randint(500, (2, 48), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = base(ids).logits
        adapted = peft.PeftModel.from_pretrained(base, step / "adapter").eval()(ids).logits
        merged = transformers.AutoModelForCausalLM.from_pretrained(step).eval()(ids).logits
        ours = open_model(step, CPU).model(ids)
    torch.testing.assert_close(adapted, ours, atol=1e-4, rtol=0)
    torch.testing.assert_close(merged, ours, atol=1e-4, rtol=0)
    assert float((ours - before).abs().max()) > 0.1


def test_adapters_find_the_copy_of_the_base_in_the_run(runs: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from simplellm.checkpoint.frozen_base import frozen_base

    train = ["train", str(STORY), "--checkpoints", str(runs), "--from", "modern", "--name", "kept"]
    assert main([*train, *FLAGS]) == 0
    step = RunFolder(runs / "kept").last()
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(frozen_base(RunFolder(runs / "kept")))
    ids = torch.arange(40)[None]
    with torch.no_grad():
        adapted = peft.PeftModel.from_pretrained(base, step / "adapter").eval()(ids).logits
        torch.testing.assert_close(adapted, open_model(step, CPU).model(ids), atol=1e-4, rtol=0)
