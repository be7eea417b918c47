"""Entry point of the command line: runs one command, reports errors, and sets the exit code.

torch is imported only after the arguments have been checked, so that `--help` and usage errors
answer at once.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from simplellm.app.blocked_signals import blocked_signals_end_the_program
from simplellm.app.console import discard_unwritable, is_broken_pipe
from simplellm.app.dumb_terminal import name_dumb_terminal
from simplellm.app.interrupt import SIGNALS
from simplellm.app.options import ChatOptions, Options, TextOptions
from simplellm.app.parser import parse
from simplellm.app.typeahead import keep_typeahead
from simplellm.config.environment import set_defaults
from simplellm.errors import SimpleLLMError, is_out_of_memory, out_of_memory
from simplellm.training.threads import adapted_to_load

FAILS_ALONE_SECONDS = 2.0  # torchrun ends the other processes as soon as one has failed
RESEND_SECONDS = 0.02
INTERRUPTED = 130  # 128 + the signal number, as in shells


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Errors are reported in one or two lines.

    Under torchrun only the first process writes. Another process reports an error only if the
    first one has not ended FAILS_ALONE_SECONDS later.
    """
    if not _is_secondary_process():
        return _main(argv)
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (closed by the block below)
    with nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        try:
            return _main(argv)
        except Exception:
            time.sleep(FAILS_ALONE_SECONDS)
            raise


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    name_dumb_terminal(os.environ)
    _accept_any_encoding()
    for number in SIGNALS:
        if number != signal.SIGINT:
            signal.signal(number, _terminate)
    sys.unraisablehook = _resend_signal
    try:
        return _run_and_flush(arguments)
    except SimpleLLMError as error:
        _report(error, arguments)
        return error.exit_code
    except SystemExit as end:  # a signal that arrived late
        return int(end.code or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        return _report_system_error(error, arguments)
    except (MemoryError, RuntimeError, ValueError) as error:
        if not is_out_of_memory(error):
            raise
        _report(out_of_memory(error), arguments)
        return 1


def _run_and_flush(arguments: list[str]) -> int:
    """Run a command and write what is buffered, so that a full disk is an error of the command."""
    try:
        code = _run(arguments)
    except SystemExit as end:  # --help, --version, or a signal
        code = int(end.code or 0)
    if code == 0 and sys.stdout is not None:  # None: closed by the caller
        sys.stdout.flush()
    discard_unwritable(sys.stdout)
    return code


def _run(arguments: list[str]) -> int:
    started_at = time.perf_counter()  # budgets count from here, so they include the torch import
    options = parse(arguments, started_at)
    set_defaults(os.environ)
    # Ctrl-C in a chat ends a reply, also one whose prompt takes long to read.
    ending = [n for n in SIGNALS if n != signal.SIGINT or not isinstance(options, ChatOptions)]
    # From here on, because the imports take seconds.
    with blocked_signals_end_the_program(ending), _typeahead(options):
        from simplellm.app.subcommands.dispatch import run_command

        with adapted_to_load():
            return run_command(options)


def _typeahead(options: Options) -> contextlib.AbstractContextManager[None]:
    """Keep keys that are typed while a command loads or trains for the chat prompt or the shell.

    Does nothing for commands that read standard input themselves.
    """
    is_chat = isinstance(options, ChatOptions)
    trains_on_files = isinstance(options, TextOptions) and not options.reads_stdin
    # a chat with piped output reads its lines from the terminal
    is_kept = sys.stdout.isatty() if is_chat else trains_on_files
    if not is_kept or _is_secondary_process():
        return contextlib.nullcontext()
    return keep_typeahead(sys.stdin, for_prompt=is_chat)


def _accept_any_encoding() -> None:
    """Let standard output and error write characters that their encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# ---------------------------------------------------------------- errors


def _report_system_error(error: OSError, arguments: list[str]) -> int:
    """Report an error of the operating system and return the exit code; a closed pipe is none."""
    discard_unwritable(sys.stdout)
    if is_broken_pipe(error):
        return 0
    where = f" at {error.filename}" if error.filename else ""
    fix = "name another place, or change its permissions" if error.errno == errno.EACCES else ""
    what = f"system error{where}: {error.strerror or error}"
    _report(SimpleLLMError(what, fix=fix), arguments)
    return 1


def _report(error: SimpleLLMError, arguments: list[str]) -> None:
    from simplellm.app.screen import Screen

    if _is_secondary_process():
        time.sleep(FAILS_ALONE_SECONDS)
    notices = sys.__stderr__ if _is_secondary_process() else sys.stderr
    with contextlib.suppress(OSError):  # stderr is closed: only the exit code reports the error
        Screen(color="--no-color" not in arguments, notices=notices).error(error)
    discard_unwritable(sys.stderr)


def _is_secondary_process() -> bool:
    """Whether torchrun started this process and it is not the first one."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


# ---------------------------------------------------------------- signals


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _resend_signal(unraisable: sys.UnraisableHookArgs) -> None:
    """Send a signal again that arrived in a finalizer, where Python ignores exceptions.

    Other exceptions are reported by Python's default hook.
    """
    error = unraisable.exc_value
    if isinstance(error, KeyboardInterrupt):
        number = int(signal.SIGINT)
    elif isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        number = error.code - 128
    else:
        sys.__unraisablehook__(unraisable)
        return
    again = threading.Timer(RESEND_SECONDS, _signal_main_thread, [number])
    again.daemon = True
    again.start()


def _signal_main_thread(number: int) -> None:
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)  # also ends a wait there
    else:
        signal.raise_signal(number)
