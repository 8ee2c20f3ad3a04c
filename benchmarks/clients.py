"""``python -m benchmarks.clients SOCKET CONNECTIONS SECONDS``: SDK clients, each one request after the other.

Each sends what Mixpanel's SDK for Python sends for a ``track()``. Prints, as JSON, how many requests were
answered with ``1`` in how many seconds, and their durations' median and 99th percentile, in ms.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from urllib.parse import urlencode

TOKEN = "0123456789abcdef0123456789abcdef"


def request(number: int) -> bytes:
    """The bytes of one."""
    event = {
        "event": "Signed Up",
        "properties": {
            "token": TOKEN,
            "distinct_id": f"user-{number}",
            "time": time.time(),
            "$insert_id": f"{number:032x}",
            "mp_lib": "python",
            "$lib_version": "5.4.1",
        },
    }
    body = urlencode({"data": json.dumps(event), "ip": 0}).encode()
    head = (
        "POST /track HTTP/1.1\r\nHost: localhost\r\nUser-Agent: python-requests/2.32\r\nAccept: */*\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def crowd(path: str, connections: int, seconds: float) -> dict[str, float]:
    """Send for that long."""
    selector = selectors.DefaultSelector()
    began_at: dict[socket.socket, float] = {}
    took: list[float] = []
    requests = [request(number) for number in range(512)]
    for number in range(connections):
        one = socket.socket(socket.AF_UNIX)
        one.connect(path)
        selector.register(one, selectors.EVENT_READ)
        began_at[one] = time.perf_counter()
        one.sendall(requests[number])
    started, count = time.perf_counter(), 0
    while (now := time.perf_counter()) < started + seconds:
        for key, _ in selector.select(1):
            one = key.fileobj  # type: ignore[assignment]
            answer = one.recv(4096)
            assert answer.endswith(b"\r\n\r\n1"), answer
            now = time.perf_counter()
            took.append(now - began_at[one])
            count += 1
            began_at[one] = now
            one.sendall(requests[count % 512])
    took.sort()
    return {
        "count": count,
        "seconds": now - started,
        "p50_ms": took[len(took) // 2] * 1e3,
        "p99_ms": took[int(len(took) * 0.99)] * 1e3,
    }


if __name__ == "__main__":
    print(json.dumps(crowd(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
