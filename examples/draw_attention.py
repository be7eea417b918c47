"""Draw the attention weights of one head, as a text table and as an SVG picture.

Teaches: what an attention matrix is. Row by row: how much a token looks at each token before it
(and at itself); each row adds up to 100%.

    python examples/draw_attention.py                              # a tiny new model
    python examples/draw_attention.py RUN "The judge sat up." 2 1  # run, text, layer, head
"""

from __future__ import annotations

import html
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tiny_model import open_or_train
from torch import Tensor

import simplellm
from simplellm.evaluation.analyze import attention

TEXT = "The judge put on the lamp. The judge"
PICTURE = Path("attention.svg")
CELL, MARGIN = 28, 90  # pixels


def attention_matrix(model: simplellm.Model, ids: Sequence[int], layer: int, head: int) -> Tensor:
    """(T, T): row i has the weights of token i; zero for the tokens after it."""
    rows = torch.zeros(len(ids), len(ids))
    for i in range(len(ids)):
        weights = attention(model.network, ids[: i + 1])  # of the last token: (L, H, i + 1)
        rows[i, : i + 1] = weights[layer, head]
    return rows


def text_table(names: Sequence[str], matrix: Tensor) -> str:
    """The weights in percent; a dot where a token cannot look."""
    width = max(map(len, names))
    lines = [" " * width + "".join(f"{number:>5}" for number in range(1, len(names) + 1))]
    for i, name in enumerate(names):
        cells = [f"{share:>5.0%}" if j <= i else "    ." for j, share in enumerate(matrix[i])]
        lines.append(f"{name:<{width}}{''.join(cells)}")
    return "\n".join(lines)


def svg(names: Sequence[str], matrix: Tensor) -> str:
    """The weights as squares, the darker the larger."""
    size = MARGIN + CELL * len(names)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" ']
    parts.append(
        'font-family="monospace" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    )
    for i, name in enumerate(names):
        place, label = MARGIN + CELL * i, html.escape(name)
        middle = place + CELL // 2 + 4
        parts.append(f'<text x="{MARGIN - 6}" y="{middle}" text-anchor="end">{label}</text>')
        parts.append(
            f'<text transform="translate({middle},{MARGIN - 6}) rotate(-90)">{label}</text>'
        )
        for j in range(i + 1):
            x, share = MARGIN + CELL * j, float(matrix[i, j])
            square = f'x="{x}" y="{place}" width="{CELL}" height="{CELL}" stroke="#ddd"'
            title = f"<title>{share:.1%}</title>"
            parts.append(f'<rect {square} fill="#1f4e8c" fill-opacity="{share:.3f}">{title}</rect>')
    return "\n".join([*parts, "</svg>"])


def main(arguments: list[str]) -> None:
    model = open_or_train(arguments[0] if arguments else None)
    ids = model.tokenizer.encode(arguments[1] if len(arguments) > 1 else TEXT)
    layer, head = (int(number) for number in arguments[2:4]) if len(arguments) > 3 else (1, 1)
    matrix = attention_matrix(model, ids, layer - 1, head - 1)
    names = [repr(model.tokenizer.decode([token]))[1:-1] for token in ids]
    print(f"layer {layer}, head {head}: attention of each token (row) to each token (column)\n")
    print(text_table(names, matrix))
    PICTURE.write_text(svg(names, matrix), encoding="utf-8")
    print(f"\nthe same as a picture: {PICTURE}")


if __name__ == "__main__":
    main(sys.argv[1:])
