"""``python -m benchmarks.threads HOST:PORT EVENTS THREADS``: plain threads with a backoff each.

What a careful user would write for one batch at a time, times so many: no queue, and no thread knows of
the others.
"""

from __future__ import annotations

import http.client
import itertools
import random
import sys
import threading
import time
from collections.abc import Iterator

from isal import igzip

from benchmarks.bare import HEADERS
from benchmarks.events import lines


def main(address: str, count: int, threads: int) -> None:
    """Send *count* events, 2000 a request."""
    source, lock = lines(count), threading.Lock()
    for _ in range(threads):
        threading.Thread(target=_work, args=(address, source, lock)).start()


def _work(address: str, source: Iterator[bytes], lock: threading.Lock) -> None:
    server = http.client.HTTPConnection(address)
    while True:
        with lock:
            batch = list(itertools.islice(source, 2000))
        if not batch:
            return
        body = igzip.compress(b"\n".join(batch) + b"\n", 1)
        wait_s = 2
        while not _is_taken(server, body):
            time.sleep(wait_s + random.uniform(1, 5))
            wait_s = min(wait_s * 2, 60)


def _is_taken(server: http.client.HTTPConnection, body: bytes) -> bool:
    server.request("POST", "/import?strict=1", body, HEADERS)
    answer = server.getresponse()
    answer.read()
    return answer.status == 200


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
