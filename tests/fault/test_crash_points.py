"""P1, P2, P3 and P8: killed at any named point, and again while it recovers, the forwarder loses nothing."""

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from collections import Counter

import persistqueue
import persistqueue.serializers.json
import pytest

from forwarder.errors import TryAgainError
from forwarder.sandbox import Fault
from forwarder.spool import Dead, EventQueue, Settlement
from forwarder.spool.sqlite import control, set_aside
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.room import RESERVE_BYTES
from tests.fault import crash_points
from tests.fault import test_intake_crash_points as intake_crash_points
from tests.fault.launcher import KILLED, launcher_fixture  # noqa: F401  the second is a fixture

SEED = int(os.environ.get("FORWARDER_TEST_SEED", "20260"))
# How long the random sequence goes on.
LONG_S = float(os.environ.get("FORWARDER_CRASH_S", "3"))
BATCH = 10

STARTS = [
    ("start-locked", 1),
    ("start-announced", 1),
    ("start-queue-opened", 1),
    ("start-probing", 1),
    ("start-probed", 1),
    ("start-consumer", 1),
    ("start-ready", 1),
    ("start-noticed", 1),
    ("tell-state", 1),
    ("tell-state-written", 1),
    ("tell-state-told", 1),
]


class Scene:
    """A queue and what stands in it before the kill, the command to kill, and how far it has come."""

    #: How many events the transaction that is attacked moves.
    whole = 0
    command: tuple = ("run",)

    def __init__(self, queue_path, server, environ, scratch, sql):
        self.queue_path, self.server, self.scratch, self.sql = queue_path, server, scratch, sql
        self.environ = {**environ, "FORWARDER_QUEUE_PATH": queue_path}
        self.environ["FORWARDER_DELIVERY_BATCH_EVENTS"] = str(BATCH)
        self.offered = []
        self._count = 0
        self.prepare()

    def prepare(self):
        """Set the scene."""

    def resume(self):
        """What has to come in after the kill."""

    def moved(self, _figures):
        """How many events the transaction that is attacked has moved."""
        return 0

    def events(self, count, name="e", **properties):
        """The final bytes of *count* new events, whatever is wrong with them."""
        made = []
        for number in range(self._count, self._count + count):
            given = {"time": 1_700_000_000 + number, "$insert_id": f"id-{number}", "distinct_id": ""}
            made.append(json.dumps({"event": name, "properties": {**given, **properties}}).encode())
        self._count += count
        return made

    def put(self, events):
        """Put them into the queue: accepted, all of them or none."""
        with EventQueue(self.queue_path, min_free_bytes=0) as queue:
            queue.append(events)
        self.offered += events

    def plain(self):
        """The queue as plain persist-queue sees it."""
        return persistqueue.SQLiteAckQueue(self.queue_path, serializer=persistqueue.serializers.json)


class Accept(Scene):
    """Events from a file into a queue that is there."""

    whole = 20

    def prepare(self):
        EventQueue(self.queue_path).close()
        self.offered = self.events(self.whole)
        file = self.scratch / "events.ndjson"
        file.write_bytes(b"\n".join(self.offered) + b"\n")
        self.command = ("enqueue", file)

    def moved(self, figures):
        return figures.accepted


class Program(Accept):
    """Events from a Python program."""

    def prepare(self):
        super().prepare()
        program = self.scratch / "program.py"
        program.write_text(
            textwrap.dedent("""
            import json, sys
            from forwarder import EventQueue
            with EventQueue(sys.argv[1], min_free_bytes=0) as queue, open(sys.argv[2]) as lines:
                queue.put_many(map(json.loads, lines))
            """)
        )
        self.command = (program, self.queue_path, self.command[1])
        self.offered = [data.replace(b": ", b":").replace(b", ", b",") for data in self.offered]


class Fresh(Accept):
    """Events from a file into a queue that is not there yet."""

    def prepare(self):
        super().prepare()
        shutil.rmtree(self.queue_path)


class Send(Scene):
    """Events that wait, some in each batch refused by name."""

    whole = BATCH

    def prepare(self):
        for _ in range(3):
            self.put([*self.events(4), *self.events(2, time=1), *self.events(4)])

    def moved(self, figures):
        return figures.delivered + figures.dead_lettered


class Drain(Send):
    """The same, delivered by ``drain``."""

    command = ("drain",)


class Halve(Scene):
    """A batch with one event that is refused without a reason."""

    def prepare(self):
        self.server.inject(Fault.poison(event="poison"))
        self.put([*self.events(5), *self.events(1, "poison"), *self.events(2)])

    def resume(self):
        # Only beside an event that is imported can a bad one be told from an outage.
        self.put(self.events(1))


class Requeue(Scene):
    """A server that fails at first."""

    def prepare(self):
        self.server.inject(Fault.server_error(503), times=2)
        self.put(self.events(8))


class Bury(Scene):
    """Rows of plain persist-queue that are no events, among others."""

    whole = 3

    def prepare(self):
        queue = self.plain()
        # In the bytes that persist-queue's serializer writes.
        good, bad = self.events(4), self.events(self.whole, name=17)
        self.offered = [*good[:2], *bad, *good[2:]]
        for data in self.offered:
            queue.put(json.loads(data))
        queue.close()

    def moved(self, figures):
        return figures.dead_lettered


class Sweep(Bury):
    """Rows that a plain consumer has acked, in front of others."""

    whole = 2

    def prepare(self):
        super().prepare()
        queue = self.plain()
        for _ in range(self.whole):
            queue.ack(queue.get())
        queue.close()
        del self.offered[: self.whole]

    def moved(self, figures):
        return figures.deleted


class Missing(Scene):
    """Rows that a plain consumer has taken out of the table."""

    whole = 5

    def prepare(self):
        self.put(self.events(self.whole))
        self.sql(self.queue_path, "DELETE FROM ack_queue_default")
        self.offered.clear()

    def moved(self, figures):
        return figures.deleted


class Retry(Scene):
    """Dead letters that are put back."""

    whole = 8
    command = ("dead-letters", "retry", "--all", "--yes", "--no-check")

    def prepare(self):
        self.put(self.events(self.whole))
        consumer = Consumer(self.queue_path)
        claim = consumer.claim_behind(0, 100, 1 << 20)
        letters = [Dead(at, data, "bad") for at, data in zip(claim.ids, claim.events, strict=True)]
        consumer.settle(Settlement(claim.ids, letters))
        consumer.close()

    def moved(self, figures):
        return figures.retried


class Delete(Retry):
    """Dead letters that are deleted."""

    command = ("dead-letters", "delete", "--all", "--yes")

    def moved(self, figures):
        if figures.discarded:
            self.offered.clear()
        return figures.discarded


class Expire(Delete):
    """Dead letters that are older than the retention setting allows."""

    command = ("run",)

    def prepare(self):
        super().prepare()
        self.sql(self.queue_path, "UPDATE dead_letters SET dead_at = dead_at - 864000")
        self.environ["FORWARDER_DEAD_LETTERS_MAX_AGE_DAYS"] = "1"
        # The reply to it shows that the clock is right.
        self.put(self.events(1))

    def moved(self, figures):
        if figures.discarded:
            del self.offered[: self.whole]
        return figures.discarded


class Tidy(Scene):
    """A large file that has become empty but for a few events."""

    def prepare(self):
        self.put(self.events(9000, pad="x" * 1000))
        self.offered.clear()
        consumer = Consumer(self.queue_path)
        consumer.settle(Settlement(range(1, 9001)))
        consumer.close()
        self.put(self.events(5))


SCENES = {
    scene.__name__.lower(): scene
    for scene in (Accept, Program, Fresh, Send, Drain, Halve, Requeue, Bury, Sweep, Missing, Retry, Delete)
} | {"expire": Expire, "tidy": Tidy}

WHOLE, NOTHING = True, False

# scene, point, which pass, and whether the attacked transaction is in by then (None: there is none).
CASES = [
    ("fresh", "make-directory-made", 1, None),
    ("fresh", "make-file-made", 1, None),
    ("fresh", "make-reserve", 1, NOTHING),
    ("fresh", "make-reserve-file-made", 1, NOTHING),
    ("fresh", "make-reserve-laid", 1, NOTHING),
    ("accept", "accept-inserting", 1, NOTHING),
    ("accept", "accept-commit", 1, NOTHING),
    ("accept", "accept-committed", 1, WHOLE),
    ("accept", "accept-told", 1, WHOLE),
    ("program", "accept-inserting", 1, NOTHING),
    ("program", "accept-committed", 1, WHOLE),
    *(("send", point, nth, NOTHING) for point, nth in STARTS),
    ("send", "claim", 1, NOTHING),
    ("send", "claim", 2, None),
    ("send", "claimed", 1, NOTHING),
    ("send", "claimed", 3, None),
    ("send", "post", 1, NOTHING),
    ("send", "posted", 1, NOTHING),
    ("send", "settle", 1, NOTHING),
    ("send", "settle-deleting", 1, NOTHING),
    ("send", "settle-deleted", 1, NOTHING),
    ("send", "settle-one-buried", 1, NOTHING),
    ("send", "settle-buried", 1, NOTHING),
    ("send", "settle-counted", 1, NOTHING),
    ("send", "settle-logged", 1, NOTHING),
    ("send", "settle-commit", 1, NOTHING),
    ("send", "settle-committed", 1, WHOLE),
    ("send", "settled", 1, WHOLE),
    ("drain", "posted", 1, NOTHING),
    ("drain", "settle-deleted", 1, NOTHING),
    ("drain", "settle-commit", 1, NOTHING),
    ("drain", "settle-committed", 1, WHOLE),
    ("halve", "halved", 1, None),
    ("halve", "halved", 3, None),
    ("halve", "suspect-held", 1, None),
    ("halve", "suspect-asked-again", 1, None),
    ("requeue", "requeued", 1, None),
    ("bury", "settle-deleted", 1, NOTHING),
    ("bury", "settle-one-buried", 1, NOTHING),
    ("bury", "settle-commit", 1, NOTHING),
    ("bury", "settle-committed", 1, WHOLE),
    ("sweep", "sweep", 1, NOTHING),
    ("sweep", "sweep-commit", 1, NOTHING),
    ("sweep", "sweep-committed", 1, WHOLE),
    # Until then the books don't balance: it is what they are mended for.
    ("missing", "missing", 1, None),
    ("missing", "missing-commit", 1, None),
    ("missing", "missing-committed", 1, WHOLE),
    ("retry", "retry-inserted", 1, NOTHING),
    ("retry", "retry-inserted", 8, NOTHING),
    ("retry", "retry-moved", 1, NOTHING),
    ("retry", "retry-commit", 1, NOTHING),
    ("retry", "retry-committed", 1, WHOLE),
    ("delete", "discard-deleting", 2, NOTHING),
    ("delete", "discard-deleted", 1, NOTHING),
    ("delete", "discard-commit", 1, NOTHING),
    ("delete", "discard-committed", 1, WHOLE),
    ("expire", "discard-deleting", 2, NOTHING),
    ("expire", "discard-commit", 1, NOTHING),
    ("expire", "discard-committed", 1, WHOLE),
    ("tidy", "vacuum", 1, None),
    ("tidy", "vacuum", 1000, None),
    ("tidy", "vacuum-commit", 1, None),
    ("tidy", "vacuum-committed", 1, None),
    ("tidy", "checkpoint", 1, None),
    ("tidy", "checkpointed", 1, None),
    ("tidy", "tidied", 1, None),
    ("tidy", "reserve-filled", 1, None),
]


@pytest.fixture
def stage(queue_path, server, forwarder, tmp_path, sql):
    """Set the scene of that name."""
    scenes = SCENES | {"damaged": Damaged, "logged": Logged, "own": Own, "salvaged": Salvaged}
    return lambda name: scenes[name](queue_path, server, forwarder.environ, tmp_path, sql)


@pytest.fixture
def recovered(launcher, oracle, rows, figures):
    """Let a killed forwarder recover, killed again at the points that are given; then look at the books."""

    def recover(scene, starts=()):
        for point, nth in starts:
            launcher(scene.environ, ("run",), scene.scratch, point, nth).was_killed_at(point)
        scene.resume()
        drained = launcher(scene.environ, ("drain",), scene.scratch)
        assert (drained.code, rows(scene.queue_path)) == (0, []), drained.stderr
        oracle(scene.queue_path, scene.server, scene.offered)
        figures(scene.queue_path)
        checked = launcher(scene.environ, ("check",), scene.scratch)
        assert checked.code == 0, checked.stdout

    return recover


def test_every_point_is_there_and_is_attacked():
    """Each named function exists under its name, and each point of the table is reached by a test, below or
    in ``test_intake_crash_points.py``."""
    for point in crash_points.POINTS.values():
        if not point.is_statement:
            crash_points.resolve(point)
    attacked = {point for _, point, _, _ in CASES} | {point for point, _ in FULL}
    attacked |= {point for point, _ in (*ASIDE, *OWN, *SALVAGING)}
    attacked |= {"statement", "make-file-opened", *intake_crash_points.ATTACKED}
    assert attacked == set(crash_points.POINTS)


def test_a_point_that_is_gone_is_missed():
    """A point whose function has another name by now is an error, and not a point that is never reached."""
    for where in (
        "forwarder.spool.sqlite.consumer:Consumer.gone",
        "forwarder.gone:Consumer",
        "forwarder.errors:Gone.at",
    ):
        with pytest.raises(LookupError):
            crash_points.resolve(crash_points.Point("after", where))


@pytest.mark.parametrize(("name", "point", "nth", "is_in"), CASES, ids=lambda value: str(value))
def test_killed_at(name, point, nth, is_in, stage, launcher, recovered, figures):
    """Killed there, what was under way has happened wholly or not at all; killed again as it starts, it
    recovers: every event is delivered, dead or deleted, once and unchanged, and the books balance."""
    scene = stage(name)
    launcher(scene.environ, scene.command, scene.scratch, point, nth).was_killed_at(point)
    if is_in is not None:
        assert scene.moved(figures(scene.queue_path)) == (scene.whole if is_in else 0)
    if name in ("accept", "program", "fresh") and not is_in:
        # The producer was not told: it has them still.
        again = launcher(scene.environ, scene.command, scene.scratch)
        assert again.code == 0, again.stderr
    dice = random.Random(f"{SEED} {name} {point} {nth}")
    starts = [start for start in STARTS if start[0] != "start-noticed" or name in ("accept", "send")]
    recovered(scene, [dice.choice(starts)])


def test_killed_before_each_statement_of_a_new_queue(stage, launcher, recovered, figures, rows):
    """A producer killed before each statement in turn, from the first for a new queue to the last of its own,
    leaves all of its events or none, and a queue that the next one takes up."""
    scene = stage("fresh")
    nth = 0
    while not os.path.exists(f"{scene.queue_path}/data.db") or not is_prepared(scene):
        nth += 1
        ended = launcher(scene.environ, scene.command, scene.scratch, "statement", nth)
        ended.was_killed_at("statement")
    assert nth > 12
    nth, ended = 0, None
    while ended is None or ended.code:
        nth += 1
        before = figures(scene.queue_path).accepted
        ended = launcher(scene.environ, scene.command, scene.scratch, "statement", nth)
        if ended.code:
            ended.was_killed_at("statement")
            assert figures(scene.queue_path).accepted == before == 0
    assert nth > 5
    recovered(scene)


def is_prepared(scene):
    return scene.sql(scene.queue_path, "PRAGMA user_version") != [(0,)]


@pytest.mark.parametrize(
    ("point", "nth", "file", "mode"),
    [
        ("make-directory-made", 1, "", 0o2770),
        ("make-file-opened", 1, "writer.lock", 0o660),
        ("make-file-opened", 2, "data.db", 0o660),
        ("make-file-opened", 3, "reserve", 0o660),
    ],
)
def test_killed_before_what_it_makes_is_open_to_the_group(point, nth, file, mode, stage, launcher):
    """Killed as it makes the queue, it leaves nothing that only its own user can write once another start has
    finished that; else all other producers would be refused for good."""
    scene = stage("fresh")
    command = (scene.environ, scene.command, scene.scratch)
    launcher(*command, point, nth, umask=0o077).was_killed_at(point)
    assert launcher(*command, umask=0o077).code == 0
    # The reserve is laid with the database, or else when a daemon starts.
    started = launcher(scene.environ, ("run",), scene.scratch, "start-ready", 1, umask=0o077)
    started.was_killed_at("start-ready")
    assert oct(os.stat(os.path.join(scene.queue_path, file)).st_mode & 0o7777) == oct(mode)


class Damaged(Accept):
    """The same, into a queue that is paused, and whose database, with events that wait, has lost its
    beginning."""

    def prepare(self):
        super().prepare()
        self.put(self.events(20))
        control.pause(self.queue_path)
        with open(f"{self.queue_path}/data.db", "r+b") as file:
            file.write(bytes(100))

    def resume(self):
        control.resume(self.queue_path)


class Logged(Damaged):
    """The same with a log, of a database that is empty."""

    def prepare(self):
        super().prepare()
        shutil.rmtree(self.queue_path)
        with EventQueue(self.queue_path, min_free_bytes=0) as queue:
            queue.append(self.offered[self.whole :])
            control.pause(self.queue_path)
            os.truncate(f"{self.queue_path}/data.db", 0)
            shutil.copytree(self.queue_path, self.scratch / "copy")
        shutil.rmtree(self.queue_path)
        os.rename(self.scratch / "copy", self.queue_path)


class Own(Scene):
    """A database in use with a fault that only SQLite's own check finds."""

    def prepare(self):
        self.put(self.events(20))
        control.pause(self.queue_path)
        with open(f"{self.queue_path}/data.db", "r+b") as file:
            file.seek(36)  # how many pages are free
            file.write(b"\0\0\0\7")
        self.command = ("salvage", f"{self.queue_path}/data.db", "--apply")

    def resume(self):
        control.resume(self.queue_path)


class Salvaged(Damaged):
    """A database that was set aside, and is being salvaged."""

    def prepare(self):
        super().prepare()
        with EventQueue(self.queue_path, min_free_bytes=0) as queue:
            queue.append(self.offered[: self.whole])
        (file,) = set_aside.damaged(self.queue_path)
        self.command = ("salvage", file, "--apply")


# Three files are linked and unlinked, or those of them that are there; three directories synced.
ASIDE = [
    ("aside-made", 1),
    ("aside-linking", 1),
    ("aside-linking", 2),
    ("aside-syncing", 1),
    ("aside-syncing", 2),
    ("aside-unlinking", 1),
    ("aside-unlinking", 2),
    ("aside-unlinking", 3),
    ("aside-syncing", 3),
    ("aside-done", 1),
    ("make-file-made", 1),
    *(("statement", nth) for nth in range(1, 28, 3)),
    ("make-reserve", 1),
    ("accept-commit", 1),
]
LOGGED = [case for case in ASIDE if case[0].startswith(("aside-", "make-file"))]


@pytest.mark.parametrize(
    ("name", "point", "nth"),
    [("damaged", *case) for case in ASIDE] + [("logged", *case) for case in LOGGED],
)
def test_killed_while_it_sets_a_damaged_database_aside(
    name, point, nth, tmp_path, stage, launcher, recovered, figures
):
    """Killed while it sets aside, or makes what takes the place, a producer leaves all that can
    still be read, at one place or the other; the next one goes on, salvage brings all of it back, and
    delivery stays paused."""
    scene = stage(name)
    launcher(scene.environ, scene.command, tmp_path, point, nth).was_killed_at(point)
    again = launcher(scene.environ, scene.command, tmp_path)
    assert again.code == 0, again.stderr
    assert figures(scene.queue_path).paused
    for file in set_aside.damaged(scene.queue_path):
        done = launcher(scene.environ, ("salvage", file, "--apply"), tmp_path)
        assert done.code == 0, done.stderr
    recovered(scene)


OWN = [
    ("own-examined", 1),
    ("aside-made", 1),
    ("aside-linking", 1),
    ("aside-unlinking", 1),
    ("own-aside", 1),
    ("make-file-made", 1),
    ("salvage-noted", 1),
    ("salvage-committed", 1),
    ("salvage-marking", 1),
    ("salvage-marked", 1),
]


@pytest.mark.parametrize(("point", "nth"), OWN)
def test_killed_while_it_salvages_the_queues_own_database(
    point, nth, tmp_path, stage, launcher, recovered, rows, figures
):
    """Killed during it and called again, by the same command or by the one that it names then, salvage brings
    each event back once, and delivery stays paused."""
    scene = stage("own")
    launcher(scene.environ, scene.command, tmp_path, point, nth).was_killed_at(point)
    again = launcher(scene.environ, scene.command, tmp_path)
    assert again.code in (0, 66, 78), again.stderr
    for file in set_aside.damaged(scene.queue_path):
        assert file in again.stderr
        assert launcher(scene.environ, ("salvage", file, "--apply"), tmp_path).code == 0
    assert set_aside.damaged(scene.queue_path) == []
    assert sorted(rows(scene.queue_path)) == sorted(scene.offered)
    assert figures(scene.queue_path).paused
    recovered(scene)


SALVAGING = [
    ("salvage-noted", 1),
    ("salvage-commit", 1),
    ("salvage-committed", 1),
    ("salvage-marking", 1),
    ("salvage-marked", 1),
]


@pytest.mark.parametrize(("point", "nth"), SALVAGING)
def test_killed_while_it_salvages(point, nth, tmp_path, stage, launcher, recovered, rows):
    """Killed during --apply and called again, salvage brings each event back, and none twice."""
    scene = stage("salvaged")
    launcher(scene.environ, scene.command, tmp_path, point, nth).was_killed_at(point)
    for file in set_aside.damaged(scene.queue_path):
        assert launcher(scene.environ, ("salvage", file, "--apply"), tmp_path).code == 0
    assert set_aside.damaged(scene.queue_path) == []
    assert sorted(rows(scene.queue_path)) == sorted(scene.offered)
    recovered(scene)


FULL = [("reserve-release", 1), ("reserve-released", 1)]


@pytest.mark.parametrize(("point", "nth"), FULL)
def test_killed_on_a_full_disk(point, nth, server, forwarder, launcher, recovered, figures, tmp_path, sql):
    """Killed as it gives up its reserve on a full disk, the forwarder settles when it starts again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        scene = Send(str(disk / "queue"), server, forwarder.environ, tmp_path, sql)
        # Closed, the last connection would give the log's room back.
        with EventQueue(scene.queue_path, min_free_bytes=0) as queue:
            fill(disk, scene, queue)
            launcher(scene.environ, ("run",), tmp_path, point, nth).was_killed_at(point)
            assert os.statvfs(disk).f_bavail * 4096 <= RESERVE_BYTES
            drained = launcher(scene.environ, ("drain",), tmp_path)
        assert drained.code == 0, drained.stderr
        (disk / "ballast").unlink()
        recovered(scene)
    finally:
        subprocess.run(["umount", disk], check=True, capture_output=True)


def fill(disk, scene, queue):
    """Fill the disk to its last block, and what room is left in the queue's own files."""
    with open(disk / "ballast", "wb") as ballast:
        end, step = 0, 1 << 20
        while step >= 4096:
            try:
                os.posix_fallocate(ballast.fileno(), end, step)
                end += step
            except OSError:
                step //= 2
    try:
        for _ in range(5000):
            events = scene.events(1, pad="x" * 300)
            queue.append(events)
            scene.offered += events
    except TryAgainError:
        return
    raise AssertionError("the disk is not full")


# scene, system call, file, which call: what is left then is half a write to the disk.
TORN = [
    # The log's header, then a header and a page for each of two frames; it is the last that commits.
    ("accept", "pwrite64", "data.db-wal", 5, NOTHING),
    ("accept", "fdatasync", "data.db-wal", 2, WHOLE),
    ("send", "pwrite64", "data.db-wal", 9, NOTHING),
    ("fresh", "fallocate", "reserve", 1, NOTHING),
    ("tidy", "pwrite64", "data.db", 2, None),
    ("accept", "pwrite64", "data.db-wal", 2, NOTHING),
    ("send", "pwrite64", "data.db-wal", 2, NOTHING),
    ("send", "fdatasync", "data.db-wal", 3, WHOLE),
    ("fresh", "pwrite64", "data.db", 1, None),
    ("tidy", "fdatasync", "data.db", 1, None),
    ("tidy", "ftruncate", "data.db", 1, None),
    ("tidy", "ftruncate", "data.db-wal", 1, None),
]
# A traced process takes a second to start.
if "FORWARDER_CRASH_S" not in os.environ:
    del TORN[5:]


@pytest.mark.parametrize(("name", "call", "file", "nth", "is_in"), TORN)
def test_killed_during_a_write(name, call, file, nth, is_in, stage, tmp_path, recovered, figures, launcher):
    """Killed at a system call of SQLite's, between the pages of a commit or of a checkpoint, it recovers."""
    if not shutil.which("strace"):
        pytest.skip("strace is not there to kill it at a system call")
    scene = stage(name)
    trace = tmp_path / "trace"
    options = ["-f", "-qq", "-o", trace, "-P", f"{scene.queue_path}/{file}", "-e", f"trace={call}"]
    options += ["-e", f"inject={call}:signal=SIGKILL:when={nth}"]
    command = ["strace", *options, sys.executable, "-m", "forwarder", *scene.command]
    done = subprocess.run(command, env=scene.environ, capture_output=True, text=True, timeout=60)
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"processes can't be traced here: {done.stderr}")
    traced = trace.read_text()
    assert (done.returncode, traced.count(f"{call}(")) == (KILLED, nth), (done.stderr, traced)
    assert "killed by SIGKILL" in traced
    if is_in is not None:
        assert scene.moved(figures(scene.queue_path)) == (scene.whole if is_in else 0)
    if name in ("accept", "fresh") and not is_in:
        assert launcher(scene.environ, scene.command, tmp_path).code == 0
    recovered(scene, [STARTS[nth]])


class Sequence:
    """One queue, and commands that are killed at random points of it one after another."""

    STEPS = (
        ("enqueue", ["accept-inserting", "accept-commit", "accept-committed", "accept-told", "statement"]),
        ("retry", ["retry-inserted", "retry-commit", "retry-committed", "statement"]),
        ("drain", [point for point, _ in STARTS]),
        ("drain", ["claimed", "posted", "requeued", "halved", "suspect-held", "statement", "checkpointed"]),
        ("drain", [f"settle-{at}" for at in ("deleted", "one-buried", "counted", "commit", "committed")]),
    )

    def __init__(self, scene, launcher, dice):
        self.scene, self._launcher, self._dice = scene, launcher, dice
        self.kills = Counter()
        self.commands = 0
        self._uncertain = []

    def step(self):
        """Run a command, killed at a random point if it gets there."""
        name, points = self._dice.choice(self.STEPS)
        point, nth = self._dice.choice(points), self._dice.choice((1, 1, 1, 2, 3, 7))
        ended = getattr(self, f"_{name}")(point, nth)
        self.commands += 1
        if ended.mark:
            ended.was_killed_at(point)
            self.kills[point] += 1

    def _enqueue(self, point, nth):
        events = []
        for _ in range(self._dice.randrange(1, 5)):
            events += self.scene.events(self._dice.randrange(1, 9))
            events += self.scene.events(self._dice.randrange(2), **self._dice.choice(({"time": 1}, {})))
        file = self.scene.scratch / "events.ndjson"
        file.write_bytes(b"\n".join(events) + b"\n")
        ended = self._run(("enqueue", "--no-check", file), point, nth)
        if ended.code == 0:
            assert f"accepted {len(events)} event" in ended.stdout
            self.scene.offered += events
        else:
            self._uncertain.append(events)
        return ended

    def _retry(self, point, nth):
        return self._run(Retry.command, point, nth)

    def _drain(self, point, nth):
        if self._dice.random() < 0.2:
            fault = self._dice.choice((Fault.server_error(503), Fault.reset_after(), Fault.half_answer()))
            self.scene.server.inject(fault, times=1)
        return self._run(("drain",), point, nth)

    def _run(self, command, point, nth):
        return self._launcher(self.scene.environ, command, self.scene.scratch, point, nth)

    def believe(self, found):
        """Count as offered what is *found* of events whose producer was not told: all of a file, or none."""
        for events in self._uncertain:
            ids = [json.loads(data)["properties"]["$insert_id"] for data in events]
            there = [one in found for one in ids]
            assert all(there) or not any(there), "half a transaction"
            self.scene.offered += events if there[0] else []


@pytest.mark.timeout(LONG_S + 180)
def test_killed_again_and_again_at_random_points(stage, launcher, recovered, rows, capsys):
    """One queue, through crash after crash at random points of enqueue, drain and retry, loses nothing."""
    sequence = Sequence(stage("send"), launcher, random.Random(SEED))
    ends_at = time.monotonic() + LONG_S
    while time.monotonic() < ends_at or sum(sequence.kills.values()) < 10:
        sequence.step()
    scene = sequence.scene
    scene.server.clear()
    drained = launcher(scene.environ, ("drain",), scene.scratch)
    assert drained.code == 0, drained.stderr
    dead = {json.loads(data)["properties"]["$insert_id"] for data in rows(scene.queue_path, "dead_letters")}
    sequence.believe(dead | scene.server.ledger.events.keys())
    recovered(scene)
    assert len(sequence.kills) >= 5
    with capsys.disabled():
        print(
            f"\ncrash points: FORWARDER_TEST_SEED={SEED}: {sequence.commands} commands,"
            f" {sum(sequence.kills.values())} killed at {len(sequence.kills)} points,"
            f" {len(scene.offered)} events accepted, {scene.server.ledger.repeats} sent again, 0 lost"
        )
