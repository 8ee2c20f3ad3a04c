"""``enqueue --insert-ids``: the same events get the same ids when they are enqueued again."""

import codecs
import json
import os

import pytest


def event(n, **properties):
    return json.dumps({"event": "E", "properties": {"time": 1_700_000_000, "n": n, **properties}})


# Equal events, spelt otherwise, on lines of their own, two on a line, in an array, behind a byte order mark.
LINES = [
    *map(event, (1, 2, 1)),
    '{"properties":{"n":1,"time":1700000000},"event":"E"}',
    f"[{event(1)}, {event(2)}]",
    event(1, **{"$insert_id": "own"}),
    "bad",
    f"{event(2)} {event(1)}",
    codecs.BOM_UTF8.decode() + event(2),
    event(1),
]


@pytest.fixture
def ids(forwarder, rows, queue_path):
    """Enqueue *text* and return number and id of each event that was added."""

    def enqueue(*arguments, text, code=65):
        before = len(rows(queue_path)) if os.path.exists(queue_path) else 0
        done = forwarder("enqueue", *arguments, stdin=text)
        assert done.returncode == code, done.stderr
        found = [json.loads(data)["properties"] for data in rows(queue_path)[before:]]
        return [(each["n"], each["$insert_id"]) for each in found]

    return enqueue


def test_content_gives_the_same_ids_again(ids):
    """Again, and from any line on with --skip, each event gets the id it had, and no two get the same."""
    text = "\n".join(LINES)
    first = ids("--insert-ids", "content", text=text)
    assert len(first) == len(set(first)) == 11
    assert (1, "own") in first
    assert ids("--insert-ids", "content", text=text) == first
    # Which of two equal events on lines of one chunk is the first does not matter.
    for skip, left in ((3, 8), (5, 5), (8, 2)):
        rest = ids("--insert-ids", "content", "--skip", str(skip), text=text, code=65 if skip < 7 else 0)
        done = ids("--insert-ids", "content", text="\n".join(LINES[:skip]), code=65 if skip > 6 else 0)
        assert len(rest) == left
        assert sorted(rest + done) == sorted(first)


def test_fields(ids):
    """Made of fields, equal fields give equal ids; a line that lacks one is refused, by line and field."""
    text = "\n".join([event(1), event(1, seen=True), event(2), '{"event":"E","properties":{"time":1}}'])
    (a, b, c) = ids("--insert-ids", "time,n", text=text)
    assert a == b
    assert a[1] != c[1]


def test_refusals_name_line_and_reason(forwarder):
    """Without a time it is refused: by a file, with --check, and as one event; with --time it is not."""
    text = event(1) + '\n{"event":"E","properties":{"n":1}}\n'
    done = forwarder("enqueue", "--check", "--insert-ids", "content", stdin=text)
    assert (done.returncode, done.stdout) == (65, "would accept 1 event, refused 1\n")
    assert done.stderr.startswith("<stdin>:2: 'properties.time' must not be missing")
    one = ("enqueue", "--insert-ids", "content", "-e", "E")
    done = forwarder(*one)
    assert done.returncode == 65
    assert "'properties.time' must not be missing" in done.stderr
    for _ in range(2):
        assert forwarder(*one, "--time", "1700000000").returncode == 0
    waiting = [json.loads(line)["event"] for line in forwarder("peek", "--json").stdout.splitlines()]
    assert waiting[0] == waiting[1]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [(["a,,b"], "a field without a name"), (["content", "--kind", "profile"], "have no $insert_id")],
)
def test_what_can_not_be_is_exit_64(forwarder, arguments, why):
    """A field without a name, and a kind whose records have no such id, are mistakes of the caller's."""
    done = forwarder("enqueue", "--insert-ids", *arguments)
    assert done.returncode == 64
    assert why in done.stderr


def test_rows_of_a_table_have_them_too(ids):
    """Two equal rows get two ids, the same ones each time; also those that --skip leaves out count."""
    text = "event,time,n\nE,1700000000,1\nE,1700000000,1\nE,1700000000,2\n"
    first = ids("--insert-ids", "content", text=text, code=0)
    assert len(set(first)) == 3
    assert ids("--insert-ids", "content", text=text, code=0) == first
    assert ids("--insert-ids", "content", "--skip", "1", text=text, code=0) == first[1:]
