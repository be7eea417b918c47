"""`save FILE`: what a command shows as a picture. One rule for all commands."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from conftest import STORY, TINY_FLAGS, examples
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.app.cli import main
from simplellm.app.commands.registry import COMMANDS, dispatch
from simplellm.app.commands.saving import split_save
from simplellm.app.matrix_chart import matrix_lines, n_fitting
from simplellm.app.pictures.draw import picture
from simplellm.app.pictures.page import INNER_WIDTH
from simplellm.app.pictures.tokens import placed
from simplellm.app.results import Bar, Bars, Columns, Lines, Mark, Matrix, Tokens
from simplellm.app.screen import Screen
from simplellm.app.session import Session
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.config.sampling import SamplingParams
from simplellm.errors import SettingError
from simplellm.evaluation.analyze import attention, attention_rows
from simplellm.inference.sampler import Sampler

PARAMS = SamplingParams(max_new_tokens=6, seed=3)
ODD = '<b>&"한글" שלום \u202egnp\x1b[31m\x00\ud800 👩‍👩‍👧'
SHARES = st.floats(0, 1)
TEXTS = st.text(max_size=30)


@pytest.fixture(scope="module")
def sampler(trained: Path) -> Sampler:
    return Sampler(*load_model(RunFolder(trained / "tiny").best(), torch.device("cpu")))


@pytest.fixture
def session(sampler: Sampler) -> Session:
    session = Session(sampler, Path("tiny"), PARAMS, {"run": "tiny"}, PARAMS)
    answer = session.ask("The judge put on <b>&한글")
    list(answer)
    session.keep(answer)
    return session


def texts_of(path: Path) -> str:
    return " ".join(ElementTree.parse(path).getroot().itertext())


# ---------------------------------------------------------------- the rule


@pytest.mark.parametrize("suffix", [".svg", ".html"])
@pytest.mark.parametrize(
    "line",
    ["/next", "/next The judge", "/probs", "/attn", "/attn 1.2", "/attn matrix", "/attn 2 matrix",
     "/compare", "/compare 0.2 0.8", "/compare top-k 1 10 The", "/tokenize 한글 <b>"],
)  # fmt: skip
def test_every_inspecting_command_saves_its_picture(session, tmp_path, line, suffix) -> None:
    path = tmp_path / f"a{suffix}"
    shown = dispatch(session, f"{line} save {path}")
    assert isinstance(shown, Lines) and str(path) in shown.text
    assert texts_of(path).strip() and "\x1b" not in path.read_text(encoding="utf-8")


def test_saving_shows_the_same_as_the_command_and_leaves_the_session_alone(session, tmp_path):
    before = dispatch(session, "/next The judge")
    dispatch(session, f"/next The judge save {tmp_path / 'a.svg'}")
    assert isinstance(before, Bars) and dispatch(session, "/next The judge") == before
    assert "The judge" in texts_of(tmp_path / "a.svg") and len(session.turns) == 1
    shares = [f"{bar.before:.1%}" for bar in before.rows]
    assert all(share in texts_of(tmp_path / "a.svg") for share in shares)


def test_an_existing_file_stays_and_a_wrong_name_writes_nothing(session, tmp_path) -> None:
    (tmp_path / "a.svg").write_text("mine")
    for name in ("a.svg", "a.gif", "none/a.svg"):
        with pytest.raises(SettingError):
            dispatch(session, f"/attn save {tmp_path / name}")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("save a.svg", ("", "a.svg")),
        ("2.1 matrix save a.png", ("2.1 matrix", "a.png")),
        ("The judge save x save b.html", ("The judge save x", "b.html")),
        ("save 'my file.svg'", ("", "my file.svg")),
        ('text save "my file.svg"', ("text", "my file.svg")),
        ("save 한글.svg", ("", "한글.svg")),
        ("a space  save a.svg ", ("a space ", "a.svg")),
        ("save the judge", ("save the judge", None)),
        ("they save money", ("they save money", None)),
        ("save", ("save", None)),
        ("", ("", None)),
    ],
)
def test_only_a_file_name_after_save_is_one(argument, expected) -> None:
    text, path = split_save(argument)
    assert (text, path and str(path)) == expected


def test_help_shows_the_rule_for_all_of_them() -> None:
    draws = {command.name for command in COMMANDS if command.usage.endswith("[save FILE]")}
    assert draws == {"probs", "next", "tokenize", "attn", "compare", "template"}


# ---------------------------------------------------------------- the pictures


@settings(deadline=None, max_examples=examples(40))
@given(st.lists(st.tuples(TEXTS, SHARES), max_size=12), TEXTS)
def test_any_tokens_bars_columns_and_matrices_are_well_formed(pairs, title) -> None:
    marks = tuple(Mark(text, share, text[:5]) for text, share in pairs)
    names = tuple(text for text, _ in pairs)
    bars = tuple(Bar(text, share, share if share > 0.5 else None) for text, share in pairs)
    rows = tuple(tuple(share for _, share in pairs) for _ in pairs)
    for shown in (
        Tokens(marks, summary=title, legend=marks[:3], title=title),
        Bars(bars, summary=title, title=title),
        Columns(names, names, title, title),
        Matrix(names, rows, title, marks[:2], title),
    ):
        assert ElementTree.fromstring(picture(shown)).tag.endswith("svg")


@pytest.mark.parametrize("make", ["tokens", "bars", "columns", "matrix"])
def test_odd_text_is_shown_safely(make: str) -> None:
    shown = {
        "tokens": Tokens((Mark(ODD, 0.5),)),
        "bars": Bars((Bar(ODD[:14], 0.5, 0.4),)),
        "columns": Columns(("t",), (ODD,)),
        "matrix": Matrix((ODD[:10],), ((1.0,),)),
    }[make]
    svg = picture(shown)
    root = ElementTree.fromstring(svg)
    assert "<b>" not in svg and "\u202e" not in svg and "<b>" in "".join(root.itertext())
    if make in ("tokens", "columns"):
        assert "한글" in svg and "שלום" in svg and "\u241b" in svg and "👩‍👩‍👧" in svg


def test_token_boxes_stay_on_the_page_and_do_not_overlap() -> None:
    marks = tuple(Mark(f" w{'o' * (i % 9)}rd한", i % 10 / 10, ".12") for i in range(200))
    boxes = list(placed((*marks, Mark("x" * 500, 0.1), Mark("a\nb\n", 0.2), Mark("c", 0.3))))
    for one, other in zip(boxes, boxes[1:], strict=False):
        assert (other.row, other.x) > (one.row, one.x)
        assert other.row > one.row or other.x >= one.x + one.width
    assert all(box.x + box.width <= INNER_WIDTH + 8 for box in boxes)
    assert [box.text for box in boxes[-3:]] == ["a↵", "b↵", "c"]
    assert boxes[-3].row < boxes[-2].row < boxes[-1].row


def test_analyze_saves_the_candidates_and_prints_them(trained, tmp_path, capsys) -> None:
    words = ["analyze", "--checkpoints", str(trained), "--prompt", "The judge", "--device", "cpu"]
    assert main([*words, "--save", str(tmp_path / "a.svg"), "--top", "3"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and str(tmp_path / "a.svg") in err
    assert "The judge" in texts_of(tmp_path / "a.svg")
    assert main([*words, "--save", str(tmp_path / "a.svg")]) == 2
    assert main([*words, "--save", str(tmp_path / "a.bmp")]) == 2


def test_train_and_runs_write_their_chart_where_they_are_told(trained, tmp_path, capsys) -> None:
    where = ["--checkpoints", str(tmp_path / "runs")]
    words = ["train", str(STORY), "--max-steps", "2", "--name", "a", *where, *TINY_FLAGS]
    assert main([*words, "--chart", str(tmp_path / "no.gif")]) == 2
    assert not (tmp_path / "runs").exists(), "refused before the training"
    assert main([*words, "--chart", str(tmp_path / "a.html")]) == 0
    assert "loss while training" in texts_of(tmp_path / "a.html")
    assert main(["runs", "a", *where, "--chart", str(tmp_path / "b.svg")]) == 0
    assert "nats per token" in texts_of(tmp_path / "b.svg")
    assert main(["runs", *where, "--chart", str(tmp_path / "c.svg")]) == 2
    capsys.readouterr()


# ---------------------------------------------------------------- attention


def test_attention_rows_are_those_of_each_prefix(session) -> None:
    model, ids = session.sampler.model, session.ids_before_reply()[:8]
    rows = attention_rows(model, ids, 5)
    assert rows.shape[2:] == (5, 8)
    for i in range(5):
        n = 8 - 5 + i + 1
        torch.testing.assert_close(rows[:, :, i, :n], attention(model, ids[:n]))
        assert float(rows[:, :, i, n:].abs().sum()) == 0


def test_attn_names_the_looking_token_and_has_a_legend(session) -> None:
    shown = dispatch(session, "/attn")
    assert isinstance(shown, Tokens)
    last = session.sampler.tokenizer.decode(session.ids_before_reply()[-1:])
    assert f"the last token, {last!r}, looks at" in shown.summary
    assert [mark.level for mark in shown.legend] == [None, 0, 0.25, 0.5, 0.75, 1]


def test_attn_matrix_shows_every_token_and_its_shares(session) -> None:
    shown = dispatch(session, "/attn 1.2 matrix")
    assert isinstance(shown, Matrix) and dispatch(session, "/attn matrix 1.2") == shown
    ids = session.sampler.truncate(session.ids_before_reply())
    assert len(shown.names) == len(shown.rows) == len(ids)
    assert "<0xED> is a byte of a character" in shown.summary
    assert all(sum(row) == pytest.approx(1, abs=1e-4) for row in shown.rows)
    assert shown.rows[-1] == pytest.approx(attention(session.sampler.model, ids)[0, 1].tolist())


def test_a_matrix_fits_its_terminal_and_is_whole_in_a_pipe() -> None:
    names = tuple(f"'token{i}'" for i in range(30))
    rows = tuple(tuple(0.1 if j <= i else 0.0 for j in range(30)) for i in range(30))
    matrix = Matrix(names, rows)
    for columns in (20, 60, 200):
        lines = matrix_lines(matrix, columns)
        assert len(lines) == n_fitting(matrix, columns) + 1
        assert all(sum(len(span.text) for span in line) <= columns for line in lines)
    out = io.StringIO()
    Screen(out=out).matrix(matrix)
    cells = [line.split("\t") for line in out.getvalue().splitlines()]
    assert len(cells) == 30 and [len(row) for row in cells] == list(range(2, 32))
