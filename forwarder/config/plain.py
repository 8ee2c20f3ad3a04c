"""``[queue]`` of the settings where it is written plainly, for a command that has to start fast.

What TOML takes to load is three times what Python takes to start. Whether the settings have a mistake, also
elsewhere, is found out once by those who load them all, and noted in the queue's directory.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from forwarder.config.kinds import Size

DEFAULT_FILE = "/etc/forwarder/forwarder.toml"
DEFAULT_PATH = "/var/lib/forwarder"
# In the queue's directory, while its intake runs: takes an event a line from whoever may write there.
SOCKET = "enqueue.sock"
_FAULTLESS = "settings.faultless"
_MOST_BYTES = 4096
_PREFIX, _OF_QUEUE = "FORWARDER_", "FORWARDER_QUEUE_"
# Secrets given by environment. They are not settings: nothing shows them.
SECRET_VARIABLES = ("FORWARDER_MIXPANEL_SECRET", "FORWARDER_MIXPANEL_TOKEN")


class Plain:
    """What is given of ``[queue]``.

    Attributes:
        path: The directory.
        limits: The other keys, as text.
        mark: Stands for these settings, all of them.
    """

    def __init__(self, queue: dict[str, str], mark: str) -> None:
        self.path = queue.pop("path", DEFAULT_PATH)
        self.limits = queue
        self.mark = mark

    def are_faultless(self) -> bool:
        """Whether these settings were noted to have no mistake."""
        try:
            with open(os.path.join(self.path, _FAULTLESS), encoding="ascii") as file:
                return self.mark in file.read().split()
        except (OSError, ValueError):
            return False

    def note_faultless(self) -> None:
        """Note that these settings have no mistake. Where that can't be written, it is found out again."""
        file = os.path.join(self.path, _FAULTLESS)
        try:
            fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o660)
            try:
                if os.fstat(fd).st_size > _MOST_BYTES:
                    os.ftruncate(fd, 0)
                os.write(fd, f"{self.mark}\n".encode())
                os.fchmod(fd, 0o660)
            finally:
                os.close(fd)
        except OSError:
            pass


def read(environ: Mapping[str, str]) -> Plain | None:
    """The settings of the file and of *environ*.

    Returns:
        None: only `load` can read them, or the queue is on a server.
    """
    import zlib

    file = environ.get("FORWARDER_CONFIG") or DEFAULT_FILE
    try:
        with open(file, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        if environ.get("FORWARDER_CONFIG"):
            return None
        text = ""
    except (OSError, ValueError):
        return None
    queue = _read(text)
    if queue is None:
        return None
    names = sorted(name for name in environ if name.startswith(_PREFIX) and name not in SECRET_VARIABLES)
    ours = [(name, environ[name]) for name in names]
    for name, value in ours:
        if value and name.startswith(_OF_QUEUE):
            queue[name.removeprefix(_OF_QUEUE).lower()] = value
    if not queue.keys() <= {"path", "max_bytes", "min_free_bytes"}:
        return None
    given = repr((text, ours)).encode(errors="surrogateescape")
    found = Plain(queue, f"{zlib.crc32(given):08x}")
    return found if found.path.startswith("/") and found.path.isprintable() else None


def _read(text: str) -> dict[str, str] | None:
    """The keys of ``[queue]`` in a settings file; None: not all of it is the simplest TOML."""
    if "'''" in text or '"""' in text:
        return None
    found: dict[str, str] = {}
    section = ""
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line
            # Spaces, quotes, a table in it: [ queue ], ["queue"], [queue.x].
            if "queue" in line and line != "[queue]":
                return None
        elif section == "[queue]":
            key, _, value = map(str.strip, line.partition("="))
            if len(value) > 1 and value[0] == value[-1] == '"' and not {'"', "\\"} & {*value[1:-1]}:
                value = value[1:-1]
            elif not (value.isascii() and value.isdecimal()):
                return None
            if key in found:
                return None
            found[key] = value
        elif not section:
            return None
    return found


def limits() -> dict[str, tuple[int, Size]]:
    """The keys of ``[queue]`` that limit it: the default, and the kind."""
    from forwarder.config.kinds import GIB, MIB, TIB, Size

    return {
        "max_bytes": (10 * GIB, Size(MIB, 1024 * TIB)),
        "min_free_bytes": (256 * MIB, Size(0, 1024 * TIB)),
    }
