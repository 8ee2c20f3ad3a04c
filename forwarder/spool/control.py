"""What a person asks of the daemon, durably and from any process; of a damaged queue, too."""

import sqlite3

from forwarder.spool import pause as kept_pause
from forwarder.spool.database import Database
from forwarder.spool.sqlite_errors import damaged


def pause(path: str) -> bool:
    """Stop delivery, until `resume`; a daemon sees it within 0.1 s. Returns whether it was paused before."""
    return _update(path, "paused = 1")


def resume(path: str) -> bool:
    """Start delivery again. Returns whether it was paused."""
    # Left by a crash, it would pause the next database that is made.
    kept_pause.forget(path)
    return _update(path, "paused = 0")


def request_flush(path: str, timeout_s: float = 10.0) -> None:
    """Let the daemon forget its present wait and try now; for a lock, this waits *timeout_s* at most."""
    _update(path, "flush_requests = flush_requests + 1", timeout_s)


def _update(path: str, assignment: str, timeout_s: float = 10.0) -> bool:
    def step(connection: sqlite3.Connection) -> bool:
        row = connection.execute("SELECT paused FROM control").fetchone()
        if row is None:
            raise damaged(path, "it has lost its books")
        connection.execute(f"UPDATE control SET {assignment}")
        return bool(row[0])

    queue = Database(path, timeout=timeout_s)
    try:
        return queue.write(step)
    finally:
        queue.close()
