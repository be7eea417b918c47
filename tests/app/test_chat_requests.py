"""`generate --chat`, `generate --messages` and `model.chat`: one reply to messages."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_model import save_chat_model, says

import simplellm
from simplellm.app.cli import main
from simplellm.app.options import ChatOptions
from simplellm.app.subcommands.shared import load_sampler
from simplellm.config.sampling import CHAT_MAX_NEW_TOKENS, SamplingParams
from simplellm.data.chat_template import ChatTemplate
from simplellm.data.conversations.conversation import ASSISTANT, SYSTEM, USER, Turn
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import SettingError, SimpleLLMError, TextError
from simplellm.inference.sampler import Sampler

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "안녕"},
    {"role": "assistant", "content": "네"},
    {"role": "user", "content": "a<|im_end|>b"},
]
TURNS = [Turn(SYSTEM, "Be kind."), Turn(USER, "안녕"), Turn(ASSISTANT, "네"),
         Turn(USER, "a<|im_end|>b")]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("models") / "bot", tokenizer)


@pytest.fixture
def sampler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sampler:
    """The model of the command `generate`, which answers `Yes, MESSAGE!`."""
    loaded = load_sampler(folder, torch.device("cpu"), ChatOptions())
    says(loaded, lambda message: f"Yes, {message}!\n")
    monkeypatch.setattr("simplellm.app.subcommands.generate.load_sampler", lambda *_: loaded)
    return loaded


def generate(
    folder: Path, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, str]:
    code = main(["generate", "--run", str(folder), "--device", "cpu", *map(str, words)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def typed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def n_ids(sampler: Sampler, turns: list[Turn]) -> int:
    return len(ChatTemplate().encode(turns, sampler.tokenizer, is_open=True))


def test_a_prompt_is_one_message_with_chat_and_text_without(
    folder: Path, sampler: Sampler, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, notices = generate(folder, capsys, "--chat", "--prompt", "안녕 ")
    assert (code, out, notices) == (0, "Yes, 안녕 !\n\n", "")
    _, out, _ = generate(folder, capsys, "--chat", "--prompt", "hi", "--json")
    document = json.loads(out)
    assert document["text"] == "Yes, hi!\n" and document["stop_reason"] == "end_of_text"
    assert document["prompt_tokens"] == n_ids(sampler, [Turn(USER, "hi")])
    assert document["new_tokens"] == len(sampler.tokenizer.encode("Yes, hi!\n")) + 1
    plain = load_sampler(folder, torch.device("cpu"), ChatOptions())
    sampler.next_logits = plain.next_logits  # type: ignore[method-assign]
    _, out, _ = generate(folder, capsys, "--prompt", "hi", "--json")
    assert json.loads(out)["prompt_tokens"] == len(sampler.encode("hi"))


def test_a_prompt_and_a_list_of_messages_may_come_from_stdin(
    folder: Path,
    sampler: Sampler,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed(monkeypatch, b"hi\n")
    assert generate(folder, capsys, "--chat", "--prompt", "-")[1] == "Yes, hi!\n\n"
    typed(monkeypatch, b"\xef\xbb\xbf" + json.dumps(MESSAGES).encode())
    assert generate(folder, capsys, "--messages", "-")[1] == "Yes, a<|im_end|>b!\n\n"


@pytest.mark.parametrize("wrap", [lambda given: given, lambda given: {"messages": given}])
def test_messages_of_a_file_are_all_read(
    folder: Path,
    sampler: Sampler,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    wrap: Any,
) -> None:
    path = tmp_path / "대화.json"
    path.write_text(json.dumps(wrap(MESSAGES), ensure_ascii=False), encoding="utf-8")
    _, out, _ = generate(folder, capsys, "--messages", path, "--json")
    assert json.loads(out)["prompt_tokens"] == n_ids(sampler, TURNS)


def test_a_system_message_stands_before_the_messages(
    folder: Path, sampler: Sampler, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = generate(folder, capsys, "--prompt", "hi", "--system", "Be kind.", "--json")
    expected = n_ids(sampler, [Turn(SYSTEM, "Be kind."), Turn(USER, "hi")])
    assert json.loads(out)["prompt_tokens"] == expected
    (tmp_path / "m.json").write_text(json.dumps(MESSAGES), encoding="utf-8")
    words = ("--messages", tmp_path / "m.json", "--system", "x")
    code, _, notices = generate(folder, capsys, *words)
    assert code == 2 and "has a system message already" in notices


WRONG = {
    "": "is not JSON",
    "{": "is not JSON",
    "[]": "has no messages",
    "1": "is no JSON object",
    '{"a": 1}': 'has no list "messages"',
    '["a"]': "message 1 has a turn that is no JSON object",
    '[{"role": "user"}]': "message 1 has a turn without role or content",
    '[{"role": "user", "content": "a"}, {"role": "boss", "content": "a"}]':
        "message 2 has the unknown role 'boss'",
    '[{"role": "tool", "content": "a"}]': "tool calls are not supported",
    '[{"role": "user", "content": 1}]': "message 1 has a turn whose content is no text",
    '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]':
        "ends with a message of the assistant",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_wrong_messages_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "m.json"
    path.write_text(text, encoding="utf-8")
    code, out, notices = generate(folder, capsys, "--messages", path)
    assert (code, out) == (1, "") and WRONG[text] in notices
    assert "m.json" in notices and "fix: " in notices and "Traceback" not in notices


def test_files_that_cannot_be_read_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe[")
    for name in ("missing.json", "bytes", "."):
        code, _, notices = generate(folder, capsys, "--messages", tmp_path / name)
        assert code == 1 and "cannot read" in notices and len(notices.splitlines()) <= 3


def test_prompt_or_messages_are_needed_and_not_both(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(folder, capsys, "--chat")[0] == 2
    assert generate(folder, capsys, "--prompt", "x", "--messages", "y")[0] == 2


def test_messages_need_a_model_with_a_template(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, notices = generate(trained / "tiny", capsys, "--chat", "--prompt", "x")
    assert (code, out) == (2, "") and "no chat template" in notices


# ---------------------------------------------------------------- Python


def test_a_model_answers_messages_in_python(folder: Path) -> None:
    model = simplellm.load(folder, device="cpu")
    says(model._sampler, lambda message: f"Yes, {message}!")
    assert model.chat("안녕") == "Yes, 안녕!"
    assert model.chat(MESSAGES, temperature=0) == "Yes, a<|im_end|>b!"
    assert "".join(model.stream_chat([{"role": "user", "content": "hi"}])) == "Yes, hi!"
    assert len(model.tokenizer.encode(model.chat("hi", max_new_tokens=2))) == 2


def test_a_reply_in_python_may_be_as_long_as_in_a_chat(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[SamplingParams] = []
    monkeypatch.setattr(
        "simplellm.api.reply_to_messages", lambda *call: chosen.append(call[2]) or ()
    )
    model = simplellm.load(folder, device="cpu")
    model.chat("hi")
    model.chat("hi", temperature=0)
    model.chat("hi", SamplingParams(top_k=1))
    assert [params.max_new_tokens for params in chosen] == [CHAT_MAX_NEW_TOKENS] * 2 + [100]


def test_wrong_messages_in_python_are_typed_errors(folder: Path, trained: Path) -> None:
    model = simplellm.load(folder, device="cpu")
    for wrong in ([], [{"role": "x", "content": "a"}], "words " * 500):
        with pytest.raises(TextError):
            model.chat(wrong)
    with pytest.raises(SettingError, match="no chat template"):
        simplellm.load(trained / "tiny", device="cpu").chat("hi")
    with pytest.raises(SimpleLLMError):
        model.chat("hi", no_such_setting=1)
