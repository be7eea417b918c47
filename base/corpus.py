"""Builds the training text of the base model from packages.

    python base/corpus.py --packages build/packages --stories build/stories.jsonl --out build/text

Writes `parts/KIND.jsonl`, the mixture `train.jsonl`, `valid.jsonl` (other documents), and
`report.json` with sizes, checksums, what the filters dropped and the passages in common with the
texts of `--benchmark`. Warns where the text of a source differs from `checksums.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from base.clean import Benchmarks, Filter
from base.readers import READERS
from base.story_filter import good_stories

HERE = Path(__file__).parent
SEED = 1
STORIES = "generated stories"
STORY_FILE = "the-verdict.txt"
VALID_SHARE = 0.01  # of the documents of each kind
KINDS = ("fiction", "dialogue", "stories", "prose", "manual", "korean", "code")


@dataclass(frozen=True)
class Source:
    """A row of `sources.toml`."""

    name: str
    registry: str
    version: str
    licence: str
    language: str
    kind: str
    reader: str
    files: list[str]
    limit: int | None = None

    @property
    def key(self) -> str:
        """The name in checksums.json: one package may have texts in two languages."""
        return f"{self.name} ({self.language})"


@dataclass(frozen=True)
class Document:
    source: str
    kind: str
    text: str


@dataclass
class Report:
    """What is in the text: rows by source, characters dropped by reason, shared passages."""

    sources: dict[str, dict[str, int | str]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_stories: Counter[str] = field(default_factory=Counter)
    overlap: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, raw: list[str], clean: list[str], licence: str) -> None:
        self.sources[key] = {
            "licence": licence,
            "raw_characters": sum(map(len, raw)),
            "documents": len(clean),
            "characters": sum(map(len, clean)),
        }
        self.sha256[key] = digest(raw)


def read_sources(path: Path = HERE / "sources.toml") -> list[Source]:
    return [Source(**row) for row in tomllib.loads(path.read_text("utf-8"))["source"]]


def raw_documents(source: Source, packages: Path) -> Iterator[str]:
    """Texts of all files of a source, in the order of their paths."""
    folder = packages / source.registry / source.name
    for pattern in source.files:
        for path in sorted(filter(Path.is_file, folder.glob(pattern))):
            yield from READERS[source.reader](path)


def clean_documents(raw: list[str], source: Source, texts: Filter) -> list[str]:
    """Filtered documents; where `limit` is smaller, documents from all parts of the source."""
    kept = [clean for text in raw if (clean := texts.document(text, source.language))]
    random.Random(SEED).shuffle(kept)
    if source.limit is None:
        return kept
    size = 0
    for count, text in enumerate(kept):
        size += len(text)
        if size > source.limit:
            return kept[:count]
    return kept


def write_jsonl(path: Path, documents: list[Document]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as out:
        for document in documents:
            out.write(json.dumps(vars(document), ensure_ascii=False) + "\n")


def digest(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def changed(sha256: dict[str, str], checksums: Path) -> list[str]:
    """The sources whose text is not the one in the file of checksums."""
    known = json.loads(checksums.read_text("utf-8")) if checksums.exists() else {}
    return [key for key, value in sha256.items() if known.get(key) != value]


def collect(options: argparse.Namespace) -> tuple[list[Document], Report]:
    """All documents and the report. An unexpected checksum is a warning: packages change."""
    benchmarks = Benchmarks(options.benchmark)
    texts = Filter(benchmarks)
    documents: list[Document] = []
    report = Report(dropped=texts.dropped)
    for source in read_sources(options.sources):
        raw = list(raw_documents(source, options.packages))
        clean = clean_documents(raw, source, texts)
        documents += [Document(source.name, source.kind, text) for text in clean]
        report.add(source.key, raw, clean, source.licence)
    if options.stories:
        raw = good_stories(options.stories, report.dropped_stories)
        clean = [text for story in raw if (text := texts.document(story, "en"))]
        documents += [Document(STORIES, "stories", text) for text in clean]
        report.add(STORIES, raw, clean, "Apache-2.0 (text of SmolLM2-135M-Instruct)")
    report.overlap = benchmarks.report(document.text for document in documents)
    return documents, report


def mixture(documents: list[Document]) -> tuple[list[Document], list[Document]]:
    """Training documents in random order, and the held-out documents of each kind."""
    rng = random.Random(SEED)
    by_kind: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        by_kind[document.kind].append(document)
    train: list[Document] = []
    valid: list[Document] = []
    for _, group in sorted(by_kind.items()):
        rng.shuffle(group)
        held_out = max(1, round(VALID_SHARE * len(group)))
        valid += group[:held_out]
        train += group[held_out:]
    rng.shuffle(train)
    return train, valid


def write_all(documents: list[Document], report: Report, out: Path) -> None:
    """Write the parts, the mixture and the report into a folder."""
    train, valid = mixture(documents)
    for kind in KINDS:
        part = [document for document in documents if document.kind == kind]
        write_jsonl(out / "parts" / f"{kind}.jsonl", part)
    for name, part in (("train", train), ("valid", valid)):
        write_jsonl(out / f"{name}.jsonl", part)
        report.bytes[name] = sum(len(document.text.encode()) for document in part)
        report.sha256[f"{name}.jsonl"] = digest([document.text for document in part])
    content = json.dumps(vars(report), indent=1, ensure_ascii=False)
    (out / "report.json").write_text(content + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Builds the training text of the base model.")
    parser.add_argument("--packages", type=Path, required=True, help="folder of fetch.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stories", type=Path, help="JSON lines of stories.py")
    parser.add_argument("--sources", type=Path, default=HERE / "sources.toml")
    parser.add_argument("--benchmark", type=Path, nargs="+", default=[HERE.parent / STORY_FILE])
    parser.add_argument("--checksums", type=Path, default=HERE / "checksums.json")
    parser.add_argument("--write-checksums", action="store_true", help="after a change meant")
    options = parser.parse_args(arguments)
    documents, report = collect(options)
    write_all(documents, report, options.out)
    if options.write_checksums:
        content = json.dumps(report.sha256, indent=1, ensure_ascii=False)
        options.checksums.write_text(content + "\n", encoding="utf-8")
    for key in changed(report.sha256, options.checksums):
        print(f"warning: {key} is not the text in {options.checksums}", file=sys.stderr)
    print(f"{report.bytes['train']:,} bytes for training, shared passages: {report.overlap}")


if __name__ == "__main__":
    main()
