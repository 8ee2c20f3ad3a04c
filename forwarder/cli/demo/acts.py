"""The demo, act by act."""

from __future__ import annotations

import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

from forwarder import spool
from forwarder.cli.demo import programs
from forwarder.cli.demo.accounts import present
from forwarder.cli.demo.narrator import Narrator
from forwarder.cli.demo.programs import Program, Run
from forwarder.cli.scratch import Scratch
from forwarder.errors import ForwarderError
from forwarder.sandbox import Exchange, Fault, Sandbox
from forwarder.service import state as daemon_state
from forwarder.spool import Selection, View
from forwarder.text import counted

TOKEN = "sandbox-token"  # noqa: S105 - opens nothing but the sandbox

SHORT_WAITS = {
    "FORWARDER_DELIVERY_LINGER_S": "0.3",
    "FORWARDER_DELIVERY_RETRY_INITIAL_S": "0.4",
    "FORWARDER_DELIVERY_RETRY_MAX_S": "0.8",
}


def play(scratch: Scratch) -> None:
    """Run all acts.

    Raises:
        ForwarderError: something did not happen, or the books do not balance.
    """
    requests: queue.SimpleQueue[Exchange] = queue.SimpleQueue()

    def served(exchange: Exchange) -> None:
        if not exchange.status:
            # In the thread that serves the request, so that no other one comes in between.
            server.stop_listening()
        requests.put(exchange)

    narrator = Narrator()
    with Sandbox(token=TOKEN, on_request=served) as server:
        demo = Demo(scratch, narrator, server, requests)
        demo.begin()
        with spool.at(scratch.queue_path).view() as view:
            demo.hand_over(view)
            demo.go_down(view)
            demo.repair(view)
            demo.end()
            present(narrator, demo.runs, server.ledger, view)
    narrator.shows(WHAT_NEXT.format(forwarder=_program()))


def _is_over(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None


class Demo:
    """The acts, and what happens meanwhile.

    Attributes:
        runs: The programs that were started.
    """

    def __init__(
        self, scratch: Scratch, narrator: Narrator, server: Sandbox, requests: queue.SimpleQueue[Exchange]
    ) -> None:
        self.runs: list[Run] = []
        self._scratch = scratch
        self._narrator = narrator
        self._server = server
        self._requests = requests
        self._running: list[Run] = []
        self._daemon: subprocess.Popen[bytes] | None = None
        self._intake: subprocess.Popen[bytes] | None = None
        self._reasons: list[str] = []
        scratch.environment |= SHORT_WAITS
        scratch.environment |= {"FORWARDER_MIXPANEL_URL": server.url, "FORWARDER_MIXPANEL_TOKEN": TOKEN}
        # A Unix socket's path may have 107 bytes, and TMPDIR may be longer.
        settings = scratch.path("settings.toml")
        with open(settings, "w", encoding="utf-8") as file:
            file.write('[intake]\nsocket = ""\nlisten = "127.0.0.1:0"\n')
        scratch.environment["FORWARDER_CONFIG"] = settings
        scratch.watch = self._watch

    def begin(self) -> None:
        """Start the daemon."""
        narrator, scratch = self._narrator, self._scratch
        narrator.says(
            "From programs to Mixpanel through a durable queue: all of it on this machine, with a stand-in "
            "for Mixpanel. It takes about ten seconds and leaves nothing on disk."
        )
        narrator.heading("A server, a queue and a daemon")
        narrator.happens("server", f"{self._server.url} checks and answers as Mixpanel's /import does")
        narrator.happens("queue", f"{scratch.queue_path}, a directory of its own")
        daemon = self._daemon = scratch.start("daemon", ["-m", "forwarder", "run"])
        scratch.until(lambda: self._state().updated_at > 0, "the daemon is ready")
        narrator.happens("daemon", f"`forwarder run` is ready as process {daemon.pid}")
        intake = self._intake = scratch.start("intake", ["-m", "forwarder", "intake"])
        scratch.until(lambda: "intake.started" in scratch.read("intake.log"), "the intake is ready")
        [place] = json.loads(scratch.read("intake.log").splitlines()[0])["places"]
        self._address = place.removeprefix("http://")
        narrator.happens(
            "intake", f"`forwarder intake` is ready as process {intake.pid}, for Mixpanel's SDKs"
        )
        linger_s, initial_s, longest_s = SHORT_WAITS.values()
        narrator.adds(
            f"Its waits are shortened for this demo: {initial_s} s doubling to {longest_s} s between tries, "
            f"instead of 2 s to 60 s; {linger_s} s for a batch to fill, instead of 1 s."
        )

    def hand_over(self, view: View) -> None:
        """Six programs at once, while all is well."""
        self._narrator.heading("Six programs put events into the queue at once")
        self._narrator.says(
            "Each gets an acknowledgement once its events are on disk. Bad events are refused at once, one "
            "by one. Only those of legacy, worker and site are not checked: there the server finds bad ones."
        )
        self._start(
            programs.shop(self._scratch, 1, 4003, spoilt=True),
            programs.app(self._scratch, 1, 3001, spoilt=True),
            programs.worker(self._scratch, 1000),
            programs.legacy(self._scratch, 2000),
            programs.cron(1, 3),
            programs.site(self._scratch, self._address, TOKEN, 500),
        )
        self._scratch.until(lambda: not self._running, "the programs have ended")
        self._wait_until_empty(view)
        self._narrator.happens("queue", "is empty: every accepted event is delivered, or a dead letter")
        users = self._server.users
        self._scratch.until(lambda: users.profiles, "the profile is updated")
        self._narrator.happens("server", f"has the profile of user-1, too: {users.profiles[('user-1',)]}")

    def go_down(self, view: View) -> None:
        """An outage in the middle of a batch, and the recovery."""
        narrator, scratch = self._narrator, self._scratch
        narrator.heading("The server goes down in the middle of a batch, and more events come")
        narrator.says("The programs do not notice. The daemon keeps trying, however long it takes.")
        self._server.inject(Fault.reset_after(), times=1)
        self._start(programs.shop(scratch, 4004, 8003, spoilt=False))
        scratch.until(lambda: not self._server.listening, "the server has gone down")
        self._start(programs.app(scratch, 3002, 6001, spoilt=False), programs.cron(4, 6))
        scratch.until(lambda: not self._running, "the programs have ended")
        scratch.until(lambda: self._reasons, "the daemon backs off")
        narrator.happens("you", "forwarder status")
        narrator.adds(scratch.forwarder("status", "status").splitlines()[0])
        overload = self._server.inject(Fault.server_error(503), times=2)
        self._server.listen_again()
        narrator.happens("server", "is reachable again, but still fails")
        scratch.until(lambda: overload.over, "the daemon tries again")
        began_at = time.monotonic()
        self._wait_until_empty(view)
        scratch.until(lambda: self._state().state == "running", "the daemon is running again")
        narrator.happens(
            "daemon", f"has delivered all waiting events, {time.monotonic() - began_at:.1f} s later"
        )

    def repair(self, view: View) -> None:
        """Refused events, and how to fix one."""
        narrator, scratch = self._narrator, self._scratch
        narrator.heading("Refused events are kept, with the reason, and can be fixed")
        groups = view.summary(Selection())
        dead = counted(sum(group.count for group in groups), "dead letter")
        narrator.happens("queue", f"keeps {dead} (`forwarder dead-letters summary`):")
        for group in groups:
            said_by = f"HTTP {group.http_status}" if group.http_status else "never sent"
            narrator.adds(f"{group.count} x {group.event or 'no name'} ({said_by}): {group.reason}")
        [letter] = [found for found in view.dead_letters(Selection()) if b'"yesterday"' in found.data]
        now_s = int(time.time())
        repair = ["dead-letters", "retry", str(letter.id), "--set", f"properties.time:={now_s}"]
        narrator.happens("you", f"forwarder {' '.join(repair)}")
        narrator.adds(scratch.forwarder("retry", *repair).strip())
        for run in self.runs:
            if event := run.program.accepted.get(("worker", 250)):
                event["properties"]["time"] = now_s
        self._wait_until_empty(view)

    def end(self) -> None:
        """Stop the daemon and the intake."""
        services, self._daemon = {"intake": self._intake, "daemon": self._daemon}, None
        for name, service in services.items():
            assert service is not None
            service.send_signal(signal.SIGTERM)
            self._scratch.until(partial(_is_over, service), f"the {name} has ended")
            if service.returncode:
                raise ForwarderError(f"the {name} has ended with {service.returncode}")
        self._narrator.happens("daemon", "stops when asked to; so does the intake")

    def _start(self, *wanted: Program) -> None:
        for program in wanted:
            self._narrator.happens(program.name, program.shown)
            run = Run.start(self._scratch, program)
            self.runs.append(run)
            self._running.append(run)

    def _wait_until_empty(self, view: View) -> None:
        self._scratch.until(lambda: view.figures().waiting == 0, "the queue is empty")

    def _state(self) -> daemon_state.DaemonState:
        return daemon_state.read(spool.at(self._scratch.queue_path)) or daemon_state.DaemonState(0)

    def _watch(self) -> None:
        """Report what has happened since."""
        while not self._requests.empty():
            self._tell_request(self._requests.get())
        for run in [run for run in self._running if run.is_over]:
            self._running.remove(run)
            self._tell_end(run)
        if self._daemon is not None:
            if self._daemon.poll() is not None:
                raise ForwarderError(f"the daemon has ended by itself with {self._daemon.returncode}")
            self._tell_state()

    def _tell_request(self, exchange: Exchange) -> None:
        taken = f"accepts {counted(exchange.new + exchange.repeats, 'event')}"
        if exchange.status >= 500:
            taken = f"answers {exchange.status} to {counted(exchange.events, 'event')}, accepts none"
        if exchange.failed:
            taken += f", refuses {exchange.failed}: dead letters"
        if exchange.repeats:
            taken += f": it had {exchange.repeats:,} of them before, and drops the copies"
        if not exchange.status:
            taken += ", and goes down before it answers"
        self._narrator.happens("server", taken, "yellow" if exchange.fault else "")

    def _tell_end(self, run: Run) -> None:
        run.read(self._scratch)
        name, refused = run.program.name, f", refused {run.refused}" if run.refused else ""
        self._narrator.happens(name, f"accepted {counted(run.accepted, 'event')}{refused}")
        for reason in run.reasons:
            self._narrator.adds(reason)

    def _tell_state(self) -> None:
        state = self._state()
        if state.state == "backing_off" and state.state_reason not in self._reasons:
            self._reasons.append(state.state_reason)
            self._narrator.happens("daemon", f"backs off: {state.state_reason}", "yellow")


WHAT_NEXT = """
To do the same by hand, in one terminal:
  {forwarder} sandbox
In another one:
  export FORWARDER_QUEUE_PATH=/tmp/my-queue
  export FORWARDER_MIXPANEL_URL=http://127.0.0.1:8087
  export FORWARDER_MIXPANEL_TOKEN=sandbox-token
  {forwarder} enqueue -e "Signed Up" -d user-1 -p plan=pro
  {forwarder} drain
  {forwarder} status

With your own project instead of the sandbox:
  unset FORWARDER_MIXPANEL_URL
  export FORWARDER_MIXPANEL_REGION=us  # or eu, in
  export FORWARDER_MIXPANEL_TOKEN=the-token-of-your-project
  {forwarder} check --online
For production: settings in /etc/forwarder/forwarder.toml, and `{forwarder} run` as a service."""


def _program() -> str:
    """How to call this program from here: by its name only if a shell would find it."""
    started = sys.argv[0]
    if os.path.basename(started) != "forwarder":
        return f"{shlex.quote(sys.executable)} -m forwarder"
    found = shutil.which("forwarder")
    return "forwarder" if found and os.path.samefile(found, started) else shlex.quote(started)
