"""The scratch environment of demo and bench: a directory, processes with their own settings, and cleanup."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

import forwarder
from forwarder.cli.output import OutputError
from forwarder.errors import CannotCreateError, ForwarderError

T = TypeVar("T")

POLL_S = 0.02
# Each step takes a second or two; a busy machine may need longer.
PATIENCE_S = 30.0
KILLED_S = 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Settings of this user or a service manager must not reach these processes.
_PRIVATE = ("FORWARDER_", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "JOURNAL_STREAM", "WATCHDOG_", "LISTEN_")


class Interruption:
    """A signal handler that only notes the signal, so that nothing is cut off halfway."""

    def __init__(self) -> None:
        self._number = 0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self._number = number

    def heed(self) -> None:
        """Raise KeyboardInterrupt or SystemExit if a signal has come."""
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._number:
            raise SystemExit(128 + self._number)


class Scratch:
    """A directory, the processes started in it, and waiting for their work.

    Attributes:
        directory, queue_path: Its own directory, and the queue in it.
        environment: The processes' environment.
        watch: Called repeatedly during every wait.
    """

    def __init__(self, directory: str, interruption: Interruption) -> None:
        self.directory = directory
        self.queue_path = os.path.join(directory, "queue")
        self.watch: Callable[[], None] = lambda: None
        no_settings = os.path.join(directory, "no-settings.toml")
        open(no_settings, "x").close()
        self.environment = {
            **_environment_of_others(os.environ),
            # Where this package is: an installation may keep it out of Python's own path.
            "PYTHONPATH": str(Path(forwarder.__file__).parents[1]),
            "FORWARDER_CONFIG": no_settings,
            "FORWARDER_QUEUE_PATH": self.queue_path,
            # A few MB are written; a small /tmp is no reason to fail.
            "FORWARDER_QUEUE_MIN_FREE_BYTES": "0",
            "FORWARDER_LOG_FORMAT": "json",
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self._interruption = interruption
        self._never = threading.Event()

    def path(self, name: str) -> str:
        """The path of the file *name* of the directory."""
        return os.path.join(self.directory, name)

    def start(self, name: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start Python with *arguments*; its output goes to the files ``NAME.out`` and ``NAME.log``."""
        # -P: a queue.py in the working directory must not be imported.
        command = [sys.executable, "-P", *arguments]
        with open(self.path(f"{name}.out"), "wb") as out, open(self.path(f"{name}.log"), "wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own Python, our own arguments
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                cwd=self.directory,
                env=self.environment,
                # The terminal's Ctrl-C is only for us: `end_processes` ends these processes.
                process_group=0,
            )
        self._processes.append(process)
        return process

    def forwarder(self, name: str, *arguments: str) -> str:
        """Run a command of the forwarder to its end. Returns its output.

        Raises:
            ForwarderError: it has failed.
        """
        process = self.start(name, ["-m", "forwarder", *arguments])
        self.until(lambda: process.poll() is not None, f"`forwarder {arguments[0]}` has ended")
        if process.returncode:
            said = self.read(f"{name}.log").strip()
            raise ForwarderError(
                f"`forwarder {' '.join(arguments)}` has ended with {process.returncode}: {said}"
            )
        return self.read(f"{name}.out")

    def read(self, name: str) -> str:
        """The text of a file of the directory."""
        with open(self.path(name), encoding="utf-8", errors="backslashreplace") as file:
            return file.read()

    def until(self, condition: Callable[[], T], what: str) -> T:
        """Wait until *condition* returns something true, and return that.

        Raises:
            ForwarderError: it took too long; *what* is the sentence that did not become true.
            KeyboardInterrupt, SystemExit: a signal has come.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self._interruption.heed()
            found = condition()
            self.watch()
            if found:
                return found
            if time.monotonic() > deadline:
                raise ForwarderError(f"timed out after {PATIENCE_S:g} s waiting for: {what}")
            self._never.wait(POLL_S)

    def end_processes(self) -> None:
        """Kill what still runs."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait(KILLED_S)


@contextmanager
def opened(name: str, parent: str | None = None) -> Iterator[Scratch]:
    """A scratch environment for *name*. Its processes end with the block, and its directory unless it failed.

    Args:
        parent: Where its directory is created; None: the directory for temporary files.

    Raises:
        CannotCreateError: it can't be created there.
        ForwarderError: the block failed; the message says where the files are.
    """
    interruption = Interruption()
    # A signal that is ignored, as in the background of a shell script, stays so.
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interruption) for number in heeded}
    try:
        scratch = _make_scratch(interruption, name, parent)
        is_kept = False
        try:
            yield scratch
        except (BrokenPipeError, OutputError):
            raise
        except Exception as error:
            is_kept = True
            raise _failure(error, name, scratch.directory) from error
        finally:
            scratch.end_processes()
            if not is_kept:
                shutil.rmtree(scratch.directory)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _make_scratch(interruption: Interruption, name: str, parent: str | None) -> Scratch:
    directory = ""
    try:
        directory = tempfile.mkdtemp(prefix=f"forwarder-{name}-", dir=parent)
        return Scratch(directory, interruption)
    except OSError as error:
        shutil.rmtree(directory, ignore_errors=True)
        raise CannotCreateError(
            f"can't create files in {parent or tempfile.gettempdir()}: {error.strerror or error}",
            "Name another directory" if parent else "Set TMPDIR to a directory with room",
        ) from None


def _failure(error: Exception, name: str, directory: str) -> ForwarderError:
    what = error.what if isinstance(error, ForwarderError) else f"{type(error).__name__}: {error}"
    return ForwarderError(
        f"the {name} has failed: {what}", f"All files are kept in {directory}; daemon.log is the daemon's log"
    )


def _environment_of_others(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith(_PRIVATE) and not name.lower().endswith("_proxy")
    }
    # They can import what we can import, wherever they are started.
    paths = [os.path.abspath(path) for path in sys.path if path]
    return {
        **kept,
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
    }
