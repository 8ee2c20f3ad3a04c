"""Runs the forwarder's command in processes of their own, each to its end, or to its crash point."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import Process

KILLED = -9


class Launcher:
    """Starts a process at a time."""

    def __call__(self, environ, arguments, scratch, point="", nth=1, umask=0o022):
        self.begin(environ, arguments, scratch, point, nth, umask)
        return self.end()

    def begin(self, environ, arguments, scratch, point="", nth=1, umask=0o022):
        """Start it; the next call must be `end`."""
        self._files = {name: Path(scratch, name) for name in ("stdout", "stderr", "mark")}
        for file in self._files.values():
            file.unlink(missing_ok=True)
        environ = {**environ, "CRASH_MARK": str(scratch / "mark")}
        before = ("tests.fault.crash_points:prepare", point, str(nth), str(umask))
        with (
            open(os.devnull) as nothing,
            open(self._files["stdout"], "wb") as output,
            open(self._files["stderr"], "wb") as errors,
        ):
            files = (nothing.fileno(), output.fileno(), errors.fileno())
            self._process = Process(arguments, environ, files, before)

    def end(self):
        """Wait for its end, by itself or at its point."""
        files, code = self._files, self._process.wait()
        mark = files["mark"].read_text() if files["mark"].exists() else ""
        return Ended(code, mark, files["stdout"].read_text(), files["stderr"].read_text())


@dataclass(frozen=True)
class Ended:
    """How a process ended; *mark* is the point it was killed at."""

    code: int
    mark: str
    stdout: str
    stderr: str

    def was_killed_at(self, point):
        assert (self.code, self.mark) == (KILLED, point), (point, self.code, self.stdout, self.stderr)


@pytest.fixture(name="launcher")
def launcher_fixture():
    """`Launcher`, for test modules."""
    return Launcher()
