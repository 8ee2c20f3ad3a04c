"""``/sandbox/…``: the ledger and the faults, for other processes.

=======  =======================  ==========================================================================
GET      /sandbox/ledger          the figures; ``?after=VERSION&timeout_s=S`` waits for a later version first
GET      /sandbox/ledger/events   NDJSON, one ``$insert_id`` per line; ``?data=1`` with the event itself
GET      /sandbox/requests        NDJSON, one request per line
GET      /sandbox/users           NDJSON, one user's profile per line
GET      /sandbox/groups          NDJSON, one group's profile per line
GET      /sandbox/faults          NDJSON, one fault in force per line
POST     /sandbox/faults          ``{"fault": "throttle", "times": 3, "retry_after_s": 2}`` injects it
DELETE   /sandbox/faults          clears them and releases what hangs
POST     /sandbox/release         releases what hangs
=======  =======================  ==========================================================================
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from forwarder.sandbox.answers import Answer, as_json
from forwarder.sandbox.faults import Fault
from forwarder.sandbox.intake import Request
from forwarder.sandbox.updates import Profiles

if TYPE_CHECKING:
    from forwarder.sandbox.server import Sandbox

MAX_WAIT_S = 60.0


def answer(sandbox: Sandbox, request: Request) -> Answer:
    """Answer a control request; a mistake in it is answered with ``{"error": …}``."""
    path = request.path.rstrip("/")
    act = _ROUTES.get((request.method, path))
    if act is None:
        known = any(path == route for _, route in _ROUTES)
        return as_json(405 if known else 404, {"error": f"there is no {request.method} {path}"})
    try:
        return act(sandbox, request)
    except (ValueError, TypeError) as error:
        return as_json(400, {"error": str(error)})


def parse_fault(text: str) -> dict[str, Any]:
    """Read ``NAME[:KEY=VALUE,…]``, such as ``throttle:times=3,retry_after_s=2``, as an inject request.

    Raises:
        ValueError: it can't be read.
    """
    name, _, rest = text.partition(":")
    wanted: dict[str, Any] = {"fault": name}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r} is not KEY=VALUE")
        try:
            wanted[key] = json.loads(value)
        except ValueError:
            wanted[key] = value
    return wanted


def _ledger(sandbox: Sandbox, request: Request) -> Answer:
    if "after" in request.query:
        after = int(request.query["after"])
        timeout_s = min(float(request.query.get("timeout_s", MAX_WAIT_S)), MAX_WAIT_S)
        with contextlib.suppress(TimeoutError):
            sandbox.ledger.wait_for(lambda ledger: ledger.figures()["version"] > after, timeout_s)
    return as_json(200, sandbox.ledger.figures())


def _events(sandbox: Sandbox, request: Request) -> Answer:
    with_data = request.query.get("data") == "1"

    def lines() -> Iterable[dict[str, Any]]:
        for insert_id, entry in sandbox.ledger.events.items():
            line: dict[str, Any] = {"insert_id": insert_id, "copies": entry.copies, "changed": entry.changed}
            line["sha256"] = entry.sha256
            if with_data:
                line["data"] = entry.data.decode("utf-8", "surrogateescape")
            yield line

    return _ndjson(lines())


def _requests(sandbox: Sandbox, _request: Request) -> Answer:
    return _ndjson(map(asdict, sandbox.ledger.requests))


def _profiles(profiles: Profiles) -> Answer:
    return _ndjson({"ids": ids, "profile": profile} for ids, profile in profiles.profiles.items())


def _faults(sandbox: Sandbox, _request: Request) -> Answer:
    return _ndjson(
        {"fault": injection.fault.name, "used": injection.used, "left": injection.left}
        for injection in sandbox.schedule.in_force
    )


def _inject(sandbox: Sandbox, request: Request) -> Answer:
    wanted = json.loads(request.body or b"{}")
    if not isinstance(wanted, dict) or not isinstance(wanted.get("fault"), str):
        raise ValueError('expected {"fault": NAME, …}')
    inject(sandbox, wanted)
    return as_json(200, {"fault": wanted["fault"]})


def inject(sandbox: Sandbox, wanted: Mapping[str, Any]) -> None:
    """Inject the fault that the request names.

    Raises:
        ValueError: there is no such fault or setting, or a value is invalid.
    """
    settings = dict(wanted)
    name = settings.pop("fault")
    how: dict[str, Any] = {key: settings.pop(key) for key in ("times", "chance", "seed") if key in settings}
    if "for_s" in settings and name != "outage":
        how["for_s"] = settings.pop("for_s")
    try:
        sandbox.inject(Fault.named(name, settings), **how)
    except TypeError as error:
        raise ValueError(f"fault {name!r}: {error}") from None


def _clear(sandbox: Sandbox, _request: Request) -> Answer:
    sandbox.clear()
    return as_json(200, {})


def _release(sandbox: Sandbox, _request: Request) -> Answer:
    sandbox.release()
    return as_json(200, {})


def _ndjson(lines: Iterable[Mapping[str, Any]]) -> Answer:
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    return Answer(200, text.encode(), "application/x-ndjson")


_ROUTES: dict[tuple[str, str], Callable[[Sandbox, Request], Answer]] = {
    ("GET", "/sandbox/ledger"): _ledger,
    ("GET", "/sandbox/ledger/events"): _events,
    ("GET", "/sandbox/requests"): _requests,
    ("GET", "/sandbox/users"): lambda sandbox, _: _profiles(sandbox.users),
    ("GET", "/sandbox/groups"): lambda sandbox, _: _profiles(sandbox.groups),
    ("GET", "/sandbox/faults"): _faults,
    ("POST", "/sandbox/faults"): _inject,
    ("DELETE", "/sandbox/faults"): _clear,
    ("POST", "/sandbox/release"): _release,
}
