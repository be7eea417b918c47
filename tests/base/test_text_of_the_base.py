"""The text of the base model: readers, filters, mixture and generated stories.

All packages are made up, and nothing is downloaded.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from base import fetch, stories
from base.clean import Benchmarks, Filter, in_language, is_repetitive
from base.corpus import changed, main, read_sources
from base.readers import READERS
from base.stories import TEMPERATURE, StoryWriter, batches, penalized, sample, seeds_done
from base.story_filter import good_stories, problem, whole
from base.story_prompts import KINDS, StoryPrompt, story_prompt
from simplellm.checkpoint.generation import NOTHING_STATED
from simplellm.checkpoint.step_folder import OpenedModel
from simplellm.config.model import ModelConfig
from simplellm.data.tokenizer import Tokenizer
from simplellm.model.transformer import SimpleLLM

SENTENCES = (
    "The old sailor looked at the sea and thought of his brother, who had never come home.",
    "In the morning the children carried the boat to the water, and nobody asked them why.",
    "A letter arrived from the city; she read it twice and put it under the blue plate.",
    "They spoke about the harvest, the price of salt, and the long road over the mountain.",
    "When the rain stopped, the dog ran into the garden and dug a hole beside the roses.",
)
BENCHMARK = "Seven grey geese flew over the quiet mill before the evening bell was rung."
CONVERSATION = (
    "categories:\n- food\nconversations:\n- - Hello\n  - Hi there\n- - Bye\n  - See you\n"
)
EXAMPLES = {
    "plain": ("One line\nof text.\n\nAnother.", ["One line of text.\n\nAnother."]),
    "html": (
        "<head><title>T</title></head><nav><p>Menu</p></nav><h1>Head</h1><p>A <b>bold</b>\nword."
        "</p><table><tr><td>1</td></tr></table><pre>code</pre>",
        ["Head\n\nA bold word."],
    ),
    "json_text": (json.dumps({"text": "First.\nSecond."}), ["First.\n\nSecond."]),
    "chatterbot": (CONVERSATION, ["Hello\nHi there", "Bye\nSee you"]),
    "dictionary": (
        'header\nArrow \\Ar"row\\, n. [OE. arewe.]\n   A thin weapon that is shot from a {bow}.\n',
        ["Arrow\nA thin weapon that is shot from a bow."],
    ),
    "source_code": ("x = 1\n" * 100, [("x = 1\n" * 100).rstrip()]),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_reader_gives_the_text_without_its_markup(name: str, tmp_path: Path) -> None:
    content, documents = EXAMPLES[name]
    (tmp_path / "file").write_text(content, encoding="utf-8")
    assert list(READERS[name](tmp_path / "file")) == documents


def test_a_compressed_file_reads_like_a_plain_one(tmp_path: Path) -> None:
    (tmp_path / "file.gz").write_bytes(gzip.compress(b"Plain\ntext."))
    assert list(READERS["plain"](tmp_path / "file.gz")) == ["Plain text."]


def test_every_source_has_a_licence_and_a_reader() -> None:
    sources = read_sources()
    assert len({source.key for source in sources}) == len(sources)
    assert all(source.reader in READERS and source.licence for source in sources)
    assert {source.registry for source in sources} <= {"debian", "pypi", "npm"}


def test_a_paragraph_with_eight_words_of_a_benchmark_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text(BENCHMARK, encoding="utf-8")
    benchmarks = Benchmarks([tmp_path / "story.txt"])
    texts = Filter(benchmarks)
    stolen = "He wrote: SEVEN grey geese flew -- over the quiet mill, and then he slept."
    kept = texts.document("\n\n".join([*SENTENCES, stolen]), "en")
    assert kept == "\n\n".join(SENTENCES)
    assert benchmarks.report([kept]) == {"story.txt": 0}
    assert benchmarks.report([stolen]) == {"story.txt": 1}
    assert texts.dropped == Counter({"benchmark overlap": len(stolen)})


def test_source_code_that_is_mostly_of_a_benchmark_is_dropped(tmp_path: Path) -> None:
    code = "def add(first, second):\n    return first + second  # as everyone adds numbers\n"
    (tmp_path / "code.txt").write_text(code, encoding="utf-8")
    texts = Filter(Benchmarks([tmp_path / "code.txt"]))
    own = "\n".join(f"value_{n} = compute_{n}(value_{n - 1})  # step {n}" for n in range(200))
    assert texts.document(f"{code}\n{own}", "python") == f"{code}\n{own}"
    assert texts.document(code * 5, "python") is None
    assert texts.dropped == Counter({"benchmark overlap": len(code * 5)})


def test_filters_name_what_they_drop() -> None:
    texts = Filter(Benchmarks([]))
    bad = {
        "language": "Это предложение написано на другом языке, и его не надо.",
        "boilerplate": "Copyright 1999 by the authors of this manual. All rights reserved.",
        "repetition": " ".join(["He had a big smile and a big beard."] * 8),
        "duplicate": SENTENCES[0],
    }
    assert texts.document("\n\n".join([*SENTENCES, *bad.values()]), "en") == "\n\n".join(SENTENCES)
    assert texts.dropped == Counter({reason: len(text) for reason, text in bad.items()})


def test_korean_is_told_from_english() -> None:
    korean = "오늘 아침에 비가 와서 우리는 집에서 책을 읽었다."
    assert in_language(korean, "ko") and not in_language(korean, "en")
    assert in_language(SENTENCES[0], "en") and not in_language(SENTENCES[0], "ko")
    assert not is_repetitive(" ".join(SENTENCES))


SOURCES = """
[[source]]
name = "books"
registry = "debian"
version = "1.0"
licence = "public domain"
language = "en"
kind = "fiction"
reader = "plain"
files = ["usr/**/*.txt"]

[[source]]
name = "talk"
registry = "pypi"
version = "2.0"
licence = "BSD"
language = "ko"
kind = "korean"
reader = "html"
files = ["*.html"]
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Unpacked packages, a table of sources, a benchmark and generated stories."""
    books = tmp_path / "packages/debian/books/usr/share"
    books.mkdir(parents=True)
    for number in range(12):
        text = "\n\n".join(f"{s[:-1]}, on day {number} of the year." for s in SENTENCES)
        (books / f"{number}.txt").write_text(f"{text}\n\n{BENCHMARK}", encoding="utf-8")
    talk = tmp_path / "packages/pypi/talk"
    talk.mkdir(parents=True)
    page = "<p>" + "오늘 아침에 비가 와서 우리는 집에서 오래된 책을 읽었다. " * 4 + "</p>"
    (talk / "page.html").write_text(page, encoding="utf-8")
    (tmp_path / "sources.toml").write_text(SOURCES, encoding="utf-8")
    (tmp_path / "benchmark.txt").write_text(BENCHMARK, encoding="utf-8")
    rows = [
        {"seed": 2, "kind": "story", "text": " ".join(SENTENCES), "ended": True, "tokens": 90},
        {"seed": 1, "kind": "story", "text": "As an AI, I cannot.", "ended": True, "tokens": 6},
    ]
    (tmp_path / "stories.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def rebuild(folder: Path, out: str, *more: str) -> Path:
    main(
        [
            *("--packages", str(folder / "packages"), "--sources", str(folder / "sources.toml")),
            *("--benchmark", str(folder / "benchmark.txt"), "--out", str(folder / out)),
            *("--stories", str(folder / "stories.jsonl")),
            *("--checksums", str(folder / "checksums.json"), *more),
        ]
    )
    return folder / out


def test_a_rebuild_gives_the_same_bytes(packages: Path, capsys: pytest.CaptureFixture) -> None:
    first = rebuild(packages, "first", "--write-checksums")
    assert "warning" not in capsys.readouterr().err
    second = rebuild(packages, "second")
    names = sorted(path.relative_to(first) for path in first.rglob("*.json*"))
    assert [(first / name).read_bytes() for name in names] == [
        (second / name).read_bytes() for name in names
    ]
    assert "warning" not in capsys.readouterr().err


def test_the_report_counts_what_is_left(packages: Path) -> None:
    report = json.loads((rebuild(packages, "out") / "report.json").read_text("utf-8"))
    assert report["overlap"] == {"benchmark.txt": 0}
    assert report["dropped"]["benchmark overlap"] + report["dropped"]["duplicate"] == 12 * len(
        BENCHMARK
    )
    assert report["sources"]["books (en)"]["documents"] == 12
    assert report["dropped_stories"] == {"short": 1}


def test_held_out_documents_are_not_in_the_training_text(packages: Path) -> None:
    out = rebuild(packages, "out")
    train, valid = (
        [json.loads(line)["text"] for line in (out / name).read_text("utf-8").splitlines()]
        for name in ("train.jsonl", "valid.jsonl")
    )
    assert valid and not set(train) & set(valid)
    assert sorted(train + valid) == sorted(set(train + valid))


def test_a_changed_package_is_noticed(packages: Path, capsys: pytest.CaptureFixture) -> None:
    rebuild(packages, "first", "--write-checksums")
    (packages / "packages/debian/books/usr/share/0.txt").write_text("Other.", encoding="utf-8")
    rebuild(packages, "second")
    assert "warning: books (en) is not the text in" in capsys.readouterr().err
    assert changed({"books (en)": "0"}, packages / "nowhere.json") == ["books (en)"]


def test_a_package_is_fetched_once_and_another_version_is_reported(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def unpack(name: str, version: str, folder: Path) -> str:
        asked.append(f"{name} {version}")
        assert folder.is_absolute()  # a program that runs elsewhere writes into it
        folder.mkdir()
        return f"{name}_1%3a1.0_all.deb"

    monkeypatch.setattr(fetch, "REGISTRIES", {"debian": unpack, "pypi": unpack})
    sources = read_sources(packages / "sources.toml")
    monkeypatch.chdir(packages)
    lines = list(fetch.fetch(sources, Path("new")))
    assert lines == ["books_1%3a1.0_all.deb", "talk_1%3a1.0_all.deb: not version 2.0"]
    assert list(fetch.fetch(sources, Path("new"))) == []
    assert asked == ["books 1.0", "talk 2.0"]


def test_a_seed_fixes_its_prompt_and_kinds_vary() -> None:
    prompts = [story_prompt(seed) for seed in range(300)]
    assert prompts == [story_prompt(seed) for seed in range(300)]
    assert {prompt.kind for prompt in prompts} == set(KINDS)
    assert len({prompt.request for prompt in prompts}) == 300
    assert all(prompt.opening and prompt.opening == prompt.opening.strip() for prompt in prompts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Too short.", "short"),
        (" ".join(SENTENCES) + " As an AI, I like stories.", "about the request"),
        (" ".join(SENTENCES) + " **The end**", "markup"),
        (" ".join(SENTENCES) + " " + SENTENCES[1], "repetition"),
        (" ".join(SENTENCES) + ' "Come with me, he said.', "open quotation"),
        (" ".join(SENTENCES), None),
    ],
)
def test_a_bad_story_is_refused(text: str, reason: str | None) -> None:
    assert problem(text, "story") == reason


def test_a_story_cut_short_ends_with_its_last_sentence() -> None:
    assert whole('He came. "I am here," he', ended=False) == "He came."
    assert whole("Dear Tom,\n\nI am well. Yours,\nAnna", ended=True).endswith("Anna")


def test_a_story_that_begins_like_another_is_left_out(tmp_path: Path) -> None:
    text = " ".join(SENTENCES)
    rows = [
        {"seed": seed, "kind": "story", "text": text + more, "ended": True}
        for seed, more in enumerate(("", " He went on."))
    ]
    (tmp_path / "stories.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    dropped: Counter[str] = Counter()
    assert good_stories(tmp_path / "stories.jsonl", dropped) == [text]
    assert dropped == Counter(duplicate=1)


def test_a_story_that_its_writer_finds_improbable_is_left_out(tmp_path: Path) -> None:
    rows = [
        {
            "seed": seed,
            "kind": "story",
            "text": f"{name} " + " ".join(SENTENCES),
            "ended": True,
            "log_probability": log_probability,
        }
        for seed, (name, log_probability) in enumerate((("Anna", -2.1), ("Boris", -1.2)))
    ]
    (tmp_path / "stories.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    dropped: Counter[str] = Counter()
    [kept] = good_stories(tmp_path / "stories.jsonl", dropped)
    assert kept.startswith("Boris") and dropped == Counter(improbable=1)


def test_sampling_follows_the_probabilities_and_the_limits() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.04, 0.01] + [1e-9] * 60]))
    draws = torch.linspace(0, 0.999, 1000)
    tokens = sample(logits.expand(1000, -1), draws)
    shares = torch.bincount(tokens, minlength=65) / 1000
    assert shares[4:].sum() == 0  # below MIN_P of the most likely
    assert shares[0] > shares[1] > shares[2] > 0
    weights = torch.tensor([0.5, 0.3, 0.15]) ** (1 / TEMPERATURE)
    assert torch.allclose(shares[:3], weights / weights.sum(), atol=0.03)


def test_recent_tokens_become_less_likely() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    after = penalized(logits, torch.tensor([[0, 1, 1]]))
    assert after[0, 0] < 2 and after[0, 1] < -2 and after[0, 2] == 1


def test_stories_continue_where_they_stopped(tmp_path: Path) -> None:
    path = tmp_path / "stories.jsonl"
    path.write_text('{"seed": 3}\n{"seed": 9}\n{"se', encoding="utf-8")
    assert seeds_done(path) == {3, 9}
    assert path.read_text("utf-8") == '{"seed": 3}\n{"seed": 9}\n'
    assert seeds_done(tmp_path / "none.jsonl") == set()


@pytest.fixture
def writer(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> StoryWriter:
    config = ModelConfig(
        n_layer=1, n_head=2, n_embd=32, block_size=128, vocab_size=tokenizer.vocab_size
    )
    model = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))
    monkeypatch.setattr(stories, "END", tokenizer.special_text(tokenizer.end_of_text))
    monkeypatch.setattr(stories, "MAX_NEW_TOKENS", 12)
    monkeypatch.setattr(stories, "SYSTEM", "Be brief.")
    return StoryWriter(OpenedModel(model, tokenizer, NOTHING_STATED))


def test_equal_seeds_write_equal_stories(writer: StoryWriter) -> None:
    prompts = [StoryPrompt(seed, "story", "Write.", "The judge") for seed in range(4)]
    written = writer.write(prompts)
    assert written == writer.write(prompts)
    assert len({story.text for story in written}) > 1
    assert all(story.text.startswith("The judge") and story.tokens <= 12 for story in written)
    assert all(story.ended or story.tokens == 12 for story in written)
    assert all(-12 < story.log_probability < 0 for story in written)


def test_a_story_does_not_depend_on_those_that_end_before_it(
    writer: StoryWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probability of the end is raised, so that texts leave the batch at several steps."""
    prompts = [StoryPrompt(seed, "story", "Write.", "The judge") for seed in range(40)]
    end, usual = writer._end, stories.penalized

    def often_ending(logits: Tensor, recent: Tensor) -> Tensor:
        after = usual(logits, recent)
        after[:, end] = after.amax(1)
        return after

    monkeypatch.setattr(stories, "penalized", often_ending)
    together = writer.write(prompts)
    assert len({story.tokens for story in together}) > 2
    monkeypatch.setattr(stories, "COMPACT_SHARE", 0.0)  # ended texts stay in the batch
    assert [(s.text, s.tokens) for s in writer.write(prompts)] == [
        (s.text, s.tokens) for s in together
    ]


def test_shorter_prompts_get_empty_lines_in_the_system_message(writer: StoryWriter) -> None:
    rows = writer._padded([[1, 2, 3], [4]]).tolist()
    system, [line] = writer._system, writer._tokenizer.encode("\n")
    assert rows == [[*system, 1, 2, 3], [*system, line, line, 4]]


class LengthOfRequest(StoryWriter):
    """Encodes a prompt without a model: one token per ten characters."""

    def __init__(self) -> None:
        pass

    def encode(self, prompt) -> list[int]:  # type: ignore[no-untyped-def]
        return [0] * (len(prompt.request) // 10)


def test_batches_have_prompts_of_similar_length_and_lose_none() -> None:
    writer = LengthOfRequest()
    groups = list(batches(range(200), writer, 8))
    assert sorted(prompt.seed for group in groups for prompt in group) == list(range(200))
    assert [len(group) for group in groups] == [8] * 25
    lengths = [[len(writer.encode(prompt)) for prompt in group] for group in groups]
    within = sum(max(group) - min(group) for group in lengths)
    assert within < 0.3 * 25 * (max(map(max, lengths)) - min(map(min, lengths)))
