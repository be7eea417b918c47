"""Stop sequences: texts that end a reply and are not part of it."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Passes streamed text on up to the first stop sequence.

    The result does not depend on how the text is divided into chunks.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.has_stopped = False
        self._stops = stops
        self._held = ""  # a suffix of the text that may become a stop sequence

    def push(self, text: str) -> str:
        """The text that can be shown now; a suffix that may become a stop sequence is held back."""
        shown = ""
        for character in text if self._stops and not self.has_stopped else "":
            shown += self._push_character(character)
            if self.has_stopped:
                break
        return shown if self._stops else text

    def finish(self) -> str:
        """The text that was held back; call it after the last `push`."""
        held, self._held = self._held, ""
        return held

    def _push_character(self, character: str) -> str:
        """`push` of one character, so that the stop sequence that is complete first is found."""
        self._held += character
        complete = [len(stop) for stop in self._stops if self._held.endswith(stop)]
        if complete:
            shown, self._held = self._held[: -max(complete)], ""
            self.has_stopped = True
            return shown
        cut = len(self._held) - max(_overlap(self._held, stop) for stop in self._stops)
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a prefix of `stop`."""
    return next((n for n in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:n])), 0)
