"""GET /health, /metrics and /v1/models: what the server does and has."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from simplellm.server.json_text import JsonResponse
from simplellm.server.metrics import CONTENT_TYPE
from simplellm.server.served_model import ServedModel
from simplellm.server.service import Service
from simplellm.storage.json_files import JsonObject


async def health(request: Request) -> Response:
    service: Service = request.app.state.service
    if service.is_stopping:
        return JsonResponse({"status": "stopping"}, 503)
    return JsonResponse({"status": "ok"})


async def metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    text = service.metrics.text(service.model.engine.statistics, service.uptime_seconds)
    return Response(text, media_type=CONTENT_TYPE)


async def list_models(request: Request) -> Response:
    service: Service = request.app.state.service
    return JsonResponse({"object": "list", "data": [_model(service.model)]})


async def one_model(request: Request) -> Response:
    service: Service = request.app.state.service
    service.model.require(request.path_params["model"])
    return JsonResponse(_model(service.model))


def _model(model: ServedModel) -> JsonObject:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "simplellm",
        "context_length": model.context,
        "has_chat_template": model.sampler.template is not None,
    }
