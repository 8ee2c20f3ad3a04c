"""The key to Mixpanel and the password for the queue's server: where they come from. They are never shown."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from forwarder.config.settings import Queue, Settings
from forwarder.errors import ConfigError, NotPermittedError

BOTH_WAYS = (
    "Give a service account (mixpanel.service_account, mixpanel.project_id, and its secret "
    "by mixpanel.secret_file, the systemd credential mixpanel-secret or $FORWARDER_MIXPANEL_SECRET), "
    "or the project's token (by mixpanel.token_file, the systemd credential mixpanel-token "
    "or $FORWARDER_MIXPANEL_TOKEN). The service reads its key from /etc/forwarder/secret or token"
)

# Mixpanel's keys are far shorter; a larger file is another file.
MOST_SECRET_BYTES = 4096


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What HTTP's Basic scheme sends; its ``repr`` shows no secret.

    With a service account: its *username*, its secret as *password*, and the *project_id*.
    With a project's token: the token as *username*, an empty *password* and no *project_id*.
    Source: https://developer.mixpanel.com/reference/import-events (authentication).
    """

    username: str
    password: str
    project_id: str | None = None

    def __repr__(self) -> str:
        if self.project_id is None:
            return "Credentials(token: not shown)"
        return f"Credentials({self.username!r}, secret: not shown, project_id={self.project_id!r})"


class Origin(NamedTuple):
    """Where a secret comes from: *path* for a file, *variable* for the environment."""

    name: str
    path: str = ""
    variable: str = ""
    guarded: bool = False  # systemd's: readable by the service alone


def find_secret(settings: Settings, kind: str, environ: Mapping[str, str] | None = None) -> Origin | None:
    """Where the secret of *kind* (``secret`` or ``token``) comes from. It is not read."""
    environ = os.environ if environ is None else environ
    path: str = settings.mixpanel.secret_file if kind == "secret" else settings.mixpanel.token_file
    if found := _find_file(f"mixpanel.{kind}_file", path, f"mixpanel-{kind}", environ):
        return found
    variable = f"FORWARDER_MIXPANEL_{kind}".upper()
    return Origin(f"${variable}", variable=variable) if environ.get(variable) else None


def find_password(queue: Queue, environ: Mapping[str, str] | None = None) -> Origin | None:
    """The file with the password for the queue's server. It is not read. None: libpq may know of another."""
    environ = os.environ if environ is None else environ
    return _find_file("queue.password_file", queue.password_file, "queue-password", environ)


def _find_file(key: str, path: str, credential: str, environ: Mapping[str, str]) -> Origin | None:
    """The file *path* that the setting *key* names, else the systemd *credential*."""
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    if path:
        guarded = bool(directory) and os.path.dirname(path) == directory.rstrip("/")
        return Origin(f"{key} {path!r}", path=path, guarded=guarded)
    path = os.path.join(directory, credential)
    # The unit passes all credentials; one whose file the host does not have is empty.
    if directory and _is_given(path):
        return Origin(f"systemd credential {credential}", path=path, guarded=True)
    return None


def _is_given(credential: str) -> bool:
    try:
        return os.stat(credential).st_size > len("\n")
    except OSError:
        return os.path.lexists(credential)  # a broken link is a mistake, and reported


def known_secrets(settings: Settings | None) -> list[str]:
    """Every secret that this user can find, used or not, to be kept out of what is printed.

    Besides those that are given, the ones beside the settings file, where the units take them from.
    """
    variables = ("FORWARDER_MIXPANEL_SECRET", "FORWARDER_MIXPANEL_TOKEN", "PGPASSWORD")
    found = [os.environ.get(name, "") for name in variables]
    files = []
    if settings:
        files += [settings.mixpanel.secret_file, settings.mixpanel.token_file, settings.queue.password_file]
    file = (settings and settings.file) or "/etc/forwarder/forwarder.toml"
    for kind in ("secret", "token", "queue-password"):
        files += [os.path.join(os.path.dirname(file), kind), f"{os.path.splitext(file)[0]}.{kind}"]
        if directory := os.environ.get("CREDENTIALS_DIRECTORY"):
            files.append(os.path.join(directory, kind if kind == "queue-password" else f"mixpanel-{kind}"))
    for path in filter(None, files):
        with suppress(OSError, ConfigError):
            found.append(_content(Origin(path, path=path))[1].decode(errors="replace"))
    # A password may have spaces in it.
    return [word for text in found for word in {text.strip(), *text.split()} if word]


def load_credentials(
    settings: Settings, environ: Mapping[str, str] | None = None
) -> tuple[Credentials, list[str]]:
    """The key that signs requests, and warnings about how it is stored.

    Each secret comes from its file, else its systemd credential, else its environment variable. The first
    one that is given is used, and must be valid.

    Raises:
        ConfigError: there is no key, or more than one way to sign in; or a key's file is missing, empty
            or not one printable word. No message shows a secret.
        NotPermittedError: this user can't read a key's file.
    """
    environ = os.environ if environ is None else environ
    warnings: list[str] = []
    secret, token = (find_secret(settings, kind, environ) for kind in ("secret", "token"))
    account, project_id = settings.mixpanel.service_account, settings.mixpanel.project_id
    if account and token:
        raise ConfigError(
            "there are two ways to sign in: mixpanel.service_account "
            f"({settings.source('mixpanel.service_account')}) and a project's token ({token.name})",
            "Keep one of them",
        )
    if account:
        if not secret:
            raise ConfigError(
                "there is no secret for mixpanel.service_account",
                "Give it by mixpanel.secret_file, the systemd credential mixpanel-secret "
                "or $FORWARDER_MIXPANEL_SECRET",
            )
        return Credentials(account, _read(secret, environ, warnings), project_id), warnings
    if not token:
        what = (
            f"there is a secret ({secret.name}), but no mixpanel.service_account"
            if secret
            else "there is no key"
        )
        raise ConfigError(f"{what} to sign in to Mixpanel with", BOTH_WAYS)
    if secret:
        warnings.append(
            f"The token is used; the secret ({secret.name}) is not: mixpanel.service_account is not set"
        )
    return Credentials(_read(token, environ, warnings), ""), warnings


def _read(origin: Origin, environ: Mapping[str, str], warnings: list[str]) -> str:
    if origin.variable:
        return _one_word(environ[origin.variable], origin.name)
    try:
        mode, content = _content(origin)
    except PermissionError:
        raise NotPermittedError(
            f"this user can't read the key's file ({origin.name})",
            "Make the daemon's user its owner, mode 0600",
        ) from None
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"the key's file ({origin.name}) does not exist", "Put the key into it, mode 0600"
        ) from None
    except OSError as error:
        raise ConfigError(f"the key's file ({origin.name}) can't be read: {error.strerror}") from None
    if mode & 0o044 and not origin.guarded:
        warnings.append(f"Other users can read the key's file ({origin.name}): chmod 600 it")
    if len(content) > MOST_SECRET_BYTES:
        raise ConfigError(
            f"the key's file ({origin.name}) is larger than any key", "Name the file that holds the key"
        )
    # What is not ASCII becomes an unprintable character, which is refused.
    return _one_word(content.decode("ascii", "replace").replace("\ufffd", "\0"), origin.name)


def _content(origin: Origin) -> tuple[int, bytes]:
    """The mode of a key's file and its content, cut one byte behind the longest key."""
    # Not blocking: opening a FIFO would wait for its writer, at the start and at each reload.
    fd = os.open(origin.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(
                f"the key's file ({origin.name}) is not a regular file",
                "Put the key into a regular file; a symbolic link to one is fine",
            )
        return mode, os.read(fd, MOST_SECRET_BYTES + 1)
    finally:
        os.close(fd)


def _one_word(text: str, name: str) -> str:
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigError(f"the key ({name}) is empty", "Put the key into it, on one line")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(
            f"the key ({name}) contains spaces, unprintable characters or more than one line",
            "Put only the key into it, on one line",
        )
    return text
