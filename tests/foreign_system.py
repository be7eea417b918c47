"""Runs steps of a program as if the system were Windows or macOS.

    python -X warn_default_encoding tests/foreign_system.py windows FOLDER < steps.json > results.json

Third-party libraries see the real system. Only the code under test (modules named `simplellm...`) gets imitations of
`os`, `sys`, `signal`, `ctypes` and others, by a hook in `__import__`. Windows' file rules hold below FOLDER for everybody.
Nothing of the code under test is named here but its package and `simplellm.app.cli.main`.

Steps, in JSON: {"import": MODULE}, {"code": SOURCE}, {"collect": FOLDER OF TESTS}, or {"argv": [...], "stdin": TEXT,
"encoding": NAME, "terminal": BOOL, "reader_leaves": BOOL, "patch": {"MODULE.NAME": VALUE}}. Bytes travel as latin-1 text.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import ctypes
import errno
import fcntl
import gc
import importlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PACKAGE = "simplellm"
guests = {PACKAGE}  # top-level modules that get the imitations
PROBE = f"{PACKAGE}.probe"  # the name under which the source of a {"code": ...} step runs

ONLY_POSIX_MODULES = (
    "termios", "fcntl", "resource", "pwd", "grp", "tty", "pty", "posix", "readline", "syslog", "curses", "crypt", "spwd",
)  # fmt: skip
ONLY_POSIX_CALLS = (
    "sched_getaffinity", "sched_setaffinity", "sched_yield", "getuid", "geteuid", "getgid", "getegid", "getgroups", "setuid",
    "getpgid", "getpgrp", "getsid", "setsid", "setpgid", "fork", "forkpty", "openpty", "tcgetpgrp", "tcsetpgrp", "killpg",
    "wait", "wait3", "wait4", "mkfifo", "mknod", "uname", "statvfs", "fstatvfs", "chown", "fchown", "lchown", "chroot",
    "getloadavg", "sysconf", "confstr", "nice", "ttyname", "ctermid", "register_at_fork", "sendfile", "pread", "pwrite",
    "posix_fadvise", "posix_fallocate", "posix_spawn", "sync", "fdatasync", "fchdir", "O_DIRECTORY", "O_NOFOLLOW",
    "O_CLOEXEC", "O_NONBLOCK", "O_SYNC", "O_NOCTTY",
)  # fmt: skip
NOT_ON_MACOS_CALLS = (
    "sched_getaffinity",
    "sched_setaffinity",
    "posix_fadvise",
    "posix_fallocate",
    "memfd_create",
)
WINDOWS_SIGNALS = ("SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM")
ONLY_POSIX_SIGNAL_CALLS = (
    "alarm", "setitimer", "getitimer", "pause", "pthread_sigmask", "pthread_kill", "siginterrupt", "sigpending", "sigwait",
    "sigwaitinfo", "sigtimedwait",
)  # fmt: skip
SIGBREAK = 21
FORBIDDEN_CHARACTERS = '<>:"|?*\\' + "".join(map(chr, range(32)))
DEVICES = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{name}{number}" for name in ("COM", "LPT") for number in range(1, 10)),
}
SHARING_VIOLATION, ACCESS_DENIED = 32, 5
THIRD_PARTY = (
    "torch", "numpy", "rich.console", "rich.progress", "rich.table", "rich.live", "rich.text", "prompt_toolkit", "tiktoken",
    "rustbpe", "regex", "safetensors.torch",
)  # fmt: skip


class Imitation(types.ModuleType):
    """A module that is another one, but for names that it lacks or has of its own."""

    def __init__(self, real: types.ModuleType, lacks: tuple[str, ...] = (), **own: Any) -> None:
        super().__init__(real.__name__)
        object.__getattribute__(self, "__dict__").update(
            _real=real, _lacks=frozenset(lacks), _own=own
        )

    def __getattribute__(self, name: str) -> Any:
        state = object.__getattribute__(self, "__dict__")
        if name in state["_own"]:
            return state["_own"][name]
        if name in state["_lacks"]:
            raise AttributeError(f"module {state['_real'].__name__!r} has no attribute {name!r}")
        return getattr(state["_real"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "__dict__")["_real"], name, value)


# ---------------------------------------------------------------- what the code under test imports


def install(imitations: dict[str, types.ModuleType], missing: tuple[str, ...]) -> None:
    """Give the imitations to imports of the code under test, and refuse the `missing` modules to it."""
    real_import = builtins.__import__

    def import_(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        who = str((globals or {}).get("__name__", ""))
        if level == 0 and who.partition(".")[0] in guests:
            if name.partition(".")[0] in missing:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in imitations or (name.partition(".")[0] in imitations and not fromlist):
                return imitations[name.partition(".")[0]]
        return real_import(name, globals, locals, fromlist, level)

    builtins.__import__ = import_


def become_windows(root: Path) -> None:
    windows_files(root)
    names = {name for name in vars(signal) if name.startswith("SIG") and name.isupper()}
    known = {getattr(signal, name) for name in WINDOWS_SIGNALS} | {SIGBREAK}

    def set_handler(number: int, handler: Any) -> Any:
        if number not in known:
            raise ValueError("invalid signal value")
        return signal.signal(number, handler)

    install(
        {
            "sys": Imitation(sys, platform="win32"),
            "os": Imitation(os, ONLY_POSIX_CALLS, name="nt", O_BINARY=0),
            "signal": Imitation(
                signal, (*(names - {*WINDOWS_SIGNALS, "SIG_DFL", "SIG_IGN"}), *ONLY_POSIX_SIGNAL_CALLS),
                SIGBREAK=SIGBREAK, signal=set_handler,
            ),
            "ctypes": Imitation(ctypes, CDLL=windows_library),
            "msvcrt": msvcrt(),
        },
        ONLY_POSIX_MODULES,
    )  # fmt: skip


def become_macos() -> None:
    def usage(who: int) -> Any:
        real = resource.getrusage(who)
        return types.SimpleNamespace(
            ru_maxrss=real.ru_maxrss * 1024
        )  # bytes there, kibibytes on Linux

    install(
        {
            "sys": Imitation(sys, platform="darwin"),
            "os": Imitation(os, NOT_ON_MACOS_CALLS),
            "resource": Imitation(resource, getrusage=usage),
            "ctypes": Imitation(ctypes, CDLL=MacLibrary),
        },
        ("msvcrt",),
    )


def windows_library(name: Any, *_: Any, **__: Any) -> Any:
    """ctypes.CDLL as CPython has it on Windows."""
    if "/" in name or "\\" in name:  # TypeError for None, as there
        pass
    raise FileNotFoundError(f"Could not find module '{name}' (or one of its dependencies)")


class MacLibrary:
    """The C library of macOS: without the names that only glibc has."""

    def __init__(self, name: Any, *_: Any, **__: Any) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"dlsym(RTLD_DEFAULT, {name}): symbol not found")


def msvcrt() -> types.ModuleType:
    module = types.ModuleType("msvcrt")
    vars(module).update(LK_UNLCK=0, LK_LOCK=1, LK_NBLCK=2, LK_RLCK=3, LK_NBRLCK=4)

    def locking(handle: int, mode: int, n_bytes: int) -> None:
        """Windows locks bytes of files; nobody here locks more than one place of a file, so the whole file will do."""
        try:
            fcntl.flock(handle, fcntl.LOCK_UN if mode == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    vars(module)["locking"] = locking
    return module


# ---------------------------------------------------------------- files as Windows has them


before_step: set[str] = (
    set()
)  # files that were open or mapped already: on Windows that process has ended


def users_of(path: str) -> set[str]:
    """Open handles and maps, in this process, of a file or of anything below a folder."""
    path, found = os.path.realpath(path).rstrip("/"), set()
    for handle in _listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = _readlink(f"/proc/self/fd/{handle}")
            if target == path or target.startswith(path + "/"):
                found.add(f"handle {handle} of {target}")
    with _open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            target = line.rstrip("\n").split(maxsplit=5)[5:]
            if target and (target[0] == path or target[0].startswith(path + "/")):
                found.add(f"map of {target[0]}")
    return found - before_step


_open, _os_open, _readlink, _listdir, _lexists = (
    io.open,
    os.open,
    os.readlink,
    os.listdir,
    os.path.lexists,
)


def windows_files(root: Path) -> None:
    """Below `root`: what is open is neither renamed, replaced nor deleted, a folder is not opened, names are those allowed."""
    shutil._use_fd_functions = False  # as on Windows: rmtree by names

    def is_ours(path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        return f"{os.path.abspath(os.fsdecode(path))}{os.sep}".startswith(f"{root}{os.sep}")

    def check_free(path: Any, code: int) -> None:
        if is_ours(path) and (users := users_of(os.fsdecode(path))):
            raise windows_error(code, os.fsdecode(path), f" ({', '.join(sorted(users))})")

    def check_name(path: Any) -> None:
        """Where the last part of a path is to be made, it must be a name that Windows allows."""
        if not is_ours(path) or _lexists(path):
            return
        name = os.path.basename(os.path.abspath(os.fsdecode(path)))
        is_device = name.partition(".")[0].rstrip().upper() in DEVICES
        if (
            is_device
            or name[-1:] in (" ", ".")
            or any(character in name for character in FORBIDDEN_CHARACTERS)
        ):
            raise OSError(
                errno.EINVAL,
                f"Invalid argument [imitated: no name on Windows: {name!r}]",
                os.fsdecode(path),
            )

    def renamer(real: Callable[..., Any], replaces: bool) -> Callable[..., Any]:
        def rename(source: Any, target: Any, **options: Any) -> Any:
            check_free(source, SHARING_VIOLATION)
            check_name(target)
            if (
                is_ours(target)
                and _lexists(target)
                and os.path.abspath(source) != os.path.abspath(target)
            ):
                if not replaces:
                    raise FileExistsError(
                        errno.EEXIST,
                        "Cannot create a file when that file already exists",
                        str(target),
                    )
                if os.path.isdir(target):
                    raise windows_error(ACCESS_DENIED, os.fsdecode(target))
                check_free(target, ACCESS_DENIED)
            return real(source, target, **options)

        return rename

    def remover(real: Callable[..., Any]) -> Callable[..., Any]:
        def remove(path: Any, **options: Any) -> Any:
            check_free(path, SHARING_VIOLATION)
            return real(path, **options)

        return remove

    def maker(real: Callable[..., Any]) -> Callable[..., Any]:
        def make(path: Any, *arguments: Any, **options: Any) -> Any:
            check_name(path)
            return real(path, *arguments, **options)

        return make

    def low_open(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if is_ours(path) and os.path.isdir(path):
            raise PermissionError(
                errno.EACCES, "Permission denied [imitated: a folder cannot be opened]", str(path)
            )
        if flags & os.O_CREAT:
            check_name(path)
        return _os_open(path, flags, *arguments, **options)

    def high_open(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
                  newline: Any = None, closefd: bool = True, opener: Any = None) -> Any:  # fmt: skip
        if is_ours(file):
            if any(letter in mode for letter in "wxa"):
                check_name(file)
            if "w" in mode and any(user.startswith("map") for user in users_of(os.fsdecode(file))):
                raise OSError(
                    errno.EINVAL,
                    "Invalid argument [imitated: the file is mapped]",
                    os.fsdecode(file),
                )
            if "b" not in mode and newline is None and any(letter in mode for letter in "wxa+"):
                newline = "\r\n"  # a line end, when it is written as text
        encoding = io.text_encoding(encoding, 2) if "b" not in mode else encoding
        return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)

    os.rename, os.replace = renamer(os.rename, False), renamer(os.replace, True)
    os.unlink = os.remove = remover(os.unlink)
    os.rmdir, os.mkdir = remover(os.rmdir), maker(os.mkdir)
    os.open, io.open, builtins.open = low_open, high_open, high_open


def windows_error(code: int, path: str, why: str = "") -> PermissionError:
    words = {
        SHARING_VIOLATION: "The process cannot access the file because it is being used by another process",
        ACCESS_DENIED: "Access is denied",
    }
    error = PermissionError(errno.EACCES, f"[WinError {code}] {words[code]}{why}", path)
    error.winerror = code  # type: ignore[attr-defined]
    return error


# ---------------------------------------------------------------- the steps


class Output(io.BytesIO):
    """What a program writes; a terminal, or a pipe that nobody reads, if it is to think so."""

    is_terminal = False
    no_reader: OSError | None = None

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, data: Any) -> int:
        if self.no_reader:
            raise self.no_reader
        return super().write(data)


@contextlib.contextmanager
def streams(step: dict[str, Any], newline: str) -> Iterator[tuple[Output, Output]]:
    encoding, out, notices = step.get("encoding", "utf-8"), Output(), Output()
    if step.get("reader_leaves"):
        is_windows = newline == "\r\n"
        out.no_reader = (
            OSError(errno.EINVAL, "Invalid argument")
            if is_windows
            else BrokenPipeError(errno.EPIPE, "Broken pipe")
        )
    out.is_terminal = notices.is_terminal = step.get("terminal", False)
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = io.TextIOWrapper(io.BytesIO(step.get("stdin", "").encode("latin-1")), encoding)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(raw, encoding, newline=newline, write_through=True)
        for raw in (out, notices)
    )
    try:
        yield out, notices
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


@contextlib.contextmanager
def patched(values: dict[str, Any]) -> Iterator[None]:
    """Constants of the code under test, changed for one step."""
    before = []
    for path, value in values.items():
        module_name, _, name = path.rpartition(".")
        module = importlib.import_module(module_name)
        before.append((module, name, getattr(module, name)))
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, old in before:
            setattr(module, name, old)


def run_step(step: dict[str, Any], newline: str) -> dict[str, Any]:
    gc.collect()
    before_step.clear()
    before_step.update(users_of("/"))
    result: dict[str, Any] = {"code": None, "error": ""}
    started_at = time.perf_counter()
    with streams(step, newline) as (out, notices), patched(step.get("patch", {})):
        try:
            if "import" in step:
                importlib.import_module(step["import"])
            elif "collect" in step:
                import pytest

                guests.update(path.stem for path in Path(step["collect"]).glob("*"))
                result["code"] = int(
                    pytest.main(
                        ["--collect-only", "-q", "-rs", "-p", "no:cacheprovider", step["collect"]]
                    )
                )
            elif "code" in step:
                exec(compile(step["code"], PROBE, "exec"), {"__name__": PROBE})
            else:
                main = importlib.import_module(f"{PACKAGE}.app.cli").main
                result["code"] = main(step["argv"])
        except BaseException as error:
            result["error"] = "".join(traceback.format_exception(error))
        result["seconds"] = time.perf_counter() - started_at
        result |= {
            "out": out.getvalue().decode("latin-1"),
            "err": notices.getvalue().decode("latin-1"),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("system", choices=("windows", "macos"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    steps = json.load(sys.stdin)
    results_to, sys.stdout = (
        os.fdopen(os.dup(1), "w", encoding="utf-8"),
        sys.stderr,
    )  # a program may replace handle 1
    for name in THIRD_PARTY if any("code" not in step for step in steps) else ():
        importlib.import_module(name)
    gc.freeze()  # the collection before each step leaves out what the libraries have made
    warnings.filterwarnings("error", category=EncodingWarning, module=rf"{PACKAGE}(\.|$)")
    if arguments.system == "windows":
        become_windows(Path(os.path.realpath(arguments.folder)))
    else:
        become_macos()
    newline = "\r\n" if arguments.system == "windows" else "\n"
    json.dump([run_step(step, newline) for step in steps], results_to)


if __name__ == "__main__":
    main()
