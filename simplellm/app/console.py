"""Standard input and output of any encoding: legacy consoles, pipes, and streams that are closed."""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from simplellm.app.sanitize import safe_json

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as Windows PowerShell writes it into files


def standard_input() -> BinaryIO | None:
    """The bytes of standard input; None where it is closed."""
    return getattr(sys.stdin, "buffer", None)


def input_lines() -> Iterator[str]:
    """Lines of standard input without their ends."""
    stream = standard_input()
    if stream is None:  # closed, or text that a test put there
        yield from (line.rstrip("\r\n") for line in sys.stdin or ())
        return
    for line in iter(stream.readline, b""):
        yield from decoded(line, sys.stdin.encoding).removesuffix("\n").split("\n")


def decoded(data: bytes, console_encoding: str | None) -> str:
    """Text from a pipe: UTF-8 where the bytes are that, else in the encoding of the console, such as cp949.

    Programs and files mostly have UTF-8, while the console's own commands (`echo`) have its encoding. Line ends become
    \\n, a byte order mark is skipped, and what is in neither encoding becomes U+FFFD.
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
    """One JSON document to standard output, in ASCII where its encoding has not every character of it."""
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
    """Whether the reader of our output has gone, as with `| head -1`; Windows says EINVAL then, and names no file."""
    is_nameless = error.errno == errno.EINVAL and error.filename is None
    return isinstance(error, BrokenPipeError) or (os.name == "nt" and is_nameless)
