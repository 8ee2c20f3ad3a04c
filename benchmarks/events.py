"""The events that are measured with: 420 bytes each, as analytics events are, and complete."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing

from forwarder.spool import EventQueue

# Filled in alike by Python and by SQLite's printf(): instant, user, $insert_id.
TEMPLATE = (
    '{"event":"Order Completed","properties":{"time":%d,"distinct_id":"user-%06d",'
    '"$insert_id":"5d1c7a52-0000-4000-8000-%012d","$browser":"Firefox","$os":"Linux",'
    '"$current_url":"https://shop.example.com/checkout/done?step=4&from=cart","plan":"premium",'
    '"amount":129.95,"currency":"EUR","items":3,"coupon":null,"returning":true,'
    '"campaign":"spring-newsletter-2026","country":"DE","city":"Heidelberg, Neck"}}'
)
# The same size, but most of it is in objects and lists.
NESTED = (
    '{"event":"Order Completed","properties":{"time":%d,"distinct_id":"user-%06d",'
    '"$insert_id":"5d1c7a52-0000-4000-8000-%012d","cart":{"items":['
    '{"sku":"A-100","price":9.5,"qty":1},{"sku":"B-200","price":19.95,"qty":2},'
    '{"sku":"C-300","price":100.5,"qty":1}],"total":129.95,"currency":"EUR"},'
    '"device":{"os":"Linux","browser":{"name":"Firefox","version":"128.0"}},"tags":["a","b","c"]}}'
)
_FIRST_MS = 1_700_000_000_000
_LARGE = (
    """'{"event":"Snapshot","properties":{"time":1700000000000,"distinct_id":"d","$insert_id":"large-' || n"""
    """ || '","content":"' || hex(randomblob(449950)) || '"}}'"""
)


def lines(count: int, template: str = TEMPLATE) -> Iterator[bytes]:
    """*count* events, each with an ``$insert_id`` of its own."""
    for number in range(count):
        yield (template % (_FIRST_MS + number, number % 9973, number)).encode()


def fill(path: str, count: int) -> None:
    """Put *count* events into the queue in the directory *path*, a million in some seconds."""
    _fill(path, count, "printf(?2, ?3 + n, n % 9973, n)", (TEMPLATE, _FIRST_MS))


def fill_large(path: str, count: int) -> None:
    """Put *count* events of 900 kB into it, which can be compressed to half of that."""
    _fill(path, count, _LARGE, ())


def _fill(path: str, count: int, data: str, values: tuple[object, ...]) -> None:
    """As no producer could: in one statement, without a log and without a sync."""
    with EventQueue(path, min_free_bytes=0):
        pass
    with closing(sqlite3.connect(os.path.join(path, "data.db"), isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(
            "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1)"
            " INSERT INTO ack_queue_default (data, timestamp, status)"
            f" SELECT CAST({data} AS BLOB), unixepoch(), 1 FROM number",
            (count, *values),
        )
        connection.execute("PRAGMA journal_mode = WAL")
