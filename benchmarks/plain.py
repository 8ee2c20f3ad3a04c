"""Plain persist-queue, as a user would write it: one `get` and one `ack` at a time.

``python -m benchmarks.plain QUEUE URL``
"""

from __future__ import annotations

import gzip
import json
import sys
from typing import Any

import persistqueue.serializers.json
import requests
from persistqueue import SQLiteAckQueue


def opened(path: str) -> SQLiteAckQueue:
    """The queue in a directory."""
    return SQLiteAckQueue(path, serializer=persistqueue.serializers.json)


def deliver(path: str, url: str) -> None:
    """Drain a queue into a sink, 500 a request."""
    queue = opened(path)
    with requests.Session() as session:
        while batch := _next(queue):
            body = gzip.compress("\n".join(map(json.dumps, batch)).encode() + b"\n")
            session.post(f"{url}/import?strict=1", body, headers={"Content-Encoding": "gzip"}).json()
            for event in batch:
                queue.ack(event)


def _next(queue: SQLiteAckQueue) -> list[Any]:
    batch: list[Any] = []
    while len(batch) < 500:
        try:
            batch.append(queue.get(block=False))
        except persistqueue.Empty:
            break
    return batch


if __name__ == "__main__":
    deliver(*sys.argv[1:])
