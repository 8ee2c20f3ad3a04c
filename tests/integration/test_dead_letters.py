"""``forwarder dead-letters``: looked at, put back, taken out and deleted, with the books kept."""

import base64
import io
import json
import os
import pty
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from forwarder.cli import main, table
from forwarder.cli.selection import DEAD_LETTERS, Wanted
from forwarder.spool import Dead, EventQueue, Selection, Settlement, dead_letters
from forwarder.spool.sqlite import reader
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.view import View

TIME_REASON = "'properties.time' is invalid: must be in the past"
STORED = [
    b'{"event":"Signed Up","properties":{"time":1,"$insert_id":"a","n":1.10}}',
    b'{"event":"Signed Up","properties":{"time":1,"$insert_id":"b","n":12345678901234567890}}',
    b'{"event":"Paid","properties":{"time":1,"$insert_id":"c","n":1E+2}}',
    b'{"event":"Paid",\r\n"properties":{"time":1,"$insert_id":"d"}}',
    b"\xff\x1b[31m no\nJSON",
]


def bury(path, stored, reason="bad thing", field="properties.n", http_status=400):
    """Make dead letters of these bytes."""
    consumer = Consumer(path)
    with EventQueue(path) as queue:
        before = consumer.last_id()
        queue.append(stored)
    ids = range(before + 1, before + 1 + len(stored))
    letters = [Dead(n, data, reason, field, http_status) for n, data in zip(ids, stored, strict=True)]
    consumer.settle(Settlement(ids, letters, http_status=http_status))
    consumer.close()


@pytest.fixture
def graves(queue_path):
    """A queue with five dead letters, of two reasons; the last is no JSON. Its path."""
    bury(queue_path, STORED[:3], TIME_REASON, "properties.time")
    bury(queue_path, STORED[3:], "not \x1b[31mJSON", "", None)
    return queue_path


@pytest.fixture
def run(queue_path, monkeypatch, capsysbinary):
    """Run ``forwarder dead-letters`` in this process; returns exit code, output and errors."""

    def dead_letters(*arguments, stdin=""):
        monkeypatch.setenv("FORWARDER_QUEUE_PATH", queue_path)
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main(["dead-letters", *arguments])
        out, err = capsysbinary.readouterr()
        return ended.value.code, out.decode(errors="surrogateescape"), err.decode()

    return dead_letters


def dead_ids(path):
    """The ids of all dead letters."""
    with View(path) as view:
        return [letter.id for letter in view.dead_letters(Selection())]


# Looking


def test_list(run, graves):
    """Each dead letter is a line with id, when, event, status and reason, safe for a terminal."""
    code, out, err = run("list")

    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in lines] == ["ID", "1", "2", "3", "4", "5"]
    assert lines[1].split()[2:] == ["Signed", "Up", "400", *TIME_REASON.split()]
    assert lines[4].endswith(r"not \x1b[31mJSON")
    assert "\x1b" not in out


def test_list_for_programs(run, graves):
    """With --json each is an object with everything but the event."""
    rows = [json.loads(line) for line in run("list", "--json")[1].splitlines()]

    assert [row["id"] for row in rows] == [1, 2, 3, 4, 5]
    expected = {"event_id": 1, "event_name": "Signed Up", "insert_id": "a", "reason": TIME_REASON}
    expected |= {"field": "properties.time", "http_status": 400}
    assert {key: rows[0][key] for key in expected} == expected
    assert rows[0]["dead_at"].endswith("Z")
    assert rows[4]["http_status"] is None


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        ((), [1, 2, 3, 4, 5]),
        (("--all",), [1, 2, 3, 4, 5]),
        (("4", "2", "2"), [2, 4]),
        (("--event", "Paid"), [3, 4]),
        (("--event", "paid"), []),
        (("--reason", "TIME' is"), [1, 2, 3]),
        (("--reason", "%"), []),
        (("--reason", "invalid", "--event", "Paid"), [3]),
        (("--all", "--event", "Paid"), [3, 4]),
        (("--since", "1h"), [3, 4, 5]),
        (("--since", "2d", "--event", "Signed Up"), [2]),
        (("--since", "1.5w"), [2, 3, 4, 5]),
        (("--since", "2001-01-01T00:00:00Z"), [2, 3, 4, 5]),
        (("--since", "2001-01-01T00:00:00+02:00", "2", "3"), [2, 3]),
    ],
)
def test_selection(arguments, ids, run, graves):
    """Those are meant that fit every part that is given."""
    with closing(sqlite3.connect(f"{graves}/data.db")) as connection:
        for letter_id, dead_at in ((1, 0), (2, time.time() - 86400)):
            connection.execute("UPDATE dead_letters SET dead_at = ? WHERE id = ?", (dead_at, letter_id))
        connection.commit()

    code, out, _ = run("list", "--json", *arguments)

    assert code == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == ids


@pytest.mark.parametrize(
    "arguments",
    [
        ("x",),
        ("-1",),
        ("1.0",),
        ("9" * 30,),
        ("--since", "soon"),
        ("--since", "5"),
        ("--since", "2001-01-01"),
    ],
)
def test_a_selection_that_makes_no_sense_is_a_usage_error(arguments, run, graves):
    """What is no id, duration or time with a zone is refused with 64."""
    code, out, err = run("list", *arguments)

    assert (code, out) == (64, "")
    assert err


def test_ids_come_from_standard_input(run, graves):
    """- reads ids, separated by any white space; nothing on standard input selects nothing."""
    code, out, _ = run("list", "--json", "-", stdin="5\n 1\t2\n")
    assert (code, [json.loads(line)["id"] for line in out.splitlines()]) == (0, [1, 2, 5])

    assert run("list", "--json", "-") == (0, "", "")
    assert run("delete", "-") == (0, "0 dead letters deleted.\n", "")
    assert run("list", "-", stdin="1 two")[0] == 64
    assert len(dead_ids(graves)) == 5


def test_summary(run, graves):
    """Causes are counted, the most frequent first, each with an example to look at."""
    groups = [json.loads(line) for line in run("summary", "--json")[1].splitlines()]
    code, out, err = run("summary")

    assert [(g["count"], g["event_name"], g["example_id"]) for g in groups] == [
        (2, "Signed Up", 1),
        (1, "Paid", 3),
        (1, "Paid", 4),
        (1, "", 5),
    ]
    assert groups[0]["reason"] == TIME_REASON
    assert (code, err, len(out.splitlines())) == (0, "", 5)
    assert "\x1b" not in out
    assert [json.loads(line)["count"] for line in run("summary", "--json", "3")[1].splitlines()] == [1]


def test_show(run, graves):
    """A dead letter is shown whole: the cause, and the event with its numbers as they are stored."""
    code, out, err = run("show", "2", "5")

    assert (code, err) == (0, "")
    assert out.startswith("Dead letter 2\n")
    assert f"reason       {TIME_REASON}" in out
    assert r"reason       not \x1b[31mJSON" in out
    assert '    "n": 12345678901234567890\n' in out
    assert r"\xff\x1b[31m no\nJSON" in out
    assert "\x1b" not in out


def test_show_for_programs(run, graves):
    """With --json the event is there as it is stored, or in base64 if it is not JSON."""
    first, last = run("show", "1", "5", "--json")[1].splitlines()

    assert first.endswith(f', "event": {STORED[0].decode()}}}')
    assert json.loads(last)["event"] is None
    assert base64.b64decode(json.loads(last)["base64"]) == STORED[4]


def test_nothing_there(run, queue_path):
    """No queue, no dead letters and none that fit are each said, and are no failure."""
    for command in ("list", "summary"):
        assert run(command) == (0, "", f"There is no queue in {queue_path} yet. The first event makes it.\n")
    assert not os.path.exists(queue_path)

    EventQueue(queue_path).close()
    for command in ("list", "summary"):
        assert run(command) == (0, "There are no dead letters.\n", "")
        assert run(command, "--event", "E") == (0, "No dead letter fits.\n", "")
        assert run(command, "--json") == (0, "", "")


@pytest.mark.parametrize("command", ["list", "show", "export", "retry --no-check", "delete"])
def test_missing_ids_are_named(command, run, graves):
    """An id that is not there is named, the others are done, and the exit code is 1."""
    code, out, err = run(*command.split(), "7", "3", "99")

    assert code == 1
    assert "there are no dead letters 7, 99." in err
    assert out


def test_of_many_missing_ids_some_are_named(run, queue_path):
    """A long list of wrong ids does not fill the screen; without a queue all are missing."""
    code, _, err = run("delete", "-", stdin=" ".join(map(str, range(1, 1001))))

    assert code == 1
    assert "19, 20 and 980 more" in err
    assert not os.path.exists(queue_path)


# Taking out


def test_export_gives_the_stored_bytes(run, graves):
    """Each event is a line, byte by byte; what can't be one line is named and left out, with 65."""
    code, out, err = run("export", "--all")

    joined = STORED[3].replace(b"\r\n", b"  ")
    assert out.encode() == b"\n".join([*STORED[:3], joined]) + b"\n"
    assert code == 65
    assert "dead letter 5 makes no line of JSON; --with-reason exports it" in err
    assert len(dead_ids(graves)) == 5


def test_export_of_one_line_that_is_not_json(run, queue_path):
    """Bytes without a line break are exported as they are, whatever they are."""
    bury(queue_path, [b'\xff\x00 {"event"'])

    assert run("export", "1") == (0, '\udcff\x00 {"event"\n', "")


@pytest.mark.parametrize("option", ["--with-reason", "--json"])
def test_export_with_reason_loses_nothing(option, run, graves):
    """Wrapped, every dead letter is a line that holds its id, its reason and its bytes."""
    code, out, err = run("export", "--all", option)

    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [row["id"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0]["reason"] == TIME_REASON
    assert rows[0]["event"] == json.loads(STORED[0])
    assert base64.b64decode(rows[4]["base64"]) == STORED[4]


def test_enqueue_takes_what_export_gives(forwarder, rows, figures):
    """export | enqueue puts the same bytes into the queue again."""
    path = forwarder.queue_path
    form = b'{"event":"E","properties":{"time":1700000000,"$insert_id":"i-%d","n":1.10}}'
    stored = sorted(form % n for n in range(600))
    bury(path, stored)

    exported = forwarder("dead-letters", "export", "--reason", "bad")
    taken = forwarder("enqueue", stdin=exported.stdout)
    deleted = forwarder("dead-letters", "delete", "--all", "--yes")

    assert (exported.returncode, taken.returncode, deleted.returncode) == (0, 0, 0)
    assert (taken.stdout, deleted.stdout) == ("accepted 600 events\n", "600 dead letters deleted.\n")
    assert rows(path) == stored
    assert figures(path).discarded == 600


# Putting back


def test_retry_queues_the_same_bytes(run, graves, rows, figures):
    """A retried event has the same bytes and $insert_id, is accepted anew, and the books balance."""
    code, out, err = run("retry", "--event", "Signed Up", "--no-check")

    assert (code, out, err) == (0, "2 dead letters put back into the queue.\n", "")
    assert rows(graves) == STORED[:2]
    assert dead_ids(graves) == [3, 4, 5]
    found = figures(graves)
    assert (found.accepted, found.waiting, found.retried) == (7, 2, 2)


def test_retry_edits(run, graves, rows):
    """--set and --unset change what they name; all else of each event stays as it is written."""
    edits = [
        "--set",
        "event=Signup",
        "--set",
        "properties.seats:=3.0",
        "--set",
        "properties.time:=1600000000",
    ]
    code, _, _ = run("retry", "1", "2", *edits, "--unset", "properties.plan")

    assert code == 0
    after = [b",".join([data[:-2], b'"seats":3.0}}']) for data in STORED[:2]]
    after = [data.replace(b"Signed Up", b"Signup").replace(b":1,", b":1600000000,") for data in after]
    assert rows(graves) == after


def test_what_is_refused_stays_dead(run, graves, rows, figures):
    """An event that would be refused stays a dead letter, with the reason; the others go, with 65."""
    code, out, err = run("retry", "1", "5", "2", "--set", "properties.x=y", "--json", "--no-check")

    told = json.loads(out)
    assert code == 65
    assert (told["retried"], told["missing"]) == (2, [])
    assert [letter["id"] for letter in told["refused"]] == [5]
    assert "dead letter 5 stays: can't be edited: it is not UTF-8" in err
    assert dead_ids(graves) == [3, 4, 5]
    assert len(rows(graves)) == 2
    figures(graves)


def test_retry_checks_the_rules_unless_told_not_to(run, queue_path, rows):
    """Mixpanel's rules are checked before anything is queued; --no-check leaves them to Mixpanel."""
    bury(queue_path, [b'{"event":"E","properties":{"time":-1,"$insert_id":"a"}}'])

    code, out, err = run("retry", "1")
    assert (code, out) == (65, "0 dead letters put back into the queue, 1 stayed.\n")
    assert "must not be before 1971" in err
    assert rows(queue_path) == []

    assert run("retry", "1", "--no-check")[0] == 0
    assert len(rows(queue_path)) == 1


def test_a_dry_run_changes_nothing(run, graves, rows, figures):
    """--dry-run shows each event before and after, or why it would stay, and changes nothing."""
    arguments = ("retry", "--all", "--dry-run", "--no-check", "--set", "properties.n:=2.50")
    code, out, _ = run(*arguments)
    objects = [json.loads(line) for line in run(*arguments, "--json")[1].splitlines()]

    assert code == 65
    assert out.splitlines()[:2] == [
        f"1  before  {STORED[0].decode()}",
        f"   after   {STORED[0].decode().replace('1.10', '2.50')}",
    ]
    assert out.splitlines()[-1] == "   refused can't be edited: it is not UTF-8"
    assert "\x1b" not in out
    assert [letter["id"] for letter in objects] == [1, 2, 3, 4, 5]
    assert objects[0]["after"]["properties"]["n"] == 2.5
    assert (objects[0]["refused"], objects[4]["after"]) == (None, None)
    assert rows(graves) == []
    assert figures(graves).dead_letters == 5


def test_no_insert_id_is_given_twice(run, graves, rows):
    """Several events are never given the same $insert_id, of which Mixpanel would keep one."""
    code, _, err = run("retry", "1", "2", "--no-check", "--set", "properties.$insert_id=same")
    assert (code, len(dead_ids(graves))) == (64, 5)
    assert "would give several events the same one" in err

    assert run("retry", "1", "--no-check", "--set", "properties.$insert_id=same")[0] == 0
    assert run("retry", "2", "3", "--no-check", "--unset", "properties.$insert_id")[0] == 0
    assert len({json.loads(data)["properties"]["$insert_id"] for data in rows(graves)}) == 3


def test_those_that_die_meanwhile_are_left_alone(queue_path):
    """What is refused again while a retry goes on is not retried again and again."""
    bury(queue_path, STORED[:3] * 200)
    seen = []
    with View(queue_path) as view:
        for page in Wanted(DEAD_LETTERS, Selection(), everything=True).pages(view):
            seen += [letter.id for letter in page]
            bury(queue_path, STORED[:3] * 100)

    assert seen == list(range(1, 601))


# What could hit too many


@pytest.mark.parametrize("command", ["retry", "export", "delete"])
def test_something_must_be_selected(command, run, graves):
    """Without a selection nothing is done, and it is said how to select."""
    code, out, err = run(command)

    assert (code, out) == (64, "")
    assert f"nothing is selected to {command}" in err
    assert len(dead_ids(graves)) == 5


@pytest.mark.parametrize(
    "arguments",
    [("retry", "--all"), ("delete", "--all"), ("delete", "--event", "Paid"), ("delete", "--since", "1h")],
)
def test_without_a_terminal_it_takes_yes(arguments, run, graves, figures):
    """What may hit more than one thinks of is not done unasked: 64, or --yes."""
    code, out, err = run(*arguments)
    assert (code, out) == (64, "")
    assert "--yes" in err
    assert len(dead_ids(graves)) == 5

    assert run(*arguments, "--yes", *(["--no-check"] if "retry" in arguments else []))[0] in (0, 65)
    assert len(dead_ids(graves)) < 5
    figures(graves)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("retry --all", "There are no dead letters."),
        ("retry --event E", "No dead letter fits."),
        ("delete --all", "There are no dead letters."),
        ("delete --reason time", "No dead letter fits."),
    ],
)
def test_nothing_to_do_is_said_and_not_asked(arguments, told, run, queue_path):
    """Where none is there or none fits there is nothing to ask: that is said, with 0; a wanted id gives 1."""
    assert run(*arguments.split())[:2] == (0, f"{told}\n")
    assert not os.path.exists(queue_path)

    EventQueue(queue_path).close()
    assert run(*arguments.split()) == (0, f"{told}\n", "")
    code, out, _ = run(*arguments.split(), "--json")
    assert (code, json.loads(out)) == (0, json.loads(out) | {"missing": []})
    command = arguments.split()[0]
    code, out, err = run(command, "7")
    assert (code, err) == (1, "forwarder: there is no dead letter 7.\n")
    assert out.startswith("0 dead letters ")


@pytest.mark.parametrize(("command", "done"), [("retry", "put back into the queue"), ("delete", "deleted")])
def test_a_failure_midway_says_how_far_it_came(command, done, run, queue_path, sql, figures):
    """When a later transaction fails, it is said how many are done; those stay done, and the books hold."""
    bury(queue_path, STORED[:3] * 200)
    # As a damaged page would: from one row on, SQLite answers with an error.
    sql(
        queue_path,
        "CREATE TRIGGER fault BEFORE DELETE ON dead_letters WHEN old.id = 400"
        " BEGIN SELECT RAISE(ABORT, 'page 17 is damaged'); END",
    )

    code, out, err = run(command, "--all", "--yes", *(["--no-check"] if command == "retry" else []))

    assert (code, out) == (74, "")
    assert err.splitlines()[0] == f"forwarder: 250 dead letters {done} before it stopped:"
    assert "page 17 is damaged" in err
    assert dead_ids(queue_path) == list(range(251, 601))
    figures(queue_path)


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 5), (b"y\n", 0)])
def test_on_a_terminal_it_asks(answer, left, graves):
    """On a terminal it says how many, and does what the person says."""
    master, slave = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "forwarder", "dead-letters", "delete", "--all"],
        env={**os.environ, "FORWARDER_QUEUE_PATH": graves},
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
    )
    os.close(slave)
    with os.fdopen(master, "r+b", buffering=0) as screen, command as process:
        seen = b""
        while b"[y/N]" not in seen:
            seen += screen.read(4096)
        screen.write(answer)
        out = process.stdout.read()

    assert b"Delete 5 dead letters for good?" in seen
    assert (process.returncode, len(dead_ids(graves))) == ((1, 5) if left else (0, 0))
    assert (b"5 dead letters deleted." in out) == (not left)


LONG = "properties.plan is not one of the values that the schema of this project allows: "


@pytest.mark.parametrize("command", ["list", "summary"])
def test_the_reason_can_be_read_on_80_columns(command, run, queue_path, monkeypatch):
    """Names are cut, and what all reasons begin with is said once; in a pipe nothing is cut."""
    name = "An Event Whose Name Is Much Longer Than It Has To Be"
    event = b'{"event":"%s","properties":{"time":1,"$insert_id":"x"}}' % name.encode()
    for word in ("gold", "silver", "gold"):
        bury(queue_path, [event], f"{LONG}was {word}", field="")
    assert all(text in run(command)[1] for text in (name, f"{LONG}was silver"))
    monkeypatch.setattr(table, "terminal_width", lambda: 80)
    lines = run(command)[1].splitlines()
    title = next(index for index, line in enumerate(lines) if "EVENT" in line)
    assert " ".join(lines[:title]) == f"REASON begins with: {LONG}was"
    assert all(len(line) <= 80 for line in lines)
    assert {line.split()[-1] for line in lines[title + 1 :]} == {"…gold", "…silver"}
    assert all("An Event Wh" in line and name not in line for line in lines[title + 1 :])
    monkeypatch.setattr(table, "terminal_width", lambda: 300)
    assert f"{LONG}was silver" in run(command)[1]


def test_delete(run, graves, figures):
    """Deleted ones are gone, and counted as such; ids and filters are both to fit."""
    code, out, err = run("delete", "1", "2", "3", "--event", "Paid", "--json")

    assert (code, json.loads(out)) == (1, {"deleted": 1, "missing": [1, 2]})
    assert "there are no dead letters 1, 2 that fit the other options." in err
    assert dead_ids(graves) == [1, 2, 4, 5]
    found = figures(graves)
    assert (found.discarded, found.dead_lettered, found.dead_letters) == (1, 5, 4)


def test_all_of_many(run, queue_path, figures):
    """What takes many pages is done to the last one."""
    bury(queue_path, STORED[:3] * 300)

    listed = run("list", "--json")[1].splitlines()
    assert [json.loads(line)["id"] for line in listed] == list(range(1, 901))
    backwards = " ".join(map(str, [*range(900, 0, -1), 7, 7]))
    assert run("list", "--json", "-", stdin=backwards)[1].splitlines() == listed
    assert len(run("export", "-", stdin=backwards)[1].splitlines()) == 900
    assert run("retry", "--reason", "bad", "--no-check")[1] == "900 dead letters put back into the queue.\n"
    assert (dead_ids(queue_path), figures(queue_path).waiting) == ([], 900)


# Of a million


STEPPED = 100


@pytest.fixture
def steps(monkeypatch):
    """How many steps SQLite takes for a piece of work, on all connections that it opens."""
    counted = []
    connect = sqlite3.connect

    def counting(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.set_progress_handler(lambda: counted.append(STEPPED), STEPPED)
        return connection

    monkeypatch.setattr(sqlite3, "connect", counting)

    def of(work, *arguments, **options):
        counted.clear()
        work(*arguments, **options)
        return sum(counted)

    return of


def bury_many(path, sql, count, step=1):
    """So many dead letters, with ids *step* apart; their books hold."""
    EventQueue(path, min_free_bytes=0).close()
    sql(
        path,
        "INSERT INTO dead_letters (id, event_id, data, event, insert_id, reason, field, accepted_at, dead_at)"
        " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " SELECT i * ?, i, ?, 'A', '', 'bad ' || i, '', 1.0, 2.0 FROM n",
        (count, step, STORED[0]),
    )
    sql(path, "UPDATE ledger SET dead_lettered = ?", (count,))
    sql(path, "INSERT INTO sqlite_sequence (name, seq) VALUES ('ack_queue_default', ?)", (count,))


@pytest.mark.parametrize(
    "command",
    [
        ("list",),
        ("summary",),
        ("export", "--all"),
        ("export", "-"),
        ("retry", "--all", "--yes", "--no-check"),
        ("retry", "-", "--no-check"),
        ("delete", "--all", "--yes"),
        ("delete", "-"),
    ],
    ids=" ".join,
)
def test_each_costs_the_same_however_many_there_are(command, run, steps, sql, queue_path):
    """Ten times the dead letters take ten times the steps of SQLite, by whatever is done with them."""
    cost = {}
    for count in (2000, 20_000):
        shutil.rmtree(queue_path, ignore_errors=True)
        bury_many(queue_path, sql, count)
        ids = "\n".join(map(str, range(1, count + 1))) if "-" in command else ""
        cost[count] = steps(run, *command, stdin=ids) / count
    assert cost[20_000] < 1.2 * cost[2000]


def test_ids_far_apart_cost_no_more(sql, queue_path):
    """Between two dead letters any number may have been retried; that takes no looks."""
    bury_many(queue_path, sql, 100, step=1 << 40)
    with View(queue_path) as opened:
        statements = []
        opened.connection.set_trace_callback(statements.append)
        assert len(opened.dead_letters(Selection())) == 100
        assert len(statements) < 300


def test_a_summary_of_many_reasons_is_bounded(queue_path, sql, monkeypatch):
    """Of too many causes the rarest are summed up at the end, and each dead letter is counted once."""
    monkeypatch.setattr(dead_letters, "MOST_GROUPS", 10)
    monkeypatch.setattr(reader, "_CHUNK_IDS", 100)
    bury_many(queue_path, sql, 1000)
    sql(queue_path, "UPDATE dead_letters SET reason = 'frequent' WHERE id % 10 = 0")
    with View(queue_path) as opened:
        groups = opened.summary(Selection())
    assert (groups[0].reason, groups[0].count) == ("frequent", 100)
    assert [group.count for group in groups[1:-1]] == [1] * 9
    assert (groups[-1].reason, groups[-1].count) == ("other reasons", 891)


# What is not quite JSON


def test_what_is_not_quite_json_is_shown_and_mended(run, queue_path, rows):
    """A dead letter with NaN in it is listed, chosen and shown by name, and retried once that is replaced."""
    data = b'{"event":"Sold","properties":{"time":1600000000,"$insert_id":"i-1","price":NaN}}'
    bury(queue_path, [data], "'properties.price' is invalid: NaN is not JSON", "", None)
    assert "Sold" in run("list", "--event", "Sold")[1]
    shown = run("show", "1")[1]
    assert ("Sold" in shown, "i-1" in shown, '"price":NaN' in shown) == (True, True, True)
    code, _, err = run("retry", "1")
    assert (code, "'properties.price' is invalid: NaN is not JSON" in err) == (65, True)
    assert run("retry", "1", "--set", "properties.price:=null")[0] == 0
    assert rows(queue_path) == [data.replace(b"NaN", b"null")]


def test_data_beside_the_properties_is_mended(run, queue_path, rows):
    """What was refused beside the properties is taken away there, and given in them."""
    bury(queue_path, [b'{"event":"E","time":1600000000,"properties":{"$insert_id":"i-1"}}'])
    code, _, err = run("retry", "1")
    assert (code, "'time' beside 'properties'" in err) == (65, True)
    assert run("retry", "1", "--unset", "time", "--set", "properties.time:=1600000000")[0] == 0
    assert rows(queue_path) == [b'{"event":"E","properties":{"$insert_id":"i-1","time":1600000000}}']
