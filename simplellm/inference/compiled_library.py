"""C code of this package, compiled by the C compiler of the machine at its first use.

The library is compiled once (2 s) and kept in the user's cache folder. Its name depends on the
source, the compiler and the processor, so that it is only used where it fits.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-fPIC", "-shared")
COMPILE_SECONDS = 60  # at most
HEADERS = "*.h"  # in the folder of the sources


def compiled_library(sources: Sequence[Path]) -> ctypes.CDLL | None:
    """The library of C files in one folder; None where it cannot be made."""
    if os.name != "posix":
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError, RuntimeError):  # no home folder
        return ctypes.CDLL(str(_library(sources)))
    return None


def _library(sources: Sequence[Path]) -> Path:
    """The compiled library in the cache folder; OSError or SubprocessError if there is none."""
    compiler = _compiler()
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    flags = [*FLAGS, native]
    folder = _cache_folder()
    path = folder / f"{sources[0].stem}-{_fingerprint(compiler, flags, sources)}.so"
    if not path.is_file():
        _compile(compiler, flags, sources, path)
    return path


def _compiler() -> str:
    for name in (os.environ.get("CC", ""), *COMPILERS):
        if name and (path := shutil.which(name)):
            return path
    raise FileNotFoundError("no C compiler")


def _cache_folder() -> Path:
    """In XDG_CACHE_HOME or ~/.cache; only its owner may write there, because code is loaded."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    folder = home / "simplellm"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"others may write to {folder}")
    return folder


def _fingerprint(compiler: str, flags: list[str], sources: Sequence[Path]) -> str:
    """Of all that decides what the library contains and on which machine it runs."""
    status = os.stat(compiler)
    parts = [compiler, str(status.st_size), str(status.st_mtime_ns), *flags, _processor()]
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in [*sources, *sorted(sources[0].parent.glob(HEADERS))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """The instruction sets of the processor, where the system lists them."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.lower().startswith(("flags", "features")):
                return line
    return platform.machine() + platform.processor()


def _compile(compiler: str, flags: list[str], sources: Sequence[Path], path: Path) -> None:
    """With threads of OpenMP if the compiler has them (the one of macOS has not)."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        output = Path(folder) / path.name
        for more in (["-fopenmp"], []):
            command = [compiler, *flags, *more, "-o", str(output), *map(str, sources)]
            done = subprocess.run(
                command, capture_output=True, stdin=subprocess.DEVNULL, timeout=COMPILE_SECONDS
            )
            if done.returncode == 0:
                os.replace(output, path)
                return
    raise FileNotFoundError("the C compiler fails")
