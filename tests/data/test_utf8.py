"""UTF-8 of strings with lone surrogates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from simplellm.data.utf8 import encodable, utf8_length

any_text = st.text(st.characters(), max_size=20) | st.sampled_from(["a\udc80", "\ud800한"])


@given(any_text)
def test_any_string_becomes_encodable_without_a_change_of_length(text: str) -> None:
    assert len(encodable(text)) == len(text)
    assert len(encodable(text).encode()) == utf8_length(text)


def test_only_lone_surrogates_are_replaced() -> None:
    assert encodable("a\udc80한\ud800") == "a?한?"
