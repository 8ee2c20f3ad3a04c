"""``forwarder enqueue``: events into the queue."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from io import FileIO
from typing import TYPE_CHECKING, Any

import click

from forwarder.cli.command import Context, any_file, command, json_option, kind_option
from forwarder.cli.feed import Feed
from forwarder.cli.insert_ids import InsertIds, chosen
from forwarder.cli.interrupts import Interrupts
from forwarder.cli.mapping import build_mapping, mapping_options
from forwarder.cli.one_event import build_event
from forwarder.cli.output import OutputError
from forwarder.cli.progress import Progress, echo
from forwarder.cli.refusals import Refusals, open_rejects
from forwarder.errors import EventError, ForwarderError, UsageError
from forwarder.records import EVENTS
from forwarder.records.reading import FORMATS, TABLES, StoppedError
from forwarder.spool import FateUnknownError, NoQueueError, runs_of, text_of

if TYPE_CHECKING:
    from forwarder.cli.resume import Resumption
    from forwarder.records.event.mapping import EventMapping
    from forwarder.records.kind import Kind
    from forwarder.spool import Producer, Run

LOCK_TIMEOUT_S = 10.0


@command("enqueue", short_help="Put events into the queue.")
@click.argument("files", metavar="[FILE]...", nargs=-1, shell_complete=any_file)
@click.option(
    "-e",
    "--event",
    "name",
    metavar="NAME",
    help="One event of this name; with a FILE or --format csv, ...: the name of each row's event.",
)
@click.option("-d", "--distinct-id", metavar="ID", help="The event's distinct_id.")
@click.option(
    "-p",
    "--property",
    "properties",
    metavar="KEY=TEXT",
    multiple=True,
    help="A property of the event, as text; KEY:=JSON for a number, true, a list, ... Repeatable.",
)
@click.option(
    "--time",
    "at",
    metavar="T",
    help="The event's time: epoch seconds or ms, or ISO 8601 with Z or an offset [default: now].",
)
@click.option("--insert-id", metavar="ID", help="The event's $insert_id [default: a new one].")
@click.option(
    "--insert-ids",
    metavar="random|content|FIELD,...",
    default="random",
    help="What a missing $insert_id is made of: at random, of the event's content, or of these properties"
    " [default: random].",
)
@click.option("--check", "only_check", is_flag=True, help="Only check; store nothing.")
@click.option("--no-check", is_flag=True, help="Check the structure only; Mixpanel judges the rest.")
@click.option("--skip", metavar="N", type=click.IntRange(min=0), default=0, help="Skip the first N lines.")
@click.option(
    "--resume", is_flag=True, help="Skip what an earlier run with --resume has stored of each FILE."
)
@click.option(
    "--rejects",
    metavar="FILE",
    shell_complete=any_file,
    help="Append refused lines to FILE as JSON, one per line, with file, line, reason and event.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="auto",
    help="The format of the input [default: auto, by its content and name].",
)
@mapping_options
@click.option(
    "--ack",
    is_flag=True,
    help="Answer each line of standard input when it is stored, with its id, or the reason.",
)
@click.option("--wait", is_flag=True, help="Then wait until none of them waits in the queue any more.")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="S",
    type=click.FloatRange(min=0),
    help="With --wait: for S seconds at most.",
)
@kind_option
@json_option
def enqueue(context: Context, **given: Any) -> int:
    """Put events into the queue durably, and print how many.

    Each FILE has one JSON event per line, JSON arrays of events, or events over several lines; or is a CSV,
    TSV or Parquet table with an event a row. It may be compressed: gzip, bzip2, xz, zstd. "-" or no FILE
    means standard input, which may be a live stream. Options describe a single event:

    \b
      forwarder enqueue events.ndjson more.json.gz
      tail -F app.log | forwarder enqueue
      forwarder enqueue --event Order --time-column paid_at --time-zone UTC orders.csv
      forwarder enqueue -e "Signed Up" -d user-1 -p plan=pro -p seats:=3

    The options for columns are for tables, and for JSON records without "properties", which are read by them
    as rows. All other columns become properties. With --check the first three events are printed.

    A refused line is reported as FILE:LINE: reason and does not stop the others. After the first 20, refused
    lines are counted by reason; --rejects keeps them all, also with --check. In an array over several lines,
    elements are counted instead of lines, also for --skip.

    With --insert-ids content or FIELD,... a file that is enqueued again gives each event the same $insert_id,
    so that Mixpanel drops the repeats; each event must have a time. With content, equal events of one run get
    different ones. Skipped lines count.

    With --resume the queue remembers how far each FILE is in, in the commit that stores its events. However
    it ended, the same command continues there: nothing twice, nothing left out, also if the file has grown.

    With --ack each line of standard input, one event, gets one line on standard output, in order and flushed,
    once it is stored: its id; or "refused" and the reason; or "later" and the reason, if the queue is full or
    locked: give it again. What has come together is stored together. It ends at the end of the input.

    With --wait it returns when each event was delivered or deleted or is a dead letter, and says which are
    not delivered. What it prints without --wait comes before, when all are stored.

    With --json: accepted, refused, lines (the number for --skip), and ids, those of the stored events, as
    1-2000,2003 for `forwarder where`; null if nothing was stored.

    Exit code: 0 if all events were accepted; 65 if a line was refused; 66 or 77 if a file could not be read,
    though the others were; 75 if the queue is full or locked; 129, 130 or 143 if interrupted. With the last
    four it says how to continue. With --wait: 0 if all were delivered, too; 65 if one is a dead letter or was
    deleted; 75 if one still waits at the timeout: it is stored, so do not enqueue it again.
    """
    options = Options(**given)
    options.check(context.kind)
    if options.wait:
        # Now, before anything is stored: who may hand events over may not be allowed to look.
        with suppress(NoQueueError), context.spool.view():
            pass
    kind = context.kind
    line, mapping = None, None
    if options.is_one:
        line = options.event()
    elif kind is EVENTS:
        mapping = build_mapping(options.name, options.columns)
    with (
        chosen(options.insert_ids, kind) as ids,
        open_rejects(options.rejects, options.names) as keep,
        _store(context, options.only_check) as store,
    ):
        if options.ack:
            from forwarder.cli.ack import answer

            assert store
            return answer(kind, ids, store, options.rules)
        if line is not None:
            code, stored = _take_one(line, options, ids or EVENTS, store)
            if stored:
                context.note_faultless()
        else:
            code, stored = _take_files(options, kind, mapping, ids, store, keep)
    if not (options.wait and stored):
        return code
    from forwarder.cli.awaiting import await_delivery

    return await_delivery(context, stored, options.timeout_s, options.as_json) or code


class Options:
    """What the command line says.

    Attributes:
        rules: Whether Mixpanel's rules are checked.
        is_one: It describes one event; else there are names of files, "-" for standard input.
        columns: The options for columns, by their names.
    """

    def __init__(
        self,
        *,
        files: tuple[str, ...],
        name: str | None,
        distinct_id: str | None,
        properties: tuple[str, ...],
        at: str | None,
        insert_id: str | None,
        insert_ids: str,
        only_check: bool,
        no_check: bool,
        skip: int,
        resume: bool,
        rejects: str | None,
        form: str,
        ack: bool,
        wait: bool,
        timeout_s: float | None,
        as_json: bool,
        **columns: str | None,
    ) -> None:
        self.names = files or ("-",)
        self.name, self.distinct_id, self.at, self.insert_id = name, distinct_id, at, insert_id
        self.properties, self.insert_ids = properties, insert_ids
        self.only_check, self.rules = only_check, not no_check
        self.skip, self.resume, self.rejects = skip, resume, rejects
        self.form, self.columns = form, columns
        self.ack, self.wait, self.timeout_s, self.as_json = ack, wait, timeout_s, as_json
        self._is_mapped = form in TABLES or any(given is not None for given in columns.values())
        self.is_one = name is not None and not (files or self._is_mapped)
        self._describes_one = any(given is not None for given in (distinct_id, at, insert_id)) or properties

    def check(self, kind: Kind) -> None:
        """Raise UsageError if some contradict each other, or can't be for *kind*."""
        for is_wrong, what, remedy in (
            (self.timeout_s is not None and not self.wait, "--timeout is for --wait", "Give both"),
            (
                self.wait and self.only_check,
                "--check stores nothing to --wait for",
                "Remove one or the other",
            ),
            (
                self.name is None and self._describes_one,
                "-d, -p, --time and --insert-id describe one event",
                "Give its name with -e NAME",
            ),
            (
                self.is_one and (self.skip or self.rejects is not None or self.resume),
                "-e without a FILE gives one event, so there is no --skip, no --resume and no --rejects",
                "Remove one or the other",
            ),
            (
                self._describes_one and not self.is_one,
                "-d, -p, --time and --insert-id describe one event",
                "Remove them, or the FILE",
            ),
            (
                self.ack and self._has_more_than_lines,
                "--ack only answers the lines of standard input, an event each",
                "Leave out FILE, columns and the other options but --kind, --insert-ids and --no-check",
            ),
            (
                self.resume and (self.only_check or self.skip),
                "--resume stores what is not in yet",
                "Leave out --check and --skip",
            ),
            (
                self.resume and "-" in self.names,
                "--resume can't know how far standard input is in",
                "Name the file",
            ),
            (
                kind is not EVENTS and (self.name is not None or self._is_mapped),
                "-e, tables and columns are for events, not --kind",
                "Give updates as lines of JSON",
            ),
        ):
            if is_wrong:
                raise UsageError(what, remedy)

    def event(self) -> bytes:
        """The one event. Raises UsageError: an option is invalid."""
        return build_event(self.name or "", self.distinct_id, self.properties, self.at, self.insert_id)

    @property
    def _has_more_than_lines(self) -> bool:
        storing = self.only_check or self.skip or self.resume or self.rejects is not None
        mapping = self.name is not None or self._is_mapped or self.form != "auto"
        return bool(storing or mapping or self.names != ("-",) or self.wait or self.as_json)


@contextmanager
def _store(context: Context, check: bool) -> Iterator[Producer | None]:
    """What commits events; None if they are only checked, which needs no queue."""
    if check:
        yield None
        return
    from forwarder import spool

    queue = context.door
    producer = spool.of(queue, context.kind).producer(
        max_bytes=queue.max_bytes, min_free_bytes=queue.min_free_bytes, lock_timeout_s=LOCK_TIMEOUT_S
    )
    with closing(producer):
        yield producer


# Each returns the exit code, and the ids of what is stored; none if it ended early.


def _take_one(
    line: bytes, options: Options, kind: Kind | InsertIds, store: Producer | None
) -> tuple[int, list[Run]]:
    try:
        record = kind.accept(line, time.time_ns() // 1_000_000, options.rules)
    except EventError as error:
        if store:
            store.refuse({EVENTS.word_for(str(error)): 1})
        echo(f"forwarder: the event is refused: {error}", err=True)
        print_counts(0, 1, 1, store is None, options.as_json, [])
        return error.exit_code, []
    stored = runs_of(store.append([record])) if store else []
    print_counts(1, 0, 1, store is None, options.as_json, stored)
    return 0, stored


def _take_files(
    options: Options,
    kind: Kind,
    mapping: EventMapping | None,
    ids: InsertIds | None,
    store: Producer | None,
    keep: FileIO | None,
) -> tuple[int, list[Run]]:
    names, skip = options.names, options.skip
    if "-" in names and sys.stdin is not None and sys.stdin.isatty():
        echo(f"Reading {kind.noun} from the terminal, one JSON object a line; Ctrl-D ends.", err=True)
    progress = Progress(names)
    refusals = Refusals(progress.say, keep)
    with Interrupts() as interrupts:
        feed = Feed(
            kind,
            store,
            rules=options.rules,
            skip=skip,
            progress=progress,
            refusals=refusals,
            mapping=mapping,
            form=options.form,
            insert_ids=ids,
            resumption=_resumption(store, kind, progress) if store and options.resume else None,
            interrupts=interrupts,
        )
        last_words, code = "", 0
        try:
            feed.take(names)
        except StoppedError:
            last_words, code = f"interrupted: {feed.how_to_go_on()}", interrupts.exit_code()
        except ForwarderError as error:
            last_words, code = f"forwarder: {error}", error.exit_code
            if feed.lines > skip:
                # Its remedy is for the case that nothing was stored.
                last_words = f"forwarder: {error.what}.\n{feed.how_to_go_on()}"
                if isinstance(error, FateUnknownError) and not options.resume:
                    last_words += f". Some lines after them may be stored, too. {error.remedy}"
        finally:
            refusals.tell_counts()
            progress.close()
        if last_words:
            echo(last_words, err=True)
        if feed.mapped and options.only_check and not options.as_json:
            echo(b"\n".join(feed.mapped).decode())
        print_counts(
            feed.accepted, feed.refused, feed.lines, options.only_check, options.as_json, feed.stored, kind
        )
    return (code, []) if last_words else (feed.exit_code, feed.stored)


def _resumption(store: Producer, kind: Kind, progress: Progress) -> Resumption:
    from forwarder.cli.resume import Resumption

    return Resumption(store, kind.max_bytes, progress.say)


def print_counts(
    accepted: int,
    refused: int,
    lines: int,
    only_checked: bool,
    as_json: bool,
    stored: Sequence[Run],
    kind: Kind = EVENTS,
) -> int:
    """The result on standard output; with *as_json*, ``lines`` is the number for --skip. Returns 0."""
    events = f"1 {kind.noun.removesuffix('s')}" if accepted == 1 else f"{accepted:,} {kind.noun}"
    text = f"would accept {events}" if only_checked else f"accepted {events}"
    if refused:
        text += f", refused {refused:,}"
    found = {"accepted": accepted, "refused": refused, "lines": lines, "ids": text_of(stored) or None}
    try:
        echo(json.dumps(found) if as_json else text)
    except OutputError:
        # The exit code will be that of the output, but the events are stored.
        echo(text, err=True)
        raise
    return 0
