"""Hostile checkpoints from a fixed seed: `python -m faults.hostile --count 300` in tests/.

In each, one file of a checkpoint is changed and the manifest matches the change. Loading must raise
one typed error or be harmless, within seconds and within a memory limit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from faults.tiny import go_on, train, write_text
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.errors import SimpleLLMError
from simplellm.inference.sampler import Sampler
from simplellm.storage.manifest import write_manifest
from simplellm.training import preparation

MAX_EXTRA_BYTES = 600 << 20  # of address space, in addition to that of the process at the start
MAX_SECONDS = 10
NUMBERS = [
    -1, 0, 1, 2, 7, 1.5, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**64, 10**300, 10**4000, 1e308,
    True, False, None, "4", "", [], {}, [4], "x" * 100_000,
]  # fmt: skip
HostileFile = tuple[str, str, bytes]  # description, file name, content


def tensors_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header; `length` replaces the length of the header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (2, 2), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def headers() -> Iterator[tuple[str, bytes]]:
    """Invalid safetensors files: (description, content)."""
    four = bytes(16)
    yield "10^12 elements in 16 bytes", tensors_file({"a": entry(shape=[10**12])}, four)
    yield (
        "10^12 elements and their place",
        tensors_file({"a": entry(shape=[10**12], offsets=[0, 4 * 10**12])}, four),
    )
    yield (
        "a product over 2^64",
        tensors_file({"a": entry(shape=[2**40, 2**40], offsets=[0, 16])}, four),
    )
    yield (
        "a product that wraps to 16 bytes",
        tensors_file({"a": entry(shape=[2**62 + 1, 4], offsets=[0, 16])}, four),
    )
    for length in (0, 1, 10**9, 2**31, 2**63 - 1, 2**64 - 1):
        yield f"a header of {length} bytes", tensors_file({"a": entry()}, four, length)
    yield "no header", b""
    yield "half a length", b"\x10\x00"
    yield "a pickle", b"PK\x03\x04" + bytes(1000)
    yield "an old pickle", b"\x80\x02cos\nsystem\n(S'true'\ntR."
    for text in (
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"a":' * 100_000,
        b"\xff\xfe",
        b'{"a": 1}',
        b'{"a": {}}',
        b'{"__metadata__": 5}',
    ):
        yield f"a header {text[:12]!r}", tensors_file(text, four)
    yield (
        "a tensor twice",
        tensors_file(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), four),
    )
    places = (
        [0, 8],
        [8, 16],
        [16, 0],
        [-16, 0],
        [0, 17],
        [1, 17],
        [0.0, 16.0],
        ["0", "16"],
        [0],
        [],
        None,
        [0, True],
        [0, 2**64],
    )
    for place in places:
        yield f"a place {place}", tensors_file({"a": entry(offsets=place)}, four)
    overlap = {"a": entry(), "b": entry(offsets=[8, 24])}
    yield "two at one place", tensors_file({"a": entry(), "b": entry()}, four)
    yield "an overlap", tensors_file(overlap, bytes(24))
    yield "a gap", tensors_file({"a": entry(), "b": entry(offsets=[24, 40])}, bytes(40))
    yield "something behind the end", tensors_file({"a": entry()}, four + b"x")
    for shape in (
        [4.0],
        ["4"],
        [-2, -2],
        [True, 4],
        None,
        "22",
        [[4]],
        [1] * 9 + [4],
        [4, 10**4000],
        {},
    ):
        yield f"a shape {str(shape)[:20]}", tensors_file({"a": entry(shape=shape)}, four)
    for dtype in ("F128", "f32", "", None, 4, [], "OBJECT", "F64"):
        yield f"a type {dtype!r}", tensors_file({"a": entry(dtype=dtype)}, four)


def changed_tensors(path: Path, generator: random.Random) -> Iterator[tuple[str, bytes]]:
    """A real safetensors file with one change."""
    import safetensors.torch as st

    for _ in range(4):
        for kind in ("NaN", "inf", "-inf"):
            state = st.load(path.read_bytes())
            tensor = state[
                generator.choice([name for name, tensor in state.items() if tensor.numel()])
            ]
            tensor.view(-1)[generator.randrange(tensor.numel())] = float(kind)
            yield f"one {kind}", st.save(state)
    changes: dict[str, Callable[[dict, str], Any]] = {
        "lacks one": lambda state, name: state.pop(name),
        "has another": lambda state, name: state.update(extra=torch.ones(1)),
        "has one renamed": lambda state, name: state.update({name + "x": state.pop(name)}),
        "has another shape": lambda state, name: state.update({name: torch.ones(3, 5)}),
        "has integers": lambda state, name: state.update({name: state[name].long()}),
        "has doubles": lambda state, name: state.update({name: state[name].double()}),
        "has one without elements": lambda state, name: state.update({name: torch.ones(0)}),
    }
    for what, change in changes.items():
        for _ in range(3):
            state = st.load(path.read_bytes())
            change(state, generator.choice(list(state)))
            yield what, st.save(state)


def changed_json(path: Path, generator: random.Random) -> Iterator[tuple[str, bytes]]:
    """A real JSON file with one value replaced, removed or repeated, and invalid JSON."""
    for text in (
        b"",
        b"[]",
        b"null",
        b"5",
        b'"x"',
        b"{}",
        b"\xff{",
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b"{" + b" " * 10_000_000,
    ):
        yield f"{text[:10]!r}", text
    whole = json.loads(path.read_bytes())
    for _ in range(400):
        content = json.loads(path.read_bytes())
        place, key = generator.choice(list(_places(content)))
        value = generator.choice([*NUMBERS, float("nan"), float("inf")])
        place[key] = value
        yield f"{key} is {str(value)[:20]}", _dumped(content)
    for key in whole:
        yield (
            f"no {key}",
            json.dumps({name: value for name, value in whole.items() if name != key}).encode(),
        )
        repeated = json.dumps({key: whole[key]})[1:-1]
        yield f"{key} twice", (json.dumps(whole)[:-1] + "," + repeated + "}").encode()


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of the values in a JSON document; of long lists the first few."""
    pairs = (
        list(content.items())[:300] if isinstance(content, dict) else list(enumerate(content))[:20]
    )
    for key, value in pairs:
        yield content, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def _dumped(content: Any) -> bytes:
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(content).encode()
    finally:
        sys.set_int_max_str_digits(4300)


def patterns(path: Path) -> Iterator[tuple[str, bytes]]:
    """Tokenizers with split patterns that are invalid or slow."""
    for pattern in (
        "",
        "(",
        "(a+)+$",
        "(?=a)" * 1000,
        "a{1,99999999}",
        "(" * 5000,
        "x" * 1_000_000,
        "(?R)",
        r"\p{L}" * 50_000,
    ):
        content = json.loads(path.read_bytes())
        content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
        yield f"pattern {pattern[:12]!r}", json.dumps(content).encode()


def hostile_files(folder: Path, seed: int) -> list[HostileFile]:
    """All hostile files for one checkpoint, in a random order given by `seed`."""
    generator = random.Random(seed)
    files: list[HostileFile] = []
    for name in ("model.safetensors", "training/state.safetensors"):
        files += [(what, name, content) for what, content in headers()]
        files += [
            (what, name, content) for what, content in changed_tensors(folder / name, generator)
        ]
    for name in ("config.json", "tokenizer.json", "training/state.json"):
        files += [(what, name, content) for what, content in changed_json(folder / name, generator)]
    files += [
        (what, "tokenizer.json", content) for what, content in patterns(folder / "tokenizer.json")
    ]
    generator.shuffle(files)
    return files


# A changed JSON file may still be valid.
MUST_BE_REFUSED = ("model.safetensors", "training/state.safetensors")


def try_one(checkpoints: Path, folder: Path, hostile: HostileFile) -> str:
    """Empty if the file was refused or harmless, else what happened."""
    what, name, content = hostile
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(content)
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)  # processor time, whatever the load
    try:
        use(checkpoints, folder, name)
    except SimpleLLMError as error:
        message = f"{error} {error.fix}"
        return (
            ""
            if len(message) < 2000 and "\n" not in str(error).strip()
            else f"{name}, {what}: message {message[:300]!r}..."
        )
    except BaseException as error:
        return f"{name}, {what}: {type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        (folder / name).write_bytes(whole)
    return f"{name}, {what}: was accepted" if name in MUST_BE_REFUSED else ""


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"took more than {MAX_SECONDS} s")


def use(checkpoints: Path, folder: Path, name: str) -> None:
    """Load the file as a chat or a resumed training does."""
    if name.startswith("training/"):
        shutil.copytree(checkpoints, checkpoints.with_name("copy"))
        try:
            go_on(checkpoints.with_name("copy"))
        finally:
            shutil.rmtree(checkpoints.with_name("copy"))
    else:
        model, tokenizer = load_model(folder, torch.device("cpu"))
        Sampler(model, tokenizer).next_logits(tokenizer.encode("The judge"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, _too_slow)
    preparation.relative_speed = lambda device: 1.0
    with tempfile.TemporaryDirectory() as temporary:
        checkpoints = write_text(Path(temporary)).parent / "checkpoints"
        train(checkpoints, max_steps=2, eval_interval=2)
        run = RunFolder(checkpoints / "run")
        run.write_info(
            {**(info := run.read_info()), "training": {**info["training"], "max_steps": 3}}
        )
        folder = run.last()
        files = hostile_files(folder, options.seed)[: options.count]
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (used + MAX_EXTRA_BYTES, resource.RLIM_INFINITY))
        failures = [text for one in files if (text := try_one(checkpoints, folder, one))]
    harmless = len(files) - len(failures)
    print(f"{len(files)} hostile files: {harmless} refused or harmless, {len(failures)} not")  # noqa: T201
    for failure in failures:
        print(f"  {failure}")  # noqa: T201
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
