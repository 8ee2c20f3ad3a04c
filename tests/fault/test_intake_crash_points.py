"""P1, P2 and P3 when the intake is killed between a request's last byte and the answer, and when the daemon
is killed around the mark on updates that must not be repeated blindly."""

import contextlib
import json
import os
import tempfile

import pytest

from forwarder import spool
from forwarder.records import GROUPS, KINDS, PROFILES
from forwarder.sandbox import Fault
from forwarder.spool import EventQueue
from tests.conftest import TOKEN
from tests.fault.launcher import launcher_fixture  # noqa: F401  it is a fixture
from tests.integration.intake_client import Client, dead, event, request, waiting

WHOLE, NOTHING = True, False
NAMES = {"event": "/track", "profile": "/engage", "group": "/groups"}


# The intake


class Request:
    """A request with items of a kind, one of them malformed."""

    def __init__(self, kind, prefix):
        self.kind, self.path = kind, NAMES[kind]
        ids = {"profile": {"$distinct_id": prefix}, "group": {"$group_key": "k", "$group_id": prefix}}
        if kind == "event":
            self.items = [event(f"{prefix} {number}", token=TOKEN, time=1_700_000_000) for number in range(3)]
        else:
            self.items = [
                json.dumps(
                    {"$token": TOKEN, "$time": 1, **ids[kind], "$set": {f"n{number}": number}}
                ).encode()
                for number in range(3)
            ]
        self.bad = json.dumps({"$token": TOKEN, "no": prefix}).encode()
        self.text = request("POST", self.path, b"[%s]" % b",".join([*self.items, self.bad]))

    def copies(self, queue_path):
        """How often it is in the queue; whole each time."""
        items = [json.loads(item) for item in self.items]
        found = [record for record in map(_own, waiting(queue_path, self.kind)) if record in items]
        letters = [data for data, _ in dead(queue_path, self.kind) if data == self.bad]
        assert found == items * len(letters), "half a request"
        return len(letters)


def _own(record):
    """Without what acceptance adds."""
    if "properties" in record:
        record["properties"].pop("distinct_id", None)
    return record


class Killed:
    """Starts intakes that are killed at a point, and talks to them before."""

    def __init__(self, queue_path, launcher, environ, scratch, until, place):
        self.queue_path, self._launcher, self._until = queue_path, launcher, until
        self._scratch, self._place = scratch, place
        self._environ = {**environ, "FORWARDER_INTAKE_SOCKET": place, "FORWARDER_INTAKE_TOKENS": TOKEN}

    def __call__(self, point, nth, *requests):
        """Send them at once on a connection each; returns whether each got its yes before the kill."""
        self._launcher.begin(self._environ, ("intake",), self._scratch, point, nth)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(self._until(self._connected)) for _ in requests]
            for client, each in zip(clients, requests, strict=True):
                client.send(each.text)
            told = [self._has_yes(client) for client in clients]
        self._launcher.end().was_killed_at(point)
        return told

    def _connected(self):
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return Client(self._place)

    @staticmethod
    def _has_yes(client):
        try:
            answer = client.answer()
        except (EOFError, ConnectionResetError):
            return False
        assert (answer.status, answer.body) == (200, b"1")
        return True


@pytest.fixture
def killed(queue_path, launcher, forwarder, tmp_path, until):
    """An intake that is killed at a point."""
    # The path of a Unix socket must be short.
    with tempfile.TemporaryDirectory(prefix="fwd") as place:
        yield Killed(queue_path, launcher, forwarder.environ, tmp_path, until, os.path.join(place, "s"))


@pytest.fixture
def delivered(launcher, forwarder, tmp_path, server, queue_path, figures):
    """Drain the queue; the books of all kinds must balance."""

    def drain():
        drained = launcher(forwarder.environ, ("drain",), tmp_path)
        assert drained.code == 0, drained.stderr
        for kind in (PROFILES, GROUPS):
            with spool.at(queue_path, kind).view() as view:
                assert [finding for finding in view.check() if not finding.ok] == []
        figures(queue_path)
        return server

    return drain


POINTS = [
    ("intake-read", 1, NOTHING),
    ("intake-submitted", 1, NOTHING),
    ("intake-inserting", 1, NOTHING),
    # Behind the good items, the malformed one is a row, too, before it is a dead letter.
    ("intake-inserting", 2, NOTHING),
    ("intake-commit", 1, NOTHING),
    ("intake-committed", 1, WHOLE),
    ("intake-passed-on", 1, WHOLE),
    ("intake-answering", 1, WHOLE),
    ("intake-answered", 1, WHOLE),
]
CASES = [
    (*point, kind)
    for number, point in enumerate(POINTS)
    for kind in (["event", "profile"] if point[0] != "intake-inserting" else ["event", "group"])
]


@pytest.mark.parametrize(("point", "nth", "is_in", "kind"), CASES)
def test_killed_before_the_answer(point, nth, is_in, kind, killed, queue_path, delivered):
    """Killed there, all of the request is in the queue or nothing, and who has heard yes finds all of it; the
    next intake takes the socket and the request."""
    sent = Request(kind, "a")
    told = killed(point, nth, sent)
    # Whether the submitted one is committed before the kill is the thread's luck.
    assert point == "intake-submitted" or told == [point == "intake-answered"]
    before = sent.copies(queue_path)
    assert before == is_in or (point == "intake-submitted" and before == 1)
    assert killed("intake-answered", 1, sent) == [True]
    assert sent.copies(queue_path) == before + 1
    server = delivered()
    if kind == "event":
        taken = server.ledger.events.values()
        assert [_own(json.loads(entry.data)) for entry in taken] == list(map(json.loads, sent.items))
        assert all(entry.copies == before + 1 for entry in taken)
    else:
        profiles = server.users if kind == "profile" else server.groups
        key = ("a",) if kind == "profile" else ("k", "a")
        assert profiles.profiles == {key: {"n0": 0, "n1": 1, "n2": 2}}
        assert len(profiles.updates) == 3 * (before + 1)


@pytest.mark.parametrize(
    ("point", "nth"),
    [("intake-inserting", 3), ("intake-commit", 2), ("intake-committed", 2), ("intake-answered", 2)],
)
def test_killed_among_requests_of_all_kinds(point, nth, killed, queue_path, delivered):
    """Of those that came together some are in and some are not; each yes is true."""
    sent = [Request(kind, f"{kind} {number}") for kind in KINDS for number in range(3)]
    told = killed(point, nth, *sent)
    copies = [each.copies(queue_path) for each in sent]
    assert set(copies) <= {0, 1}
    assert [yes for yes, count in zip(told, copies, strict=True) if yes > count] == []
    assert any(copies) or point == "intake-inserting"
    assert not all(told)
    delivered()


# The daemon


PEOPLE = ("ada", "bob", "eve")


class Doubt:
    """Profiles of which each gets a $set, an $add that must not be repeated blindly, and a $set again."""

    def __init__(self, queue_path, server):
        self._queue_path, self.server = queue_path, server
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            for who in PEOPLE:
                for operation in ({"$set": {"plan": "free"}}, {"$add": {"n": 1}}, {"$set": {"plan": "pro"}}):
                    queue.put_profile({"$token": TOKEN, "$distinct_id": who, **operation})

    @property
    def added(self):
        """How often each $add has counted."""
        found = self.server.users.profiles
        return {who: found.get((who,), {}).get("n", 0) for who in PEOPLE}

    @property
    def doubtful(self):
        """Whose $add is a dead letter that says why."""
        letters = dead(self._queue_path, "profile")
        assert all(reason.startswith("doubtful") for _, reason in letters), letters
        records = [json.loads(data) for data, _ in letters]
        assert all("$add" in record for record in records)
        return [record["$distinct_id"] for record in records]


# Point, which pass, and of how many people an $add is doubtful then with "hold"; whether it has counted.
MARKS = [
    ("mark", 1, 0, True),
    ("mark-updating", 1, 0, True),
    ("mark-commit", 1, 0, True),
    ("mark-committed", 1, 3, False),
    ("marked", 1, 3, False),
    # The first request has the $set, the second the $add.
    ("post", 2, 3, False),
    ("posted", 2, 3, True),
    # Behind the first settlement, the mark's commit counts as well.
    ("settle-commit", 3, 3, True),
    ("settle-committed", 3, 0, True),
]


@pytest.mark.parametrize(("point", "nth", "count", "has_counted"), MARKS)
def test_with_hold_nothing_counts_twice(
    point,
    nth,
    count,
    has_counted,
    queue_path,
    server,
    launcher,
    forwarder,
    tmp_path,
    delivered,
):
    """Killed around the mark on what is being sent, and again as it acts on it: each $add has counted once,
    or is a dead letter for a person, whether or not it has counted; all else arrives in order."""
    scene = Doubt(queue_path, server)
    environ = {**forwarder.environ, "FORWARDER_INTAKE_ON_DOUBT": "hold"}
    launcher(environ, ("run",), tmp_path, point, nth).was_killed_at(point)
    assert scene.doubtful == []
    if count:
        launcher(environ, ("run",), tmp_path, "settle-commit", 1).was_killed_at("settle-commit")
        assert scene.doubtful == []
    forwarder.environ = environ
    delivered()
    assert (sorted(scene.doubtful), set(scene.added.values())) == (list(PEOPLE[:count]), {int(has_counted)})
    assert {profile["plan"] for profile in server.users.profiles.values()} == {"pro"}


@pytest.mark.parametrize("point", ["mark", "mark-commit", "mark-committed", "marked"])
def test_killed_as_the_mark_is_taken_off(
    point,
    queue_path,
    server,
    launcher,
    forwarder,
    tmp_path,
    delivered,
    until,
):
    """After an answer that leaves no doubt, a kill before that is written down is doubt: nothing has counted,
    and nothing is sent again. Later it is none."""
    forwarder.environ["FORWARDER_INTAKE_ON_DOUBT"] = "hold"
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        for who in PEOPLE:
            queue.put_profile({"$token": TOKEN, "$distinct_id": who, "$add": {"n": 1}})
    throttling = server.inject(Fault.throttle(), times=1)
    launcher(forwarder.environ, ("run",), tmp_path, point, 2).was_killed_at(point)
    assert throttling.used
    delivered()
    counted = {who for (who,), profile in server.users.profiles.items() if profile == {"n": 1}}
    is_off = point in ("mark-committed", "marked")
    assert counted == (set(PEOPLE) if is_off else set())
    letters = dead(queue_path, "profile")
    assert [json.loads(data)["$distinct_id"] for data, _ in letters] == ([] if is_off else list(PEOPLE))
    assert all(reason.startswith("doubtful") for _, reason in letters)


REPEATED = [("post", 2), ("posted", 2), ("settle", 2), ("settle-commit", 2), ("settle-committed", 2)]


@pytest.mark.parametrize(("point", "nth"), REPEATED)
def test_with_repeat_everything_counts(
    point, nth, queue_path, server, launcher, forwarder, tmp_path, delivered
):
    """Killed while it is sent, each $add counts at least once, and nobody is asked."""
    scene = Doubt(queue_path, server)
    launcher(forwarder.environ, ("run",), tmp_path, point, nth).was_killed_at(point)
    delivered()
    expected = 2 if point in ("posted", "settle", "settle-commit") else 1
    assert (scene.doubtful, set(scene.added.values())) == ([], {expected})
    assert {profile["plan"] for profile in server.users.profiles.values()} == {"pro"}


ATTACKED = {point for point, *_ in (*POINTS, *MARKS, *REPEATED)}
