"""Whether the database is sound and the books balance: the durable totals against the stored rows."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from forwarder.errors import ForwarderError
from forwarder.records import EVENTS
from forwarder.records.kind import Kind
from forwarder.spool.errors import DamagedError
from forwarder.spool.findings import UNBALANCED
from forwarder.spool.sqlite import schema, tables
from forwarder.spool.sqlite.claiming import origin_of
from forwarder.spool.sqlite.errors import damaged, translated
from forwarder.spool.sqlite.tables import Tables
from forwarder.spool.sqlite.view import View
from forwarder.spool.statuses import READY
from forwarder.spool.values import FAIL, OK, WARNING, Dead, Figures, Finding

CHUNK_IDS = 100_000
# Of one read, during which the log can't be reset: enough for 2M rows of 400 bytes.
INTEGRITY_LIMIT_S = 2.0
# Of all reads for one finding: 10M rows in memory are counted in 1.2 s.
COUNT_LIMIT_S = 20.0
SAMPLES, SAMPLE_ROWS = 200, 500
SAMPLE_LIMIT_S = 5.0


def check(view: View) -> list[Finding]:
    """Check the database's integrity, then the totals against the stored rows and their content.

    All reads are short, and the daemon may continue: the counts must be between the totals before and after.
    What can't be read within seconds is read in part, and ``detail`` says so.
    """
    if view.tables.kind is not EVENTS:
        return [_together(view.tables.kind, [*_examined(view)])]
    return [_check_integrity(view), _check_journal(view), *_check_others(view), *_examined(view)]


def _examined(view: View) -> Iterator[Finding]:
    for name, examine in _EXAMINATIONS.items():
        try:
            with translated(view.path):
                detail, faults = examine(view)
            yield _judged(name, FAIL if faults else OK, "\n".join((*faults, detail)))
        except ForwarderError as error:
            yield _judged(name, FAIL, str(error))


def _together(kind: Kind, found: Sequence[Finding]) -> Finding:
    """One finding for a kind: its faults, or the figures."""
    faults = [each for each in found if not each.ok]
    detail = "\n".join(each.detail for each in faults or found[:1])
    return _judged(f"books: {kind.noun}", FAIL if faults else OK, detail)


def _judged(name: str, result: str, detail: str) -> Finding:
    return Finding(name, result, detail, UNBALANCED if result == FAIL else 0)


def _check_integrity(view: View) -> Finding:
    name, connection = "integrity", view.connection
    try:
        faults = _quick_check(connection, "quick_check(5)")
        if faults is None:
            # The queue came first and took all the time. The totals must be sound in any case.
            names = [name for each in tables.each() for name in each.names if name != each.queue]
            each = [_quick_check(connection, f"quick_check({name})") for name in names]
            faults = [fault for found in each for fault in found or () if fault != "ok"]
            if not faults:
                limit = f"no fault found in {INTEGRITY_LIMIT_S:g} s; the rest was not read"
                return Finding(name, OK, limit)
    except sqlite3.Error as error:
        faults = [str(error)]
    if faults == ["ok"]:
        return Finding(name, OK, "ok")
    return Finding(name, FAIL, str(damaged(view.path, "; ".join(faults))), DamagedError.exit_code)


def _check_journal(view: View) -> Finding:
    name = "journal"
    if view.is_frozen:
        return Finding(name, OK, "not checked: the disk is full")
    (mode,) = view.connection.execute("PRAGMA journal_mode").fetchone()
    if mode == "wal":
        return Finding(name, OK, mode)
    remedy = (
        "stop all programs that use the queue for a moment; the next command of the forwarder sets it back"
    )
    return Finding(name, WARNING, f"journal_mode is {mode}; {remedy}")


def _check_others(view: View) -> Iterator[Finding]:
    """Queues of persist-queue that have rows, and a name by which no kind of records is known."""
    known = {each.queue: each.kind.queue for each in tables.each()}
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'ack\\_queue\\_%' ESCAPE '\\'"
    with translated(view.path):
        for (name,) in view.connection.execute(query).fetchall():
            quoted = '"' + name.replace('"', '""') + '"'
            if name not in known and view.connection.execute(f"SELECT 1 FROM {quoted} LIMIT 1").fetchone():
                detail = f"{name} has rows, which are never delivered; put into {', '.join(known.values())}"
                yield Finding("other queues", WARNING, detail)


def _quick_check(connection: sqlite3.Connection, pragma: str) -> list[str] | None:
    """What SQLite reports; None: it did not finish in time."""
    deadline = time.monotonic() + INTEGRITY_LIMIT_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
    try:
        return [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}")]
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "") != "SQLITE_INTERRUPT":
            raise
        return None
    finally:
        connection.set_progress_handler(None, 0)


@dataclass(slots=True)
class _Count:
    """Rows counted, at most `unread` ids that were not read, and the sums of further columns."""

    rows: int = 0
    unread: int = 0
    sums: list[int] = field(default_factory=list)

    @property
    def shortfall(self) -> str:
        """The words about the ids that were not read."""
        return (
            f" (counting ended after {COUNT_LIMIT_S:g} s: {self.unread} ids not read)" if self.unread else ""
        )


def _count(connection: sqlite3.Connection, table: str, key: str, sums: str = "") -> _Count:
    """Count a table's rows, with further sums, in short reads. Rows added meanwhile may be missing."""
    found = _Count()
    deadline = time.monotonic() + COUNT_LIMIT_S
    query = (
        f"SELECT (SELECT min({key}) FROM {table} WHERE {key} > ?2), count(*){sums}"
        f" FROM {table} WHERE {key} BETWEEN ?1 AND ?2"
    )
    # In one select, SQLite would search all rows for them.
    ends = f"SELECT (SELECT min({key}) FROM {table}), (SELECT max({key}) FROM {table})"
    first, last = connection.execute(ends).fetchone()
    while first is not None and first <= last:
        end = min(first + CHUNK_IDS - 1, last)
        first, rows, *more = connection.execute(query, (first, end)).fetchone()
        found.rows += rows
        found.sums = [a + (b or 0) for a, b in zip(found.sums or [0] * len(more), more, strict=True)]
        if time.monotonic() > deadline:
            found.unread = last - end
            break
    return found


def _compare(counted: _Count, least: int, most: int) -> Iterator[str]:
    least -= counted.unread
    if counted.rows < least:
        yield f"{_some(least - counted.rows, 'row')} too few"
    if counted.rows > most:
        yield f"{_some(counted.rows - most, 'row')} too many"


def _some(count: int, noun: str) -> str:
    if count == 1:
        return f"{count} {noun}"
    return f"{count} {noun}{'es' if noun.endswith('ch') else 's'}"


def _are_there(count: int) -> str:
    return f"{_some(count, 'row')} {'is' if count == 1 else 'are'} there"


def _check_waiting(view: View) -> tuple[str, Sequence[str]]:
    before = view.figures()
    counted = _count(view.connection, view.tables.queue, "_id")
    held = _count(view.connection, view.tables.held, "_id")
    after = view.figures()
    # Rows settled meanwhile may be missing from the count. Rows added between the first two reads may be
    # in it.
    left = (after.delivered - before.delivered) + (after.dead_lettered - before.dead_lettered)
    left += after.deleted - before.deleted
    # Events that a person holds or releases meanwhile may be counted twice or not at all.
    moved = abs(after.held - before.held)
    counted.rows, counted.unread = counted.rows + held.rows, counted.unread + held.unread
    least, most = before.waiting - left - moved, before.waiting + after.accepted - before.accepted + moved
    faults = [*_used_up(view.connection), *_negative(before), *_compare(counted, least, most)]
    if not held.unread and abs(held.rows - before.held) > moved:
        faults.append(f"{before.held} are counted as held, but {held.rows} rows are there")
    below, above = view.connection.execute(
        f"SELECT (SELECT count(*) FROM {view.tables.queue} WHERE _id < 1),"
        f" (SELECT count(*) FROM {view.tables.queue} WHERE _id > {view.tables.sequence})"
    ).fetchone()
    if below:
        faults.append(f"{_some(below, 'row')} with an id below 1, which is never delivered")
    if above:
        faults.append(f"{_some(above, 'row')} with an id above the newest one ever assigned")
    detail = (
        f"accepted {before.accepted} = delivered {before.delivered} + dead-lettered {before.dead_lettered}"
        f" + deleted {before.deleted} + waiting {before.waiting}; {_are_there(counted.rows)}"
    )
    return detail + counted.shortfall, faults


def _used_up(connection: sqlite3.Connection) -> Iterator[str]:
    for table in schema.used_up(connection):
        yield f"the ids in {table} are too large (above 2^53): an external producer has written such a row"


def _negative(figures: Figures) -> Iterator[str]:
    names = ("accepted", "delivered", "dead_lettered", "deleted", "waiting", "held", "dead_letters")
    for name in (*names, "retried", "discarded", "short"):
        if getattr(figures, name) < 0:
            yield f"{name} is {getattr(figures, name)}"


def _check_content(view: View) -> tuple[str, Sequence[str]]:
    origin = origin_of(view.connection, view.tables, view.path)
    try:
        uuid.UUID(origin.queue_id)
    except ValueError:
        return "", [f"the queue's identity is {origin.queue_id!r}, which is not a UUID"]
    counts, examples = [0, 0, 0], ["", ""]
    for row_id, data, put_at, status in _sampled(view.connection, view.tables):
        counts[0] += 1
        final = origin.read(row_id, data, put_at, status)
        if isinstance(final, Dead):
            is_spoilt = status == READY and not _is_json(data)
            counts[1 + is_spoilt] += 1
            examples[is_spoilt] = examples[is_spoilt] or f"row {row_id}: {final.reason}"
    looked, dead, spoilt = counts
    detail = f"{looked} of {view.figures().waiting} waiting rows checked"
    if dead:
        detail += f"; {_some(dead, 'row')} without an event, which will be dead letters ({examples[0]})"
    fault = f"{_some(spoilt, 'row')} that once held an event and now hold none ({examples[1]})"
    return detail, [fault] if spoilt else []


def _sampled(
    connection: sqlite3.Connection, tables: Tables
) -> Iterator[tuple[int, bytes | None, float | None, int | None]]:
    """All rows; if there are too many, some from everywhere."""
    oldest, newest = connection.execute(
        f"SELECT (SELECT coalesce(min(_id), 1) FROM {tables.queue}),"
        f" (SELECT coalesce(max(_id), 0) FROM {tables.queue})"
    ).fetchone()
    deadline = time.monotonic() + SAMPLE_LIMIT_S
    step = max(SAMPLE_ROWS, -(-(newest - oldest + 1) // SAMPLES))
    for first in range(oldest, newest + 1, step):
        last = min(first + SAMPLE_ROWS - 1, newest)
        yield from connection.execute(tables.rows, (first - 1, last, SAMPLE_ROWS))
        if time.monotonic() > deadline:
            break


def _is_json(data: bytes | None) -> bool:
    # A plain consumer's nack also marks a row as checked; that row is at least JSON.
    try:
        msgspec.json.decode(data or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _check_dead_letters(view: View) -> tuple[str, Sequence[str]]:
    before = view.figures()
    ever, written = view.connection.execute(
        "SELECT dead_lettered, coalesce((SELECT seq FROM sqlite_sequence"
        f" WHERE name = '{view.tables.dead_letters}'), 0) FROM {view.tables.ledger}"
    ).fetchone()
    sums = (
        f", sum(event_id NOT BETWEEN 1 AND {view.tables.sequence}),"
        f" sum(event_id IN (SELECT _id FROM {view.tables.queue})), count(*) - count(DISTINCT event_id)"
    )
    counted = _count(view.connection, view.tables.dead_letters, "id", sums)
    after = view.figures()
    # Meanwhile some may have been retried or deleted, and others added.
    left = (after.retried - before.retried) + (after.discarded - before.discarded)
    added = after.dead_lettered - before.dead_lettered
    least, most = before.dead_letters - left, before.dead_letters + added
    faults = list(_compare(counted, least, most))
    if ever != written:
        faults.append(f"{ever} were counted, but {written} were written: {abs(ever - written)} apart")
    unknown, waiting, twice = counted.sums or (0, 0, 0)
    if unknown:
        faults.append(f"{_some(unknown, 'row')} of an event that was never accepted")
    if waiting:
        faults.append(f"{_some(waiting, 'row')} of an event that also still waits")
    if twice:
        faults.append(f"{_some(twice, 'row')} of an event that already has one")
    detail = (
        f"dead-lettered {before.dead_lettered} = retried {before.retried} + discarded {before.discarded}"
        f" + there now {before.dead_letters}; {_are_there(counted.rows)}"
    )
    return detail + counted.shortfall, faults


# As JSON, in which SQLite finds the ranges: [[1,2000],[2003]]; a damaged one holds none of the events.
_IDS = "'[[' || replace(replace(ids, ',', '],['), '-', ',') || ']]'"
_RUNS = f"json_each(iif(json_valid({_IDS}), {_IDS}, '[[0]]'))"
_FIRST, _LAST = "json_extract(value, '$[0]')", "json_extract(value, '$[#-1]')"
_DELIVERIES = f"""
    SELECT ledger.delivered, ledger.dead_lettered, ledger.short, {{0.sequence}},
        coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{{0.deliveries}}'), 0), log.*
    FROM {{0.ledger}} AS ledger, (
        SELECT count(*), coalesce(min(id), 1), coalesce(sum(delivered), 0), coalesce(sum(dead), 0),
            coalesce(sum(short), 0), coalesce(max(last), 0), coalesce(sum(waits), 0),
            coalesce(sum(events < delivered + dead), 0)
        FROM (
            SELECT batch.id, delivered, dead, short, max({_LAST}) AS last,
                sum({_LAST} - {_FIRST} + 1) AS events,
                max(EXISTS (SELECT 1 FROM {{0.queue}} WHERE _id BETWEEN {_FIRST} AND {_LAST})) AS waits
            FROM {{0.deliveries}} AS batch, {_RUNS} GROUP BY batch.id
        )
    ) AS log"""


def _check_deliveries(view: View) -> tuple[str, Sequence[str]]:
    """The log of settled batches, whose oldest entries are deleted in time, against the totals."""
    delivered, dead, short, newest, written, rows, first, *sums = view.connection.execute(
        _DELIVERIES.format(view.tables)
    ).fetchone()
    log_delivered, log_dead, log_short, last_id, unsettled, unlike = sums
    is_whole = rows == written
    faults = []
    if rows != written - first + 1:
        faults.append(f"{_some(written - first + 1 - rows, 'row')} too few in the log")
    pairs = ("delivered", log_delivered, delivered), ("short", log_short, short)
    for name, logged, total in pairs:
        if logged > total or (is_whole and logged != total):
            faults.append(f"the log says {logged} {name}, the totals {total}: {abs(logged - total)} apart")
    # Not every dead letter comes from a batch: salvage restores dead letters directly.
    if log_dead > dead:
        faults.append(f"the log says {log_dead} dead-lettered, the totals {dead}: {log_dead - dead} apart")
    if last_id > newest:
        faults.append(f"event {last_id} was settled, but {newest} is the newest id ever assigned")
    if unsettled:
        faults.append(f"{_some(unsettled, 'batch')} settled, but a row still waits")
    if unlike:
        faults.append(f"{_some(unlike, 'batch')} with more events than ids")
    part = "all" if is_whole else f"the newest of {written}"
    return (
        f"{_some(rows, 'settled batch')}, {part}: delivered {log_delivered}, dead-lettered {log_dead}",
        faults,
    )


_EXAMINATIONS: dict[str, Callable[[View], tuple[str, Sequence[str]]]] = {
    "books: queue": _check_waiting,
    "books: events": _check_content,
    "books: dead letters": _check_dead_letters,
    "books: deliveries": _check_deliveries,
}
