"""A disk that forgets: what a run wrote and synced, recorded system call by system call, and the states that
a power cut could have left at any moment of it.

`command` runs a program under strace; `Recording` reads the trace; `Disk` follows it, and `Disk.cut` writes
down one possible state of the files after a power cut at that moment. The model is the strictest that POSIX
allows:

- what a file holds and how long it is lasts once an fsync or fdatasync of that file has returned that began
  after the write had returned;
- a name (creation, rename, removal) lasts once a sync of its directory has returned that began after the
  change. A sync of the file itself does nothing for it. With *has_journal* any sync does it for all names,
  as on ext4 and XFS, which write the changes of names down in their order;
- all else is kept or lost at will: each name for itself, each block of a file at any of its versions since
  the last sync, whatever their order was. New space without data reads as zeros.

What it takes for granted: a sync that has returned has told the truth; what is synced stays; a write
leaves bytes outside its own range alone ("powersafe overwrite", which SQLite relies on, too); no sector is
torn within its 512 bytes, unless two writes met in it.

SQLite maps its ``-shm`` file, so what it holds can't be recorded; it is made again after a crash. It is
left out, or there is rubbish in its place.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# All that can change a file, a name or what lasts of them, for what SQLite and Python do.
CALLS = (
    "open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,truncate,ftruncate,fallocate,rename,renameat,"
    "renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,"
    "sync_file_range,sync,syncfs,msync,copy_file_range,sendfile,splice"
)
# How much of what was not synced survives: nothing, everything (as after a kill), a beginning of what was
# done to each file, any of the changes, or each block by itself.
WAYS = ("nothing", "everything", "beginning", "some", "sectors", "pages")
Tree = dict[str, "bytes | Tree"]
_BLOCK_BYTES = {"sectors": 512, "pages": 4096}

_LINE = re.compile(r"(\d+) +(?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))", re.DOTALL)
_RESULT = re.compile(r".*\) += (-?\d+|\?)([^=]*)$", re.DOTALL)
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FD = re.compile(r"-?\w+<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")


def command(trace: Path) -> list[str]:
    """What to put before a command so that it and its children are recorded in *trace*."""
    options = ["-f", "--seccomp-bpf", "-y", "-xx", "-s", str(1 << 24), "-qq", "-e", "signal=none"]
    return ["strace", *options, "-o", str(trace), "-e", f"trace={CALLS}", "--"]


def why_not() -> str:
    """Why nothing can be recorded here; empty: it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run([*command(Path("/dev/null")), "true"], capture_output=True, text=True, timeout=30)
    return tried.stderr.strip() if tried.returncode else ""


@dataclass
class Call:
    """A system call, from its beginning to its end."""

    name: str
    given: str
    result: int = -1
    is_deleted: bool = False
    covers: list[tuple[File | Directory, int]] = field(default_factory=list)

    @property
    def texts(self) -> list[bytes]:
        """Its arguments that are strings."""
        return [_bytes(found) for found in _TEXT.findall(self.given)]

    @property
    def path(self) -> str:
        """The file behind its first argument, a descriptor."""
        found = _FD.match(self.given)
        if not found or found[2]:
            return ""
        return os.fsdecode(_bytes(found[1]))

    @property
    def where(self) -> str:
        """The file that it is about, by a descriptor or by name."""
        return self.path or os.fsdecode(b"".join(self.texts[:1]))

    def number(self, place: int) -> int:
        """An argument behind the strings, counted from the end: -1 is the last."""
        return int(self.given.rpartition(")")[0].split(", ")[place], 0)


@dataclass(frozen=True)
class Step:
    """One moment of a recording: the beginning of a call, or its end."""

    call: Call
    is_end: bool


@dataclass(frozen=True)
class Said:
    """What a process has said, in a file under *said*: from this step on the world may know it."""

    step: int
    who: str
    text: bytes


@dataclass
class Recording:
    """The calls of a run that touch files under *disk*, and what was written to files under *said*."""

    disk: Path
    said_in: Path
    steps: list[Step] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)

    @classmethod
    def read(cls, trace: Path, disk: Path, said: Path) -> Recording:
        """Read the trace of a run that is over."""
        recording = cls(disk, said)
        wanted = [_hex(path) for path in (disk, said)]
        open_calls: dict[str, Call] = {}
        with open(trace) as lines:
            for line in lines:
                found = _LINE.match(line)
                if not found:
                    assert " +++ " in line or " --- " in line, line[:200]
                    continue
                pid, name, given, _, rest = found.groups()
                if name is None:
                    call = open_calls.pop(pid, None)
                    if call is not None:
                        call.given += rest
                        recording._end(call)
                elif any(path in given for path in wanted):
                    call = Call(name, given)
                    recording._begin(call)
                    if "<unfinished ...>" in given[-40:]:
                        call.given = given.replace(" <unfinished ...>\n", "")
                        open_calls[pid] = call
                    else:
                        recording._end(call)
        return recording

    def _begin(self, call: Call) -> None:
        assert '"...' not in call.given, "strace has cut a string off"
        if call.name in ("write", "pwrite64") and call.path.startswith(f"{self.said_in}/"):
            self.said.append(Said(len(self.steps), os.path.basename(call.path), call.texts[0]))
        self.steps.append(Step(call, is_end=False))

    def _end(self, call: Call) -> None:
        found = _RESULT.match(call.given)
        assert found, call.given[:200]
        # A killed process does not see its last call return. What it was to write may be there.
        was_killed = found[1] == "?"
        call.result = int(found[1]) if not was_killed else 1 << 30 if "write" in call.name else -1
        call.is_deleted = "(deleted)" in found[2]
        self.steps.append(Step(call, is_end=True))


@dataclass
class _Write:
    """A change to what a file holds: bytes, or with no bytes a new length."""

    start: int
    data: bytes | None = None
    only_longer: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.data or b"")

    def new_size(self, size: int) -> int:
        return max(size, self.end) if self.data is not None or self.only_longer else self.start


class File:
    """A file: what lasts of it, and what was done since."""

    def __init__(self) -> None:
        self.lasting = bytearray()
        self.changes: list[_Write] = []
        self.folded = 0

    def size(self) -> int:
        """How long it looks while the power is on."""
        size = len(self.lasting)
        for change in self.changes:
            size = change.new_size(size)
        return size

    def sync(self, covers: int) -> None:
        """Let the first *covers* changes ever made last."""
        count = max(covers - self.folded, 0)
        for change in self.changes[:count]:
            _apply(change, self.lasting)
        del self.changes[:count]
        self.folded += count

    def after(self, way: str, dice: random.Random) -> bytearray:
        """What it may hold after a power cut."""
        found = bytearray(self.lasting)
        count = len(self.changes)
        if way in _BLOCK_BYTES:
            return self._blocks(_BLOCK_BYTES[way], dice)
        kept = {"nothing": 0, "everything": count}.get(way, dice.randint(0, count))
        for place, change in enumerate(self.changes):
            if dice.random() < 0.5 if way == "some" else place < kept:
                _apply(change, found)
            elif way == "beginning" and place == kept and change.data:
                torn = change.data[: dice.randrange(0, len(change.data), 512)]
                _apply(_Write(change.start, torn), found)
        return found

    def _blocks(self, block_bytes: int, dice: random.Random) -> bytearray:
        count = len(self.changes)
        versions: dict[int, int] = {}
        found = bytearray(self.lasting)
        found.extend(bytes(max((change.end for change in self.changes), default=0) + block_bytes))
        size, size_version = len(self.lasting), dice.randint(0, count)
        for place, change in enumerate(self.changes):
            if place < size_version:
                size = change.new_size(size)
            if change.data is None:
                if place < size_version and not change.only_longer:
                    found[change.start :] = bytes(max(len(found) - change.start, 0))
                continue
            for block in range(change.start // block_bytes, -(-change.end // block_bytes)):
                if place < versions.setdefault(block, dice.randint(0, count)):
                    start = max(change.start, block * block_bytes)
                    end = min(change.end, (block + 1) * block_bytes)
                    found[start:end] = change.data[start - change.start : end - change.start]
        del found[size:]
        found.extend(bytes(size - len(found)))
        return found


def _apply(change: _Write, content: bytearray) -> None:
    size = change.new_size(len(content))
    content.extend(bytes(max(size - len(content), 0)))
    if change.data is not None:
        content[change.start : change.end] = change.data
    del content[size:]


class Directory:
    """A directory: which names last, what was done to them since, and what they are to those who look now."""

    def __init__(self) -> None:
        self.lasting: dict[str, File | Directory] = {}
        self.now: dict[str, File | Directory] = {}
        self.changes: list[tuple[str, File | Directory | None]] = []
        self.folded = 0

    def set(self, name: str, what: File | Directory | None) -> None:
        """Give a name to something, or with None to nothing."""
        self.changes.append((name, what))
        _name(self.now, name, what)

    def sync(self, covers: int) -> None:
        """Let the first *covers* changes ever made last."""
        count = max(covers - self.folded, 0)
        for name, what in self.changes[:count]:
            _name(self.lasting, name, what)
        del self.changes[:count]
        self.folded += count

    def after(self, way: str, dice: random.Random) -> dict[str, File | Directory]:
        """Its names as they may be after a power cut."""
        found = dict(self.lasting)
        count = len(self.changes)
        kept = dice.randint(0, count)
        versions: dict[str, int] = {}
        for place, (name, what) in enumerate(self.changes):
            version = {"nothing": 0, "everything": count, "beginning": kept}.get(way)
            if version is None:
                version = versions.setdefault(name, dice.randint(0, count))
            if place < version:
                _name(found, name, what)
        return found


def _name(names: dict[str, File | Directory], name: str, what: File | Directory | None) -> None:
    names.pop(name, None)
    if what is not None:
        names[name] = what


class Disk:
    """The files of a recording as they were after some of its steps.

    Args:
        has_journal: Whether any sync makes all names last that were given before it began.
    """

    def __init__(self, recording: Recording, has_journal: bool = False) -> None:
        self._recording = recording
        self._has_journal = has_journal
        self._root = Directory()
        self.done = 0

    def go_on(self, step: int) -> None:
        """Follow the recording up to, and without, that step."""
        for place in range(self.done, step):
            moment = self._recording.steps[place]
            (self._end if moment.is_end else self._begin)(moment.call)
        self.done = max(self.done, step)

    def left(self, way: str, dice: random.Random) -> Tree:
        """What may be left of the files after a power cut now: names with bytes, or with such names."""
        return _left(self._root, way, dice)

    def cut(self, target: Path, way: str, dice: random.Random) -> None:
        """Write down what may be left of the files after a power cut now."""
        _write_down(self.left(way, dice), target)

    def unsynced(self) -> list[str]:
        """What would not last now: names with a ``/`` before them, files with changes by theirs."""
        return sorted(_unsynced(self._root))

    def _begin(self, call: Call) -> None:
        node = self._find(call.path) if call.name in ("fsync", "fdatasync") else None
        if node is not None:
            others = _directories(self._root) if self._has_journal else ()
            call.covers = [(one, one.folded + len(one.changes)) for one in (node, *others)]

    def _end(self, call: Call) -> None:
        if call.result >= 0 and (act := _ACTS.get(call.name, Disk._unknown)) is not None:
            act(self, call)

    def _unknown(self, call: Call) -> None:
        inside = _hex(self._recording.disk)
        assert inside not in call.given, f"not in the model: {call.name}({call.given[:200]}"

    def _find(self, path: str) -> File | Directory | None:
        try:
            parts = Path(path).relative_to(self._recording.disk).parts
        except ValueError:
            return None
        node: File | Directory | None = self._root
        for part in parts:
            node = node.now.get(part) if isinstance(node, Directory) else None
        return node

    def _file(self, path: str) -> File | None:
        node = self._find(path)
        assert node is None or isinstance(node, File), path
        return node

    def _place(self, path: bytes) -> tuple[Directory, str] | None:
        directory, _, name = os.fsdecode(path).rpartition("/")
        node = self._find(directory)
        return (node, name) if isinstance(node, Directory) else None

    def _opened(self, call: Call) -> None:
        place = self._place(call.texts[0])
        if place is None or call.is_deleted:
            return
        if "O_TMPFILE" in call.given:
            return  # it has no name; see _linked
        directory, name = place
        if "O_CREAT" in call.given and name not in directory.now:
            directory.set(name, File())
        file = directory.now.get(name)
        if "O_TRUNC" in call.given and isinstance(file, File):
            file.changes.append(_Write(0))

    def _written(self, call: Call) -> None:
        file = self._file(call.path)
        if file is not None:
            start = file.size() if call.name == "write" else call.number(-1)
            file.changes.append(_Write(start, call.texts[0][: call.result]))

    def _truncated(self, call: Call) -> None:
        path = call.path if call.name == "ftruncate" else os.fsdecode(call.texts[0])
        file = self._file(path)
        if file is not None:
            file.changes.append(_Write(call.number(-1)))

    def _allocated(self, call: Call) -> None:
        file = self._file(call.path)
        if file is not None:
            assert call.number(-3) == 0, "only fallocate's plain mode is in the model"
            file.changes.append(_Write(call.number(-2) + call.number(-1), only_longer=True))

    def _synced(self, call: Call) -> None:
        for node, changes in call.covers:
            node.sync(changes)

    def _renamed(self, call: Call) -> None:
        old, new = (self._place(text) for text in call.texts)
        assert old is not None, "renamed into the directory"
        assert new is not None, "renamed out of the directory"
        what = old[0].now.get(old[1])
        old[0].set(old[1], None)
        new[0].set(new[1], what)
        if isinstance(what, Directory):
            # It can never have both names, nor none.
            for directory, _ in (old, new):
                directory.sync(directory.folded + len(directory.changes))

    def _linked(self, call: Call) -> None:
        old, new = call.texts[-2:]
        place = self._place(new)
        assert place is not None, "linked into the directory"
        # A file without a name is linked by its descriptor, before anything is written to it.
        what = File() if old.startswith(b"/proc/self/fd/") else self._find(os.fsdecode(old))
        assert isinstance(what, File), old
        place[0].set(place[1], what)

    def _unlinked(self, call: Call) -> None:
        place = self._place(call.texts[0])
        if place is not None:
            place[0].set(place[1], None)

    def _made(self, call: Call) -> None:
        place = self._place(call.texts[0])
        if place is not None:
            place[0].set(place[1], Directory())


_ACTS: dict[str, Callable[[Disk, Call], None]] = {
    "open": Disk._opened,
    "openat": Disk._opened,
    "write": Disk._written,
    "pwrite64": Disk._written,
    "truncate": Disk._truncated,
    "ftruncate": Disk._truncated,
    "fallocate": Disk._allocated,
    "fsync": Disk._synced,
    "fdatasync": Disk._synced,
    "rename": Disk._renamed,
    "link": Disk._linked,
    "linkat": Disk._linked,
    "unlink": Disk._unlinked,
    "rmdir": Disk._unlinked,
    "mkdir": Disk._made,
}


def _left(directory: Directory, way: str, dice: random.Random) -> Tree:
    found: Tree = {}
    for name, node in directory.after(way, dice).items():
        if isinstance(node, Directory):
            found[name] = _left(node, way, dice)
        elif not name.endswith("-shm"):
            found[name] = bytes(node.after(way, dice))
        elif dice.random() < 0.5:
            found[name] = dice.randbytes(32768)
    return found


def _write_down(left: Tree, target: Path) -> None:
    target.mkdir()
    for name, what in left.items():
        if isinstance(what, bytes):
            _write_sparse(target / name, what)
        else:
            _write_down(what, target / name)


def _write_sparse(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.truncate(len(content))
        # The reserve is 4 MB of nothing.
        if content.count(0) < len(content):
            file.write(content)


def _directories(directory: Directory) -> Iterator[Directory]:
    yield directory
    for node in directory.now.values():
        if isinstance(node, Directory):
            yield from _directories(node)


def _unsynced(directory: Directory, path: str = "") -> Iterator[str]:
    yield from {f"{path}/{name}" for name, _ in directory.changes}
    for name, node in directory.now.items():
        inside = f"{path}/{name}" if path else name
        if isinstance(node, Directory):
            yield from _unsynced(node, inside)
        elif node.changes:
            yield inside


def moments(recording: Recording, count: int, dice: random.Random) -> Sequence[int]:
    """Steps at which to cut the power, in order: half of them anywhere, half of them right when something
    is said, which is when most is at stake."""
    said = [said.step for said in recording.said]
    anywhere = [dice.randint(0, len(recording.steps)) for _ in range(count - count // 2)]
    return sorted(anywhere + [dice.choice(said) for _ in range(count // 2)])


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _hex(path: Path) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(path))
