"""Readers of package files: each turns one file into documents of plain text.

A document is a string of paragraphs separated by blank lines. `READERS` names the functions that
`sources.toml` refers to.
"""

from __future__ import annotations

import ast
import gzip
import html.parser
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

Documents = Iterator[str]
LONGEST = 20_000  # characters of a document; a longer text is cut between paragraphs
LONGEST_PARAGRAPH = 2_000  # a longer one is cut between sentences: filters drop whole paragraphs


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace").replace("\r\n", "\n")


def joined(paragraph: str) -> str:
    """A paragraph in one line: line breaks of a fixed width are spaces."""
    return re.sub(r"\s+", " ", paragraph).strip()


def in_pieces(paragraphs: list[str], longest: int = LONGEST) -> Documents:
    """Documents of whole paragraphs, each about `longest` characters."""
    piece: list[str] = []
    size = 0
    for paragraph in (part for whole in paragraphs for part in _at_sentences(whole)):
        if piece and size + len(paragraph) > longest:
            yield "\n\n".join(piece)
            piece, size = [], 0
        piece.append(paragraph)
        size += len(paragraph)
    if piece:
        yield "\n\n".join(piece)


def _at_sentences(paragraph: str) -> list[str]:
    """Parts of a very long paragraph in one line, each of about half the longest length."""
    if len(paragraph) <= LONGEST_PARAGRAPH or "\n" in paragraph:
        return [paragraph]
    parts = [""]
    for sentence in re.split(r"(?<=[.!?;]) ", paragraph):
        if len(parts[-1]) + len(sentence) > LONGEST_PARAGRAPH // 2 and parts[-1]:
            parts.append("")
        parts[-1] = f"{parts[-1]} {sentence}".lstrip()
    return parts


def plain(path: Path) -> Documents:
    """Text whose paragraphs are separated by blank lines and wrapped; verse keeps its lines."""
    blocks = re.split(r"\n\s*\n", _text(path))
    yield from in_pieces([_unwrapped(block) for block in blocks if block.strip()])


def _unwrapped(block: str) -> str:
    lines = [line.strip() for line in block.strip().splitlines()]
    starts = sum(line[:1].isupper() for line in lines)
    is_verse = len(lines) > 3 and starts > 0.9 * len(lines) and max(map(len, lines)) < 66
    return "\n".join(lines) if is_verse else joined(block)


class _Paragraphs(html.parser.HTMLParser):
    """Paragraphs of HTML, Mallard or DocBook outside tables, listings and menus."""

    BLOCKS = {"p", "li", "dd", "blockquote", "h1", "h2", "h3", "h4", "title", "para", "item"}
    SKIPPED = {
        "pre", "table", "script", "style", "nav", "head", "header", "footer", "info", "screen",
        "code-block", "form", "svg", "select",
    }  # fmt: skip

    def __init__(self, skips_title: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[str] = []
        self._skipped: list[str] = []
        self._parts: list[str] = []
        self._is_page = skips_title

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        classes = (dict(attrs).get("class") or "") + (dict(attrs).get("role") or "")
        is_menu = tag == "div" and re.search("nav|toc|sidebar|related|footer|highlight", classes)
        if tag in self.SKIPPED or is_menu or (self._skipped and tag == self._skipped[-1]):
            self._skipped.append(tag)
        elif tag in self.BLOCKS:
            self._end()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if self._skipped and tag == self._skipped[-1]:
            self._skipped.pop()
        elif tag in self.BLOCKS:
            self._end()

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._parts.append(data)

    def _end(self) -> None:
        paragraph = joined("".join(self._parts)).replace("¶", "")
        if paragraph:
            self.paragraphs.append(paragraph)
        self._parts = []


def html_page(path: Path) -> Documents:
    """Headings and paragraphs of a page; also of Mallard pages."""
    parser = _Paragraphs(path.suffix == ".page")
    parser.feed(_text(path))
    parser.close()
    yield from in_pieces(parser.paragraphs)


def json_text(path: Path) -> Documents:
    """The member `text`, in paragraphs of its own; a file without it has no documents."""
    content = json.loads(_text(path))
    text = content.get("text", "") if isinstance(content, dict) else ""
    yield from in_pieces([joined(part) for part in re.split(r"\n+", text) if part.strip()])


def r_data(path: Path) -> Documents:
    """Character vectors in a lazy-load database of R: lines of a book, "" between paragraphs."""
    data = path.read_bytes()
    start = 0
    while start + 4 < len(data):
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(data[start + 4 :])  # after the length of the content
        start = len(data) - len(unpacker.unused_data)
        strings = [found.decode("utf-8", "replace") for found in _r_strings(content)]
        blocks = "\n".join(strings).split("\n\n")
        yield from in_pieces([joined(block) for block in blocks if block.strip()])


def _r_strings(content: bytes) -> Iterator[bytes]:
    """CHARSXP records of R's XDR serialization: flags, length, bytes."""
    header = re.compile(rb"\x00[\x00-\x0f]\x00\x09")
    place = content.find(b"\x00\x00\x00\x10")  # the first character vector
    match = header.search(content, place + 4)
    while match:
        size = int.from_bytes(content[match.end() : match.end() + 4], "big", signed=True)
        start = match.end() + 4
        yield content[start : start + max(size, 0)]
        match = header.match(content, start + max(size, 0))


def sword(path: Path) -> Documents:
    """A compressed Bible module of SWORD: blocks of zlib data, markup in OSIS.

    Each row of the index `.bzs` beside it has the place, packed size and size of a block.
    """
    index, data = path.with_suffix(".bzs").read_bytes(), path.read_bytes()
    for row in range(0, len(index), 12):
        place, size = (int.from_bytes(index[row + i : row + i + 4], "little") for i in (0, 4))
        text = zlib.decompress(data[place : place + size]).decode("utf-8", "replace")
        text = re.sub(r"(?s)<(note|title)\b.*?</\1>", " ", text)
        text = re.sub(r"<(lb|div|p|chapter)\b[^>]*/?>|</p>", "\n", text)
        lines = [joined(re.sub(r"<[^>]*>", "", line)) for line in text.split("\n")]
        yield from in_pieces([line for line in lines if line])


def chatterbot(path: Path) -> Documents:
    """Conversations in YAML: a list of lists of turns, one turn per line of the document."""
    turns: list[str] = []
    for line in _text(path).partition("conversations:")[2].splitlines():
        match = re.match(r"( *)-( +-)? +(.*)", line)
        if not match:
            continue
        if (match[2] or line.startswith("- -")) and turns:
            yield "\n".join(turns)
            turns = []
        turn = re.sub(r"^- ", "", match[3]).strip().strip("'\"")
        if turn:
            turns.append(turn)
    if turns:
        yield "\n".join(turns)


def fortunes(path: Path) -> Documents:
    """Sayings separated by lines of a single %."""
    for saying in _text(path).split("\n%\n"):
        blocks = re.split(r"\n\s*\n", saying)
        yield "\n\n".join(joined(block) for block in blocks if block.strip())


def dictionary(path: Path) -> Documents:
    """Entries of a dictd file, without references, etymologies and source marks."""
    text = re.sub(r"\[[^\]]{0,300}\]|\{|\}", "", _text(path))
    entries = re.split(r"\n(?=\S)", text)
    paragraphs = []
    for entry in entries:
        head, _, body = entry.partition("\n")
        if not body or head.startswith("00"):
            continue
        word = re.split(r"\s*[\\,]", head)[0].strip()
        parts = [joined(part) for part in re.split(r"\n\s*\n", body)]
        parts = [re.sub(r" *\\[^\\]*\\,?", "", part) for part in parts]
        paragraphs.append("\n".join([word, *(part for part in parts if len(part) > 20)]))
    yield from in_pieces(paragraphs)


def source_code(path: Path) -> Documents:
    """A Python file as it is, if it can be parsed, is of usual size, and is no test."""
    text = _text(path)
    if not 500 < len(text) < 60_000 or {"test", "tests"} & set(path.parts):
        return
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return
    yield text.rstrip()


READERS: dict[str, Callable[[Path], Documents]] = {
    "plain": plain,
    "html": html_page,
    "json_text": json_text,
    "r_data": r_data,
    "sword": sword,
    "chatterbot": chatterbot,
    "fortunes": fortunes,
    "dictionary": dictionary,
    "source_code": source_code,
}
