"""A connection is cut while the answer to a verb is on its way, in place of each message of the server: what
was asked for counts once, or its fate is said to be unknown."""

import itertools
import json
from contextlib import closing

import pytest

from forwarder.errors import TryAgainError
from forwarder.records import KINDS
from forwarder.spool import Dead, Selection, Settlement
from forwarder.spool.errors import FateUnknownError
from forwarder.spool.postgresql.engine import Spool
from tests.on_server import CRASH_S, LIMITS, MIB, consumer_of, data, dead, figures, lines, number_of, waiting

# A new connection begins with more than so many messages, none of which follows a request.
SIGNED_IN = 0 if CRASH_S else 12
numbers = itertools.count(1)


def each_message(proxy, prepare, act, first=0):
    """Prepare and act, with a cut in place of the *first* message from the server, of the next, and so on,
    until it needs no more of them. Gives the number of each and the error, or None."""
    for place in itertools.count(first):
        prepared = prepare()
        proxy.cut(place)
        error = None
        try:
            act(prepared)
        except TryAgainError as raised:
            error = raised
        proxy.settled() if proxy.has_cut else proxy.cut(-1)
        yield prepared, error
        if not proxy.has_cut:
            assert error is None
            assert place > first + 3, "it was never cut"
            return


@pytest.fixture
def far(remote, proxy):
    """The queue by way of the proxy."""
    return Spool(proxy.through(remote.address), KINDS["event"])


@pytest.fixture
def put(remote):
    """Puts one event, past the proxy; returns its id."""
    with closing(remote.spool.producer(**LIMITS)) as producer:
        yield lambda: producer.append([data(next(numbers))])[0]


@pytest.fixture
def put_dead(remote, put):
    """Puts a dead letter, past the proxy; returns its id."""

    def put_one():
        with closing(remote.spool.producer(**LIMITS)) as producer:
            producer.append([], [(data(next(numbers)), "bad")])
        with remote.spool.view() as view:
            return view.newest_dead_letter()

    return put_one


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("letters", [0, 2])
def test_put(remote, proxy, far, count, letters):
    """All of it is in, or nothing; what was acknowledged is. What is not, is said to be of unknown fate if
    it was asked for, and is in once."""
    with closing(far.producer(**LIMITS)) as producer:
        producer.append([data(0)])

        def act(prepared):
            records = [data(number) for number in prepared]
            producer.append(records[letters:], [(each, "bad") for each in records[:letters]])

        acknowledged, unknown = [], []
        take = lambda: [next(numbers) for _ in range(count + letters)]  # noqa: E731
        for prepared, error in each_message(proxy, take, act):
            assert error is None or isinstance(error, FateUnknownError)
            (unknown if error else acknowledged).append(set(prepared))
        assert any(unknown)
    found = [number_of(each) for each in [*waiting(remote.address), *dead(remote.address)]]
    assert len(found) == len(set(found))
    assert {0}.union(*acknowledged) <= {*found}
    stored = [each for each in unknown if each & {*found}]
    assert all(each <= {*found} for each in stored)
    assert stored, "no answer was cut behind the commit"
    assert figures(remote.address).accepted == len(found)


def settle(consumer, ids):
    consumer.settle(Settlement(ids[:1], http_status=200))


def settle_dead(consumer, ids):
    consumer.settle(Settlement(ids, [Dead(ids[1], data(next(numbers)), "bad", "time", 400)], short=1))


def mark_sent(consumer, ids):
    consumer.mark_sent(ids)


def maintain(consumer, ids):
    consumer._is_stirred, consumer._gathered_at = True, 0.0
    consumer._shortened_at = 0.0
    consumer.maintain(at_rest=False)


@pytest.mark.parametrize("act", [settle, settle_dead, mark_sent, maintain])
def test_what_the_daemon_does_is_repeated_and_counts_once(remote, proxy, far, put, act):
    """Settling, marking and gathering: the books are exact after the cut, and after the repetition."""
    with consumer_of(far.address) as consumer:

        def prepare():
            put(), put()
            assert consumer.arrivals()
            return consumer.claim(2, MIB).ids

        settled = 0
        for ids, error in each_message(proxy, prepare, lambda ids: act(consumer, ids)):
            figures(remote.address)
            if error:
                act(consumer, ids)
            consumer.settle(Settlement(ids))
            settled += 2
            found = figures(remote.address)
            assert found.delivered + found.dead_lettered == found.accepted == settled
        assert found.dead_lettered == (settled // 2 if act is settle_dead else 0)
        assert found.waiting == 0


def test_a_claim_is_repeated_and_each_event_is_claimed_once(remote, proxy, far, put):
    """Also where what is no event has to be settled with it."""
    with consumer_of(far.address) as consumer:

        def prepare():
            put(), put()
            remote_insert(remote)
            consumer.arrivals()

        claimed = []
        act = lambda _: claimed.append(consumer.claim(10, MIB))  # noqa: E731
        for _, error in each_message(proxy, prepare, act):
            if error:
                act(None)
            assert len(claimed[-1].ids) == 2
            consumer.settle(Settlement(claimed[-1].ids))
    found = figures(remote.address)
    assert (found.dead_lettered, found.delivered) == (len(claimed), 2 * len(claimed))


def remote_insert(remote):
    """By SQL, what is no event."""
    import psycopg

    with psycopg.connect(remote.address.url) as connection:
        connection.execute(f"INSERT INTO {remote.address.schema}.queue (data) VALUES ('no event')")


def hold(spool, row_id):
    spool.hold([row_id])


def release(spool, row_id):
    spool.release([row_id])


def delete(spool, row_id):
    spool.delete_waiting([row_id])


ROWS = {hold: "held", release: "waiting", delete: "deleted"}


@pytest.mark.parametrize("act", ROWS)
def test_what_a_person_does_with_waiting_events_counts_once(remote, proxy, far, put, act):
    """Holding, releasing, deleting: done or not, and done once when it is repeated."""

    def prepare():
        row_id = put()
        if act is release:
            assert remote.spool.hold([row_id]) == 1
        return row_id

    steps = each_message(proxy, prepare, lambda row_id: act(far, row_id), SIGNED_IN)
    for count, (row_id, error) in enumerate(steps, 1):
        figures(remote.address)
        if error:
            act(remote.spool, row_id)
        found = figures(remote.address)
        assert (found.accepted, getattr(found, ROWS[act])) == (count, count)
    assert len(waiting(remote.address)) == found.waiting


def retry(spool, letter_id):
    spool.retry_dead_letters([letter_id], lambda stored, _: stored)


def delete_letter(spool, letter_id):
    spool.delete_dead_letters([letter_id])


LETTERS = {retry: "retried", delete_letter: "discarded"}


@pytest.mark.parametrize("act", LETTERS)
def test_what_a_person_does_with_dead_letters_counts_once(remote, proxy, far, put_dead, act):
    """Retried ones wait once."""
    steps = each_message(proxy, put_dead, lambda letter_id: act(far, letter_id), SIGNED_IN)
    for count, (letter_id, error) in enumerate(steps, 1):
        figures(remote.address)
        if error:
            act(remote.spool, letter_id)
        found = figures(remote.address)
        assert (getattr(found, LETTERS[act]), found.dead_letters) == (count, 0)
        assert len(waiting(remote.address)) == found.waiting == (count if act is retry else 0)


@pytest.mark.parametrize("verb", ["pause", "resume", "request_flush"])
def test_a_request_is_made_when_it_is_repeated(remote, proxy, far, verb):
    """By a person who hears that it may not be."""
    for _, error in each_message(proxy, lambda: None, lambda _: getattr(far, verb)(), SIGNED_IN):
        if error:
            getattr(remote.spool, verb)()
        with remote.spool.view() as view:
            assert view.figures().paused == (verb == "pause")


def test_a_look_is_repeated(remote, proxy, far, put_dead):
    """What looks is refused as a whole, and changes nothing."""
    put_dead()

    def look(_):
        with far.view() as view:
            view.figures(), view.peek(5), view.dead_letters(Selection()), view.check()

    before = figures(remote.address)
    for _, error in each_message(proxy, lambda: None, look):
        assert error is None or "queue" in error.what
    assert figures(remote.address).accepted == before.accepted


def test_the_command_says_what_may_be_stored_beyond_what_is(remote, proxy):
    """After some lines, in a file's midst, the connection ends before an answer."""
    remote.point_at(proxy.through(remote.address))
    # Past signing in and the first lines.
    proxy.cut(60)
    done = remote("enqueue", "--json", stdin=lines(*range(60_000)))
    assert proxy.has_cut
    told = json.loads(done.stdout)
    assert (done.returncode, 0 < told["lines"] < 60_000) == (75, True), told
    assert f"continue with --skip {told['lines']}. Some lines after them may be stored, too." in done.stderr
    proxy.settled()
    assert figures(remote.address).waiting >= told["lines"]


def test_a_lease_is_taken_or_ends(remote, proxy, far):
    """Who was not told that it has it takes it when that one ends; who has it keeps it through a cut."""
    from dataclasses import replace

    quick = Spool(replace(far.address, lease_s=0.5), KINDS["event"])
    with closing(Leases()) as leases:
        for _, error in each_message(proxy, lambda: None, lambda _: leases.take(quick)):
            if error:
                leases.wait(quick)
            leases.held.announce()
            leases.held.keep()
            assert remote.spool.holder() is not None
            leases.held.release()
            assert remote.spool.holder() is None


class Leases:
    """At most one lease."""

    held = None

    def take(self, spool):
        self.held = spool.take()

    def wait(self, spool):
        from tests.conftest import until

        def taken():
            try:
                self.take(spool)
            except TryAgainError:
                return False
            return True

        until(taken, "it is taken")

    def close(self):
        self.held.release()
