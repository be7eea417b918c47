"""Replies of the other checkpoints of a run: they are opened one at a time, and a few stay open.

They run on threads of their own, so that the replies of the engine go on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from pathlib import Path

from simplellm.checkpoint.step_folder import open_model
from simplellm.checkpoint.step_names import step_of
from simplellm.config.sampling import SamplingParams
from simplellm.data.conversations.conversation import USER, Turn
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError
from simplellm.inference.quantize import is_quantized, quantize
from simplellm.inference.reply import Reply
from simplellm.inference.sampler import Sampler
from simplellm.server.run_facts import checkpoints_of
from simplellm.storage.json_files import JsonObject

MOST_OPEN = 2  # the slider goes back and forth between neighbors (guess)
MOST_TOKENS = 200  # of a reply, so that each of them is short


@dataclass(frozen=True)
class CheckpointReply:
    """step: of the checkpoint. seed: that gives the same reply again."""

    step: int
    reply: Reply
    probabilities: tuple[float, ...]  # of each token of the reply, as in StreamedToken
    tokenizer: Tokenizer

    def to_mapping(self) -> JsonObject:
        ids = self.reply.new_ids[: len(self.probabilities)]  # without the token that ends it
        return {
            "step": self.step,
            "text": self.reply.text,
            "seed": self.reply.seed,
            "stop_reason": self.reply.stop_reason,
            "tokens": [
                {"id": token, "bytes": list(self.tokenizer.token_bytes(token)), "probability": one}
                for token, one in zip(ids, self.probabilities, strict=True)
            ],
        }


class CheckpointReplies:
    """Replies by any checkpoint of the run of `served`, in the number format of `sampler`."""

    def __init__(self, served: Path, sampler: Sampler) -> None:
        self._served = served
        self._like = sampler
        self._open: OrderedDict[Path, Sampler] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()  # one reply at a time: memory and the processor are shared

    def reply(
        self, step: int, prompt: str, params: SamplingParams, cancelled: threading.Event
    ) -> CheckpointReply:
        """The reply of the checkpoint of `step` to a prompt.

        A prompt is a message for a chat model, else the beginning of a text. CheckpointError where
        there is no such checkpoint or it is damaged; CancelledError as soon as it is cancelled.
        """
        params = replace(params, max_new_tokens=min(params.max_new_tokens, MOST_TOKENS))
        with self._lock:
            if cancelled.is_set():  # while it waited: no model is opened for it
                raise CancelledError
            sampler = self._sampler(self._folder(step))
            reply = sampler.stream(prompt_ids(sampler, prompt), params)
            probabilities: list[float] = []
            for token in reply:
                if token.token is not None:
                    probabilities.append(token.probability)
                if cancelled.is_set():
                    raise CancelledError
        return CheckpointReply(step, reply, tuple(probabilities), sampler.tokenizer)

    def _folder(self, step: int) -> Path:
        for folder in checkpoints_of(self._served):
            if max(step_of(folder), 0) == step:
                return folder
        raise CheckpointError(f"the run has no checkpoint of step {step} any more")

    def _sampler(self, folder: Path) -> Sampler:
        if folder in self._open:
            self._open.move_to_end(folder)
            return self._open[folder]
        while len(self._open) >= MOST_OPEN:  # before the next one needs memory
            self._open.popitem(last=False)
        device = self._like.model.token_embedding.weight.device
        opened = open_model(folder, device, self._like.block_size)
        model = quantize(opened.model) if is_quantized(self._like.model) else opened.model
        ends = opened.generation.end_ids(opened.tokenizer)
        sampler = Sampler(model, opened.tokenizer, ends, self._like.template)
        self._open[folder] = sampler
        return sampler


def prompt_ids(sampler: Sampler, prompt: str) -> list[int]:
    """Ids of a message by the chat template, or of the beginning of a text."""
    if sampler.template is None:
        return sampler.encode(prompt)
    return sampler.template.encode([Turn(USER, prompt)], sampler.tokenizer, is_open=True)
