"""How fast it is here: tokens per second of a training step and of a reply, alone or against `transformers`.

Against another program both take turns in one process, and the ratio is the median of the turns: two
runs one after the other would measure the machine's mood.
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
from simplellm.inference.quantize import quantize
from simplellm.inference.sampler import Sampler
from simplellm.model.transformer import SimpleLLM
from simplellm.training.execution import compile_training
from simplellm.training.optimizer import Optimizer

WARM_UP_TURNS = 3
SECONDS_OF_A_TURN = 0.5  # long enough for a clock, short enough that a slow spell hits both sides
PEAK_FLOPS = {  # dense bf16, of the makers' data sheets; a name is looked for in the card's
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
Step = Callable[[], int]  # does some work and says how many tokens it was


@dataclass(frozen=True)
class Benchmark:
    """What was measured; `ratio` is how many times as fast as the other program, where there is one."""

    tokens_per_second: float
    parameters: int
    device: str
    dtype: str
    peak_memory_bytes: int
    model_flops_utilization: float | None = None
    versus: str | None = None
    versus_tokens_per_second: float | None = None
    ratio: float | None = None

    def to_mapping(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


def bench_train(
    model_config: ModelConfig,
    config: TrainConfig,
    device: torch.device,
    precision: str,
    versus: str | None,
    turns: int = 15,
) -> Benchmark:
    """Time training steps on random tokens: forward, backward, clipping and the update of the weights."""
    devices.reuse_freed_memory()  # for both sides
    model = (
        SimpleLLM(model_config)
        .init_weights(torch.Generator().manual_seed(config.seed))
        .to(device)
        .train()
    )
    shape = (config.batch_size, model_config.block_size + 1)
    block = torch.randint(
        model_config.vocab_size, shape, generator=torch.Generator().manual_seed(0)
    ).to(device)
    if config.compile == "on":
        compile_training(model)
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

    other = _transformers_train_step(model, block, config, device) if versus else None
    measured = _measured(
        model, device, precision, step, other, versus, turns, _training_flops_per_token(model)
    )
    return (
        replace(measured, device=f"{measured.device}, compiled")
        if config.compile == "on"
        else measured
    )


def bench_generate(
    model_config: ModelConfig, device: torch.device, params: SamplingParams, versus: str | None, int8: bool = False,
    turns: int = 7,
) -> Benchmark:  # fmt: skip
    """Time replies at batch size 1 with a cache, from a prompt of a few tokens; the other program in float32."""
    model = SimpleLLM(model_config).init_weights(torch.Generator().manual_seed(0)).to(device).eval()
    prompt = list(range(1, 9))
    n_new = min(params.max_new_tokens, model_config.block_size - len(prompt))
    other = _transformers_generate_step(model, prompt, n_new, params, device) if versus else None
    sampler = Sampler(
        quantize(model) if int8 else model,
        Tokenizer(
            {bytes([byte]): byte for byte in range(256)}, end_of_text=model_config.vocab_size - 1
        ),
    )

    def step() -> int:
        reply = sampler.stream(prompt, replace(params, max_new_tokens=n_new))
        for _ in reply:
            pass
        return len(reply.new_ids)

    return _measured(model, device, "int8" if int8 else "float32", step, other, versus, turns, None)


def _measured(
    model: SimpleLLM,
    device: torch.device,
    precision: str,
    step: Step,
    other: Step | None,
    versus: str | None,
    turns: int,
    flops_per_token: float | None,
) -> Benchmark:
    speeds, other_speeds = _take_turns(step, other, turns)
    speed = statistics.median(speeds)
    peak = _peak_flops(device)
    return Benchmark(
        tokens_per_second=speed,
        parameters=model.n_parameters,
        device=devices.describe(device, precision),
        dtype=precision,
        peak_memory_bytes=devices.peak_memory_bytes(device),
        model_flops_utilization=speed * flops_per_token / peak
        if peak and flops_per_token
        else None,
        versus=versus if other else None,
        versus_tokens_per_second=statistics.median(other_speeds) if other else None,
        ratio=statistics.median(a / b for a, b in zip(speeds, other_speeds, strict=True))
        if other
        else None,
    )


def _take_turns(step: Step, other: Step | None, turns: int) -> tuple[list[float], list[float]]:
    """Tokens per second of each turn, of the one and of the other."""
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
    tokens, started_at = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started_at) < SECONDS_OF_A_TURN:
        tokens += step()
    return tokens / seconds


def _training_flops_per_token(model: SimpleLLM) -> float:
    """6 for each weight of a matrix product, and 12 L C T for attention (PaLM paper, appendix B)."""
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


# ---------------------------------------------------------------- the other program


def _hub_model(model: SimpleLLM, device: torch.device) -> Any:
    """The same model, with the same weights, as `transformers` has it."""
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
    """A plain training loop around the other's model, in float32, with the same AdamW."""
    hub_model = _hub_model(model, device).train()
    optimizer = torch.optim.AdamW(
        hub_model.parameters(), lr=config.learning_rate, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay,
        fused=True,
    )  # fmt: skip
    ids = block[:, :-1].contiguous()

    def step() -> int:
        loss = hub_model(input_ids=ids, labels=ids).loss  # it shifts the labels itself
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
    sampling: dict[str, Any] = {"do_sample": False}
    if params.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
        }

    @torch.inference_mode()
    def step() -> int:
        hub_model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_new, min_new_tokens=n_new, use_cache=True,
            pad_token_id=0, **sampling,
        )  # fmt: skip
        return n_new

    return step
