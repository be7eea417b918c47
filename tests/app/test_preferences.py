"""The settings of each run last, whatever becomes of the file they are in."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from pathlib import Path

import pytest
from conftest import examples, posix_only
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.app.cli import main
from simplellm.app.preferences import Preferences, state_folder
from simplellm.config.sampling import SamplingParams

BROKEN = [
    b"", b"{", b"[]", b"null", b'{"runs": 5}', b'{"version": 1}', b"\xff\xfe", b"[" * 100_000,
    b'{"runs": {}' + b" " * 20_000_000, b"9" * 5000,
]  # fmt: skip
WRONG = [
    {"temperature": "hot"}, {"temperature": 6}, {"temperature": float("nan")}, {"top_k": -3},
    {"top_k": True}, {"stop": 5},
    {"stop": [1]}, {"stop": [""]}, {"seed": -1}, {"context": "on"}, {"probs": 1}, {"nothing": 1},
    5, None, [],
]  # fmt: skip
values = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 5), "top_k": st.integers(0, 10**30),
        "seed": st.none() | st.integers(0, 2**63 - 1),
        "stop": st.lists(st.text(min_size=1), max_size=8).map(tuple), "context": st.booleans(),
        "probs": st.booleans(),
    },
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "simplellm" / "settings.json"


@settings(deadline=None, max_examples=examples(30))
@given(one=values, other=values)
def test_settings_kept_for_a_run_do_not_affect_other_runs(tmp_path_factory, one, other):
    preferences = Preferences(tmp_path_factory.mktemp("state") / "p")
    preferences.write(Path("one"), one)
    preferences.write(Path("other"), other)
    assert preferences.read(Path("one")) == one and preferences.read(Path("other")) == other
    SamplingParams(
        **{name: value for name, value in one.items() if name not in ("context", "probs")}
    )


def test_runs_with_one_name_in_two_folders_are_separate(path, tmp_path, monkeypatch):
    Preferences(path).write(tmp_path / "a" / "run", {"top_k": 1})
    assert Preferences(path).read(tmp_path / "b" / "run") == {}
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    assert Preferences(path).read(Path("run")) == {"top_k": 1}


@posix_only
def test_the_file_and_its_folder_belong_only_to_their_owner(path):
    Preferences(path).write(Path("run"), {"top_k": 1})
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)] == [0o600, 0o700]


def test_a_run_without_kept_settings_has_no_entry(path):
    preferences = Preferences(path)
    preferences.write(Path("run"), {"top_k": 1})
    preferences.write(Path("run"), {})
    assert json.loads(path.read_bytes()) == {"version": 1, "runs": {}}


@pytest.mark.parametrize("content", BROKEN, ids=lambda content: repr(content[:20]))
def test_a_damaged_file_is_reported_once_and_replaced(path, content):
    told: list[str] = []
    preferences = Preferences(path, told.append)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert preferences.read(Path("run")) == preferences.read(Path("run")) == {} and len(told) == 1
    preferences.write(Path("run"), {"top_k": 1})
    assert Preferences(path).read(Path("run")) == {"top_k": 1}


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_an_invalid_value_is_ignored_with_a_notice(path, wrong):
    told: list[str] = []
    path.parent.mkdir(parents=True)
    runs = {str(Path("run").resolve()): wrong, str(Path("other").resolve()): {"top_k": 1}}
    path.write_text(json.dumps({"version": 1, "runs": runs}))
    assert Preferences(path, told.append).read(Path("run")) == {} and len(told) == 1
    assert Preferences(path).read(Path("other")) == {"top_k": 1}


@pytest.mark.parametrize("place", ["file/settings.json", "folder"])
def test_a_path_that_cannot_be_used_is_reported_once(tmp_path, place):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    told: list[str] = []
    preferences = Preferences(tmp_path / place, told.append)
    for n in range(3):
        assert preferences.read(Path("run")) == {}
        preferences.write(Path("run"), {"top_k": n})
    assert len(told) == 1 and "\n" not in told[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_chat_without_a_home_folder_keeps_nothing(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda text: text)  # no HOME, no entry for the user
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The judge\n")))
    chat = ["chat", "--run", str(trained / "tiny"), "--continue", "--max-new-tokens", "2"]
    assert state_folder() is None and main([*chat, "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("The judge") and "nothing is kept" in err
    assert list(tmp_path.iterdir()) == []


def test_the_state_folder_follows_the_xdg_rules(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "simplellm"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", unset)
        assert state_folder() == tmp_path / "home" / ".local" / "state" / "simplellm"
