"""Runs the forwarder's command in processes of their own, each to its end, or to its crash point."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fault import crash_points

KILLED = -9


class Launcher:
    """Starts a process at a time; it takes 10 ms."""

    def __init__(self):
        # A fork of this process would take over the threads' locks; a process that only waits has none.
        self._server = subprocess.Popen(
            [sys.executable, crash_points.__file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, environ, arguments, scratch, point="", nth=1, umask=0o022):
        self.begin(environ, arguments, scratch, point, nth, umask)
        return self.end()

    def begin(self, environ, arguments, scratch, point="", nth=1, umask=0o022):
        """Start it; the next call must be `end`."""
        order = {"point": point, "nth": nth, "arguments": [*map(str, arguments)], "umask": umask}
        order["environ"] = {**environ, "CRASH_MARK": str(scratch / "mark")}
        self._files = {name: Path(scratch, name) for name in ("stdout", "stderr", "mark")}
        for file in self._files.values():
            file.unlink(missing_ok=True)
        order |= {name: str(self._files[name]) for name in ("stdout", "stderr")}
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()

    def end(self):
        """Wait for its end, by itself or at its point."""
        files = self._files
        code = json.loads(self._server.stdout.readline())["code"]
        mark = files["mark"].read_text() if files["mark"].exists() else ""
        return Ended(code, mark, files["stdout"].read_text(), files["stderr"].read_text())

    def close(self):
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()


@dataclass(frozen=True)
class Ended:
    """How a process ended; *mark* is the point it was killed at."""

    code: int
    mark: str
    stdout: str
    stderr: str

    def was_killed_at(self, point):
        assert (self.code, self.mark) == (KILLED, point), (point, self.code, self.stdout, self.stderr)


@pytest.fixture(name="launcher", scope="module")
def launcher_fixture():
    """One for all tests of a module."""
    started = Launcher()
    yield started
    started.close()
