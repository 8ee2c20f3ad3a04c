"""``--resume``: how far each file is in the queue, kept there in the commit of its events."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING

from forwarder.errors import InputError
from forwarder.spool import Bookmark, Move
from forwarder.text import counted, printable

if TYPE_CHECKING:
    from forwarder.records.reading import Chunk
    from forwarder.records.reading.chunk import Record
    from forwarder.spool import Producer


class Resumption:
    """Moves the bookmarks of files, one file after the other.

    Args:
        store: Keeps them.
        max_bytes: The size limit of a record.
        say: Gets what a person should know.
    """

    def __init__(self, store: Producer, max_bytes: int, say: Callable[[str], None]) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._say = say

    def begin(self, name: str, fd: int, chunks: Iterable[Chunk]) -> int:
        """How many lines, elements or rows of the file *name*, which is open as *fd*, are in.

        Args:
            chunks: What is in it. The file is at its start again afterwards.

        Raises:
            InputError: it is not a regular file.
            StoppedError, UsageError: as reading the *chunks* does.
            ForwarderError: the queue can't be asked.
        """
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise InputError("is not a regular file, so --resume can't know how far it is in")
        # Not each path is UTF-8, and it need not be found by its path.
        self._path = os.fsencode(os.path.realpath(name)).decode(errors="backslashreplace")
        self._file = f"{found.st_dev}:{found.st_ino}"
        known = self._store.bookmarks(self._path, self._file)
        bookmark, self._in = self._matching(known, chunks)
        os.lseek(fd, 0, os.SEEK_SET)
        here = self._path, self._file
        self._old = tuple(one for one in known if one is bookmark or (one.path, one.file) == here)
        self._digest = _Digest(self._max_bytes)
        if bookmark:
            verb = "is" if self._in == 1 else "are"
            text = f"{counted(self._in, 'line')} {verb} in already, going on with line {self._in + 1:,}"
            if self._in < bookmark.done:
                text += ", which has changed since it was stored"
            self._say(f"{printable(name)}: {text}")
        elif any(one.path == self._path for one in known):
            self._say(f"{printable(name)}: not the file of this name that is in; read from its start")
        return self._in

    def move(self, chunk: Chunk, *, is_open: bool) -> Move | None:
        """The bookmark's move behind *chunk*, which follows the one before; None: all of it was in.

        Args:
            is_open: The last line does not count yet, because its writer may not have finished it.
        """
        lines = chunk.lines[:-1] if is_open else chunk.lines
        before = self._digest.text()
        self._digest.add(lines)
        if not lines or self._digest.count <= self._in:
            return None
        digest = self._digest.text()
        if chunk.is_cut:
            # Its line may still grow: then the lines before it are known, and it alone is taken again.
            digest += f" {before}"
        new = Bookmark(self._path, self._file, self._digest.count, digest)
        move, self._old = Move(self._old, new), (new,)
        return move

    def _matching(self, known: Sequence[Bookmark], chunks: Iterable[Chunk]) -> tuple[Bookmark | None, int]:
        """The one that is furthest of those whose lines are the first of *chunks*, and how many lines."""
        ahead = [
            (one.done - back, text, one)
            for one in known
            for back, text in enumerate(one.digest.split())
            if one.done > back
        ]
        ahead.sort(reverse=True)
        digest = _Digest(self._max_bytes)
        found: tuple[Bookmark | None, int] = None, 0
        # What can't be read up to there is another file.
        with suppress(InputError):
            for chunk in chunks if ahead else ():
                lines = chunk.lines
                while ahead and ahead[-1][0] <= digest.count + len(lines):
                    done, text, one = ahead.pop()
                    cut = done - digest.count
                    digest.add(lines[:cut])
                    lines = lines[cut:]
                    if digest.text() == text:
                        found = one, done
                if not ahead:
                    break
                digest.add(lines)
        return found


class _Digest:
    """Of lines, elements or rows, and how many they are."""

    def __init__(self, max_bytes: int) -> None:
        self.count = 0
        self._max_bytes = max_bytes
        self._hash = blake2b(digest_size=16)

    def add(self, lines: Sequence[bytes | Record]) -> None:
        self.count += len(lines)
        for each in lines:
            line = each if isinstance(each, bytes) else repr(each).encode(errors="backslashreplace")
            # How much of a longer one is there depends on where the blocks that were read began.
            self._hash.update(line if len(line) <= self._max_bytes else b"")
            self._hash.update(b"\n")

    def text(self) -> str:
        return self._hash.hexdigest()
