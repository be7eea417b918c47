"""POST /v1/chat/completions: answers messages by the chat template of the model."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from simplellm.data.conversations.conversation import ASSISTANT
from simplellm.inference.engine.request import End
from simplellm.server.answer import answer
from simplellm.server.chat_request import ChatRequest, parse_chat
from simplellm.server.choice import Choice, Piece, joined
from simplellm.server.disconnect import until_gone
from simplellm.server.prompts import EncodedPrompt, encoded_messages
from simplellm.server.replies import Job, Replies
from simplellm.server.request_body import json_object
from simplellm.server.response_ids import ResponseHead, Usage
from simplellm.server.service import Service
from simplellm.server.token_info import chat_logprobs, token_ids
from simplellm.storage.json_files import JsonObject

OBJECT = "chat.completion"
CHUNK = "chat.completion.chunk"


async def chat_completions(request: Request) -> Response:
    service: Service = request.app.state.service
    service.require_running()
    asked = parse_chat(await json_object(request), service.model)
    return await until_gone(request.receive, _answer(asked, service))


async def _answer(asked: ChatRequest, service: Service) -> Response:
    prompt = await encoded_messages(asked.turns, service.model)
    completion = ChatCompletion(asked, prompt, service)
    completion.start()
    return await answer(completion, asked.options.stream, service.report)


class ChatCompletion:
    """The choices of one request."""

    def __init__(self, asked: ChatRequest, prompt: EncodedPrompt, service: Service) -> None:
        self._options = asked.options
        self._prompt = prompt
        self._prompt_ids = {"prompt_token_ids": prompt.ids} if asked.options.token_ids else {}
        self._tokenizer = service.model.sampler.tokenizer
        self._head = ResponseHead("chatcmpl", service.model.name)
        self._usage = Usage()
        self._replies = Replies(service.model.engine)

    def start(self) -> None:
        options = self._options
        self._replies.submit(
            [
                Job(self._prompt.ids, options.params_of_choice(number), options.top or 0)
                for number in range(options.n)
            ]
        )

    def cancel(self) -> None:
        self._replies.cancel()

    async def whole(self) -> JsonObject:
        """The response that is not streamed."""
        parts: list[list[Piece]] = [[] for _ in range(self._options.n)]
        async for number, piece in self._pieces():
            parts[number].append(piece)
        choices = [self._message(number, joined(pieces)) for number, pieces in enumerate(parts)]
        usage = {"usage": self._usage.to_mapping()}
        return {
            **self._head.to_mapping(OBJECT),
            "choices": choices,
            **usage,
            **self._prompt_ids,
        }

    async def chunks(self) -> AsyncIterator[JsonObject]:
        """The parts of a stream. The first one of each choice has its role."""
        head = self._head.to_mapping(CHUNK)
        no_usage = {"usage": None} if self._options.include_usage else {}
        for number in range(self._options.n):
            opening = {"role": ASSISTANT, "content": ""}
            choices = [self._choice(number, Piece(), "delta", opening)]
            yield {**head, "choices": choices, **no_usage, **self._prompt_ids}
        async for number, piece in self._pieces():
            delta = {"content": piece.text} if piece.text or piece.tokens else {}
            yield {**head, "choices": [self._choice(number, piece, "delta", delta)], **no_usage}
        if self._options.include_usage:
            yield {**head, "choices": [], "usage": self._usage.to_mapping()}

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Each piece with the number of its choice, as they come."""
        has_tokens = self._options.has_tokens
        choices = [Choice(self._tokenizer, has_tokens) for _ in range(self._options.n)]
        async for number, item in self._replies:
            if isinstance(item, End):
                self._usage.add(item, is_first=number == 0)
                yield number, choices[number].finish(item)
            elif piece := choices[number].push(item):
                yield number, piece

    def _message(self, number: int, piece: Piece) -> JsonObject:
        return self._choice(number, piece, "message", {"role": ASSISTANT, "content": piece.text})

    def _choice(self, number: int, piece: Piece, key: str, content: JsonObject) -> JsonObject:
        has_logprobs = self._options.top is not None and (key == "message" or bool(piece.tokens))
        logprobs = chat_logprobs(piece.tokens, self._tokenizer) if has_logprobs else None
        return {
            "index": number,
            key: content,
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
            **(token_ids(piece.tokens, self._tokenizer) if self._options.token_ids else {}),
        }
