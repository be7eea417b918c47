"""Requests that are refused: the status, the parameter that is named, and nothing of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from server.live_server import Live

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
WRONG: list[tuple[str, dict[str, Any], str]] = [  # path, parameters, the one that is wrong
    (COMPLETIONS, {}, "prompt"),
    (COMPLETIONS, {"prompt": 5}, "prompt"),
    (COMPLETIONS, {"prompt": []}, "prompt"),
    (COMPLETIONS, {"prompt": [[]]}, "prompt"),
    (COMPLETIONS, {"prompt": ["a", 5]}, "prompt"),
    (COMPLETIONS, {"prompt": [True]}, "prompt"),
    (COMPLETIONS, {"prompt": [0.5]}, "prompt"),
    (COMPLETIONS, {"prompt": [100_000]}, "prompt"),
    (COMPLETIONS, {"prompt": [-1]}, "prompt"),
    (COMPLETIONS, {"prompt": [10**30]}, "prompt"),
    (COMPLETIONS, {"prompt": ["a"] * 65}, "prompt"),
    (COMPLETIONS, {"prompt": "a", "temperature": "hot"}, "temperature"),
    (COMPLETIONS, {"prompt": "a", "temperature": -1}, "temperature"),
    (COMPLETIONS, {"prompt": "a", "temperature": True}, "temperature"),
    (COMPLETIONS, {"prompt": "a", "top_p": 1.1}, "top_p"),
    (COMPLETIONS, {"prompt": "a", "top_k": 0.5}, "top_k"),
    (COMPLETIONS, {"prompt": "a", "min_p": 1}, "min_p"),
    (COMPLETIONS, {"prompt": "a", "repetition_penalty": 0}, "repetition_penalty"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": -1}, "max_tokens"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 10**9}, "max_tokens"),
    (COMPLETIONS, {"prompt": "a", "n": 0}, "n"),
    (COMPLETIONS, {"prompt": "a", "n": 17}, "n"),
    (COMPLETIONS, {"prompt": "a", "n": 2, "best_of": 3}, "best_of"),
    (COMPLETIONS, {"prompt": "a", "seed": 2**63}, "seed"),
    (COMPLETIONS, {"prompt": "a", "stop": [""]}, "stop"),
    (COMPLETIONS, {"prompt": "a", "stop": ["a"] * 9}, "stop"),
    (COMPLETIONS, {"prompt": "a", "stop": 5}, "stop"),
    (COMPLETIONS, {"prompt": "a", "stream": "yes"}, "stream"),
    (COMPLETIONS, {"prompt": "a", "stream_options": {}}, "stream_options"),
    (COMPLETIONS, {"prompt": "a", "stream": True, "stream_options": 5}, "stream_options"),
    (COMPLETIONS, {"prompt": "a", "stream": True, "stream_options": {"x": 1}}, "x"),
    (COMPLETIONS, {"prompt": "a", "logprobs": True}, "logprobs"),
    (COMPLETIONS, {"prompt": "a", "logprobs": 21}, "logprobs"),
    (COMPLETIONS, {"prompt": "a", "echo": 1}, "echo"),
    (COMPLETIONS, {"prompt": "a", "suffix": "b"}, "suffix"),
    (COMPLETIONS, {"prompt": "a", "presence_penalty": 0.5}, "presence_penalty"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": {"5": 1}}, "logit_bias"),
    (COMPLETIONS, {"prompt": "a", "num_beams": 2}, "num_beams"),
    (COMPLETIONS, {"prompt": "a", "max_new_tokens": 2}, "max_new_tokens"),
    (COMPLETIONS, {"prompt": "a", "temprature": 1}, "temprature"),
    (COMPLETIONS, {"prompt": "a", "model": 5}, "model"),
    (CHAT, {}, "messages"),
    (CHAT, {"messages": "Hello"}, "messages"),
    (CHAT, {"messages": {"messages": HELLO}}, "messages"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": ["Hello"]}, "messages"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages"),
    (CHAT, {"messages": [{"role": "wizard", "content": "a"}]}, "messages"),
    (CHAT, {"messages": [{"role": "tool", "content": "a"}]}, "messages"),
    (CHAT, {"messages": [*HELLO, {"role": "assistant", "content": "a"}]}, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    (CHAT, {"messages": HELLO, "max_tokens": 0}, "max_tokens"),
    (CHAT, {"messages": HELLO, "logprobs": 5}, "logprobs"),
    (CHAT, {"messages": HELLO, "top_logprobs": 2}, "top_logprobs"),
    (CHAT, {"messages": HELLO, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    (CHAT, {"messages": HELLO, "tools": [{"type": "function"}]}, "tools"),
    (CHAT, {"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format"),
    (CHAT, {"messages": HELLO, "store": True}, "store"),
    (CHAT, {"messages": HELLO, "echo": True}, "echo"),
]  # fmt: skip
HARMLESS = {
    "user": "me", "presence_penalty": 0, "frequency_penalty": 0.0, "n": 1, "logit_bias": {},
    "seed": None, "temperature": None, "stop": [], "stream_options": None,
}  # fmt: skip
HARMLESS_IN_CHAT = {
    "response_format": {"type": "text"}, "tools": [], "tool_choice": "auto", "store": False,
    "parallel_tool_calls": True, "metadata": {"a": "b"}, "service_tier": "auto", "functions": None,
}  # fmt: skip


def test_a_wrong_parameter_is_refused_by_name(chat: Live) -> None:
    for path, parameters, name in WRONG:
        answer = chat.request("POST", path, parameters)
        assert answer.status == 400, parameters
        found = (answer.status, answer.error["param"], answer.error["type"])
        assert found == (400, name, "invalid_request_error"), parameters


def test_parameters_that_change_nothing_are_accepted(chat: Live) -> None:
    common = {**HARMLESS, "max_tokens": 1}
    assert chat.complete("a", **common, best_of=1, suffix="").status == 200
    assert chat.chat("a", **common, **HARMLESS_IN_CHAT).status == 200


def test_more_replies_than_the_queue_holds_are_refused_for_good(live: Live) -> None:
    answer = live.complete(["a"] * 64, n=2)
    assert (answer.status, answer.error["param"]) == (400, "n") and "80" in answer.error["message"]


def test_a_mistyped_parameter_gets_a_suggestion(live: Live) -> None:
    assert "temperature" in live.complete("a", temprature=1).error["message"]


def test_an_unknown_model_path_or_method_is_refused(live: Live) -> None:
    unknown = live.complete("a", model="gpt-4")
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
    assert "tiny" in unknown.error["message"]
    assert live.get("/v1/models/gpt-4").error["code"] == "model_not_found"
    for path in ("/v1", "/v2/models", "/v1/completions/", "/..%2f..%2fetc/passwd", "/%00"):
        assert (live.get(path).status, live.get(path).error["param"]) == (404, None)
    for method, path in (("GET", COMPLETIONS), ("PUT", "/health"), ("DELETE", "/v1/models")):
        answer = live.request(method, path)
        assert answer.status == 405 and "allow" in answer.headers and answer.error


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"a"', b"\xff", b'{"prompt": NaN}', b"[" * 100_000,
     b'{"a": ' * 100_000, b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_a_body_that_is_no_json_object_is_refused(live: Live, body: bytes) -> None:
    answer = live.request("POST", COMPLETIONS, body)
    assert answer.status == 400 and answer.error["code"] == "invalid_json"


def test_a_body_of_another_type_or_over_the_limit_is_refused(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert live.request("POST", COMPLETIONS, b"a=b", form).error["param"] is None
    assert live.request("POST", COMPLETIONS, b"a=b", form).status == 415
    monkeypatch.setattr("simplellm.server.request_body.MAX_BODY_BYTES", 1000)
    assert live.request("POST", COMPLETIONS, b'{"prompt": "a"}' + b" " * 1000).status == 413
    chunks = b"".join(b"%x\r\n%b\r\n" % (500, b" " * 500) for _ in range(3)) + b"0\r\n\r\n"
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert live.raw(head + chunks).startswith(b"HTTP/1.1 413")


def test_lone_surrogates_of_a_request_are_answered(live: Live) -> None:
    body = b'{"prompt": "a\\ud800b", "max_tokens": 0, "echo": true}'
    assert live.request("POST", COMPLETIONS, body).json["choices"][0]["text"] == "a?b"
    assert live.request("POST", COMPLETIONS, b'{"\\ud800": 1}').status == 400


def test_an_answer_to_a_failure_of_the_server_tells_nothing_about_it(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("/home/me/secret is broken")

    monkeypatch.setattr("simplellm.server.completions.prompt_scores", fail)
    answer = live.complete("abc", echo=True, logprobs=1, max_tokens=1)
    assert answer.status == 500 and answer.error["type"] == "server_error"
    assert b"secret" not in answer.body and b"Traceback" not in answer.body
    assert "secret" in live.notices[-1] and len(live.notices) == 1
