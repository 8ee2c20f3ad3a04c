"""``forwarder check``: each thing that can be out of order is found, and gives its exit code."""

import json
import os
import sqlite3
import sys
import tempfile
from contextlib import closing

import persistqueue.serializers.json
import pytest

from forwarder.cli import main
from forwarder.errors import NotPermittedError
from forwarder.sandbox import Fault
from forwarder.spool import Dead, EventQueue, Settlement
from forwarder.spool.sqlite import books, presence
from forwarder.spool.sqlite.consumer import Consumer


@pytest.fixture(autouse=True)
def settings(queue_path, monkeypatch):
    """Settings with which all is in order."""
    monkeypatch.setenv("FORWARDER_QUEUE_PATH", queue_path)
    monkeypatch.setenv("FORWARDER_QUEUE_MIN_FREE_BYTES", "0")
    monkeypatch.setenv("FORWARDER_MIXPANEL_TOKEN", "sandbox-token")


@pytest.fixture
def run(capsys):
    """Run ``forwarder check`` in this process; returns the exit code, and what was found by name."""

    def check(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["check", "--json", *arguments])
        out, err = capsys.readouterr()
        assert err == ""
        found = [json.loads(line) for line in out.splitlines()]
        return ended.value.code, {row["name"]: (row["result"], row["detail"]) for row in found}

    return check


@pytest.fixture
def queue(queue_path):
    """A sound queue in which 3 events wait; its path."""
    with EventQueue(queue_path, min_free_bytes=0) as opened:
        opened.put_many([{"event": "E", "properties": {}}] * 3)
    return queue_path


def spoil(path, statement):
    """Change the database behind the forwarder's back."""
    with closing(sqlite3.connect(f"{path}/data.db")) as connection:
        connection.execute(statement)
        connection.commit()


def test_all_in_order(run, queue):
    """With everything in place nothing fails; that no daemon runs is a warning."""
    code, found = run()

    assert code == 0
    assert found["daemon"] == ("warning", "none runs; new events are accepted and wait")
    assert {name for name, (result, _) in found.items() if result != "ok"} == {"daemon"}
    looked_at = {"settings", "key", "directory", "disk", "room", "integrity", "books: queue"}
    assert looked_at | {"books: dead letters"} <= found.keys()


def test_a_line_for_each(queue, capsys):
    """A person reads a line for each: ok, warning or FAIL, the name, and what was found."""
    with pytest.raises(SystemExit) as ended:
        main(["check"])

    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    assert all(line.split()[0] in ("ok", "warning") and ": " in line for line in out.splitlines())
    assert f"ok      directory: {queue}, mode 2770" in out.splitlines()
    assert "\x1b" not in out


def test_without_a_queue(run, queue_path):
    """Before the first event all is in order, and nothing is made."""
    code, found = run()

    assert code == 0
    assert found["directory"] == ("ok", f"{queue_path} does not exist yet; the first event creates it")
    assert not os.path.exists(queue_path)


def test_wrong_settings(run, queue, monkeypatch):
    """Every wrong setting is named, with 78; nothing else can be checked."""
    monkeypatch.setenv("FORWARDER_LOG_LEVEL", "loud")
    monkeypatch.setenv("FORWARDER_DELIVERY_CONNECTIONS", "0")

    code, found = run()

    assert code == 78
    assert found.keys() == {"settings"}
    result, detail = found["settings"]
    assert result == "FAIL"
    assert "log.level" in detail
    assert "delivery.connections" in detail


def test_no_key(run, queue, monkeypatch):
    """A missing key fails with 78; all else is checked, but Mixpanel is not asked."""
    monkeypatch.delenv("FORWARDER_MIXPANEL_TOKEN")

    code, found = run("--online")

    assert (code, found["key"][0]) == (78, "FAIL")
    assert found["books: queue"][0] == "ok"
    assert "Mixpanel" not in found


def test_a_key_that_others_can_read(run, queue, monkeypatch, tmp_path):
    """A key's file that others can read is a warning which does not show the key."""
    token = tmp_path / "token"
    token.write_text("not-to-be-shown")
    token.chmod(0o644)
    monkeypatch.delenv("FORWARDER_MIXPANEL_TOKEN")
    monkeypatch.setenv("FORWARDER_MIXPANEL_TOKEN_FILE", str(token))

    code, found = run()

    assert (code, found["key"][0]) == (0, "warning")
    assert "not-to-be-shown" not in str(found)


@pytest.mark.parametrize(
    ("place", "mode", "told"),
    [
        (".", 0o2775, "everyone on this host can read"),
        (".", 0o2777, "everyone on this host can write"),
        ("data.db", 0o664, "everyone on this host can read"),
        ("data.db", 0o666, "everyone on this host can write"),
    ],
)
def test_what_others_may_do(place, mode, told, run, queue):
    """Rights of everyone to the directory or the database are a warning."""
    os.chmod(os.path.join(queue, place), mode)

    code, found = run()

    assert (code, found["directory"][0]) == (0, "warning")
    assert told in found["directory"][1]


def test_a_file_in_the_way(run, queue_path):
    """A file where the directory should be fails with 78."""
    with open(queue_path, "w"):
        pass

    code, found = run()

    assert (code, found["directory"]) == (78, ("FAIL", f"{queue_path} is not a directory"))


@pytest.fixture
def imported(run, queue):
    """What the command imports late is there: a user without rights may not be able to read it."""
    assert run()[0] == 0


def check_as_nobody(output):
    """Run the command as a user without rights, in a process of its own; its exit code and output."""
    with open(output, "w+") as file:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                sys.stdout = file
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                main(["check"])
            except SystemExit as ended:
                code = ended.code
                file.flush()
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        file.seek(0)
        return os.waitstatus_to_exitcode(status), file.read()


@pytest.mark.parametrize("there", [True, False])
def test_a_user_without_rights(there, imported, monkeypatch):
    """Who can't write in the directory, or can't make it, is told so, with 77."""
    # Not below pytest's own directory, which only its owner can enter.
    with tempfile.TemporaryDirectory() as directory:
        queue, settings_file = os.path.join(directory, "queue"), os.path.join(directory, "settings.toml")
        EventQueue(queue).close()
        with open(settings_file, "w"):
            pass
        os.chmod(directory, 0o755)
        os.chmod(queue, 0o555)
        monkeypatch.setenv("FORWARDER_CONFIG", settings_file)
        monkeypatch.setenv("FORWARDER_QUEUE_PATH", queue if there else f"{queue}/inner/queue")

        code, out = check_as_nobody(os.path.join(directory, "output"))

    assert code == 77
    assert "FAIL    directory: " in out
    assert ("reading the queue needs it too" in out) == there


@pytest.mark.parametrize("file", ["data.db", "data.db-wal", "data.db-shm"])
def test_a_file_without_rights(file, imported, monkeypatch):
    """A file of the database that this user can't write is named, with 77, though the directory is open."""
    with tempfile.TemporaryDirectory() as directory:
        queue, settings_file = os.path.join(directory, "queue"), os.path.join(directory, "settings.toml")
        with open(settings_file, "w"):
            pass
        os.chmod(directory, 0o755)
        monkeypatch.setenv("FORWARDER_CONFIG", settings_file)
        monkeypatch.setenv("FORWARDER_QUEUE_PATH", queue)
        EventQueue(queue, min_free_bytes=0).close()
        os.chmod(queue, 0o777)
        # With a reader during it, its log stays.
        with closing(sqlite3.connect(f"{queue}/data.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM ledger").fetchall()
            for name in ("data.db", "data.db-wal", "data.db-shm"):
                os.chmod(os.path.join(queue, name), 0o444 if name == file else 0o666)

            code, out = check_as_nobody(os.path.join(directory, "output"))

    assert code == 77
    (failure,) = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert failure.startswith(f"FAIL    database: this user can't write {queue}/{file}; ")


def test_no_room_at_all(run, queue, monkeypatch):
    """A disk without a free byte fails with 75, also where queue.min_free_bytes is 0."""
    full = os.statvfs_result((4096, 4096, 100, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: full)

    code, found = run()

    told = "0 B free; queue.min_free_bytes is 0 B: new events are refused"
    assert (code, found["disk"]) == (75, ("FAIL", told))


def test_a_full_disk(run, queue, monkeypatch):
    """Less free space than queue.min_free_bytes fails with 75."""
    monkeypatch.setenv("FORWARDER_QUEUE_MIN_FREE_BYTES", "1024TiB")

    code, found = run()

    assert (code, found["disk"][0]) == (75, "FAIL")


def test_a_full_queue(run, queue, monkeypatch):
    """A queue as large as queue.max_bytes fails with 75, one near to it is a warning."""
    monkeypatch.setenv("FORWARDER_QUEUE_MAX_BYTES", "1MiB")
    assert run()[1]["room"][0] == "ok"
    with EventQueue(queue, min_free_bytes=0) as opened:
        while run()[1]["room"][0] == "ok":
            opened.put({"event": "E", "properties": {"pad": "x" * 20_000}})
        assert run()[1]["room"][0] == "warning"
        assert run()[0] == 0
        for _ in range(10):
            opened.put({"event": "E", "properties": {"pad": "x" * 20_000}})

    code, found = run()

    assert (code, found["room"][0]) == (75, "FAIL")


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("DELETE FROM ack_queue_default WHERE _id = 2", "books: queue"),
        ("UPDATE ledger SET delivered = 1", "books: queue"),
        ("UPDATE ledger SET retried = 1", "books: dead letters"),
    ],
)
def test_books_that_do_not_balance(statement, name, run, queue):
    """A row that went without being counted, or a wrong count, fails with 1."""
    spoil(queue, statement)

    code, found = run()

    assert (code, found[name][0]) == (1, "FAIL")


@pytest.fixture
def used(queue):
    """A queue in which 4 of 10 events are delivered, 2 dead, and 4 wait; its path."""
    with EventQueue(queue, min_free_bytes=0) as opened:
        opened.put_many([{"event": "E", "properties": {}}] * 7)
    consumer = Consumer(queue)
    claim = consumer.claim_behind(0, 6, 10**6)
    consumer.settle(Settlement(claim.ids[:3]))
    dead = [Dead(claim.ids[n], claim.events[n], "bad") for n in (4, 5)]
    consumer.settle(Settlement(claim.ids[3:], dead))
    consumer.close()
    return queue


LETTER = "event_id, data, event, insert_id, reason, field, accepted_at, dead_at"


@pytest.mark.parametrize(
    ("statement", "name", "told"),
    [
        ("DELETE FROM ack_queue_default WHERE _id = 8", "queue", "1 row too few"),
        ("DELETE FROM ack_queue_default WHERE _id > 7", "queue", "3 rows too few"),
        ("INSERT INTO ack_queue_default (_id, data, status) VALUES (5, x'', 0)", "queue", "1 row too many"),
        ("UPDATE ledger SET delivered = 5", "queue", "1 row too many"),
        ("UPDATE ledger SET discarded = -1, retried = 1", "queue", "discarded is -1"),
        ("UPDATE ack_queue_default SET _id = -8 WHERE _id = 8", "queue", "1 row with an id below 1"),
        ("UPDATE sqlite_sequence SET seq = 8 WHERE name LIKE 'a%'", "queue", "2 rows with an id above"),
        (
            "UPDATE ack_queue_default SET data = x'00' WHERE _id > 8",
            "events",
            "2 rows that once held an event",
        ),
        (
            "UPDATE ack_queue_default SET data = NULL WHERE _id = 8",
            "events",
            "now hold none (row 8: not JSON",
        ),
        ("UPDATE ledger SET queue_id = 'x'", "events", "'x', which is not a UUID"),
        ("DELETE FROM dead_letters WHERE id = 1", "dead letters", "1 row too few"),
        ("UPDATE ledger SET retried = 1", "dead letters", "1 row too many"),
        ("UPDATE ledger SET dead_lettered = 3, delivered = 3", "dead letters", "3 were counted, but 2 were"),
        (
            "UPDATE dead_letters SET event_id = 11 WHERE id = 1",
            "dead letters",
            "1 row of an event that was never",
        ),
        (
            "UPDATE dead_letters SET event_id = 7 WHERE id = 1",
            "dead letters",
            "1 row of an event that also still waits",
        ),
        ("UPDATE dead_letters SET event_id = 5", "dead letters", "1 row of an event that already has one"),
        (
            f"INSERT INTO dead_letters ({LETTER}) SELECT {LETTER} FROM dead_letters",
            "dead letters",
            "2 rows too many",
        ),
        (
            "UPDATE ledger SET delivered = 3, deleted = 1",
            "deliveries",
            "log says 4 delivered, the totals 3: 1 ap",
        ),
        ("UPDATE ledger SET short = 2", "deliveries", "the log says 0 short, the totals 2: 2 apart"),
        (
            "UPDATE deliveries SET dead = 5 WHERE id = 2",
            "deliveries",
            "5 dead-lettered, the totals 2: 3 apart",
        ),
        ("UPDATE deliveries SET ids = '4-5,11'", "deliveries", "event 11 was settled, but 10 is"),
        ("UPDATE deliveries SET ids = '1' WHERE id = 1", "deliveries", "1 batch with more events than ids"),
        (
            "UPDATE deliveries SET ids = '1-' WHERE id = 1",
            "deliveries",
            "1 batch with more events than ids",
        ),
        ("DELETE FROM deliveries WHERE id = 2", "deliveries", "1 row too few in the log"),
        (
            "INSERT INTO ack_queue_default (_id, data, status) VALUES (2, x'', 0)",
            "deliveries",
            "1 batch settled, but a row still waits",
        ),
    ],
)
def test_books_that_contradict_what_is_there(statement, name, told, run, used):
    """Whatever of totals and rows is changed by hand, `check` says what differs and by how much, with 1."""
    assert run()[0] == 0
    spoil(used, statement)

    code, found = run()

    assert (code, found[f"books: {name}"][0]) == (1, "FAIL")
    assert told in found[f"books: {name}"][1]


def test_what_others_put_there_is_no_fault(run, used):
    """What a plain producer has put in that is no event is said, but the books balance."""
    spoil(used, "INSERT INTO ack_queue_default (data, status) VALUES (x'80', 0), ('{}', 1), (x'7b7d', 5)")

    code, found = run()

    assert code == 0
    told = (
        "7 of 7 waiting rows checked; 2 rows without an event, which will be dead letters (row 11: not UTF-8"
    )
    assert found["books: events"][1].startswith(told)


def test_a_log_of_which_the_oldest_is_gone(run, used):
    """That the log of settled batches begins later than the totals, as it is bounded, is no fault."""
    spoil(used, "DELETE FROM deliveries WHERE id = 1")

    code, found = run()

    assert code == 0
    assert "1 settled batch, the newest of 2" in found["books: deliveries"][1]


def test_more_than_can_be_read_in_time(run, used, monkeypatch):
    """Where there is no time to read everything, what was left out is said, and the rest is compared."""
    for name, value in (("CHUNK_IDS", 2), ("COUNT_LIMIT_S", 0), ("SAMPLES", 2), ("SAMPLE_ROWS", 1)):
        monkeypatch.setattr(books, name, value)
    code, found = run()
    assert code == 0
    assert found["books: queue"][1].endswith("2 rows are there (counting ended after 0 s: 2 ids not read)")
    assert found["books: events"][1] == "2 of 4 waiting rows checked"

    spoil(used, "DELETE FROM ack_queue_default WHERE _id = 7")
    code, found = run()
    assert (code, found["books: queue"][1].splitlines()[0]) == (1, "1 row too few")


def test_integrity_is_checked_in_a_short_read(run, queue, monkeypatch):
    """What takes too long to check is left, and that is said."""
    with EventQueue(queue, min_free_bytes=0) as opened:
        opened.put_many([{"event": "E", "properties": {}}] * 20_000)
    monkeypatch.setattr(books, "INTEGRITY_LIMIT_S", -1.0)

    assert run()[1]["integrity"] == ("ok", "no fault found in -1 s; the rest was not read")


def test_a_long_queue_does_not_hide_damaged_books(run, used, monkeypatch):
    """Where the queue takes all the time, the tables of the books are checked by themselves."""
    check = books._quick_check
    monkeypatch.setattr(books, "_quick_check", lambda on, what: check(on, what) if what[-2] > "9" else None)
    assert run()[0] == 0
    with closing(sqlite3.connect(f"{used}/data.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'deliveries'"
        (page,) = connection.execute(query).fetchone()
    with open(f"{used}/data.db", "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)

    code, found = run()

    assert (code, found["integrity"][0]) == (74, "FAIL")


def test_a_damaged_database(run, queue):
    """Damage inside the database fails with 74, and the other checks are still told."""
    with EventQueue(queue, min_free_bytes=0) as opened:
        opened.put_many([{"event": "E", "properties": {"pad": "x" * 1000}}] * 500)
    with closing(sqlite3.connect(f"{queue}/data.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with open(f"{queue}/data.db", "r+b") as file:
        file.seek(80 * 4096)  # behind the tables
        file.write(b"\xa5" * 40 * 4096)

    code, found = run()

    assert code == 74
    assert found["integrity"][0] == "FAIL"
    assert {"books: queue", "books: dead letters", "daemon"} <= found.keys()


def test_another_database_in_the_way(run, queue_path):
    """What is no queue of ours is named, with 78."""
    os.mkdir(queue_path, 0o770)
    spoil(queue_path, "CREATE TABLE books (title)")

    code, found = run()

    assert (code, found["queue"][0]) == (78, "FAIL")
    assert "made by another program" in found["queue"][1]


def test_a_queue_that_is_not_adopted_yet(run, queue_path):
    """What plain persist-queue has made and nobody adopted is a warning: how many wait is not known."""
    external = persistqueue.SQLiteAckQueue(queue_path, serializer=persistqueue.serializers.json)
    external.put({"event": "E", "properties": {}})
    external.close()

    code, found = run()

    assert (code, found["queue"][0]) == (0, "warning")
    assert "adopts it as it is" in found["queue"][1]


def test_a_daemon_that_this_user_may_not_see(run, queue, monkeypatch):
    """It is not said that no daemon runs when that can't be known."""

    def may_not(path):
        raise NotPermittedError(path)

    monkeypatch.setattr(presence, "holder", may_not)

    assert run()[1]["daemon"] == ("warning", "this user can't see whether one runs")


def test_a_running_daemon(forwarder, queue_path):
    """A daemon that runs is named, and the books balance while it does."""
    pid = forwarder.daemon().process.pid
    forwarder("enqueue", "-e", "E")

    done = forwarder("check")

    assert done.returncode == 0, done.stdout
    assert f"daemon: process {pid}, " in done.stdout


def test_online(run, queue, server, monkeypatch):
    """--online asks the server about the key, and leaves no event there; 78: wrong, 69: no answer."""
    monkeypatch.setenv("FORWARDER_MIXPANEL_URL", server.url)

    assert "Mixpanel" not in run()[1]
    code, found = run("--online")
    assert (code, found["Mixpanel"][0]) == (0, "ok")
    assert len(server.ledger.events) == 0

    monkeypatch.setenv("FORWARDER_MIXPANEL_TOKEN", "wrong")
    code, found = run("--online")
    assert (code, found["Mixpanel"][0]) == (78, "FAIL")
    assert "wrong" not in str(found)

    monkeypatch.setenv("FORWARDER_MIXPANEL_TOKEN", "sandbox-token")
    for fault, expected in ((Fault.login_page(), 69), (Fault.server_error(), 69), (Fault.not_found(), 78)):
        server.inject(fault)
        code, found = run("--online")
        assert (code, found["Mixpanel"][0]) == (expected, "FAIL")
        server.clear()
    server.stop_listening()
    code, found = run("--online")
    assert (code, found["Mixpanel"][0]) == (69, "FAIL")


def test_only_what_a_daemon_can_t_run_without(run, queue, monkeypatch):
    """With ``--settings`` a full or broken queue, which the daemon is to drain or mend, is no failure."""
    monkeypatch.setenv("FORWARDER_QUEUE_MIN_FREE_BYTES", "1024TiB")
    spoil(queue, "UPDATE ledger SET delivered = delivered + 7")
    assert run()[0] == 75

    code, found = run("--settings")

    assert code == 0
    assert found.keys() == {"settings", "key", "directory"}


def test_the_brief_check_fails_as_the_daemon_would(run, queue, monkeypatch):
    """With ``--settings`` a wrong setting and a missing key are failures, with the daemon's exit code."""
    monkeypatch.delenv("FORWARDER_MIXPANEL_TOKEN")
    code, found = run("--settings")
    assert (code, found["key"][0]) == (78, "FAIL")

    monkeypatch.setenv("FORWARDER_DELIVERY_LINGER_S", "soon")
    code, found = run("--settings")
    assert (code, found.keys()) == (78, {"settings"})


def test_credentials_that_systemd_hides_are_left_to_the_daemon(run, queue, monkeypatch, tmp_path):
    """A reload's check sees none of the credentials that the daemon has, and does not fail for that; a key
    that is named and can't be used fails there, too."""
    monkeypatch.delenv("FORWARDER_MIXPANEL_TOKEN")
    assert run("--settings")[0] == 78
    monkeypatch.setenv("MAINPID", "4711")
    for directory in (str(tmp_path / "hidden"), ""):
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", directory)
        code, found = run("--settings")
        assert (code, found["key"][0]) == (0, "ok")
        assert "not checked here" in found["key"][1]
    monkeypatch.setenv("FORWARDER_MIXPANEL_TOKEN_FILE", str(tmp_path / "no such file"))
    code, found = run("--settings")
    assert (code, found["key"][0]) == (78, "FAIL")


def test_a_key_that_only_the_service_can_read_is_not_checked_here(forwarder, queue_path):
    """Where a daemon runs all is in order without its key; not so for --online, which needs it."""
    daemon = forwarder.daemon()
    for name in [name for name in forwarder.environ if name.startswith("FORWARDER_MIXPANEL_")]:
        del forwarder.environ[name]
    done = forwarder("check")
    assert (done.returncode, "FAIL" in done.stdout) == (0, False), done.stdout
    assert "ok      key: not checked here" in done.stdout
    assert forwarder("check", "--online").returncode == 78
    daemon.stop()
    assert forwarder("check").returncode == 78


def test_the_brief_check_asks_nobody(capsys):
    """``--settings`` and ``--online`` are for different moments."""
    with pytest.raises(SystemExit) as ended:
        main(["check", "--settings", "--online"])

    assert ended.value.code == 64
    assert "exclude each other" in capsys.readouterr().err


def test_settings_include_the_version_of_the_database(run, used, sql):
    """Where the daemon would not start for it, ``--settings`` says so before a restart."""
    assert run("--settings")[0] == 0
    sql(used, "PRAGMA user_version = 99")
    code, found = run("--settings")
    assert (code, found["queue"][0]) == (78, "FAIL")
    assert "version 99" in found["queue"][1]


def test_a_queue_with_a_name_that_nobody_delivers(run, queue):
    """Such as that of --kind, where persist-queue needs "engage"."""
    with closing(
        persistqueue.SQLiteAckQueue(queue, name="profile", serializer=persistqueue.serializers.json)
    ) as plain:
        plain.put({"$token": "t", "$distinct_id": "u", "$set": {}})
    _, found = run()
    result, detail = found["other queues"]
    assert (result, "ack_queue_profile" in detail, "engage, groups" in detail) == ("warning", True, True)
