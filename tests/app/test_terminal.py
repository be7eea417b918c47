"""The chat on a real terminal: what a person sees, and what the keys do."""

from __future__ import annotations

import contextlib
import random
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from program import SIMPLELLM, environment
from terminal import Key, Terminal

LATE = 0.3  # seconds from Ctrl-C to the prompt, at most
OWN_SEQUENCE = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]|\r")
SEQUENCE_ENDS = re.compile(rb"\x1b\[[0-9;?]*([a-zA-Z])")
COLOR = re.compile(rb"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9;]*)?m")
Open = Callable[..., Terminal]


def command(folder: Path, *flags: str) -> list[str]:
    return [*SIMPLELLM, "chat", "--checkpoints", str(folder), "--run", "tiny", *flags]


@pytest.fixture
def open_chat(trained: Path, tmp_path: Path) -> Iterator[Open]:
    opened: list[Terminal] = []

    def open_chat(*flags: str, columns: int = 100, **env: str) -> Terminal:
        opened.append(
            Terminal(
                command(trained, *flags), environment(XDG_STATE_HOME=str(tmp_path), **env), columns
            )
        )
        opened[-1].ready()
        return opened[-1]

    yield open_chat
    for terminal in opened:
        terminal.close()


@pytest.fixture(scope="module")
def shell(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A shell with job control, at its prompt; `$CHAT` is the command."""
    if not shutil.which("bash"):
        pytest.skip("bash is missing: Ctrl-Z and the terminal modes are not tested")
    state = tmp_path_factory.mktemp("state")
    env = environment(
        PS1="$ ", CHAT=shlex.join(command(trained, "--top-k", "10")), XDG_STATE_HOME=str(state)
    )
    terminal = Terminal(["bash", "--norc", "--noprofile", "+o", "history"], env)
    terminal.ready("$ ")
    yield terminal
    terminal.close()


def modes(shell: Terminal) -> str:
    """What `stty` prints about the terminal of a shell."""
    shell.clear()
    shell.press("stty -a; echo code $?" + Key.ENTER)
    shell.see("code 0")
    shell.ready("$ ")
    return shell.text.partition("speed")[2]


@pytest.fixture(scope="module")
def first_modes(shell: Terminal) -> str:
    """The modes of the terminal before the first chat."""
    return modes(shell)


@pytest.fixture
def chat(shell: Terminal, first_modes: str) -> Terminal:
    """The chat in that shell, shared by all tests, with an empty prompt and an empty screen."""
    shell.resize(100)
    if shell.cursor_line == "$":
        shell.press("$CHAT" + Key.ENTER)
        shell.ready()
        shell.press("/tokens 100000" + Key.ENTER)
        shell.see("max_new_tokens 100000")
    shell.press(Key.CTRL_U)
    shell.ready()
    shell.clear()
    return shell


def plain(raw: bytes) -> str:
    return OWN_SEQUENCE.sub(b"", raw).decode("utf-8", "replace")


def letters(text: str) -> str:
    """`text` without the characters that wrapping changes."""
    return "".join(text.split())


def said(terminal: Terminal, prompt: str) -> str | None:
    """What was written after the prompt was sent and shown again, dim, if that is so."""
    _, echo, after = terminal.raw.rpartition(b"\x1b[2m" + prompt.encode())
    return plain(after) if echo else None


def set_length(terminal: Terminal, n_tokens: int) -> None:
    terminal.ready()
    terminal.press(f"/tokens {n_tokens}" + Key.ENTER)
    terminal.see(f"max_new_tokens {n_tokens}")
    terminal.ready()
    terminal.clear()


def begin_reply(terminal: Terminal, prompt: str, more: int = 1) -> None:
    """Send a prompt, and wait until the model has begun to answer."""
    terminal.clear()
    terminal.press(prompt)
    terminal.wait(lambda: letters(prompt) in letters(terminal.text))
    terminal.press(Key.ENTER)
    terminal.wait(
        lambda: (
            said(terminal, prompt) is not None
            and len(letters(said(terminal, prompt) or "")) >= more
        )
    )


def interrupt(terminal: Terminal) -> float:
    """Press Ctrl-C; seconds until the prompt is back."""
    terminal.press(Key.CTRL_C)
    return terminal.wait(
        lambda: "interrupted;" in letters(terminal.text) and terminal.cursor_line == ">"
    )


def test_a_conversation_with_keys(open_chat: Open) -> None:
    terminal = open_chat("--max-new-tokens", "100000", "--seed", "7")
    terminal.see("temp 0.8")  # the toolbar
    assert "/help" in terminal.text  # the welcome
    terminal.press("never sent" + Key.CTRL_C)  # clears the line
    begin_reply(terminal, "The judge", more=30)
    interrupt(terminal)  # ends the reply, not the program
    assert "seed 7, interrupted" in terminal.text and "tokens/s" in terminal.text
    assert "never sent" not in terminal.everything
    terminal.press(Key.CTRL_C)  # on an empty line it only gives a hint
    terminal.see("Ctrl-D quits, /help")
    terminal.ready()
    terminal.press("/help" + Key.ENTER)
    terminal.see("/penalty")
    terminal.ready()
    terminal.press(Key.CTRL_D)
    assert terminal.exit_code() == 0


@pytest.mark.parametrize("n", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_ctrl_c_at_random_moments_of_a_reply(
    chat: Terminal, n: int, capsys: pytest.CaptureFixture
) -> None:
    moments, late, lost = random.Random(n), 0, 0
    for _ in range(n):
        begin_reply(chat, "The judge", more=0)
        time.sleep(moments.uniform(0, 0.1))
        chat.settle(0)
        before = letters("The judge" + (said(chat, "The judge") or ""))
        late += interrupt(chat) > LATE
        lost += before not in letters(chat.everything)
    with capsys.disabled() if n == 100 else contextlib.nullcontext():
        sys.stdout.write(f"\n{n} interrupts: {late} late, {lost} lost\n")
    assert lost == 0
    assert late == 0 or n < 100  # a short reply may end first on a busy machine


def test_ctrl_z_stops_a_reply_and_fg_continues_it(chat: Terminal) -> None:
    begin_reply(chat, "The judge")
    chat.press(Key.CTRL_Z)
    chat.see("Stopped")
    chat.ready("$ ")
    shown = len(chat.raw)
    chat.press("fg" + Key.ENTER)
    chat.wait(lambda: len(chat.raw) > shown + 200)
    assert interrupt(chat) < 2
    chat.clear()
    chat.press("half a line")
    chat.see("half a line")
    chat.press(Key.CTRL_Z)  # at the prompt
    chat.see("Stopped")
    chat.ready("$ ")
    chat.press("fg" + Key.ENTER)
    chat.see("half a line")
    chat.wait(lambda: chat.cursor_line == "> half a line")
    chat.press(Key.CTRL_C)
    chat.ready()


def test_keys_typed_while_a_reply_streams_wait_for_the_prompt(chat: Terminal) -> None:
    set_length(chat, 2000)
    begin_reply(chat, "The judge")
    chat.press("/seed 12" + Key.ENTER)
    chat.see("2000 tokens")
    assert "/seed" not in chat.everything.partition("2000 tokens")[0]
    chat.see("seed 12")
    chat.press("/seed auto" + Key.ENTER)
    chat.see("seed auto\n")
    set_length(chat, 100_000)


def test_a_resize_duplicates_nothing(chat: Terminal) -> None:
    chat.press("typed")
    chat.see("> typed")
    for columns in (60, 120, 30, 100):
        chat.resize(columns)
        chat.wait(lambda: " tiny " in chat.text)
        chat.settle(0.1)
        assert chat.text.count("> typed") == 1 and chat.text.count(" tiny ") == 1
    chat.press(Key.CTRL_C)
    begin_reply(chat, "The judge")
    before = len(chat.raw)
    for columns in (60, 120, 30, 100):
        chat.resize(columns)
        chat.read(0.05)
    chat.settle(0)
    assert len(chat.raw) > before + 20 and set(SEQUENCE_ENDS.findall(chat.raw[before:])) <= {
        b"m"
    }  # terminals reflow only text
    interrupt(chat)
    assert chat.everything.count("tokens/s") == 1


def send_paste(terminal: Terminal, *lines: str) -> None:
    """Check that pasted lines are one message at the prompt, which was not sent, and send it."""
    terminal.see(lines[-1])
    terminal.settle(0.1)
    assert "tokens/s" not in terminal.text.partition("> ")[2] and lines[0] in terminal.text
    terminal.clear()
    terminal.press(Key.ENTER)
    terminal.see("3 tokens,")
    terminal.ready()
    assert terminal.everything.count("tokens/s") == 1
    assert terminal.everything.count(lines[1]) == 2  # typed, and shown again


@pytest.mark.parametrize("with_marks", [True, False])
def test_a_paste_of_many_lines_is_one_message(chat: Terminal, with_marks: bool) -> None:
    set_length(chat, 3)
    if with_marks:
        chat.wait(lambda: chat.marks_pastes)
        chat.paste("first\n/quit\r\nthird")
    else:
        chat.press("first\r/quit\rthird" + " word" * 300 + "\rthe end\r")
    send_paste(chat, "first", "/quit", "third" if with_marks else "the end")
    assert "/quit" in chat.everything  # shown before the reply, and not run
    set_length(chat, 100000)


@pytest.mark.parametrize("with_marks", [True, False])
def test_a_paste_while_a_reply_streams_is_one_message(chat: Terminal, with_marks: bool) -> None:
    set_length(chat, 2000)
    begin_reply(chat, "The judge")
    if with_marks:
        assert chat.marks_pastes
        chat.paste("/tokens 3\n/quit\nthird\n")
        chat.press(" line")
    else:
        chat.press("/tokens 3\r/quit\rthird line\r")
    chat.see("2000 tokens")
    chat.see("third")
    chat.settle(0.1)
    assert "max_new_tokens 3" not in chat.everything and "/quit" in chat.text
    chat.press(Key.CTRL_C)
    chat.ready()
    set_length(chat, 100_000)


def test_a_long_paste_while_a_reply_streams_is_complete(chat: Terminal) -> None:
    set_length(chat, 3000)
    begin_reply(chat, "The judge")
    chat.paste("The judge sat down.\n" * 10_000)
    chat.see("3000 tokens")
    chat.see("200,000 characters")
    assert chat.text.count(" characters]") == 1
    chat.press(Key.CTRL_C)
    chat.ready()
    set_length(chat, 100_000)


def test_a_paste_of_five_megabytes_is_answered(chat: Terminal) -> None:
    set_length(chat, 3)
    chat.paste("The judge sat down.\n" * 250_000)
    chat.wait(lambda: "5,000,000 characters" in chat.text)
    chat.press(Key.ENTER)
    chat.see("3 tokens,")
    assert "longer than the context" in chat.everything and len(chat.raw) < 50_000
    chat.ready()
    set_length(chat, 100000)


def test_wide_characters_wrap_and_keep_their_places(chat: Terminal) -> None:
    chat.resize(20)
    prompt = "한국어 문장입니다 그리고 더 긴 문장 日本語 \U0001f44d。"
    chat.press(prompt + Key.ENTER)
    # typed, and wrapped between words before the reply
    chat.wait(lambda: letters(chat.everything).count(letters(prompt)) == 2)
    interrupt(chat)
    assert letters(chat.everything).count(letters(prompt)) == 2


def test_joined_emoji_are_not_split(chat: Terminal) -> None:
    family = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
    prompt = f"{family} \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1f0\U0001f1f7"
    chat.clear()
    chat.press(prompt + " end" + Key.ENTER)
    dim = f"\x1b[2m{prompt}".encode()
    chat.wait(lambda: dim in chat.raw)  # before the reply
    interrupt(chat)
    assert chat.raw.count(dim) == 1


def test_slash_opens_a_menu_of_commands_with_help(chat: Terminal) -> None:
    chat.press("/to")
    chat.see("/tokenize")
    assert "maximum length of a reply" in chat.text  # of /tokens
    chat.press(Key.TAB + Key.ENTER)
    chat.see("max_new_tokens 100000")
    chat.ready()


def test_the_terminal_modes_are_restored(chat: Terminal, first_modes: str) -> None:
    begin_reply(chat, "The judge")
    interrupt(chat)
    chat.press("quit" + Key.ENTER)
    chat.ready("$ ")
    chat.press("echo left $?" + Key.ENTER)
    chat.see("left 0")
    chat.ready("$ ")
    assert "-icanon" not in first_modes and modes(chat) == first_modes


def test_history_is_kept_between_sessions(open_chat: Open) -> None:
    terminal = open_chat("--max-new-tokens", "3")
    for line in ("first one", "second one"):
        terminal.press(line + Key.ENTER)
        terminal.wait(
            lambda line=line: said(terminal, line) and "3 tokens," in str(said(terminal, line))
        )
        terminal.ready()
    terminal.press(Key.CTRL_D)
    assert terminal.exit_code() == 0
    again = open_chat("--max-new-tokens", "3", NO_COLOR="1")
    for line in ("> second one", "> first one"):
        again.press(Key.UP)
        again.see(line)
    again.press(Key.CTRL_C)
    again.ready()
    again.press(Key.CTRL_R)
    again.see("reverse-i-search")
    again.press("seco")
    again.see("second one")
    again.press(Key.ENTER + Key.ENTER)
    again.see("3 tokens,")
    again.ready()
    assert not COLOR.search(again.raw)
    again.press("quit" + Key.ENTER)
    assert again.exit_code() == 0


def test_a_narrow_dumb_terminal_is_readable(open_chat: Open) -> None:
    terminal = open_chat(columns=20, TERM="dumb")
    terminal.press("/tokens 30" + Key.ENTER)
    terminal.see("max_new_tokens 30")
    before = len(terminal.raw)
    terminal.press("The judge" + Key.ENTER)
    terminal.see("length")
    reply = terminal.raw[before:].decode("utf-8", "replace")
    assert "\x1b[3" not in reply and reply.count("tokens/s") == 1
    terminal.press("/quit" + Key.ENTER)
    assert terminal.exit_code() == 0
