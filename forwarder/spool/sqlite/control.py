"""What a person asks of the daemon, durably and from any process: files beside the database.

So a pause outlives a database that is damaged, set aside or restored, and a full disk hinders nobody.
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
    """What is asked for now of the queue in the directory *path*."""
    flushed = place = (0, 0)
    with suppress(OSError):
        place = identity_of(os.stat(path))
        found = os.stat(os.path.join(path, FLUSH))
        flushed = (found.st_ino, found.st_mtime_ns)
    return Control(os.path.lexists(os.path.join(path, PAUSED)), flushed, place)


def pause(path: str) -> bool:
    """Stop delivery, until `resume`; a daemon sees it within 0.1 s. Returns whether it was paused before."""
    Database(path).close()  # made if there is none, so that the first daemon to come begins paused
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
                # A daemon that does not find the pause's own directory any more notices this, too.
                os.replace(os.path.join(path, PAUSED), os.path.join(path, FLUSH))
            sync_directory(path)
        request_flush(path)
    return before


def request_flush(path: str) -> None:
    """Let the daemon forget its present wait and try now."""
    file = os.path.join(path, FLUSH)
    with translated(path):
        try:
            os.utime(file, follow_symlinks=False)
        except FileNotFoundError:
            os.close(open_shared(file))
    _nudge(path)


def _nudge(path: str) -> None:
    """Have a daemon look now: it watches the time of the log, which any commit changes, too."""
    with suppress(OSError):
        os.utime(os.path.join(path, LOG), follow_symlinks=False)
