"""What a person is told when something can't be done.

Every error says what is wrong and where, then the remedy, and carries the exit code
(``sysexits.h``) that the command ends with::

    ForwarderError                 70  a bug, or no better name for it
    ├── UsageError                 64  the command line can't be understood
    ├── EventError                 65  an event that is refused
    ├── InputError                 66  a file of events that can't be read
    ├── UnavailableError           69  the daemon or the far end is not there
    ├── CannotCreateError          73  a file or directory that can't be made
    ├── StorageError               74  the disk or the database answers with an error
    ├── TryAgainError              75  full, locked or held by another: the same call may work later
    ├── NotPermittedError           77  this user may not
    └── ConfigError                78  a setting, or a file that is not ours

Outcomes of a delivery are not errors: they are returned (see :mod:`forwarder.delivery`).
"""


class ForwarderError(Exception):
    """What is wrong and, after it, the *remedy*, as sentences for a person.

    Args:
        what: What is wrong and where; no full stop at the end.
        remedy: What to do about it; may be empty.
    """

    exit_code = 70

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}. {self.remedy}" if self.remedy else self.what


class UsageError(ForwarderError):
    """The command line can't be understood."""

    exit_code = 64


class EventError(ForwarderError):
    """An event is refused; nothing of it was stored."""

    exit_code = 65


class InputError(ForwarderError):
    """A file of events can't be read."""

    exit_code = 66


class UnavailableError(ForwarderError):
    """The daemon or the far end is not available."""

    exit_code = 69


class CannotCreateError(ForwarderError):
    """A file or directory can't be created."""

    exit_code = 73


class StorageError(ForwarderError):
    """The disk or the database answers with an error."""

    exit_code = 74


class TryAgainError(ForwarderError):
    """Full, locked or held by another; the same call may work later."""

    exit_code = 75


class NotPermittedError(ForwarderError):
    """This user may not."""

    exit_code = 77


class ConfigError(ForwarderError):
    """A setting is wrong, or a file is not what the forwarder made."""

    exit_code = 78


def printable(text: str) -> str:
    """*text* from elsewhere on one line, safe for a terminal: control characters are shown escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def size(count: int) -> str:
    """*count* bytes, in the largest unit of which there is one."""
    if count < 1024:
        return f"{count} B"
    value, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if value < 1023.95:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}"
