"""Bodies of requests: read with a limit of size and time, and parsed as a JSON object."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from simplellm.server.api_error import ApiError, bad_request
from simplellm.server.json_text import parsed
from simplellm.storage.json_files import JsonObject

MAX_HEAD_BYTES = 16 << 10
MAX_BODY_BYTES = 4 << 20
BODY_SECONDS = 30.0  # for a whole body: a slow client does not hold a connection longer
JSON_TYPE = "application/json"


class ClientGone(Exception):
    """The client closed the connection: nobody reads an answer."""


async def json_object(request: Request) -> JsonObject:
    """The JSON object in the body of a request; ApiError says what is wrong with it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON_TYPE:
        raise ApiError(415, f"send JSON with the header Content-Type: {JSON_TYPE}")
    try:
        body = await asyncio.wait_for(_read(request), BODY_SECONDS)
    except asyncio.TimeoutError as error:
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:g} seconds") from error
    except ClientDisconnect as error:
        raise ClientGone from error
    try:
        value = parsed(body)
    except ValueError as error:
        raise bad_request(f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise bad_request("the body is a JSON object with the parameters", code="invalid_json")
    return value


async def _read(request: Request) -> bytes:
    stated = request.headers.get("content-length", "0")
    if stated.isdigit() and int(stated[:20]) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
    return bytes(body)


def _too_large() -> ApiError:
    return ApiError(413, f"a body has at most {MAX_BODY_BYTES >> 20} MiB", code="body_too_large")
