"""The page of `serve` in a real Chromium: typed into, clicked and looked at as a reader does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.inference.sampler import Sampler

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
api = pytest.importorskip("playwright.sync_api", reason="the extra `interop` is not installed")
from server.conftest import byte_sampler, chat_sampler  # noqa: E402, F401
from server.live_server import Live, live_server, wait_until  # noqa: E402

PROMPT = "The judge"
N_TOKENS = 12
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NARROW = {"width": 360, "height": 720}
SECONDS = 60_000  # milliseconds


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = [shutil.which(name) for name in (*CHROMIUMS, own)]
        path = next(filter(None, found), None)
        if path is None:
            pytest.skip("there is no Chromium on this machine: playwright install chromium")
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def run(trained: Path) -> Iterator[Live]:
    """A server of the run `tiny`, which continues texts."""
    folder = RunFolder(trained / "tiny").best()
    sampler = Sampler(*load_model(folder, torch.device("cpu")))
    with live_server(sampler, folder=folder, max_new_tokens=N_TOKENS, seed=1) as server:
        yield server


@pytest.fixture(scope="module")
def chat(chat_sampler: Sampler) -> Iterator[Live]:  # noqa: F811
    with live_server(chat_sampler, max_new_tokens=N_TOKENS, seed=1) as server:
        yield server


class Reader:
    """A tab with an empty storage."""

    def __init__(self, browser: Any) -> None:
        self.context = browser.new_context()
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(SECONDS)
        self.problems: list[str] = []
        self.tab.on("pageerror", lambda error: self.problems.append(str(error)))
        self.tab.on("console", self._hear)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def open(self, server: Live) -> None:
        origin = f"http://127.0.0.1:{server.port}"
        self.tab.on("request", lambda request: self._check(request.url, origin))
        self.tab.goto(origin)
        self.tab.wait_for_selector(".welcome")

    def _check(self, url: str, origin: str) -> None:
        if not url.startswith((f"{origin}/", "blob:", "data:")):
            self.problems.append(f"a request to {url}")

    def send(self, text: str) -> None:
        self.tab.fill("#message", text)
        self.tab.press("#message", "Enter")
        self.wait_for_reply()

    def wait_for_reply(self) -> None:
        self.tab.wait_for_selector("#send:not([hidden])")
        self.tab.wait_for_selector(".model .ending")

    @property
    def reply(self) -> str:
        """The text of the last reply, without the mark of its end."""
        spans = self.tab.locator(".model").last.locator(".shaded span:not(.ending)")
        return "".join(spans.all_text_contents())

    def token(self, number: int) -> Any:
        return self.tab.locator(".model .shaded span").nth(number)

    @property
    def chosen(self) -> int:
        """The number of the marked token of the reply; -1 where none is."""
        spans = "[...document.querySelectorAll('.model .shaded span')]"
        return self.tab.evaluate(f"{spans}.findIndex((span) => span.matches('.chosen'))")

    def stored(self) -> list[dict[str, Any]]:
        """The conversations in the storage of the browser."""
        texts = self.tab.evaluate(
            "Object.entries(localStorage).filter(([key]) => key.includes('.conversation.'))"
            ".map(([, value]) => value)"
        )
        return [json.loads(text) for text in texts]

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return self.tab.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.fixture
def reader(browser: Any) -> Iterator[Reader]:
    one = Reader(browser)
    yield one
    one.context.close()
    assert one.problems == []


# ---------------------------------------------------------------- replies


def test_a_reply_is_that_of_the_api_and_is_still_there_after_a_reload(reader, run):
    reader.open(run)
    reader.send(PROMPT)
    expected = run.complete(PROMPT).json["choices"][0]["text"]
    assert reader.reply == expected != ""
    assert reader.tab.locator("#conversations .title").all_text_contents() == [PROMPT]
    reader.tab.reload()
    reader.tab.wait_for_selector(".model .ending")
    assert reader.reply == expected
    assert reader.tab.locator(".user .text").text_content() == PROMPT


def test_a_chat_model_answers_each_message_after_the_earlier_ones(reader, chat):
    reader.open(chat)
    reader.send("ab")
    first = reader.reply
    reader.send("cd")
    (stored,) = reader.stored()
    reply = stored["turns"][3]["versions"][0]
    messages = [("user", "ab"), ("assistant", first), ("user", "cd")]
    answer = chat.chat(
        [{"role": role, "content": text} for role, text in messages], return_token_ids=True
    ).json
    assert reply["promptIds"] == answer["prompt_token_ids"]
    assert [token["id"] for token in reply["tokens"]] == answer["choices"][0]["token_ids"]


def begin_long_reply(reader, run) -> None:
    """Send the prompt and wait for the first tokens of a reply of up to 2,000."""
    reader.open(run)
    reader.tab.click("#show-settings")
    reader.tab.fill("#setting-max_new_tokens", "2000")
    reader.tab.press("#setting-max_new_tokens", "Enter")
    reader.tab.fill("#message", PROMPT)
    reader.tab.press("#message", "Enter")
    reader.tab.wait_for_selector(".model .shaded span:nth-child(4)")


def test_stop_keeps_what_was_written_and_ends_the_work_of_the_server(reader, run, slow_tokens):
    begin_long_reply(reader, run)
    reader.tab.click("#stop")
    reader.wait_for_reply()
    assert reader.tab.locator(".ending").text_content() == "stopped"
    (stored,) = reader.stored()
    n_tokens = len(stored["turns"][1]["versions"][0]["tokens"])
    assert 3 < n_tokens < 1000
    wait_until(lambda: run.n_running == 0)
    before = reader.reply
    reader.tab.click(".extend")
    reader.tab.wait_for_selector(f".model .shaded span:nth-child({n_tokens + 2})")
    reader.tab.keyboard.press("Escape")
    reader.tab.keyboard.press("Escape")
    reader.wait_for_reply()
    assert reader.reply.startswith(before)


def test_what_was_written_is_kept_when_the_page_is_loaded_again(reader, run, slow_tokens):
    begin_long_reply(reader, run)
    reader.tab.reload()
    reader.tab.wait_for_selector(".model .ending")
    assert reader.tab.locator(".ending").text_content() == "stopped"
    assert reader.reply
    wait_until(lambda: run.n_running == 0)


@pytest.fixture
def slow_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of the engine takes 10 ms longer."""
    import time

    from simplellm.inference.engine.rows import Rows

    read = Rows.read

    def slow(rows: Rows, parts: Any) -> Any:
        time.sleep(0.01)
        return read(rows, parts)

    monkeypatch.setattr(Rows, "read", slow)


def test_an_edited_message_replaces_what_followed_and_can_be_taken_back(reader, chat):
    reader.open(chat)
    reader.send("ab")
    reader.send("cd")
    reader.tab.locator(".edit").first.click()
    reader.tab.fill(".editor textarea", "xy")
    reader.tab.press(".editor textarea", "Enter")
    reader.wait_for_reply()
    assert reader.tab.locator(".user .text").all_text_contents() == ["xy"]
    reader.tab.click("#toast button >> text=Undo")
    assert reader.tab.locator(".user .text").all_text_contents() == ["ab", "cd"]


def test_a_regenerated_reply_is_another_version(reader, run):
    reader.open(run)
    reader.send(PROMPT)
    first = reader.reply
    reader.tab.click(".regenerate")
    reader.wait_for_reply()
    second = reader.reply
    assert reader.tab.locator(".versions").inner_text().split() == ["‹", "2", "of", "2", "›"]
    reader.tab.click("[aria-label='Earlier version']")
    assert reader.reply == first != second
    reader.tab.reload()
    reader.tab.wait_for_selector(".model .ending")
    assert reader.reply == first


# ---------------------------------------------------------------- tokens


def test_an_alternative_is_shown_with_what_the_settings_did_and_continued_from(reader, run):
    reader.open(run)
    reader.send(PROMPT)
    (stored,) = reader.stored()
    reply = stored["turns"][1]["versions"][0]
    ids = [token["id"] for token in reply["tokens"]]
    reader.token(3).click()
    reader.tab.wait_for_selector(".candidate")
    body = {"ids": reply["promptIds"] + ids[:3], "also": ids[3]}
    found = run.request("POST", "/simplellm/next", body).json["candidates"]
    rows = reader.tab.locator(".candidate")
    shown = [row.get_attribute("aria-label") for row in rows.all()]
    assert len(shown) == len(found)
    for label, one in zip(shown, found, strict=True):
        removed = one["removed_by"]
        assert (f"removed by {removed and removed.replace('_', '-')}" in label) == bool(removed)
    chosen = next(number for number, one in enumerate(found) if one["id"] != ids[3])
    rows.nth(chosen).click()
    reader.wait_for_reply()
    (stored,) = reader.stored()
    versions = stored["turns"][1]["versions"]
    assert [token["id"] for token in versions[1]["tokens"]][:4] == [*ids[:3], found[chosen]["id"]]
    assert len(versions[1]["tokens"]) > 4
    assert [token["id"] for token in versions[0]["tokens"]] == ids


def test_tokens_and_alternatives_are_reached_with_the_keyboard_alone(reader, run):
    reader.open(run)
    reader.send(PROMPT)
    first = reader.reply
    reader.tab.keyboard.press("Shift+Tab")
    while reader.tab.evaluate("!document.activeElement.matches('.model .shaded')"):
        reader.tab.keyboard.press("Shift+Tab")
    for _ in range(3):
        reader.tab.keyboard.press("ArrowRight")
    assert "token 3 of" in reader.tab.locator("#status").text_content()
    reader.tab.keyboard.press("Enter")
    reader.tab.wait_for_selector(".candidate:focus")
    reader.tab.keyboard.press("Escape")
    assert reader.tab.evaluate("document.activeElement.matches('.model .shaded')")
    reader.tab.keyboard.press("Enter")
    reader.tab.wait_for_selector(".candidate:focus")
    reader.tab.focus("[aria-label='Next token']")
    reader.tab.keyboard.press("Enter")
    reader.tab.wait_for_selector("#token h2:text('Token 4 of')")
    reader.tab.wait_for_selector("[aria-label='Next token']:focus")
    reader.tab.keyboard.press("Tab")
    reader.tab.keyboard.press("Tab")
    reader.tab.wait_for_selector(".candidate:focus")
    reader.tab.keyboard.press("ArrowDown")
    reader.tab.keyboard.press("Enter")
    reader.tab.wait_for_selector(".versions")
    reader.wait_for_reply()
    assert reader.reply != first


def test_attention_of_a_token_is_shown_over_the_text_for_each_head(reader, run):
    reader.open(run)
    reader.send(PROMPT)
    reader.token(2).click()
    reader.tab.click("summary")
    text = reader.tab.locator(".read-text")
    text.wait_for()
    (stored,) = reader.stored()
    reply = stored["turns"][1]["versions"][0]
    assert text.text_content() == PROMPT + "".join(t["bytes"] for t in reply["tokens"][:3])
    shares = "[...document.querySelectorAll('.read-text span')].map(s => s.getAttribute('style'))"
    before = reader.tab.evaluate(shares)
    reader.tab.select_option("label:has-text('Head') select", "2")
    reader.tab.wait_for_function(
        f"JSON.stringify({shares}) !== {json.dumps(json.dumps(before))}".replace('", "', '","')
    )
    assert reader.tab.locator(".looking").text_content() == reply["tokens"][2]["bytes"]


def test_a_token_that_is_chosen_while_the_reply_is_written_stays_chosen(reader, run, slow_tokens):
    reader.open(run)
    reader.tab.fill("#message", PROMPT)
    reader.tab.press("#message", "Enter")
    reader.token(1).click()
    reader.wait_for_reply()
    assert reader.chosen == 1
    reader.tab.click("[aria-label='Next token']")
    assert reader.chosen == 2


def test_the_end_of_a_reply_has_alternatives_too(reader, run):
    reader.open(run)
    reader.send(PROMPT)
    reader.tab.locator(".ending").click()
    reader.tab.wait_for_selector(".candidate")
    assert reader.tab.locator("#token h2").text_content() == "End of the reply"
    reader.tab.locator(".candidate").first.click()
    reader.wait_for_reply()
    (stored,) = reader.stored()
    one, other = (reply["tokens"] for reply in stored["turns"][1]["versions"])
    assert other[: len(one)] == one and len(other) > len(one)


# ---------------------------------------------------------------- training


def test_each_checkpoint_answers_the_same_prompt(reader, run):
    reader.open(run)
    reader.send(PROMPT)
    reader.tab.click("#show-training")
    reader.tab.wait_for_selector(".chart .validation")
    training = run.get("/simplellm/training").json
    kept = [one["step"] for one in run.get("/simplellm/run").json["checkpoints"]]
    assert reader.tab.locator("#same-prompt").input_value() == PROMPT
    slider = reader.tab.locator("#checkpoint")
    slider.press("Home")
    shown = {}
    for _ in training["samples"]:
        step = int(reader.tab.locator(".slider output").text_content().split()[1])
        sample = reader.tab.locator(".card .shaded").first.text_content()
        assert sample == next(one["text"] for one in training["samples"] if one["step"] == step)
        if step in kept:
            reader.tab.click(".card .primary")
            reader.tab.wait_for_selector(".answer .shaded")
            spans = reader.tab.locator(".answer .shaded span:not(.ending)")
            shown[step] = "".join(spans.all_text_contents())
        else:
            assert "deleted" in reader.tab.locator(".answer").text_content()
        slider.press("ArrowRight")
    assert list(shown) == kept
    for step, text in shown.items():
        body = {"step": step, "prompt": PROMPT, "settings": {"max_new_tokens": 80, "seed": 1}}
        assert run.request("POST", "/simplellm/answer", body).json["text"] == text


# ---------------------------------------------------------------- typing, screens, storage


def test_enter_that_ends_a_korean_word_does_not_send(reader, run):
    reader.open(run)
    reader.tab.focus("#message")
    client = reader.context.new_cdp_session(reader.tab)
    client.send("Input.imeSetComposition", {"text": "안", "selectionStart": 1, "selectionEnd": 1})
    key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 229}
    client.send("Input.dispatchKeyEvent", {"type": "keyDown", **key})
    reader.tab.evaluate(
        "document.getElementById('message').dispatchEvent(new KeyboardEvent('keydown',"
        " {key: 'Enter', isComposing: true, bubbles: true, cancelable: true}))"
    )
    client.send("Input.insertText", {"text": "안녕"})
    assert reader.tab.locator(".turn").count() == 0
    assert reader.tab.locator("#message").input_value() == "안녕"
    reader.tab.press("#message", "Enter")
    reader.wait_for_reply()
    assert reader.tab.locator(".user .text").text_content() == "안녕"


def test_at_360_pixels_nothing_is_cut_off(reader, run):
    reader.tab.set_viewport_size(NARROW)
    reader.open(run)
    reader.send("W" * 24)  # wider than the window
    assert reader.overflow <= 0
    reader.token(2).click()
    reader.tab.wait_for_selector(".candidate")
    assert reader.overflow <= 0
    assert reader.tab.locator(".candidate").first.is_visible()
    reader.tab.keyboard.press("Escape")
    for button in "#show-settings", "#show-training", "#show-list":
        reader.tab.click(button)
        assert reader.overflow <= 0, button
    assert reader.tab.locator("#new").is_visible()


def test_light_and_dark_follow_the_system_or_the_switch(reader, run):
    reader.open(run)

    def brightness() -> int:
        color = reader.tab.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(",")))

    reader.tab.emulate_media(color_scheme="light")
    light = brightness()
    reader.tab.emulate_media(color_scheme="dark")
    dark = brightness()
    assert light > 600 > 150 > dark
    reader.tab.click("#theme")
    assert brightness() == light
    reader.tab.reload()
    reader.tab.wait_for_selector(".welcome")
    assert brightness() == light
    reader.tab.click("#theme")
    reader.tab.emulate_media(color_scheme="light")
    assert brightness() == dark


def test_conversations_are_renamed_exported_and_deleted(reader, run):
    reader.open(run)
    reader.send(PROMPT)
    reader.tab.click("#conversations >> text=Rename")
    reader.tab.keyboard.type("Another name")
    reader.tab.keyboard.press("Enter")
    title = reader.tab.locator("#conversations .title")
    assert title.text_content() == "Another name"
    with reader.tab.expect_download() as download:
        reader.tab.click("#conversations >> text=Export")
    line = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert line["messages"] == [
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": reader.reply},
    ]
    reader.tab.click("#conversations >> text=Delete")
    assert title.count() == 0 and reader.stored() == []
    reader.tab.click("#toast button >> text=Undo")
    assert title.text_content() == "Another name"


def test_settings_have_a_meaning_and_are_kept_and_checked(reader, run):
    reader.open(run)
    reader.tab.click("#show-settings")
    for setting in run.get("/simplellm/run").json["settings"]:
        field = reader.tab.locator(f"#setting-{setting['name']}")
        meaning = field.get_attribute("aria-describedby")
        assert len(reader.tab.locator(f"#{meaning}").text_content()) > 20
    reader.tab.fill("#setting-temperature", "9")
    reader.tab.press("#setting-temperature", "Tab")
    assert reader.tab.evaluate("document.querySelector('#setting-temperature').matches(':invalid')")
    reader.tab.fill("#setting-temperature", "0")
    reader.tab.press("#setting-temperature", "Tab")
    reader.tab.reload()
    reader.tab.wait_for_selector(".welcome")
    reader.send(PROMPT)
    assert reader.reply == run.complete(PROMPT, temperature=0).json["choices"][0]["text"]


# ---------------------------------------------------------------- safety and accessibility


def test_text_is_never_html(reader, chat):
    reader.open(chat)
    text = "<img src=x onerror=document.title='bad'><b>bold</b>"
    reader.send(text)
    assert reader.tab.locator(".user .text").text_content() == text
    assert reader.tab.locator("#turns img, #turns b, #list b").count() == 0
    assert "bad" not in reader.tab.title()


def test_a_screen_reader_hears_the_reply_once_and_not_each_token(reader, run):
    reader.open(run)
    reader.tab.evaluate(
        "window.heard = []; new MutationObserver(() =>"
        " heard.push(document.getElementById('status').textContent))"
        ".observe(document.getElementById('status'), {childList: true})"
    )
    reader.send(PROMPT)
    assert reader.tab.evaluate("heard") == [
        "The model is answering.",
        f"Reply: {reader.reply}",
    ]
    unnamed = reader.tab.evaluate(
        "[...document.querySelectorAll('button, input, textarea, select')].filter(one =>"
        " !one.textContent.trim() && !one.ariaLabel && !one.labels?.length).length"
    )
    assert unnamed == 0
    assert reader.tab.locator("main:visible").count() == 1


def test_problems_are_told_in_words_and_nothing_is_lost(reader, run):
    reader.open(run)
    busy = {"error": {"message": "busy", "type": "rate_limit_error", "param": None, "code": None}}
    headers = {"retry-after": "7"}
    pattern = "**/v1/completions"
    reader.tab.route(pattern, lambda route: route.fulfill(status=429, json=busy, headers=headers))
    reader.tab.fill("#message", PROMPT)
    reader.tab.press("#message", "Enter")
    toast = reader.tab.locator("#toast span")
    toast.filter(has_text="busy. Try again in 7 s").wait_for()
    reader.tab.unroute(pattern)
    reader.tab.route(pattern, lambda route: route.abort())
    reader.tab.click("#toast button >> text=Try again")
    toast.filter(has_text="does not answer").wait_for()
    reader.tab.unroute(pattern)
    reader.tab.click("#toast button >> text=Try again")
    reader.wait_for_reply()
    assert reader.reply == run.complete(PROMPT).json["choices"][0]["text"]
    reader.problems = [one for one in reader.problems if "Failed to load resource" not in one]


def test_the_page_asks_for_the_key_of_the_server_and_keeps_it_in_the_tab(reader, byte_sampler):  # noqa: F811
    from simplellm.server.access import Access

    with live_server(byte_sampler, Access(api_key="secret")) as server:
        reader.tab.goto(server.url)
        for key in "wrong", "secret":
            reader.tab.wait_for_selector("#key-dialog[open]")
            reader.tab.fill("#key", key)
            reader.tab.press("#key", "Enter")
        reader.tab.wait_for_selector(".welcome")
        reader.send("ab")
        reader.tab.reload()
        reader.tab.wait_for_selector(".model .ending")
        assert "secret" not in reader.tab.evaluate("JSON.stringify(localStorage)")
    reader.problems = [one for one in reader.problems if "401" not in one]
