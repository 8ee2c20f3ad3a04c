"""P2 where the disk or SQLite answers with an error that passes, or that says another thing than it means."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from forwarder.errors import StorageError, TryAgainError
from forwarder.spool import EventQueue
from forwarder.spool.sqlite import set_aside
from forwarder.spool.sqlite.errors import translated
from forwarder.spool.sqlite.view import View

EVENT = {"event": "A", "properties": {"distinct_id": "d"}}


def waiting(path):
    with View(path) as view:
        return view.figures().waiting


@pytest.fixture
def injected(forwarder, tmp_path):
    """Run a command while strace answers some of its system calls with an error; returns the trace, too."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")

    def run(options, *arguments):
        trace = tmp_path / "trace"
        command = (
            "strace",
            "-f",
            "-qq",
            "-o",
            trace,
            *options,
            sys.executable,
            "-m",
            "forwarder",
            *arguments,
        )
        done = subprocess.run(command, env=forwarder.environ, capture_output=True, text=True, timeout=60)
        if "ptrace" in done.stderr:
            pytest.skip(done.stderr)
        return done, trace.read_text()

    return run


@pytest.mark.parametrize("file", ["data.db", "data.db-wal"])
@pytest.mark.parametrize("first", range(1, 8))
def test_reads_that_fail_for_a_moment(forwarder, injected, queue_path, file, first):
    """A disk that can't read for the time of one command is no reason to set the database aside."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many([EVENT] * 100)
        errors = ("-P", f"{queue_path}/{file}", "-e", f"inject=pread64:error=EIO:when={first}+")
        done, trace = injected(errors, "drain", "--timeout", "3")
    assert done.returncode in (0, 74, 75), done.stderr
    assert done.returncode == 0 or "(INJECTED)" in trace
    assert set_aside.damaged(queue_path) == []
    assert forwarder("drain").returncode == 0
    assert waiting(queue_path) == 0


@pytest.mark.parametrize(
    ("name", "told"),
    [("SQLITE_PROTOCOL", TryAgainError), ("SQLITE_NOLFS", StorageError), ("", StorageError)],
)
def test_no_error_of_sqlite_comes_out_as_it_is(queue_path, name, told):
    """Whatever SQLite says is told as one of ours: a lock, or a storage error."""
    error = sqlite3.OperationalError("something")
    if name:
        error.sqlite_errorname = name
    os.mkdir(queue_path)
    with pytest.raises(told), translated(queue_path):
        raise error


def test_without_proc(forwarder, queue_path):
    """Where /proc is not mounted, as in some chroots, a queue can be made and used."""
    command = 'mount -t tmpfs none /proc && exec "$0" -m forwarder "$@"'
    for arguments in (("enqueue", "-e", "A", "-d", "d"), ("enqueue", "-e", "A", "-d", "d"), ("drain",)):
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", command, sys.executable, *arguments],
            env=forwarder.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if "unshare" in done.stderr or "mount" in done.stderr:
            pytest.skip(done.stderr)
        assert done.returncode == 0, done.stderr
    assert waiting(queue_path) == 0


def journal_mode(path):
    with closing(sqlite3.connect(f"{path}/data.db")) as connection:
        return connection.execute("PRAGMA journal_mode").fetchone()[0]


def test_rollback_journal_set_by_a_person(forwarder, queue_path, sql):
    """It is set back by whoever opens the queue next; while another uses the database, `check` says so."""
    EventQueue(queue_path).close()
    assert sql(queue_path, "PRAGMA journal_mode = DELETE") == [("delete",)]
    with closing(sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM ledger").fetchall()
        with (
            EventQueue(queue_path, min_free_bytes=0, lock_timeout_s=0.2) as queue,
            pytest.raises(TryAgainError),
        ):
            queue.put(EVENT)
        assert "warning journal: journal_mode is delete" in forwarder("check").stdout
        other.execute("COMMIT")
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.put(EVENT)
            assert journal_mode(queue_path) == "wal"
    assert waiting(queue_path) == 1
    assert "journal: wal" in forwarder("check").stdout


@pytest.mark.parametrize("first", [1, 3, 5])
def test_quota(forwarder, injected, queue_path, first):
    """A quota that is used up is a full disk, though SQLite calls it an I/O error, and the disk has room."""
    EventQueue(queue_path).close()
    errors = ("-e", f"inject=pwrite64:error=EDQUOT:when={first}+", "-e", "inject=fallocate:error=EDQUOT")
    done, _ = injected(errors, "enqueue", "-e", "A", "-d", "d")
    assert done.returncode == 75
    assert "is full" in done.stderr
    assert forwarder("enqueue", "-e", "A", "-d", "d").returncode == 0
    assert waiting(queue_path) == 1
