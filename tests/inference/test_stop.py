"""Stop sequences in streamed text."""

from __future__ import annotations

from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.inference.stop import StopFilter


def filtered(chunks: list[str], stops: list[str]) -> str:
    stop_filter = StopFilter(stops)
    shown = "".join(stop_filter.push(chunk) for chunk in chunks if not stop_filter.has_stopped)
    return shown + stop_filter.finish()


@settings(deadline=None, max_examples=examples(300))
@given(
    st.lists(st.text("ab<", max_size=4), max_size=8),
    st.lists(st.text("ab<", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_no_stop_sequence_is_shown_for_any_chunks(chunks, stops):
    shown = filtered(chunks, stops)
    assert "".join(chunks).startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert shown == "".join(chunks) or any(
        "".join(chunks).startswith(shown + stop) for stop in stops
    )
    assert shown == filtered(list("".join(chunks)), stops)
