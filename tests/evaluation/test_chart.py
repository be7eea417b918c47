"""The loss chart is valid SVG for any losses and any name."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.evaluation.chart import BOTTOM, HEIGHT, WIDTH, loss_svg, means, ticks
from simplellm.evaluation.curves import LossCurves

points = st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 1e6)), max_size=8)


@settings(deadline=None)
@given(points, points, st.text(max_size=20))
def test_any_losses_and_any_name_give_a_valid_svg(train, validation, name):
    svg = loss_svg(LossCurves(sorted(train), sorted(validation)), name)
    root = ElementTree.fromstring(svg)
    assert root.attrib["viewBox"] == f"0 0 {WIDTH} {HEIGHT}" and "nan" not in svg
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        numbers = [float(number) for number in re.findall(r"\d+\.?\d*", path.attrib["d"])]
        assert all(0 <= number <= WIDTH for number in numbers)


def test_the_name_is_escaped():
    svg = loss_svg(LossCurves([(1, 2.0)], []), "<script>alert('x')</script>&\x1b")
    assert "<script" not in svg and "&lt;script&gt;" in svg and "\x1b" not in svg


def test_the_label_of_the_best_loss_is_above_the_axis():
    svg = loss_svg(LossCurves([(10, 5.0), (300, 4.5)], [(10, 4.5), (300, 4.25)]), "run")
    (height,) = re.findall(r'<circle class="best" cx="[\d.]+" cy="([\d.]+)"', svg)
    (label,) = re.findall(r'<text class="over" x="[\d.]+" y="([\d.]+)"', svg)
    assert float(height) < float(label) < HEIGHT - BOTTOM


def test_a_long_curve_is_drawn_faintly_below_its_mean():
    losses = [(step, 2.0 + step % 2) for step in range(1001)]
    svg = loss_svg(LossCurves(losses, []), "run")
    faint, mean = re.findall(r'<path class="train[^"]*" d="M([^"]*)"', svg)[:2]
    assert faint.count("L") == 1000 and 50 <= mean.count("L") < 100
    assert (
        means(losses, 100)[0] == (5, pytest.approx(2.5, abs=0.05))
        and means(losses[:3], 3) == losses[:3]
    )


def test_one_point_is_a_dot_and_a_long_name_is_shortened():
    svg = loss_svg(LossCurves([(1, 2.0)], []), "n" * 100)
    assert 'class="train dot"' in svg and "n" * 33 not in svg and "n" * 31 + "…" in svg


def test_the_best_is_marked_and_axes_are_labelled():
    svg = loss_svg(LossCurves([(10, 5.0), (20, 4.0)], [(10, 4.5), (20, 4.75)]), "run")
    assert svg.count("<circle") == 1 and "best 4.500 at step 10" in svg
    assert ">step</text>" in svg and "nats per token" in svg and "prefers-color-scheme: dark" in svg


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
