"""Where it runs, and what is said when it cannot run there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from simplellm.device import (
    autocast,
    choose_device,
    choose_precision,
    describe,
    failures_reported,
    grad_scaler,
    peak_memory_bytes,
    seed_dropout,
    synchronize,
)
from simplellm.errors import DeviceError, DeviceFailure, SettingError

CPU = torch.device("cpu")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without an accelerator."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(bare: None, name: str) -> None:
    with pytest.raises(DeviceError, match=f"no {name} device") as caught:
        choose_device(name)
    assert caught.value.fix == "use --device auto (cpu)" and choose_device("auto") == CPU


def test_auto_prefers_cuda_then_mps_then_cpu(monkeypatch: pytest.MonkeyPatch, bare: None) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device().type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device().type == "cuda" and choose_device("cpu") == CPU


@pytest.mark.parametrize(
    ("wish", "asked"),
    [("cpu", []), ("mps", ["mps"]), ("cuda", ["cuda"]), ("auto", ["cuda", "mps"])],
)
def test_only_candidates_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, wish: str, asked: list[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen.append("cuda") or wish == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: seen.append("mps") or True)
    choose_device(wish)
    assert seen == asked


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no kernel\ntrace"), NotImplementedError("no kernel"), TypeError("no kernel")],
)
def test_an_error_on_a_gpu_becomes_one_line_and_on_the_cpu_it_passes(error: Exception) -> None:
    with pytest.raises(DeviceFailure) as caught, failures_reported(torch.device("mps")):
        raise error
    assert (
        str(caught.value) == "the Apple GPU failed: no kernel"
        and caught.value.fix == "use --device cpu"
    )
    with pytest.raises(type(error)), failures_reported(CPU):
        raise error


def test_running_out_of_memory_or_a_mistake_is_no_failure_of_the_gpu() -> None:
    with pytest.raises(DeviceError) as caught, failures_reported(torch.device("cuda")):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert not isinstance(caught.value, DeviceFailure)
    for error in (SettingError("wrong"), KeyboardInterrupt(), KeyError("x")):
        with pytest.raises(type(error)), failures_reported(torch.device("cuda")):
            raise error


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(SettingError, match="^precision fp16 needs a GPU") as caught:
        choose_precision(CPU, "fp16")
    assert "bf16" in caught.value.fix and choose_precision(torch.device("cuda"), "fp16") == "fp16"


@pytest.mark.parametrize("wish", ["auto", "float32"])
def test_a_cpu_computes_in_float32_unless_told_otherwise(wish: str) -> None:
    assert choose_precision(CPU, wish) == "float32" and choose_precision(CPU, "bf16") == "bf16"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_a_precision_is_that_of_the_matrix_products(precision: str, dtype: torch.dtype) -> None:
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_losses_are_not_scaled_without_fp16(precision: str) -> None:
    assert grad_scaler(CPU, precision).scale(torch.tensor(3.0)) == 3.0


def _dropped(*place: int) -> Tensor:
    seed_dropout(CPU, *place)
    return F.dropout(torch.ones(200), 0.5, training=True)


def test_what_is_dropped_is_a_function_of_the_place() -> None:
    first = _dropped(1, 2, 3, 4)
    _dropped(9, 9, 9, 9)
    torch.rand(7)
    assert torch.equal(_dropped(1, 2, 3, 4), first)


def test_another_place_drops_otherwise() -> None:
    places = [(1, 2, 3, 4), (1, 2, 4, 3), (2, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3), (2**62, 2, 3, 4)]
    assert len({tuple(_dropped(*place).tolist()) for place in places}) == len(places)


def test_a_device_is_described_and_measured() -> None:
    assert describe(CPU, "bf16").startswith("cpu (") and describe(CPU, "bf16").endswith(", bf16")
    assert peak_memory_bytes(CPU) > 10_000_000
    synchronize(CPU)
