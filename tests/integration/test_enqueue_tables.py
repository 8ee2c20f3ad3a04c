"""``forwarder enqueue`` with tables and flat records: what a person with such a file does, sees and gets."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

EXPORTS = Path(__file__).parents[1] / "data/exports"
ORDERS = b"""\
order,user_id,paid_at,zip,price,note,gift
A-1,u1,2024-01-02 04:04:05,01234,10.00,"two
lines, and ""quotes""\",True
A-2,00077,2024-01-02T03:04:05Z,99999,1e5,,
A-3,u3,noon,1,2,x,false

A-4,u4,2024-07-02 03:04:05,2,3
A-5,u5,2024-07-02 03:04:05,12345,-0.5,,false
"""
OPTIONS = ("-e", "Order Paid", "--distinct-id-column", "user_id", "--insert-id-column", "order")
OPTIONS += ("--time-column", "paid_at", "--time-zone", "Europe/Berlin", "--text-columns", "zip")
FIRST = {
    "event": "Order Paid",
    "properties": {
        "time": 1704164645000,
        "distinct_id": "u1",
        "$insert_id": "A-1",
        "zip": "01234",
        "price": 10.0,
        "note": 'two\nlines, and "quotes"',
        "gift": True,
    },
}


@pytest.fixture
def stored(forwarder):
    """The events in the queue, in order."""

    def stored() -> list[dict]:
        lines = forwarder("peek", "--json", "-n", "100").stdout.splitlines()
        return [json.loads(line)["event"] for line in lines]

    return stored


def test_a_csv_is_in_at_the_first_try(forwarder, stored, tmp_path):
    """Each row is an event by the options; what is refused is named by line and column, kept, and fixed."""
    (tmp_path / "orders.csv").write_bytes(ORDERS)
    file, rejects = str(tmp_path / "orders.csv"), str(tmp_path / "rejects")
    checked = forwarder("enqueue", "--check", *OPTIONS, file)
    *shown, count = checked.stdout.splitlines()
    assert [json.loads(line)["properties"]["$insert_id"] for line in shown] == ["A-1", "A-2", "A-5"]
    assert json.loads(shown[0]) == FIRST
    assert count == "would accept 3 events, refused 2"
    assert not Path(forwarder.queue_path).exists()

    done = forwarder("enqueue", "--json", "--rejects", rejects, *OPTIONS, file)
    assert (done.returncode, json.loads(done.stdout)) == (
        65,
        {"accepted": 3, "refused": 2, "lines": 6, "ids": "1-3"},
    )
    told = done.stderr.splitlines()
    assert told[0].startswith(
        f"{file}:5: 'paid_at' is invalid: 'noon' is not a time in ISO 8601; --time-format"
    )
    assert told[1] == f"{file}:7: 5 cells in the row, where the heading has 7"
    assert stored()[0] == FIRST
    kept = [json.loads(line) for line in Path(rejects).read_text().splitlines()]
    assert [one["line"] for one in kept] == [5, 7]
    assert kept[1]["event"] == ["A-4", "u4", "2024-07-02 03:04:05", "2", "3"]
    fixed = {**kept[0]["event"], "paid_at": "2024-01-02 12:00:00"}
    again = forwarder("enqueue", *OPTIONS, stdin=json.dumps(fixed))
    assert (again.returncode, again.stdout) == (0, "accepted 1 event\n"), again.stderr
    expected = {"time": 1704193200000, "distinct_id": "u3", "$insert_id": "A-3"}
    expected |= {"zip": "1", "price": 2, "note": "x", "gift": False}
    assert stored()[3]["properties"] == expected


def test_skip_counts_rows(forwarder, stored, tmp_path):
    """--skip goes over rows, blank and refused ones too, and messages name lines of the file."""
    (tmp_path / "orders.csv").write_bytes(ORDERS)
    done = forwarder("enqueue", "--skip", "2", *OPTIONS, str(tmp_path / "orders.csv"))
    assert ":5: 'paid_at'" in done.stderr
    assert ":7: 5 cells" in done.stderr
    assert [event["properties"]["$insert_id"] for event in stored()] == ["A-5"]


def test_a_quote_that_is_never_closed_says_how_to_continue(forwarder, stored):
    """What came before is stored; the line, the remedy and the number for --skip are named."""
    text = ORDERS.replace(b"A-2,00077", b'A-2,"00077')
    done = forwarder("enqueue", *OPTIONS, stdin=text)
    assert done.returncode == 65
    assert "<stdin>:4: a quote that opens in the row which begins here is not closed" in done.stderr
    assert "continue with --skip 1" in done.stderr
    done = forwarder("enqueue", *OPTIONS, "--skip", "1", stdin=ORDERS)
    assert [event["properties"]["$insert_id"] for event in stored()] == ["A-1", "A-2", "A-5"]


def test_several_files_may_have_several_forms(forwarder, stored, tmp_path):
    """Parquet, packed CSV, TSV, flat records and events in one call, each by its content."""
    file = io.BytesIO()
    pq.write_table(pa.table({"event": ["P"], "distinct_id": ["u"], "n": [{"a": [1]}]}), file)
    contents = {
        "a": file.getvalue(),
        "b.gz": subprocess.run(
            ["gzip"], input=b"event;distinct_id;n\nC;u;1\n", capture_output=True, check=True
        ).stdout,
        "c.tsv": b"distinct_id\tevent\tn\nu\tT\t1\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    names = [str(tmp_path / name) for name in contents]
    done = forwarder("enqueue", *names, "-", stdin='{"event":"E","properties":{"distinct_id":"u"}}')
    assert (done.returncode, done.stdout) == (0, "accepted 4 events\n"), done.stderr
    assert [event["event"] for event in stored()] == ["P", "C", "T", "E"]
    assert stored()[0]["properties"]["n"] == {"a": [1]}


def test_a_column_that_is_not_there_stores_nothing(forwarder, tmp_path):
    """The file, the column and the columns there are, at once; earlier files say how to continue."""
    (tmp_path / "a.csv").write_text("event,a\nE,1\n")
    (tmp_path / "b.csv").write_text("event,b\nE,1\n")
    wrong = forwarder("enqueue", "--text-columns", "b", str(tmp_path / "a.csv"))
    assert wrong.returncode == 64
    assert "a.csv: --text-columns: there is no column 'b'. The columns are: event, a" in wrong.stderr
    done = forwarder("enqueue", "--text-columns", "a", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"))
    assert done.returncode == 64
    assert "b.csv: --text-columns: there is no column 'a'" in done.stderr
    assert "continue with --skip 1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--kind", "profile", "--format", "csv"], "for events"),
        (["--kind", "group", "--columns", "a"], "for events"),
        (["-e", "E", "-d", "u", "--format", "csv"], "describe one event"),
        (["-e", "E", "-p", "a=1", "a.csv"], "describe one event"),
        (["--time-zone", "Mars"], "--time-zone 'Mars' is no time zone"),
        (["-e", "E", "--event-column", "a"], "Remove one or the other"),
    ],
)
def test_options_that_do_not_go_together_are_named(run, arguments, why):
    """Contradictions are exit 64, before anything is read."""
    code, _, err = run("enqueue", *arguments)
    assert (code, why in err) == (64, True)


def test_an_old_export_of_mixpanel_becomes_true_times(forwarder, stored):
    """Local times of a project made before 2023 are converted; a new export passes as it is."""
    export = str(EXPORTS / "mixpanel.ndjson.gz")
    done = forwarder("enqueue", export)
    assert (done.returncode, done.stdout) == (0, "accepted 4 events\n"), done.stderr
    before = [event["properties"] for event in stored()]
    done = forwarder("enqueue", "--time-zone", "America/Los_Angeles", export)
    assert (done.returncode, done.stdout) == (0, "accepted 4 events\n"), done.stderr
    after = [event["properties"] for event in stored()[4:]]
    assert [one["time"] // 1000 - two["time"] for one, two in zip(after, before, strict=True)] == [
        28800, 25200, 25200, 25200
    ]  # fmt: skip
    assert [{**one, "time": 0} for one in after] == [{**two, "time": 0} for two in before]
    # Mixpanel got each within a minute of its time.
    assert all(0 <= one["mp_processing_time_ms"] - one["time"] < 60_000 for one in after)


def test_memory_does_not_grow_with_a_table(tmp_path):
    """Of four times as many rows it takes hardly more, from CSV and from one row group of Parquet."""
    columns = ("event", "distinct_id", "time", "$insert_id", "plan", "price", "page")
    peak = {}
    for count in (30_000, 120_000):
        with (tmp_path / "a.csv").open("w") as file:
            file.write(",".join(columns) + "\n")
            file.writelines(f"E,user-{n},170{n:010},{n:032},free,1.25,/docs/{n}\n" for n in range(count))
        rows = [f"/docs/{n}" for n in range(count)]
        table = {"event": ["E"] * count, "page": rows, "id": [f"{n:032}" for n in range(count)]}
        pq.write_table(pa.table(table), tmp_path / "a.parquet", row_group_size=count)
        for name in ("a.csv", "a.parquet"):
            peak[name, count] = _peak_mib(tmp_path / name, count)
    assert peak["a.csv", 120_000] < peak["a.csv", 30_000] + 12
    assert peak["a.parquet", 120_000] < peak["a.parquet", 30_000] + 40


def _peak_mib(path: Path, count: int) -> float:
    """The peak memory of checking a file, by a small program, whose own is not part of it."""
    script = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'forwarder', 'enqueue', '--check', sys.argv[1]])\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"would accept {count:,} events" in done.stdout
    return int(done.stdout.splitlines()[-1]) / 1024
