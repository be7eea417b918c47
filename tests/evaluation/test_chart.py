"""The charts are valid SVG for any losses and any name."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.evaluation.chart import loss_svg, means, range_test_svg
from simplellm.evaluation.curves import LossCurves
from simplellm.evaluation.picture.axes import BOTTOM, HEIGHT, LEFT, TOP, axis_start, frame_of, ticks
from simplellm.evaluation.picture.svg import COLORS, WIDTH

points = st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 1e6)), max_size=8)
FIRST, SECOND = COLORS["first"][0], COLORS["second"][0]


def curves_of(svg: str, color: str) -> list[str]:
    """The data of the paths of a colour, without the sample in the legend."""
    return re.findall(rf'<path [^>]*stroke="{color}" stroke-width="2"[^>]* d="M([^"]*)"', svg)


@settings(deadline=None)
@given(points, points, st.text(max_size=20))
def test_any_losses_and_any_name_give_a_valid_svg(train, validation, name):
    svg = loss_svg(LossCurves(sorted(train), sorted(validation)), name)
    root = ElementTree.fromstring(svg)
    assert root.attrib["viewBox"] == f"0 0 {WIDTH} {HEIGHT}" and "nan" not in svg
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", path.attrib["d"])]
        assert all(0 <= number <= WIDTH for number in numbers)


def test_the_whole_curve_is_visible():
    losses = [(1, 9.0), (2, 6.0), *((step, 3.0) for step in range(3, 100))]
    (data,) = curves_of(loss_svg(LossCurves(losses, []), "run"), FIRST)
    heights = [float(pair.split()[1]) for pair in data.split("L")]
    assert TOP < heights[0] < heights[1] < heights[2] < HEIGHT - BOTTOM


def test_an_axis_begins_at_zero_only_near_zero():
    assert axis_start(0.5, 6.0) == 0 and axis_start(3.0, 6.0) == 3.0
    assert axis_start(1, 100) == 0 and axis_start(400, 500) == 400
    assert frame_of([(1, 3.0), (100, 6.0)]).y.low > 1 and frame_of([(1, 0.1), (9, 6.0)]).y.low == 0


def test_sizes_and_fonts_are_attributes_that_every_renderer_reads():
    svg = loss_svg(LossCurves([(1, 2.0), (2, 1.0)], [(1, 2.0)]), "run")
    root = ElementTree.fromstring(svg)
    texts = list(root.iter("{http://www.w3.org/2000/svg}text"))
    assert texts and all(
        float(text.attrib["font-size"]) >= 12
        and text.attrib["font-family"].endswith("sans-serif")
        and text.attrib["fill"].startswith("#")
        for text in texts
    )
    assert root.attrib["width"] == str(WIDTH) and "paint-order" not in svg
    assert "font" not in re.findall("<style>(.*)</style>", svg)[0]


def test_the_name_is_escaped():
    svg = loss_svg(LossCurves([(1, 2.0)], []), "<script>alert('x')</script>&\x1b")
    assert "<script" not in svg and "&lt;script&gt;" in svg and "\x1b" not in svg


def test_the_label_of_the_best_loss_is_above_the_axis():
    svg = loss_svg(LossCurves([(10, 5.0), (300, 4.5)], [(10, 4.5), (300, 4.25)]), "run")
    (height,) = re.findall(r'<circle [^>]*cy="([\d.]+)"', svg)
    labels = re.findall(r'<text [^>]*y="([\d.]+)"[^>]*>best', svg)
    assert len(labels) == 2 and len(set(labels)) == 1, "its outline and itself"
    assert float(height) < float(labels[0]) < HEIGHT - BOTTOM


@pytest.mark.parametrize("loss", [6.696830378638373, 1e25, 123456.7, 1e-9, 0.0, -2.0])
def test_labels_of_the_loss_axis_are_short_and_differ(loss):
    svg = loss_svg(LossCurves([(5, loss)], [(5, loss), (6, loss)]), "run")
    labels = re.findall(r'text-anchor="end"[^>]*>([^<]*)<', svg)
    labels = [label for label in labels if re.fullmatch(r"[\d.,e+-]+", label)]
    assert labels and len(set(labels)) == len(labels) and max(map(len, labels)) <= 7


def test_a_long_curve_is_drawn_faintly_below_its_mean():
    losses = [(step, 2.0 + step % 2) for step in range(1001)]
    faint, mean = curves_of(loss_svg(LossCurves(losses, []), "run"), FIRST)
    assert faint.count("L") == 1000 and 50 <= mean.count("L") < 100
    assert (
        means(losses, 100)[0] == (5, pytest.approx(2.5, abs=0.05))
        and means(losses[:3], 3) == losses[:3]
    )


def test_one_point_is_a_dot_and_a_long_name_is_shortened():
    svg = loss_svg(LossCurves([(1, 2.0)], []), "n" * 100)
    assert svg.count("<circle") == 1 and "n" * 33 not in svg and "n" * 31 + "…" in svg


def test_the_best_is_marked_and_axes_are_labelled():
    svg = loss_svg(LossCurves([(10, 5.0), (20, 4.0)], [(10, 4.5), (20, 4.75)]), "run")
    assert svg.count("<circle") == 1 and "best 4.500 at step 10" in svg
    assert ">step</text>" in svg and "nats per token, lower is better" in svg
    assert "prefers-color-scheme: dark" in svg


def test_the_range_test_has_a_logarithmic_axis_and_names_both_optimizers():
    rates = [1e-5, 1e-4, 1e-3, 1e-2]
    svg = range_test_svg(rates, [7.0, 6.9, 6.0, 5.5], 1e-3, 10.0)
    ElementTree.fromstring(svg)
    (data,) = curves_of(svg, FIRST)
    places = [float(pair.split()[0]) for pair in data.split("L")]
    steps = [right - left for left, right in zip(places, places[1:], strict=False)]
    assert places[0] == LEFT and max(steps) - min(steps) < 1
    assert "suggested: 0.001, Muon 0.01" in svg and "AdamW" in svg and "10 times as high" in svg
    assert "Muon" not in range_test_svg(rates, [7.0, 6.9, 6.0, 5.5], 1e-3, None)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 40, [0, 10, 20, 30, 40]),
        (4.9, 6.1, [5.0, 5.2, 5.4, 5.6, 5.8, 6.0]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_ticks_are_round_numbers_within_the_range(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)
