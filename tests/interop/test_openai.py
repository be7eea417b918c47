"""The official `openai` client uses the server as it uses OpenAI's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

if TYPE_CHECKING:
    from server.live_server import Live

KEY = "sk-a-key-of-the-test"
HELLO: Any = [{"role": "user", "content": "Hello"}]
SETTINGS: Any = {"model": "tiny", "temperature": 1, "seed": 3, "max_tokens": 8}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A chat model with random weights behind an API key."""
    from server.live_server import live_server
    from server.tiny_models import chat_sampler

    from simplellm.inference.engine.limits import EngineLimits
    from simplellm.server.access import Access

    limits = EngineLimits(max_running=2, max_waiting=2)
    sampler = chat_sampler(tmp_path_factory.mktemp("chat") / "model")
    with live_server(sampler, Access(api_key=KEY), limits) as server:
        yield server


@pytest.fixture(scope="module")
def client(chat: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{chat.url}/v1", api_key=KEY, max_retries=0)


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "simplellm"


def test_a_chat_is_answered_and_streamed_with_the_same_text(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=HELLO, **SETTINGS)
    chunks = list(
        client.chat.completions.create(
            messages=HELLO, stream=True, stream_options={"include_usage": True}, **SETTINGS
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(part.choices[0].delta.content or "" for part in chunks if part.choices)
    assert text == whole.choices[0].message.content
    assert whole.choices[0].message.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert whole.usage is not None and chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_a_chat_reports_probabilities_in_its_shape(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        messages=HELLO, logprobs=True, top_logprobs=3, n=2, **SETTINGS
    )
    for choice in answer.choices:
        assert choice.logprobs is not None and choice.logprobs.content is not None
        parts = choice.logprobs.content
        data = b"".join(bytes(part.bytes or ()) for part in parts)
        text = (choice.message.content or "").replace("\ufffd", "")
        assert data.decode("utf-8", "ignore") in text
        assert all(len(part.top_logprobs) == 3 and part.logprob <= 0 for part in parts)


def test_completions_of_texts_and_ids_are_equal_and_streamed(client: openai.OpenAI) -> None:
    text, ids = "The judge", list(b"The judge")
    answers = [client.completions.create(prompt=prompt, **SETTINGS) for prompt in (text, ids)]
    chunks = client.completions.create(prompt=[text], stream=True, **SETTINGS)
    texts = {answer.choices[0].text for answer in answers}
    texts.add("".join(part.choices[0].text for part in chunks))
    assert len(texts) == 1


def test_completions_echo_the_prompt_with_probabilities(client: openai.OpenAI) -> None:
    settings = {**SETTINGS, "max_tokens": 1}
    answer = client.completions.create(prompt="The judge", echo=True, logprobs=2, **settings)
    found = answer.choices[0].logprobs
    assert found is not None and found.token_logprobs is not None and found.tokens is not None
    assert "".join(found.tokens[:9]) == "The judge"
    assert found.token_logprobs[0] is None and all(one < 0 for one in found.token_logprobs[1:])


def test_extensions_are_sent_as_extra_fields(client: openai.OpenAI) -> None:
    extra = {"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.1}
    answers = [
        client.completions.create(prompt="a", extra_body=extra, **{**SETTINGS, "seed": seed})
        for seed in (1, 2)
    ]
    assert answers[0].choices[0].text == answers[1].choices[0].text


def test_errors_are_raised_as_the_types_of_the_client(chat: Live, client: openai.OpenAI) -> None:
    wrong = client.with_options(api_key="sk-wrong")
    with pytest.raises(openai.AuthenticationError) as unknown_key:
        wrong.models.list()
    assert unknown_key.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as unknown_model:
        client.chat.completions.create(messages=HELLO, model="gpt-4")
    assert unknown_model.value.code == "model_not_found" and unknown_model.value.param == "model"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(messages=HELLO, **{**SETTINGS, "temperature": 9})
    assert bad.value.param == "temperature" and "0 to 5" in bad.value.message
    with pytest.raises(openai.BadRequestError) as too_long:
        client.completions.create(prompt="a" * 1000, **SETTINGS)
    assert too_long.value.code == "context_length_exceeded"


def test_a_full_queue_is_a_rate_limit_error(chat: Live, client: openai.OpenAI) -> None:
    from server.live_server import wait_until

    with chat.held_engine():
        streams = [client.completions.create(prompt="a", stream=True, **SETTINGS) for _ in range(4)]
        with pytest.raises(openai.RateLimitError) as full:
            client.completions.create(prompt="a", **SETTINGS)
        for stream in streams:
            stream.close()
    assert int(full.value.response.headers["retry-after"]) >= 1
    wait_until(lambda: chat.n_running == 0)
    assert client.completions.create(prompt="a", **SETTINGS).choices[0].text


def test_the_asynchronous_client_reads_streams_side_by_side(chat: Live) -> None:
    import asyncio

    async def texts() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{chat.url}/v1", api_key=KEY) as client:

            async def one(seed: int) -> str:
                settings = {**SETTINGS, "seed": seed}
                chunks = await client.chat.completions.create(
                    messages=HELLO, stream=True, **settings
                )
                return "".join([part.choices[0].delta.content or "" async for part in chunks])

            return [*await asyncio.gather(*map(one, range(4))), await one(0)]

    found = asyncio.run(texts())
    assert found[0] == found[-1] and len(set(found)) == 4


def test_every_parameter_of_the_client_is_known(client: openai.OpenAI) -> None:
    """Those that are not supported are accepted with harmless values, or refused by name."""
    from openai.types import completion_create_params
    from openai.types.chat import completion_create_params as chat_create_params

    from simplellm.server import chat_request, completion_request, harmless

    for types, name, known in (
        (completion_create_params, "CompletionCreateParamsBase",
         {*completion_request.NAMES, *harmless.OF_COMPLETIONS}),
        (chat_create_params, "CompletionCreateParamsBase",
         {*chat_request.NAMES, *harmless.OF_CHAT}),
    ):  # fmt: skip
        assert set(getattr(types, name).__annotations__) - known == set()
