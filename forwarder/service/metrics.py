"""The pages that the daemon serves: its figures for Prometheus, whether it is alive, whether it takes part.

Only loaded where ``metrics.listen`` is set. Counters of events come from the books, so they survive restarts;
those of requests begin again with the daemon. The queue is looked at as ``status`` does, once a scrape: no
write lock, no long read, and nothing whose cost depends on how many events wait.

Neither ``/healthz`` nor ``/readyz`` asks whether delivery makes progress: a wrong key or an outage is no
reason to restart the daemon, or to take it for absent, since events are kept meanwhile. ``/metrics`` tells.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import forwarder
from forwarder import spool
from forwarder.errors import ForwarderError
from forwarder.records import EVENTS
from forwarder.records.verdict import Verdict
from forwarder.service.counters import BUCKETS_S, Counters
from forwarder.service.forecast import FORECAST_MINUTES, forecast
from forwarder.service.listener import Page, Pages, Request
from forwarder.service.state import Heartbeat
from forwarder.service.status import STATES
from forwarder.spool import Figures

LOCK_TIMEOUT_S = 1.0
_STATES = tuple(state for state in STATES if state != "stopped")  # that no daemon is in

# Durable figure: name behind the prefix, and what it says. In place of "events", profile and group updates
# have "updates", with the label kind.
_COUNTERS = {
    "accepted": ("events_accepted", "Events taken in since the queue was made; a retried one once more."),
    "delivered": ("events_delivered", "Events that Mixpanel accepted."),
    "dead_lettered": ("events_dead_lettered", "Events that were refused and became dead letters."),
    "deleted": ("events_deleted", "Waiting events that a person, or another consumer, deleted."),
    "short": ("events_short", "Events delivered that Mixpanel took without counting them."),
    "retried": ("dead_letters_retried", "Dead letters that were put back into the queue."),
    "discarded": ("dead_letters_discarded", "Dead letters that were deleted."),
}
_GAUGES = {
    "waiting": ("waiting_events", "Events in the queue, those in flight included."),
    "held": ("held_events", "Waiting events that a person keeps from delivery."),
    "dead_letters": ("dead_letters", "Dead letters that are kept now."),
}
_FORECASTS = {
    "eta_s": ("empty_in_seconds", "When nothing waits any more"),
    "full_in_s": ("full_in_seconds", "When the queue reaches its limit"),
    "disk_full_in_s": ("disk_full_in_seconds", "When the disk has no more than its reserve"),
    "oldest_late_in_s": (
        "oldest_late_in_seconds",
        "When the oldest waiting event has waited for alerts.oldest_s",
    ),
}
_OF_KIND = {"accepted", "delivered", "dead_lettered", "deleted", "waiting", "dead_letters"}
_QUEUE_GAUGES = {
    "db_bytes": ("db_bytes", "Size of the queue's database file."),
    "wal_bytes": ("wal_bytes", "Size of the database's write-ahead log."),
    "disk_free_bytes": ("disk_free_bytes", "Space left for the queue on its disk."),
    "paused": ("paused", "Whether a person has paused delivery: 1 if so."),
}


class Queue(Collector):
    """What the daemon of one queue tells.

    Args:
        heartbeat: Gives the loop's last beat.
        counters: What the daemon has counted, by the kind's name.
    """

    def __init__(self, heartbeat: Callable[[], Heartbeat], counters: Mapping[str, Counters]) -> None:
        self._heartbeat = heartbeat
        self._all_counters = counters
        self._counters = counters[EVENTS.name]

    def describe(self) -> list[Metric]:
        """Nothing: names are not known to clash, and to register must not read the queue."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics, as of now. Where the queue can't be read, those that come from it are left out."""
        heartbeat = self._heartbeat()
        yield from self._durable(heartbeat)
        yield from self._updates(heartbeat)
        yield from _limits(heartbeat)
        yield from _loop(heartbeat)
        yield from self._counted()
        build = {"version": forwarder.__version__, "python": platform.python_version()}
        yield InfoMetricFamily("forwarder_build", "Version of the forwarder and of its Python.", build)

    def _durable(self, heartbeat: Heartbeat) -> Iterator[Metric]:
        queue = spool.of(heartbeat.settings.queue)
        try:
            with queue.view(LOCK_TIMEOUT_S) as view:
                figures, used_bytes, refused = view.figures(), view.used_bytes(), view.refused()
                minutes = view.history(FORECAST_MINUTES)
        except ForwarderError:
            yield _gauge("queue_readable", "Whether the queue's database could be read: 1 if so.", 0)
            return
        yield _gauge("queue_readable", "Whether the queue's database could be read: 1 if so.", 1)
        for key, (name, doc) in _COUNTERS.items():
            yield _counter(name, doc, getattr(figures, key))
        doc = "Events that producers offered and were refused, by reason; they are in no other figure."
        counts = CounterMetricFamily("forwarder_refused", doc, labels=["reason"])
        for reason in EVENTS.reasons:
            counts.add_metric([reason], refused.get(reason, 0))
        yield counts
        for key, (name, doc) in (_GAUGES | _QUEUE_GAUGES).items():
            if (value := getattr(figures, key)) is not None:
                yield _gauge(name, doc, value)
        yield _gauge("queue_used_bytes", "Space taken up in the database, which its limit binds.", used_bytes)
        doc = "How long the oldest waiting event has waited; 0 while none waits."
        yield _gauge("oldest_waiting_seconds", doc, figures.oldest_waiting_s(time.time()))
        settings, state = heartbeat.settings, heartbeat.state.state
        late_s = settings.alerts.oldest_s
        ahead = forecast(figures, used_bytes, minutes, state, settings.queue, late_s, time.time())
        for key, (name, doc) in _FORECASTS.items():
            if key == "disk_full_in_s" and figures.disk_free_bytes is None:
                continue
            in_s = getattr(ahead, key)
            doc = f"{doc}, if it goes on like this; +Inf: never."
            yield _gauge(name, doc, math.inf if in_s is None else in_s)
        doc = "When an event was delivered last, in seconds since the epoch; 0: never."
        yield _gauge("last_delivery_timestamp_seconds", doc, figures.last_delivery_at or 0)
        doc = "Damaged databases set aside with events in them, to be salvaged."
        yield _gauge("damaged_databases", doc, len(queue.set_aside()))

    def _updates(self, heartbeat: Heartbeat) -> Iterator[Metric]:
        """The same of profile and group updates, as far as it differs by kind."""
        found: dict[str, Figures] = {}
        for queue in spool.each(heartbeat.settings.queue)[1:]:
            with suppress(ForwarderError), queue.view(LOCK_TIMEOUT_S) as view:
                found[queue.kind.name] = view.figures()
        for family, names in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
            for key in _OF_KIND & names.keys():
                name, doc = map(_of_updates, names[key])
                metric = family(f"forwarder_{name}", doc, labels=["kind"])
                for kind, figures in found.items():
                    metric.add_metric([kind], getattr(figures, key))
                yield metric
        doc = "How long the oldest waiting update has waited; 0 while none waits."
        oldest = GaugeMetricFamily("forwarder_updates_oldest_waiting_seconds", doc, labels=["kind"])
        for kind, figures in found.items():
            oldest.add_metric([kind], figures.oldest_waiting_s(time.time()))
        yield oldest
        doc = "What the delivery of updates is doing: 1 for the state it is in."
        states = GaugeMetricFamily("forwarder_updates_state", doc, labels=["kind", "state"])
        for kind, of_kind in heartbeat.state.kinds.items():
            for state in _STATES if kind != EVENTS.name else ():
                states.add_metric([kind, state], float(of_kind["state"] == state))
        yield states
        doc = "Requests with updates answered for since the daemon's start, by what came of them."
        requests = CounterMetricFamily("forwarder_updates_requests", doc, labels=["kind", "outcome"])
        for kind, counters in self._all_counters.items():
            for verdict, count in counters.requests().items() if kind != EVENTS.name else ():
                requests.add_metric([kind, _label(verdict)], count)
        yield requests

    def _counted(self) -> Iterator[Metric]:
        doc = "Requests answered for since the daemon's start, by what came of them."
        requests = CounterMetricFamily("forwarder_requests", doc, labels=["outcome"])
        for verdict, count in self._counters.requests().items():
            requests.add_metric([_label(verdict)], count)
        yield requests
        doc = "Requests for events that had been sent before, since the daemon's start."
        yield _counter("request_retries", doc, self._counters.retries)
        counts, sum_s = self._counters.durations()
        doc = "How long requests took, answered or not, since the daemon's start."
        buckets, total = [], 0
        for most_s, count in zip((*map(str, BUCKETS_S), "+Inf"), counts, strict=True):
            total += count
            buckets.append((most_s, total))
        yield HistogramMetricFamily("forwarder_request_duration_seconds", doc, buckets, sum_s)
        if self._counters.clock_skew_s is not None:
            doc = "How far this host's clock is ahead of Mixpanel's, by the last reply that told."
            yield _gauge("clock_skew_seconds", doc, self._counters.clock_skew_s)


def _limits(heartbeat: Heartbeat) -> Iterator[Metric]:
    queue = heartbeat.settings.queue
    which = {"path": spool.of(queue).place, "project_id": heartbeat.settings.mixpanel.project_id}
    yield InfoMetricFamily("forwarder_queue", "Which queue it is, and which project it goes to.", which)
    yield _gauge("queue_max_bytes", "Setting: how large the queue may grow.", queue.max_bytes)
    yield _gauge(
        "queue_min_free_bytes", "Setting: how much of the disk must stay free.", queue.min_free_bytes
    )


def _loop(heartbeat: Heartbeat) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "forwarder_state", "What delivery is doing: 1 for the state it is in.", labels=["state"]
    )
    for name in _STATES:
        state.add_metric([name], float(heartbeat.state.state == name))
    yield state
    yield _gauge("in_flight_events", "Events sent and not answered for.", heartbeat.state.in_flight)
    doc = "Requests that may be in flight at once."
    yield _gauge("connections", doc, heartbeat.state.connections)
    yield _gauge("failures", "Tries in a row that failed, up to now.", heartbeat.state.failures)
    beat_s = max(time.monotonic() - heartbeat.beat_at, 0.0)
    yield _gauge("loop_idle_seconds", "How long ago the daemon's loop has turned last.", beat_s)


def _of_updates(text: str) -> str:
    text = text.replace("Events", "Updates").replace("events", "updates")
    return text.replace("dead_letters", "updates_dead_letters")


def _label(verdict: Verdict) -> str:
    return verdict.value.replace(" ", "_")


def _gauge(name: str, doc: str, value: float) -> Metric:
    return GaugeMetricFamily(f"forwarder_{name}", doc, float(value))


def _counter(name: str, doc: str, value: float) -> Metric:
    return CounterMetricFamily(f"forwarder_{name}", doc, float(value))


def pages(heartbeat: Callable[[], Heartbeat], counters: Mapping[str, Counters]) -> Pages:
    """The pages by path.

    Args:
        heartbeat: Gives the loop's last beat.
        counters: What the daemon has counted, by the kind's name.
    """
    return {
        "/metrics": _metrics(heartbeat, counters),
        "/healthz": _healthz(heartbeat),
        "/readyz": _readyz(heartbeat),
    }


def _healthz(heartbeat: Callable[[], Heartbeat]) -> Callable[[Request], Page]:
    """200 while the daemon's loop turns, else 503 and since when it does not."""
    return lambda _request: _judged(heartbeat().stall, "healthy")


def _readyz(heartbeat: Callable[[], Heartbeat]) -> Callable[[Request], Page]:
    """200 while the daemon has its lock, its queue and its settings, and turns; else 503 and why."""
    return lambda _request: _judged(heartbeat().stall or heartbeat().trouble, "ready")


def _judged(trouble: str, good: str) -> Page:
    return Page(503 if trouble else 200, f"{trouble or good}\n".encode())


def _metrics(
    heartbeat: Callable[[], Heartbeat], counters: Mapping[str, Counters]
) -> Callable[[Request], Page]:
    """The page, in the format that the request's headers ask for; with the process's own figures."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Queue(heartbeat, counters))
    ProcessCollector(registry=registry)

    def made(request: Request) -> Page:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Page(200, encode(registry), content_type)

    return made
