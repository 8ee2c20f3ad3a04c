"""What each verb of `forwarder.spool` must do, whatever the engine behind it.

Held against the embedded and the replicated engine, for each kind of records, and against one in memory,
which shows that nothing of SQLite is in it.
"""

import json
import os
import pickle
import random
import time
import warnings
from contextlib import closing

import pytest

from forwarder import spool as spools
from forwarder.errors import EventError
from forwarder.records import KINDS
from forwarder.spool import (
    Bookmark,
    BookmarkMovedError,
    Dead,
    Move,
    NoQueueError,
    Period,
    QueueReplacedError,
    Selection,
    Settlement,
    SpoolFullError,
    TakenError,
)
from forwarder.spool.history import merged
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.engine import Spool as PostgresqlSpool
from forwarder.spool.postgresql.setup import setup
from tests.engine import memory

MIB = 1024 * 1024
ALL = Selection()
LIMITS = {"max_bytes": 10**9, "min_free_bytes": 0, "lock_timeout_s": 10.0}


EVENTS_ONLY = pytest.mark.parametrize("absent", ["event", "memory", "postgresql-event"], indirect=True)
# What stands for an event's name in an update.
OPERATIONS = {"signup": "$set", "login": "$union", "signed": "$set_once"}
IDS = {"profile": ("$distinct_id",), "group": ("$group_id", "$group_key")}
kind = "event"


ENGINES = [*KINDS, "memory", *(f"postgresql-{kind}" for kind in KINDS)]


@pytest.fixture(params=ENGINES)
def absent(request, tmp_path):
    """A queue that is not there yet."""
    global kind  # what `record` makes
    engine, _, which = request.param.rpartition("-")
    kind = "event" if which == "memory" else which
    if which == "memory":
        return memory.Spool()
    if not engine:
        return spools.at(tmp_path / "queue", KINDS[kind])
    server = request.getfixturevalue("postgres")
    return PostgresqlSpool(Address(server.url(), server.new_schema_name(), standbys=0), KINDS[kind])


@pytest.fixture
def spool(absent):
    """An empty queue, which may not be there yet."""
    if isinstance(absent, PostgresqlSpool):
        setup(absent.address)
    return absent


@pytest.fixture
def producer(spool):
    with closing(spool.producer(**LIMITS)) as producer:
        yield producer


@pytest.fixture
def consumer(spool, producer):
    """The one that delivers, from a queue in which records 0 to 9 wait."""
    producer.append([record(number) for number in range(10)])
    with closing(spool.consumer()) as consumer:
        consumer.arrivals()
        yield consumer


def called(name):
    """What stands for a name in what `record` makes."""
    return name if kind == "event" else OPERATIONS[name]


def record(number, name="signup"):
    if kind != "event":
        ids = dict.fromkeys(IDS[kind], f"id-{number}")
        return json.dumps({"$token": "t", **ids, called(name): {}, "$time": 1}).encode()
    return json.dumps({"event": name, "properties": {"time": 1, "$insert_id": f"id-{number}"}}).encode()


def number_of(data):
    found = json.loads(data)
    return int((found.get("properties", {}).get("$insert_id") or found[IDS[kind][0]])[3:])


def numbers(claim):
    return [number_of(data) for data in claim.events]


def figures(spool):
    """The durable figures, once they are proven to balance and what is stored to be sound."""
    with spool.view() as view:
        assert [finding for finding in view.check() if not finding.ok] == []
        found = view.figures()
    assert found.accepted == found.delivered + found.dead_lettered + found.deleted + found.waiting
    assert found.dead_lettered == found.dead_letters + found.retried + found.discarded
    return found


def refuse(spool, consumer, *reasons, **why):
    """Have the next records refused, each for one of the *reasons*."""
    claim = consumer.claim(len(reasons), MIB)
    pairs = zip(claim.ids, claim.events, reasons, strict=True)
    dead = [Dead(row_id, data, reason, **why) for row_id, data, reason in pairs]
    consumer.settle(Settlement(claim.ids, dead, http_status=400))
    return claim


def elsewhere(look):
    """What *look* gives in another process."""
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads; none has a lock here
        child = os.fork()
    if not child:
        try:
            os.write(theirs, pickle.dumps(look()))
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as answer:
        found = pickle.load(answer)
    os.waitpid(child, 0)
    return found


# The way in


def test_nothing_is_there_before_the_first_verb(absent):
    """To look at a queue that is not there makes none, and says so."""
    for _ in range(2):
        with pytest.raises(NoQueueError):
            absent.view()
    assert absent.holder() is None
    assert absent.set_aside() == []


def test_append_gives_rows_in_order(spool, producer):
    """What was appended waits in the order of its ids, which are returned, as the bytes it was."""
    (first,) = producer.append([record(0)])
    ids = [first, *producer.append([record(1), record(2)])]
    with spool.view() as view:
        rows = view.peek(10)
        assert [row.data for row in rows] == [record(0), record(1), record(2)]
        assert [row.id for row in rows] == ids
        assert [row.id for row in view.peek(1, after_id=first)] == [rows[1].id]
    found = figures(spool)
    assert (found.accepted, found.waiting, found.oldest_waiting_at) == (3, 3, rows[0].accepted_at)


def test_append_refuses_what_does_not_fit(spool, producer):
    """Where the limit is reached nothing is stored, and what waits stays."""
    producer.append([record(0)])
    with closing(spool.producer(**LIMITS | {"max_bytes": 10})) as full, pytest.raises(SpoolFullError):
        full.append([record(1), record(2)])
    assert figures(spool).accepted == 1


def test_append_takes_what_is_no_record_as_a_dead_letter(spool, producer, consumer):
    """It is accepted and dead-lettered in the same commit, beside good ones or alone, and never claimed."""
    consumer.claim(10, MIB)
    good, *bad = producer.append([record(10)], [(b"[1", "not JSON"), (b"{}", "not an event")])
    bad += producer.append([], [(b"\x00", "NUL")])
    with spool.view() as view:
        found = view.dead_letters(ALL)
        assert [(each.data, each.reason) for each in found] == [
            (b"[1", "not JSON"), (b"{}", "not an event"), (b"\x00", "NUL")
        ]  # fmt: skip
        assert [each.event_id for each in found] == bad
    consumer.arrivals()
    claim = consumer.claim(10, MIB)
    assert (numbers(claim), list(claim.ids)) == ([10], [good])
    found = figures(spool)
    assert (found.accepted, found.waiting, found.dead_letters) == (14, 11, 3)


def test_append_of_dead_ones_refuses_what_does_not_fit(spool, producer):
    """Where the limit is reached, nothing is stored of them either."""
    producer.append([record(0)])
    with closing(spool.producer(**LIMITS | {"max_bytes": 10})) as full, pytest.raises(SpoolFullError):
        full.append([record(1)], [(b"x", "not JSON")])
    assert (figures(spool).accepted, figures(spool).dead_letters) == (1, 0)


PLACE = ("/var/log/app.log", "8:1:77")


def test_a_bookmark_moves_in_the_commit_of_its_records(spool, producer):
    """With records, with none, from its old place and from others, whichever that file was found by."""
    first = Bookmark(*PLACE, 2, "aa")
    assert producer.bookmarks(*PLACE) == []
    assert len(producer.append([record(0), record(1)], move=Move((), first))) == 2
    second, moved = Bookmark(*PLACE, 3, "bb"), Bookmark("/moved", PLACE[1], 4, "cc")
    assert len(producer.append([], move=Move((first,), second))) == 0
    other = Bookmark(PLACE[0], "8:1:78", 1, "dd")
    producer.append([record(2)], [(b"[", "not JSON")], move=Move((), other))
    assert sorted(producer.bookmarks(*PLACE)) == [second, other]
    producer.append([record(3)], move=Move((second, other), moved))
    assert producer.bookmarks("/elsewhere", PLACE[1]) == producer.bookmarks("/moved", "") == [moved]
    assert producer.bookmarks(PLACE[0], "") == []
    assert figures(spool).accepted == 5


def test_a_bookmark_that_was_moved_by_another_stops_the_append(spool, producer):
    """Nothing is stored, whether the old one is gone or changed, or the new one is there already."""
    first, second = (Bookmark(*PLACE, done, "aa") for done in (1, 2))
    producer.append([record(0)], move=Move((), first))
    with closing(spool.producer(**LIMITS)) as late:
        for move in (
            Move((), second),
            Move((second,), first),
            Move((first._replace(digest="bb"),), second),
            Move((first, Bookmark("/gone", "", 1, "")), second),
        ):
            with pytest.raises(BookmarkMovedError):
                late.append([record(1)], move=move)
    assert producer.bookmarks(*PLACE) == [first]
    assert figures(spool).accepted == 1


# The way out


def test_what_was_being_sent_is_known_to_the_next_consumer(spool, consumer):
    """Also what was sent and not settled; what came back or was settled is not doubtful any more."""
    claim = consumer.claim(6, MIB)
    assert list(claim.doubtful) == []
    consumer.mark_sent(claim.ids[:5])
    consumer.mark_sent(claim.ids[1:2], sent=False)
    consumer.settle(Settlement(claim.ids[:1]))
    consumer.close()
    with closing(spool.consumer()) as following:
        following.arrivals()
        again = following.claim(10, MIB)
    assert numbers(again) == [*range(1, 10)]
    assert list(again.doubtful) == list(claim.ids[2:5])
    with pytest.raises(QueueReplacedError):
        consumer.mark_sent(claim.ids[5:])


def test_what_is_being_sent_and_must_not_be_repeated_is_not_held(spool, consumer):
    """Released, it would be sent again, though it may have counted."""
    claim = consumer.claim(3, MIB)
    assert consumer.mark_sent(claim.ids[:1]) == 1
    assert spool.hold(claim.ids) == 2
    assert consumer.mark_sent(claim.ids) == 1
    consumer.settle(Settlement(claim.ids[:1]))
    found = figures(spool)
    assert (found.delivered, found.held, found.waiting) == (1, 2, 9)


def test_refusals_are_counted(spool, producer):
    """What was refused is counted by its word, once for all, and is none of the rows."""
    producer.refuse({"time": 2, "value": 1})
    producer.append([record(1)])
    producer.refuse({"time": 1})
    producer.close()
    with spool.view() as view:
        assert view.refused() == {"time": 3, "value": 1}
    assert figures(spool).accepted == 1


def test_each_row_is_claimed_once(consumer):
    """Oldest first, at most so many, until none is left; what comes later is claimed next."""
    assert numbers(consumer.claim(4, MIB)) == [0, 1, 2, 3]
    claim = consumer.claim(4, MIB)
    assert (numbers(claim), claim.left) == ([4, 5, 6, 7], 2)
    claim = consumer.claim(4, MIB)
    assert (numbers(claim), claim.left) == ([8, 9], 0)
    assert len(consumer.claim(4, MIB).ids) == 0


def test_arrivals(consumer, producer):
    """They count what waits behind the claims, and there is news of them."""
    assert consumer.arrivals() == 10
    consumer.claim(10, MIB)
    assert consumer.arrivals() == 0
    before = consumer.control().version
    assert consumer.control().version == before
    producer.append([record(10), record(11)])
    assert consumer.control().version != before
    assert consumer.arrivals() == 2
    assert numbers(consumer.claim(10, MIB)) == [10, 11]
    # Opened again, it has news of what came meanwhile, too.
    before = consumer.control().version
    consumer.reopen()
    producer.append([record(12)])
    assert consumer.control().version != before


def test_a_claim_is_bound_by_bytes(consumer):
    """Line ends are counted; one row alone is always taken."""
    size_bytes = len(record(0)) + 1
    claim = consumer.claim(10, 3 * size_bytes)
    assert (len(claim.ids), claim.size_bytes) == (3, 3 * size_bytes)
    assert len(consumer.claim(10, 3 * size_bytes - 1).ids) == 2
    assert len(consumer.claim(10, 1).ids) == 1


def test_a_sample_stays(consumer):
    """The next, the newest or one between them; all are claimed afterwards all the same."""
    consumer.claim(2, MIB)
    assert [numbers(consumer.sample(place)) for place in (0.0, 0.5, 1.0)] == [[2], [5], [9]]
    assert numbers(consumer.claim(10, MIB)) == list(range(2, 10))
    assert len(consumer.sample(0.5).ids) == 0


def test_read_again(consumer):
    """The same bytes for the same ids, in any choice; those that are gone are left out."""
    claim = consumer.claim(10, MIB)
    assert [*consumer.read_again(claim.ids, claim.size_bytes).events] == [*claim.events]
    some = [claim.ids[n] for n in (1, 4, 5, 9)]
    consumer.settle(Settlement([some[1]]))
    again = consumer.read_again(some, 4 * (len(record(0)) + 1))
    assert ([*again.ids], numbers(again)) == ([some[0], some[2], some[3]], [1, 5, 9])
    assert again.size_bytes == sum(map(len, again.events)) + 3


def test_settle(spool, consumer):
    """Rows leave, delivered or dead, in any order and with gaps; the books have all of it."""
    claim = consumer.claim(10, MIB)
    ids = [claim.ids[n] for n in (1, 2, 5, 9)]
    dead = [Dead(ids[2], claim.events[5], "'properties.time' is invalid", "properties.time", 400)]
    consumer.settle(Settlement(ids, dead, short=1, size_bytes=400, http_status=400, tries=2, took_s=0.25))
    found = figures(spool)
    assert (found.accepted, found.delivered, found.dead_lettered, found.waiting) == (10, 3, 1, 6)
    assert found.short == 1
    assert found.last_delivery_at is not None
    with spool.view() as view:
        assert [row.data for row in view.peek(10)] == [record(n) for n in (0, 3, 4, 6, 7, 8)]
        [letter] = view.dead_letters(ALL)
    assert (letter.event_id, letter.data) == (ids[2], record(5))
    assert (letter.event, letter.insert_id) == (called("signup"), "id-5")
    assert (letter.reason, letter.field, letter.http_status) == (dead[0].reason, dead[0].field, 400)
    assert 0 < letter.accepted_at <= letter.dead_at


def test_what_was_not_settled_waits_again(spool, consumer):
    """Whoever comes next claims it again, with the same bytes; the one before can do nothing any more."""
    claim = consumer.claim(4, MIB)
    consumer.settle(Settlement(claim.ids[:2]))
    with closing(spool.consumer()) as second:
        assert second.arrivals() >= 8
        assert numbers(second.claim(10, MIB)) == list(range(2, 10))
        for verb in (lambda: consumer.settle(Settlement(claim.ids[2:])), consumer.control, consumer.arrivals):
            with pytest.raises(QueueReplacedError):
                verb()
    assert figures(spool).waiting == 8


def test_keeping_house_comes_to_an_end(spool, consumer):
    """At rest there is nothing more to do in the end, and nothing has changed for it."""
    consumer.settle(Settlement(consumer.claim(5, MIB).ids))
    assert consumer.maintain(at_rest=False)
    for _ in range(20):
        if not consumer.maintain(at_rest=True):
            break
    else:
        pytest.fail("it never ends")
    assert (figures(spool).waiting, numbers(consumer.claim(10, MIB))) == (5, [5, 6, 7, 8, 9])


# What a person asks for


def minute(number, **what):
    """The minute that ends so many minutes after the epoch, of a daemon that started with it."""
    return Period(number * 60.0, 60.0, 0.0, **what)


def test_history_is_kept_by_the_minute_and_by_the_hour(spool, consumer):
    """Each minute comes back as it was; the first one of an hour makes the sum of those before it."""
    whole = Period(
        3600.0, 60.0, 0.5, 1, 2, 3, 4, 5, 6, 7, 8.5, {"delivered": 9, "throttled": 1}, 10, 0.25, 0.5, 11, 12,
        {"running": 50.0, "blocked": 10.0}, "a reason",
    )  # fmt: skip
    with spool.view() as view:
        assert view.history(10) == view.history(10, hourly=True) == []
    for each in (minute(58, accepted=1, waiting=5), minute(59, accepted=2, p95_s=0.5), whole, minute(61)):
        consumer.record(each)
    with spool.view() as view:
        assert view.history(10) == [
            minute(58, accepted=1, waiting=5), minute(59, accepted=2, p95_s=0.5), whole, minute(61)
        ]  # fmt: skip
        assert view.history(2) == [whole, minute(61)]
        # What ends with the hour is the first of the next.
        before = [minute(58, accepted=1, waiting=5), minute(59, accepted=2, p95_s=0.5)]
        assert view.history(9, hourly=True) == [merged(before)]
    for number in range(62, 64):
        consumer.record(minute(number, delivered=1))
    consumer.record(minute(120))
    with spool.view() as view:
        first, second = view.history(10, hourly=True)
        assert (first.accepted, first.delivered, first.lasted_s) == (3, 0, 120)
        assert (second.accepted, second.delivered, second.lasted_s) == (1, 4, 240)
    figures(spool)


def test_history_is_bounded(spool, consumer, monkeypatch):
    """However long a daemon runs, and whatever its clock does, so many minutes and hours are kept."""
    if spool.place == "memory":
        pytest.skip("what is in memory ends with its process")
    for engine in ("sqlite", "postgresql"):
        monkeypatch.setattr(f"forwarder.spool.{engine}.history.MINUTES", 90)
        monkeypatch.setattr(f"forwarder.spool.{engine}.history.HOURS", 3)
    for number in range(1, 6 * 60 + 1):
        consumer.record(minute(number))
    consumer.record(minute(1))  # the clock was set back
    with spool.view() as view:
        minutes, hours = view.history(1000), view.history(1000, hourly=True)
    assert 90 <= len(minutes) <= 90 + 60
    assert minutes[-1] == minute(1)
    assert [hour.hour for hour in hours] == [3, 4, 5, 6][-len(hours) :]
    assert len(hours) == 3


def test_another_consumer_records_nothing_any_more(spool, consumer):
    """Two daemons that know nothing of each other do not mix their minutes."""
    with closing(spool.consumer()) as newer:
        newer.record(minute(1))
        with pytest.raises(QueueReplacedError):
            consumer.record(minute(2))
    with spool.view() as view:
        assert view.history(10) == [minute(1)]


def test_pause_and_flush_are_seen(spool, consumer):
    """By the one that delivers and by who looks; each flush is another."""
    mark, asked = consumer.changed_mark(), consumer.control()
    assert not asked.paused
    assert [spool.pause(), spool.pause()] == [False, True]
    assert consumer.control().paused
    assert figures(spool).paused
    assert consumer.changed_mark() != mark
    assert consumer.control().flush == asked.flush
    assert [spool.resume(), spool.resume()] == [True, False]
    assert not consumer.control().paused
    before = consumer.control().flush
    spool.request_flush()
    assert consumer.control().flush != before


def test_a_pause_may_come_first(spool):
    """Where there is no queue yet, one is made, and the first to deliver begins paused."""
    spool.pause()
    with closing(spool.consumer()) as consumer:
        assert consumer.control().paused


# Dead letters


def test_dead_letters_are_found(spool, consumer):
    """By id, a part of the reason, the name, the time of death; a few at a time, with data or without."""
    refuse(spool, consumer, "bad time", "bad name", "Bad TIME")
    with spool.view() as view:
        letters = view.dead_letters(ALL)
        first, second, third = ids = [letter.id for letter in letters]
        assert ids == sorted(ids)

        def found(**where):
            fitting = [letter.id for letter in view.dead_letters(Selection(**where))]
            assert view.count_dead_letters(Selection(**where)) == len(fitting)
            assert sum(group.count for group in view.summary(Selection(**where))) == len(fitting)
            return fitting

        assert found(reason="time") == [first, third]
        assert found(reason="%") == []
        assert found(ids=(third, second, 10**6)) == [second, third]
        assert found(ids=()) == []
        assert found(event=called("signup"), since=letters[0].dead_at, reason="TIME") == [first, third]
        assert found(event="SIGNUP") == []
        assert found(event=called("signup"), reason="name") == [second]
        assert found(event="sign") == []
        assert found(since=letters[2].dead_at + 1) == []
        assert found(insert_id="id-1") == [second]
        assert [letter.id for letter in view.dead_letters(ALL, first, 1, with_data=False)] == [second]
        assert view.dead_letters(ALL, with_data=False)[0].data == b""
        assert view.newest_dead_letter() == third
        assert [brief.id for brief in view.latest_dead_letters(2)] == [third, second]
        assert [brief.id for brief in view.latest_dead_letters(9, str(second))] == [second]


def test_dead_letters_are_summed_up(spool, consumer):
    """By what they died of, the largest group first."""
    refuse(spool, consumer, "one", "two", "two", field="f", http_status=400)
    with spool.view() as view:
        groups = view.summary(ALL)
        ids = [letter.id for letter in view.dead_letters(ALL)]
    assert [(group.reason, group.count, group.example_id) for group in groups] == [
        ("two", 2, ids[1]),
        ("one", 1, ids[0]),
    ]
    assert groups[0].first_at <= groups[0].last_at
    assert (groups[0].field, groups[0].http_status, groups[0].event) == ("f", 400, called("signup"))


def test_dead_letters_are_retried(spool, consumer):
    """Accepted again, edited, with a new id that is told; what the edit refuses stays, with the reason."""
    refuse(spool, consumer, "one", "two", "three")
    with spool.view() as view:
        letters = view.dead_letters(ALL)

    def edit(data, accepted_at):
        assert accepted_at in {letter.accepted_at for letter in letters}
        if b"id-1" in data:
            raise EventError("not this one")
        return data.replace(called("signup").encode(), called("signed").encode())

    new_ids, stayed = spool.retry_dead_letters([*(letter.id for letter in letters), 10**6], edit)
    assert stayed == [(letters[1].id, "not this one")]
    assert [*new_ids] == [letters[0].id, letters[2].id]
    found = figures(spool)
    assert (found.accepted, found.retried, found.dead_letters, found.waiting) == (12, 2, 1, 9)
    with spool.view() as view:
        assert [(row.id, row.data) for row in view.peek(99)[-2:]] == [
            (new_ids[letters[0].id], record(0, "signed")),
            (new_ids[letters[2].id], record(2, "signed")),
        ]


def test_dead_letters_are_deleted(spool, consumer):
    """By id, and by age; each counts once."""
    refuse(spool, consumer, "one", "two", "three")
    with spool.view() as view:
        first, second, third = view.dead_letters(ALL)
    assert spool.delete_dead_letters([first.id, 10**6, first.id]) == 1
    assert spool.delete_dead_letters([first.id]) == 0
    assert consumer.discard_dead_letters(second.dead_at - 1) == 0
    assert consumer.discard_dead_letters(third.dead_at + 1) == 2
    found = figures(spool)
    assert (found.dead_letters, found.discarded, found.dead_lettered) == (0, 3, 3)


# What became of records


def fates(spool, *runs):
    """The receipts of these ids, each as its ids, its state and what is not None of the rest but times."""
    with spool.view() as view:
        found = view.receipts(runs)
    for receipt in found:
        assert receipt.at is None or time.time() - 60 < receipt.at <= time.time()
    return [
        (receipt.first, receipt.last, receipt.state, {
            name: value for name in RECEIPT if (value := getattr(receipt, name)) is not None
        })
        for receipt in found
    ]  # fmt: skip


RECEIPT = (
    "ahead", "request", "events", "tries", "http_status", "took_s", "dead_letter", "reason", "field", "event",
    "new_id",
)  # fmt: skip


def test_receipts_of_what_waits(spool, producer, consumer):
    """Consecutive ids that wait are one receipt; a claim changes nothing; what never came is absent."""
    last = producer.append([record(10)])[-1]
    first = last - 10
    consumer.claim(5, MIB)
    assert fates(spool, (first + 2, first + 4), (last, last + 3), (first + 3, first + 5)) == [
        (first + 2, first + 5, "waiting", {"ahead": 2}),
        (last, last, "waiting", {"ahead": 10}),
        (last + 1, last + 3, "absent", {}),
    ]
    assert fates(spool, (0, 0), (10**15, 10**15)) == [(0, 0, "absent", {}), (10**15, 10**15, "absent", {})]
    assert fates(spool) == []


def test_receipts_of_what_was_sent(spool, consumer):
    """Delivered ones name their request, and dead ones their dead letter; then what a person made of it."""
    claim = consumer.claim(10, MIB)
    ids = list(claim.ids)
    dead = [Dead(ids[n], claim.events[n], f"bad {n}", "time", 400) for n in (4, 2)]
    consumer.settle(Settlement(ids[:5], dead, http_status=400, tries=2, took_s=0.25))
    consumer.settle(Settlement(ids[6:8], http_status=200))
    with spool.view() as view:
        letters = {letter.reason: letter.id for letter in view.dead_letters(ALL)}
    of_first = {"request": 1, "events": 5, "tries": 2, "http_status": 400, "took_s": 0.25}
    of_dead = {"http_status": 400, "field": "time", "event": called("signup")}
    of_second = {"request": 2, "events": 2, "tries": 1, "http_status": 200, "took_s": 0.0}
    sent = [
        (ids[0], ids[1], "delivered", of_first),
        (ids[2], ids[2], "dead", of_dead | {"dead_letter": letters["bad 2"], "reason": "bad 2"}),
        (ids[3], ids[3], "delivered", of_first),
        (ids[4], ids[4], "dead", of_dead | {"dead_letter": letters["bad 4"], "reason": "bad 4"}),
        (ids[5], ids[5], "waiting", {"ahead": 0}),
        (ids[6], ids[7], "delivered", of_second),
        (ids[8], ids[9], "waiting", {"ahead": 1}),
    ]
    assert fates(spool, (ids[0], ids[9])) == sent
    assert fates(spool, (ids[1], ids[1]), (ids[7], ids[8])) == [
        (ids[1], ids[1], "delivered", of_first),
        (ids[7], ids[7], "delivered", of_second),
        (ids[8], ids[8], "waiting", {"ahead": 1}),
    ]
    new_ids, _ = spool.retry_dead_letters([letters["bad 2"]], lambda data, _: data)
    spool.delete_dead_letters([letters["bad 4"]])
    new_id = new_ids[letters["bad 2"]]
    sent[1] = (ids[2], ids[2], "retried", {"dead_letter": letters["bad 2"], "new_id": new_id})
    sent[3] = (ids[4], ids[4], "deleted", {"request": 1})
    sent[6] = (ids[8], new_id, "waiting", {"ahead": 1})
    assert fates(spool, (ids[0], ids[9]), (new_id, new_id)) == sent


def test_receipts_of_what_a_person_moved(spool, consumer):
    """Held, released under another id, deleted while it waited, was held or was being sent."""
    claim = consumer.claim(3, MIB)
    ids = [claim.ids[0] + number for number in range(10)]
    spool.hold([ids[1], ids[2], ids[3], ids[4], ids[6]])
    spool.release([ids[4], ids[2]])
    spool.delete_waiting([ids[6], ids[7]])
    with spool.view() as view:
        new_ids = {number_of(row.data): row.id for row in view.peek(99)}
    dead = [Dead(ids[1], claim.events[1], "bad"), Dead(ids[0], claim.events[0], "bad")]
    consumer.settle(Settlement(claim.ids, dead))
    expected = [
        (ids[1], ids[1], "held", {}),
        (ids[2], ids[2], "released", {"new_id": new_ids[2]}),
        (ids[3], ids[3], "held", {}),
        (ids[4], ids[4], "released", {"new_id": new_ids[4]}),
        (ids[5], ids[5], "waiting", {"ahead": 0}),
        (ids[6], ids[7], "deleted", {}),
        (ids[8], ids[9], "waiting", {"ahead": 1}),
    ]
    assert fates(spool, (ids[1], ids[9])) == expected
    spool.delete_waiting([ids[1]])
    assert fates(spool, (ids[1], ids[1])) == [(ids[1], ids[1], "deleted", {"request": 1})]
    assert fates(spool, (new_ids[4], new_ids[2])) == [(new_ids[4], new_ids[2], "waiting", {"ahead": 3})]


def test_receipts_of_what_was_no_record(spool, producer, consumer):
    """It was accepted, and is a dead letter that was never sent; deleted, it is told as deleted."""
    (row_id,) = producer.append([], [(b"[1", "not JSON")])
    with spool.view() as view:
        (letter,) = view.dead_letters(ALL)
    ((_, _, state, more),) = fates(spool, (row_id, row_id))
    assert (state, more["dead_letter"], more["reason"]) == ("dead", letter.id, "not JSON")
    spool.delete_dead_letters([letter.id])
    ((_, _, state, _),) = fates(spool, (row_id, row_id))
    assert state == "deleted"


def test_whether_any_waits(spool, producer, consumer):
    """While one of the ids has a row, held or not."""
    claim = consumer.claim(10, MIB)
    ids = list(claim.ids)

    def waits(*runs):
        with spool.view() as view:
            return view.waits(runs)

    spool.hold([ids[9]])
    consumer.settle(Settlement(ids[2:8]))
    assert waits((ids[0], ids[9]))
    assert waits((ids[2], ids[2]), (ids[8], ids[8]))
    assert waits((ids[9], ids[9] + 10))
    assert not waits((ids[2], ids[7]))
    assert not waits((ids[9] + 1, 10**15))
    assert not waits()


# Waiting events in a person's hands


def belonging(number, **users):
    return record(number)[:-2] + b"," + json.dumps(users).encode()[1:] + b"}"


@EVENTS_ONLY
def test_waiting_events_are_found(spool, producer):
    """By id, name, any of the user's ids, and when they were accepted; each part that is given has to fit."""
    users = [
        {"distinct_id": "ada"},
        {"$user_id": 7},
        {"$device_id": "ada"},
        {"distinct_id": "adam"},
        {"x": "ada"},
    ]
    ids = [producer.append([belonging(number, **user)])[0] for number, user in enumerate(users)]
    ids += producer.append([record(5, name="login")])
    with spool.view() as view:
        rows = view.peek(10)
        wanted = {
            Selection(): ids,
            Selection(ids=(ids[1], ids[3], 99)): [ids[1], ids[3]],
            Selection(event="login"): ids[5:],
            Selection(event="log"): [],
            Selection(user="ada"): [ids[0], ids[2]],
            Selection(user="7"): [ids[1]],
            Selection(user="None"): [],
            Selection(since=rows[3].accepted_at, before=rows[5].accepted_at): ids[3:5],
            Selection(event="signup", user="ada", ids=tuple(ids[1:])): [ids[2]],
            Selection(insert_id="id-3"): [ids[3]],
            Selection(insert_id="id-"): [],
            Selection(held=True): [],
        }
        for where, expected in wanted.items():
            assert [row.id for row in view.peek(10, 0, where)] == expected, where
            assert view.count_waiting(where) == len(expected)
        assert [row.id for row in view.peek(1, ids[0], Selection(user="ada"))] == [ids[2]]
        assert view.newest_waiting() == ids[5]


def test_held_events_are_not_delivered(spool, consumer):
    """They wait, and are in no claim; released, they come as the bytes they were, behind all others."""
    with spool.view() as view:
        rows = view.peek(10)
        assert spool.hold([rows[0].id, rows[4].id, 99]) == 2
        assert spool.hold([rows[0].id]) == 0
        assert [row.id for row in view.peek(10, 0, Selection(held=True))] == [rows[0].id, rows[4].id]
        assert len(view.peek(10, 0, Selection())) == 10
        assert len(view.peek(10)) == 8
    found = figures(spool)
    assert (found.waiting, found.held, found.due) == (10, 2, 8)
    assert found.oldest_waiting_at == rows[1].accepted_at
    claim = consumer.claim(4, MIB)
    assert numbers(claim) == [1, 2, 3, 5]
    consumer.settle(Settlement(claim.ids))
    assert spool.release([rows[4].id, rows[0].id, rows[1].id, rows[0].id]) == 2
    with spool.view() as view:
        assert min(row.accepted_at for row in view.peek(10)[-2:]) > rows[9].accepted_at, (
            "it waits from now on"
        )
    consumer.arrivals()
    assert numbers(consumer.claim(9, MIB)) == [6, 7, 8, 9, 4, 0]
    found = figures(spool)
    assert (found.accepted, found.waiting, found.held) == (10, 6, 0)


def test_waiting_events_are_deleted(spool, consumer):
    """Held ones too. They count as deleted, and not once more when an answer to them comes later."""
    claim = consumer.claim(4, MIB)
    assert spool.hold(claim.ids[:2]) == 2
    assert spool.delete_waiting([claim.ids[0], claim.ids[2], 99]) == 2
    consumer.settle(Settlement(claim.ids, [Dead(claim.ids[2], claim.events[2], "bad")]))
    found = figures(spool)
    assert (found.deleted, found.delivered, found.dead_lettered, found.held, found.waiting) == (2, 1, 0, 1, 7)
    assert numbers(consumer.read_again(claim.ids, MIB)) == []
    assert spool.delete_waiting(claim.ids) == 1


@EVENTS_ONLY
def test_dead_letters_of_a_user(spool, producer):
    """A user's dead letters are found by any of the user's ids."""
    producer.append([belonging(0, distinct_id="ada"), belonging(1, distinct_id="bob")])
    with closing(spool.consumer()) as consumer:
        consumer.arrivals()
        refuse(spool, consumer, "bad", "bad")
    with spool.view() as view:
        (letter,) = view.dead_letters(Selection(user="ada"))
        assert json.loads(letter.data)["properties"]["distinct_id"] == "ada"
        assert view.count_dead_letters(Selection(user="ada", before=letter.dead_at)) == 0


def test_one_delivers(spool):
    """Nobody else may meanwhile; others see who it is once it is announced, and what it has told."""
    presence = spool.take()
    with pytest.raises(TakenError):
        spool.take()
    assert elsewhere(spool.holder) is None
    presence.announce()
    assert elsewhere(spool.holder).told == {}
    assert presence.tell({"state": "running", "pid": os.getpid()})
    presence.keep()
    found = elsewhere(spool.holder)
    assert (found.pid, found.told["state"], found.halted) == (os.getpid(), "running", "")
    presence.release()
    assert elsewhere(spool.holder) is None
    other = spool.take()
    other.announce()
    assert elsewhere(spool.holder).told == {}
    assert other.token != presence.token
    other.release()


def test_all_is_in_place(spool, producer):
    """A new queue has no fault, at a glance or looked through."""
    for briefly in (True, False):
        findings = [*spool.findings(max_bytes=10**12, min_free_bytes=0, briefly=briefly)]
        assert [finding for finding in findings if not finding.ok] == []


# All together


def letters_by_hand(spool, step):
    """Retry or delete three dead letters; returns the numbers of those that were retried."""
    with spool.view() as view:
        letters = view.dead_letters(ALL, limit=3)
    ids = [letter.id for letter in letters]
    if step == "delete":
        assert spool.delete_dead_letters(ids) == len(ids)
        return set()
    assert len(spool.retry_dead_letters(ids, lambda data, _: data)[0]) == len(ids)
    return {number_of(letter.data) for letter in letters}


def by_hand(spool, rng, step):
    """Hold, release or erase two events that wait; returns the numbers of those that are gone."""
    with spool.view() as view:
        rows = view.peek(10**6, 0, Selection(held={"hold": False, "release": True}.get(step)))
    rows = rng.sample(rows, min(2, len(rows)))
    act = {"hold": spool.hold, "release": spool.release, "erase": spool.delete_waiting}[step]
    assert act([row.id for row in rows]) == len(rows)
    return {number_of(row.data) for row in rows} if step == "erase" else set()


def fate_of_each(spool, first_ids):
    """The state of each key of *first_ids*, by the id that it had first."""
    with spool.view() as view:
        receipts = view.receipts([(1, 1000)])
    assert [receipt.first for receipt in receipts] == [1, *(receipt.last + 1 for receipt in receipts[:-1])]
    found = {row_id: each for each in receipts for row_id in range(each.first, each.last + 1)}

    def last_of(row_id):
        return last_of(found[row_id].new_id) if found[row_id].new_id else found[row_id].state

    return {key: last_of(row_id) for key, row_id in first_ids.items()}


# On a server a run takes seconds, and the kinds differ in their tables' names alone: each has one seed.
SEEDS = [
    (engine, seed)
    for position, engine in enumerate(ENGINES)
    for seed in ([position] if engine.startswith("postgresql") else range(5))
]


@pytest.mark.parametrize(("absent", "seed"), SEEDS, indirect=["absent"])
def test_whatever_comes_the_books_balance(spool, producer, seed):
    """A hundred steps at random: each record ends in one place, and the figures say how many in which."""
    rng = random.Random(seed)
    consumer, claimed, offered = spool.consumer(), {}, 0
    delivered, dead, deleted, first_ids = set(), set(), set(), {}
    for _ in range(100):
        step = rng.choice(
            ["append", "claim", "settle", "retry", "delete", "crash", "house", "hold", "release", "erase"]
        )
        if step == "append":
            count = rng.randrange(1, 5)
            ids = producer.append([record(offered + n) for n in range(count)])
            first_ids |= zip(range(offered, offered + count), ids, strict=True)
            offered += count
            consumer.arrivals()
        elif step == "claim":
            claim = consumer.claim(rng.randrange(1, 8), rng.choice([1, 200, MIB]))
            assert not claimed.keys() & set(claim.ids), "claimed twice"
            claimed |= zip(claim.ids, zip(numbers(claim), claim.events, strict=True), strict=True)
        elif step == "settle" and claimed:
            ids = rng.sample(sorted(claimed), rng.randrange(1, len(claimed) + 1))
            bad = [row_id for row_id in ids if rng.random() < 0.3]
            with spool.view() as view:
                there = {row.id for row in view.peek(10**6)}
            consumer.settle(Settlement(sorted(ids), [Dead(n, claimed[n][1], "bad") for n in sorted(bad)]))
            dead |= {claimed[row_id][0] for row_id in bad if row_id in there}
            delivered |= {claimed[row_id][0] for row_id in ids if row_id in there and row_id not in bad}
            claimed = {row_id: claimed[row_id] for row_id in claimed if row_id not in ids}
        elif step in ("retry", "delete"):
            dead -= letters_by_hand(spool, step)
            consumer.arrivals()
        elif step == "crash":
            consumer.close()
            consumer, claimed = spool.consumer(), {}
            consumer.arrivals()
        elif step == "house":
            consumer.maintain(at_rest=not claimed)
        elif step in ("hold", "release", "erase"):
            deleted |= by_hand(spool, rng, step)
            consumer.arrivals()
        found = figures(spool)
        assert found.accepted == offered + found.retried
        with spool.view() as view:
            waiting = {number_of(row.data) for row in view.peek(10**6, 0, ALL)}
            letters = {int(letter.insert_id[3:]) for letter in view.dead_letters(ALL)}
        assert not waiting & letters
        assert not deleted & (waiting | letters)
        assert waiting | letters | delivered | dead | deleted == set(range(offered))
        assert (len(waiting), len(letters)) == (found.waiting, found.dead_letters)
        assert (len(delivered), len(deleted)) == (found.delivered, found.deleted)
    places = {"waiting": waiting, "held": waiting, "dead": letters, "deleted": deleted | dead}
    for number, state in fate_of_each(spool, first_ids).items():
        # What was deleted while it was being sent may have been delivered.
        assert number in places.get(state, delivered | deleted), (number, state)
    consumer.close()
