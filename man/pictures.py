"""``python -m man.pictures DIRECTORY``: draw the pictures of the docs from the run that is recorded there.

``run.json`` is what ``forwarder status --history --json`` printed of a real run with an outage and a wrong
key. Its minutes are put into a queue as if they had just passed, a daemon goes on from there with the
stand-in for Mixpanel, and the real screens are taken: those of a terminal by tmux, the page by Chromium.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

from rich.console import Console
from rich.text import Text

from forwarder import spool
from forwarder.sandbox import Fault, Sandbox
from forwarder.spool import EventQueue, Period

TOKEN = "sandbox-token"
COLUMNS = 100
NAMES = ("Page View", "Page View", "Page View", "Search", "App Opened", "Order Completed")
EVENTS_PER_S = 150
CHROMIUM = (
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1100,1940",
)  # fmt: skip


def remember(path: str, minutes: list[dict[str, object]]) -> None:
    """Put the recorded *minutes* into the queue's history, the last one as the one that ends now."""
    late_s = time.time() - float(str(minutes[-1]["ended_at"]))
    with closing(spool.at(path).consumer()) as consumer:
        for minute in minutes:
            moved = {key: float(str(minute[key])) + late_s for key in ("ended_at", "run")}
            consumer.record(Period(**{**minute, **moved}))  # type: ignore[arg-type]


def feed(queue: EventQueue, ended: threading.Event) -> None:
    """Put events at a steady rate until *ended*, and now and then one that Mixpanel refuses."""
    number = 0
    while not ended.wait(0.1):
        for _ in range(EVENTS_PER_S // 10):
            number += 1
            queue.put({"event": NAMES[number % len(NAMES)], "properties": {"distinct_id": f"u{number}"}})
        if number % 75 == 0:
            at = int(time.time())
            bad = {"event": "Signed Up", "properties": {"time": at, "$insert_id": f"not an id {number}!"}}
            queue.append([json.dumps(bad).encode()])


def terminal(command: str, lines: int, wait_s: float, environ: dict[str, str]) -> Text:
    """What a terminal of so many *lines* shows *wait_s* after *command* was started in it."""
    with tempfile.TemporaryDirectory() as place:
        tmux = ["tmux", "-u", "-S", f"{place}/socket", "-f", "/dev/null"]
        size = ["-x", str(COLUMNS), "-y", str(lines)]
        subprocess.run([*tmux, "new-session", "-d", *size, command], env=environ, check=True)
        try:
            time.sleep(wait_s)
            shown = subprocess.run([*tmux, "capture-pane", "-e", "-p"], check=True, capture_output=True)
        finally:
            subprocess.run([*tmux, "kill-server"], check=False)
    return Text.from_ansi(shown.stdout.decode().rstrip("\n"))


def save(text: Text, file: Path, title: str) -> None:
    """Write it as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(text, end="")
    # Without the font from elsewhere, and rich's name.
    drawn = re.sub(r"@font-face \{.*?\}\n|<!--.*?-->", "", console.export_svg(title=title), flags=re.DOTALL)
    file.write_text(drawn.replace("Fira Code, monospace", "monospace"))


def main(directory: Path) -> None:
    """Draw them all."""
    recorded = json.loads((directory / "run.json").read_text())["minutes"]
    forwarder = Path(sys.executable).with_name("forwarder")
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="forwarder-"))
        server = stack.enter_context(Sandbox(token=TOKEN))
        server.inject(Fault.slow(0.4))
        environ = {
            **os.environ,
            "FORWARDER_CONFIG": os.devnull,
            "FORWARDER_QUEUE_PATH": f"{place}/events",
            "FORWARDER_MIXPANEL_URL": server.url,
            "FORWARDER_MIXPANEL_TOKEN": TOKEN,
            "FORWARDER_METRICS_LISTEN": "127.0.0.1:0",
            "FORWARDER_LOG_FORMAT": "json",
            "FORWARDER_DELIVERY_LINGER_S": "0.3",
            "COLUMNS": "",
        }
        queue = stack.enter_context(EventQueue(f"{place}/events"))
        remember(f"{place}/events", recorded)
        daemon = stack.enter_context(
            subprocess.Popen([forwarder, "run"], env=environ, stderr=subprocess.PIPE, text=True)
        )
        stack.callback(daemon.terminate)
        assert daemon.stderr is not None
        told = next(line for line in map(json.loads, daemon.stderr) if line["event"] == "metrics.listening")
        threading.Thread(target=daemon.stderr.read, daemon=True).start()
        ended = threading.Event()
        feeding = threading.Thread(target=feed, args=(queue, ended))
        stack.callback(feeding.join)
        stack.callback(ended.set)
        feeding.start()
        time.sleep(65)  # the rates are of the last minute
        browse = [*CHROMIUM, f"--user-data-dir={place}/browser", f"--screenshot={directory / 'page.png'}"]
        subprocess.run([*browse, told["url"] + "/"], check=True, capture_output=True)
        past = f"{forwarder} status --history --since 2h; sleep 9"
        save(terminal(past, 56, 3, environ), directory / "history.svg", "forwarder status --history")
        server.clear()
        server.inject(Fault.server_error())
        time.sleep(40)
        save(terminal(f"{forwarder} top", 28, 4, environ), directory / "top.svg", "forwarder top")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
