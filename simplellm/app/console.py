"""Standard input and output of any encoding: legacy consoles, pipes, and closed streams."""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

from simplellm.app.sanitize import safe_json

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # Windows PowerShell writes it into files


def standard_input() -> BinaryIO | None:
    """The bytes of standard input; None if it is closed."""
    return getattr(sys.stdin, "buffer", None)


def input_lines() -> Iterator[str]:
    """Lines of standard input without their line ends."""
    stream = standard_input()
    if stream is None:  # closed, or replaced by a text stream in a test
        yield from (line.rstrip("\r\n") for line in sys.stdin or ())
        return
    for line in iter(stream.readline, b""):
        yield from decoded(line, sys.stdin.encoding).removesuffix("\n").split("\n")


def decoded(data: bytes, console_encoding: str | None) -> str:
    """Text from a pipe: UTF-8 if the bytes are valid UTF-8, else the encoding of the console.

    Most programs and files use UTF-8, while commands of the console (`echo`) use its encoding,
    such as cp949. Line ends become \\n, a byte order mark is skipped, and bytes that are valid in
    neither encoding become U+FFFD.
    """
    text = None
    for encoding in (
        ("utf-16",) if data.startswith(UTF_16) else ("utf-8-sig", console_encoding or "utf-8")
    ):
        with contextlib.suppress(UnicodeError, LookupError):
            text = data.decode(encoding)
            break
    text = data.decode("utf-8-sig", "replace") if text is None else text
    return text.replace("\r\n", "\n").replace("\r", "\n")


def write_json(value: Any) -> None:
    """One JSON document to standard output, in ASCII if its encoding lacks a character."""
    if sys.stdout is None:
        return
    document = safe_json(json.dumps(value, ensure_ascii=False, allow_nan=False))
    try:
        document.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        document = json.dumps(value, allow_nan=False)
    sys.stdout.write(document + "\n")
    sys.stdout.flush()


def is_broken_pipe(error: OSError) -> bool:
    """Whether the reader of the output has closed it, as with `| head -1`.

    Windows reports EINVAL without a file name then.
    """
    is_nameless = error.errno == errno.EINVAL and error.filename is None
    return isinstance(error, BrokenPipeError) or (os.name == "nt" and is_nameless)


def discard_unwritable(stream: TextIO | None) -> None:
    """Write what `stream` has buffered; discard it where that fails.

    Otherwise the interpreter would try again at its end, print a warning and exit with code 120.
    """
    if stream is None:  # closed by the caller
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
