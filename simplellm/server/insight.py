"""Endpoints under /simplellm/ that look inside the model, for the page.

    GET  /simplellm/run         the model, its checkpoints, and the sampling settings with defaults
    GET  /simplellm/training    loss curves, and the sample of each evaluation
    POST /simplellm/next        likely next tokens after ids, and what each setting does to them
    POST /simplellm/attention   attention of the last of the ids to all of them
    POST /simplellm/answer      the reply of one checkpoint to a prompt

`next` and `attention` are computed between two tokens of the running replies.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import Setting
from simplellm.errors import CheckpointError
from simplellm.evaluation.analyze import attention, character_spans
from simplellm.evaluation.sampling_steps import trace_next_token
from simplellm.inference.sampler import Sampler
from simplellm.server.api_error import ApiError, bad_request
from simplellm.server.checkpoint_replies import CheckpointReplies, CheckpointReply
from simplellm.server.disconnect import until_gone
from simplellm.server.fields import Fields, checked
from simplellm.server.json_text import JsonResponse
from simplellm.server.request_body import json_object
from simplellm.server.run_facts import model_facts, setting_facts, training_facts
from simplellm.server.served_model import ServedModel
from simplellm.server.service import Service
from simplellm.storage.json_files import JsonObject

IDS, SETTINGS, PROMPT = "ids", "settings", "prompt"
TOP = Setting("top", "int", 10, "candidates to describe", minimum=1, maximum=50)
ALSO = Setting("also", "int", None, "a token to describe too", minimum=0)
LAYER = Setting("layer", "int", 0, "counted from 1; 0 is the mean of all", minimum=0)
HEAD = Setting("head", "int", 0, "counted from 1; 0 is the mean of all", minimum=0)
STEP = Setting("step", "int", 0, "of the checkpoint", minimum=0)
MOST_WAITING = 4  # answers of checkpoints that are asked for at once


def insight_routes(model: ServedModel) -> list[BaseRoute]:
    insight = Insight(model)
    return [
        Route("/simplellm/run", insight.run, methods=["GET"]),
        Route("/simplellm/training", insight.training, methods=["GET"]),
        Route("/simplellm/next", insight.next, methods=["POST"]),
        Route("/simplellm/attention", insight.attention, methods=["POST"]),
        Route("/simplellm/answer", insight.answer, methods=["POST"]),
    ]


class Insight:
    """The endpoints, for one served model."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._config = model.sampler.model.config
        self._defaults = model.chat_defaults if model.sampler.template else model.defaults
        self._checkpoints = CheckpointReplies(model.folder, model.sampler)
        self._n_waiting = 0

    async def run(self, request: Request) -> Response:
        model = self._model
        facts = await run_in_threadpool(model_facts, model.name, model.folder, model.sampler)
        return JsonResponse({**facts, "settings": setting_facts(self._defaults)})

    async def training(self, request: Request) -> Response:
        return JsonResponse(await run_in_threadpool(training_facts, self._model.folder))

    async def next(self, request: Request) -> Response:
        fields = await _fields(request, (IDS, SETTINGS, TOP.name, ALSO.name))
        ids, params = self._ids(fields), self._params(fields)
        top = fields.value(TOP)
        also = fields.value(replace(ALSO, maximum=self._config.vocab_size - 1))

        def trace(sampler: Sampler) -> JsonObject:
            logits = sampler.next_logits(ids)
            return trace_next_token(sampler.tokenizer, logits, ids, params, top, also).to_mapping()

        return await _computed(request, trace)

    async def attention(self, request: Request) -> Response:
        fields = await _fields(request, (IDS, LAYER.name, HEAD.name))
        ids = self._ids(fields)
        layer = fields.value(replace(LAYER, maximum=self._config.n_layer))
        head = fields.value(replace(HEAD, maximum=self._config.n_head))
        return await _computed(request, lambda sampler: attention_spans(sampler, ids, layer, head))

    async def answer(self, request: Request) -> Response:
        fields = await _fields(request, (STEP.name, PROMPT, SETTINGS))
        step, params, prompt = fields.value(STEP), self._params(fields), fields.raw(PROMPT)
        if not isinstance(prompt, str) or not prompt:
            raise bad_request("prompt is a text that is not empty", PROMPT, "invalid_value")
        found = await until_gone(request.receive, self._answer(step, prompt, params))
        return JsonResponse(found.to_mapping())

    async def _answer(self, step: int, prompt: str, params: SamplingParams) -> CheckpointReply:
        if self._n_waiting >= MOST_WAITING:
            raise ApiError(
                429,
                f"{self._n_waiting} answers of checkpoints are wanted already; try again",
                code="rate_limit_exceeded",
                retry_after=1,
            )
        self._n_waiting += 1
        cancelled = threading.Event()
        try:
            # Not anyio's thread: if the client goes, that would wait for the whole reply.
            return await asyncio.to_thread(self._checkpoints.reply, step, prompt, params, cancelled)
        except CheckpointError as error:
            # Not its own message, which names a path of this machine.
            raise ApiError(
                404,
                f"the checkpoint of step {step} is missing or damaged; simplellm verify says more",
                param=STEP.name,
                code="no_checkpoint",
            ) from error
        finally:
            cancelled.set()
            self._n_waiting -= 1

    def _ids(self, fields: Fields) -> list[int]:
        value, n_tokens = fields.raw(IDS), self._config.vocab_size
        is_list = isinstance(value, list) and bool(value)
        if not is_list or any(type(one) is not int or not 0 <= one < n_tokens for one in value):
            raise bad_request(f"ids is a list of numbers from 0 to {n_tokens - 1}", IDS)
        return list(value)

    def _params(self, fields: Fields) -> SamplingParams:
        value = fields.raw(SETTINGS)
        value = {} if value is None else value
        if not isinstance(value, dict):
            raise bad_request("settings is an object with sampling settings", SETTINGS)
        given = Fields(value)
        given.refuse_others(SamplingParams.names(), {})
        settings = [one for one in SamplingParams.settings() if given.raw(one.name) is not None]
        return replace(
            self._defaults, **{one.name: checked(one, given.raw(one.name)) for one in settings}
        )


def attention_spans(sampler: Sampler, ids: Sequence[int], layer: int, head: int) -> JsonObject:
    """Attention of the last of `ids` on the text, by groups of tokens with whole characters.

    layer, head: counted from 1; 0 is the mean of all. The shares add up to 1. n_left_out: tokens
    before the context of the model.
    """
    read = sampler.truncate(ids)
    weights = attention(sampler.model, read)  # (L, H, T)
    weights = weights[layer - 1 : layer] if layer else weights
    weights = weights[:, head - 1 : head] if head else weights
    shares = weights.mean((0, 1)).tolist()
    return {
        "n_left_out": len(ids) - len(read),
        "spans": [
            {"text": text, "n_tokens": end - first, "share": sum(shares[first:end])}
            for text, first, end in character_spans(sampler.tokenizer, read)
        ],
    }


async def _fields(request: Request, names: Sequence[str]) -> Fields:
    service: Service = request.app.state.service
    service.require_running()
    fields = Fields(await json_object(request))
    fields.refuse_others(names, {})
    return fields


async def _computed(request: Request, function: Callable[[Sampler], JsonObject]) -> Response:
    service: Service = request.app.state.service
    return JsonResponse(await until_gone(request.receive, service.computed(function)))
