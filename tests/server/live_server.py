"""A real server on loopback for tests, with tiny models, and a client of the standard library."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server import needed as needed  # before what needs the packages
from simplellm.config.sampling import SamplingParams
from simplellm.inference.engine.engine import Engine
from simplellm.inference.engine.limits import EngineLimits
from simplellm.inference.sampler import Sampler
from simplellm.server.access import Access
from simplellm.server.application import create_app
from simplellm.server.insight import insight_routes
from simplellm.server.page_files import page_routes
from simplellm.server.running import Server, bound_sockets, server_config
from simplellm.server.served_model import ServedModel
from simplellm.server.service import Service

SECONDS = 60.0  # after which a test fails instead of waiting on
JSON = {"content-type": "application/json"}


@dataclass
class Answer:
    """A response that was read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's shape, all of whose keys are there."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str) and isinstance(error["type"], str)
        return error

    @property
    def events(self) -> list[Any]:
        """The JSON documents of an event stream that ended as it should."""
        parts = self.body.decode().split("\n\n")
        assert parts[-2:] == ["data: [DONE]", ""]
        return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


@dataclass
class Live:
    """A running server."""

    port: int
    service: Service
    notices: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a JSON document, or bytes as they are; read the whole answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, dict(JSON if headers is None else headers))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def complete(self, prompt: Any, **parameters: Any) -> Answer:
        return self.request("POST", "/v1/completions", {"prompt": prompt, **parameters})

    def chat(self, messages: Any, **parameters: Any) -> Answer:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        body = {"messages": messages, **parameters}
        return self.request("POST", "/v1/chat/completions", body)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def raw(self, data: bytes) -> bytes:
        """All that the server sends for some bytes until it closes the connection."""
        with self.connect() as sock:
            sock.sendall(data)
            return received(sock)

    @contextmanager
    def held_engine(self) -> Iterator[None]:
        """Within the block no token is computed."""
        released, held = threading.Event(), threading.Event()

        def hold(sampler: Sampler) -> None:
            held.set()
            released.wait(SECONDS)

        self.service.model.engine.call(hold)
        assert held.wait(SECONDS)
        try:
            yield
        finally:
            released.set()

    @property
    def n_running(self) -> int:
        """Replies that are computed or wait."""
        statistics = self.service.model.engine.statistics
        return statistics.running + statistics.waiting


def received(sock: socket.socket) -> bytes:
    """All that comes until the other side closes the connection."""
    with contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: sock.recv(65536), b""))
    return b""


def wait_until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Return once `condition()` is true; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition does not become true"
        time.sleep(0.005)


def served(
    sampler: Sampler,
    engine: Engine,
    access: Access | None = None,
    notice: Callable[[str], None] = lambda text: None,
    folder: Path = Path("tiny"),
    **sampling: Any,
) -> Service:
    """A service of a model called `tiny`."""
    model = ServedModel(
        "tiny",
        folder,
        0,
        sampler,
        engine,
        SamplingParams(**sampling),
        SamplingParams.of_chat(**sampling),
    )
    return Service(model, access or Access(), notice)


@contextmanager
def live_server(
    sampler: Sampler,
    access: Access | None = None,
    limits: EngineLimits | None = None,
    folder: Path = Path("tiny"),
    send_buffer: int = 0,
    **sampling: Any,
) -> Iterator[Live]:
    """A server in a thread of this process, on a free port.

    folder: the checkpoint it serves. send_buffer: bytes that the system holds for a client that
    does not read; 0 is its default.
    """
    notices: list[str] = []
    (listener,) = bound_sockets("127.0.0.1", 0)
    if send_buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    with Engine(sampler, limits) as engine:
        service = served(sampler, engine, access, notices.append, folder, **sampling)
        app = create_app(service, [*insight_routes(service.model), *page_routes()])
        started = threading.Event()
        server = Server(server_config(app), service, started.set)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            assert started.wait(SECONDS)
            yield Live(listener.getsockname()[1], service, notices)
        finally:
            server.should_exit = server.force_exit = True
            thread.join(SECONDS)
            listener.close()
    assert not thread.is_alive()
