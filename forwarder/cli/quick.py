"""One event by options, the quick way: without what only the other commands need.

Where the intake runs, it goes through its socket in the queue's directory; else into the queue. Whatever is
not plain, and whatever goes wrong before the event is stored, is left to the whole command.
"""

from __future__ import annotations

import os
import sys
import time

from forwarder.cli.one_event import build_event
from forwarder.config import plain
from forwarder.errors import ForwarderError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from forwarder.config.plain import Plain

_OPTIONS = {
    **dict.fromkeys(("-e", "--event"), "name"),
    **dict.fromkeys(("-d", "--distinct-id"), "distinct_id"),
    **dict.fromkeys(("-p", "--property"), "properties"),
    "--time": "time",
    "--insert-id": "insert_id",
}
# Longer than the intake takes to say that it can't store it.
_ANSWER_S = 7.0
# The whole command waits longer.
_LOCK_S = 1.0


def enqueue(arguments: Sequence[str]) -> list[str]:
    """Store the event that the *arguments* of ``enqueue`` describe, say so, and exit.

    Returns:
        the arguments for the whole command, if it has to do it. With them it stores the same event: if it is
        in the queue already, Mixpanel will drop the second one.
    """
    given = _understood(arguments)
    settings = plain.read(os.environ) if given else None
    if given is None or settings is None or not settings.are_faultless():
        return list(arguments)
    keys = {text.partition("=")[0].removesuffix(":") for text in given.properties}
    fixed = {}
    if "time" not in given.one and "time" not in keys:
        fixed["time"] = str(time.time_ns() // 1_000_000)
    if "insert_id" not in given.one and "$insert_id" not in keys:
        fixed["insert_id"] = os.urandom(16).hex()
    arguments = [*arguments, *(f"--{name.replace('_', '-')}={value}" for name, value in fixed.items())]
    try:
        line = build_event(properties=given.properties, **given.one, **fixed)
    except ForwarderError:
        return arguments
    is_one_line = b"\n" not in line and b"\r" not in line
    try:
        is_stored = is_one_line and (_sent(line, settings) or _stored(line, settings))
    except KeyboardInterrupt as interrupt:
        _end_interrupted(interrupt)
    if is_stored:
        _say_accepted()
        sys.exit(0)
    return arguments


class _Given:
    """The options of one event, as `build_event` takes them."""

    def __init__(self) -> None:
        self.one: dict[str, str] = {}
        self.properties: list[str] = []


def _understood(arguments: Sequence[str]) -> _Given | None:
    """What the *arguments* give; None: there is another word among them."""
    found = _Given()
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        name = _OPTIONS.get(option)
        if name is None:
            return None
        if not equals:
            value = next(words, "\0")
            if value == "\0":
                return None
        if name == "properties":
            found.properties.append(value)
        else:
            found.one[name] = value
    return found if "name" in found.one else None


def _sent(line: bytes, settings: Plain) -> bool:
    """Whether the intake has stored it. Refused, or without an answer in time: the whole command will say."""
    # Not socket, which makes enums of all its constants first: a tenth of the whole time.
    import _socket

    intake = _socket.socket(_socket.AF_UNIX)
    intake.settimeout(_ANSWER_S)
    answer = b""
    try:
        intake.connect(os.path.join(settings.path, plain.SOCKET))
        intake.sendall(line + b"\n")
        while not answer.endswith(b"\n") and (more := intake.recv(4096)):
            answer += more
    except OSError:
        return False
    finally:
        intake.close()
    return answer.strip().isdigit()


def _stored(line: bytes, settings: Plain) -> bool:
    """Whether it is stored in the queue. Refused, or without room: the whole command will say."""
    from forwarder import spool
    from forwarder.config.kinds import UnfitError
    from forwarder.records.event import rules

    try:
        given = settings.limits
        limits = {key: kind.check(given.get(key, usual)) for key, (usual, kind) in plain.limits().items()}
        if len(line) > rules.MAX_EVENT_BYTES:
            return False
        event = rules.parse(line)
        now_ms = time.time_ns() // 1_000_000
        if rules.whole_time(event["properties"]["time"], now_ms) is not None:
            return False
        rules.check(event, now_ms)
        producer = spool.at(settings.path).producer(**limits, lock_timeout_s=_LOCK_S)
        try:
            producer.append([line])
        finally:
            producer.close()
    except (ForwarderError, UnfitError):
        return False
    return True


def _end_interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    from forwarder.cli.root import end

    def again() -> int:
        raise interrupt

    end(again)


def _say_accepted() -> None:
    try:
        print("accepted 1 event", flush=True)
    except (OSError, ValueError):
        from forwarder.cli.enqueue import print_counts
        from forwarder.cli.root import end

        end(lambda: print_counts(1, 0, 1, only_checked=False, as_json=False, stored=()))
