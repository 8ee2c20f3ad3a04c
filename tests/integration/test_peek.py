"""``forwarder peek``: the next events as they are stored."""

import base64
import json
import os
import sqlite3
from contextlib import closing
from functools import partial

import persistqueue.serializers.json
import pytest

from forwarder.spool import EventQueue, Settlement
from forwarder.spool.sqlite.consumer import Consumer


@pytest.fixture
def run(run):
    """Run ``forwarder peek`` in this process; returns exit code, output and errors."""
    return partial(run, "peek")


def put(path, *records):
    """Queue bytes as they are."""
    with EventQueue(path) as queue:
        queue.append(records)


def numbered(count):
    """So many events."""
    form = b'{"event":"E","properties":{"time":1,"$insert_id":"%d","distinct_id":"u%d"}}'
    return [form % (n, n) for n in range(count)]


def test_the_next_events_in_order(run, queue_path):
    """The next 10 are shown, or as many as asked for: id, age, name, distinct_id, size."""
    put(queue_path, *numbered(300))
    consumer = Consumer(queue_path)
    consumer.settle(Settlement(consumer.claim_behind(0, 5, 10**6).ids))
    consumer.close()

    code, out, err = run()
    rows = [line.split() for line in out.splitlines()]
    many = run("-n", "280")[1].splitlines()
    all_of_them = run("-n", "1000000", "--json")[1].splitlines()

    assert (code, err) == (0, "")
    assert rows[0] == ["ID", "AGE", "EVENT", "DISTINCT_ID", "SIZE"]
    assert [row[0] for row in rows[1:]] == [str(n) for n in range(6, 16)]
    assert rows[1][2:] == ["s", "E", "u5", "73", "B"]
    assert (len(many), many[-1].split()[0]) == (281, "285")
    assert [json.loads(line)["id"] for line in all_of_them] == list(range(6, 301))


def test_json_shows_the_stored_text(run, queue_path):
    """With --json the event stands there as it is stored: no number, escape or order changes."""
    numbers = b'"n":1.10,"big":123456789012345678901,"e":1E+2'
    stored = b'{"event":"\\u00c9","properties":{%b,"time":1,"$insert_id":"i"}}' % numbers
    put(queue_path, stored)

    code, out, _ = run("--json")

    assert code == 0
    assert f'"event": {stored.decode()}}}\n' in out
    row = json.loads(out)
    assert list(row) == ["id", "accepted_at", "status", "event"]
    assert (row["id"], row["status"]) == (1, 1)
    assert row["accepted_at"].endswith("Z")


def test_a_line_is_a_line(run, queue_path):
    """Line breaks between tokens, and signs that no terminal should see, do not get through."""
    put(queue_path, '{\n "event":"a\u009b31m\u2028b",\r\n"properties":{}}'.encode())

    _, json_out, _ = run("--json")
    _, out, _ = run()

    assert len(json_out.splitlines()) == 1
    assert len(out.splitlines()) == 2
    assert json.loads(json_out)["event"]["event"] == "a\u009b31m\u2028b"
    assert "\u009b" not in json_out + out
    assert r"a\x9b31m\u2028b" in out


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\xff\x00\x1b[31m", r"not JSON: \xff\x00\x1b[31m"),
        (b'{"event":', 'not JSON: {"event":'),
        (b"[1,2]", "not an event: [1,2]"),
        (b'{"event":5,"properties":[]}', 'not an event: {"event":5'),
        (b'{"properties":{"distinct_id":7.0}}', " 7.0 "),
        ("text", "not JSON: text"),
        (None, "not JSON: None"),
        (7, "7"),
    ],
)
def test_what_is_no_event_is_shown_too(data, shown, run, queue_path):
    """Whatever a stranger put into a row is shown, escaped, and never an error."""
    put(queue_path, *numbered(1))
    with closing(sqlite3.connect(f"{queue_path}/data.db")) as connection:
        connection.execute("UPDATE ack_queue_default SET data = ?, timestamp = 'x', status = 0", (data,))
        connection.commit()

    code, out, err = run()
    row = json.loads(run("--json")[1])

    assert (code, err) == (0, "")
    assert shown in out
    assert "\x1b" not in out
    assert (row["accepted_at"], row["status"]) == (None, 0)
    if isinstance(data, bytes) and "not JSON" in shown:
        assert row["event"] is None
        assert base64.b64decode(row["base64"]) == data


def test_what_plain_persist_queue_has_put(run, queue_path):
    """Events put by plain persist-queue are shown, with their status."""
    put(queue_path, *numbered(1))
    stranger = persistqueue.SQLiteAckQueue(queue_path, serializer=persistqueue.serializers.json)
    stranger.put({"event": "Strange", "properties": {"distinct_id": "s"}})
    stranger.close()

    rows = [json.loads(line) for line in run("--json")[1].splitlines()]

    assert [row["event"]["event"] for row in rows] == ["E", "Strange"]
    assert "Strange" in run()[1]


def test_nothing_to_show(run, queue_path):
    """Without a queue that is said on standard error, and none is made; with an empty one, that is said."""
    code, out, err = run("--json")
    assert (code, out) == (0, "")
    assert err == f"There is no queue in {queue_path} yet. The first event makes it.\n"
    assert not os.path.exists(queue_path)

    EventQueue(queue_path).close()
    assert run() == (0, "Nothing waits.\n", "")
    assert run("--json") == (0, "", "")


def test_n_is_at_least_one(run):
    """-n 0 is a usage error."""
    assert run("-n", "0")[0] == 64


def test_wide_characters_stay_in_their_column(run, queue_path):
    """Names in any script leave the columns behind them aligned."""
    for name, identity in (("日本語", "AA"), ("Signed Up", "BB")):
        put(queue_path, json.dumps({"event": name, "properties": {"distinct_id": identity}}).encode())

    lines = run()[1].splitlines()

    # Each of the three characters takes two columns.
    assert lines[1].index("AA") + 3 == lines[2].index("BB") == lines[0].index("DISTINCT_ID")
