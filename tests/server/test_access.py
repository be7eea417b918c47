"""Who may use the server: host names, origins of web pages, and the API key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from simplellm.errors import SettingError
from simplellm.server.access import Access, host_name, is_loopback

if TYPE_CHECKING:
    from simplellm.inference.sampler import Sampler

KEY = "sk-secret-of-the-test"
LOCAL = Access()
OPEN = Access("0.0.0.0", KEY, allowed_hosts=("chat.example.org",))


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:8080", "localhost"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:80", "::1"),
        ("localhost.", "localhost"),
        ("", None),
        ("a b", None),
        ("a:b", None),
        ("a@b", None),
        ("a/b", None),
        ("[a]:80", "a"),
        ("localhost:80:80", None),
        ("::1", None),
    ],
)
def test_the_name_in_a_host_header_is_read(header: str, name: str | None) -> None:
    assert host_name(header) == name


def test_only_names_of_the_server_are_allowed() -> None:
    for header in ("localhost", "127.0.0.1:8080", "[::1]:8080", "192.168.0.5:1", "a.localhost"):
        assert LOCAL.allows_host(header), header
    for header in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b"):
        assert not LOCAL.allows_host(header) and not OPEN.allows_host(header), header
    assert OPEN.allows_host("Chat.Example.org:443") and not LOCAL.allows_host("chat.example.org")


def test_only_pages_of_the_server_and_named_ones_may_call() -> None:
    named = Access(origins=("https://chat.example.org",))
    for access in (LOCAL, named):
        assert access.allows_origin("http://127.0.0.1:8080", "127.0.0.1:8080")
        for origin in ("null", "http://127.0.0.1:9", "http://evil.example", "file://", "", "x"):
            assert not access.allows_origin(origin, "127.0.0.1:8080"), origin
    assert named.allows_origin("https://chat.example.org", "127.0.0.1:8080")
    assert not named.allows_origin("http://chat.example.org", "127.0.0.1:8080")
    assert Access(api_key=KEY, origins=("*",)).allows_origin("null", "127.0.0.1")


def test_keys_are_compared_as_a_whole() -> None:
    access = Access(api_key=KEY)
    assert access.allows_key(KEY) and LOCAL.allows_key(None)
    for wrong in (None, "", KEY[:-1], KEY + "x", KEY.upper(), "\u00e9"):
        assert not access.allows_key(wrong)
    assert KEY not in repr(access)


def test_an_address_that_others_reach_needs_a_key() -> None:
    LOCAL.check_exposure(["127.0.0.1", "::1"], "KEY")
    OPEN.check_exposure(["0.0.0.0"], "KEY")
    for address in ("0.0.0.0", "::", "192.168.0.5"):
        with pytest.raises(SettingError):
            Access(address).check_exposure(["127.0.0.1", address], "KEY")
    assert is_loopback("127.1.2.3") and is_loopback("::1") and not is_loopback("::")


@pytest.mark.parametrize(
    "wrong",
    [
        {"api_key": ""},
        {"api_key": "a b"},
        {"api_key": "a\n"},
        {"allowed_hosts": ("http://a",)},
        {"allowed_hosts": ("a:80",)},
        {"origins": ("chat.example.org",)},
        {"origins": ("https://a/b",)},
        {"origins": ("https://a@b",)},
        {"origins": ("ftp://a",)},
        {"origins": ("https://[",)},
        {"origins": ("*",)},
    ],
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(SettingError):
        Access(**wrong)


def test_the_guards_of_a_server(byte_sampler: Sampler) -> None:
    from server.live_server import live_server

    access = Access(api_key=KEY, origins=("https://chat.example.org",))
    with live_server(byte_sampler, access) as server:
        key = {"Authorization": f"Bearer {KEY}"}
        assert server.get("/v1/models", **key).status == 200
        assert server.get("/health").status == server.get("/metrics").status == 200
        for headers in ({}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"},
                        {"Authorization": f"Bearer {KEY}x"}):  # fmt: skip
            refused = server.get("/v1/models", **headers)
            assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
            assert refused.headers["www-authenticate"] == "Bearer"
            assert server.get("/nothing", **headers).status == 401
        rebound = server.get("/health", Host="evil.example")
        assert (rebound.status, rebound.error["code"]) == (403, "host_not_allowed")
        foreign = server.get("/v1/models", Origin="http://evil.example", **key)
        assert (foreign.status, foreign.error["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in foreign.headers
        named = {"Origin": "https://chat.example.org"}
        allowed = server.get("/v1/models", **named, **key)
        assert allowed.headers["access-control-allow-origin"] == "https://chat.example.org"
        assert server.get("/v1/models", **named).headers["access-control-allow-origin"]
        wanted = {"Access-Control-Request-Method": "POST",
                  "Access-Control-Request-Headers": "authorization, content-type"}  # fmt: skip
        preflight = server.request("OPTIONS", "/v1/completions", None, {**named, **wanted})
        assert preflight.status == 204
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        foreign = server.request("OPTIONS", "/v1/completions", None, {"Origin": "null", **wanted})
        assert foreign.status == 403


def test_every_answer_has_strict_headers(byte_sampler: Sampler) -> None:
    from server.live_server import live_server

    with live_server(byte_sampler) as server:
        for answer in (server.get("/health"), server.get("/nothing"), server.complete(5),
                       server.complete("a", max_tokens=1, stream=True)):  # fmt: skip
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in answer.headers
            assert "server" not in answer.headers
