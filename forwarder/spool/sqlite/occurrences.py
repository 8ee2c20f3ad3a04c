"""Counting equal things in any number of them, with flat memory: in a temporary file of SQLite's."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence

from forwarder.errors import StorageError

_CACHE_KIB = 24 << 10


class Occurrences:
    """How often each digest has come; those whose first 64 bits are equal count as equal.

    For one thread at a time.

    The file is in ``$SQLITE_TMPDIR``, ``$TMPDIR`` or /var/tmp, and gone when the process ends. It takes 17
    bytes for each different digest.
    """

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        # One transaction without end, and no journal: nothing of it is ever undone or read by others.
        for statement in (
            f"PRAGMA cache_size = -{_CACHE_KIB}",
            "PRAGMA journal_mode = OFF",
            "CREATE TABLE seen (digest INTEGER PRIMARY KEY, count INTEGER NOT NULL)",
            "BEGIN",
        ):
            self._connection.execute(statement)

    def positions(self, digests: Sequence[bytes]) -> list[int]:
        """How many equal ones came before each of *digests*, in them and in all earlier calls.

        Raises:
            StorageError: the file can't be written.
        """
        numbers = [int.from_bytes(digest[:8], signed=True) for digest in digests]
        # In order, so that what is near in the file is read and written together.
        counts = sorted(Counter(numbers).items())
        try:
            select = "SELECT coalesce((SELECT count FROM seen WHERE digest = ?), 0)"
            before = {
                number: self._connection.execute(select, (number,)).fetchone()[0] for number, _ in counts
            }
            self._connection.executemany(
                "INSERT OR REPLACE INTO seen VALUES (?, ?)",
                ((number, before[number] + count) for number, count in counts),
            )
        except sqlite3.Error as error:
            raise StorageError(
                f"equal events can't be counted in a temporary file: {error}",
                "Set SQLITE_TMPDIR to a directory with room, 20 bytes for each event",
            ) from None
        found = []
        for number in numbers:
            found.append(before[number])
            before[number] += 1
        return found

    def close(self) -> None:
        """Give the file's space back."""
        self._connection.close()
