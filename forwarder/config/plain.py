"""``[queue]`` of the settings, if all of it is plain: for a command that has to start fast.

What TOML takes to load is three times what Python takes to start.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from forwarder.config.kinds import Size

DEFAULT_FILE = "/etc/forwarder/forwarder.toml"
# In the queue's directory, while its intake runs: takes an event a line from whoever may write there.
SOCKET = "enqueue.sock"
DEFAULT_PATH = "/var/lib/forwarder"
_KEYS = ("path", "max_bytes", "min_free_bytes")
_VARIABLE = "FORWARDER_QUEUE_"


def queue(environ: Mapping[str, str]) -> dict[str, str] | None:
    """The keys of ``[queue]`` that are given, as text; ``path`` always.

    Returns:
        None: `load` has to find out. A key is of a server, or something is not written as the simplest TOML.
    """
    file = environ.get("FORWARDER_CONFIG") or DEFAULT_FILE
    try:
        with open(file, encoding="utf-8") as stream:
            found = _read(stream.read())
    except FileNotFoundError:
        found = None if environ.get("FORWARDER_CONFIG") else {}
    except (OSError, ValueError):
        return None
    if found is None:
        return None
    for name, value in environ.items():
        if name.startswith(_VARIABLE) and value:
            found[name.removeprefix(_VARIABLE).lower()] = value
    found.setdefault("path", DEFAULT_PATH)
    path = found["path"]
    return found if found.keys() <= {*_KEYS} and path.startswith("/") and path.isprintable() else None


def _read(text: str) -> dict[str, str] | None:
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
