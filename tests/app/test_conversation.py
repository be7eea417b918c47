"""What was said is kept, a line per turn, and no file can make it anything else."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import time
from pathlib import Path

import pytest
from conftest import examples, posix_only
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.app import conversation
from simplellm.app.conversation import Conversation, Turn, load, save
from simplellm.app.journal import Journal, last_conversation, saved_conversations
from simplellm.config.sampling import SamplingParams
from simplellm.errors import TextError

RUN = Path("/nowhere/tiny")
HEADER = b'{"simplellm": "conversation", "version": 1, "run": "/nowhere/tiny"}\n'
TURN = b'{"turn": 1, "prompt": "a", "reply": "b"}\n'
HOSTILE = [
    b"", b"\n", b"hello\n", b"{}\n", b"[]\n", b"5\n", b"null\n", b"\xff\xfe\n", b"\x00" * 100,
    b"\x1f\x8b\x08",
    b'{"text": "a"}\n',
    b'{"simplellm": "conversation", "version": 2}\n', b'{"simplellm": "conversation"}\n',
    b'{"simplellm": "conversation", "version": {"a": 1}}\n', TURN, b"[" * 100_000 + b"\n",
    b"x" * 1_000_000,
    *(HEADER + line + b"\n" + TURN for line in [
        b"nonsense", b"[]", b"5", b"{}", b"\xff", b'{"turn": 1}', b'{"turn": 1, "prompt": "a"}',
        b"{" * 100_000,
        b'{"turn": 1, "prompt": 5, "reply": "b"}', b'{"turn": 1, "prompt": "a", "reply": null}',
        b'{"turn": 2, "prompt": "a", "reply": "b"}', b'{"turn": 0, "prompt": "a", "reply": "b"}',
        b'{"turn": -1, "prompt": "a", "reply": "b"}',
        b'{"turn": true, "prompt": "a", "reply": "b"}',
        b'{"turn": 1.0, "prompt": "a", "reply": "b"}',
        b'{"turn": NaN, "prompt": "a", "reply": "b"}',
        b'{"turn": ' + b"9" * 10_000 + b', "prompt": "a", "reply": "b"}', b'{"turns": 1}',
        b'{"turns": -1}', b'{"turns": "0"}',
        b'{"turn": 1, "prompt": "a", "reply": "b", "stop_reason": "bored"}',
        b'{"turn": 1, "prompt": "a", "reply": "b", "stop_reason": []}',
        b'{"turn": 1, "prompt": "a", "reply": "b", "context": "on"}',
        b'{"turn": 1, "prompt": "a", "reply": "b", "settings": []}',
        b'{"turn": 1, "prompt": "a", "reply": "b", "settings": {"temperature": 1e999}}',
        b'{"turn": 1, "prompt": "a", "reply": "b", "settings": {"temperature": NaN}}',
        b'{"turn": 1, "prompt": "a", "reply": "b", "settings": {"stop": [[[]]]}}',
        b'{"turn": 1, "prompt": "a", "reply": "b", "settings": {"unknown": 1}}',
        b'{"turn": 1, "prompt": "a", "reply": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"turn": 1, "prompt": "a", "reply": "' + b"b" * 1_000_000,
    ]),
]  # fmt: skip
texts = st.text() | st.sampled_from(
    ["", "한국어\n둘째 줄", "a\u2028b\u0085c", "\x1b[31m", "\ud800", '"}\n{"turn": 1']
)
some_turns = st.lists(
    st.builds(
        Turn, texts, texts, st.sampled_from(conversation.STOP_REASONS),
        st.builds(SamplingParams, temperature=st.floats(0, 5), seed=st.integers(0, 2**63 - 1)),
        st.booleans(),
    ),
    max_size=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conversations") / "c.jsonl"


@settings(deadline=None, max_examples=examples(60))
@given(turns=some_turns)
def test_a_saved_conversation_loads_unchanged(place, turns):
    save(place, Conversation(turns), RUN)
    assert load(place) == turns
    lines = place.read_bytes().splitlines()
    assert len(lines) == 1 + len(turns) and json.loads(lines[0])["run"] == str(RUN)


def test_an_editor_may_add_a_byte_order_mark(tmp_path):
    path = tmp_path / "talk.jsonl"
    turns = [Turn("안녕", "하세요")]
    save(path, Conversation(turns), tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(path) == turns


def test_a_saved_conversation_is_readable(tmp_path):
    save(tmp_path / "c", Conversation([Turn("안녕", " 세계")]), RUN)
    assert "안녕" in (tmp_path / "c").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", HOSTILE, ids=lambda content: repr(content[-60:]))
def test_a_file_that_is_not_a_conversation_raises_one_typed_error(tmp_path, content):
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(TextError) as found:
        load(tmp_path / "c")
    assert str(tmp_path / "c") in str(found.value) and len(str(found.value)) < 400


@settings(deadline=None, max_examples=examples(200))
@given(
    content=st.binary()
    | st.lists(st.sampled_from([HEADER, TURN, b"{", b'{"turns": 0}\n', b"\n"])).map(b"".join)
)
def test_any_bytes_are_a_conversation_or_raise_one_typed_error(place, content):
    place.write_bytes(content)
    with contextlib.suppress(TextError):
        assert all(isinstance(turn, Turn) for turn in load(place))
    place.unlink()


@posix_only
def test_the_error_names_the_kind_of_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    names = {
        ".": "is a folder",
        "missing": "does not exist",
        "pipe": "is not a regular file",
        "x" * 300: "cannot read",
        "\0": "does not exist",
    }
    for name, what in names.items():
        with pytest.raises(TextError, match=what):
            load(tmp_path / name)


def test_a_file_of_any_size_is_refused_without_reading_it(tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.write(HEADER)
        file.truncate(10**11)
    started_at = time.perf_counter()
    with pytest.raises(TextError, match="larger than any conversation"):
        load(tmp_path / "huge")
    assert time.perf_counter() - started_at < 1


# ---------------------------------------------------------------- save


@pytest.mark.parametrize("content", [b"my precious text\n", b'{"a": 1}\n', b"\x00"])
def test_another_file_is_never_overwritten(tmp_path, content):
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(TextError, match="it is not overwritten"):
        save(tmp_path / "c", Conversation([Turn("a", "b")]), RUN)
    assert (tmp_path / "c").read_bytes() == content


def test_a_saved_conversation_and_an_empty_file_are_overwritten(tmp_path):
    (tmp_path / "c").touch()
    for turns in ([Turn("a", "b")], [Turn("a", "b"), Turn("c", "d")], []):
        save(tmp_path / "c", Conversation(turns), RUN)
        assert load(tmp_path / "c") == turns
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@posix_only
def test_saving_through_a_link_writes_its_target(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    save(tmp_path / "target", Conversation([]), RUN)
    save(tmp_path / "link", Conversation([Turn("a", "b")]), RUN)
    assert (tmp_path / "link").is_symlink() and load(tmp_path / "target") == [Turn("a", "b")]


@posix_only
@pytest.mark.parametrize(
    "name", [".", "missing/c", "file/c", "x" * 300, "\0", "pipe", "loop", "/dev/null", "/proc/c"]
)
def test_a_path_that_cannot_be_written_raises_one_typed_error(tmp_path, name):
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(TextError) as found:
        save(tmp_path / name, Conversation([Turn("a", "b")]), RUN)
    assert found.value.fix and sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, call):
    save(tmp_path / "c", Conversation([Turn("a", "b")]), RUN)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(TextError, match="No space left"):
        patch.setattr(os, call, fail)
        save(tmp_path / "c", Conversation([]), RUN)
    assert load(tmp_path / "c") == [Turn("a", "b")] and len(list(tmp_path.iterdir())) == 1


# ---------------------------------------------------------------- journals

steps = st.lists(st.sampled_from(["ask", "again", "more", "undo", "nothing", "all"]), max_size=10)


def after(turns: list[Turn], step: str, number: int) -> list[Turn]:
    if step == "ask" or (step in ("again", "more") and not turns):
        return [*turns, Turn(f"prompt {number}", "reply")]
    if step in ("again", "more"):
        return [
            *turns[:-1],
            Turn(turns[-1].prompt, f"{turns[-1].reply if step == 'more' else ''} {number}"),
        ]
    return {"undo": turns[:-1], "nothing": turns, "all": [*turns, *turns]}[step][:20]


@settings(deadline=None, max_examples=examples(60))
@given(steps=steps)
def test_a_journal_equals_the_conversation_after_every_step(tmp_path_factory, steps):
    journal, turns = Journal(tmp_path_factory.mktemp("state") / "new" / "folder", RUN), []
    for number, step in enumerate(steps):
        turns = after(turns, step, number)
        journal.write(Conversation(list(turns)))
        assert turns == [] if journal.path is None else load(journal.path) == turns


def test_a_kill_costs_at_most_the_last_line(tmp_path):
    """A file cut anywhere is an earlier state of the conversation, and can be continued."""
    folder = tmp_path
    journal, turns, states = Journal(folder, RUN), [Turn("a", "한글")], []
    for number, step in enumerate(["nothing", "ask", "again", "undo", "undo", "ask"]):
        turns = after(turns, step, number)
        journal.write(Conversation(list(turns)))
        states.append(turns)
    whole = journal.path.read_bytes()
    first_line = whole.index(b"\n") + 1
    seen = []
    for size in range(first_line, len(whole) + 1, 5):
        journal.path.write_bytes(whole[:size])
        again, read = last_conversation(folder, RUN, lambda text: pytest.fail(text))
        found = read.turns
        assert found in ([], *states)
        again.write(Conversation([*found, Turn("and", "on")]))
        assert load(again.path) == [*found, Turn("and", "on")]
        seen.append(found)
    assert len(seen) > 200


@posix_only
def test_a_journal_only_appends_and_is_readable_only_by_its_owner(tmp_path):
    journal, turns = Journal(tmp_path / "new", RUN), [Turn("a", "b")]
    journal.write(Conversation([]))
    assert not (tmp_path / "new").exists()
    journal.write(Conversation(list(turns)))
    before = journal.path.read_bytes()
    journal.write(Conversation([*turns, Turn("c", "d")]))
    assert journal.path.read_bytes().startswith(before)
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
    assert journal.path.name.startswith("tiny-") and journal.path.suffix == ".jsonl"


def test_two_conversations_that_begin_together_have_two_files(tmp_path):
    journals = [Journal(tmp_path, RUN) for _ in range(3)]
    for number, journal in enumerate(journals):
        journal.write(Conversation([Turn(str(number), "")]))
    assert [load(journal.path)[0].prompt for journal in journals] == ["0", "1", "2"]


def test_a_deleted_journal_is_not_recreated_without_its_header(tmp_path):
    journal = Journal(tmp_path, RUN)
    journal.write(Conversation([Turn("a", "b")]))
    journal.path.unlink()
    with pytest.raises(FileNotFoundError):
        journal.write(Conversation([Turn("a", "b"), Turn("c", "d")]))
    assert list(tmp_path.iterdir()) == []


def test_a_conversation_is_saved_for_the_longest_run_name(tmp_path):
    run = Path("/nowhere", "\U00020000" * 50)  # 4 bytes each
    Journal(tmp_path, run).write(Conversation([Turn("a", "b")]))
    assert [turn.prompt for turn in last_conversation(tmp_path, run, pytest.fail)[1].turns] == ["a"]


def test_the_conversation_changed_last_is_continued(tmp_path):
    for number, run in enumerate([RUN, RUN, Path("/nowhere/tiny-2"), Path("/elsewhere/tiny")]):
        journal = Journal(tmp_path, run)
        journal.write(Conversation([Turn(f"{run} {number}", "")]))
        os.utime(journal.path, (number, number))
    journal, found = last_conversation(tmp_path, RUN, lambda text: pytest.fail(text))
    assert [turn.prompt for turn in found.turns] == [f"{RUN} 1"] and len(
        saved_conversations(tmp_path, RUN)
    ) == 2
    assert (
        last_conversation(tmp_path, Path("/nowhere/tiny-2"), print)[1].turns[0].prompt
        == "/nowhere/tiny-2 2"
    )


def test_a_damaged_conversation_is_skipped_with_a_notice(tmp_path):
    told: list[str] = []
    journal = Journal(tmp_path, RUN)
    journal.write(Conversation([Turn("a", "b")]))
    (tmp_path / "tiny-9.jsonl").write_bytes(HEADER + b"nonsense\n" + TURN)
    os.utime(journal.path, (1, 1))
    assert (
        last_conversation(tmp_path, RUN, told.append)[1].turns == [Turn("a", "b")]
        and "line 2" in told[0]
    )


def test_without_an_earlier_conversation_a_new_one_begins_with_a_notice(tmp_path):
    told: list[str] = []
    journal, conversation = last_conversation(tmp_path / "missing", RUN, told.append)
    assert (conversation, journal.path, len(told)) == (Conversation(), None, 1)
