"""Damaged models from elsewhere: `python -m faults.hostile_sources --count 100` in tests/.

Bytes of a good model folder or GGUF file are changed at random. `import` must make a run that
generates, or end with one error of two lines and write nothing, within a memory limit.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from simplellm.app.cli import main as program
from simplellm.checkpoint.export.export import ExportJob
from simplellm.checkpoint.export.exported_model import ExportedModel, source_of
from simplellm.checkpoint.generation import Generation
from simplellm.config.model import ModelConfig
from simplellm.data.tokenizer import Tokenizer
from simplellm.model.transformer import SimpleLLM

MAX_EXTRA_BYTES = 600 << 20  # of address space, in addition to that of the process at the start
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% if loop.last %}<|endoftext|>{% endif %}{% endfor %}"
)
WORDS = [  # what one change puts into a file
    b"-1", b"0", b"1e400", b"18446744073709551616", b"null", b"{", b"]", b'"', b"\\ud800", b"\x00",
    b"\xff\xfe", b"NaN", b"{{ ''.__class__ }}", b"{% for x in range(10**9) %}", b"../../etc/passwd",
    "한국어".encode(), b"\xe2\x80\xae", b"[" * 5000,
]  # fmt: skip
FILES = ("config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja", "model.gguf")
HEADER_BYTES = 4000  # of binary files, where most changes are made


Change = Callable[[bytes, bytes, random.Random], bytes]  # of the bytes changed, and those after
CHANGES: tuple[Change, ...] = (
    lambda part, rest, draw: draw.randbytes(len(part)) + rest,
    lambda part, rest, draw: rest,
    lambda part, rest, draw: part * 3 + rest,
    lambda part, rest, draw: draw.choice(WORDS) + part + rest,
    lambda part, rest, draw: bytes([part[0] ^ 1 << draw.randrange(8)]) + part[1:] + rest,
    lambda part, rest, draw: b"\xff" * len(part) + rest,
    lambda part, rest, draw: part,
)


def mutated(content: bytes, is_text: bool, draw: random.Random) -> bytes:
    """`content` with one to four random changes."""
    for _ in range(draw.choice([1, 1, 2, 4])):
        end = len(content) if is_text or draw.random() < 0.2 else HEADER_BYTES
        at = draw.randrange(min(end, len(content)))
        after = at + draw.choice([1, 2, 8, 50])
        changed = draw.choice(CHANGES)(content[at:after], content[after:], draw)
        content = content[:at] + changed or b"x"
    return content


def write_source(folder: Path) -> None:
    """A model folder with a chat template, and the same model as a GGUF file in it."""
    tokenizer = Tokenizer.train(["The judge looked at the lamp. " * 30], 300)
    config = ModelConfig(
        architecture="llama", n_layer=2, n_head=2, n_embd=32, vocab_size=tokenizer.vocab_size
    )
    network = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))
    generation = Generation((tokenizer.end_of_text,), None, TEMPLATE)
    model = ExportedModel("good", source_of(network, tokenizer, "good", generation))
    ExportJob.of("hf", None, folder).write(model)
    ExportJob.of("gguf", None, folder / "model.gguf").write(model)


def try_one(folder: Path, name: str, content: bytes) -> str:
    """Empty if the source was refused or works, else what happened."""
    whole = (folder / name).read_bytes()
    runs = folder.with_name("runs")
    (folder / name).write_bytes(content)
    source = folder / name if name.endswith(".gguf") else folder
    try:
        code, error = _run("import", str(source), "--name", "x", "--checkpoints", str(runs))
        if code == 0:
            flags = ["--prompt", "The judge", "--max-new-tokens", "3", "--checkpoints", str(runs)]
            code, error = _run("generate", "--run", "x", *flags)
            return "" if code == 0 else f"{name}: imported, but {error}"
        if code not in (1, 2) or error.count("\n") > 2 or len(error) > 2000:
            return f"{name}: {code} {error[:500]!r}"
        return f"{name}: left {os.listdir(runs)}" if runs.exists() and os.listdir(runs) else ""
    except BaseException as error:
        return f"{name}: {type(error).__name__}: {str(error)[:300]}"
    finally:
        (folder / name).write_bytes(whole)
        shutil.rmtree(runs, ignore_errors=True)


def _run(*arguments: str) -> tuple[int, str]:
    """The exit code of the program, and what it wrote to stderr."""
    written = io.StringIO()
    with contextlib.redirect_stderr(written), contextlib.redirect_stdout(io.StringIO()):
        code = program(list(arguments))
    return code, written.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="changes of each file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(options.seed)
    failures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_source(folder)
        assert not try_one(folder, "config.json", (folder / "config.json").read_bytes())
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MAX_EXTRA_BYTES, resource.RLIM_INFINITY))
        for name in FILES:
            for _ in range(options.count):
                is_text = name.endswith((".json", ".jinja"))
                content = mutated((folder / name).read_bytes(), is_text, draw)
                failures += [text] if (text := try_one(folder, name, content)) else []
    n_files = len(FILES) * options.count
    harmless = n_files - len(failures)
    print(f"{n_files} damaged sources: {harmless} refused or harmless, {len(failures)} not")  # noqa: T201
    for failure in failures:
        print(f"  {failure}")  # noqa: T201
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
