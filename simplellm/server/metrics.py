"""Counts of a server as Prometheus reads them. They contain no texts, names or keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from simplellm.inference.engine.limits import Statistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # upper limits of a histogram
GAUGES = {
    "running": "replies that are computed now",
    "waiting": "requests that wait for a place",
    "kv_bytes": "memory reserved for running replies",
    "prefix_cache_bytes": "memory of stored prompts",
}
COUNTERS = {
    "requests": "replies that were started",
    "prompt_tokens": "tokens of their prompts",
    "cached_tokens": "tokens of prompts that were not computed again",
    "generated_tokens": "tokens of replies",
    "steps": "forward passes",
}


@dataclass
class Histogram:
    """Numbers of durations up to each limit of SECONDS, and their sum."""

    counts: Counter[float] = field(default_factory=Counter)
    total: float = 0.0
    n: int = 0

    def add(self, seconds: float) -> None:
        self.n += 1
        self.total += seconds
        for limit in SECONDS:
            if seconds <= limit:
                self.counts[limit] += 1


@dataclass
class Metrics:
    """Answers by path and status, their durations, and open connections."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    first_byte: Histogram = field(default_factory=Histogram)
    whole: Histogram = field(default_factory=Histogram)

    def text(self, statistics: Statistics, uptime_seconds: float) -> str:
        """All counts in Prometheus's text format."""
        return "\n".join(self._lines(statistics, uptime_seconds)) + "\n"

    def _lines(self, statistics: Statistics, uptime_seconds: float) -> Iterator[str]:
        for name, help in GAUGES.items():
            yield from _metric(name, "gauge", help, [("", getattr(statistics, name))])
        for name, help in COUNTERS.items():
            rows = [("", getattr(statistics, name))]
            yield from _metric(f"{name}_total", "counter", help, rows)
        yield from _metric("uptime_seconds", "gauge", "since the start", [("", uptime_seconds)])
        answers = [
            (f'{{path="{path}",status="{status}"}}', count)
            for (path, status), count in sorted(self.answers.items())
        ]
        yield from _metric("http_responses_total", "counter", "answers by status", answers)
        first = "seconds until the first byte of an answer"
        yield from _histogram("http_first_byte_seconds", first, self.first_byte)
        yield from _histogram("http_response_seconds", "seconds of a whole answer", self.whole)


def _metric(name: str, kind: str, help: str, rows: Sequence[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP simplellm_{name} {help}"
    yield f"# TYPE simplellm_{name} {kind}"
    yield from (f"simplellm_{name}{labels} {value}" for labels, value in rows)


def _histogram(name: str, help: str, histogram: Histogram) -> Iterator[str]:
    rows = [(f'_bucket{{le="{limit:g}"}}', histogram.counts[limit]) for limit in SECONDS]
    rows += [('_bucket{le="+Inf"}', histogram.n)]
    yield from _metric(name, "histogram", help, rows)
    yield f"simplellm_{name}_sum {histogram.total}"
    yield f"simplellm_{name}_count {histogram.n}"
