"""Benchmarks: tokens per second of training steps and replies, optionally against `transformers`.

In a comparison, both implementations take turns in one process, and the ratio is the median over
the turns. Two separate runs would also measure changes of the load of the machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from simplellm import device as devices
from simplellm.checkpoint.hugging_face import to_hub_config, to_hub_state
from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.config.training import TrainConfig
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import SettingError
from simplellm.inference.beams import reply_to
from simplellm.inference.quantize import quantize
from simplellm.inference.sampler import Sampler
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.json_files import JsonObject
from simplellm.training.execution import compile_training
from simplellm.training.initial_model import (
    FLOAT_BYTES,
    count_parameters,
    least_training_bytes,
)
from simplellm.training.optimizer import Optimizer

WARM_UP_TURNS = 3
PROMPT_TOKENS = 8
SECONDS_PER_TURN = 0.5  # so short that a change of the load affects both sides
PEAK_FLOPS = {  # part of the device name -> dense bf16 FLOP/s by the data sheet
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
Step = Callable[[], int]  # does some work and returns its number of tokens


@dataclass(frozen=True)
class Benchmark:
    """Measured speed; `ratio` is the speed relative to the other implementation."""

    tokens_per_second: float
    parameters: int
    device: str
    dtype: str
    peak_memory_bytes: int
    model_flops_utilization: float | None = None
    versus: str | None = None
    versus_tokens_per_second: float | None = None
    ratio: float | None = None

    def to_mapping(self) -> JsonObject:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class _Comparison:
    """A step of ours and, for a comparison, one of another implementation."""

    step: Step
    other_step: Step | None
    versus: str | None  # name of the other implementation
    turns: int

    def measure(
        self,
        model: SimpleLLM,
        device: torch.device,
        dtype: str,
        flops_per_token: float | None = None,
    ) -> Benchmark:
        speeds, other_speeds = _take_turns(self.step, self.other_step, self.turns)
        speed = statistics.median(speeds)
        peak = _peak_flops(device)
        benchmark = Benchmark(
            tokens_per_second=speed,
            parameters=model.n_parameters,
            device=devices.describe(device, dtype),
            dtype=dtype,
            peak_memory_bytes=devices.peak_memory_bytes(device),
        )
        if peak and flops_per_token:
            benchmark = replace(benchmark, model_flops_utilization=speed * flops_per_token / peak)
        if self.other_step is None:
            return benchmark
        return replace(
            benchmark,
            versus=self.versus,
            versus_tokens_per_second=statistics.median(other_speeds),
            ratio=statistics.median(a / b for a, b in zip(speeds, other_speeds, strict=True)),
        )


def bench_train(
    model_config: ModelConfig,
    config: TrainConfig,
    device: torch.device,
    precision: str,
    versus: str | None,
    turns: int = 15,
) -> Benchmark:
    """Time training steps on random tokens: forward, backward, clipping and weight update."""
    devices.require_memory(least_training_bytes(model_config, config), device)
    devices.reuse_freed_memory()  # for both implementations
    generator = torch.Generator().manual_seed(config.seed)
    model = SimpleLLM(model_config).init_weights(generator).to(device).train()
    shape = (config.batch_size, model_config.block_size + 1)
    generator = torch.Generator().manual_seed(0)
    block = torch.randint(model_config.vocab_size, shape, generator=generator).to(device)
    if config.compile == "on":
        compile_training(model)
    step = _train_step(model, block, config, device, precision)
    other_step = _transformers_train_step(model, block, config, device) if versus else None
    benchmark = _Comparison(step, other_step, versus, turns).measure(
        model, device, precision, _training_flops_per_token(model)
    )
    if config.compile == "on":
        return replace(benchmark, device=f"{benchmark.device}, compiled")
    return benchmark


def _train_step(
    model: SimpleLLM, block: Tensor, config: TrainConfig, device: torch.device, precision: str
) -> Step:
    optimizer, scaler = Optimizer(model, config), devices.grad_scaler(device, precision)

    def step() -> int:
        with devices.fast_float32(device):
            with devices.autocast(device, precision):
                loss = model.loss(block[:, :-1], block[:, 1:])
            scaler.scale(loss).backward()
        optimizer.unscale(scaler)
        torch.nn.utils.clip_grad_norm_(optimizer.weights, config.grad_clip or float("inf"))
        optimizer.step(scaler)
        scaler.update()
        optimizer.zero_grad()
        devices.synchronize(device)
        return block[:, 1:].numel()

    return step


def bench_generate(
    model_config: ModelConfig,
    device: torch.device,
    params: SamplingParams,
    versus: str | None,
    int8: bool = False,
    turns: int = 7,
    model: SimpleLLM | None = None,
) -> Benchmark:
    """Time cached replies to a short prompt at batch size 1; of transformers in float32.

    model: a trained model on `device` with this config; by default one with random weights.
    """
    if model is None:
        devices.require_memory(FLOAT_BYTES * count_parameters(model_config), device)
        generator = torch.Generator().manual_seed(0)
        model = SimpleLLM(model_config).init_weights(generator).to(device).eval()
    prompt = list(range(1, 1 + _prompt_tokens(model_config)))
    n_new = min(params.max_new_tokens, most_new_tokens(model_config))
    other_step = (
        _transformers_generate_step(model, prompt, n_new, params, device) if versus else None
    )
    ranks = {bytes([byte]): byte for byte in range(256)}
    tokenizer = Tokenizer(ranks, end_of_text=model_config.vocab_size - 1)
    sampler = Sampler(quantize(model) if int8 else model, tokenizer)

    def step() -> int:
        reply = reply_to(sampler, prompt, replace(params, max_new_tokens=n_new))
        for _ in reply:
            pass
        return len(reply.new_ids)

    dtype = "int8" if int8 else "float32"
    return _Comparison(step, other_step, versus, turns).measure(model, device, dtype)


def most_new_tokens(config: ModelConfig) -> int:
    """New tokens of a reply that fit the context, which `transformers` cannot exceed."""
    return config.block_size - _prompt_tokens(config)


def _prompt_tokens(config: ModelConfig) -> int:
    return min(PROMPT_TOKENS, config.block_size // 2)


def _take_turns(step: Step, other: Step | None, turns: int) -> tuple[list[float], list[float]]:
    """Tokens per second of each turn of `step`, and of each turn of `other`."""
    for _ in range(WARM_UP_TURNS):
        step()
        if other:
            other()
    speeds, other_speeds = [], []
    for _ in range(turns):
        speeds.append(_speed(step))
        if other:
            other_speeds.append(_speed(other))
    return speeds, other_speeds


def _speed(step: Step) -> float:
    """Tokens per second over one turn."""
    tokens, started_at = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started_at) < SECONDS_PER_TURN:
        tokens += step()
    return tokens / seconds


def _training_flops_per_token(model: SimpleLLM) -> float:
    """6 per weight of a matrix product, plus 12 L C T for attention (PaLM paper, appendix B)."""
    config = model.config
    tables = 0 if config.facts.has_rotary_positions else config.block_size * config.n_embd
    weights = (
        model.n_parameters
        - tables
        - (0 if config.tie_embeddings else config.vocab_size * config.n_embd)
    )
    return 6 * weights + 12 * config.n_layer * config.n_embd * config.block_size


def _peak_flops(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = devices.describe(device, "bf16")
    return next((peak for card, peak in PEAK_FLOPS.items() if card in name), None)


# ---------------------------------------------------------------- transformers


def _hub_model(model: SimpleLLM, device: torch.device) -> Any:
    """The `transformers` model with the same weights."""
    try:
        import transformers
    except ImportError as error:
        raise SettingError(
            "--versus transformers needs the package", fix='pip install "simplellm[test]"'
        ) from error
    config = to_hub_config(model.config, model.config.vocab_size - 1)
    model_class = getattr(transformers, config["architectures"][0])
    hub_model = model_class(model_class.config_class(**config))
    hub_model.load_state_dict(to_hub_state(model.state_dict(), model.config), strict=False)
    hub_model.tie_weights()
    return hub_model.to(device)


def _transformers_train_step(
    model: SimpleLLM, block: Tensor, config: TrainConfig, device: torch.device
) -> Step:
    """A plain training step of the `transformers` model in float32 with the same AdamW."""
    hub_model = _hub_model(model, device).train()
    optimizer = torch.optim.AdamW(
        hub_model.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    ids = block[:, :-1].contiguous()

    def step() -> int:
        loss = hub_model(input_ids=ids, labels=ids).loss  # the model shifts the labels
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hub_model.parameters(), config.grad_clip or float("inf"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        devices.synchronize(device)
        return ids.numel()

    return step


def _transformers_generate_step(
    model: SimpleLLM, prompt: list[int], n_new: int, params: SamplingParams, device: torch.device
) -> Step:
    hub_model = _hub_model(model, device).eval()
    ids = torch.tensor([prompt], device=device)
    sampling = _transformers_sampling(params)

    @torch.inference_mode()
    def step() -> int:
        hub_model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=n_new,
            min_new_tokens=n_new,
            use_cache=True,
            pad_token_id=0,
            **sampling,
        )
        return n_new

    return step


def _transformers_sampling(params: SamplingParams) -> dict[str, Any]:
    """The arguments of `generate` for these settings. Beam search and temperature 0 are greedy."""
    penalty = {"repetition_penalty": params.repetition_penalty}
    if params.num_beams > 1:
        return {"do_sample": False, "num_beams": params.num_beams}
    if params.temperature == 0:
        return {"do_sample": False, **penalty}
    min_p = {"min_p": params.min_p} if params.min_p else {}
    return {
        "do_sample": True,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        **min_p,
        **penalty,
    }
