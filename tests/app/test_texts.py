"""Texts that users have: many files, copies, other encodings, JSON lines with errors."""

from __future__ import annotations

import codecs
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import NO_AUGMENTATION, STORY, TINY_FLAGS, posix_only

from simplellm.app.cli import main
from simplellm.app.subcommands.evaluate import _Progress
from simplellm.data.corpus import read_corpus
from simplellm.data.source import Source, safe_cut

Run = Callable[..., tuple[int, Any, str]]
FLAGS = [
    *TINY_FLAGS, "--max-steps", "2", "--eval-interval", "2", "--eval-tokens", "64",
    "--compile", "off", *NO_AUGMENTATION,
]  # fmt: skip


def test_an_evaluation_shows_a_line_before_the_first_share_is_scored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for is_shown in (True, False):
        progress = _Progress("scored", is_shown)
        progress.announce("scoring 5 tokens")
        shown = capsys.readouterr().err
        progress(1.0)
        erased = capsys.readouterr().err
        assert (shown.strip(), erased.strip()) == ("scoring 5 tokens" if is_shown else "", "")
        assert len(erased) == len(shown)


def story_part(story: str, number: int) -> str:
    return story[2500 * number : 2500 * (number + 1)] + "\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, quick_constants: None) -> Run:
    """Runs a command in a folder of its own: (exit code, JSON object or text, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        flags = FLAGS if arguments[0] == "train" and "--resume" not in arguments else []
        code = main([*arguments, *flags, "--device", "cpu", "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if code == 0 else out, err

    return run


def write_lines(path: Path, texts: list[str], key: str = "text") -> None:
    path.write_text(
        "".join(json.dumps({key: text}, ensure_ascii=False) + "\n" for text in texts),
        encoding="utf-8",
    )


def characters(folder: Path, name: str) -> int:
    """Characters of all texts of a run, by its run.json."""
    info = json.loads((folder / "checkpoints" / name / "run.json").read_text())
    return sum(file["characters"] for file in info["files"])


# ---------------------------------------------------------------- folders


def test_a_folder_with_its_own_runs_is_trained_on_again_and_resumed(run, tmp_path, story):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(story_part(story, number), encoding="utf-8")
    names = []
    for _ in range(2):
        code, result, err = run("train", ".")
        assert code == 0, err
        names.append(result["run"])
    assert "1 training run" in err and characters(tmp_path, names[0]) == characters(
        tmp_path, names[1]
    )
    assert run("train", "--resume", "--name", names[0], "--max-steps", "3")[0] == 0


def test_a_resumed_run_reads_the_files_it_was_started_with(run, tmp_path, story, monkeypatch):
    (tmp_path / "notes").mkdir()
    for number in range(2):
        path = tmp_path / "notes" / f"{number}.txt"
        path.write_text(story_part(story, number), encoding="utf-8")
    checkpoints = ("--checkpoints", str(tmp_path / "checkpoints"))
    assert run("train", "notes/*.txt", "--name", "glob", *checkpoints)[0] == 0
    (tmp_path / "notes" / "new.txt").write_text("a text that was added later\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = run("train", "--resume", "--name", "glob", "--max-steps", "3", *checkpoints)
    assert code == 0, err


@posix_only
def test_an_unreadable_file_of_a_folder_is_left_out_and_named_alone_it_is_an_error(
    run, tmp_path, story
):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "good.txt").write_text(story_part(story, 0), encoding="utf-8")
    (tmp_path / "notes" / "bad.txt").write_bytes("그림".encode() + b"\xff\xfe\xfd" * 9)
    code, _, err = run("train", "notes")
    assert code == 0 and "left out: " in err and "bad.txt" in err
    code, _, err = run("train", "notes/bad.txt")
    assert code == 1 and err.startswith("error: notes/bad.txt: byte 6")


def test_the_validation_text_is_named(run, tmp_path, story):
    for name, start in (("2.txt", 0), ("10.txt", 3900)):
        (tmp_path / name).write_text(story[start : start + 3900], encoding="utf-8")
    _, result, err = run("train", ".", "--val-fraction", "0.25")
    assert "validation text: the last 1,95" in err and "10.txt" in err and " 2.txt" not in err
    info = json.loads((tmp_path / "checkpoints" / result["run"] / "run.json").read_text())
    assert [Path(file["path"]).name for file in info["files"]] == ["2.txt", "10.txt"]
    assert info["validation_text"].endswith("10.txt")


# ---------------------------------------------------------------- copies


def test_a_text_given_twice_counts_once(run, tmp_path, story):
    (tmp_path / "x.txt").write_text(story_part(story, 0) * 2, encoding="utf-8")
    (tmp_path / "copy.txt").write_bytes(codecs.BOM_UTF8 + (tmp_path / "x.txt").read_bytes())
    _, once, _ = run("train", "x.txt", "--name", "once")
    paths = ["x.txt", str(tmp_path / "x.txt"), "copy.txt"]
    _, twice, err = run("train", *paths, "--name", "twice")
    assert err.count("is a copy of another file") == 2
    assert twice["val_loss"] == once["val_loss"]


def test_validation_text_inside_the_training_text_is_left_out_of_it(run, tmp_path, story):
    (tmp_path / "notes").mkdir()
    for number in range(3):
        path = tmp_path / "notes" / f"{number}.txt"
        path.write_text(story_part(story, number), encoding="utf-8")
    code, result, err = run("train", "notes", "--val-data", "notes/1.txt")
    assert code == 0 and "notes/1.txt is the validation text" in err.replace(os.sep, "/")
    info = json.loads((tmp_path / "checkpoints" / result["run"] / "run.json").read_text())
    assert [Path(file["path"]).name for file in info["files"]] == ["0.txt", "2.txt"]


def test_a_validation_file_cut_out_of_the_text_is_left_out_of_it(run, tmp_path, story):
    (tmp_path / "x.txt").write_text(story[:7000], encoding="utf-8")
    (tmp_path / "rest.txt").write_text(story[2500:7000], encoding="utf-8")
    (tmp_path / "val.txt").write_text(story[:2500], encoding="utf-8")
    _, honest, _ = run("train", "rest.txt", "--val-data", "val.txt")
    code, result, err = run("train", "x.txt", "--val-data", "val.txt", "--name", "cut")
    assert code == 0 and "2,500 characters of x.txt that are also in the validation text" in err
    assert result["val_loss"] == honest["val_loss"]
    code, _, err = run("train", "--resume", "--name", "cut", "--max-steps", "3")
    assert code == 0, err


def test_a_text_repeated_in_one_file_counts_once(run, tmp_path, story):
    (tmp_path / "x.txt").write_text(story[:7000], encoding="utf-8")
    _, once, _ = run("train", "x.txt", "--name", "once")
    (tmp_path / "xx.txt").write_text(story[:7000] * 2, encoding="utf-8")
    code, twice, err = run("train", "xx.txt", "--name", "twice")
    assert code == 0 and "left out: 7,000 characters" in err
    assert twice["val_loss"] == once["val_loss"]
    code, _, err = run("train", "--resume", "--name", "twice", "--max-steps", "3")
    assert code == 0, err


def test_the_report_shows_no_figure_that_is_not_held_out(run, tmp_path):
    (tmp_path / "x.txt").write_text("The judge looked at the lamp.\n" * 400, encoding="utf-8")
    code, _, err = run("train", "x.txt", "--name", "x")
    assert code == 0 and err.count("is also in the training text") == 2
    assert "on the held-out text" not in err and "bits/byte (lower is better)" not in err
    report = json.loads((tmp_path / "checkpoints" / "x" / "report.json").read_text())
    assert "also in the training text" in report["not_held_out"]


def test_a_text_is_not_validated_on_itself(run, tmp_path, story):
    (tmp_path / "x.txt").write_text(story_part(story, 0), encoding="utf-8")
    code, _, err = run("train", "x.txt", "--val-data", "x.txt")
    assert code == 1 and "validation" in err and len(err.splitlines()) <= 3


def test_equal_documents_of_json_lines_count_once(run, tmp_path, story):
    texts = [story[900 * number : 900 * (number + 1)] for number in range(8)]
    write_lines(tmp_path / "once.jsonl", texts)
    write_lines(tmp_path / "twice.jsonl", [*texts, *texts])
    _, once, _ = run("train", "once.jsonl")
    _, twice, err = run("train", "twice.jsonl")
    assert "left out: 8 documents that occur more than once" in err
    assert twice["val_loss"] == once["val_loss"]


# ---------------------------------------------------------------- evaluate


def test_evaluate_gives_the_figures_of_training_for_many_documents(run, tmp_path, story):
    write_lines(tmp_path / "val.jsonl", [story[80 * n : 80 * (n + 1)] for n in range(40)])
    (tmp_path / "x.txt").write_text(story[4000:9000], encoding="utf-8")
    _, trained, _ = run("train", "x.txt", "--val-data", "val.jsonl", "--eval-tokens", "100000")
    _, scored, _ = run("evaluate", "--data", "val.jsonl")
    assert scored["loss"] == trained["val_loss"]
    assert scored["bits_per_byte"] == trained["bits_per_byte"]


def test_evaluate_gives_the_figures_of_training_for_a_text_with_copies(run, tmp_path, story):
    texts = [story[80 * n : 80 * (n + 1)] for n in range(20)]
    (tmp_path / "val").mkdir()
    write_lines(tmp_path / "val" / "1.jsonl", [*texts, *texts[:9]])
    for name in ("2.txt", "3.txt"):
        (tmp_path / "val" / name).write_text(story[2000:3000], encoding="utf-8")
    write_lines(tmp_path / "x.jsonl", [story[4000:6500], story[6500:9000], story[4000:6500]])
    for data in ("val", "val/1.jsonl"):
        _, trained, _ = run("train", "x.jsonl", "--val-data", data, "--eval-tokens", "100000")
        _, scored, err = run("evaluate", "--data", data)
        assert scored["loss"] == trained["val_loss"]
        assert scored["bits_per_byte"] == trained["bits_per_byte"]
        assert ("1 file is a copy of another one" in err) == (data == "val")


# ---------------------------------------------------------------- encodings and marks


@pytest.mark.parametrize("name", ["utf16", "UTF-16", "u16", "utf_16_le"])
def test_every_name_of_utf_16_is_accepted(run, tmp_path, story, name):
    (tmp_path / "x.txt").write_bytes(story_part(story, 0).encode("utf-16"))
    assert run("train", "x.txt", "--encoding", name)[0] == 0


@pytest.mark.parametrize(
    ("data", "fix"),
    [
        ("The judge looked.\n".encode("utf-16-le"), "--encoding utf-16-le"),
        (("그림은 벽에 걸려 있었다. " * 9).encode("cp949"), "--encoding cp949"),
        ("Où est-il? Là-bas, répondit l’élève.\n".encode("cp1252"), "--encoding cp1252"),
        ("그림은 벽에".encode() * 9 + b"\xff", "damaged"),
    ],
)
def test_a_wrong_encoding_is_recognized_and_named(run, tmp_path, data, fix):
    (tmp_path / "x.txt").write_bytes(data)
    code, _, err = run("train", "x.txt")
    assert code == 1 and fix in err and len(err.splitlines()) == 2


def test_a_byte_order_mark_of_a_config_file_is_skipped(run, tmp_path, story):
    (tmp_path / "x.txt").write_text(story_part(story, 0), encoding="utf-8")
    (tmp_path / "c.toml").write_bytes(codecs.BOM_UTF8 + b"log_interval = 1\n")
    assert run("train", "x.txt", "--config", "c.toml")[0] == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\x1f\x8b\x08text", "gzip"), (b"PK\x03\x04word/", "Word document"), (b"%PDF-1", "PDF")],
)
def test_a_compressed_or_office_file_is_named(run, tmp_path, content, words):
    (tmp_path / "x.txt").write_bytes(content)
    code, _, err = run("train", "x.txt")
    assert code == 1 and f"is not text but {words}" in err


# ---------------------------------------------------------------- JSON lines


def test_a_json_line_without_text_names_its_keys_and_the_flag(run, tmp_path, story):
    write_lines(tmp_path / "D.JSONL", [story_part(story, 0), story_part(story, 1)], "content")
    code, _, err = run("train", "D.JSONL")
    assert code == 1 and "its keys: 'content'" in err and "--text-key content" in err
    code, result, err = run("train", "D.JSONL", "--text-key", "content")
    assert code == 0, err
    assert run("train", "--resume", "--name", result["run"], "--max-steps", "3")[0] == 0


def test_bad_lines_are_skipped_up_to_a_share(run, tmp_path, story):
    good = [json.dumps({"text": story_part(story, number)}) for number in range(6)]
    lines = [*good[:3], "{broken", *good[3:], '{"other": 1}']
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    assert run("train", "d.jsonl")[0] == 1
    code, _, err = run("train", "d.jsonl", "--skip-bad")
    assert code == 1 and "2 of 8 lines are unusable, more than 10%" in err
    code, _, err = run("train", "d.jsonl", "--skip-bad", "--max-bad-share", "0.5")
    assert code == 0 and "2 of 8 lines are unusable and left out; the first: " in err
    assert "line 4" in err


@pytest.mark.parametrize("name", ["one long line.jsonl", "blank lines.txt"])
def test_strange_files_are_read_in_linear_time(tmp_path, name):
    def seconds(size: int) -> float:
        text = json.dumps({"text": "ab " * (size // 3)}) if "jsonl" in name else "\n" * size + "a"
        (tmp_path / name).write_text(text)
        started_at = time.process_time()
        assert sum(len(chunk.text) for chunk in Source(str(tmp_path / name)).chunks()) >= size - 3
        return time.process_time() - started_at

    seconds(1 << 20)
    assert seconds(1 << 25) < 16 * max(seconds(1 << 22), 0.02)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0c", "\x1c"])
def test_only_a_newline_ends_a_json_line(run, tmp_path, story, separator):
    texts = [story_part(story, 0), story_part(story, 1) + separator + "after it"]
    write_lines(tmp_path / "d.jsonl", texts)
    code, result, err = run("train", "d.jsonl")
    assert code == 0, err
    log = tmp_path / "checkpoints" / result["run"] / "log.jsonl"
    record = {"kind": "evaluation", "step": 1, "sample": f"a{separator}b"}
    log.write_text(json.dumps(record, ensure_ascii=False) + "\n" + log.read_text())
    assert run("train", "--resume", "--name", result["run"], "--max-steps", "3")[0] == 0
    first = json.loads(log.read_text(encoding="utf-8").split("\n")[0])
    assert first == record


def test_a_chunk_ends_at_the_last_line_end_before_a_word(monkeypatch):
    monkeypatch.setattr("simplellm.data.source.CHUNK_CHARACTERS", 3)
    assert safe_cut("ab\ncd\n\n  e") == 3 and safe_cut("ab\n\ncd\n") == 4
    assert safe_cut("\n\n\n\n\n") is None


@pytest.mark.parametrize("flags", [[], ["--json"]])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_evaluate_shows_its_progress_on_a_terminal_only(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_terminal: bool,
    flags: list[str],
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(STORY.read_text()[:3000] * 5)
    monkeypatch.setattr("simplellm.app.subcommands.evaluate.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    command = ["evaluate", "--data", str(text), "--run", "tiny", "--checkpoints", str(trained)]
    assert main([*command, "--device", "cpu", *flags]) == 0
    err = capsys.readouterr().err
    assert ("scored " in err) == (is_terminal and not flags)
    assert not err.strip("\r ").startswith("scored") or err.endswith(" \r"), "the line is erased"


@pytest.mark.parametrize(
    "copy",
    [
        lambda text: text + "\n\n",
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
    ],
    ids=["more line ends", "no line end", "CRLF", "byte order mark"],
)
def test_a_copy_saved_by_another_editor_is_left_out(
    tmp_path: Path, story: str, copy: Callable[[str], str]
) -> None:
    for name, text in (("a.txt", story), ("b.txt", copy(story))):
        (tmp_path / name).write_bytes(text.encode("utf-8"))
    notices: list[str] = []
    corpus = read_corpus([str(tmp_path)], notice=notices.append)
    assert len(corpus.sources) == 1 and "b.txt is a copy" in notices[-1]


def test_a_record_of_another_file_is_left_out(tmp_path: Path) -> None:
    for name, end in (("a.jsonl", ""), ("b.jsonl", "\\n")):
        (tmp_path / name).write_text(f'{{"text": "The judge.{end}"}}\n{{"text": "Of {name}."}}\n')
    corpus = read_corpus([str(tmp_path)])
    assert corpus.text() == "The judge.Of a.jsonl.Of b.jsonl."
