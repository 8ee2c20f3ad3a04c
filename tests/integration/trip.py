"""A dispatcher on a real queue, with replies of the test's making and the test's own time."""

import json
import time
from types import SimpleNamespace

from forwarder.config.settings import Delivery
from forwarder.delivery.dispatcher import Dispatcher
from forwarder.delivery.wire.outcome import Reply, judge
from forwarder.records import EVENTS
from forwarder.records.event import accept
from forwarder.spool import EventQueue, Selection
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.view import View

HTML = {"content-type": "text/html"}
EVERYTHING = Selection()


def event(number, name="signup", **properties):
    """The final bytes of one event."""
    given = {"time": 1_700_000_000 + number, "$insert_id": f"id-{number}", "distinct_id": "d", **properties}
    text = json.dumps({"event": name, "properties": given}).encode()
    return accept(text, int(time.time() * 1000))


def answer(status, value, **headers):
    """A reply in JSON."""
    return Reply(status, headers, json.dumps(value).encode())


def yes(batch, imported=None):
    """Mixpanel's yes to all of a batch, or the count given."""
    imported = len(batch.events) if imported is None else imported
    return answer(200, {"code": 200, "num_records_imported": imported, "status": "OK"})


def partly(batch, failed, imported=None):
    """Mixpanel's 400 that names the events at the indexes *failed*."""
    records = [
        {"index": index, "insert_id": json.loads(batch.events[index])["properties"]["$insert_id"]}
        | {"field": "properties.time", "message": "'properties.time' is invalid"}
        for index in failed
    ]
    said = {
        "code": 400,
        "error": "some data points in the request failed validation",
        "failed_records": records,
    }
    return answer(
        400, said | {"num_records_imported": len(batch) - len(failed) if imported is None else imported}
    )


def named(_batch=None):
    """Mixpanel's 400 to one event without a name."""
    record = {
        "index": 0,
        "insert_id": "",
        "field": "event",
        "message": "'event' must not be missing or blank",
    }
    said = {
        "code": 400,
        "error": "some data points in the request failed validation",
        "status": "Bad Request",
    }
    return answer(400, said | {"failed_records": [record], "num_records_imported": 0})


def refusal(_batch=None):
    """A 400 that explains nothing."""
    return answer(400, {"code": 400, "error": "Bad Request", "status": "Bad Request"})


def unless(is_bad, otherwise=refusal):
    """A server that refuses each batch with a bad event in it as a whole, and takes the others."""
    return lambda batch: otherwise(batch) if any(map(is_bad, batch.events)) else yes(batch)


def judging(is_bad):
    """A server that refuses each batch with a bad event without naming it, and takes the others."""

    def server(batch):
        return named(batch) if tuple(batch.events) == (EVENTS.probe,) else unless(is_bad)(batch)

    return server


class Trip:
    """A dispatcher at work: offer events, then let time pass."""

    def __init__(self, path, random=0.5, **settings):
        self.path = path
        self.queue = EventQueue(path, min_free_bytes=0)
        self.spool = None
        self.settings = Delivery(**settings)
        self.random = random
        self.now = 1000.0
        self.sent = []
        self.outcomes = []
        self.restart()

    def restart(self, strict=True):
        """Begin again with what is in the queue, and nothing in memory."""
        self.strict = strict
        if self.spool:
            self.spool.close()
        self.spool = Consumer(self.path, lock_timeout_s=0.05)
        self.dispatcher = Dispatcher(self.spool, EVENTS, self.settings, random=lambda: self.random)

    @property
    def state(self):
        return self.dispatcher.condition[0]

    def close(self):
        self.spool.close()
        self.queue.close()

    def offer(self, events):
        """Put events into the queue, and have the dispatcher see them."""
        self.queue.append(events)
        self.dispatcher.notice(self.now)
        return events

    def next(self, after_s=0.0):
        """What may be sent *after_s* from now."""
        self.now += after_s
        return self.dispatcher.next(self.now)

    def settle(self, batch, reply):
        """Act on a reply as the daemon does."""
        report = self.dispatcher.settle(batch, judge(EVENTS, reply, batch.events, self.strict), self.now)
        self.outcomes.append(report.outcome.verdict)
        return report

    def deliver(self, server, for_s=600.0, until=lambda: False):
        """Send what may be sent, as much at once as may be, for so much of the test's time, or until idle.

        Returns how much time it took.
        """
        began_at = self.now
        while not self.dispatcher.is_idle and not until() and self.now < began_at + for_s:
            flight = []
            while (batch := self.dispatcher.next(self.now)) is not None:
                flight.append(batch)
            for batch in flight:
                self.sent.append(list(batch.events))
                self.settle(batch, server(batch))
            if not flight:
                self.now += min(max(self.dispatcher.wait_s(self.now), 0.001), 1.0)
        return self.now - began_at

    def figures(self):
        with View(self.path) as view:
            return view.figures()

    def dead(self):
        with View(self.path) as view:
            return view.dead_letters(EVERYTHING)

    def deliveries(self):
        """The delivery log, newest first."""
        names = "ids, delivered, dead, short, size_bytes, http_status, tries, took_s"
        with View(self.path) as view:
            rows = view.connection.execute(f"SELECT {names} FROM deliveries ORDER BY id DESC").fetchall()
        return [SimpleNamespace(**dict(zip(names.split(", "), row, strict=True))) for row in rows]

    def counts(self):
        """delivered, dead-lettered, waiting"""
        figures = self.figures()
        return figures.delivered, figures.dead_lettered, figures.waiting


def trips(queue_path):
    """For a fixture: makes dispatchers that don't linger, and otherwise have the default settings."""
    made = []

    def start(**settings):
        made.append(Trip(queue_path, **{"linger_s": 0.0, **settings}))
        return made[-1]

    yield start
    for each in made:
        each.close()
