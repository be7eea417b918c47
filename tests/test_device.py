"""Choice of device and precision, and errors of devices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from simplellm import device as devices
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
def test_the_error_for_a_missing_device_lists_the_available_ones(bare: None, name: str) -> None:
    with pytest.raises(DeviceError, match=f"no {name} device") as caught:
        choose_device(name)
    assert caught.value.fix == "use --device auto (cpu)" and choose_device("auto") == CPU


def test_auto_prefers_cuda_then_mps_then_cpu(monkeypatch: pytest.MonkeyPatch, bare: None) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device().type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device().type == "cuda" and choose_device("cpu") == CPU


@pytest.mark.parametrize(
    ("requested", "queried"),
    [("cpu", []), ("mps", ["mps"]), ("cuda", ["cuda"]), ("auto", ["cuda", "mps"])],
)
def test_only_candidate_devices_are_queried(
    monkeypatch: pytest.MonkeyPatch, requested: str, queried: list[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        torch.cuda, "is_available", lambda: seen.append("cuda") or requested == "cuda"
    )
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: seen.append("mps") or True)
    choose_device(requested)
    assert seen == queried


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no kernel\ntrace"), NotImplementedError("no kernel"), TypeError("no kernel")],
)
def test_an_error_on_a_gpu_becomes_a_device_failure_and_on_the_cpu_it_passes(
    error: Exception,
) -> None:
    with pytest.raises(DeviceFailure) as caught, failures_reported(torch.device("mps")):
        raise error
    assert (
        str(caught.value) == "the Apple GPU failed: no kernel"
        and caught.value.fix == "use --device cpu"
    )
    with pytest.raises(type(error)), failures_reported(CPU):
        raise error


def test_out_of_memory_and_other_errors_are_not_device_failures() -> None:
    with pytest.raises(DeviceError) as caught, failures_reported(torch.device("cuda")):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert not isinstance(caught.value, DeviceFailure)
    for error in (SettingError("wrong"), KeyboardInterrupt(), KeyError("x")):
        with pytest.raises(type(error)), failures_reported(torch.device("cuda")):
            raise error


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_out_of_memory_of_the_cpu_is_reported_on_every_device(device: str) -> None:
    for error in (MemoryError(), RuntimeError("can't allocate memory"), ValueError("bad_alloc")):
        with pytest.raises(DeviceError) as caught, failures_reported(torch.device(device)):
            raise error
        assert not isinstance(caught.value, DeviceFailure) and "memory" in str(caught.value)


def test_a_model_that_cannot_fit_is_refused_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable: 3000 kB\nSwapFree: 1000 kB\n")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(devices, "MEMORY_FILE", meminfo)
    monkeypatch.setattr(devices, "MEMORY_LIMIT_FILES", (limit,))
    assert devices.free_memory_bytes() == 4_096_000
    limit.write_text("max\n")
    assert devices.free_memory_bytes() == 4_096_000
    limit.write_text("1000\n")
    assert devices.free_memory_bytes() == 1000
    devices.require_memory(1000, CPU)
    with pytest.raises(DeviceError, match="^out of memory: at least"):
        devices.require_memory(1001, CPU)
    meminfo.write_text("another system")
    assert devices.free_memory_bytes() is None
    devices.require_memory(1e30, CPU)


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(SettingError, match="^precision fp16 needs a GPU") as caught:
        choose_precision(CPU, "fp16")
    assert "bf16" in caught.value.fix and choose_precision(torch.device("cuda"), "fp16") == "fp16"


@pytest.mark.parametrize("requested", ["auto", "float32"])
def test_a_cpu_uses_float32_by_default(requested: str) -> None:
    assert choose_precision(CPU, requested) == "float32" and choose_precision(CPU, "bf16") == "bf16"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_matrix_products_use_the_chosen_precision(precision: str, dtype: torch.dtype) -> None:
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_losses_are_scaled_only_for_fp16(precision: str) -> None:
    assert grad_scaler(CPU, precision).scale(torch.tensor(3.0)) == 3.0


def _dropped(*key: int) -> Tensor:
    seed_dropout(CPU, *key)
    return F.dropout(torch.ones(200), 0.5, training=True)


def test_dropout_is_a_function_of_its_key() -> None:
    first = _dropped(1, 2, 3, 4)
    _dropped(9, 9, 9, 9)
    torch.rand(7)
    assert torch.equal(_dropped(1, 2, 3, 4), first)


def test_other_keys_give_other_dropout() -> None:
    keys = [(1, 2, 3, 4), (1, 2, 4, 3), (2, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3), (2**62, 2, 3, 4)]
    assert len({tuple(_dropped(*key).tolist()) for key in keys}) == len(keys)


def test_a_device_has_a_description_and_a_peak_memory() -> None:
    assert describe(CPU, "bf16").startswith("cpu (") and describe(CPU, "bf16").endswith(", bf16")
    assert peak_memory_bytes(CPU) > 10_000_000
    synchronize(CPU)
