"""Runs steps of the program on an imitation of Windows or macOS.

    python -X warn_default_encoding tests/foreign_system.py < JOBS > RESULTS

A job has a system, a folder and steps: {"system": "windows", "folder": FOLDER, "steps": [...]}. It
runs in a copy of the process, which has imported the third-party libraries once for all jobs.

A hook in `__import__` gives the code under test (modules named `simplellm...`) imitations of `os`,
`sys`, `signal`, `ctypes` and others; third-party libraries see the real system. Below FOLDER the
file rules of Windows apply to all code. The only name of the code under test that is used here is
`simplellm.app.cli.main`.

A step is a JSON object, one of
    {"import": MODULE}
    {"code": SOURCE}
    {"collect": FOLDER OF TESTS}
    {"argv": [...], "stdin": TEXT, "encoding": NAME, "terminal": BOOL, "closed_pipe": BOOL,
     "patch": {"MODULE.NAME": VALUE}}
Bytes are passed as latin-1 text.
"""

from __future__ import annotations

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
imitated_for = {PACKAGE}  # top-level modules that import the imitations
PROBE = f"{PACKAGE}.probe"  # module name of the source in a {"code": ...} step

ONLY_POSIX_MODULES = (
    "termios", "fcntl", "resource", "pwd", "grp", "tty", "pty", "posix", "readline", "syslog",
    "curses", "crypt", "spwd",
)  # fmt: skip
ONLY_POSIX_CALLS = (
    "sched_getaffinity", "sched_setaffinity", "sched_yield", "getuid", "geteuid", "getgid",
    "getegid", "getgroups", "setuid", "getpgid", "getpgrp", "getsid", "setsid", "setpgid", "fork",
    "forkpty", "openpty", "tcgetpgrp", "tcsetpgrp", "killpg", "wait", "wait3", "wait4", "mkfifo",
    "mknod", "uname", "statvfs", "fstatvfs", "chown", "fchown", "lchown", "chroot", "getloadavg",
    "sysconf", "confstr", "nice", "ttyname", "ctermid", "register_at_fork", "sendfile", "pread",
    "pwrite", "posix_fadvise", "posix_fallocate", "posix_spawn", "sync", "fdatasync", "fchdir",
    "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_SYNC", "O_NOCTTY",
)  # fmt: skip
NOT_ON_MACOS_CALLS = (
    "sched_getaffinity", "sched_setaffinity", "posix_fadvise", "posix_fallocate", "memfd_create",
)  # fmt: skip
WINDOWS_SIGNALS = ("SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM")
ONLY_POSIX_SIGNAL_CALLS = (
    "alarm", "setitimer", "getitimer", "pause", "pthread_sigmask", "pthread_kill", "siginterrupt",
    "sigpending", "sigwait", "sigwaitinfo", "sigtimedwait",
)  # fmt: skip
SIGBREAK = 21
FORBIDDEN_CHARACTERS = '<>:"|?*\\' + "".join(map(chr, range(32)))
NUMBERED_DEVICES = {f"{name}{number}" for name in ("COM", "LPT") for number in range(1, 10)}
DEVICES = {"CON", "PRN", "AUX", "NUL"} | NUMBERED_DEVICES
SHARING_VIOLATION, ACCESS_DENIED = 32, 5
THIRD_PARTY = (
    "torch", "numpy", "rich.console", "rich.progress", "rich.table", "rich.live", "rich.text",
    "prompt_toolkit", "tiktoken", "rustbpe", "regex", "safetensors.torch",
)  # fmt: skip


class Imitation(types.ModuleType):
    """A view of a real module that lacks some names and replaces others."""

    def __init__(
        self, real: types.ModuleType, missing: tuple[str, ...] = (), **replaced: Any
    ) -> None:
        super().__init__(real.__name__)
        object.__getattribute__(self, "__dict__").update(
            _real=real, _missing=frozenset(missing), _replaced=replaced
        )

    def __getattribute__(self, name: str) -> Any:
        state = object.__getattribute__(self, "__dict__")
        if name in state["_replaced"]:
            return state["_replaced"][name]
        if name in state["_missing"]:
            raise AttributeError(f"module {state['_real'].__name__!r} has no attribute {name!r}")
        return getattr(state["_real"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "__dict__")["_real"], name, value)


# ---------------------------------------------------------------- imports of the code under test


def install(imitations: dict[str, types.ModuleType], missing: tuple[str, ...]) -> None:
    """Make the code under test import the imitations, and raise for `missing` modules."""
    real_import = builtins.__import__

    def import_(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        importer = str((globals or {}).get("__name__", ""))
        if level == 0 and importer.partition(".")[0] in imitated_for:
            if name.partition(".")[0] in missing:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in imitations or (name.partition(".")[0] in imitations and not fromlist):
                return imitations[name.partition(".")[0]]
        return real_import(name, globals, locals, fromlist, level)

    builtins.__import__ = import_


def become_windows(root: Path) -> None:
    WindowsFiles(root).install()
    names = {name for name in vars(signal) if name.startswith("SIG") and name.isupper()}
    missing_signals = names - {*WINDOWS_SIGNALS, "SIG_DFL", "SIG_IGN"}
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
                signal,
                (*missing_signals, *ONLY_POSIX_SIGNAL_CALLS),
                SIGBREAK=SIGBREAK,
                signal=set_handler,
            ),
            "ctypes": Imitation(ctypes, CDLL=windows_library),
            "msvcrt": msvcrt(),
        },
        ONLY_POSIX_MODULES,
    )


def become_macos() -> None:
    def usage(who: int) -> Any:
        kibibytes = resource.getrusage(who).ru_maxrss  # macOS reports bytes
        return types.SimpleNamespace(ru_maxrss=kibibytes * 1024)

    install(
        {
            "sys": Imitation(sys, platform="darwin"),
            "os": Imitation(os, NOT_ON_MACOS_CALLS),
            "resource": Imitation(resource, getrusage=usage),
            "ctypes": Imitation(ctypes, CDLL=mac_library),
        },
        ("msvcrt",),
    )


def windows_library(name: Any, *_: Any, **__: Any) -> Any:
    """`ctypes.CDLL` of CPython on Windows: TypeError for None, and no library of POSIX."""
    if "/" in name or "\\" in name:
        pass
    raise FileNotFoundError(f"Could not find module '{name}' (or one of its dependencies)")


def mac_library(name: str | None, *arguments: Any, **options: Any) -> Any:
    """`ctypes.CDLL` on macOS: a library that the program compiled is loaded there too."""
    return ctypes.CDLL(name, *arguments, **options) if name and "/" in name else MacLibrary()


class MacLibrary:
    """The C library of macOS, which lacks the functions of glibc."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"dlsym(RTLD_DEFAULT, {name}): symbol not found")


def msvcrt() -> types.ModuleType:
    module = types.ModuleType("msvcrt")
    vars(module).update(LK_UNLCK=0, LK_LOCK=1, LK_NBLCK=2, LK_RLCK=3, LK_NBRLCK=4)

    def locking(handle: int, mode: int, n_bytes: int) -> None:
        """Locks the whole file; Windows locks bytes of it, of which the program uses only one."""
        try:
            fcntl.flock(handle, fcntl.LOCK_UN if mode == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    vars(module)["locking"] = locking
    return module


# ---------------------------------------------------------------- the file rules of Windows


# Files that an earlier step left open or mapped. On Windows its process would have ended.
open_before_step: set[str] = set()


def users_of(path: str) -> set[str]:
    """Open handles and memory maps, in this process, of a file or of files below a folder."""
    path = os.path.realpath(path).rstrip("/")
    found = set()
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
    return found - open_before_step


_open = io.open
_os_open = os.open
_readlink = os.readlink
_listdir = os.listdir
_lexists = os.path.lexists


class WindowsFiles:
    """The rules of Windows for files below `root`.

    An open file cannot be renamed, replaced or deleted; a folder cannot be opened; some names are
    not allowed; text files get CR LF.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def install(self) -> None:
        shutil._use_fd_functions = False  # rmtree uses names on Windows
        os.rename, os.replace = self._renamer(os.rename, False), self._renamer(os.replace, True)
        os.unlink = os.remove = self._remover(os.unlink)
        os.rmdir, os.mkdir = self._remover(os.rmdir), self._maker(os.mkdir)
        os.open, io.open, builtins.open = self._open_handle, self._open_file, self._open_file

    def _applies_to(self, path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        return f"{os.path.abspath(os.fsdecode(path))}{os.sep}".startswith(f"{self.root}{os.sep}")

    def _check_unused(self, path: Any, code: int) -> None:
        if self._applies_to(path) and (users := users_of(os.fsdecode(path))):
            raise windows_error(code, os.fsdecode(path), f" ({', '.join(sorted(users))})")

    def _check_name(self, path: Any) -> None:
        """A new file or folder must have a name that Windows allows."""
        if not self._applies_to(path) or _lexists(path):
            return
        name = os.path.basename(os.path.abspath(os.fsdecode(path)))
        is_device = name.partition(".")[0].rstrip().upper() in DEVICES
        has_forbidden = any(character in name for character in FORBIDDEN_CHARACTERS)
        if is_device or has_forbidden or name[-1:] in (" ", "."):
            message = f"Invalid argument [imitated: not allowed on Windows: {name!r}]"
            raise OSError(errno.EINVAL, message, os.fsdecode(path))

    def _check_target(self, target: Any, replaces: bool) -> None:
        if not replaces:
            message = "Cannot create a file when that file already exists"
            raise FileExistsError(errno.EEXIST, message, str(target))
        if os.path.isdir(target):
            raise windows_error(ACCESS_DENIED, os.fsdecode(target))
        self._check_unused(target, ACCESS_DENIED)

    def _renamer(self, real: Callable[..., Any], replaces: bool) -> Callable[..., Any]:
        def rename(source: Any, target: Any, **options: Any) -> Any:
            self._check_unused(source, SHARING_VIOLATION)
            self._check_name(target)
            is_same = os.path.abspath(source) == os.path.abspath(target)
            if self._applies_to(target) and _lexists(target) and not is_same:
                self._check_target(target, replaces)
            return real(source, target, **options)

        return rename

    def _remover(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def remove(path: Any, **options: Any) -> Any:
            self._check_unused(path, SHARING_VIOLATION)
            return real(path, **options)

        return remove

    def _maker(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def make(path: Any, *arguments: Any, **options: Any) -> Any:
            self._check_name(path)
            return real(path, *arguments, **options)

        return make

    def _open_handle(self, path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        """`os.open` on Windows."""
        if self._applies_to(path) and os.path.isdir(path):
            message = "Permission denied [imitated: a folder cannot be opened]"
            raise PermissionError(errno.EACCES, message, str(path))
        if flags & os.O_CREAT:
            self._check_name(path)
        return _os_open(path, flags, *arguments, **options)

    def _open_file(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: Any = None,
        errors: Any = None,
        newline: Any = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """`open` on Windows."""
        if self._applies_to(file):
            if any(letter in mode for letter in "wxa"):
                self._check_name(file)
            if "w" in mode and any(user.startswith("map") for user in users_of(os.fsdecode(file))):
                message = "Invalid argument [imitated: the file is mapped]"
                raise OSError(errno.EINVAL, message, os.fsdecode(file))
            if "b" not in mode and newline is None and any(letter in mode for letter in "wxa+"):
                newline = "\r\n"
        encoding = io.text_encoding(encoding, 2) if "b" not in mode else encoding
        return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)


def windows_error(code: int, path: str, reason: str = "") -> PermissionError:
    messages = {
        SHARING_VIOLATION: "The process cannot access the file because it is being used by "
        "another process",
        ACCESS_DENIED: "Access is denied",
    }
    error = PermissionError(errno.EACCES, f"[WinError {code}] {messages[code]}{reason}", path)
    error.winerror = code  # type: ignore[attr-defined]
    return error


# ---------------------------------------------------------------- steps


class Output(io.BytesIO):
    """Records what a program writes; can claim to be a terminal or a closed pipe."""

    is_terminal = False
    write_error: OSError | None = None

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, data: Any) -> int:
        if self.write_error:
            raise self.write_error
        return super().write(data)


@contextlib.contextmanager
def streams(step: dict[str, Any], newline: str) -> Iterator[tuple[Output, Output]]:
    encoding = step.get("encoding", "utf-8")
    out, notices = Output(), Output()
    if step.get("closed_pipe"):
        is_windows = newline == "\r\n"
        out.write_error = (
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
    """Changes constants of the code under test for one step."""
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


def import_error(name: str) -> str:
    """The traceback of importing a module; empty where that works."""
    try:
        importlib.import_module(name)
    except BaseException as error:
        return "".join(traceback.format_exception(error))
    return ""


def run_step(step: dict[str, Any], newline: str) -> dict[str, Any]:
    gc.collect()
    open_before_step.clear()
    open_before_step.update(users_of("/"))
    result: dict[str, Any] = {"code": None, "error": ""}
    started_at = time.perf_counter()
    with streams(step, newline) as (out, notices), patched(step.get("patch", {})):
        try:
            if "imports" in step:
                result["errors"] = {name: import_error(name) for name in step["imports"]}
                gc.freeze()
            elif "collect" in step:
                import pytest

                imitated_for.update(path.stem for path in Path(step["collect"]).glob("*"))
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


def run_in_copy(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of the steps of a job, run in its folder by a copy of this process."""
    reader, writer = os.pipe()
    process_id = os.fork()
    if process_id == 0:
        os.close(reader)
        os._exit(run_job(job, writer))
    os.close(writer)
    with open(reader, encoding="utf-8") as results:
        text = results.read()
    if os.waitpid(process_id, 0)[1]:
        sys.exit(f"the steps on {job['system']} were not completed")
    return json.loads(text)


def run_job(job: dict[str, Any], writer: int) -> int:
    """Write the results of a job to the handle `writer`; the exit code of this process."""
    system, folder = job["system"], os.path.realpath(job["folder"])
    with os.fdopen(writer, "w", encoding="utf-8") as results_file:
        try:
            os.chdir(folder)
            os.environ["HOME"] = folder
            become_windows(Path(folder)) if system == "windows" else become_macos()
            newline = "\r\n" if system == "windows" else "\n"
            json.dump([run_step(step, newline) for step in job["steps"]], results_file)
        except BaseException:
            traceback.print_exc()
            return 1
    return 0


def main() -> None:
    jobs = json.load(sys.stdin)
    # The program may replace handle 1, so the results go to a copy of it.
    results_file = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = sys.stderr
    for name in THIRD_PARTY:
        importlib.import_module(name)
    gc.freeze()  # keeps the objects of modules out of the collection before each step
    warnings.filterwarnings("error", category=EncodingWarning, module=rf"{PACKAGE}(\.|$)")
    json.dump([run_in_copy(job) for job in jobs], results_file)


if __name__ == "__main__":
    main()
