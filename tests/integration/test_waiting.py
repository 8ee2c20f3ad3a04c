"""``forwarder waiting``: events that wait, in a person's hands."""

import json
import os
from functools import partial

import pytest

from forwarder.sandbox import Fault
from forwarder.spool import EventQueue
from forwarder.spool.sqlite.view import View


@pytest.fixture
def run(run):
    """Run ``forwarder waiting`` in this process; returns exit code, output and errors."""
    return partial(run, "waiting")


@pytest.fixture
def filled(queue_path):
    """A queue in which six events wait: A of ada and of bob, B of ada, ..."""
    with EventQueue(queue_path) as queue:
        for number in range(6):
            user = "ada" if number % 2 == 0 else "bob"
            queue.put({"event": "AAB"[number % 3], "properties": {"distinct_id": user, "n": number}})
    return queue_path


def ids(out):
    return [int(line.split()[0]) for line in out.splitlines() if line.split()[0].isdecimal()]


def test_list(run, filled):
    """All, or those that fit, with what `peek` shows of them, and whether they are held."""
    run("hold", "3")
    code, out, err = run("list")
    assert (code, err, ids(out)) == (0, "", [1, 2, 3, 4, 5, 6])
    assert out.splitlines()[0].split() == ["ID", "AGE", "STATE", "EVENT", "DISTINCT_ID", "SIZE"]
    assert [line.split()[3] for line in out.splitlines()[1:4]] == ["due", "due", "held"]
    for options, expected in {
        ("--event", "A"): [1, 2, 4, 5],
        ("--user", "ada", "--event", "A"): [1, 5],
        ("--held",): [3],
        ("--before", "1h"): [],
        ("--since", "1h", "4", "6"): [4, 6],
    }.items():
        assert ids(run("list", *options)[1]) == expected, options
    (line,) = run("list", "--held", "--json")[1].splitlines()
    assert (json.loads(line)["id"], json.loads(line)["held"]) == (3, True)
    assert json.loads(line)["event"]["properties"]["n"] == 2
    assert run("list", "--user", "eve")[1] == "No waiting event fits.\n"
    code, _, err = run("list", "3", "9")
    assert (code, err) == (1, "forwarder: there is no waiting event 9.\n")


def test_export_gives_the_stored_bytes(run, filled, sql):
    """All that is selected, held or due, as it is stored; what makes no line is named and left out."""
    rows = (
        b"not\nJSON",
        b'{"event": "E",\n"properties": {"n": 1e400, "big": 12345678901234567890}}',
        b"x" * 2**21,
    )
    for data in rows:
        sql(filled, "INSERT INTO ack_queue_default (data, timestamp, status) VALUES (?, 1, 0)", (data,))
    run("hold", "3")
    code, out, err = run("export", "--all")
    assert code == 65
    assert [json.loads(line)["properties"]["n"] for line in out.splitlines()[:6]] == [*range(6)]
    assert out.splitlines()[6:] == ['{"event": "E", "properties": {"n": 1e400, "big": 12345678901234567890}}']
    assert [line.split()[3] for line in err.splitlines()] == ["7", "9"]
    assert run("export", "3", "99")[::2] == (1, "forwarder: there is no waiting event 99.\n")
    assert run("export")[0] == 64


def test_hold_and_release(run, filled, figures):
    """Held events are neither delivered nor counted as the oldest; released, they go to the end."""
    assert run("hold", "--user", "ada") == (0, "3 waiting events held.\n", "")
    assert run("hold", "--user", "ada") == (0, "No waiting event fits.\n", "")
    with View(filled) as view:
        assert [row.id for row in view.peek(9)] == [2, 4, 6]
    assert figures(filled).held == 3
    code, out, err = run("release", "1", "2", "--json")
    assert (code, json.loads(out)) == (1, {"released": 1, "missing": [2]})
    assert err == "forwarder: there is no held event 2.\n"
    assert run("release", "--all")[:2] == (0, "2 held events released.\n")
    assert run("release", "--all")[1] == "There are no held events.\n"
    assert run("hold", "6")[0] == 0
    assert run("delete", "--held", "--yes")[1] == "1 held event deleted.\n"
    with View(filled) as view:
        assert [json.loads(row.data)["properties"]["n"] for row in view.peek(9)] == [1, 3, 0, 2, 4]


def test_delete(run, filled, figures):
    """By a filter only when a person says so; deleted events, held ones too, count as that."""
    code, _, err = run("delete", "--user", "ada")
    assert (
        code,
        "Delete 3 waiting events for good: there is no terminal to ask on" in err,
        "--yes" in err,
    ) == (64, True, True)
    run("hold", "1")
    assert run("delete", "--held", "--user", "bob", "--yes")[1] == "No held event fits.\n"
    assert run("delete", "--user", "ada", "--yes")[:2] == (0, "3 waiting events deleted.\n")
    assert run("delete", "2", "2")[:2] == (0, "1 waiting event deleted.\n")
    found = figures(filled)
    assert (found.accepted, found.deleted, found.waiting, found.held) == (6, 4, 2, 0)
    for command in ("delete", "hold", "release"):
        code, _, err = run(command)
        assert (code, f"nothing is selected to {command}" in err) == (64, True)
    assert figures(filled).waiting == 2


@pytest.mark.parametrize("option", ["--user", "--event"])
def test_an_empty_value_selects_nothing(option, run, filled, figures):
    """As of a shell's variable that is not set."""
    code, _, err = run("delete", option, "", "--yes")
    assert (code, f"{option} is empty" in err) == (64, True)
    assert figures(filled).waiting == 6


ROWS = {
    b'{"event":"N","properties":{"distinct_id":777,"x":NaN}}': ("777",),
    b'{"event":"N","properties":{"distinct_id":"j\\u00f6rg","x":NaN}}': ("j\u00f6rg",),
    b"{'event': 'N', 'properties': {'$user_id': 'carol'}}": ("carol",),
    b'{"event":"E","distinct_id":"carol","properties":{}}': ("carol",),
    b'{"event":"N","properties":{"distinct_id":"dave","friend":"carol","x":NaN': ("dave",),
    b'{"event":"E","properties":{"distinct_id":1042.0,"$device_id":"d-1"}}': ("1042", "1042.0", "d-1"),
    b'{"event":"E","properties":{"distinct_id":null}}': (),
    b"[]": (),
}


@pytest.mark.parametrize("data", ROWS)
def test_rows_of_external_producers_are_found_by_user(data, run, queue_path, sql):
    """By the user's ids wherever they can be read, and not by other texts in the row."""
    EventQueue(queue_path).close()
    sql(queue_path, "INSERT INTO ack_queue_default (data, timestamp, status) VALUES (?, 1.6e9, 0)", (data,))
    known = ("777", "j\u00f6rg", "carol", "dave", "1042", "1042.0", "d-1", "x", "None")
    assert tuple(user for user in known if ids(run("list", "--user", user)[1])) == ROWS[data]


def test_rows_that_hold_no_event_are_not_held(run, filled, sql):
    """They stay for delivery to judge; that is said, and the exit code is 1."""
    sql(filled, "INSERT INTO ack_queue_default (data, timestamp, status) VALUES (x'ff', 1.6e9, 0)")
    code, out, err = run("hold", "7", "1")
    assert (code, out) == (1, "1 waiting event held.\n")
    assert "1 waiting event could not be held: gone meanwhile, being sent, or no event." in err


def test_a_queue_of_an_older_version_is_not_taken_for_an_empty_one(run, filled, sql, forwarder):
    """What changes a queue that this version has not used yet fails, and says what to run first."""
    sql(filled, "PRAGMA user_version = 2")
    for line in ("waiting delete --all --yes", "waiting hold 1", "dead-letters delete --all --yes", "peek"):
        done = forwarder(*line.split())
        assert (done.returncode, "by this version of the forwarder yet" in done.stderr) == (69, True), done


def test_nothing_is_held_in_a_queue_that_is_not_there(run, queue_path):
    """Without a queue it is said that there is none, and none is made."""
    assert "no queue" in run("hold", "--all")[2]
    assert not os.path.exists(queue_path)


def test_what_is_in_flight(forwarder, server, until, figures, queue_path):
    """What is held or deleted while it is being sent counts as that, and once; a person is told of it."""
    hanging = server.inject(Fault.hang(taken=True), times=1)
    forwarder("pause")
    for name in "ABC":
        forwarder("enqueue", "-e", name)
    forwarder.daemon()
    forwarder("resume")
    until(lambda: hanging.used and forwarder.json("status")["in_flight"] == 3)
    done = forwarder("waiting", "delete", "1")
    assert "being sent; such an event may be delivered although deleted." in done.stderr
    assert forwarder("waiting", "hold", "2").returncode == 0
    server.release()
    until(lambda: forwarder.json("status")["delivered"] == 1)
    found = figures(queue_path)
    assert (found.accepted, found.deleted, found.held, found.delivered, found.waiting) == (3, 1, 1, 1, 1)
    drained = forwarder("drain")
    assert (drained.returncode, drained.stdout) == (
        0,
        "Nothing is left to deliver; 1 event is held (`forwarder waiting`).\n",
    )
    forwarder("waiting", "release", "--all")
    until(lambda: forwarder.json("status")["delivered"] == 2)
    assert figures(queue_path).waiting == 0


def test_a_damaged_database_keeps_what_was_held(filled, run, tmp_path, forwarder):
    """Salvage brings held events back as held ones."""
    run("hold", "--event", "B")
    os.makedirs(tmp_path / "old")
    for name in ("data.db", "data.db-wal"):
        if os.path.exists(f"{filled}/{name}"):
            os.rename(f"{filled}/{name}", tmp_path / "old" / name)
    done = forwarder("salvage", str(tmp_path / "old" / "data.db"), "--apply")
    assert done.returncode == 0, done
    found = forwarder.json("status")
    assert (found["waiting"], found["held"]) == (6, 2)
