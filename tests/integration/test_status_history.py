"""``forwarder status --history``, of what a real daemon has recorded."""

import json
import time
from dataclasses import asdict

import pytest

from forwarder import spool
from forwarder.spool import EventQueue, Period
from tests.conftest import TOKEN, each_engine, until

EVENT = {"event": "A", "properties": {}}


@each_engine
def test_it_shows_what_was_recorded(forwarder, queue_path, figures):
    """Plots in a pipe have 80 columns and no colour, and what a program reads is what stands in the queue."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        daemon = forwarder.daemon()
        queue.put_many([EVENT] * 30)
        until(lambda: figures(queue_path).waiting == 0)
        assert daemon.stop() == 0

        done = forwarder("status", "--history")

    assert (done.returncode, done.stderr) == (0, "")
    shown = done.stdout.splitlines()
    assert any(line.startswith("delivered/s: ") and line.endswith(", 30 in all") for line in shown)
    assert any("█" in line for line in shown)
    assert max(map(len, shown)) <= 80
    assert "\x1b" not in done.stdout
    assert shown[-1].startswith("No daemon has run since ")
    with spool.at(queue_path).view() as view:
        recorded = [asdict(each) for each in view.history(10)]
    assert forwarder.json("status", "--history") == {"minutes": recorded}
    assert forwarder.json("status", "--history", "--since", "1w") == {"hours": []}


def test_other_ranges_and_kinds(forwarder, queue_path, figures):
    """Beyond 48 hours hours are plotted, and of the last one what its minutes say. --kind shows that of
    updates, and a kind that has never come has none."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put(EVENT)
        queue.put_profile({"$token": TOKEN, "$distinct_id": "d", "$set": {"a": 1}})
        daemon = forwarder.daemon()
        until(lambda: figures(queue_path).waiting == 0)
        assert daemon.stop() == 0
    shown = forwarder("status", "--history", "--since", "1w").stdout
    assert "delivered/s: " in shown
    assert ", 1 in all" in shown
    shown = forwarder("status", "--history", "--kind", "profile").stdout
    assert "waiting: " in shown or "delivered/s: " in shown
    assert forwarder("status", "--history", "--kind", "group").stdout == (
        "Nothing is recorded yet: the daemon does it each minute while it runs.\n"
    )


def test_without_utf_8_it_is_ascii(forwarder, queue_path):
    """In a locale whose encoding is not UTF-8 all of it is ASCII, also what a reason says."""
    now = time.time()
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put(EVENT)
    consumer = spool.at(queue_path).consumer()
    consumer.record(Period(now - 1, 60.0, 1.0, accepted=9, states={"blocked": 60.0}, reason="Schlüssel"))
    consumer.close()
    forwarder.environ["LC_ALL"] = "C"

    shown = forwarder("status", "--history").stdout

    assert shown.isascii()
    assert "####" in shown
    assert "Schl?ssel" in shown
    forwarder.environ["LC_ALL"] = "C.UTF-8"
    assert "Schlüssel" in forwarder("status", "--history").stdout


def test_where_there_is_no_queue(run, queue_path):
    """That is said as with other commands, and a program gets an empty list."""
    said = f"There is no queue in {queue_path} yet. The first event makes it.\n"
    assert run("status", "--history") == (0, "", said)
    assert run("status", "--history", "--json") == (0, '{"minutes": []}\n', said)


@pytest.mark.parametrize(
    "arguments",
    ["--since 6h", "--kind profile", "--history --watch", "--history --fail-if waiting>1",
     "--history --since soon", "--history --since 9999-01-01T00:00Z"],
)  # fmt: skip
def test_options_that_do_not_go_together(arguments, run):
    """What has no meaning together is refused, and so is what is no time of the past."""
    code, out, err = run("status", *arguments.split())
    assert (code, out) == (64, "")
    assert "--" in err


def test_since_when(run, queue_path):
    """What ended before --since is left out, as the periods are, in one line of JSON."""
    now = time.time()
    periods = [Period(now - age_s, 60.0, 1.0, accepted=1) for age_s in (7200, 1200, 600)]
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put(EVENT)
    consumer = spool.at(queue_path).consumer()
    for each in periods:
        consumer.record(each)
    consumer.close()
    code, out, err = run("status", "--history", "--json", "--since", "30m")
    assert (code, json.loads(out), out.count("\n"), err) == (
        0,
        {"minutes": list(map(asdict, periods[1:]))},
        1,
        "",
    )
    assert (
        "accepted/s: 0.0167 last, 0.0167 at most, 2 in all" in run("status", "--history", "--since", "30m")[1]
    )
