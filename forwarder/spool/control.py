"""What a person asks of the daemon, durably and from any process."""

from forwarder.spool.database import Database


def pause(path: str) -> None:
    """Stop delivery, until `resume`; a daemon that runs sees it within 0.1 s."""
    _update(path, "paused = 1")


def resume(path: str) -> None:
    """Start delivery again."""
    _update(path, "paused = 0")


def request_flush(path: str, timeout_s: float = 10.0) -> None:
    """Let the daemon forget its present wait and try now; for a lock, this waits *timeout_s* at most."""
    _update(path, "flush_requests = flush_requests + 1", timeout_s)


def _update(path: str, assignment: str, timeout_s: float = 10.0) -> None:
    queue = Database(path, timeout=timeout_s)
    try:
        with queue.transaction() as connection:
            connection.execute(f"UPDATE control SET {assignment}")
    finally:
        queue.close()
