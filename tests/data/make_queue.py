"""Makes the queue of which ``queue-vN.db`` is the database, by the code of that version.

::

    PYTHONPATH=CHECKOUT python tests/data/make_queue.py DIRECTORY

For a new version of the schema, keep its ``data.db`` here under the next name before the release. In it 20
events were accepted; of the first ten, 6 were delivered, one of them short, and 4 died, of which one was
retried and one deleted; and plain persist-queue has put one more.
"""

from __future__ import annotations

import sys

import persistqueue
import persistqueue.serializers.json

from forwarder.spool import Consumer, EventQueue, Settlement, dead_letters
from forwarder.spool.settlement import Dead


def main(path: str) -> None:
    """Make the queue in *path*."""
    events = [
        {
            "event": "Kept",
            "properties": {"time": 1_700_000_000 + n, "$insert_id": f"kept-{n}", "text": 'Grüße,\n"x"'},
        }
        for n in range(20)
    ]
    with EventQueue(path, min_free_bytes=0) as queue:
        queue.put_many(events)
    consumer = Consumer(path)
    claim = consumer.claim(0, 10, 10**6)
    dead = [
        Dead(row_id, data, "'properties.time' is invalid", "properties.time", 400)
        for row_id, data in list(zip(claim.ids, claim.events, strict=True))[6:]
    ]
    consumer.settle(Settlement(claim.ids, dead, 1, sum(map(len, claim.events)), 400, 2))
    consumer.close()
    dead_letters.retry(path, [1], lambda data, _accepted_at: data)
    dead_letters.delete(path, [2])
    stranger = persistqueue.SQLiteAckQueue(path, serializer=persistqueue.serializers.json)
    stranger.put({"event": "Strange", "properties": {"distinct_id": ""}})
    stranger.close()


if __name__ == "__main__":
    main(sys.argv[1])
