"""A producer's way in: what `EventQueue` promises to those who hand events over."""

import asyncio
import fcntl
import json
import os
import pickle
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import persistqueue.serializers.json
import pytest

from forwarder.errors import ConfigError, EventError, ForwarderError, TryAgainError
from forwarder.records.event import accept_many
from forwarder.spool import AckQueue, EventQueue, Settlement
from forwarder.spool.sqlite import books, tables
from forwarder.spool.sqlite import database as database_module
from forwarder.spool.sqlite import schema as schema_module
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.directory import make_directory
from forwarder.spool.sqlite.lock import WriterLock
from forwarder.spool.sqlite.producer import PIECE_BYTES
from forwarder.spool.sqlite.room import RESERVE_BYTES, fill_reserve, release_reserve
from forwarder.spool.sqlite.view import View

EVENT = {"event": "A", "properties": {"distinct_id": "u-1"}}


def event(number, **more):
    return {"event": "A", "properties": {"distinct_id": "u-1", "number": number, **more}}


def numbers(data):
    return sorted(json.loads(one)["properties"]["number"] for one in data)


def run_python(code, *arguments, timeout_s=60):
    """Run a program of its own; returns what it printed, one JSON value a line."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def queue(queue_path):
    """A queue with room for everything."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        yield queue


# Putting


def test_put_returns_the_row_id(queue, queue_path, rows):
    """A put event is a row of the queue, complete, under the id that was returned."""
    assert [queue.put(event(number)) for number in range(3)] == [1, 2, 3]
    stored = [json.loads(data) for data in rows(queue_path)]
    assert [one["properties"]["number"] for one in stored] == [0, 1, 2]
    assert all({"time", "$insert_id"} <= one["properties"].keys() for one in stored)


def test_put_many_returns_how_many(queue, queue_path, rows):
    """Many events are stored in their order, and counted."""
    assert queue.put_many(event(number) for number in range(100)) == 100
    assert [json.loads(data)["properties"]["number"] for data in rows(queue_path)] == list(range(100))


def test_many_of_any_size_are_stored_byte_by_byte(queue, queue_path, rows):
    """Events of up to 1 MB beside small ones, more of them than go into one piece, are stored as they are."""
    bodies = ["é" * (490_000 if number % 3 == 0 else number) for number in range(60)]
    lines = [json.dumps(event(n, body=body), ensure_ascii=False).encode() for n, body in enumerate(bodies)]
    records, refused = accept_many(lines, 1_700_000_000_000)
    assert not refused
    assert sum(map(len, records)) > 2 * PIECE_BYTES
    assert queue.append(records) == 60
    assert rows(queue_path) == records


def test_put_many_of_nothing_is_nothing(queue, queue_path, rows):
    """Nothing to store stores nothing, and says so."""
    assert (queue.put_many([]), queue.append([])) == (0, 0)
    assert rows(queue_path) == []


def test_put_many_is_all_or_none(queue, queue_path, rows):
    """One bad event among many, or a generator that fails, and none of them is stored."""
    with pytest.raises(EventError, match=r"events\[1\]: 'event' must not be missing .* nothing was stored"):
        queue.put_many([event(0), {"event": "", "properties": {}}, event(1)])
    with pytest.raises(EventError, match=r"events\[0\]: 'properties.tags' is not JSON: Object of type set"):
        queue.put_many(event(n, tags={n}) for n in range(3))

    def failing():
        yield event(0)
        raise KeyError("the producer's own")

    with pytest.raises(KeyError, match="the producer's own"):
        queue.put_many(failing())
    assert rows(queue_path) == []


def test_messages_speak_of_arguments(tmp_path):
    """A program that has no settings is not told to change one."""
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.db").write_bytes(b"x" * 5000)
    for place in ("file", "other"):
        with pytest.raises(ForwarderError, match=r"[Uu]se a.*directory") as refusal:
            EventQueue(tmp_path / place, min_free_bytes=0).put(EVENT)
        assert "queue.path" not in str(refusal.value)


def test_refused_event_is_not_stored(queue, queue_path, rows):
    """A refused event leaves nothing behind, and the queue goes on."""
    with pytest.raises(EventError, match="in the future"):
        queue.put({"event": "A", "properties": {"time": 4102444800000}})
    assert queue.put(event(1)) == 1
    assert numbers(rows(queue_path)) == [1]


def test_rules_can_be_left_to_mixpanel(queue_path, rows):
    """A queue without rules takes what Mixpanel would refuse, but no structure that is none."""
    with EventQueue(queue_path, min_free_bytes=0, rules=False) as queue:
        queue.put({"event": "A", "properties": {"distinct_id": "null"}})
        with pytest.raises(EventError):
            queue.put({"event": "A", "properties": []})
    assert len(rows(queue_path)) == 1


def test_threads_share_a_queue(queue, queue_path, rows):
    """Eight threads put at once into one object; each event is there once, under its own id."""

    def put_some(first):
        return [queue.put(event(number)) for number in range(first, first + 50)]

    with ThreadPoolExecutor(8) as pool:
        ids = [row_id for found in pool.map(put_some, range(0, 400, 50)) for row_id in found]
    assert sorted(ids) == list(range(1, 401))
    assert numbers(rows(queue_path)) == list(range(400))


PUT_SOME = """
    import json, sys
    from forwarder import EventQueue
    path, first = sys.argv[1], int(sys.argv[2])
    with EventQueue(path, min_free_bytes=0) as queue:
        for number in range(first, first + 50):
            print(queue.put({"event": "A", "properties": {"number": number}}))
"""


def test_processes_share_a_queue(queue_path, rows):
    """Processes that all make the queue and put at once lose nothing and disturb nobody."""
    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(lambda first: run_python(PUT_SOME, queue_path, first), range(0, 300, 50)))
    assert sorted(row_id for found in ids for row_id in found) == list(range(1, 301))
    assert numbers(rows(queue_path)) == list(range(300))


def test_queue_works_on_both_sides_of_a_fork(queue_path, rows, sql):
    """After a fork parent and child both go on with the queue that was open, and it stays sound."""
    code = """
        import os, sys
        from forwarder import EventQueue
        queue = EventQueue(sys.argv[1], min_free_bytes=0)
        queue.put({"event": "A", "properties": {"number": 0}})
        child = os.fork()
        links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        assert not any(link.startswith(sys.argv[1]) for link in links), "a file crossed the fork"
        first = 100 if child else 200
        for number in range(first, first + 50):
            queue.put({"event": "A", "properties": {"number": number}})
        if not child:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        queue.put({"event": "A", "properties": {"number": 1}})
    """
    run_python(code, queue_path)
    assert numbers(rows(queue_path)) == [0, 1, *range(100, 150), *range(200, 250)]
    assert sql(queue_path, "PRAGMA integrity_check") == [("ok",)]


def test_fork_during_busy_threads(queue_path, rows, sql):
    """A fork while other threads put waits for their transactions, and the child's copy works too."""
    code = """
        import os, sys, threading
        from forwarder import EventQueue
        queue = EventQueue(sys.argv[1], min_free_bytes=0)
        def put_some(first):
            for number in range(first, first + 100):
                queue.put({"event": "A", "properties": {"number": number}})
        threads = [threading.Thread(target=put_some, args=(1000 * n,)) for n in range(1, 5)]
        for thread in threads:
            thread.start()
        for n in range(10, 15):
            child = os.fork()
            if not child:
                try:
                    queue.put({"event": "A", "properties": {"number": n}})
                    queue.put_many({"event": "A", "properties": {"number": 10 * n + k}} for k in range(10))
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
        for thread in threads:
            thread.join()
    """
    run_python(code, queue_path)
    by_threads = [1000 * n + k for n in range(1, 5) for k in range(100)]
    assert numbers(rows(queue_path)) == [*range(10, 15), *range(100, 150), *by_threads]
    assert sql(queue_path, "PRAGMA integrity_check") == [("ok",)]


def open_files(path):
    links = (Path("/proc/self/fd") / fd for fd in os.listdir("/proc/self/fd"))
    return [str(target) for link in links if str(target := os.path.realpath(link)).startswith(path)]


def test_closed_queue_can_be_used_again(queue_path, rows):
    """Closing lets go of every file, at the end of a with block too; a later call opens them again."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put(event(0))
        assert open_files(queue_path)
    assert open_files(queue_path) == []
    queue.put(event(1))
    queue.close()
    queue.close()
    assert open_files(queue_path) == []
    assert numbers(rows(queue_path)) == [0, 1]


# Who may use it


@pytest.mark.parametrize("umask", ["077", "000", "022"])
def test_files_belong_to_the_group(tmp_path, umask):
    """Whatever the umask: the directory is 2770, its files are 0660, nothing is for the world."""
    code = """
        import json, os, stat, sys
        os.umask(int(sys.argv[2], 8))
        from forwarder.spool import EventQueue
        from forwarder.spool.sqlite.consumer import Consumer
        with EventQueue(sys.argv[1], min_free_bytes=0) as queue:
            queue.put({"event": "A", "properties": {}})
            consumer = Consumer(sys.argv[1])
            paths = [sys.argv[1], *(entry.path for entry in os.scandir(sys.argv[1]))]
            modes = {os.path.basename(path): oct(stat.S_IMODE(os.stat(path).st_mode)) for path in paths}
            print(json.dumps(modes))
            consumer.close()
    """
    [modes] = run_python(code, tmp_path / "queue", umask)
    files = ("data.db", "data.db-wal", "data.db-shm", "writer.lock", "reserve")
    assert modes == {"queue": "0o2770", **dict.fromkeys(files, "0o660")}


NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
AS_NOBODY = """
    import json, os, sys
    from forwarder.errors import ForwarderError
    from forwarder.spool import EventQueue
    from forwarder.spool.sqlite.view import View
    def attempt(step):
        try:
            step()
        except ForwarderError as error:
            return [type(error).__name__, error.exit_code, str(error)]
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    def put():
        with EventQueue(sys.argv[1], min_free_bytes=0) as queue:
            queue.put({"event": "A", "properties": {}})
    def look():
        with View(sys.argv[1]) as view:
            view.figures()
    print(json.dumps([attempt(put), attempt(look)]))
"""


@pytest.fixture
def public_path():
    """A directory that other users can reach; pytest's own are private."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@as_root
@pytest.mark.parametrize("mode", [0o2770, 0o755, 0o700])
def test_without_permission_the_reason_is_said(public_path, mode):
    """A user who may not write in the queue's directory is told so, with the group as the remedy."""
    path = public_path / "queue"
    with EventQueue(path, min_free_bytes=0) as queue:
        queue.put(EVENT)
    path.chmod(mode)
    [[put, look]] = run_python(AS_NOBODY, path)
    assert put[:2] == ["NotPermittedError", 77]
    assert "member of the group" in put[2]
    assert look is None or look[:2] == ["NotPermittedError", 77]


@as_root
def test_without_permission_a_program_ends_quietly(public_path):
    """A program that keeps the refusal to its end, as Python 3.13 does for commands, says no more then."""
    code = """
        import os, sys
        from forwarder.errors import NotPermittedError
        from forwarder.spool import EventQueue
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        try:
            EventQueue(sys.argv[1])
        except NotPermittedError as error:
            kept = error  # and with it what it came through
            print("refused")
    """
    path = public_path / "queue"
    with EventQueue(path, min_free_bytes=0) as queue:
        queue.put(EVENT)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), path], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == ("refused\n", "", 0)


@as_root
@pytest.mark.parametrize("name", ["data.db", "data.db-wal", "data.db-shm", "writer.lock"])
def test_consumer_that_could_not_settle_is_not_made(public_path, name):
    """A file of the queue that this user can only read is found out before anything is claimed."""
    code = """
        import json, os, sys
        from forwarder.errors import NotPermittedError
        from forwarder.spool.sqlite.consumer import Consumer
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        try:
            Consumer(sys.argv[1]).close()
            print("null")
        except NotPermittedError as error:
            print(json.dumps(error.exit_code))
    """
    path = public_path / "queue"
    with EventQueue(path, min_free_bytes=0) as queue:
        queue.put(EVENT)
        path.chmod(0o777)
        for file in path.iterdir():
            file.chmod(0o666)
        assert run_python(code, path) == [None]
        (path / name).chmod(0o644)
        assert run_python(code, path) == [77]


def test_reserve_is_laid_with_the_queue(queue_path):
    """The first producer puts space by for settling, as by the time of the first daemon the disk may be
    full; those that come later don't look at it."""
    EventQueue(queue_path).close()
    assert os.stat(f"{queue_path}/reserve").st_size == RESERVE_BYTES
    os.unlink(f"{queue_path}/reserve")
    EventQueue(queue_path).close()
    assert not os.path.exists(f"{queue_path}/reserve")


@as_root
def test_queue_cannot_be_made_without_permission(public_path):
    """Where the user may not make the queue's directory, that is a matter of permission as well."""
    [[put, look]] = run_python(AS_NOBODY, public_path / "queue")
    assert put[:2] == ["NotPermittedError", 77]
    assert look[0] == "NoQueueError"


@as_root
def test_member_of_the_group_may_put(public_path, rows):
    """A user with nothing but the group puts into a queue that another user has made."""
    path = public_path / "queue"
    EventQueue(path, min_free_bytes=0).close()
    for file in (path, *path.iterdir()):
        os.chown(file, 0, 12345)
    path.chmod(0o2770)
    code = AS_NOBODY.replace("os.setgroups([])", "os.setgroups([12345])")
    assert run_python(code, path) == [[None, None]]
    assert len(rows(str(path))) == 1


# What is in the way


def snapshot(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def foreign_database(path, *statements):
    os.makedirs(path)
    connection = sqlite3.connect(f"{path}/data.db")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "columns",
    [
        "users (id INTEGER PRIMARY KEY, name TEXT)",
        "ack_queue_default (_id INTEGER PRIMARY KEY AUTOINCREMENT, data BLOB)",
        "ack_queue_default (_id INTEGER PRIMARY KEY, data BLOB, timestamp FLOAT, status INTEGER)",
    ],
    ids=["another program's", "other columns", "ids used again"],
)
def test_database_of_something_else_is_left_alone(queue_path, columns):
    """A database that is no queue is refused, and not a byte or file around it changes."""
    foreign_database(queue_path, f"CREATE TABLE {columns}")
    before = snapshot(queue_path)
    with pytest.raises(ConfigError, match="made by another program"):
        EventQueue(queue_path)
    with pytest.raises(ConfigError, match="made by another program"):
        View(queue_path)
    assert snapshot(queue_path) == before


def test_file_that_is_no_database_is_left_alone(queue_path):
    """A file named data.db that is no SQLite file is refused, and stays as it is."""
    os.makedirs(queue_path)
    Path(queue_path, "data.db").write_text("dear diary, " * 1000)
    before = snapshot(queue_path)
    with pytest.raises(ConfigError, match="not a SQLite file"):
        EventQueue(queue_path)
    assert snapshot(queue_path) == before


def test_file_where_the_directory_should_be(tmp_path):
    """A file at the queue's path is a wrong setting; the message has the name that was given."""
    (tmp_path / "queue").write_text("")
    with pytest.raises(ConfigError, match=f"^{tmp_path}/queue is in the way: "):
        EventQueue(tmp_path / "queue")
    assert [name for name in os.listdir(tmp_path) if name.startswith(".queue")] == []


COMMANDS = [
    *("enqueue -e E -d d", "run", "drain", "status", "status --json", "peek"),
    *("check", "dead-letters list", "dead-letters summary", "dead-letters retry --all --no-check --yes"),
    *("dead-letters delete --all --yes", "dead-letters export --all"),
]


@pytest.mark.parametrize("version", [2, 3, 4])
def test_queue_of_an_older_version_is_brought_up_to_date(version, queue_path, sql, forwarder, figures):
    """What is in it stays, its tables are those of a new one, and a look before that says who does it."""

    def columns(path):
        query = "SELECT m.name, c.* FROM sqlite_master AS m LEFT JOIN pragma_table_xinfo(m.name) AS c"
        return sql(path, f"{query} ORDER BY m.name, c.cid")

    with EventQueue(queue_path) as queue:
        queue.put_many([EVENT] * 3)
        new = columns(queue_path)
    for each in tables.each():
        sql(queue_path, f"DROP TABLE {each.bookmarks}")
        if version < 4:
            sql(queue_path, f"ALTER TABLE {each.deliveries} DROP COLUMN dead_ids")
            sql(queue_path, f"DROP INDEX dead_letters_event_id{each.suffix}")
            sql(queue_path, f"DROP TABLE {each.history}")
    for each in tables.each()[1:] if version == 2 else ():
        for name in {*each.names} - {each.bookmarks, each.history}:
            sql(queue_path, f"DROP TABLE {name}")
    sql(queue_path, f"PRAGMA user_version = {version}")
    looked = forwarder("status")
    assert "has not been used by this version of the forwarder yet" in looked.stdout
    assert "`forwarder run` or `forwarder enqueue`" in looked.stdout
    forwarder("enqueue", "-e", "E")
    assert forwarder.json("status")["accepted"] == 4
    assert forwarder("waiting", "hold", "1", "4").returncode == 0
    assert forwarder.json("status")["held"] == 2
    assert figures(queue_path).due == 2
    assert columns(queue_path) == new


@pytest.mark.parametrize("version", [0, 1, schema_module.VERSION + 1])
def test_queue_of_another_version_is_left_alone(version, queue_path, sql, forwarder):
    """Readers, writers and every command refuse a database of another version, say which it is, and change
    nothing."""
    EventQueue(queue_path).close()
    sql(queue_path, f"PRAGMA user_version = {version}")
    before = snapshot(queue_path)["data.db"]
    said = f"has version {version}; this forwarder supports {schema_module.OLDEST} to {schema_module.VERSION}"
    for use in (lambda path: EventQueue(path).put(EVENT), View, Consumer):
        with pytest.raises(ConfigError, match=said):
            use(queue_path)
    for command in COMMANDS:
        done = forwarder(*command.split())
        assert done.returncode == 78, command
        assert said in done.stdout if command == "check" else said in done.stderr
    assert snapshot(queue_path)["data.db"] == before


def test_plain_queue_is_adopted_as_it_is(queue_path, rows, sql):
    """A queue that plain persist-queue has made and used is taken over with its rows and their ids, its
    history before counts as nobody's, and the books balance."""
    plain = persistqueue.SQLiteAckQueue(queue_path, serializer=persistqueue.serializers.json)
    for number in range(20):
        plain.put(event(number))
    for _ in range(10):
        plain.ack(plain.get())
    plain.clear_acked_data(keep_latest=4)
    before = sql(queue_path, "SELECT * FROM ack_queue_default")
    assert len(before) == 14
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        assert sql(queue_path, "SELECT * FROM ack_queue_default") == before
        assert queue.put(EVENT) == 21
    consumer = Consumer(queue_path)
    claim = consumer.claim_behind(0, 100, 10**6)
    assert claim.ids == list(range(11, 22))
    consumer.settle(Settlement(claim.ids))
    consumer.close()
    with View(queue_path) as view:
        figures = view.figures()
        assert all(finding.ok for finding in books.check(view))
    assert (figures.accepted, figures.delivered, figures.deleted, figures.waiting) == (15, 11, 4, 0)
    plain.close()


def test_two_adopt_at_once(queue_path, sql):
    """Several processes that adopt or make the same queue at once make one set of books."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: EventQueue(queue_path).close(), range(16)))
    assert sql(queue_path, "SELECT count(*) FROM ledger") == [(1,)]


# Locked


def test_locked_database_is_waited_for_and_then_given_up(queue_path, rows):
    """While another program holds a write transaction, put waits for its time limit, then says to try
    again, and has stored nothing; afterwards it works."""
    queue = EventQueue(queue_path, min_free_bytes=0, lock_timeout_s=0.2)
    other = sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(TryAgainError, match="locked by another process") as refusal:
        queue.put(EVENT)
    assert 0.2 <= time.monotonic() - began < 5
    assert refusal.value.exit_code == 75
    with pytest.raises(TryAgainError):
        queue.put_many([EVENT] * 3)
    other.execute("ROLLBACK")
    assert queue.put(EVENT) == 1
    assert len(rows(queue_path)) == 1
    other.close()
    queue.close()


def test_write_transaction_holds_the_queue_from_its_beginning(queue_path):
    """Who reads first and writes later in one transaction is not overtaken in between."""
    queue = AckQueue(queue_path)
    other = sqlite3.connect(f"{queue_path}/data.db", isolation_level=None, timeout=0)
    with queue.transaction() as connection:
        connection.execute("SELECT * FROM ledger").fetchall()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("UPDATE ledger SET short = 1")
        connection.execute("UPDATE ledger SET short = 2")
    other.execute("UPDATE ledger SET short = 3")
    other.close()
    queue.close()


def test_stopped_holder_of_the_writer_lock(queue_path, rows, until):
    """Behind a process that was stopped during its turn, put gives up after its time limit; nothing is
    stored, tries do not add up to threads or files, and once the holder is gone it works."""
    queue = EventQueue(queue_path, min_free_bytes=0, lock_timeout_s=0.1)
    threads = len(os.listdir("/proc/self/task"))
    code = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDWR), 2); print(flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, f"{queue_path}/writer.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"\n"
        holder.send_signal(signal.SIGSTOP)
        for _ in range(4):
            with pytest.raises(TryAgainError, match="look for a stopped process"):
                queue.put(EVENT)
        assert len(os.listdir("/proc/self/task")) <= threads + 1
        assert sum(path.endswith("writer.lock") for path in open_files(queue_path)) == 2
    finally:
        holder.kill()
        holder.communicate()
    until(lambda: sum(path.endswith("writer.lock") for path in open_files(queue_path)) == 1)
    assert queue.put(EVENT) == 1
    assert len(rows(queue_path)) == 1
    queue.close()


def test_queue_waits_its_turn(queue_path):
    """A put that finds the writer lock taken is done as soon as it is free."""
    queue = EventQueue(queue_path, min_free_bytes=0)
    fd = os.open(f"{queue_path}/writer.lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(queue.put, EVENT)
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        fcntl.flock(fd, fcntl.LOCK_UN)
        assert waiting.result(5) == 1
    os.close(fd)
    queue.close()


# Full


def put_many_times(queue, one, times):
    for _ in range(times):
        queue.put(one)


def test_queue_is_full_at_max_bytes(queue_path, rows):
    """Once the queue takes max_bytes, events are refused for now; when some are delivered, taken again."""
    queue = EventQueue(queue_path, min_free_bytes=0, max_bytes=650_000)
    big = {"event": "A", "properties": {"text": "x" * 1000}}
    assert queue.put_many([big] * 300) == 300
    with pytest.raises(TryAgainError, match=r"as much as max_bytes allows") as refusal:
        put_many_times(queue, big, 300)
    assert refusal.value.exit_code == 75
    count = len(rows(queue_path))
    assert 300 < count < 550
    with pytest.raises(TryAgainError):
        queue.put_many([big])
    assert len(rows(queue_path)) == count
    consumer = Consumer(queue_path)
    consumer.settle(Settlement(consumer.claim_behind(0, 100, 10**6).ids))
    queue.put(big)
    consumer.close()
    queue.close()


def test_queue_is_full_at_min_free_bytes(queue_path, rows):
    """When the disk has less free than min_free_bytes, events are refused for now."""
    with EventQueue(queue_path, min_free_bytes=1 << 60) as queue:
        for store in (lambda: queue.put(EVENT), lambda: queue.put_many([EVENT])):
            with pytest.raises(TryAgainError, match=r"less than min_free_bytes") as refusal:
                store()
            assert refusal.value.exit_code == 75
    assert rows(queue_path) == []


# Replaced


def set_aside(queue_path):
    for name in os.listdir(queue_path):
        if name.startswith("data.db"):
            os.rename(f"{queue_path}/{name}", f"{queue_path}/old{name.removeprefix('data')}")


@pytest.mark.parametrize("again", [True, False], ids=["another file", "no file"])
def test_put_goes_to_the_file_at_the_path(queue, queue_path, rows, again):
    """When the database was set aside under an open queue, the next event goes to the one at the path,
    which is made if there is none."""
    queue.put(event(0))
    set_aside(queue_path)
    if again:
        with EventQueue(queue_path, min_free_bytes=0) as other:
            other.put(event(1))
    queue.put(event(2))
    assert numbers(rows(queue_path)) == ([1, 2] if again else [2])


def test_directory_that_is_gone_is_made_again(queue, queue_path, rows):
    """When the whole directory was moved away, the next event makes it again."""
    queue.put(event(0))
    os.rename(queue_path, queue_path + ".old")
    queue.put(event(1))
    assert numbers(rows(queue_path)) == [1]
    assert stat.S_IMODE(os.stat(queue_path).st_mode) == 0o2770


# What it costs


@pytest.fixture
def steps(monkeypatch):
    """Counts the steps of SQLite's virtual machine on all connections opened from now on."""
    counted = []
    connect = sqlite3.connect

    def counting(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.set_progress_handler(lambda: counted.append(1), 1)
        return connection

    monkeypatch.setattr(sqlite3, "connect", counting)

    def count(action):
        counted.clear()
        action()
        return len(counted)

    return count


def test_nothing_is_read_that_grows(queue_path, sql, steps):
    """Opening, putting, claiming and looking take as many steps with 200 000 events waiting, as many acked
    and as many settled as with ten: nobody ever scans."""

    def put():
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.put(EVENT)
            queue.put_many([EVENT] * 2)

    def claim():
        consumer = Consumer(queue_path)
        consumer.control().version, consumer.last_id(), consumer.control(), consumer.claim_behind(5, 4, 10**6)
        consumer.close()

    def look():
        with View(queue_path) as view:
            view.figures(), view.peek(2)

    put()
    add = (
        "INSERT INTO ack_queue_default (data, timestamp, status) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL"
        " SELECT i + 1 FROM n WHERE i < ?)"
        " SELECT (SELECT data FROM ack_queue_default LIMIT 1), 1.6e9, ? FROM n"
    )
    sql(queue_path, add, (20, 1))
    few = [steps(put), steps(claim), steps(look)]
    assert min(few) > 20
    sql(queue_path, add, (200_000, 1))
    sql(queue_path, add, (200_000, 5))
    assert [steps(put), steps(claim)] == few[:2]
    # One id is looked for in a sorted list: 18 doublings.
    assert steps(look) < few[2] + 18 * 20


def test_synced_at_each_commit(queue_path):
    """Every connection of ours syncs at each commit, also after it was opened again."""
    queue = AckQueue(queue_path)
    for _ in range(2):
        assert queue.connect().execute("PRAGMA synchronous").fetchone() == (3,)
        assert queue.connect().execute("PRAGMA journal_mode").fetchone() == ("wal",)
        queue.close()


def test_new_queue_can_give_disk_back(queue_path):
    """A queue of ours is made so that free space can be given back without rewriting the file."""
    queue = AckQueue(queue_path)
    assert queue.connect().execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert schema_module.version_of(queue.connect()) == schema_module.VERSION
    queue.close()


class TooLongError(Exception):
    """What the signal handler of these tests raises, as time limits of task runners do."""


@contextmanager
def limited(seconds):
    def too_long(*_):
        raise TooLongError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_put_broken_off_at_the_lock_locks_nobody_out(queue_path):
    """A put that a signal handler breaks off while it waits its turn does not take the turn later."""
    with EventQueue(queue_path, min_free_bytes=0, lock_timeout_s=5) as queue:
        queue.put(EVENT)
        with open(f"{queue_path}/writer.lock", "rb+") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            with pytest.raises(TooLongError), limited(0.2):
                queue.put(EVENT)
        with EventQueue(queue_path, min_free_bytes=0, lock_timeout_s=5) as another:
            another.put(EVENT)
        queue.put(EVENT)
    with View(queue_path) as view:
        assert view.figures().waiting == 3


@pytest.mark.parametrize("where", ["acquire", "release"])
def test_put_broken_off_beside_the_lock_locks_nobody_out(queue_path, monkeypatch, where):
    """A signal handler that raises just as the lock has come, or just before it is given back."""
    acquire = WriterLock.acquire

    def broken_off(lock, *timeout_s):
        if timeout_s:
            acquire(lock, *timeout_s)
        raise ZeroDivisionError

    with EventQueue(queue_path, min_free_bytes=0, lock_timeout_s=1.0) as queue:
        queue.put(EVENT)
        with monkeypatch.context() as patched:
            patched.setattr(WriterLock, where, broken_off)
            with pytest.raises(ZeroDivisionError):
                queue.put(EVENT)
        with EventQueue(queue_path, min_free_bytes=0, lock_timeout_s=1.0) as other:
            other.put(EVENT)
        queue.put(EVENT)


def test_put_broken_off_at_the_database_leaves_no_transaction(queue_path):
    """A put that a signal handler breaks off while SQLite is locked leaves no transaction open."""
    with EventQueue(queue_path, min_free_bytes=0, lock_timeout_s=5) as queue:
        queue.put(EVENT)
        # A process of its own: SQLite's wait holds on to this one's signals until the lock is gone.
        script = (
            "import sqlite3, sys\n"
            "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "db.execute('BEGIN IMMEDIATE')\n"
            "print('locked', flush=True)\n"
            "sys.stdin.read()\n"
        )
        command = [sys.executable, "-c", script, f"{queue_path}/data.db"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            holder.stdout.readline()
            letting_go = threading.Timer(0.6, holder.stdin.close)
            letting_go.start()
            with pytest.raises(TooLongError), limited(0.2):
                queue.put(EVENT)
            letting_go.join()
            holder.stdin = None
        with EventQueue(queue_path, min_free_bytes=0, lock_timeout_s=5) as another:
            another.put(EVENT)
        queue.put(EVENT)
    with View(queue_path) as view:
        assert view.figures().waiting == 3


def test_room_is_looked_at_while_others_close(queue_path):
    """A producer at its size limit survives that another thread closes the queue again and again."""
    code = """
        import sys, threading
        from forwarder.errors import TryAgainError
        from forwarder.spool import EventQueue
        queue = EventQueue(sys.argv[1], min_free_bytes=0, max_bytes=1)
        ended = threading.Event()
        def close():
            while not ended.is_set():
                queue.close()
        closer = threading.Thread(target=close)
        closer.start()
        refused = 0
        for _ in range(1500):
            try:
                queue.put({"event": "A", "properties": {}})
            except TryAgainError:
                refused += 1
        ended.set()
        closer.join()
        queue.close()
        print(refused)
    """
    assert run_python(code, queue_path) == [1500]


@as_root
def test_directory_that_can_not_be_made_is_said_to_be_missing(public_path):
    """Who can't make the queue's directory is told that it is not there, and where it can't be made: 77."""
    wanted = os.path.join(public_path, "some", "queue")
    code = f"""
        import json, os
        from forwarder.errors import NotPermittedError
        from forwarder.spool import EventQueue
        os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
        try:
            EventQueue({wanted!r})
        except NotPermittedError as error:
            print(json.dumps([error.exit_code, error.what]))
    """
    [found] = run_python(code)
    assert found == [77, f"{wanted} does not exist, and this user can't create it in {public_path}"]


# Where it is


def test_directory_is_made_once(tmp_path):
    """Of several that make the queue's directory at once, none takes another's place."""
    for number in range(30):
        path = str(tmp_path / str(number) / "queue")
        start = threading.Barrier(6)

        def make(path=path, start=start):
            start.wait(20)
            make_directory(path)
            return os.stat(path).st_ino

        with ThreadPoolExecutor(6) as pool:
            made = {one.result(20) for one in [pool.submit(make) for _ in range(6)]}
        assert made == {os.stat(path).st_ino}
        assert os.listdir(os.path.dirname(path)) == ["queue"]


def test_path_stays_what_it_was(tmp_path, monkeypatch, rows):
    """A relative path is meant from where the program was when it opened the queue."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    queue, consumer = EventQueue("queue", min_free_bytes=0), Consumer("queue")
    queue.put(event(1))
    with View("queue") as view:
        monkeypatch.chdir(tmp_path / "elsewhere")
        queue.close()
        queue.put(event(2))
        claim = consumer.claim_behind(0, 10, 10**6)
        consumer.settle(Settlement(claim.ids[:1]))
        assert view.figures().db_bytes
    assert numbers(rows(str(tmp_path / "queue"))) == [2]
    consumer.close()
    monkeypatch.chdir(tmp_path)
    with closing(AckQueue("queue")) as plain:
        os.rename("queue", "moved")
        monkeypatch.chdir(tmp_path / "elsewhere")
        plain.put(1)
    assert len(rows(str(tmp_path / "queue"))) == 1
    assert os.listdir(tmp_path / "elsewhere") == []
    queue.close()


# One limit for all waiting


@contextmanager
def held_lock(queue_path):
    fd = os.open(f"{queue_path}/writer.lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def test_threads_wait_together(queue_path):
    """Behind a writer lock that does not come free, each of eight threads gives up after the time limit, not
    after those before it have given up."""
    queue = EventQueue(queue_path, min_free_bytes=0, lock_timeout_s=0.5)

    def put(_):
        began = time.monotonic()
        with pytest.raises(TryAgainError):
            queue.put(EVENT)
        return time.monotonic() - began

    with held_lock(queue_path), ThreadPoolExecutor(8) as pool:
        took = list(pool.map(put, range(8)))
    assert all(0.4 < one < 1.5 for one in took)
    queue.put(EVENT)
    queue.close()


def test_a_thread_waits_for_another_no_longer(queue_path):
    """Behind another thread that takes long over its transaction, put gives up after the time limit."""
    queue = EventQueue(queue_path, min_free_bytes=0, lock_timeout_s=0.3)
    with queue._producer._database.transaction(), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(queue.put, EVENT)
        with pytest.raises(TryAgainError, match="another thread"):
            waiting.result(5)
    queue.put(EVENT)
    queue.close()


def test_waiting_for_the_writer_lock_is_taken_off_the_wait_for_sqlite(queue_path):
    """After waiting for the writer lock, only the rest of the time is left for another program's lock."""
    queue = EventQueue(queue_path, min_free_bytes=0, lock_timeout_s=1.0)
    external = sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)
    external.execute("BEGIN IMMEDIATE")
    fd = os.open(f"{queue_path}/writer.lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    letting_go = threading.Timer(0.7, lambda: fcntl.flock(fd, fcntl.LOCK_UN))
    letting_go.start()
    began = time.monotonic()
    with pytest.raises(TryAgainError):
        queue.put(EVENT)
    assert 0.9 < time.monotonic() - began < 1.5
    letting_go.join()
    os.close(fd)
    external.close()
    assert queue._producer._database.connect().execute("PRAGMA busy_timeout").fetchone() == (1000,)
    queue.put(EVENT)
    queue.close()


def test_put_in_a_signal_handler(queue, queue_path, rows):
    """A handler that puts an event while its thread is storing others is told to try again; the others are
    all stored, or none."""
    told = []

    def handler(*_):
        with pytest.raises(TryAgainError, match="writing to the queue"):
            queue.put(event(99))
        told.append(1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with queue._producer._database.transaction() as connection:
            connection.executemany(tables.OF_EVENTS.insert, [(b"{}", 1.0, 1)] * 3)
            signal.raise_signal(signal.SIGUSR1)
            assert connection.in_transaction
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert told == [1]
    assert rows(queue_path) == [b"{}"] * 3
    queue.put(event(1))


# Forks


def test_several_threads_fork_at_once(queue_path):
    """Threads that fork at the same time, beside one that puts: nobody hangs, each child can put, and new
    queues can be opened meanwhile."""
    code = """
        import os, signal, sys, threading, time
        from forwarder import EventQueue
        sys.setswitchinterval(0.0001)
        queue = EventQueue(sys.argv[1], min_free_bytes=0)
        ends_at = time.monotonic() + 2
        counts = {"forks": 0, "puts": 0, "opened": 0}
        def fork():
            while time.monotonic() < ends_at:
                child = os.fork()
                if not child:
                    signal.alarm(20)
                    queue.put({"event": "A", "properties": {"number": 1}})
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
                counts["forks"] += 1
        def put():
            while time.monotonic() < ends_at:
                queue.put({"event": "A", "properties": {"number": 2}})
                counts["puts"] += 1
        def open_another():
            while time.monotonic() < ends_at:
                with EventQueue(sys.argv[1], min_free_bytes=0) as another:
                    another.put({"event": "A", "properties": {"number": 3}})
                counts["opened"] += 1
        threads = [threading.Thread(target=fork, daemon=True) for _ in range(3)]
        threads += [threading.Thread(target=step, daemon=True) for step in (put, open_another)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        print(sum(thread.is_alive() for thread in threads))
        print(min(counts.values()))
        sys.stdout.flush()
        os._exit(0)
    """
    hanging, least = run_python(code, queue_path)
    assert hanging == 0
    assert least > 5
    with View(queue_path) as view:
        assert all(finding.ok for finding in books.check(view))


def test_fork_without_python(queue_path, rows):
    """A child that was forked past Python with the queue in use is refused; the parent goes on."""
    code = """
        import ctypes, json, os, sys
        from forwarder import EventQueue
        from forwarder.errors import StorageError
        queue = EventQueue(sys.argv[1], min_free_bytes=0)
        queue.put({"event": "A", "properties": {"number": 0}})
        child = ctypes.PyDLL(None).fork()
        if not child:
            try:
                queue.put({"event": "A", "properties": {"number": 1}})
            except StorageError as error:
                os._exit(42 if "was forked while" in str(error) else 1)
            os._exit(2)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        queue.put({"event": "A", "properties": {"number": 2}})
        queue.close()
    """
    assert run_python(code, queue_path) == [42]
    assert numbers(rows(queue_path)) == [0, 2]


@pytest.mark.parametrize("is_there", [False, True], ids=["a new queue", "one that is there"])
def test_fork_without_python_before_the_first_use(queue_path, rows, is_there):
    """A queue that was only made before such a fork, as uWSGI's is, takes events on both sides."""
    code = """
        import ctypes, os, sys
        from forwarder import EventQueue
        queue = EventQueue(sys.argv[1], min_free_bytes=0)
        child = ctypes.PyDLL(None).fork()
        queue.put({"event": "A", "properties": {"number": 1 if child else 2}})
        if not child:
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    if is_there:
        EventQueue(queue_path).close()
    assert run_python(code, queue_path) == [0]
    assert sorted(numbers(rows(queue_path))) == [1, 2]


def test_pickled(queue_path, rows):
    """A queue goes to another process as its path and limits, as multiprocessing does it."""
    with EventQueue(queue_path, min_free_bytes=0, rules=False) as queue:
        again = pickle.loads(pickle.dumps(queue))
        again.put(event(1))
        assert (again.path, again._rules) == (queue.path, False)
        again.close()
    assert numbers(rows(queue_path)) == [1]


# The reserve


def test_reserve_that_is_something_else_is_left_alone(queue_path, tmp_path):
    """A symbolic link, a second name of another file, a pipe or a directory in the reserve's place is neither
    emptied nor filled, and stops nobody."""
    EventQueue(queue_path, min_free_bytes=0).close()
    place, precious = f"{queue_path}/reserve", tmp_path / "precious"
    precious.write_text("mine")
    makers = {
        "link": lambda: os.symlink(precious, place),
        "name": lambda: os.link(precious, place),
        "pipe": lambda: os.mkfifo(place),
        "directory": lambda: os.mkdir(place),
    }
    for make in makers.values():
        (os.rmdir if os.path.isdir(place) and not os.path.islink(place) else os.unlink)(place)
        make()
        fill_reserve(queue_path)
        release_reserve(queue_path)
        Consumer(queue_path).close()
        assert precious.read_text() == "mine"


def test_under_asyncio(queue, queue_path, rows):
    """By `asyncio.to_thread` the loop goes on turning while puts wait for another writer; all are stored."""

    async def serve():
        with WriterLock(f"{queue_path}/writer.lock").held(5):
            puts = [asyncio.create_task(asyncio.to_thread(queue.put, EVENT)) for _ in range(20)]
            done, _ = await asyncio.wait(puts, timeout=0.1)
            assert not done
        return await asyncio.gather(*puts)

    ids = asyncio.run(serve())
    assert sorted(ids) == list(range(1, 21))
    assert len(rows(queue_path)) == 20


def test_a_database_that_is_set_aside_while_it_is_opened(queue_path, monkeypatch):
    """Whoever opens it in that moment goes on with the fresh one."""
    EventQueue(queue_path).close()
    real = database_module.opened

    def late(*arguments):
        monkeypatch.setattr(database_module, "opened", real)
        os.rename(f"{queue_path}/data.db", f"{queue_path}/aside")
        return real(*arguments)

    monkeypatch.setattr(database_module, "opened", late)
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        assert queue.put(EVENT) == 1
