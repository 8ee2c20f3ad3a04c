"""The web page about the queue, and the same as JSON.

What is rendered is shared by all who look, and made by one thread at a time: any number of clients costs what
one does, and a queue that can't be read holds up one thread. The queue is looked at as ``status`` does.

The page is one document. Its style sheet and script are in it, named by their hashes in its security policy.
The script replaces what changes; without it, the document is loaded again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import forwarder
from forwarder import spool
from forwarder.config.addresses import host_and_port, is_loopback
from forwarder.config.settings import Queue
from forwarder.errors import ForwarderError
from forwarder.service import causes, charts, panels, timeline
from forwarder.service.listener import Page, Pages, Request
from forwarder.service.state import DaemonState, Heartbeat
from forwarder.service.status import gather, sentence, unknown, without_quotes
from forwarder.service.timeline import RANGES, Timeline
from forwarder.text import as_sentence, instant

NOW_S = 3.0
PAST_S = 30.0
PATIENCE_S = 1.0
# As those of /metrics.
LOCK_TIMEOUT_S = 1.0
# Plots end with a minute, so that they change no more often than what is recorded.
MINUTE_S = 60

T = TypeVar("T")
_HERE = Path(__file__).parent
_STYLE, _SCRIPT = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    # The icon is empty, so that no browser asks for one.
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; img-src data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


class Shared(Generic[T]):
    """A value that is made again once it is older than *for_s*, by one of the threads that ask for it.

    Where that takes long, the others get the old one.
    """

    def __init__(self, make: Callable[[], T], for_s: float) -> None:
        self._make = make
        self._for_s = for_s
        self._lock = threading.Lock()
        self._made: tuple[T, float] | None = None

    def get(self) -> T:
        """The value. Raises TimeoutError: it is being made for the first time, and that takes long."""
        made = self._made
        if (made is None or time.monotonic() >= made[1]) and self._lock.acquire(timeout=PATIENCE_S):
            try:
                if self._made is made:
                    self._made = self._make(), time.monotonic() + self._for_s
            finally:
                self._lock.release()
        if self._made is None:
            raise TimeoutError("the queue is being read; try again")
        return self._made[0]


@dataclass(frozen=True, slots=True)
class Now:
    """The figures of ``status``, without what they quote; and the panels with them, by their ids.

    *error* says why they are not known; "": they are.
    """

    found: Mapping[str, Any]
    panels: Mapping[str, str]
    error: str


@dataclass(frozen=True, slots=True)
class Past:
    """A range of time, the panels with it by their ids, and a *mark* that differs if they do."""

    timeline: Timeline
    panels: Mapping[str, str]
    charts: tuple[tuple[str, str], ...]
    mark: str


class Site:
    """The pages of one daemon.

    Args:
        heartbeat: Gives the loop's last beat.
        server: The queue that a relay hands over to.
    """

    def __init__(self, heartbeat: Callable[[], Heartbeat], server: Queue | None) -> None:
        self._heartbeat = heartbeat
        self._server = server
        self._now = Shared(self._look, NOW_S)
        self._past = {name: Shared(partial(self._look_back, name), PAST_S) for name in RANGES}

    def pages(self) -> Pages:
        """The pages by path."""
        found = {"/": self._document, "/live": self._live, "/status": self._status, "/history": self._history}
        return {path: partial(self._answer, page) for path, page in found.items()}

    def _answer(self, page: Callable[[Request, str], Page], request: Request) -> Page:
        if _is_led_here(request.headers.get("host", ""), self._heartbeat().settings.metrics.listen):
            return Page(403, b"Ask for it as localhost, or by the address in metrics.listen\n")
        name = request.query.get("range", "hour")
        if name not in RANGES:
            return Page(400, f"range is one of {', '.join(RANGES)}\n".encode())
        try:
            return page(request, name)
        except TimeoutError as error:
            return Page(503, f"{as_sentence(str(error))}\n".encode())

    def _document(self, _request: Request, name: str) -> Page:
        now, past = self._now.get(), self._past[name].get()
        return Page(200, _document(now, past, name).encode(), "text/html; charset=utf-8", _HEADERS)

    def _live(self, request: Request, name: str) -> Page:
        """What changes on the document; of the past nothing, if what was seen last has its mark."""
        now, past = self._now.get(), self._past[name].get()
        is_seen = request.query.get("seen") == past.mark
        return _json(
            {
                "title": _title(now),
                "state": now.found["state"],
                "sentence": sentence(now.found),
                "mark": past.mark,
                "panels": {**now.panels, **({} if is_seen else past.panels)},
            }
        )

    def _status(self, _request: Request, _name: str) -> Page:
        now = self._now.get()
        return Page(503, f"{as_sentence(now.error)}\n".encode()) if now.error else _json(now.found)

    def _history(self, _request: Request, name: str) -> Page:
        return _json({"range": name, **self._past[name].get().timeline.as_json()})

    def _look(self) -> Now:
        heartbeat, error = self._heartbeat(), ""
        settings = heartbeat.settings
        try:
            late_s = settings.alerts.oldest_s
            found = gather(settings.queue, self._server, self._own_state, late_s, LOCK_TIMEOUT_S)
        except ForwarderError as failed:
            error = str(failed)
            found = unknown(spool.of(settings.queue).place, error)
        found = without_quotes(found)
        now = time.time()
        shown = {
            "state": panels.headline(found, now),
            "tiles": panels.tiles(found),
            "forecast": panels.forecast(found),
            "kinds": panels.other_kinds(found),
            "figures": panels.figures(found),
            "at": f"As of {(instant(now) or '')[11:19]} UTC",
        }
        if stall := heartbeat.stall:
            shown["state"] += f"<p>{panels.text(as_sentence(stall))}</p>"
        if self._server:
            server = found["server"]
            shown["server"] = (
                f"{panels.headline(server, now)}<dl class=tiles>{panels.tiles(server)}</dl>" if server else ""
            )
        return Now(found, shown, error)

    def _own_state(self, queue: spool.Spool) -> DaemonState:
        # As others see it: the host is only named where it may be another.
        return replace(self._heartbeat().state, host=os.uname().nodename if queue.stands_by else "")

    def _look_back(self, name: str) -> Past:
        heartbeat = self._heartbeat()
        now = math.ceil(time.time() / MINUTE_S) * MINUTE_S
        events, *others = spool.each(heartbeat.settings.queue)
        try:
            with events.view(LOCK_TIMEOUT_S) as view:
                found = timeline.read(view, name, now, heartbeat.state.started_at)
                letters = [(events.kind, causes.recent(view))]
            for other in others:
                with suppress(ForwarderError), other.view(LOCK_TIMEOUT_S) as view:
                    letters.append((other.kind, causes.recent(view)))
            said = panels.events(found)
            dead = panels.causes(letters)
        except ForwarderError as error:
            found = timeline.laid_out([], RANGES[name], now, now)
            said = dead = f"<p>{panels.text(as_sentence(str(error)))}</p>"
        shown = {"events": said, "causes": dead}
        drawn = panels.plots(found, relays=self._server is not None)
        for chart in drawn:
            shown[f"legend-{chart.key}"] = panels.legend(chart, found)
            shown[f"plot-{chart.key}"] = charts.drawn(chart, found)
            shown[f"table-{chart.key}"] = panels.table(chart, found)
        mark = f"{zlib.crc32(json.dumps(shown).encode()):08x}"
        return Past(found, shown, tuple((chart.key, chart.title) for chart in drawn), mark)


def _json(value: Mapping[str, Any]) -> Page:
    return Page(200, f"{json.dumps(value)}\n".encode(), "application/json", _HEADERS)


def _is_led_here(host: str, listen: str) -> bool:
    """Whether the name of another site may have led a browser to an address that is for this host alone."""
    name = re.sub(r":\d*$", "", host).strip("[]")
    return bool(name) and is_loopback(host_and_port(listen)[0]) and not is_loopback(name)


def pages(heartbeat: Callable[[], Heartbeat], server: Queue | None) -> Pages:
    """The pages by path, of a daemon; *server* is the queue that a relay hands over to."""
    return Site(heartbeat, server).pages()


def _title(now: Now) -> str:
    return f"{sentence(now.found).partition(':')[0] if now.found['exists'] else 'Unknown'} – forwarder"  # noqa: RUF001


def _document(now: Now, past: Past, name: str) -> str:
    live = {**now.panels, **past.panels}

    def part(tag: str, key: str, more: str = "") -> str:
        return f"<{tag} id={key}{more}>{live[key]}</{tag.split()[0]}>"

    ranges = "".join(
        f'<a href="?range={each}"{" aria-current=page" if each == name else ""}>{each.capitalize()}</a>'
        for each in RANGES
    )
    figures = "".join(
        f"<figure><figcaption><h3>{title}</h3>{part('p class=legend', f'legend-{key}')}</figcaption>"
        f"{part('div class=frame', f'plot-{key}')}"
        f"<details><summary>Values<span class=hidden> of {title}</span></summary>"
        f'<div class=scroll tabindex=0 role=region aria-label="Values of {title}">'
        f"{part('table', f'table-{key}')}</div></details></figure>"
        for key, title in past.charts
    )
    server = ""
    if "server" in live:
        server = f"<section aria-label=Server><h2>On the server</h2>{part('div', 'server')}</section>"
    place = panels.text(str(now.found["queue_path"]))
    return f"""<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<noscript><meta http-equiv=refresh content=10></noscript>
<link rel=icon href="data:,">
<title>{panels.text(_title(now))}</title>
<style>{_STYLE}</style>
</head>
<body>
<svg class=hidden aria-hidden=true><pattern id=hatch width=6 height=6 patternUnits=userSpaceOnUse
 patternTransform=rotate(45)><line y2=6 /></pattern></svg>
<header><h1>Forwarder</h1><p>{place}</p></header>
<p id=lost hidden></p><p id=said class=hidden role=status></p>
<main data-range={name} data-mark={past.mark} data-state={now.found["state"]}>
<section aria-label=State>
{part("div", "state")}{part("dl class=tiles", "tiles")}{part("div", "kinds")}</section>
<section><h2>If it goes on like this</h2>{part("dl class=forecast", "forecast")}</section>
{server}
<section><div class=bar><h2>What happened</h2><nav aria-label="Range of time">{ranges}</nav></div>
<div class=plots>{figures}</div></section>
<section><h2>Interruptions</h2>{part("div class=events", "events")}</section>
<section><h2>Why dead letters are dead</h2>{part("div class=scroll", "causes")}</section>
<section><h2>All figures</h2><details><summary>As <code>forwarder status --json</code> has them</summary>
{part("table class=figures", "figures")}</details></section>
</main>
<footer><p>{part("span", "at")}. All times are UTC.</p><p>Queue {place}</p>
<p>mixpanel-forwarder {forwarder.__version__}</p>
<p><a href=status>status</a> <a href="history?range={name}">history</a> <a href=metrics>metrics</a></p>
</footer>
<script>{_SCRIPT}</script>
</body>
</html>
"""
