"""``make bench-rivals``: other ways to bring events to a server, beside `enqueue` and `drain`.

``python -m benchmarks.rivals TOOLS RECORD PICTURE`` installs the rivals below the directory TOOLS, as their
registries have them now. Each is used as its documentation has it (``benchmarks/rival_*``). The server is the
sandbox, which knows each event by its ``$insert_id``. A rival that can't be had is left out, with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.daemon import settings
from benchmarks.events import TEMPLATE
from benchmarks.rivals_picture import draw, table
from forwarder.sandbox import Fault, Sandbox

HERE = Path(__file__).parent
MANY, FEW = 200_000, 20_000
TOKEN = "sandbox-token"
# Of the requests; those that hang are closed after some seconds, as a load balancer does.
FAULTS = (
    (Fault.server_error(503), 0.2),
    (Fault.reset_before(), 0.1),
    (Fault.reset_after(), 0.1),
    (Fault.hang(), 0.05),
)
HANG_S = 10.0
LIMIT_S = 300.0
# A program without an end is done when nothing has come for so long.
QUIET_S = 75.0


@dataclass(frozen=True)
class Rival:
    """A way to bring a file of events to a server.

    Attributes:
        commands: For the file, the server's address and a directory of its own, the commands to run in turn.
        ends: Whether they end by themselves once they have done all that they can.
        resumes: Whether after a crash the last one is enough; or else all are run again.
    """

    name: str
    commands: Callable[[Path, str, Path], list[list[str]]]
    ends: bool = True
    resumes: bool = False
    environ: Callable[[Path, str], dict[str, str]] = lambda _place, _url: dict(os.environ)


@dataclass(frozen=True)
class Cost:
    """What a run took, and how it ended.

    Attributes:
        code: The exit code of the last command; None: it has no end, or had not come to it after `LIMIT_S`.
    """

    seconds: float
    cpu_s: float
    peak_mib: float
    code: int | None


@dataclass(frozen=True)
class Result:
    """A rival's figures: with a server that answers, under faults, and with a kill half way and a second run.

    Attributes:
        lost, again: Events that the server never took, and copies of events that it had taken already.
    """

    name: str
    version: str
    good: Cost
    faults: Cost
    faults_lost: int
    faults_again: int
    killed: Cost
    killed_lost: int
    killed_again: int


def write(file: Path, count: int) -> None:
    """*count* events of now, in order of time."""
    first_ms = int(time.time() * 1000) - count - 60_000
    with file.open("wb") as out:
        for number in range(count):
            out.write((TEMPLATE % (first_ms + number, number % 9973, number)).encode() + b"\n")


def run(
    rival: Rival, commands: list[list[str]], server: Sandbox, place: str, expected: int, kill_at: int = 0
) -> Cost:
    """Run *commands* of a rival in turn; with *kill_at*, kill it once the server has so many."""
    started, cpu_s, peak = time.monotonic(), 0.0, 0.0
    code: int | None = 0
    for command in commands:
        process = subprocess.Popen(
            command,
            env=rival.environ(Path(place), server.url),
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        watcher = _Watcher(process.pid, server, rival.ends, expected, kill_at, started)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        ended = time.monotonic()
        code = None if watcher.stop() else process.returncode
        cpu_s += used.ru_utime + used.ru_stime
        peak = max(peak, watcher.peak_mib)
        if process.returncode:
            break
    seconds = (ended if rival.ends else watcher.last_at) - started
    return Cost(seconds, cpu_s, peak, code)


class _Watcher:
    """Ends a command that has no end, hangs or is to be killed, with all that it has started."""

    def __init__(
        self, pid: int, server: Sandbox, ends: bool, expected: int, kill_at: int, started: float
    ) -> None:
        self._pid, self._server, self._ends = pid, server, ends
        self._expected, self._kill_at, self._deadline = expected, kill_at, started + LIMIT_S
        self._done = threading.Event()
        self._had_to = False
        self.last_at, self.peak_mib = time.monotonic(), 0.0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        seen = self._server.ledger.accepted
        while not self._done.wait(0.02):
            # It may end at any moment.
            with suppress(OSError):
                self.peak_mib = max(self.peak_mib, _peak_mib(self._pid))
                now, accepted = time.monotonic(), self._server.ledger.accepted
                if accepted != seen:
                    seen, self.last_at = accepted, now
                is_quiet = not self._ends and (accepted >= self._expected or now - self.last_at > QUIET_S)
                if is_quiet or now > self._deadline or 0 < self._kill_at <= accepted:
                    os.killpg(self._pid, signal.SIGKILL)
                    self._had_to = True
                    return

    def stop(self) -> bool:
        """Whether it had to end the command."""
        self._done.set()
        self._thread.join()
        return self._had_to


def _peak_mib(pid: int) -> float:
    """Of that process so far; what wait4 says begins with that of the process that has started it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextmanager
def server(faults: bool) -> Iterator[Sandbox]:
    """A sandbox, with `FAULTS` or without."""
    over = threading.Event()
    with Sandbox(token=TOKEN, keep_data=False) as sandbox:
        if faults:
            for number, (fault, share) in enumerate(FAULTS):
                sandbox.inject(fault, chance=share, seed=number)

        def release() -> None:
            while not over.wait(HANG_S):
                sandbox.release()

        releasing = threading.Thread(target=release)
        releasing.start()
        try:
            yield sandbox
        finally:
            over.set()
            releasing.join()


def measure(rival: Rival, version: str, many: Path, few: Path) -> Result:
    """All its runs."""

    def place() -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="forwarder-rivals-")

    with place() as own, server(faults=False) as sandbox:
        good = run(rival, rival.commands(many, sandbox.url, Path(own)), sandbox, own, MANY)
        assert sandbox.ledger.accepted == MANY, f"{rival.name} brought {sandbox.ledger.accepted} of {MANY}"
    with place() as own, server(faults=True) as sandbox:
        faults = run(rival, rival.commands(few, sandbox.url, Path(own)), sandbox, own, FEW)
        bad = FEW - sandbox.ledger.accepted, sandbox.ledger.repeats
    with place() as own, server(faults=False) as sandbox:
        sandbox.latency_s = 0.2
        commands = rival.commands(few, sandbox.url, Path(own))
        run(rival, commands, sandbox, own, FEW, kill_at=FEW // 2)
        killed = run(rival, commands[-1:] if rival.resumes else commands, sandbox, own, FEW)
        after = FEW - sandbox.ledger.accepted, sandbox.ledger.repeats
    return Result(rival.name, version, good, faults, *bad, killed, *after)


def ours() -> tuple[Rival, str]:
    """`enqueue` and `drain`."""

    def commands(file: Path, _url: str, _place: Path) -> list[list[str]]:
        command = [sys.executable, "-m", "forwarder"]
        return [[*command, "enqueue", str(file)], [*command, "drain"]]

    def environ(place: Path, url: str) -> dict[str, str]:
        return {
            **settings(str(place / "queue"), url),
            "FORWARDER_MIXPANEL_TOKEN": TOKEN,
            "PYTHONPATH": str(HERE.parent),
        }

    version = subprocess.run(
        [sys.executable, "-m", "forwarder", "--version"], capture_output=True, text=True
    ).stdout
    return Rival("enqueue + drain", commands, resumes=True, environ=environ), version.split()[-1]


def python_rivals(tools: Path) -> Iterator[tuple[Rival, str]]:
    """Mixpanel's library with its BufferedConsumer, and mixpanel-utils."""
    python = tools / "python/bin/python"
    if not python.exists():
        venv.create(tools / "python", with_pip=True)
    for name, package in (("BufferedConsumer", "mixpanel"), ("mixpanel-utils", "mixpanel-utils")):
        subprocess.run([python, "-m", "pip", "install", package], check=True, capture_output=True)
        show = f"import importlib.metadata as m; print(m.version({package!r}))"
        version = subprocess.run([python, "-c", show], capture_output=True, text=True, check=True).stdout
        script = HERE / f"rival_{package.replace('-', '_')}.py"

        def commands(file: Path, url: str, _place: Path, script: Path = script) -> list[list[str]]:
            return [[str(python), str(script), str(file), url, TOKEN]]

        yield Rival(name, commands), version.strip()


def node_rival(tools: Path) -> tuple[Rival, str]:
    """mixpanel-import, by its own command."""
    tools.mkdir(parents=True, exist_ok=True)
    install = [
        "npm",
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--prefix",
        str(tools),
        "mixpanel-import",
    ]
    subprocess.run(install, check=True)
    package = tools / "node_modules/mixpanel-import"
    version = json.loads((package / "package.json").read_text())["version"]

    def commands(file: Path, _url: str, _place: Path) -> list[list[str]]:
        options = ["--project", "123", "--acct", "user", "--pass", "secret", "--compress", "--abridged"]
        quiet = ["--verbose", "false", "--logs", "false"]
        return [
            [
                "node",
                "--require",
                str(HERE / "rival_mixpanel_import.cjs"),
                str(package / "index.js"),
                str(file),
                *options,
                *quiet,
            ]
        ]

    def environ(_place: Path, url: str) -> dict[str, str]:
        return {**os.environ, "SERVER": url, "NODE_PATH": str(tools / "node_modules")}

    return Rival("mixpanel-import", commands, environ=environ), version


def syslog_ng() -> tuple[Rival, str]:
    """syslog-ng's http() with a reliable buffer on disk, by the machine's own package."""
    command = shutil.which("syslog-ng") or "/usr/sbin/syslog-ng"
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    version = said.split("(")[1].split(")")[0]

    def commands(file: Path, url: str, place: Path) -> list[list[str]]:
        config = (HERE / "rival_syslog_ng.conf").read_text()
        for name, value in {
            "FILE": str(file),
            "URL": url,
            "PLACE": str(place),
            "VERSION": version.rpartition(".")[0],
        }.items():
            config = config.replace(f"@{name}@", value)
        (place / "syslog-ng.conf").write_text(config)
        state = [f"--{kind}={place}/{kind}" for kind in ("persist-file", "control", "pidfile")]
        return [[command, "--foreground", "--no-caps", f"--cfgfile={place}/syslog-ng.conf", *state]]

    return Rival("syslog-ng", commands, ends=False), version


def found(tools: Path) -> Iterator[tuple[Rival, str]]:
    """Ours, and the rivals that can be had."""
    yield ours()
    for make in (lambda: [node_rival(tools)], lambda: python_rivals(tools), lambda: [syslog_ng()]):
        try:
            yield from make()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"left out: {error}", file=sys.stderr)


def main(tools: Path, record: Path, picture: Path) -> None:
    """Measure them all, write the figures and the picture, and print the table of the docs."""
    results = []
    with tempfile.TemporaryDirectory(prefix="forwarder-rivals-") as place:
        many, few = Path(place, "many.ndjson"), Path(place, "few.ndjson")
        for rival, version in found(tools):
            write(many, MANY)
            write(few, FEW)
            started = time.monotonic()
            results.append(asdict(measure(rival, version, many, few)))
            print(
                f"{rival.name}: {time.monotonic() - started:.0f} s", results[-1], file=sys.stderr, flush=True
            )
    record.write_text(json.dumps(results, indent=1) + "\n")
    picture.write_text(draw(results))
    print(table(results))


if __name__ == "__main__":
    main(*(Path(each).resolve() for each in sys.argv[1:]))
