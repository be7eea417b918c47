"""From a result of a command to a picture, and to a file."""

from __future__ import annotations

from pathlib import Path

from simplellm.app.pictures.bars import bars_svg
from simplellm.app.pictures.columns import columns_svg
from simplellm.app.pictures.matrix import matrix_svg
from simplellm.app.pictures.tokens import tokens_svg
from simplellm.app.results import Bars, Columns, Drawable, Matrix
from simplellm.evaluation.picture.save import save_picture


def picture(shown: Drawable) -> str:
    """The result as a self-contained SVG."""
    if isinstance(shown, Bars):
        return bars_svg(shown)
    if isinstance(shown, Columns):
        return columns_svg(shown)
    return matrix_svg(shown) if isinstance(shown, Matrix) else tokens_svg(shown)


def save(shown: Drawable, path: Path) -> None:
    """Save the picture of a result; the errors are those of `save_picture`."""
    save_picture(path, picture(shown), shown.title)
