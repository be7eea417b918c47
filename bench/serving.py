"""Measures our HTTP server under load, and those of llama.cpp and `transformers`, on loopback.

    python bench/serving.py MODEL.gguf --rounds 3 --seconds 6

Needs the extras `serve`, `hub`, `export` and `interop`, and `transformers[serving]`. Every server
is started once, with the same weights, and is stopped (SIGSTOP) while another one is measured. In
each round every server has a turn with each number of clients. A client sends its next request when
the reply to its last one has ended. Requests are streamed `/v1/completions` with prompts of about
40 tokens that all differ, temperature 0.8, top-p 0.95, top-k 50, a seed and at most 48 tokens.

- tokens/s: tokens that arrive at all clients during a turn. The number of tokens of a reply is that
  of its usage event, divided evenly among its events with text. Replies that run at the end of the
  turn are read to their end, which the figure leaves out.
- first token: seconds from sending a request to its first event with text.

All clients are threads of this process, which does nothing else during a turn and reads the events
after it. Its share of the processors is measured too. Run it on an otherwise quiet machine.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import math
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NEW_TOKENS = 48
SLOTS = 16
START_SECONDS = 120.0
WORDS = """
    river stone light winter garden letter morning window silver forest music engine harbour
    teacher market bridge summer island number paper mountain kitchen doctor story village
    horse travel yellow question answer memory science picture ocean captain history
"""
LLAMA_CPP = """
import signal, sys
import xllamacpp
path, threads, slots, port = sys.argv[1], *map(int, sys.argv[2:])
params = xllamacpp.CommonParams()
params.model.path = path
params.hostnames, params.port = ["127.0.0.1"], port
params.n_ctx, params.n_parallel = 256 * slots, slots
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(params)
signal.pause()
"""


@dataclass(frozen=True)
class Reply:
    """A reply as it arrived: instants of `time.perf_counter()`, and its number of tokens."""

    sent_at: float
    text_at: tuple[float, ...]  # of each event with text
    tokens: int

    @property
    def first_token_seconds(self) -> float | None:
        """None for a reply without text: its first token was the end of the text."""
        return self.text_at[0] - self.sent_at if self.text_at else None


@dataclass(frozen=True)
class Turn:
    """Figures of a server during one turn with a number of clients."""

    server: str
    clients: int
    tokens_per_second: float
    first_token_seconds: tuple[float, ...] = field(repr=False)
    client_processor_share: float  # processor seconds of this process per second


@dataclass(frozen=True)
class Figures:
    """Figures of a server with a number of clients, over all rounds."""

    server: str
    clients: int
    tokens_per_second: float  # median of the rounds
    tokens_per_second_rounds: tuple[float, ...]
    first_token_p50: float  # seconds, of all requests
    first_token_p95: float
    requests: int
    client_processor_share: float


def quantile(values: Sequence[float], share: float) -> float:
    """The value at `share` (0 to 1) of the sorted values, interpolated; NaN without any."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def tokens_between(replies: Sequence[Reply], start: float, end: float) -> float:
    """Tokens that arrived from `start` until `end`: of each reply the share of its events."""
    return sum(
        reply.tokens * sum(start <= at < end for at in reply.text_at) / len(reply.text_at)
        for reply in replies
        if reply.text_at
    )


def read_reply(sent_at: float, lines: Sequence[tuple[float, bytes]]) -> Reply:
    """`lines`: the lines of the event stream, with the instant at which each one arrived."""
    text_at, tokens = [], None
    for arrived_at, line in lines:
        if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
            continue
        event = json.loads(line[len(b"data: ") :])
        if "error" in event:
            raise SystemExit(f"an error in a stream: {event['error']}")
        if any(choice.get("text") for choice in event["choices"]):
            text_at.append(arrived_at)
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
    if tokens is None:
        raise SystemExit("a stream ended without its usage")
    return Reply(sent_at, tuple(text_at), tokens)


def figures(turns: Sequence[Turn]) -> list[Figures]:
    """One for each server and number of clients, in the order of the first turns."""
    groups: dict[tuple[str, int], list[Turn]] = {}
    for turn in turns:
        groups.setdefault((turn.server, turn.clients), []).append(turn)
    result = []
    for (server, clients), group in groups.items():
        speeds = tuple(turn.tokens_per_second for turn in group)
        firsts = [seconds for turn in group for seconds in turn.first_token_seconds]
        result.append(
            Figures(
                server, clients, statistics.median(speeds), speeds,
                quantile(firsts, 0.5), quantile(firsts, 0.95), len(firsts),
                statistics.median(turn.client_processor_share for turn in group),
            )
        )  # fmt: skip
    return result


def table(rows: Sequence[Figures]) -> str:
    """A Markdown table; the ratio is that to one client of the same server."""
    alone = {row.server: row.tokens_per_second for row in rows if row.clients == 1}
    lines = [
        "| server | clients | tokens/s | ratio to 1 client | first token p50 | p95 |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        one = alone.get(row.server)
        ratio = f"{row.tokens_per_second / one:.2f}" if one else ""
        lines.append(
            f"| {row.server} | {row.clients} | {row.tokens_per_second:.1f} | {ratio} "
            f"| {row.first_token_p50 * 1000:,.0f} ms | {row.first_token_p95 * 1000:,.0f} ms |"
        )
    return "\n".join(lines)


def prompts(seed: int) -> Iterator[str]:
    """Prompts of about 40 tokens, all different from the first word on where possible."""
    draw = random.Random(seed)
    while True:
        yield " ".join(draw.choices(WORDS.split(), k=36)).capitalize() + ". The"


class Server:
    """A server that was started, and stands still outside of its context."""

    def __init__(
        self, name: str, command: Sequence[str], port: int, log: Path, threads: int, **more: Any
    ) -> None:
        self.name, self.port = name, port
        self.body = {
            "max_tokens": NEW_TOKENS, "temperature": 0.8, "top_p": 0.95,
            "stream": True, "stream_options": {"include_usage": True}, **more,
        }  # fmt: skip
        offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        env = {**os.environ, **offline, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=env
            )
        self._log = log

    def wait_until_ready(self) -> None:
        give_up_at = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up_at and self._process.poll() is None:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        raise SystemExit(f"{self.name} did not start:\n{self._log.read_text('utf-8', 'replace')}")

    def __enter__(self) -> Server:
        self._process.send_signal(signal.SIGCONT)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def ask(server: Server, prompt: str, seed: int) -> tuple[float, list[tuple[float, bytes]]]:
    """Sends one request; returns when it was sent, and the lines of the stream."""
    body = json.dumps({**server.body, "prompt": prompt, "seed": seed})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=START_SECONDS)
    sent_at = time.perf_counter()
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"{server.name} answered {response.status}: {response.read()!r}")
    lines = [(time.perf_counter(), line) for line in iter(response.readline, b"")]
    connection.close()
    return sent_at, lines


def take_turn(server: Server, clients: int, seconds: float, seeds: Iterator[int]) -> Turn:
    answers: list[tuple[float, list[tuple[float, bytes]]]] = []
    failures: list[BaseException] = []
    start = time.perf_counter()
    processor = time.process_time()

    def client(seed: int) -> None:
        try:
            for number, prompt in enumerate(prompts(seed)):
                if time.perf_counter() >= start + seconds:
                    return
                answers.append(ask(server, prompt, number))
        except BaseException as failure:  # of a thread: it is raised below
            failures.append(failure)

    threads = [threading.Thread(target=client, args=(next(seeds),)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    share = (time.process_time() - processor) / (time.perf_counter() - start)
    replies = [read_reply(sent_at, lines) for sent_at, lines in answers]
    firsts = [reply.first_token_seconds for reply in replies]
    return Turn(
        server.name, clients, tokens_between(replies, start, start + seconds) / seconds,
        tuple(first for first in firsts if first is not None), share,
    )  # fmt: skip


def export(model: Path, *arguments: str) -> None:
    command = [sys.executable, str(ROOT / "main.py"), "export", "--run", str(model), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def commands(model: Path, folder: Path, threads: int) -> dict[str, list[str]]:
    """The command of each server; the port is still missing at its end."""
    q8_0, exported = folder / "model-q8_0.gguf", folder / "model"
    export(model, "--format", "gguf", "--type", "q8_0", "--out", str(q8_0))
    export(model, "--format", "hf", "--out", str(exported))
    ours = [sys.executable, str(ROOT / "main.py"), "serve", "--run", str(model)]
    theirs = ["transformers", "serve", str(exported), "--device", "cpu", "--host", "127.0.0.1"]
    # without a number of blocks, its cache takes most of the memory of the machine
    batching = ["--continuous-batching", "--cb-num-blocks", "256"]
    return {
        "simplellm int8": [*ours, "--quantize", "int8", "--port"],
        "llama.cpp Q8_0": [
            sys.executable, "-c", LLAMA_CPP, str(q8_0), str(threads), str(SLOTS)
        ],
        "simplellm float32": [*ours, "--port"],
        "transformers float32": [*theirs, "--port"],
        "transformers float32, batching": [*theirs, *batching, "--port"],
    }  # fmt: skip


def start_servers(options: argparse.Namespace, folder: Path, stack: ExitStack) -> list[Server]:
    servers = []
    for name, command in commands(options.model, folder, options.threads).items():
        if name not in options.servers:
            continue
        port = free_port()
        more = {} if "transformers" in name else {"top_k": 50}  # its default; not a parameter there
        more |= {"min_p": 0} if "llama" in name else {}
        log = folder / f"{port}.log"
        server = Server(name, [*command, str(port)], port, log, options.threads, **more)
        stack.callback(server.close)
        server.wait_until_ready()
        with server:
            take_turn(server, 2, 0.1, itertools.count(10**6))  # the first requests allocate
        servers.append(server)
    return servers


NAMES = (
    "simplellm int8",
    "llama.cpp Q8_0",
    "simplellm float32",
    "transformers float32",
    "transformers float32, batching",
)


def report(turns: Sequence[Turn], rounds: int, path: Path | None) -> None:
    """After each round, so that a measurement that is ended early has figures too."""
    rows = sorted(figures(turns), key=lambda row: (NAMES.index(row.server), row.clients))
    print(f"after {rounds} rounds\n\n{table(rows)}\n", flush=True)
    if path:
        path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a turn")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--servers", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended
    seeds = itertools.count()
    turns = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = start_servers(options, Path(folder), stack)
        for round_number in range(1, options.rounds + 1):
            for clients, server in itertools.product(options.clients, servers):
                with server:
                    turns.append(take_turn(server, clients, options.seconds, seeds))
                print(turns[-1], file=sys.stderr, flush=True)
            report(turns, round_number, options.json)


if __name__ == "__main__":
    main()
