"""What the intake counts since its start, and how it tells Prometheus.

Written by hand: the library that the daemon uses takes more memory than the rest of the intake may.
Format: prometheus.io/docs, "Exposition formats", version 0.0.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
EVENTS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10_000)


class Histogram:
    """How often values were at most each of *bounds*."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one."""
        index = next((i for i, bound in enumerate(self._bounds) if value <= bound), len(self._bounds))
        self._counts[index] += 1
        self._sum += value

    def lines(self, name: str) -> Iterator[str]:
        """Its samples."""
        total = 0
        for bound, count in zip((*map(float, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {total}"


class Counters:
    """Counts, for one thread.

    Attributes:
        requests: Answers by path and status.
        items: Events and updates by what became of them: stored, dead_lettered, refused.
        commit_s: How long commits took.
        group: How many records were committed at once.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.items: Counter[str] = Counter(stored=0, dead_lettered=0, refused=0)
        self.commit_s = Histogram(SECONDS)
        self.group = Histogram(EVENTS)

    def exposition(self, connections: int) -> bytes:
        """All of it, with the number of open *connections*."""
        lines = [
            *_head("requests_total", "counter", "Requests answered, by path and HTTP status."),
            *(
                f'forwarder_intake_requests_total{{path="{path}",code="{code}"}} {count}'
                for (path, code), count in sorted(self.requests.items())
            ),
            *_head("events_total", "counter", "Events and updates that came in, by what became of them."),
            *(
                f'forwarder_intake_events_total{{result="{result}"}} {count}'
                for result, count in sorted(self.items.items())
            ),
            *_head("commit_seconds", "histogram", "How long it took to commit a group of requests."),
            *self.commit_s.lines("forwarder_intake_commit_seconds"),
            *_head("group_events", "histogram", "How many events and updates were committed at once."),
            *self.group.lines("forwarder_intake_group_events"),
            *_head("connections", "gauge", "Connections that are open."),
            f"forwarder_intake_connections {connections}",
        ]
        return "\n".join([*lines, ""]).encode()


def _head(name: str, kind: str, doc: str) -> Iterator[str]:
    yield f"# HELP forwarder_intake_{name} {doc}"
    yield f"# TYPE forwarder_intake_{name} {kind}"
