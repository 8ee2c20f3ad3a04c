"""All promises at once, for a while: producers, faults, kills and persons; what the daemon takes is bounded.

``FORWARDER_SOAK_S=600`` goes on for so many seconds, as ``make soak`` does; ``FORWARDER_TEST_SEED=7`` throws
the dice of that run again.
"""

import json
import os
import random
import sys
import time
from pathlib import Path

import pytest

from forwarder.delivery.wire.client import MAX_ANSWER_BYTES
from forwarder.sandbox import Fault, Sandbox
from forwarder.spool import EventQueue

sys.path.insert(0, str(Path(__file__).parent))
import soak
from soak import CONNECTIONS, MIB, Soak, digest, final, is_bad

# Read before the tests take this host's settings away.
SOAK_S = float(os.environ.get("FORWARDER_SOAK_S") or 6)
SEED = int(os.environ.get("FORWARDER_TEST_SEED") or random.SystemRandom().randrange(1, 10**9))


RSS_KIB = 100 * 1024


@pytest.fixture
def server():
    """A server that keeps a hash of each event, and takes no large requests."""
    with Sandbox(token="sandbox-token", keep_data=False, max_body_bytes=MIB // 2) as sandbox:
        yield sandbox


@pytest.fixture
def running(forwarder, server, queue_path):
    """Everything at once."""
    started = Soak(forwarder, server, queue_path, SEED, SOAK_S)
    yield started
    started.close()


def bounds(at_rest):
    """The most that each thing watched may be (N8 and N11), at any time and when all is drained."""
    more = CONNECTIONS + 4
    return {
        "RSS of the daemon, KiB": RSS_KIB,
        "threads of the daemon": at_rest["threads of the daemon"] + more,
        # A request under way, and the files of a reload.
        "descriptors of the daemon": at_rest["descriptors of the daemon"] + more,
        "WAL, bytes": 16 * MIB,
        "WAL with a long reader, bytes": 256 * MIB,
        "database, bytes": 256 * MIB,
        "files in the directory": len(soak.FILES),
        "database and WAL when drained, bytes": 10 * MIB,
    }


def account(running, rows, queue_path):
    """What became of each event: (offered, delivered, dead, deleted), and what is wrong with that."""
    told, maybe = {}, {}
    for producer in running.producers:
        for known, ranges in ((told, producer.accepted), (maybe, producer.uncertain)):
            for number in (number for one in ranges for number in one):
                known[f"{producer.kind}-{number}"] = producer.kind, number
    delivered = running.server.ledger.events
    letters = rows(queue_path, "dead_letters")
    dead = {json.loads(data)["properties"]["$insert_id"]: data for data in letters}
    deleted = running.person.deleted
    found = {one: entry.sha256 for one, entry in delivered.items()}
    found |= {one: digest(data) for one, data in (*deleted.items(), *dead.items())}
    everything = maybe | told
    wrong = {
        "lost": told.keys() - found.keys(),
        "never offered": found.keys() - everything.keys(),
        "changed": {
            one for one in found.keys() & everything.keys() if found[one] != digest(final(*everything[one]))
        },
        "changed in a repeat": {one for one, entry in delivered.items() if entry.changed},
        "both delivered and dead": delivered.keys() & (dead.keys() | deleted.keys()),
        "dead twice": {None} if len(dead) < len(letters) else set(),
        "good and dead": {one for one in dead.keys() | deleted.keys() if not is_bad(everything[one][1])},
    }
    figures = len(told) + len(found.keys() & maybe.keys()), len(delivered), len(dead), len(deleted)
    return figures, {name: sorted(map(str, ids))[:5] for name, ids in wrong.items() if ids}


def table(most, allowed):
    """What was watched, and whether it kept its bounds."""
    yield f"{'most seen':>14} {'allowed':>14}"
    for name, bound in allowed.items():
        value = most.get(name, 0)
        yield f"{value:>14,} {bound:>14,}  {name}{'' if value <= bound else '  <-- TOO MUCH'}"


def report(running, figures, took_s):
    """What was done, in a few lines."""
    offered, delivered, dead, deleted = figures
    kills = running.kills, running.in_flight, sum(producer.kills for producer in running.producers)
    yield f"{offered:,} events in {took_s:.0f} s: {delivered:,} delivered, {dead} dead, {deleted} deleted"
    yield "{} kills of the daemon, {} with requests under way, {} of producers; {} stops".format(
        *kills, running.stops
    )
    faults = {name: count for name, count in running.weather.seen.items() if count}
    yield f"faults, in so many requests: {faults}; {running.server.ledger.repeats} events came again"
    yield f"commands: {dict(running.person.done)}; looked at {running.watch.samples} times"


def test_long_answers_on_all_connections_are_bounded(forwarder, queue_path, rows, until):
    """N8: answers as long as any that is read, on all connections at once, take no more than 100 MiB."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many({"event": "e", "properties": {"distinct_id": "d"}} for _ in range(20_000))
    with Sandbox(token="sandbox-token", latency_s=0.15, keep_data=False) as server:
        server.inject(Fault.huge_answer(MAX_ANSWER_BYTES - 1000))
        environ = {"FORWARDER_MIXPANEL_URL": server.url, "FORWARDER_DELIVERY_BATCH_EVENTS": "400"}
        daemon = forwarder.daemon(**environ)
        until(lambda: not rows(queue_path), "the queue is empty", 60)
        assert max(request.at_once for request in server.ledger.requests) >= CONNECTIONS - 2
        watch = soak.Watch(queue_path)
        watch.look(daemon.process.pid, False)
        daemon.close()
    assert watch.most["RSS of the daemon, KiB"] <= RSS_KIB


@pytest.mark.timeout(SOAK_S + 300)
def test_everything_at_once(running, forwarder, queue_path, rows, figures, until, capsys):
    """Under all that may happen at once nothing is lost or changed, and what the daemon takes is bounded."""
    with capsys.disabled():
        print(f"\nsoak: FORWARDER_TEST_SEED={SEED} FORWARDER_SOAK_S={SOAK_S:g}", flush=True)
    began_at = time.monotonic()
    until(lambda: time.monotonic() > began_at + SOAK_S or running.failure, "the time is up", SOAK_S + 10)
    until(lambda: running.has_done_everything or running.failure, "there was one of each", 60)
    running.calm()
    took_s = time.monotonic() - began_at
    until(lambda: not rows(queue_path), "the queue is empty", 120)
    try:
        until(lambda: running.watch.disk_bytes() < 10 * MIB, "the disk is given back", 60)
    finally:
        most = {**running.watch.most, "database and WAL when drained, bytes": running.watch.disk_bytes()}
    running.watching.end()
    counts, wrong = account(running, rows, queue_path)
    allowed = bounds(running.at_rest)
    with capsys.disabled():
        print("\n".join((*report(running, counts, took_s), *table(most, allowed))), flush=True)
        print(f"wrong: {wrong or 'none'}; lost 0, changed 0" if not wrong else f"WRONG: {wrong}", flush=True)
    assert not wrong
    found = figures(queue_path)
    assert (found.delivered, found.dead_letters, found.discarded) == counts[1:]
    assert (found.waiting, found.short, found.deleted) == (0, 0, 0)
    assert forwarder("check").returncode == 0
    assert running.watch.externals == set()
    assert {name: most.get(name, 0) for name in allowed if most.get(name, 0) > allowed[name]} == {}
