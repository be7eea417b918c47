"""Streams a reply to the screen while it is generated. Ctrl-C ends the reply, not the program."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from simplellm.app.answer import Answer
from simplellm.app.screen import Screen
from simplellm.app.session import Session
from simplellm.app.shading import ABOUT_INVALID, summary_of
from simplellm.app.typeahead import early_keys
from simplellm.inference.reply import Reply, StreamedToken

ECHO_CHARACTERS = 2000  # of a prompt shown again on a terminal
# Pieces that arrive within this time are written together: writing each one by itself would cost
# a small model a third of its speed.
FRAME_SECONDS = 0.02


def stream_reply(session: Session, screen: Screen, answer: Answer, is_live: bool) -> None:
    """Show an answer piece by piece and keep it as a turn, also when Ctrl-C interrupts it."""
    show = _show_tokens if session.shows_probabilities else _show_text
    pending: list[StreamedToken] = []
    shown_at = 0.0
    for note in answer.notes:
        screen.notice(note)
    with CtrlC() as ctrl_c:
        try:
            _show_before(session, screen, answer, is_live)
            for piece in _pieces(answer, ctrl_c):
                pending.append(piece)
                if (now := time.perf_counter()) - shown_at >= FRAME_SECONDS:
                    show(screen, pending)
                    pending = []
                    shown_at = now
        finally:
            if answer.reply.new_ids or ctrl_c.is_pressed:
                session.keep(answer)  # before writing, which fails if the terminal is closed
            show(screen, pending)
            screen.line()
        _show_summary(session, screen, answer, is_live)


class CtrlC:
    """Within the block, Ctrl-C sets a flag, so that it never interrupts a token or a write.

    raises: raise KeyboardInterrupt as well.
    """

    def __init__(self) -> None:
        self.is_pressed = False
        self.raises = False
        self._is_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> CtrlC:
        if self._is_main:
            self._handler = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_main:
            signal.signal(signal.SIGINT, self._handler)

    def _press(self, number: int, frame: FrameType | None) -> None:
        self.is_pressed = True
        early_keys.discard()
        if self.raises:
            raise KeyboardInterrupt


def _pieces(answer: Answer, ctrl_c: CtrlC) -> Iterator[StreamedToken]:
    """The pieces until Ctrl-C.

    Nothing is written before the first piece, so Ctrl-C may interrupt the computation there: the
    model may be reading a long prompt.
    """
    pieces = iter(answer)
    ctrl_c.raises = True
    try:
        piece = next(pieces, None)
    except KeyboardInterrupt:
        return
    finally:
        ctrl_c.raises = False
    while piece is not None:
        yield piece
        if ctrl_c.is_pressed:
            answer.reply.stop_reason = "interrupted"
            return
        piece = next(pieces, None)


def _show_before(session: Session, screen: Screen, answer: Answer, is_live: bool) -> None:
    """Show the text that the reply continues. In a pipe, /continue does not repeat it.

    In a chat a terminal shows who replies, and a pipe the reply alone.
    """
    if session.is_chat:
        if is_live:
            is_more = answer.kind == "extend"
            earlier = answer.turn.reply.rpartition("\n")[0] if is_more else ""
            screen.begin_reply(session.names.label(), earlier)
            screen.echo(answer.before if is_more else "")
    elif is_live:
        screen.echo(_shortened(answer.before))
    elif answer.kind != "extend":
        screen.echo(answer.before)


def _shortened(text: str) -> str:
    """The end of a very long prompt."""
    n_hidden = len(text) - ECHO_CHARACTERS
    return text if n_hidden <= 0 else f"[{n_hidden:,} characters before] {text[-ECHO_CHARACTERS:]}"


def _show_text(screen: Screen, pieces: list[StreamedToken]) -> None:
    screen.write("".join(piece.text for piece in pieces))


def _show_tokens(screen: Screen, pieces: list[StreamedToken]) -> None:
    with screen.together():
        for piece in pieces:
            screen.token(piece)


def _show_summary(session: Session, screen: Screen, answer: Answer, is_live: bool) -> None:
    reply = answer.reply
    summary = summary_of(answer.pieces) if session.shows_probabilities else ""
    if summary:
        screen.line(summary, "dim")
    if is_live:
        reason = reply.stop_reason
        hint = "; /continue continues it" if reason == "interrupted" else ""
        if session.is_chat:
            reason, hint = _in_words(reply)
        if "\ufffd" in reply.text and not summary:
            hint += f"; {ABOUT_INVALID}"
        ending = f", {reason}" if reason else ""
        screen.line(
            f"{len(reply.new_ids)} tokens, {reply.tokens_per_second:.0f} tokens/s, "
            f"seed {reply.seed}{ending}{hint}",
            "dim",
        )


def _in_words(reply: Reply) -> tuple[str, str]:
    """Why a reply of a chat ended, and what to do; nothing where the model ended it."""
    if reply.stop_reason == "end_of_text":
        return ("", "") if reply.text.strip() else ("the reply is empty", "")
    if reply.stop_reason == "length":
        return f"stopped after {len(reply.new_ids)} tokens", "; /continue continues it"
    hint = "; /continue continues it" if reply.stop_reason == "interrupted" else ""
    return reply.stop_reason, hint
