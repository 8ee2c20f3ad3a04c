"""What a person requests from the daemon, durably and from any process: files beside the database.

So a pause survives a database that is damaged, set aside or restored, and works on a full disk.
"""

from __future__ import annotations

import os
from contextlib import suppress

from forwarder.spool.sqlite.database import Database
from forwarder.spool.sqlite.directory import DATABASE, LOG, identity_of, sync_directory
from forwarder.spool.sqlite.errors import translated
from forwarder.spool.sqlite.lock import open_shared
from forwarder.spool.values import Control

PAUSED, FLUSH = "paused", "flush"


def asked(path: str) -> Control:
    """The current requests for the queue in the directory *path*."""
    flushed = place = (0, 0)
    with suppress(OSError):
        place = identity_of(os.stat(path))
        found = os.stat(os.path.join(path, FLUSH))
        flushed = (found.st_ino, found.st_mtime_ns)
    return Control(os.path.lexists(os.path.join(path, PAUSED)), flushed, place)


def pause(path: str) -> bool:
    """Stop delivery, until `resume`; a daemon sees it within 0.1 s. Returns whether it was paused before."""
    Database(path).close()  # created if missing, so that the first daemon starts paused
    before = asked(path).paused
    with translated(path):
        os.close(open_shared(os.path.join(path, PAUSED)))
        sync_directory(path)
    _nudge(path)
    return before


def resume(path: str) -> bool:
    """Start delivery again. Returns whether it was paused."""
    before = asked(path).paused
    if before or os.path.exists(os.path.join(path, DATABASE)):
        with translated(path):
            with suppress(FileNotFoundError):
                # A daemon that no longer finds the pause's own directory also notices this.
                os.replace(os.path.join(path, PAUSED), os.path.join(path, FLUSH))
            sync_directory(path)
        request_flush(path)
    return before


def request_flush(path: str) -> None:
    """Ask the daemon to forget its current wait and try now."""
    file = os.path.join(path, FLUSH)
    with translated(path):
        try:
            os.utime(file, follow_symlinks=False)
        except FileNotFoundError:
            os.close(open_shared(file))
    _nudge(path)


def _nudge(path: str) -> None:
    """Make a daemon look now: it watches the time of the log, which any commit changes, too."""
    with suppress(OSError):
        os.utime(os.path.join(path, LOG), follow_symlinks=False)
