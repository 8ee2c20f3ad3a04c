"""N2a to N2j: delivery while something is wrong, beside the same in good order or a plain program.

``python -m benchmarks.trouble N2c N2g`` measures only these. Unless said otherwise a request takes 250 ms,
an event has 420 bytes, and all settings but the linger are the defaults. Where a daemon did not get done in
the time it was given, that time stands as the figure, and a line above the table says so.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial

from benchmarks import events, netns, table
from benchmarks import server as servers
from benchmarks.daemon import settings, wait_until
from benchmarks.server import HANG, HOST, RESET, Answer, Behaviour, Server, Taken
from benchmarks.table import Number
from forwarder import spool
from forwarder.service import state
from forwarder.spool import EventQueue

Scenario = Callable[[str], Iterator[Number]]

# Percent of requests, events, target.
FAILING = ((1, 800_000, ">= 0.8"), (5, 400_000, ">= 0.5"), (33, 100_000, ">= 0.08"))
HANGING_PERCENT, HANGING_EVENTS = 2, 1_000_000
MOST = 0.95  # rates are taken until so much has left, or the wait of the last batch would be all they show
BURST, LARGE_BURST = 20_000, 60_000
CROWDED_S = 30.0
LIMIT_BYTES = 100_000
LOGGED_S = 90.0
UPLINK, UPLINK_S, CURL_BYTES = "128kbit", 210.0, 900_000

_stop = threading.Event()


def measure(place: str, names: Iterable[str] = ()) -> Iterator[Number]:
    """First what needs the machine for itself; then what mostly waits, all at once."""
    wanted = set(names) or {*_ALONE, *_TOGETHER, *_APART}
    together = {name: scenario for name, scenario in _TOGETHER.items() if name in wanted}
    if apart := {name: scenario for name, scenario in _APART.items() if name in wanted}:
        if reason := netns.missing():
            _say(f"{', '.join(apart)} left out: no network namespaces here: {reason}")
        else:
            together |= apart
    for name, scenario in _ALONE.items():
        if name in wanted:
            yield from _timed(name, scenario, place)
    with ThreadPoolExecutor(len(together) or 1) as pool:
        running = [pool.submit(_timed, name, scenario, place) for name, scenario in together.items()]
        try:
            for each in running:
                yield from each.result()
        except BaseException:
            _stop.set()
            raise


def failing(place: str) -> Iterator[Number]:
    """N2a: a share of requests is answered 503."""
    own, threads = _own_rate(place), _threads_rate(servers.well, FAILING[0][1])
    for percent, count, target in FAILING:
        behave = partial(servers.sometimes, percent, Answer(503))
        taken = _drained(place, behave, count)
        _check_share(taken, 503, percent)
        rate = taken.rate(MOST * count)
        what = f"{percent} % of requests answered 503, events/s"
        yield Number("N2a", f"{what} against none", rate / own, target, rate)
        plain = _threads_rate(behave, count)
        yield Number("N2a", "  ten plain threads with a backoff each", plain / threads, "", None, plain)
        all_s = taken.at(count) - taken.first_at
        yield Number("N2a", "  until the last has left, s beyond 95 %", all_s - MOST * count / rate)
    yield Number("N2a", "none of requests fails, events/s", own / threads, "", own, threads)


def hanging(place: str) -> Iterator[Number]:
    """N2b: a share of requests has no answer for as long as one may take."""
    own, behave = _own_rate(place), partial(servers.sometimes, HANGING_PERCENT, HANG)
    taken = _drained(place, behave, HANGING_EVENTS, MOST)
    _check_share(taken, RESET, HANGING_PERCENT)
    rate = taken.rate(MOST * HANGING_EVENTS)
    what = f"{HANGING_PERCENT} % of requests hang, events/s against none"
    yield Number("N2b", what, rate / own, ">= 0.6", rate)


def crowded(place: str) -> Iterator[Number]:
    """N2c: a server that gets slower, all in all, with each request more at once."""
    path = os.path.join(place, "crowded")
    events.fill(path, 400_000)
    with Server(servers.crowded) as server, _daemon(path, server.url):
        wait_until(lambda: server.taken().requests)
        _stop.wait(CROWDED_S + 0.1)
        rate = server.taken().rate_within(CROWDED_S)
    with Server(servers.crowded) as server, _threads(server, 500_000, 1):
        wait_until(lambda: server.taken().requests)
        _stop.wait(8.1)
        best = server.taken().rate_within(8.0)
    what = f"latency 0.2 s x n² in {CROWDED_S:g} s, events/s against 1 connection"
    yield Number("N2c", what, rate / best, ">= 0.8", rate, best)


def uplink(place: str) -> Iterator[Number]:
    """N2d: a slow way out, and nothing that could be compressed."""
    if reason := netns.missing():
        _say(f"N2d left out: no network namespaces here: {reason}")
        return
    path = os.path.join(place, "uplink")
    with _linked(path) as (pair, server):
        pair.narrow(UPLINK)
        curl = _curl(pair, server, path)
        _check(curl < 20_000, f"curl sends {curl:,.0f} bytes/s: the uplink is not slow")
        _put(path, 12_000, content_bytes=720)
        before = len(server.taken().acknowledged)
        with _inside(pair, path, server) as started:
            _stop.wait(UPLINK_S)
            sent = sum(each.sent_bytes for each in server.taken().acknowledged[before:])
            rate = sent / (time.monotonic() - started)
    what = f"uplink of {UPLINK}/s, acknowledged body bytes/s against curl"
    yield Number("N2d", what, rate / curl, ">= 0.8", rate, curl)


def silent(place: str) -> Iterator[Number]:
    """N2e: the connections that were kept are gone, and nobody says so."""
    path = os.path.join(place, "silent")
    _put(path, 0)
    with _linked(path) as (pair, server), _inside(pair, path, server):
        fresh = _burst("N2e", path, server, LARGE_BURST)
        _stop.wait(3.0)
        pair.forget()
        found = _burst("N2e", path, server, LARGE_BURST, limit_s=90.0)
        clients = {each.client for each in server.taken().acknowledged}
    _check(clients == {netns.CLIENT, netns.CLIENT_LATER}, "the connections have not been lost")
    what = f"{LARGE_BURST:,} after kept connections died in silence, s beyond fresh"
    yield Number("N2e", what, found - fresh, "<= 6", found, fresh)


def moved(place: str) -> Iterator[Number]:
    """N2f: the server's name means another address; at the old one there is only 503."""
    path = os.path.join(place, "moved")
    _put(path, 0)
    with _linked(path) as (pair, server), _inside(pair, path, server):
        _burst("N2f", path, server, BURST)
        pair.resolve(HOST, netns.SERVER_LATER)
        server.behave(partial(servers.at, netns.SERVER, Answer(503)))
        found = _burst("N2f", path, server, 1)
        taken = server.taken()
    _check(taken.answers[503], "nothing has come to the old address")
    what = "DNS moved, the old address answers 503: first event there, s"
    yield Number("N2f", what, found, "<= 30", found)


def throttled(place: str) -> Iterator[Number]:
    """N2g: 429 to the first two requests."""
    path = os.path.join(place, "throttled")
    _put(path, BURST)
    with Server(partial(servers.first, 2, Answer(429))) as server, _daemon(path, server.url):
        found = _seconds("N2g", server, BURST)
        _check(server.taken().answers[429] == 2, "there were not two 429s")
    yield Number("N2g", f"two 429s at the start, s until {BURST:,} have left", found, "<= 20", found)


def limited(place: str) -> Iterator[Number]:
    """N2h: a limit on the size of a body, uncompressed, that is never named."""
    used = []
    overs = (Answer(413), Answer(RESET), Answer(400, padding=2_200_000))
    for number, over in enumerate(overs):
        path = os.path.join(place, f"limited-{number}")
        _put(path, BURST)
        with Server(partial(servers.above, LIMIT_BYTES, over)) as server, _daemon(path, server.url):
            used.append(_seconds(f"N2h, {over}", server, BURST))
            _check(server.taken().answers[over.status], "no body was too large")
    what = f"{BURST:,}, larger bodies than {LIMIT_BYTES // 1000} kB"
    yield Number("N2h", f"{what} are reset, s against 413", used[1] / used[0], "<= 2", used[1], used[0])
    yield Number("N2h", f"{what} get 2.2 MB, s against 413", used[2] / used[0], "<= 2", used[2], used[0])


def half_dead(place: str) -> Iterator[Number]:
    """N2i: the first of the server's two addresses is dead."""
    found = []
    for number, addresses in enumerate(((netns.SERVER,), (netns.DEAD, netns.SERVER))):
        path = os.path.join(place, f"half-dead-{number}")
        _put(path, BURST)
        with _linked(path, *addresses) as (pair, server), _inside(pair, path, server) as started:
            _check(pair.resolved(HOST) == addresses[0], "the dead address is not the first")
            first = _finish("N2i", server, BURST) - started
            server.hang_up()
            found.append((first, _burst("N2i", path, server, BURST)))
    for what, target, one, two in zip(
        ("a start, first of two addresses dead", "a burst by new connections, the same"),
        ("<= 6", "<= 2"),
        *found,
        strict=True,
    ):
        yield Number("N2i", f"{what}, s beyond one address", two - one, target, two, one)


def logged(place: str) -> Iterator[Number]:
    """N2j: what the log says while each third request fails, under a steady load."""
    path, quarter_s = os.path.join(place, "logged"), 0.25
    _put(path, 0)
    counts = []
    with (
        Server(partial(servers.every, 3, Answer(503))) as server,
        _daemon(path, server.url, FORWARDER_LOG_LEVEL="info", FORWARDER_LOG_FORMAT="json"),
    ):
        before, started = _lines(path), time.monotonic()
        for tick in range(int(LOGGED_S / quarter_s)):
            _put(path, 200)
            _stop.wait(started + (tick + 1) * quarter_s - time.monotonic())
            counts.append(_lines(path) - before)
        taken = server.taken()
    _check(taken.answers[503] * 4 > taken.requests > LOGGED_S / 10, "too few requests, or failures")
    minute = counts[int(60 / quarter_s) - 1]
    what = f"log lines in {LOGGED_S:g} s, each third request fails"
    yield Number("N2j", what, counts[-1], "<= 12", counts[-1])
    yield Number("N2j", "  of these in the first minute", minute, "", minute)


_ALONE: dict[str, Scenario] = {"N2a": failing, "N2b": hanging}
_TOGETHER: dict[str, Scenario] = {"N2c": crowded, "N2g": throttled, "N2h": limited, "N2j": logged}
_APART: dict[str, Scenario] = {"N2e": silent, "N2f": moved, "N2i": half_dead}


@contextmanager
def _daemon(path: str, url: str, *before: str, **more: str) -> Iterator[float]:
    """A daemon, its log in PATH.log, started with *before* in front of its command; gives when."""
    started = time.monotonic()
    with open(f"{path}.log", "wb") as log:
        command = [*before, sys.executable, "-m", "forwarder", "run"]
        process = subprocess.Popen(command, env=settings(path, url) | more, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or state.read(spool.at(path)) is not None)
        yield started
        _check(process.poll() is None, f"the daemon has ended: {_tail(path)}")
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _linked(path: str, *addresses: str) -> Iterator[tuple[netns.Pair, Server]]:
    """A server at the other end of a cable, by TLS; its certificate is PATH.pem."""
    servers.make_certificate(f"{path}.pem")
    with netns.pair() as pair, Server(servers.well, pair.server, f"{path}.pem") as server:
        pair.resolve(HOST, *(addresses or [netns.SERVER]))
        yield pair, server


def _inside(pair: netns.Pair, path: str, server: Server) -> AbstractContextManager[float]:
    """A daemon at this end of it."""
    return _daemon(path, server.url, *pair.inside, FORWARDER_MIXPANEL_CA_FILE=f"{path}.pem")


@contextmanager
def _threads(server: Server, count: int, threads: int) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.threads", server.address, str(count), str(threads)]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _put(path: str, count: int, content_bytes: int = 0) -> None:
    """As a program does; *content_bytes* of each can't be compressed, and are given as base64."""
    with EventQueue(path, min_free_bytes=0) as queue:
        queue.put_many(_event(line, content_bytes) for line in events.lines(count))


def _event(line: bytes, content_bytes: int) -> dict[str, object]:
    event: dict[str, dict[str, object]] = json.loads(line)
    if content_bytes:
        event["properties"]["content"] = base64.b64encode(os.urandom(content_bytes)).decode()
    return {**event}


def _finish(name: str, server: Server, count: int, limit_s: float = 60.0) -> float:
    """When *count* events had been acknowledged; the end of *limit_s* when they had not."""
    deadline = time.monotonic() + limit_s
    while (taken := server.taken()).events < count:
        if _stop.wait(0.05):
            raise RuntimeError("stopped")
        if time.monotonic() > deadline:
            _say(f"{name}: only {taken.events:,} of {count:,} events in {limit_s:g} s")
            return time.monotonic()
    return taken.at(count)


def _seconds(name: str, server: Server, count: int) -> float:
    """Seconds from the first request until *count* were acknowledged."""
    until = _finish(name, server, count)
    return until - server.taken().first_at


def _burst(name: str, path: str, server: Server, count: int, limit_s: float = 60.0) -> float:
    """Put *count* events: seconds until as many more were acknowledged."""
    before, started = server.taken().events, time.monotonic()
    _put(path, count)
    return _finish(name, server, before + count, limit_s) - started


def _drained(place: str, behave: Behaviour, count: int, share: float = 1.0) -> Taken:
    """What a server has taken once that share of *count* waiting events was acknowledged."""
    path = os.path.join(place, "drained")
    events.fill(path, count)
    try:
        with Server(behave) as server, _daemon(path, server.url):
            wait_until(lambda: server.taken().events >= share * count, 0.05)
            return server.taken()
    finally:
        shutil.rmtree(path)


@cache
def _own_rate(place: str) -> float:
    count = FAILING[0][1]
    return _drained(place, servers.well, count, MOST).rate(MOST * count)


def _threads_rate(behave: Behaviour, count: int) -> float:
    """The same by ten plain threads."""
    with Server(behave) as server, _threads(server, count, 10):
        wait_until(lambda: server.taken().events >= MOST * count, 0.05)
        return server.taken().rate(MOST * count)


def _curl(pair: netns.Pair, server: Server, path: str) -> float:
    """Bytes/s by which curl uploads a body of the same kind."""
    lines = (json.dumps(_event(line, 720)).encode() for line in events.lines(CURL_BYTES // 980))
    with open(f"{path}.gz", "wb") as file:
        file.write(gzip.compress(b"\n".join(lines) + b"\n", 1))
    given = ["--cacert", f"{path}.pem", "-H", "Expect:", "--data-binary", f"@{path}.gz"]
    shown = ["-sS", "-o", os.devnull, "-w", "%{speed_upload}"]
    command = [*pair.inside, "curl", *shown, *given, f"{server.url}/import?strict=1"]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _check(condition: object, otherwise: str) -> None:
    if not condition:
        raise RuntimeError(otherwise)


def _check_share(taken: Taken, status: int, percent: int) -> None:
    came = taken.answers[status] / taken.requests * 100
    _check(percent / 2 <= came <= percent * 2, f"{came:.1f} % of requests have failed, not {percent} %")


def _lines(path: str) -> int:
    with open(f"{path}.log", "rb") as log:
        return sum(1 for _ in log)


def _tail(path: str) -> str:
    with open(f"{path}.log", encoding="utf-8") as log:
        return log.read()[-500:]


def _timed(name: str, scenario: Scenario, place: str) -> list[Number]:
    started = time.monotonic()
    found = list(scenario(place))
    _say(f"measured {name}: {time.monotonic() - started:.0f} s")
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Only the rows that are named."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="forwarder-bench-") as place:
        found = [*measure(place, names)] if names != ["N2d"] else [*uplink(place)]
    print(table.heading(), *map(table.line, found), sep="\n")


if __name__ == "__main__":
    main()
