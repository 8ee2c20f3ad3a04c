"""``forwarder where``, ``EventQueue.where`` and ``EventQueue.wait``: what became of each event, by its id."""

import json
import re
import signal
import time
from contextlib import closing

import pytest

from forwarder import spool
from forwarder.records import KINDS
from forwarder.sandbox import Fault
from forwarder.spool import Dead, Settlement, text_of
from tests.conftest import TOKEN, each_engine
from tests.relays import Host

AT = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"
WAITS = rf"waiting since {AT} \(\d+ s\), "
PASSED = rf"{AT}, by request 1 with 4 events, at the first try"
BAD = {"event": "E", "properties": {"time": -5, "$insert_id": "bad", "distinct_id": "d"}}


def event(number=0, **properties):
    given = {"distinct_id": "d", "$insert_id": f"id-{number}", "time": int(time.time()), **properties}
    return {"event": "E", "properties": given}


def update(number, kind):
    ids = {"$distinct_id": "d"} if kind == "profile" else {"$group_key": "g", "$group_id": "a"}
    return {"$token": TOKEN, **ids, "$set": {"n": number}}


@pytest.fixture
def says(run):
    """Assert what ``where`` prints, a pattern a line, and its exit code."""

    def where(arguments, *patterns, code=0):
        done = run("where", *arguments.split())
        lines = done[1].splitlines()
        assert (done[0], done[2]) == (code, "")
        assert len(lines) == len(patterns), lines
        assert [
            (line, each) for line, each in zip(lines, patterns, strict=True) if not re.fullmatch(each, line)
        ] == []

    return where


@each_engine
def test_the_way_of_events(forwarder, queue, run, says):
    """Each state in words, in the order of ids; new ids are followed; 1 if not all are known."""
    assert queue.put_many([event(n) for n in range(6)]) == 6
    run("waiting", "hold", "2", "3")
    run("waiting", "release", "3")
    run("waiting", "delete", "5", "--yes")
    says(
        "99 1-6",
        f"1  {WAITS}0 before it",
        rf"2  held by a person \(`forwarder waiting release`\), accepted {AT}",
        f"3  released {AT} as 7",
        f"  7  {WAITS}3 before it",
        f"4  {WAITS}1 before it",
        "5  deleted by a person",
        f"6  {WAITS}2 before it",
        "99  never accepted: the newest id is 7",
        r"No daemon runs\.",
        code=1,
    )
    forwarder.daemon()
    assert queue.wait([1, 7])[0].state == "delivered"
    by = rf"delivered {PASSED}: HTTP 200 in \d\S* m?s"
    says("1,3", f"1  {by}", f"3  released {AT} as 7", f"  7  {by}")


@each_engine
def test_the_way_of_a_dead_letter(forwarder, queue, run, says):
    """Refused in Mixpanel's words, retried under another id, and deleted."""
    forwarder.daemon()
    forwarder("enqueue", "--no-check", stdin=json.dumps(BAD))
    assert queue.wait(1)[0].state == "dead"
    why = r"'properties\.time' is invalid: .*; `forwarder dead-letters show 1`"
    says("1", f"1  a dead letter since {AT}: {why}")
    assert run("dead-letters", "retry", "1", "--no-check")[0] == 0
    assert queue.wait(2)[0].state == "dead"
    run("dead-letters", "delete", "2")
    refused = r"deleted by a person, after it was refused in request 2"
    says("1", f"1  dead letter 1, retried {AT} as 2", f"  2  {refused}")
    says("2", f"2  {refused}")


@pytest.mark.parametrize("kind", ["profile", "group"])
def test_updates(kind, forwarder, queue, says, run):
    """Have ids of their own, in a queue of their own."""
    put = queue.put_profile if kind == "profile" else queue.put_group
    assert [put(update(n, kind)) for n in range(3)] == [1, 2, 3]
    says(f"2-3 --kind {kind}", f"2-3  {WAITS}1 before them", r"No daemon runs\.")
    says("1", "1  never accepted: the newest id is 0", code=1)
    forwarder.daemon()
    assert [receipt.state for receipt in queue.wait([1, 2, 3], kind=kind)] == ["delivered"]
    says(f"3 --kind {kind}", rf"3  delivered {AT}, by request 1 with 3 {kind} updates, at the first try: .*")


def test_an_event_that_is_deferred(forwarder, server, queue, says, until, run):
    """It waits for itself: with the reason, how often it was tried, and when it is next."""
    server.inject(Fault.poison(where=lambda event: event["properties"].get("bad", False)))
    ids = [queue.put(event(n, bad=n == 2)) for n in range(4)]
    forwarder.environ["FORWARDER_DELIVERY_RETRY_MAX_S"] = "600"
    forwarder.environ["FORWARDER_DELIVERY_RETRY_INITIAL_S"] = "60"
    forwarder.daemon()
    until(lambda: [receipt.state for receipt in queue.where(ids)] == ["delivered", "waiting", "delivered"])

    def deferred():
        (line,) = map(json.loads, run("where", "--json", "3")[1].splitlines())
        return line["deferred"]

    (told,) = until(deferred)
    assert (told["ids"], told["tries"] > 1, told["reason"]) == ("3", True, "Bad Request")
    says("3", rf"3  {WAITS}0 before it; deferred: Bad Request; tried \d+ times, next in \d+ s")


def test_an_outage(forwarder, server, queue, says, until):
    """What waits is told with what keeps all from being sent, said once."""
    server.inject(Fault.server_error())
    forwarder.environ["FORWARDER_DELIVERY_RETRY_MAX_S"] = "600"
    forwarder.environ["FORWARDER_DELIVERY_RETRY_INITIAL_S"] = "60"
    forwarder.daemon()
    queue.put_many([event(n) for n in range(3)])
    until(lambda: forwarder.json("status")["state"] == "backing_off")
    deferred = rf"{WAITS}0 before it; deferred: HTTP 503.*; tried once, next in \d.*"
    says("1 3", f"1  {deferred}", rf"3  {WAITS}2 before it.*", r"Delivery is backing off: HTTP 503.*\.")


def test_paused_and_halted(forwarder, queue, says, run, until):
    """Why nothing is sent, whoever is the cause."""
    run("pause")
    queue.put(event())
    says("1", f"1  {WAITS}.*", r"No daemon runs, and delivery is paused \(`forwarder resume`\)\.")
    daemon = forwarder.daemon()
    until(lambda: forwarder.json("status")["state"] == "paused")
    says("1", f"1  {WAITS}.*", r"Delivery is paused: .*\.")
    daemon.process.send_signal(signal.SIGSTOP)
    until(lambda: forwarder.json("status")["state"] == "blocked")
    says("1", f"1  {WAITS}.*", r"Delivery is blocked: process \d+ is halted by a signal.*")


def test_a_log_that_was_shortened(forwarder, queue, says, sql, queue_path):
    """What was delivered before it begins is not known any more; what came later and is gone was deleted."""
    daemon = forwarder.daemon()
    for number in range(4):
        queue.wait(queue.put(event(number)))
    daemon.stop()
    queue.put(event(4))
    sql(queue_path, "DELETE FROM deliveries WHERE id = 1")
    sql(queue_path, "DELETE FROM ack_queue_default WHERE _id = 5")
    says(
        "1-5",
        f"1  not known: the delivery log goes back to {AT}; it was delivered before, or deleted",
        *(rf"{n}  delivered {AT}, by request {n} with 1 event, .*" for n in (2, 3, 4)),
        "5  deleted by a person",
        code=1,
    )


def test_by_insert_id(forwarder, queue, run):
    """Where it waits, is held or is a dead letter; what was delivered is not found, which is said."""
    forwarder("enqueue", "--no-check", stdin=json.dumps(BAD))
    with forwarder.daemon().process:
        assert queue.wait([1, queue.put(event(1))])[1].state == "delivered"
        forwarder._daemons[-1].kill()
    queue.put_many([event(2), event(3), event(3)])
    run("waiting", "hold", "4")

    def found(*insert_ids):
        asked = [word for insert_id in insert_ids for word in ("--insert-id", insert_id)]
        code, out, err = run("where", "--json", *asked)
        return code, [(line["first"], line["state"]) for line in map(json.loads, out.splitlines())], err

    assert found("bad", "id-2") == (0, [(1, "dead"), (3, "waiting")], "")
    assert found("id-3") == (0, [(4, "held"), (5, "waiting")], "")
    code, lines, err = found("id-1", "id-2")
    assert (code, lines) == (1, [(3, "waiting")])
    assert "no event of the $insert_id id-1 waits or is a dead letter" in err
    assert "`forwarder enqueue --json`" in err
    assert run("where", "--insert-id", "x", "--kind", "profile")[0] == 64


def test_in_json(queue, run, forwarder):
    """Every key in each line; those that do not apply are null."""
    queue.put_many([event(n) for n in range(3)])
    done = forwarder("where", "--json", "-", stdin="2 9\n3")
    lines = [*map(json.loads, done.stdout.splitlines())]
    assert done.returncode == 1
    assert len({tuple(line) for line in lines}) == 1
    assert [{key: value for key, value in line.items() if value is not None} for line in lines] == [
        {"first": 2, "last": 3, "state": "waiting", "at": lines[0]["at"], "ahead": 1},
        {"first": 9, "last": 9, "state": "absent", "newest": 3},
    ]
    assert re.fullmatch(r"20\S+\.\d\d\dZ", lines[0]["at"])


@pytest.mark.parametrize("words", ["", "x", "5-", "9-5", "1-100001", "1--2"])
def test_what_is_no_id(words, queue, run):
    """Is a mistake on the command line, before anything is read."""
    assert run("where", *words.split())[0] == 64


def test_no_queue(run):
    """Nothing is known of any event."""
    code, out, err = run("where", "1")
    assert (code, out) == (1, "")
    assert "There is no queue" in err


def test_on_a_host_with_a_relay(postgres, queue_path, until):
    """Delivered means handed over; what waits for the server says so."""
    with closing(Host(queue_path, postgres, postgres.new_schema_name())) as host:
        host.set_up()
        host("enqueue", stdin="".join(json.dumps(event(n)) + "\n" for n in range(4)))
        assert host("where", "1-4").stdout.endswith("\nNo relay runs.\n")
        host.relay()
        until(lambda: host.here().due == 0)
        assert re.fullmatch(f"1-4  handed over to the server {PASSED}\n", host("where", "1-4").stdout)
        function = f"FUNCTION {host.schema}.hand_over(text, bigint, bigint[], bigint[], bytea[])"
        postgres.execute(f"REVOKE EXECUTE ON {function} FROM {host.schema}_producer")
        host("enqueue", stdin=json.dumps(event(5)))
        until(lambda: host.json("status")["state"] == "blocked")
        waits, state = host("where", "5").stdout.splitlines()
        assert re.fullmatch(
            rf"5  {WAITS}0 before it; deferred: .*permission.*; tried .*, next in \d+ s", waits
        )
        assert state.startswith("Delivery is blocked: ")


@each_engine
def test_from_python(queue, forwarder):
    """By an id, ids or runs; wait returns when none of them waits, or at the timeout."""
    first = queue.put(event(1))
    queue.put_many([event(n) for n in range(2, 12)])
    whole = first, first + 10
    for ids in (
        range(first, first + 11),
        [*range(first, first + 11)],
        [whole],
        iter([whole]),
        {whole, whole},
    ):
        (receipt,) = queue.where(ids)
        assert (receipt.first, receipt.last, receipt.state, receipt.ahead) == (*whole, "waiting", 0)
    assert queue.where([]) == []
    began_at = time.monotonic()
    (receipt,) = queue.wait(first + 3, timeout_s=0.3)
    assert (receipt.state, receipt.ahead) == ("waiting", 3)
    assert 0.3 <= time.monotonic() - began_at < 3
    forwarder.daemon()
    (receipt,) = queue.wait(iter(range(first, first + 11)))
    assert (receipt.state, receipt.events, receipt.http_status) == ("delivered", 11, 200)
    with pytest.raises(KeyError):
        queue.where(1, kind="events")


@each_engine
def test_ids_of_those_who_put_at_once(queue_path, queue):
    """Each gets the ids of its own rows, in their order, whatever others put in between."""
    import threading

    from forwarder import spool

    found, lock = {}, threading.Lock()

    def put(number):
        with closing(
            spool.at(queue_path).producer(max_bytes=10**9, min_free_bytes=0, lock_timeout_s=20.0)
        ) as producer:
            for turn in range(10):
                records = [json.dumps(event(f"{number}-{turn}-{n}")).encode() for n in range(5)]
                ids = producer.append(records, [(b"x", f"dead {number}-{turn}")] if turn % 2 else ())
                with lock:
                    found.update(zip(ids, [*records, b"x"], strict=False))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with spool.at(queue_path, KINDS["event"]).view() as view:
        there = {row.id: row.data for row in view.peek(1000)}
        there |= {letter.event_id: letter.data for letter in view.dead_letters(spool.Selection())}
    assert there == found
    assert text_of([(min(found), max(found))]) == "1-220"


def test_a_request_of_before_does_not_say_that_a_refused_event_was_delivered(queue, queue_path, sql):
    """Tables of version 3 did not have which ids were refused; the letter is deleted since."""
    queue.put_many([event(number) for number in range(3)])
    place = spool.at(queue_path)
    with closing(place.consumer()) as consumer:
        consumer.settle(Settlement([1, 2], [Dead(2, b"{}", "bad")]))
        consumer.settle(Settlement([3]))
    place.delete_dead_letters([1])
    assert [each.state for each in queue.where([1, 2, 3])] == ["delivered", "deleted", "delivered"]
    sql(queue_path, "UPDATE deliveries SET dead_ids = ''")
    assert [each.state for each in queue.where([1, 2, 3])] == ["unknown", "delivered"]


def test_what_counts_as_ids(queue):
    """Whatever is a whole number; anything else is a mistake of the caller's, and no fault of the queue."""

    class Scalar:
        def __index__(self):
            return 1

    queue.put(event())
    for given in (1, True, Scalar(), [Scalar()], {1}, (1,), [(1, 1)], [[1, 1]], range(1, 2)):
        assert [(each.first, each.state) for each in queue.where(given)] == [(1, "waiting")], given
    with pytest.raises(ValueError, match="the first comes first"):
        queue.where([(5, 1)])
    for wrong in ("17", 1.5, [1.5], None):
        with pytest.raises(TypeError):
            queue.wait(wrong, timeout_s=0)
