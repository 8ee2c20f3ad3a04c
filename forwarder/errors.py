"""The errors that a person sees.

Each error says what is wrong and where, then the remedy. It has the exit code (``sysexits.h``)
of the command::

    ForwarderError                 70  a bug, or an error of no other kind
    ├── UsageError                 64  the command line can't be understood
    ├── EventError                 65  an event is refused
    ├── InputError                 66  a file of events can't be read
    ├── UnavailableError           69  the daemon or Mixpanel is not available
    ├── CannotCreateError          73  a file or directory can't be created
    ├── StorageError               74  the disk or the database reports an error
    ├── TryAgainError              75  full, locked or in use: the same call may work later
    ├── NotPermittedError          77  this user has no permission
    └── ConfigError                78  a wrong setting, or a file that is not the forwarder's

The outcome of a delivery is not an error but a return value (see :mod:`forwarder.delivery`).
"""


class ForwarderError(Exception):
    """What is wrong and then the *remedy*, as sentences for a person.

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
    """The daemon or Mixpanel is not available."""

    exit_code = 69


class CannotCreateError(ForwarderError):
    """A file or directory can't be created."""

    exit_code = 73


class StorageError(ForwarderError):
    """The disk or the database reports an error."""

    exit_code = 74


class TryAgainError(ForwarderError):
    """Full, locked or in use; the same call may work later."""

    exit_code = 75


class NotPermittedError(ForwarderError):
    """This user has no permission."""

    exit_code = 77


class ConfigError(ForwarderError):
    """A setting is wrong, or a file is not the forwarder's."""

    exit_code = 78
