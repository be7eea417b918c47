"""The trained model that a run continues from: the base model of the package, a run, or another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from simplellm.checkpoint.find_runs import run_of
from simplellm.checkpoint.frozen_base import frozen_base
from simplellm.checkpoint.generation import Generation
from simplellm.checkpoint.importing.hub import HUB_MARK
from simplellm.checkpoint.int8_folder import is_int8_folder
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import open_model
from simplellm.checkpoint.step_names import step_of
from simplellm.config.architectures import IMPORTED
from simplellm.config.training import TrainConfig
from simplellm.data.dataset import encode_document
from simplellm.data.prepared_corpus import Prepared
from simplellm.data.tokenizer import Tokenizer
from simplellm.device import choose_precision, fast_float32
from simplellm.errors import Notice
from simplellm.model.scoring import evaluate
from simplellm.model.transformer import SimpleLLM
from simplellm.training.chat_setup import grown_weights, unlearned_tokens
from simplellm.training.initial_model import Weights, frozen_weights

OWN = "modern"  # only this project makes models of this architecture
PASSAGE_TOKENS = 400  # of each passage of a sample
PROBE_TOKENS = 4096  # of a new text, scored before a trained model is trained on it
# Bits per byte on the new text, divided by those on the model's own text, from which a notice says
# that the texts are very different (guess).
DIFFERENT_TEXT_RATIO = 1.4


@dataclass(frozen=True)
class TrainedBase:
    """A trained model, with its own tokenizer.

    bits_per_byte: on its own validation text; None where that is not known. is_open: whether others
    trained it, on very much text.
    """

    folder: Path
    model: SimpleLLM
    tokenizer: Tokenizer
    generation: Generation
    bits_per_byte: float | None
    is_open: bool

    @classmethod
    def open(cls, folder: Path) -> TrainedBase:
        opened = open_model(folder, torch.device("cpu"))
        run = run_of(folder)
        pointer = run.pointer("best") or {}
        architecture = opened.model.config.architecture
        is_elsewhere = run.is_imported() or step_of(folder.resolve()) < 0
        is_open = architecture in IMPORTED or (architecture != OWN and is_elsewhere)
        bits_per_byte = pointer.get("bits_per_byte")
        return cls(
            folder, opened.model, opened.tokenizer, opened.generation, bits_per_byte, is_open
        )

    def taken_weights(
        self, config: TrainConfig, device: torch.device, prepared: Prepared
    ) -> Weights:
        """Weights of the model by name, for a training with this config on this data.

        With LoRA the model has none afterwards: memory holds each weight once. Of conversations the
        model may not know the special tokens yet.
        """
        tokenizer = prepared.tokenizer
        weights = grown_weights(self.model, self.tokenizer.vocab_size, tokenizer.vocab_size)
        if not config.lora:
            return weights
        for weight in self.model.parameters():
            weight.data = weight.data.new_empty(0)
        new_ids = unlearned_tokens(self.generation, tokenizer) if prepared.marks else ()
        return frozen_weights(weights, choose_precision(device, config.precision), new_ids)

    def hub_name_or_path(self, run: RunFolder, n_tokens: int) -> str:
        """Where `transformers` finds this model: its name on the hub, its folder, or RUN/base.

        run: the LoRA run of `n_tokens` tokens that keeps a copy of it in RUN/base, with a row for
        each token.
        """
        if n_tokens > self.model.config.vocab_size:
            return str(frozen_base(run).resolve())
        source = run_of(self.folder).imported_from()
        if source.startswith(HUB_MARK):
            return source.removeprefix(HUB_MARK).partition("@")[0]
        is_readable = self.folder.is_dir() and not is_int8_folder(self.folder)
        return str((self.folder if is_readable else frozen_base(run)).resolve())

    def bits_per_byte_of(self, passages: list[str]) -> float:
        """On the beginnings of passages of a text, each of which is read from its start."""
        bits = n_bytes = 0.0
        for passage in passages:
            ids = encode_document(self.tokenizer, passage)[: PASSAGE_TOKENS + 1]
            size = sum(len(self.tokenizer.token_bytes(int(token))) for token in ids[1:])
            with fast_float32(torch.device("cpu")):
                bits += evaluate(self.model, ids, max(size, 1)).bits_per_byte * size
            n_bytes += size
        return bits / max(n_bytes, 1)

    def report_different_text(self, prepared: Prepared, notice: Notice) -> None:
        """A notice where the model predicts the new text much worse than its own."""
        ids = np.asarray(prepared.val_ids[: PROBE_TOKENS + 1])
        n_bytes = sum(len(self.tokenizer.token_bytes(int(token))) for token in ids[1:])
        unscored = self.tokenizer.bos_ids
        bits_per_byte = evaluate(self.model, ids, max(n_bytes, 1), unscored=unscored).bits_per_byte
        if self.bits_per_byte and bits_per_byte > DIFFERENT_TEXT_RATIO * self.bits_per_byte:
            notice(
                f"this text is very different: {bits_per_byte:.2f} bits/byte before training, "
                f"against {self.bits_per_byte:.2f} on the text the model was trained on; "
                "a new run may do better"
            )
