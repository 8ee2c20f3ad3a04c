"""Profile and group updates on their whole way: by each door into the queue, delivered in order, applied."""

import json
import signal
import sqlite3
from contextlib import closing

import persistqueue
import persistqueue.serializers.json
import pytest

from forwarder import spool
from forwarder.records import GROUPS, PROFILES
from forwarder.sandbox import Fault
from forwarder.spool import AckQueue, EventQueue
from tests.conftest import TOKEN


def update(user, **operation):
    return {"$token": TOKEN, "$distinct_id": user, **{f"${name}": value for name, value in operation.items()}}


def group(which, **operation):
    ids = {"$group_key": "company", "$group_id": which}
    return {"$token": TOKEN, **ids, **{f"${name}": value for name, value in operation.items()}}


def figures(queue_path, kind):
    """The books of a kind, once they are proven."""
    with spool.at(queue_path, kind).view() as view:
        assert [finding for finding in view.check() if not finding.ok] == []
        found = view.figures()
    assert found.accepted == found.delivered + found.dead_lettered + found.deleted + found.waiting
    return found


@pytest.fixture
def empty(queue_path, until):
    """Wait until nothing of a kind waits, and return its books."""

    def wait(kind):
        until(lambda: figures(queue_path, kind).waiting == 0, f"no {kind.noun} wait")
        return figures(queue_path, kind)

    return wait


def test_by_each_door(forwarder, server, queue_path, empty):
    """By the command, from Python, and by plain persist-queue, under its own name for the queue."""
    lines = [update("ada", set={"plan": "free"}), update("ada", set={"plan": "pro"})]
    text = "\n".join(map(json.dumps, lines))
    done = forwarder("enqueue", "--kind", "profile", stdin=text)
    assert (done.returncode, done.stdout) == (0, "accepted 2 profile updates\n")
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_profile(update("ada", add={"logins": 2}))
        queue.put_group(group("acme", set={"size": 5}))
        queue.put({"event": "A", "properties": {"distinct_id": "ada"}})
    options = {"serializer": persistqueue.serializers.json, "auto_resume": False}
    plain = persistqueue.SQLiteAckQueue(queue_path, name="engage", **options)
    ours = AckQueue(queue_path, name="groups")
    plain.put(update("bob", set={"a": 1}))
    ours.put(group("acme", set={"b": 2}))
    plain.close()
    ours.close()
    forwarder.daemon()
    assert (empty(PROFILES).delivered, empty(GROUPS).delivered) == (4, 2)
    assert server.users.profiles == {("ada",): {"plan": "pro", "logins": 2}, ("bob",): {"a": 1}}
    assert server.groups.profiles == {("company", "acme"): {"size": 5, "b": 2}}
    assert all("$time" in json.loads(data) for data in server.users.updates)
    server.wait_for(lambda ledger: ledger.accepted == 1)
    found = forwarder.json("status")
    assert (found["engage"]["delivered"], found["groups"]["delivered"], found["delivered"]) == (4, 2, 1)
    said = forwarder("status").stdout
    assert ("profile updates" in said, "group updates" in said) == (True, True)
    assert forwarder("status", "--fail-if", "engage.delivered>3").returncode == 1
    assert forwarder("check").returncode == 0


def test_an_invalid_update_is_a_dead_letter(forwarder, server, queue_path, empty):
    """Found among good ones, which are applied; edited, it goes once more."""
    with EventQueue(queue_path, min_free_bytes=0, rules=False) as queue:
        for number in range(3):
            queue.put_profile(update(f"u{number}", set={"n": number}))
    # Alone, so that Mixpanel's answer is about it.
    forwarder.daemon()
    empty(PROFILES)
    with EventQueue(queue_path, min_free_bytes=0, rules=False) as queue:
        queue.put_profile(update("bad", add={"n": "text"}))
        server.wait_for(lambda ledger: any("/engage" in each.path for each in ledger.requests))
        # Something else has to show that Mixpanel takes updates.
        queue.put_profile(update("late", set={"n": 1}))
    found = empty(PROFILES)
    assert (found.delivered, found.dead_letters) == (4, 1)
    letter = forwarder.json("dead-letters", "list", "--kind", "profile")
    assert (letter["event_name"], letter["insert_id"]) == ("$add", "bad")
    shown = forwarder("dead-letters", "show", "--kind", "profile", "1").stdout
    assert "numbers" in shown
    done = forwarder("dead-letters", "retry", "--kind", "profile", "1", "--set", "$add.n:=3")
    assert done.returncode == 0, done
    assert empty(PROFILES).delivered == 5
    assert server.users.profiles[("bad",)] == {"n": 3}
    assert forwarder.json("status")["dead_lettered"] == 0, "events have none"


def test_updates_are_held_listed_and_deleted(forwarder, queue_path):
    """As events are, with --kind; events are not touched."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        for user in ("ada", "bob", "eve"):
            queue.put_profile(update(user, set={"a": 1}))
        queue.put({"event": "A", "properties": {"distinct_id": "ada"}})
    done = forwarder("waiting", "hold", "--kind", "profile", "--user", "ada")
    assert done.stdout == "1 waiting profile update held.\n"
    listed = forwarder("waiting", "list", "--kind", "profile").stdout
    assert ("held" in listed, "$set" in listed, "eve" in listed) == (True, True, True)
    done = forwarder("waiting", "delete", "--kind", "profile", "--user", "bob", "--yes")
    assert done.stdout == "1 waiting profile update deleted.\n"
    found = figures(queue_path, PROFILES)
    assert (found.waiting, found.held, found.deleted) == (2, 1, 1)
    assert "$set" in forwarder("peek", "--kind", "profile").stdout
    assert forwarder.json("status")["waiting"] == 1


@pytest.mark.parametrize("on_doubt", ["repeat", "hold"])
def test_a_kill_in_flight_is_doubt(forwarder, server, queue_path, until, empty, on_doubt):
    """An $add that was applied while the daemon was killed counts twice, or is a dead letter for a person."""
    forwarder.environ["FORWARDER_INTAKE_ON_DOUBT"] = on_doubt
    hanging = server.inject(Fault.hang(taken=True), times=1)
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_profile(update("ada", add={"logins": 1}))
    daemon = forwarder.daemon()
    until(lambda: hanging.used and server.users.profiles, "it was applied")
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_profile(update("ada", set={"plan": "pro"}))
    forwarder.daemon()
    found = empty(PROFILES)
    expected = {"repeat": (2, 0, 2), "hold": (1, 1, 1)}[on_doubt]
    logins = server.users.profiles[("ada",)]["logins"]
    assert (found.delivered, found.dead_letters, logins) == expected
    if on_doubt == "hold":
        letter = forwarder.json("dead-letters", "list", "--kind", "profile")
        assert letter["reason"].startswith("doubtful")


def test_blocked_events_do_not_hold_updates_back(forwarder, server, queue_path, until, empty):
    """A key that /import refuses is not asked for by /engage. Each kind has its state; the worst is shown."""
    forwarder.environ["FORWARDER_MIXPANEL_TOKEN"] = "wrong"
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put({"event": "A", "properties": {"distinct_id": "ada"}})
        queue.put_profile(update("ada", set={"a": 1}))
    forwarder.daemon()
    assert empty(PROFILES).delivered == 1
    found = until(lambda: (now := forwarder.json("status"))["state"] == "blocked" and now)
    assert (found["engage"]["state"], found["waiting"]) == ("running", 1)
    assert "401" in found["state_reason"]


def test_salvage_brings_updates_back_to_their_queue(forwarder, queue_path):
    """Whatever the schema still says: by what they are."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_profile(update("ada", set={"a": 1}))
        queue.put_group(group("acme", set={"b": 2}))
        queue.put({"event": "A", "properties": {"distinct_id": "ada"}})
    with closing(sqlite3.connect(f"{queue_path}/data.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(f"{queue_path}/data.db", "r+b") as file:
        file.write(bytes(4096))  # the first page, with the schema
    forwarder("enqueue", "-e", "B")
    damaged = forwarder.json("salvage")
    done = forwarder("salvage", damaged["file"], "--apply")
    assert done.returncode == 0, done
    assert figures(queue_path, PROFILES).waiting == figures(queue_path, GROUPS).waiting == 1
    assert forwarder.json("status")["waiting"] == 2
