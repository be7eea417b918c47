"""Any corpus is trained on or refused in one line."""

from __future__ import annotations

import codecs
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import NO_AUGMENTATION

from faults.tiny import TEXT
from simplellm.app.cli import main
from simplellm.checkpoint.run import RunFolder
from simplellm.storage.manifest import verify_manifest

HANGUL = "판사는 등불을 보았다. 빵집 주인도 등불을 보았다. " * 60
FLAGS = [
    "--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "16",
    "--vocab-size", "300", "--batch-size", "2", "--max-steps", "2", "--device", "cpu",
    "--precision", "float32", *NO_AUGMENTATION,
]  # fmt: skip
TRAINS, REFUSED = 0, 1


def random_bytes(count: int, low: int = 0, high: int = 255) -> bytes:
    generator = random.Random(0)
    return bytes(generator.randint(low, high) for _ in range(count))


FILES: dict[str, tuple[bytes, int, str]] = {  # content, exit code, part of the message
    "empty": (b"", REFUSED, "no text"),
    "whitespace": (b" \n\t\r\n " * 500, REFUSED, "no text"),
    "a byte order mark alone": (codecs.BOM_UTF8, REFUSED, "no text"),
    "one byte": (b"a", REFUSED, "more text"),
    "one word": (b"word", REFUSED, "more text"),
    "shorter than a block": (b"a b c d e f g", REFUSED, "more text"),
    "plain": (TEXT.encode(), TRAINS, ""),
    "no line end": (TEXT.encode().rstrip(), TRAINS, ""),
    "one character again and again": (b"a" * 20_000, TRAINS, ""),
    "line ends alone but for one word": (b"\n" * 5000 + b"word", TRAINS, ""),
    "CR LF": (TEXT.replace(". ", ".\r\n").encode(), TRAINS, ""),
    "CR": (TEXT.replace(". ", ".\r").encode(), TRAINS, ""),
    "one huge line": (TEXT.encode() * 150, TRAINS, ""),
    "Hangul": (HANGUL.encode(), TRAINS, ""),
    "emoji": ("👩‍👩‍👧 🇰🇷 👍🏽 ".encode() * 300, TRAINS, ""),
    "a NUL": (TEXT.encode() + b"\0", REFUSED, f"byte {len(TEXT)} is NUL"),
    "a program": (b"\x7fELF\x02\x01\x01" + bytes(1000), REFUSED, "byte 7 is NUL"),
    "random bytes": (random_bytes(5000, 1), REFUSED, "--encoding"),
    "control characters": (random_bytes(5000, 1, 31), TRAINS, ""),
    "terminal sequences": (b"\x1b]0;x\x07\x1b[31mred " * 200, TRAINS, ""),
    "latin-1": (TEXT.encode() + "café".encode("latin-1"), REFUSED, f"byte {len(TEXT) + 3} (utf-8)"),
    "latin-1 at the start": (
        "café ".encode("latin-1") + TEXT.encode(), REFUSED, "byte 3 (0xe9) is not utf-8",
    ),
    "cp949": (HANGUL.encode("cp949"), REFUSED, "byte 0 (0xc6) is not utf-8"),
    "half a character at the end": (
        HANGUL.encode()[:-1] + "가".encode()[:1], REFUSED, "middle of a character",
    ),
    "surrogates": (TEXT.encode() + b"\xed\xa0\x80", REFUSED, f"byte {len(TEXT)} (0xed)"),
    "UTF-8 with a mark": (codecs.BOM_UTF8 + HANGUL.encode(), TRAINS, ""),
    "UTF-16 with a mark": (HANGUL.encode("utf-16"), TRAINS, ""),
    "UTF-16 BE with a mark": (codecs.BOM_UTF16_BE + HANGUL.encode("utf-16-be"), TRAINS, ""),
    "UTF-32 with a mark": (HANGUL.encode("utf-32"), TRAINS, ""),
    "UTF-16 without a mark": (TEXT.encode("utf-16-le"), REFUSED, "looks like utf-16-le"),
    "half of UTF-16": (HANGUL.encode("utf-16")[:-1], REFUSED, "middle of a character"),
}  # fmt: skip


@pytest.fixture
def attempt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quick_constants: None
) -> Callable[..., tuple[int, str]]:
    """Runs `train` on texts: (exit code, stderr). An error is one line, or two with the fix."""

    def attempt(*texts: str, **options: str) -> tuple[int, str]:
        capsys.readouterr()
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        code = main(
            [
                "train",
                *texts,
                "--name",
                "run",
                "--checkpoints",
                str(tmp_path / "checkpoints"),
                *FLAGS,
                *words,
            ]
        )
        out, err = capsys.readouterr()
        run = tmp_path / "checkpoints" / "run"
        if code == TRAINS:
            verify_manifest(RunFolder(run).best())
        else:
            assert not run.exists() and out == "" and not list((tmp_path).rglob(".tmp-*"))
            assert 1 <= len(err.splitlines()) <= 2 and err.startswith("error: "), err
        return code, err

    return attempt


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_trained_on_or_refused_in_one_line(attempt, tmp_path, name):
    content, expected, message = FILES[name]
    (tmp_path / "text.txt").write_bytes(content)
    code, err = attempt(str(tmp_path / "text.txt"))
    assert code == expected and message in err, err


@pytest.mark.parametrize("encoding", ["cp949", "utf-16", "latin-1"])
def test_a_text_in_the_given_encoding_is_read(attempt, tmp_path, encoding):
    (tmp_path / "text.txt").write_bytes(
        (HANGUL if encoding != "latin-1" else TEXT + "café").encode(encoding)
    )
    assert attempt(str(tmp_path / "text.txt"), encoding=encoding)[0] == TRAINS


@pytest.mark.slow
def test_a_text_is_refused_below_some_length_and_trained_on_above(attempt, tmp_path, report_count):
    """The lengths include exactly one block, one token less and one more."""
    codes = []
    lengths = [*range(1, 120, 7), 150, 200, 300]
    for length in lengths:
        (tmp_path / "text.txt").write_text("".join(f"{number % 10} " for number in range(length)))
        code, err = attempt(str(tmp_path / "text.txt"))
        assert code == TRAINS or "more text" in err or "--block-size" in err
        codes.append(code)
        if code == TRAINS:
            shutil.rmtree(tmp_path / "checkpoints")
    assert codes == sorted(codes, reverse=True) and {*codes} == {TRAINS, REFUSED}
    report_count(
        f"{len(FILES) + len(lengths) + len(PATHS)} corpora: each trained on or refused in one line"
    )


def folder_of_texts(folder: Path) -> str:
    (folder / "texts" / "more").mkdir(parents=True)
    (folder / "texts" / "a.txt").write_text(TEXT)
    (folder / "texts" / "more" / "b.md").write_text(HANGUL)
    (folder / "texts" / "c.png").write_bytes(b"\0")
    return str(folder / "texts")


def folder_without_texts(folder: Path) -> str:
    (folder / "texts").mkdir()
    (folder / "texts" / "c.png").write_bytes(b"\0")
    return str(folder / "texts")


def folder_in_a_loop(folder: Path) -> str:
    place = Path(folder_of_texts(folder))
    (place / "loop").symlink_to(place)
    (place / "loop.txt").symlink_to(place / "loop.txt")
    return str(place)


def link_to_itself(folder: Path) -> str:
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    return str(folder / "loop.txt")


def link_to_a_text(folder: Path) -> str:
    (folder / "real.txt").write_text(TEXT)
    (folder / "link.txt").symlink_to(folder / "real.txt")
    return str(folder / "link.txt")


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    threading.Thread(target=(folder / "pipe").write_text, args=(TEXT,), daemon=True).start()
    return str(folder / "pipe")


def pipe_in_a_folder(folder: Path) -> str:
    place = folder_of_texts(folder)
    os.mkfifo(Path(place) / "pipe.txt")
    return place


def unreadable(folder: Path) -> str:
    (folder / "text.txt").write_text(TEXT)
    (folder / "text.txt").chmod(0)
    # root can read every file but this one
    return str(folder / "text.txt") if os.geteuid() else "/proc/self/mem"


def name_with_control_characters(folder: Path) -> str:
    (folder / "\x1b[31m\n.txt").write_bytes(b"")
    return str(folder / "\x1b[31m\n.txt")


def checkpoint_folder(folder: Path) -> str:
    (folder / "step-000001").mkdir()
    (folder / "step-000001" / "config.json").write_text("{}")
    return str(folder / "step-000001")


PATHS: dict[str, tuple[Callable[[Path], str], int, str]] = {
    "a folder": (folder_of_texts, TRAINS, ""),
    "a folder without texts": (folder_without_texts, REFUSED, "*.txt"),
    "a folder in a loop": (folder_in_a_loop, TRAINS, ""),
    "a link to itself": (link_to_itself, REFUSED, "loop.txt"),
    "a link to a text": (link_to_a_text, TRAINS, ""),
    "a pipe": (pipe, TRAINS, ""),
    "a pipe in a folder": (pipe_in_a_folder, TRAINS, ""),
    "unreadable": (unreadable, REFUSED, "cannot read"),
    "missing": (lambda folder: str(folder / "nowhere.txt"), REFUSED, "nowhere.txt"),
    "an empty name": (lambda folder: "", REFUSED, "no file ''"),
    "a name that is too long": (lambda folder: "x" * 5000, REFUSED, "no file"),
    "a pattern that matches nothing": (
        lambda folder: str(folder / "*.txt"),
        REFUSED,
        "no file matches",
    ),
    "a name with control characters": (name_with_control_characters, REFUSED, "no text"),
    "a checkpoint": (checkpoint_folder, REFUSED, "*.txt"),
    "an empty device": (lambda folder: "/dev/null", REFUSED, "device"),
    "an endless device": (lambda folder: "/dev/zero", REFUSED, "device"),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_trained_on_or_refused_in_one_line(attempt, tmp_path, name):
    make, expected, message = PATHS[name]
    code, err = attempt(make(tmp_path))
    assert code == expected and message in err and "\x1b" not in err, err


@pytest.mark.parametrize(
    "change", [lambda text: text[: len(text) // 3], lambda text: text[:-1], lambda text: ""]
)
def test_a_text_that_changes_while_it_is_read_is_refused(attempt, tmp_path, monkeypatch, change):
    from simplellm.training import preparation

    path, prepare = tmp_path / "text.txt", preparation.prepare
    path.write_text(TEXT)

    def changing(*arguments: object) -> object:
        path.write_text(change(TEXT))
        return prepare(*arguments)

    monkeypatch.setattr(preparation, "prepare", changing)
    code, err = attempt(str(path))
    assert code == REFUSED and "changed while it was read" in err
