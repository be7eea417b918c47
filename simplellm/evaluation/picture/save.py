"""Saving a picture: as SVG, as a web page, or as PNG, by the suffix of the file name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from simplellm.errors import SettingError, SimpleLLMError
from simplellm.evaluation.picture.svg import xml_text
from simplellm.storage.files import replace_file

SUFFIXES = (".svg", ".html", ".png")
PNG_ZOOM = 2  # pixels of a PNG for each one of the SVG: 1920 across fill a slide
PAGE = """<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" lang="en">
<head><meta charset="utf-8"/><title>{title}</title>
<meta name="viewport" content="width=device-width"/>
<style>body{{margin:0}} svg{{display:block;max-width:100%;height:auto;margin:0 auto}}
@media (prefers-color-scheme: dark){{body{{background:#16181d}}}}</style></head>
<body>
{svg}</body>
</html>
"""


def check_picture_path(path: Path) -> None:
    """Raise SettingError unless a picture can be saved there: called before long computations."""
    if path.suffix.lower() not in SUFFIXES:
        raise SettingError(
            f"a picture is a file that ends in {', '.join(SUFFIXES)}, got {str(path)!r}",
            fix=f"name it {path.stem or 'picture'}.svg",
        )
    if os.path.lexists(path):
        raise SettingError(f"{path} exists already", fix="name another file, or delete this one")
    if not path.parent.is_dir():
        raise SettingError(f"there is no folder {path.parent}", fix="make it, or name another one")
    if path.suffix.lower() == ".png":
        _png_writer()


def save_picture(path: Path, svg: str, title: str) -> None:
    """`write_picture` to a new file; SettingError as from `check_picture_path`."""
    check_picture_path(path)
    write_picture(path, svg, title)


def write_picture(path: Path, svg: str, title: str) -> None:
    """Write or replace a picture atomically, in the format of the suffix of `path`.

    SimpleLLMError if the system refuses.
    """
    suffix = path.suffix.lower()
    data = as_png(svg) if suffix == ".png" else _as_text(svg, title, suffix).encode()
    try:
        replace_file(path, data)
    except OSError as error:
        raise SimpleLLMError(
            f"cannot write {path}: {error.strerror or error}", fix="name another folder"
        ) from error


def as_png(svg: str) -> bytes:
    """The picture for a light page. SettingError without the package that draws it."""
    resvg = _png_writer()
    return bytes(resvg.svg_to_bytes(svg_string=svg, zoom=PNG_ZOOM, background="#ffffff"))


def _as_text(svg: str, title: str, suffix: str) -> str:
    return svg if suffix == ".svg" else PAGE.format(title=xml_text(title), svg=svg)


def _png_writer() -> Any:
    """The module that draws PNGs."""
    try:
        import resvg_py
    except ImportError as error:
        raise SettingError(
            "a PNG needs the package resvg-py", fix='pip install "simplellm[pictures]"'
        ) from error
    return resvg_py
