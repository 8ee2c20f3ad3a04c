"""Programs that use the queue with plain persist-queue, and files that anybody may have written to."""

import json
import shutil
import subprocess
import sys
import threading
from contextlib import closing

import persistqueue
import pytest
from persistqueue.serializers import json as plain_json

from forwarder import salvage
from forwarder.records.event import accept
from forwarder.spool import AckQueue, DamagedError, Dead, EventQueue, Selection, Settlement
from forwarder.spool.sqlite import books, set_aside
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.view import View

MIB = 1 << 20
ALL = Selection()


def event(number):
    return {"event": "A", "properties": {"distinct_id": "u-1", "number": number}}


@pytest.fixture
def plain(queue, queue_path):
    """The same queue, opened by plain persist-queue."""
    plain = persistqueue.SQLiteAckQueue(queue_path, serializer=plain_json)
    yield plain
    plain.close()


def insert(sql, queue_path, value, timestamp="1.6e9", status=0):
    sql(
        queue_path,
        f"INSERT INTO ack_queue_default (data, timestamp, status) VALUES ({value}, {timestamp}, {status})",
    )


def drain(consumer):
    """Deliver everything; returns the events by row id."""
    delivered, after_id = {}, 0
    while (claim := consumer.claim_behind(after_id, 100, MIB)).last_id > after_id:
        delivered.update(zip(claim.ids, claim.events, strict=True))
        if claim.ids:
            consumer.settle(Settlement(claim.ids))
        after_id = claim.last_id
    return delivered


def letters(queue_path):
    with View(queue_path) as view:
        return view.dead_letters(ALL)


# Producers


def test_plain_producer_is_a_producer(consumer, plain, queue_path, figures):
    """What plain persist-queue puts is an event: completed from its row, the same at each try."""
    assert plain.put(event(7)) == 1
    claim = consumer.claim_behind(0, 10, MIB)
    properties = json.loads(claim.events[0])["properties"]
    [(_, _, put_at, _)] = plain._getter.execute("SELECT * FROM ack_queue_default").fetchall()
    assert properties["time"] == int(put_at * 1000)
    assert len(properties["$insert_id"]) == 32
    again = Consumer(queue_path)
    assert again.claim_behind(0, 10, MIB) == claim
    again.settle(Settlement(claim.ids))
    again.close()
    assert (figures(queue_path).accepted, figures(queue_path).delivered) == (1, 1)


def test_copies_of_a_queue_tell_their_events_apart(queue_path, tmp_path):
    """In two copies of a directory, as of a machine's image, the same row holds different events: these get
    different ids, or Mixpanel would drop one."""
    EventQueue(queue_path).close()
    ids = []
    for number in range(2):
        copy = str(tmp_path / f"copy-{number}")
        shutil.copytree(queue_path, copy)
        external = persistqueue.SQLiteAckQueue(copy, serializer=plain_json)
        assert external.put(event(number)) == 1
        external.close()
        with closing(Consumer(copy)) as consumer:
            [data] = consumer.claim_behind(0, 10, MIB).events
        ids.append(json.loads(data)["properties"]["$insert_id"])
    assert ids[0] != ids[1]


def test_what_mixpanel_would_misread_goes_to_the_dead_letters(consumer, plain, queue_path, figures):
    """A plain producer's event with data beside its properties, or NaN in them, is kept, and why."""
    plain.put({"event": "Aside", "time": 1_600_000_000, "distinct_id": "u", "properties": {}})
    plain.put({"event": "Sold", "properties": {"cart": [{"price": float("nan")}]}})
    plain.put({"event": "Kept", "userId": "u", "properties": {"time": 1_600_000_000.5}})
    claim = consumer.claim_behind(0, 10, MIB)
    [kept] = claim.events
    assert json.loads(kept)["properties"]["time"] == 1_600_000_000_500
    aside, sold = letters(queue_path)
    assert (aside.event, sold.event) == ("Aside", "Sold")
    assert aside.reason.startswith(
        "'time' and 'distinct_id' beside 'properties' would be ignored by Mixpanel"
    )
    assert sold.reason.startswith("'properties.cart[0].price' is invalid: NaN is not JSON")
    assert figures(queue_path).dead_letters == 2


def test_plain_and_own_producers_at_once(consumer, queue, queue_path, until, figures):
    """A plain producer in another process, our own here, and the consumer during both: each event is
    delivered once, and the books balance."""
    code = (
        "import sys, persistqueue\n"
        "from persistqueue.serializers import json\n"
        "plain = persistqueue.SQLiteAckQueue(sys.argv[1], serializer=json)\n"
        "for n in range(200): plain.put({'event': 'A', 'properties': {'number': n}})\n"
    )
    external = subprocess.Popen([sys.executable, "-c", code, queue_path])

    def put_own():
        for number in range(200, 400):
            queue.put(event(number))

    own = threading.Thread(target=put_own)
    own.start()
    delivered = {}
    while external.poll() is None or own.is_alive() or consumer.last_id() > len(delivered):
        delivered.update(drain(consumer))
    own.join()
    assert external.returncode == 0
    found = sorted(json.loads(data)["properties"]["number"] for data in delivered.values())
    assert found == list(range(400))
    assert (figures(queue_path).delivered, figures(queue_path).waiting) == (400, 0)


def test_rows_keep_their_order(consumer, queue, plain):
    """Rows of external producers and our own are delivered in the order in which they came."""
    for number in range(6):
        (plain if number % 2 else queue).put(event(number))
    delivered = [json.loads(data)["properties"]["number"] for data in drain(consumer).values()]
    assert delivered == list(range(6))


# Rows that are no events


def test_default_serializer_of_a_plain_producer(consumer, queue, queue_path, figures):
    """A plain producer that was left at its pickle default hurts only its own events."""
    plain = persistqueue.SQLiteAckQueue(queue_path)
    plain.put(event(1))
    plain.close()
    queue.put(event(2))
    assert [json.loads(data)["properties"]["number"] for data in drain(consumer).values()] == [2]
    assert len(letters(queue_path)) == 1
    assert figures(queue_path).dead_lettered == 1


NO_EVENTS = {
    "NULL": ("NULL", b""),
    "integer": ("5", b"5"),
    "zero": ("0", b"0"),
    "real": ("0.5", b"0.5"),
    "empty text": ("''", b""),
    "empty bytes": ("x''", b""),
    "text that is no UTF-8": ("CAST(x'7bff7d' AS TEXT)", b"\x7b\xff\x7d"),
    "text with a lone surrogate": ("CAST(x'eda080' AS TEXT)", b"\xed\xa0\x80"),
    "text with a zero": ("CAST(x'7b007d' AS TEXT)", b"{\0}"),
    "a JSON list": ("'[]'", b"[]"),
    "no properties": ("""'{"event":"A"}'""", b'{"event":"A"}'),
    "more than 1 MB": ("zeroblob(1000001)", bytes(1_000_001)),
}


@pytest.mark.parametrize("status", [0, 1])
@pytest.mark.parametrize("name", NO_EVENTS)
def test_whatever_stands_in_a_row(consumer, queue, queue_path, sql, name, status, figures):
    """A row that holds no event goes to the dead letters, as it was, and holds back no other."""
    value, data = NO_EVENTS[name]
    queue.put(event(1))
    insert(sql, queue_path, value, status=status)
    queue.put(event(2))
    with View(queue_path) as view:
        assert len(view.peek(10)) == 3
    assert list(drain(consumer)) == [1, 3]
    [letter] = letters(queue_path)
    assert (letter.event_id, letter.data) == (2, data if value != "NULL" else letter.data)
    found = figures(queue_path)
    assert (found.accepted, found.delivered, found.dead_lettered, found.waiting) == (3, 2, 1, 0)


@pytest.mark.parametrize("timestamp", ["NULL", "'yesterday'", "-1", "9e999", "1e300", "x'00'", "''"])
def test_whatever_stands_as_timestamp(consumer, queue_path, sql, timestamp, figures):
    """An event whose row has no usable time gets the queue's, the same at each try; looking at it works."""
    insert(sql, queue_path, "'" + json.dumps(event(1)) + "'", timestamp)
    [stored] = consumer.claim_behind(0, 10, MIB).events
    again = Consumer(queue_path)
    assert again.claim_behind(0, 10, MIB).events == [stored]
    with View(queue_path) as view:
        assert view.figures().oldest_waiting_at is None
        assert view.peek(1)[0].accepted_at == 0.0
    [(created_at,)] = sql(queue_path, "SELECT created_at FROM ledger")
    assert json.loads(stored)["properties"]["time"] == int(created_at * 1000)
    assert len(drain(again)) == 1
    again.close()


def test_text_is_as_good_as_bytes(consumer, queue_path, sql):
    """An event that somebody has put as text, by hand, is an event."""
    text = json.dumps(event("é"), ensure_ascii=False)
    insert(sql, queue_path, f"'{text}'")
    [stored] = drain(consumer).values()
    assert json.loads(stored)["properties"]["number"] == "é"


@pytest.mark.parametrize("status", ["NULL", "'odd'", "7", "-1"])
def test_whatever_stands_as_status(consumer, queue_path, sql, status, figures):
    """An event with a status that means nothing is delivered."""
    insert(sql, queue_path, "'" + json.dumps(event(1)) + "'", status=status)
    assert list(drain(consumer)) == [1]
    assert figures(queue_path).delivered == 1


# Consumers


def test_leftovers_of_a_plain_consumer(consumer, queue, plain, queue_path, sql, figures):
    """What a plain consumer has taken, nacked or given up is delivered; what it has acked is deleted and
    counted as deleted; the books balance."""
    for number in range(10):
        (plain if number < 6 else queue).put(event(number))
    taken = [plain.get(raw=True) for _ in range(8)]
    plain.ack(taken[0])
    plain.ack(taken[7])
    plain.nack(taken[1])
    plain.nack(taken[6])
    plain.ack_failed(taken[2])
    statuses = [status for (status,) in sql(queue_path, "SELECT status FROM ack_queue_default ORDER BY _id")]
    assert statuses == [5, 1, 9, 2, 2, 2, 1, 5, 1, 1]
    delivered = drain(consumer)
    assert list(delivered) == [2, 3, 4, 5, 6, 7, 9, 10]
    for number, data in zip([1, 2, 3, 4, 5, 6, 8, 9], delivered.values(), strict=True):
        properties = json.loads(data)["properties"]
        assert properties["number"] == number
        assert {"time", "$insert_id"} <= properties.keys()
    found = figures(queue_path)
    assert (found.accepted, found.delivered, found.deleted, found.waiting) == (10, 8, 2, 0)


def test_nacked_row_is_completed_like_before(consumer, plain, queue_path):
    """A row that a plain consumer puts back as ready, unchecked, is still completed, to the same bytes."""
    plain.put(event(1))
    before = consumer.claim_behind(0, 10, MIB).events
    plain.nack(plain.get(raw=True))
    assert consumer.claim_behind(0, 10, MIB).events == before
    assert b'"$insert_id"' in before[0]


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize(
    "properties",
    [
        {"kind": "time", "id": "$insert_id"},
        {"inner": {"time": 1, "$insert_id": "x"}},
        {"inner": {"properties": {"time": 1_600_000_000_000, "$insert_id": "x"}}},
        {"time": 1, "inner": {"$insert_id": "x"}},
    ],
    ids=str,
)
def test_nacked_row_is_completed_whatever_it_mentions(consumer, queue_path, sql, properties, separators):
    """Only properties of the event's own count: as values or further in, their names mean nothing."""
    text = json.dumps({"event": "A", "properties": properties}, separators=separators)
    insert(sql, queue_path, f"'{text}'", status=1)
    [sent] = consumer.claim_behind(0, 10, MIB).events
    found = json.loads(sent)["properties"]
    assert {"time", "$insert_id"} <= found.keys()
    assert {**found, **properties} == found


@pytest.mark.parametrize(
    "line",
    [
        b'{"event":"A","properties":{"inner":{"time":1}}}',
        b'{ "event" : "A" , "properties" : { "time" : 1600000000 , "$insert_id" : "x" } }',
        b'{"properties":{"$insert_id":"x","a":"\\"time\\":"},"event":"A"}',
    ],
)
def test_own_rows_are_passed_on_as_they_are(consumer, queue, rows, queue_path, line):
    """What a producer of ours has stored is sent byte by byte."""
    queue.append([accept(line, 1_700_000_000_000)])
    assert consumer.claim_behind(0, 10, MIB).events == rows(queue_path)


def test_rows_that_a_plain_consumer_clears_are_accounted(consumer, queue, plain, queue_path, figures):
    """What others delete from the table is counted as deleted as soon as nothing else waits."""
    queue.put_many(event(number) for number in range(20))
    for _ in range(10):
        plain.ack(plain.get())
    plain.clear_acked_data(max_delete=0, keep_latest=0)
    consumer.maintain(at_rest=True)
    with View(queue_path) as view:
        assert (view.figures().waiting, view.figures().deleted) == (20, 0), "rows are there still"
    assert list(drain(consumer)) == list(range(11, 21))
    consumer.maintain(at_rest=True)
    found = figures(queue_path)
    assert (found.accepted, found.delivered, found.deleted, found.waiting) == (20, 10, 10, 0)
    queue.put(event(20))
    consumer.maintain(at_rest=True)
    assert (figures(queue_path).deleted, figures(queue_path).waiting) == (10, 1)


def test_only_acked_rows(consumer, plain, queue_path, figures):
    """A claim that only finds acked rows sweeps them and moves on."""
    for number in range(5):
        plain.put(event(number))
        plain.ack(plain.get())
    claim = consumer.claim_behind(0, 3, MIB)
    assert (claim.ids, claim.last_id) == ([], 3)
    assert consumer.claim_behind(3, 3, MIB).last_id == 5
    found = figures(queue_path)
    assert (found.accepted, found.deleted, found.waiting, found.last_delivery_at) == (5, 5, 0, None)


def test_plain_consumer_reads_our_events(queue, plain, rows, queue_path):
    """A queue of ours opens in plain persist-queue: what we put it gets, as the same JSON."""
    queue.put(event(1))
    assert plain.get() == json.loads(rows(queue_path)[0])


def test_opening_by_an_external_producer_harms_nothing(consumer, queue, queue_path, figures):
    """An external producer that opens the queue while events are in flight neither loses nor settles any."""
    queue.put_many(event(number) for number in range(3))
    claim = consumer.claim_behind(0, 10, MIB)
    external = persistqueue.SQLiteAckQueue(queue_path, serializer=plain_json)
    assert external.qsize() == 3
    external.close()
    consumer.settle(Settlement(claim.ids))
    assert figures(queue_path).delivered == 3


@pytest.mark.parametrize("timestamp", ["NULL", "'yesterday'"])
def test_dead_letter_without_a_time_has_that_of_the_queue(consumer, queue_path, sql, timestamp):
    """What has no usable timestamp counts as put when the queue was made, also as a dead letter."""
    insert(sql, queue_path, "x'ff'", timestamp)
    drain(consumer)
    with View(queue_path) as view:
        [letter] = view.dead_letters(ALL)
        assert [(letter.accepted_at,)] == sql(queue_path, "SELECT created_at FROM ledger")


# Ids

LAST_ID = 2**63 - 1
IMPLAUSIBLE = {
    "the last id": (LAST_ID, "INSERT INTO ack_queue_default VALUES ({id}, '{event}', 1.6e9, 0)"),
    "nearly the last id": (LAST_ID - 1, "INSERT INTO ack_queue_default VALUES ({id}, '{event}', 1.6e9, 0)"),
    "an id of the year 11500": (
        2**53 + 1,
        "INSERT INTO ack_queue_default VALUES ({id}, '{event}', 1.6e9, 0)",
    ),
    "a sequence": (LAST_ID, "UPDATE sqlite_sequence SET seq = {id} WHERE name = 'ack_queue_default'"),
}


@pytest.fixture(params=IMPLAUSIBLE)
def implausible(request, queue, queue_path, sql):
    """A queue of three events, where an external producer has used up the ids."""
    queue.put_many(event(number) for number in range(3))
    row_id, statement = IMPLAUSIBLE[request.param]
    sql(queue_path, statement.format(id=row_id, event=json.dumps(event(9))))
    return "INSERT" in statement


@pytest.mark.parametrize("is_many", [False, True])
def test_a_row_with_the_last_id_does_not_end_intake(
    implausible, queue, queue_path, tmp_path, figures, is_many
):
    """The next producer is not told of a full disk: the database counts as damaged, and is set aside."""
    if is_many:
        queue.put_many([event(10)])
    else:
        queue.put(event(10))
    assert figures(queue_path).accepted == 1
    [file] = set_aside.damaged(queue_path)
    assert salvage.plan(file).waiting is None, "its books can't be right"
    salvage.apply(file, queue_path)
    found = figures(queue_path)
    assert (found.accepted, found.waiting) == (4 + implausible,) * 2
    consumer = Consumer(queue_path)
    numbers = [json.loads(data)["properties"]["number"] for data in drain(consumer).values()]
    consumer.close()
    assert sorted(numbers) == [0, 1, 2, *[9] * implausible, 10]


def test_a_row_with_the_last_id_does_not_end_the_intake_of_ack_queue(implausible, queue_path, figures):
    """Nor is an event accepted with an id that no daemon claims."""
    with closing(AckQueue(queue_path)) as ack_queue:
        ack_queue.put(event(10))
    assert (figures(queue_path).accepted, len(set_aside.damaged(queue_path))) == (1, 1)


def test_check_sees_that_the_ids_are_used_up(implausible, queue_path):
    """A row or a sequence with an id that no queue comes to is a fault that is named."""
    with View(queue_path) as view:
        faults = [finding.detail for finding in books.check(view) if not finding.ok]
    assert any("the ids in ack_queue_default" in detail for detail in faults)


def test_a_daemon_delivers_what_it_can_before_the_ids_are_used_up(implausible, queue_path):
    """All with a plausible id is delivered; only then is the rest set aside with the database."""
    consumer = Consumer(queue_path)
    assert list(drain(consumer)) == [1, 2, 3]
    with pytest.raises(DamagedError, match="a row id is too large"):
        consumer.maintain(at_rest=True)
    with View(queue_path) as view:
        assert (view.figures().delivered, view.figures().deleted) == (3, 0), "nothing of it was made up"
    consumer.close()


def test_dead_letters_with_the_last_id_are_no_full_disk(queue, queue_path, consumer, sql):
    """Where an external producer has used up the ids of the dead letters, no room is waited for."""
    queue.put(event(1))
    sql(
        queue_path,
        "INSERT INTO dead_letters VALUES (?, 1, '', '', 'mine', '', NULL, 1.6e9, 1.6e9, x'7b7d')",
        (LAST_ID,),
    )
    with pytest.raises(DamagedError, match="a row id is too large"):
        consumer.settle(Settlement([1], [Dead(1, b"{}", "refused")]))


def test_salvage_sets_aside_where_the_ids_are_used_up(implausible, queue_path, figures):
    """What `check` says to do about it can be done before a producer comes by."""
    salvage.apply(salvage.set_own_aside(queue_path), queue_path)
    assert figures(queue_path).waiting == 3 + implausible
