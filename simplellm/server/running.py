"""Running a server: its sockets, its signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

from simplellm.errors import SettingError, SimpleLLMError
from simplellm.server.connections import IDLE_SECONDS, Connection
from simplellm.server.request_body import MAX_HEAD_BYTES
from simplellm.server.service import Service

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
)
FINISH_SECONDS = 1.5  # for running replies after a signal; then they are cancelled
CANCEL_SECONDS = 1.0  # for their answers to be sent
BACKLOG = 1024  # connections that the system accepts before the server does
Listeners = list[socket.socket]


def bound_sockets(host: str, port: int) -> Listeners:
    """Sockets on all addresses of `host`. With port 0 the system chooses one.

    SettingError for a host that is not one of this machine, SimpleLLMError for a port in use.
    """
    found = []
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise _bad_host(host) from error
    for family, kind, protocol, _, address in dict.fromkeys(infos):
        try:
            found.append(_bound(family, kind, protocol, (address[0], port, *address[2:])))
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT and len(infos) > 1:  # no IPv6 here
                continue
            for sock in found:
                sock.close()
            raise _cannot_listen(host, port, error) from error
        port = port or found[0].getsockname()[1]
    return found


def addresses(listeners: Sequence[socket.socket]) -> list[str]:
    """The addresses that the sockets listen on."""
    return [sock.getsockname()[0] for sock in listeners]


def run_server(
    app: Starlette, service: Service, listeners: Listeners, on_start: Callable[[], None]
) -> int:
    """Answer requests until a signal arrives; returns the exit code.

    Ctrl-C ends with 0, another signal with 128 + its number. Running replies may finish within
    FINISH_SECONDS; a second signal cancels them at once.
    """
    server = Server(server_config(app), service, on_start)
    server.run(sockets=listeners)
    return server.exit_code


def server_config(app: Starlette) -> uvicorn.Config:
    """uvicorn's settings. Its log is silent: the log of the server is `Service.notice`."""
    for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logging.getLogger(name).disabled = True
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(IDLE_SECONDS),
        timeout_graceful_shutdown=math.ceil(FINISH_SECONDS + CANCEL_SECONDS),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )


class Server(uvicorn.Server):
    """uvicorn's server, which stops at a signal and tells which one it was."""

    def __init__(
        self, config: uvicorn.Config, service: Service, on_start: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._service = service
        self._on_start = on_start
        self._first: int | None = None

    @property
    def exit_code(self) -> int:
        return 0 if self._first in (None, signal.SIGINT) else 128 + int(self._first)

    async def startup(self, sockets: Listeners | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._report)
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: Listeners | None = None) -> None:
        self._service.is_stopping = True
        loop = asyncio.get_running_loop()
        engine = self._service.model.engine
        cancel = loop.call_later(0 if self.force_exit else FINISH_SECONDS, engine.close, 0.0)
        await super().shutdown(sockets)
        cancel.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._first is None:
            self._first = sig
        else:
            self.force_exit = True
        self.should_exit = True

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None:
            self._service.notice(str(context.get("message", "an error in the event loop")))
        elif not isinstance(error, OSError):  # a client that has gone
            self._service.report(error)


def _bound(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        if hasattr(signal, "SIGHUP"):  # on Windows the option would share a port in use
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _cannot_listen(host: str, port: int, error: OSError) -> SimpleLLMError:
    if error.errno == errno.EADDRINUSE:
        return SimpleLLMError(
            f"port {port} of {host} is in use by another program",
            fix="use another --port; --port 0 finds a free one",
        )
    if error.errno == errno.EACCES:
        return SimpleLLMError(
            f"this user may not listen on port {port} of {host}", fix="use a --port over 1023"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return _bad_host(host)
    return SimpleLLMError(f"cannot listen on port {port} of {host}: {error.strerror or error}")


def _bad_host(host: str) -> SettingError:
    return SettingError(
        f"--host is an address of this machine, got {host!r}",
        fix="--host 127.0.0.1 for this machine only, --host 0.0.0.0 for all networks",
    )
