"""The application: routes, and what every request passes through."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from simplellm.server.api_error import ApiError
from simplellm.server.chat_completions import chat_completions
from simplellm.server.completions import completions
from simplellm.server.middleware import Cors, Errors, Guard, Measured
from simplellm.server.service import Service
from simplellm.server.state import health, list_models, metrics, one_model

API = (
    Route("/health", health),
    Route("/metrics", metrics),
    Route("/v1/models", list_models),
    Route("/v1/models/{model:path}", one_model),
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/chat/completions", chat_completions, methods=["POST"]),
)


def create_app(service: Service, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """The API of `service`, which endpoints find in `request.app.state.service`.

    routes: further ones, such as those of the page.
    """
    paths = [route.path for route in (*API, *routes) if isinstance(route, Route)]
    middleware = [
        Middleware(Measured, service=service, paths=paths),
        Middleware(Cors, service=service),
        Middleware(Errors, service=service),
        Middleware(Guard, service=service),
    ]
    app = Starlette(
        routes=[*API, *routes],
        middleware=middleware,
        exception_handlers={HTTPException: _http_error},
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    """Errors of the router: an unknown path, or a method that a path does not have."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        response = ApiError(405, f"this path does not have the method; it has {allowed}").response()
        response.headers["allow"] = allowed
        return response
    if error.status_code == 404:
        return ApiError(404, "there is nothing at this path", code="unknown_path").response()
    return ApiError(error.status_code, str(error.detail)).response()
