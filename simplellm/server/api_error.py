"""Errors of the API: a status code and OpenAI's JSON shape."""

from __future__ import annotations

from starlette.responses import Response

from simplellm.errors import SettingError, SimpleLLMError, TextError, TokenizerError
from simplellm.inference.engine.request import EngineClosed, QueueFull
from simplellm.server.json_text import JsonResponse
from simplellm.storage.json_files import JsonObject

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
INTERNAL = "the server failed to answer this request; its log says why"
STOPPING = "the server is stopping"


class ApiError(Exception):
    """A request that is not answered.

    status: of HTTP. param: the field of the request that is wrong. code: a short name of the cause.
    retry_after: seconds after which the same request may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def to_mapping(self) -> JsonObject:
        """OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": self.message,
            "type": TYPES.get(self.status, usual),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def response(self) -> Response:
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JsonResponse(self.to_mapping(), self.status, headers)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def stopping() -> ApiError:
    return ApiError(503, STOPPING, code="stopping", retry_after=5)


def api_error(error: Exception, param: str | None = None) -> ApiError:
    """The answer to a request that raised `error`.

    Only messages about the request are sent. Others may name paths of this machine.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        return ApiError(
            429, with_fix(error), code="rate_limit_exceeded", retry_after=error.retry_after
        )
    if isinstance(error, EngineClosed):
        return stopping()
    if isinstance(error, SettingError | TextError | TokenizerError):
        return bad_request(with_fix(error), param)
    return ApiError(500, INTERNAL, code="internal_error")


def with_fix(error: SimpleLLMError) -> str:
    return f"{error}; {error.fix}" if error.fix else str(error)
