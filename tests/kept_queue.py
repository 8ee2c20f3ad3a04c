"""``python -m tests.kept_queue``: keep a queue as this version leaves it, and what this version says of it.

It writes ``tests/data/queue-VERSION.tar.gz`` and ``.json``, once for each version, before it is released.
``tests/integration/test_upgrade.py`` holds every later version against them.
"""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import persistqueue
import persistqueue.serializers.json

import forwarder
from forwarder import spool
from forwarder.errors import ForwarderError
from forwarder.sandbox import Sandbox
from forwarder.spool import EventQueue, Period
from tests.conftest import TOKEN, Forwarder, sql

PLACE = Path(__file__).parent / "data"
# Those that do not depend on the moment or the machine.
FIGURES = (
    "accepted", "delivered", "dead_lettered", "deleted", "waiting", "dead_letters", "retried", "discarded",
    "refused", "held",
)  # fmt: skip
KINDS = ("event", "profile", "group")
LAST_ID = 13


def event(name: str, **properties: Any) -> dict[str, Any]:
    """An event of that name."""
    return {"event": name, "properties": {"distinct_id": "user", "time": 1764547200, **properties}}


def update(operation: str) -> dict[str, Any]:
    """An update of one profile."""
    return {"$token": TOKEN, "$distinct_id": "user", operation: {"count": 1}, "$time": 1764547200}


def put_as_others_do(path: str, name: str) -> None:
    """Put an event as a program that only has persist-queue."""
    plain = persistqueue.SQLiteAckQueue(path, serializer=persistqueue.serializers.json)
    plain.put(event(name))
    plain.close()


def fill(command: Forwarder) -> None:
    """Bring the queue into each state that its database can be in."""
    path = command.queue_path
    with EventQueue(path, min_free_bytes=0) as queue:
        queue.put_many([event("Delivered", number=number) for number in range(3)])
        queue.put_profile(update("$set"))
        put_as_others_do(path, "Delivered of others")
        for name in ("Kept", "Retried", "Deleted"):
            queue.append([json.dumps(event(name, **{"$insert_id": "not an id!"})).encode()])
        command("drain")
        command("dead-letters", "retry", "--event", "Retried", "--set", "properties.$insert_id=retried")
        command("dead-letters", "delete", "--event", "Deleted", "--yes")
        command("drain")
        held, released, deleted = (str(queue.put(event(name))) for name in ("Held", "Released", "Deleted"))
        assert command("waiting", "hold", held, released).returncode == 0
        assert command("waiting", "release", released).returncode == 0
        assert command("waiting", "delete", deleted, "--yes").returncode == 0
        queue.put_profile(update("$add"))
        queue.put_group({"$token": TOKEN, "$group_key": "company", "$group_id": "acme", "$set": {"seats": 5}})
        with suppress(ForwarderError):
            queue.put({"event": "Refused"})
    with closing(spool.at(path).consumer()) as consumer:
        for number in range(3):
            consumer.record(Period(1764547200.0 + 60 * number, 60.0, 1764547000.0, delivered=number))
    put_as_others_do(path, "Waiting of others")
    assert command("pause").returncode == 0


def figures(command: Forwarder) -> dict[str, Any]:
    """The books of each kind."""
    status = command.json("status")
    kinds = zip(KINDS, (status, status["engage"], status["groups"]), strict=True)
    return {name: {key: kind[key] for key in FIGURES} for name, kind in kinds}


def told(command: Forwarder) -> dict[str, Any]:
    """What a version says of the queue."""

    def lines(*arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in command(*arguments, "--json").stdout.splitlines()]

    found: dict[str, Any] = figures(command)
    for kind in KINDS:
        found[kind]["waiting rows"] = lines("waiting", "list", "--kind", kind)
        found[kind]["receipts"] = lines("where", *map(str, range(1, LAST_ID + 1)), "--kind", kind)
    found["dead letters"] = lines("dead-letters", "list")
    found["paused"] = command.json("status")["paused"]
    with spool.at(command.queue_path).view() as view:
        found["history"] = [
            [period.ended_at, period.accepted, period.delivered, period.dead_lettered]
            for period in view.history(100)
        ]
        assert [finding.what for finding in view.check() if not finding.ok] == []
    return found


def delivered(command: Forwarder, server: Sandbox) -> dict[str, Any]:
    """What the *server* gets once nothing is held and delivery goes on."""
    assert command("waiting", "release", "--all").returncode == 0
    assert command("resume").returncode == 0
    assert command("drain").returncode == 0
    events = {key: entry.data.decode() for key, entry in server.ledger.events.items()}
    return {**figures(command), "events": events}


def keep(place: Path) -> None:
    """Write the queue and what is said of it."""
    os.environ["FORWARDER_CONFIG"] = os.devnull
    with tempfile.TemporaryDirectory() as temporary, Sandbox(token=TOKEN) as server:
        command = Forwarder(f"{temporary}/queue", server.url)
        fill(command)
        sql(command.queue_path, "PRAGMA wal_checkpoint(TRUNCATE)")
        with tarfile.open(place / f"queue-{forwarder.__version__}.tar.gz", "w:gz") as archive:
            archive.add(command.queue_path, "queue")
        said = told(command)
        before = set(server.ledger.events)
        said["delivered"] = delivered(command, server)
        for key in before:
            del said["delivered"]["events"][key]
    (place / f"queue-{forwarder.__version__}.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    keep(PLACE)
