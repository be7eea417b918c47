"""What happens to every request before its endpoint, and to every answer after it."""

from __future__ import annotations

import re
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simplellm.server.api_error import ApiError, api_error
from simplellm.server.request_body import MAX_HEAD_BYTES, ClientGone
from simplellm.server.service import Service

OTHER = "other"  # path of unknown ones in the metrics
ALLOWED_WITHOUT_KEY = ("/health", "/metrics", "/")
PAGE = "/page/"  # static files: they contain nothing of the model
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
PREFLIGHT = {
    "access-control-allow-methods": "GET, POST",
    "access-control-max-age": "600",
    "vary": "origin",
}
HEADER_NAMES = re.compile(r"[A-Za-z0-9-]+(?:, *[A-Za-z0-9-]+)*")


class Errors:
    """Answers a request that failed in OpenAI's shape. Adds security headers to each answer.

    An endpoint may set other values of these headers.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False

        async def send_safe(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_safe)
        except ClientGone:
            return
        except Exception as error:
            known = api_error(error)
            if known.status == 500:
                self._service.report(error)
            if not has_started:
                await known.response()(scope, receive, send_safe)


class Measured:
    """Counts answers by path and status, and their durations."""

    def __init__(self, app: ASGIApp, service: Service, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = service.metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = time.perf_counter()
        path = scope["path"] if scope["path"] in self._paths else OTHER

        async def send_counted(message: Message) -> None:
            seconds = time.perf_counter() - started_at
            if message["type"] == "http.response.start":
                self._metrics.answers[path, message["status"]] += 1
                self._metrics.first_byte.add(seconds)
            elif not message.get("more_body", False):
                self._metrics.whole.add(seconds)
            await send(message)

        await self._app(scope, receive, send_counted)


class Cors:
    """Lets the web pages that the server names read its answers; there are none by default."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._access = service.access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin = headers.get("origin", "")
        if not self._access.names_origin(origin):
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            wanted = headers.get("access-control-request-headers", "")
            allowed = {**PREFLIGHT, "access-control-allow-origin": origin}
            if HEADER_NAMES.fullmatch(wanted):
                allowed["access-control-allow-headers"] = wanted
            await Response(status_code=204, headers=allowed)(scope, receive, send)
            return

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["access-control-allow-origin"] = origin
                answer.add_vary_header("origin")
            await send(message)

        await self._app(scope, receive, send_named)


class Guard:
    """Refuses requests by the size of their head, their `Host`, `Origin` and API key."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._access = service.access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _check_head(scope)
            self._check(Headers(scope=scope), scope["path"], scope["method"])
        await self._app(scope, receive, send)

    def _check(self, headers: Headers, path: str, method: str) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._access.allows_host(host):
            raise ApiError(
                403,
                "the header Host names another server; start this one with --allow-host NAME",
                code="host_not_allowed",
            )
        if origin is not None and not self._access.allows_origin(origin, host):
            raise ApiError(
                403,
                "web pages of this origin may not call the server; start it with --cors-origin",
                code="origin_not_allowed",
            )
        if path in ALLOWED_WITHOUT_KEY or path.startswith(PAGE) or method == "OPTIONS":
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if not self._access.allows_key(key.strip() if scheme.lower() == "bearer" else None):
            raise ApiError(
                401,
                "the API key is missing or wrong; send the header Authorization: Bearer KEY",
                code="invalid_api_key",
            )


def _check_head(scope: Scope) -> None:
    """ApiError for a head over the limit that arrived at once; uvicorn refuses the others."""
    sizes = (len(name) + len(value) for name, value in scope["headers"])
    n_bytes = len(scope["raw_path"]) + len(scope["query_string"]) + sum(sizes)
    if n_bytes > MAX_HEAD_BYTES:
        raise ApiError(431, f"the head of a request has at most {MAX_HEAD_BYTES >> 10} KiB")
