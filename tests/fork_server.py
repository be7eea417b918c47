"""Starts Python programs as copies of a process that has torch and simplellm loaded already.

Importing torch takes more than a second of processor time, and many tests start the program. The
server process imports the modules once, computes nothing, and forks for each start. A copy gets the
arguments, environment, folder, streams and terminal that a new interpreter would get, and it runs
the same code. `start` falls back to a new interpreter where that is not possible.

A request goes over a Unix socket, with the streams attached. The answers are the process id and,
when the process has ended, its exit code. Run as a script, this file is the client for commands of
a shell: `python fork_server.py SOCKET ARGUMENTS` behaves like `python ARGUMENTS`.
"""

from __future__ import annotations

import atexit
import codecs
import contextlib
import gc
import io
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

MAX_REQUEST_BYTES = 1 << 20
STREAMS = (0, 1, 2)
FAILED_FLUSH = 120  # exit code of the interpreter
ANSWER = struct.Struct("i")  # a process id or an exit code
SERVER = "import sys, fork_server; fork_server.serve(sys.argv[1], int(sys.argv[2]))"
SECONDS_TO_END = 1.0  # of the server, after its owner
IS_SUPPORTED = hasattr(os, "pidfd_open") and hasattr(socket, "send_fds")
# What the interpreter or a library reads once, when it is started or loaded,
READ_AT_START = ("PYTHON", "OMP_", "GOMP_", "OPENBLAS_", "LC_", "LANG")
APPLIED_TO_COPIES = ("PYTHONPATH", "PYTHONIOENCODING")  # except for these


# ---------------------------------------------------------------- the side of the tests


class ForkedProcess:
    """A started process, with the methods of subprocess.Popen that the tests use."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        (self.pid,) = ANSWER.unpack(connection.recv(ANSWER.size))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(timeout=0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                answer = self._connection.recv(ANSWER.size)
            except (BlockingIOError, TimeoutError) as error:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0) from error
            assert answer, "the server has ended"
            (self.returncode,) = ANSWER.unpack(answer)
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkServer:
    """The server process, started by the first request of any process that uses `folder`.

    It ends with the process `owner`, or when the folder is removed.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], owner: int) -> None:
        self.path = folder / "fork"
        self._environment = dict(environment)
        self._owner = owner

    def client(self) -> list[str]:
        """The words that replace `python` in a command of a shell."""
        self._start()
        return [sys.executable, "-I", "-S", __file__, str(self.path)]

    def can_start(self, command: Sequence[str], environment: Mapping[str, str]) -> bool:
        """Whether a copy behaves as a new interpreter with this environment would."""
        return (
            IS_SUPPORTED
            and command[0] == sys.executable
            and _read_at_start(environment) == _read_at_start(self._environment)
        )

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        streams: Sequence[int] = STREAMS,
        *,
        is_terminal: bool = False,
    ) -> ForkedProcess:
        """Run `command` in `folder`; with `is_terminal` the first stream is its terminal."""
        self._start()
        request = [list(command[1:]), dict(environment), str(folder), is_terminal]
        return ForkedProcess(_connect(self.path, request, streams))

    def _start(self) -> None:
        from filelock import FileLock

        with FileLock(self.path.with_name("lock")):
            if self.path.exists():
                return
            process = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(self.path), str(self._owner)],
                env={**self._environment, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
            )
            while not self.path.exists():
                assert process.poll() is None, "the server has ended"
                time.sleep(0.02)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_AT_START) and name not in APPLIED_TO_COPIES
    }


def _connect(path: Path | str, request: Any, streams: Sequence[int]) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    content = json.dumps(request).encode()
    socket.send_fds(connection, [struct.pack("I", len(content))], list(streams))
    connection.sendall(content)
    return connection


def client(path: str, *arguments: str) -> int:
    """The exit code of `python ARGUMENTS`, run by the server with the streams of this process."""
    request = [arguments, dict(os.environ), os.getcwd(), False]
    process = ForkedProcess(_connect(path, request, STREAMS))
    code = process.wait()
    return code if code >= 0 else 128 - code


# ---------------------------------------------------------------- the server


def serve(path: str, owner: int) -> None:
    """Answer requests at the socket `path` while it exists and the process `owner` runs."""
    _import_everything()
    gc.collect()
    gc.freeze()  # collections in copies leave the shared memory alone
    selector = selectors.DefaultSelector()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen(64)
    selector.register(listener, selectors.EVENT_READ)
    os.rename(path + ".new", path)  # requests may come from now on
    while os.path.exists(path) and _is_alive(owner):
        for key, _ in selector.select(SECONDS_TO_END):
            if key.fileobj is not listener:
                _report_end(selector, key.fd, *key.data)
                continue
            connection, _ = listener.accept()
            request, streams = _receive(connection)
            process_id = os.fork()
            if process_id == 0:
                selector.close()
                listener.close()
                connection.close()
                _become(*request, streams)
            for stream in streams:
                os.close(stream)
            connection.sendall(ANSWER.pack(process_id))
            end = os.pidfd_open(process_id)
            selector.register(end, selectors.EVENT_READ, (connection, process_id))


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def _import_everything() -> None:
    import importlib
    import pkgutil

    from seeds import SeedsOfTests

    import simplellm
    from simplellm.inference import reply

    reply.secrets = SeedsOfTests()  # type: ignore[assignment]
    importlib.import_module("torch._dynamo")  # which an optimizer of torch imports

    for module in pkgutil.walk_packages(simplellm.__path__, "simplellm."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of a package of an extra
                importlib.import_module(module.name)


def _receive(connection: socket.socket) -> tuple[Any, list[int]]:
    size, streams, _, _ = socket.recv_fds(connection, 4, len(STREAMS))
    remaining = struct.unpack("I", size)[0]
    content = b""
    while len(content) < remaining:
        content += connection.recv(remaining - len(content))
    return json.loads(content), streams


def _report_end(
    selector: selectors.BaseSelector, end: int, connection: socket.socket, process_id: int
) -> None:
    selector.unregister(end)
    os.close(end)
    _, status = os.waitpid(process_id, 0)
    with contextlib.suppress(OSError):  # a client that has left
        connection.sendall(ANSWER.pack(os.waitstatus_to_exitcode(status)))
    connection.close()


def _become(
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    is_terminal: bool,
    streams: list[int],
) -> NoReturn:
    """Turn this copy of the server into `python ARGUMENTS`, and run that to its end."""
    import fcntl
    import termios

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.setsid() if is_terminal else os.setpgid(0, 0)
    for number, stream in zip(STREAMS, streams, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    if is_terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    _open_streams()
    _run(arguments)


def _open_streams() -> None:
    """Open the standard streams as the interpreter does."""
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "utf-8:surrogateescape").partition(":")
    encoding, errors = codecs.lookup(encoding).name, errors or "strict"
    sys.stdin = open(0, encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
    sys.stdout = _output(1, encoding, errors)
    sys.stderr = _output(2, encoding, "backslashreplace")


def _output(number: int, encoding: str, errors: str) -> io.TextIOWrapper:
    binary = open(number, "wb", closefd=False)  # noqa: SIM115
    is_line_buffered = number == 2 or os.isatty(number)
    return io.TextIOWrapper(binary, encoding, errors, line_buffering=is_line_buffered)


def _run(arguments: list[str]) -> NoReturn:
    """Run `python ARGUMENTS` and end the process.

    The interpreter is not finalized: that would copy and release all memory of the server.
    """
    code = _exit_code(arguments)
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OSError:
        code = FAILED_FLUSH
    os._exit(code)


def _exit_code(arguments: list[str]) -> int:
    try:
        _execute(arguments)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _execute(arguments: list[str]) -> None:
    import runpy

    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    sys.exit(client(*sys.argv[1:]))
