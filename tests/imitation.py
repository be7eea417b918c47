"""An imitation of a GPU on CPU tensors that raises the device's errors and counts synchronizations.

`with Imitation("mps") as device:` makes torch report an Apple GPU ("cuda": an NVIDIA card). A
tensor is on the device if its storage is marked. Two torch modes intercept every call: the function
mode answers device queries and moves tensors; the dispatch mode checks each operator below
autograd, including those of the backward pass.

Refused, with torch's own type of error:
- tensors of different devices in one operator; a generator of another device; `numpy()` of a device
  tensor
- mps: operators without an MPS kernel in the table of the installed torch (`native_functions.yaml`
  of torchgen); float64, complex and other formats without MPS kernels; pinned memory; the foreach
  functions that torch refuses on MPS

Calls of functions of other devices have no effect; they are recorded in `touched`.

The imitation depends on the package under test only by its folder name, which identifies its code.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.utils.checkpoint
import torchgen
import yaml
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

PACKAGE = f"{os.sep}simplellm{os.sep}"
TABLE = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
COMPOSITE = {
    "CompositeExplicitAutograd",
    "CompositeExplicitAutogradNonFunctional",
    "CompositeImplicitAutograd",
}
MPS_FORMATS = {
    torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.bool,
}  # fmt: skip
COPIES = ("copy_", "_to_copy", "_foreach_copy_")  # operators that accept tensors of two devices
STRICT = ("_fused_", "_amp_")  # prefixes of kernels that read even scalars from device memory
SYNCHRONIZING = {  # operators whose result, or its shape, the host needs
    "_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "bincount",
    "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave",
}  # fmt: skip
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
READERS = ("tolist", "__array__", "__dlpack__")  # methods that read data without an operator
DEVICES = ("cuda", "mps")
REPLACED = {  # functions of `torch.cuda` and `torch.mps` that are replaced
    "cuda": (
        "is_available", "is_bf16_supported", "is_initialized", "init", "_lazy_init",
        "manual_seed", "manual_seed_all", "seed", "synchronize", "current_device", "device_count",
        "set_device", "get_device_name", "get_device_properties", "get_device_capability",
        "memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved",
        "reset_peak_memory_stats", "mem_get_info", "empty_cache", "get_rng_state",
        "set_rng_state", "current_stream", "device",
    ),
    "mps": (
        "manual_seed", "seed", "synchronize", "device_count", "empty_cache",
        "current_allocated_memory", "driver_allocated_memory", "recommended_max_memory",
        "get_rng_state", "set_rng_state",
    ),
}  # fmt: skip


class Wait(NamedTuple):
    """A point where the host waits: `read`, `upload` (from pageable memory) or `synchronize`."""

    kind: str
    line: str  # file:function of the package under test


@functools.cache
def kernel_table() -> dict[str, dict[str, Any]]:
    """The operators of the installed torch by name and overload."""
    entries = yaml.load(
        TABLE.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    table = {entry["func"].split("(")[0]: entry for entry in entries}
    generated = {
        name.strip(): {"dispatch": {"CompositeExplicitAutograd": ""}}
        for entry in entries
        for name in entry.get("autogen", "").split(",")
        if name.strip()
    }
    return {**generated, **table}


@functools.cache
def has_kernel(name: str, is_sparse: bool = False) -> bool:
    """Whether operator `name` (with its overload) runs on an Apple GPU, by torch's own table."""
    entry = kernel_table().get(name)
    if entry is None:
        return False
    if name.startswith("_foreach_"):  # calls the plain operator for each tensor
        plain = name.removeprefix("_foreach_").split(".")[0]
        family = [one for one in kernel_table() if one.split(".")[0] == plain]
        if family and not any(has_kernel(one) for one in family):
            return False
    if "structured_delegate" in entry and has_kernel(entry["structured_delegate"], is_sparse):
        return True
    default = {} if "structured_delegate" in entry else {"CompositeImplicitAutograd": ""}
    keys = {key.strip() for keys in entry.get("dispatch", default) for key in keys.split(",")}
    return bool(keys & (COMPOSITE | ({"SparseMPS", "SparseCsrMPS"} if is_sparse else {"MPS"})))


@functools.cache
def _written_arguments(func: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Positions and names of the arguments that an operator writes to."""
    arguments = [
        (i, a)
        for i, a in enumerate(func._schema.arguments)
        if a.alias_info is not None and a.alias_info.is_write
    ]
    return tuple(i for i, _ in arguments), tuple(a.name for _, a in arguments)


def _storage(tensor: Tensor) -> Any:
    return (tensor if tensor.layout == torch.strided else tensor._values()).untyped_storage()


def _tensors(*values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(*value)
        elif isinstance(value, dict):
            yield from _tensors(*value.values())


def _device_of(value: Any) -> torch.device | None:
    """The device if `value` is one or names one, else None."""
    if isinstance(value, torch.device):
        return value
    if isinstance(value, str) and value.split(":")[0] in ("cpu", "meta", *DEVICES):
        return torch.device(value)
    return None


def package_line() -> str:
    """`file:function` of the innermost frame in the package under test."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if PACKAGE in frame.f_code.co_filename:
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"
        frame = frame.f_back
    return ""


class Imitation:
    """A machine with one GPU of type `kind`; "cpu": a machine whose GPUs must not be used.

    refused: errors raised, in order
    touched: functions of other devices that were called
    waits: points where the host waited
    queried: devices whose availability the package queried
    operators: names of the operators that ran on the device
    broken: operators that fail, and their errors; set by a test
    """

    def __init__(
        self, kind: str, *, init_scale: float | None = None, has_bf16: bool = True
    ) -> None:
        self.kind = kind
        self.init_scale = init_scale
        self.has_bf16 = has_bf16
        self.device = torch.device(kind, 0) if kind != "cpu" else torch.device("cpu")
        self.refused: list[str] = []
        self.touched: list[str] = []
        self.waits: list[Wait] = []
        self.queried: set[str] = set()
        self.operators: set[str] = set()
        self.broken: dict[str, BaseException] = {}
        self._stack = contextlib.ExitStack()
        self._moves_to_host = False
        self._uses_device = False  # whether the running function has a tensor on the device
        self._generator = torch.Generator().manual_seed(0)

    def __enter__(self) -> Imitation:
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        _patch_torch(self, patch)
        self._functions = _Functions(self)
        self._stack.enter_context(_Operators(self))
        self._stack.enter_context(self._functions)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    # ------------------------------------------------------------------ state

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor is on the device."""
        return getattr(_storage(tensor), "imitated", None) is self

    def mark(self, values: Any) -> Any:
        for tensor in _tensors(values):
            if tensor.device.type == "cpu":  # not a meta tensor
                self.check_format(tensor.dtype)
                storage = _storage(tensor)
                storage.imitated = self
        return values

    def refuse(self, error: BaseException) -> BaseException:
        self.refused.append(f"{type(error).__name__}: {error} [{package_line()}]")
        return error

    def check_format(self, dtype: torch.dtype) -> None:
        if self.kind == "mps" and dtype not in MPS_FORMATS:
            name = str(dtype).removeprefix("torch.")
            raise self.refuse(
                TypeError(
                    f"Cannot convert a MPS Tensor to {name} dtype as the MPS framework doesn't "
                    f"support {name}. Please use float32 instead."
                )
            )

    def wait(self, kind: str) -> None:
        self.waits.append(Wait(kind, package_line()))

    # ------------------------------------------------------------------ calls of functions

    def call(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        if answer := _ANSWERS.get(func):
            return answer(self, args[0], func, args)
        before = self._uses_device
        self._uses_device = any(self.holds(tensor) for tensor in _tensors(args, kwargs))
        try:
            return self._call(func, args, kwargs)
        finally:
            self._uses_device = before

    def _call(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "")
        if name == "_parse_to":
            return func(*args, **kwargs)
        source = args[0] if args and isinstance(args[0], Tensor) else None
        is_held = source is not None and self.holds(source)
        if name in READERS and is_held:
            self.wait("read")
        if (name == "numpy" or name == "__array__") and is_held:
            raise self.refuse(
                TypeError(
                    f"can't convert {self.device} device type tensor to numpy. "
                    "Use Tensor.cpu() to copy the tensor to host memory first."
                )
            )
        if name == "pin_memory" or kwargs.get("pin_memory"):
            return self._pin(source, func, args, kwargs)
        if name == "is_pinned" and source is not None:
            return hasattr(_storage(source), "pinned")
        if name in ("cpu", *DEVICES) and source is not None and func is getattr(Tensor, name, None):
            func, args, name = Tensor.to, (source, torch.device(name), *args[1:]), "to"
        if func is torch.nn.functional.scaled_dot_product_attention:
            with sdpa_kernel(SDPBackend.MATH):
                return func(*args, **kwargs)
        return self._with_device(func, name, args, kwargs)

    def _with_device(self, func: Callable, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        target = _device_of(kwargs.get("device"))
        if name == "to" and target is None:
            target = next((device for value in args[1:2] if (device := _device_of(value))), None)
            if target is None and len(args) > 1 and isinstance(args[1], Tensor):
                target = self.device if self.holds(args[1]) else args[1].device
                args = (args[0], target, args[1].dtype, *args[2:])
        if target is None or target.type == "meta":
            return func(*args, **kwargs)
        if target.type not in ("cpu", self.kind):
            raise self.refuse(
                AssertionError(f"{target} is used although {self.kind} was requested")
            )
        cpu = torch.device("cpu")
        args = tuple(cpu if _device_of(value) is not None else value for value in args)
        kwargs = {key: cpu if key == "device" else value for key, value in kwargs.items()}
        if self.kind == "cpu":
            return func(*args, **kwargs)
        if name == "to":
            return self._move(target, args, kwargs)
        if target.type == "cpu":
            return func(*args, **kwargs)
        if name in ("tensor", "as_tensor"):
            self.wait("upload")
        self._uses_device = True
        return self.mark(func(*args, **kwargs))

    def _move(self, target: torch.device, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """`Tensor.to` between the host and the device, which always copies."""
        source, goes_to_device = args[0], target.type == self.kind
        if source.device.type == "meta":
            return (
                self.mark(source.to(*args[1:], **kwargs))
                if goes_to_device
                else source.to(*args[1:], **kwargs)
            )
        if self.holds(source) == goes_to_device:
            return source.to(*args[1:], **kwargs)
        is_asynchronous = bool(kwargs.get("non_blocking")) or (len(args) > 3 and args[3] is True)
        if not goes_to_device:
            self.wait("read")
        elif not (is_asynchronous and hasattr(_storage(source), "pinned")):
            self.wait("upload")
        self._moves_to_host = not goes_to_device
        try:
            moved = source.to(*args[1:], **{**kwargs, "copy": True})
        finally:
            self._moves_to_host = False
        return self.mark(moved) if goes_to_device else moved

    def _pin(
        self, source: Tensor | None, func: Callable, args: tuple, kwargs: dict[str, Any]
    ) -> Tensor:
        if self.kind != "cuda":
            raise self.refuse(
                RuntimeError("Cannot use pinned memory: no CUDA device was requested")
            )
        if source is not None and self.holds(source):
            raise self.refuse(
                RuntimeError("cannot pin a device tensor: only dense CPU tensors can be pinned")
            )
        kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
        pinned = func(*args, **kwargs) if source is None else source.clone()
        _storage(pinned).pinned = True
        return pinned

    # ------------------------------------------------------------------ operators

    def run(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        tensors = list(_tensors(args, kwargs))
        held = [tensor for tensor in tensors if self.holds(tensor)]
        if not held:
            if tensors or not self._uses_device:
                return func(*args, **kwargs)
            # a new tensor that torch creates for a function of device tensors
            return self.mark(self._run_with_generator(func, args, kwargs))
        name, overload = func._schema.name.removeprefix("aten::"), func._schema.overload_name
        full_name = f"{name}.{overload}" if overload else name
        self.operators.add(full_name)
        for part in (name, full_name):
            if part in self.broken:
                raise self.broken[part]
        self._check_devices(func, name, args, kwargs, tensors, held)
        self._check_kernel(full_name, func, held)
        if name in SYNCHRONIZING or (
            name.startswith("index") and any(t.dtype == torch.bool for t in _tensors(args[1:2]))
        ):
            self.wait("read")
        if name in ("copy_", "_foreach_copy_") and len(held) < len(tensors):
            self.wait("upload" if self.holds(next(_tensors(args))) else "read")
        result = self._run_with_generator(func, args, kwargs)
        if name in COPIES[::2] or self._moves_to_host:
            return result
        return self.mark(result)

    def _run_with_generator(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run the operator; random numbers come from the generator of the device."""
        if (
            torch.Tag.nondeterministic_seeded not in func.tags
            or kwargs.get("generator") is not None
        ):
            return func(*args, **kwargs)
        host = torch.default_generator.get_state()
        torch.default_generator.set_state(self._generator.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            self._generator.set_state(torch.default_generator.get_state())
            torch.default_generator.set_state(host)

    def _check_devices(
        self,
        func: Any,
        name: str,
        args: tuple,
        kwargs: dict[str, Any],
        tensors: list[Tensor],
        held: list[Tensor],
    ) -> None:
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != self.kind:
            raise self.refuse(
                RuntimeError(
                    f"Expected a '{self.kind}' device type for generator but found "
                    f"'{generator.device.type}'"
                )
            )
        if name in COPIES:
            return
        checked = tensors
        if name in INDEXING and self.holds(tensors[0]):  # the indices may be on the host
            checked = list(_tensors(args[2:], kwargs))
        places, names = _written_arguments(func)
        written = [args[i] for i in places if i < len(args)] + [
            kwargs[n] for n in names if n in kwargs
        ]
        targets = {id(tensor) for tensor in _tensors(written)}
        is_strict = name.startswith(STRICT)
        ids = {id(tensor) for tensor in held}
        for tensor in checked:
            if id(tensor) not in ids and (tensor.dim() or is_strict or id(tensor) in targets):
                raise self.refuse(
                    RuntimeError(
                        "Expected all tensors to be on the same device, but found at least two "
                        f"devices, {self.device} and cpu! (when checking argument in method {name})"
                    )
                )

    def _check_kernel(self, full_name: str, func: Any, held: list[Tensor]) -> None:
        if self.kind != "mps":
            return
        for tensor in held:
            self.check_format(tensor.dtype)
        is_sparse = any(tensor.layout != torch.strided for tensor in held)
        is_known = func._schema.name.startswith("aten::") and has_kernel(full_name, is_sparse)
        if not (is_known or func._schema.name.startswith("prim::")):
            kind = "sparse MPS tensors" if is_sparse else "the MPS device"
            raise self.refuse(
                NotImplementedError(
                    f"The operator '{func._schema.name}' ({full_name}) is not currently "
                    f"implemented for {kind} (native_functions.yaml of torch {torch.__version__})"
                )
            )


class _Functions(TorchFunctionMode):
    def __init__(self, imitation: Imitation) -> None:
        super().__init__()
        self._imitation = imitation

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return self._imitation.call(func, args, kwargs or {})


class _Operators(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Without the wrapper that keeps torch.compile away: it takes as long as an operator."""
        return False

    def __init__(self, imitation: Imitation) -> None:
        super().__init__()
        self._imitation = imitation

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return self._imitation.run(func, args, kwargs or {})


def _reported_device(
    imitation: Imitation, tensor: Tensor, func: Callable, args: tuple
) -> torch.device:
    return imitation.device if imitation.holds(tensor) else func(*args)


def _is_kind(kind: str) -> Callable[..., bool]:
    return lambda imitation, tensor, func, args: (
        _reported_device(imitation, tensor, Tensor.device.__get__, args).type == kind
    )


_ANSWERS: dict[Any, Callable] = {
    Tensor.device.__get__: _reported_device,
    Tensor.is_cuda.__get__: _is_kind("cuda"),
    Tensor.is_mps.__get__: _is_kind("mps"),
    Tensor.is_cpu.__get__: _is_kind("cpu"),
}


# ---------------------------------------------------------------- calls that bypass the modes


def _patch_torch(imitation: Imitation, patch: pytest.MonkeyPatch) -> None:
    kind = imitation.kind
    for other in DEVICES:
        for name in REPLACED[other]:
            module = getattr(torch, other)
            if hasattr(module, name):
                patch.setattr(
                    module,
                    name,
                    _own(imitation, name) if other == kind else _foreign(imitation, other, name),
                )
    patch.setattr(torch.backends.mps, "is_available", _available(imitation, "mps"))
    patch.setattr(torch.cuda, "is_available", _available(imitation, "cuda"))
    patch.setattr(torch.cuda, "_initialized", kind == "cuda")
    patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: kind != "cuda")
    patch.setattr(
        torch._C, "_group_tensors_by_device_and_dtype", functools.partial(_grouped, imitation)
    )
    frame_init = torch.utils.checkpoint._CheckpointFrame.__init__

    def init(frame: Any, recompute: Callable, *arguments: Any) -> None:
        def recompute_on_device(*inputs: Any) -> Any:
            with imitation._functions:  # torch disables function modes in the backward pass
                return recompute(*inputs)

        frame_init(frame, recompute_on_device, *arguments)

    patch.setattr(torch.utils.checkpoint._CheckpointFrame, "__init__", init)
    autocast = torch.autocast
    is_enabled = torch.is_autocast_enabled
    dtype_of = torch.get_autocast_dtype

    def on_cpu(device_type: str) -> str:
        if device_type not in (kind, "cpu"):
            raise imitation.refuse(
                AssertionError(f"autocast for {device_type} although {kind} was requested")
            )
        return "cpu"

    class Autocast(autocast):  # type: ignore[misc, valid-type]
        def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
            super().__init__(on_cpu(device_type), *args, **kwargs)

    for module in (torch, torch.amp, torch.amp.autocast_mode):
        patch.setattr(module, "autocast", Autocast)
    patch.setattr(
        torch, "is_autocast_enabled", lambda device_type="cuda": is_enabled(on_cpu(device_type))
    )
    patch.setattr(torch, "get_autocast_dtype", lambda device_type: dtype_of(on_cpu(device_type)))
    if imitation.init_scale is not None:
        scaler = functools.partial(torch.amp.GradScaler, init_scale=imitation.init_scale)
        patch.setattr(torch.amp, "GradScaler", scaler)


def _available(imitation: Imitation, kind: str) -> Callable[[], bool]:
    def is_available() -> bool:
        caller = sys._getframe(1)
        if PACKAGE in caller.f_code.co_filename:
            imitation.queried.add(kind)
        return imitation.kind in (kind, "cpu")  # "cpu": both are present but not to be used

    return is_available


def _foreign(imitation: Imitation, module: str, name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        imitation.touched.append(f"torch.{module}.{name} [{package_line()}]")
        return contextlib.nullcontext()

    return call


def _own(imitation: Imitation, name: str) -> Callable[..., Any]:
    """The replacement of function `name` of the imitated device."""
    generator = imitation._generator

    def set_state(state: Tensor, *device: Any) -> None:
        generator.set_state(state)

    answers: dict[str, Callable[..., Any]] = {
        "is_bf16_supported": lambda *_, **__: imitation.has_bf16,
        "is_initialized": lambda: True,
        "manual_seed": generator.manual_seed,
        "manual_seed_all": generator.manual_seed,
        "synchronize": lambda *_: imitation.wait("synchronize"),
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: "imitated card",
        "get_device_capability": lambda *_: (9, 0),
        "get_rng_state": lambda *_: generator.get_state(),
        "set_rng_state": set_state,
        "mem_get_info": lambda *_: (1 << 33, 1 << 34),
        "device": lambda *_: contextlib.nullcontext(),
    }
    return answers.get(name, lambda *_, **__: 1 << 20)


def _grouped(
    imitation: Imitation, lists: list[list[Tensor | None]], with_indices: bool = False
) -> dict:
    """`torch._C._group_tensors_by_device_and_dtype` with the reported devices."""
    groups: dict[Any, tuple[list[list], list[int]]] = defaultdict(lambda: ([[] for _ in lists], []))
    for i, first in enumerate(lists[0]):
        assert first is not None
        device = imitation.device if imitation.holds(first) else torch.device("cpu")
        members, indices = groups[device, first.dtype]
        for member, one in zip(members, lists, strict=True):
            if one:
                member.append(one[i])
        if with_indices:
            indices.append(i)
    return dict(groups)
