"""POST /v1/completions: continues prompts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from starlette.requests import Request
from starlette.responses import Response

from simplellm.inference.engine.request import End
from simplellm.server.answer import answer
from simplellm.server.choice import Choice, Piece, joined
from simplellm.server.completion_request import CompletionRequest, parse_completion
from simplellm.server.disconnect import until_gone
from simplellm.server.prompt_scores import Score, prompt_scores
from simplellm.server.prompts import EncodedPrompt, encoded_prompt, prompt_tokens
from simplellm.server.replies import Job, Replies
from simplellm.server.request_body import json_object
from simplellm.server.response_ids import ResponseHead, Usage
from simplellm.server.service import Service
from simplellm.server.token_info import TokenInfo, completion_logprobs, token_ids
from simplellm.storage.json_files import JsonObject

OBJECT = "text_completion"


async def completions(request: Request) -> Response:
    service: Service = request.app.state.service
    service.require_running()
    asked = parse_completion(await json_object(request), service.model)
    return await until_gone(request.receive, _answer(asked, service))


async def _answer(asked: CompletionRequest, service: Service) -> Response:
    prompts = [await encoded_prompt(prompt, service.model) for prompt in asked.prompts]
    completion = Completion(asked, prompts, service)
    await completion.start()
    return await answer(completion, asked.options.stream, service.report)


class Completion:
    """The choices of one request: `n` for each prompt, numbered prompt by prompt."""

    def __init__(
        self, asked: CompletionRequest, prompts: Sequence[EncodedPrompt], service: Service
    ) -> None:
        self._asked = asked
        self._options = asked.options
        self._prompts = prompts
        self._service = service
        self._tokenizer = service.model.sampler.tokenizer
        self._head = ResponseHead("cmpl", service.model.name)
        self._usage = Usage()
        self._replies = Replies(service.model.engine)
        self._scores: list[list[Score]] = []
        self._started: set[int] = set()  # choices of which a part was made

    async def start(self) -> None:
        """Score the prompts where they are echoed with probabilities, and queue the replies."""
        options = self._options
        if options.max_tokens > 0:
            self._replies.submit(
                [
                    Job(prompt.ids, options.params_of_choice(number), options.top or 0)
                    for prompt in self._prompts
                    for number in range(options.n)
                ]
            )
        if self._asked.echo and options.top is not None:
            try:
                self._scores = [await self._scored(prompt) for prompt in self._prompts]
            except BaseException:
                self.cancel()
                raise

    def cancel(self) -> None:
        self._replies.cancel()

    async def whole(self) -> JsonObject:
        """The response that is not streamed."""
        parts: list[list[Piece]] = [[] for _ in range(len(self._prompts) * self._options.n)]
        async for number, piece in self._pieces():
            parts[number].append(piece)
        choices = [self._choice(number, joined(pieces)) for number, pieces in enumerate(parts)]
        usage = {"usage": self._usage.to_mapping()}
        return {**self._head.to_mapping(OBJECT), "choices": choices, **usage}

    async def chunks(self) -> AsyncIterator[JsonObject]:
        """The parts of a stream."""
        head = self._head.to_mapping(OBJECT)
        no_usage = {"usage": None} if self._options.include_usage else {}
        async for number, piece in self._pieces():
            yield {**head, "choices": [self._choice(number, piece)], **no_usage}
        if self._options.include_usage:
            yield {**head, "choices": [], "usage": self._usage.to_mapping()}

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Each piece with the number of its choice, as they come."""
        choices = []
        for number in range(len(self._prompts) * self._options.n):
            echoed = self._echoed(number)
            choices.append(self._new_choice(len(echoed.text)))
            if echoed:
                yield number, echoed
        if self._options.max_tokens == 0:
            for number in range(len(choices)):
                self._usage.prompt_tokens += self._n_prompt_tokens(number)
                yield number, Piece(finish_reason="length")
        async for number, item in self._replies:
            if isinstance(item, End):
                self._usage.add(item, is_first=number % self._options.n == 0)
                yield number, choices[number].finish(item)
            elif piece := choices[number].push(item):
                yield number, piece

    def _new_choice(self, offset: int) -> Choice:
        return Choice(self._tokenizer, self._options.has_tokens, with_end=True, offset=offset)

    def _echoed(self, number: int) -> Piece:
        """The prompt of a choice, where it is a part of the text."""
        if not self._asked.echo:
            return Piece()
        place = number // self._options.n
        prompt = self._prompts[place]
        tokens: tuple[TokenInfo, ...] = ()
        if self._scores:
            tokens = prompt_tokens(prompt, self._scores[place], self._tokenizer)
        return Piece(prompt.text, tokens)

    def _n_prompt_tokens(self, number: int) -> int:
        place, choice = divmod(number, self._options.n)
        return len(self._prompts[place].ids) if choice == 0 else 0

    def _choice(self, number: int, piece: Piece) -> JsonObject:
        logprobs = None
        if self._options.top is not None:
            logprobs = completion_logprobs(piece.tokens, self._tokenizer)
        return {
            "index": number,
            "text": piece.text,
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
            **(self._token_ids(number, piece) if self._options.token_ids else {}),
        }

    def _token_ids(self, number: int, piece: Piece) -> JsonObject:
        """Ids of a part of a choice; the first part has those of the prompt too."""
        found = token_ids(piece.tokens, self._tokenizer)
        if number in self._started:
            return found
        self._started.add(number)
        return {**found, "prompt_token_ids": self._prompts[number // self._options.n].ids}

    async def _scored(self, prompt: EncodedPrompt) -> list[Score]:
        top = self._options.top or 0
        return await self._service.computed(lambda sampler: prompt_scores(sampler, prompt.ids, top))
