"""``enqueue --resume``: which file is known, and how far it is in."""

import gzip
import json
import os
import shutil

import pytest

from forwarder.records.reading import source
from forwarder.spool.engine import KEPT_BOOKMARKS
from tests.conftest import each_engine


def event(n):
    return json.dumps({"event": "E", "properties": {"time": 1_700_000_000, "n": n}})


def lines(*numbers):
    return "".join(event(n) + "\n" for n in numbers)


@pytest.fixture
def resume(run, tmp_path, monkeypatch):
    """Run the command in the directory of the test; returns exit code, count and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORWARDER_QUEUE_MIN_FREE_BYTES", "0")

    def enqueue(*arguments):
        code, out, err = run("enqueue", "--resume", "--json", *arguments)
        return code, json.loads(out)["accepted"], err

    return enqueue


@pytest.fixture
def numbers(rows, queue_path):
    """The numbers of the events in the queue, in order."""
    return lambda: [json.loads(data)["properties"]["n"] for data in rows(queue_path)]


def test_moved_and_copied_files_are_known(resume, tmp_path, numbers):
    """By its content, and by its path or by what it is to the system; a grown one goes on."""
    (tmp_path / "a").write_text(lines(0, 1))
    assert resume("a") == (0, 2, "")
    (tmp_path / "a").rename("a.1")
    with (tmp_path / "a.1").open("a") as file:
        file.write(lines(2))
    assert resume("a.1") == (0, 1, "a.1: 2 lines are in already, going on with line 3\n")
    shutil.copy("a.1", "copy")
    os.replace("copy", "a.1")
    os.symlink("a.1", "link")
    assert resume("link") == (0, 0, "link: 3 lines are in already, going on with line 4\n")
    assert resume("a.1")[:2] == (0, 0)
    assert numbers() == [0, 1, 2]


HEAD = "event,time,n,note\n"


def test_a_table_goes_on_at_its_row(resume, tmp_path, numbers):
    """Rows count as lines do, wherever they begin; a last one that was cut off comes again whole."""
    (tmp_path / "a.csv").write_text(f'{HEAD}E,1700000000,0,"two\nlines"\nE,1700000000,1,x\nE,17000')
    code, count, err = resume("a.csv")
    assert (code, count) == (65, 2)
    assert "a.csv:5: 2 cells in the row" in err
    with (tmp_path / "a.csv").open("a") as file:
        file.write("00000,2,x\nE,1700000000,3,x")
    assert resume("a.csv") == (0, 2, "a.csv: 2 lines are in already, going on with line 3\n")
    with (tmp_path / "a.csv").open("a") as file:
        file.write("\nE,1700000000,4,x\n")
    assert resume("a.csv", "--insert-ids", "content")[:2] == (0, 1)
    assert numbers() == [0, 1, 2, 3, 4]


def test_a_parquet_file_is_known_by_its_rows(resume, tmp_path, numbers):
    """What is in is not stored again."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = pyarrow.table({"event": ["E", "E"], "time": [1_700_000_000] * 2, "n": [0, 1]})
    parquet.write_table(rows, tmp_path / "a.parquet")
    assert resume("a.parquet")[:2] == (0, 2)
    assert resume("a.parquet") == (0, 0, "a.parquet: 2 lines are in already, going on with line 3\n")
    assert numbers() == [0, 1]


def test_another_file_of_the_name_is_read_from_its_start(resume, tmp_path, numbers):
    """A new one, one that was written over, and one that is shorter; the one before stays known."""
    said = "a: not the file of this name that is in; read from its start\n"
    (tmp_path / "a").write_text(lines(0, 1))
    resume("a")
    (tmp_path / "a").rename("a.1")
    (tmp_path / "a").write_text(lines(2))
    assert resume("a") == (0, 1, said)
    (tmp_path / "a").write_text(lines(3, 4))
    assert resume("a") == (0, 2, said)
    (tmp_path / "a").write_text("")
    assert resume("a") == (0, 0, said)
    (tmp_path / "a").write_text(lines(5))
    assert resume("a") == (0, 1, said)
    assert resume("a", "a.1")[:2] == (0, 0)
    assert numbers() == [0, 1, 2, 3, 4, 5]


def test_line_that_is_being_written(resume, tmp_path, numbers):
    """A last line without its end does not count as done if it is refused or blank; one that is good does."""
    whole = lines(0) + " \0" + lines(1)
    (tmp_path / "a").write_text(whole[:-10])
    code, count, err = resume("a")
    assert (code, count) == (65, 1)
    assert err.startswith("a:2: not JSON")
    (tmp_path / "a").write_text(lines(0) + " \0")
    assert resume("a")[:2] == (0, 0)
    (tmp_path / "a").write_text(whole[:-1])
    assert resume("a")[:2] == (0, 1)
    (tmp_path / "a").write_text(whole + lines(2))
    assert resume("a") == (0, 1, "a: 2 lines are in already, going on with line 3\n")
    assert numbers() == [0, 1, 2]


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("event,time,n\nE,1700000000,0\nE,1700000000,1", "1\nE,1700000000,2\n"),
        (lines(0) + event(1), event(11) + "\n" + lines(2)),
    ],
    ids=["cell", "second"],
)
def test_good_line_that_grows(resume, tmp_path, numbers, begin, end):
    """A cell that was cut, or an event that was not the only one: that line is stored again, and no other."""
    (tmp_path / "a").write_text(begin)
    assert resume("a")[:2] == (0, 2)
    assert resume("a")[:2] == (0, 0)
    (tmp_path / "a").write_text(begin + end)
    said = "a: 1 line is in already, going on with line 2, which has changed since it was stored\n"
    assert resume("a")[::2] == (0, said)
    assert resume("a") == (0, 0, "a: 3 lines are in already, going on with line 4\n")
    assert numbers().count(0) == numbers().count(11) == numbers().count(2) == 1


@pytest.mark.parametrize("form", ["array", "gzip"])
def test_other_forms(resume, tmp_path, form):
    """Elements of an array and lines of gzip are counted, blank and refused ones too."""
    pieces = [event(0), "3", event(1)]
    data = f"[{','.join(pieces)}]".encode() if form == "array" else gzip.compress("\n".join(pieces).encode())
    (tmp_path / "a").write_bytes(data)
    assert resume("a")[:2] == (65, 2)
    if form == "gzip":
        (tmp_path / "a").write_bytes(data + gzip.compress(b"\n\n" + lines(2).encode()))
    code, count, err = resume("a")
    assert (code, count) == (0, 1 if form == "gzip" else 0)
    assert err == "a: 3 lines are in already, going on with line 4\n"


def test_line_that_is_too_long(resume, tmp_path, monkeypatch):
    """Whether it was dropped while it was read or not until then, it is the same line."""
    (tmp_path / "a").write_text(lines(0) + "x" * 1_500_000 + "\n" + lines(1))
    with monkeypatch.context() as patched:
        patched.setattr(source, "BLOCK_BYTES", 1 << 18)
        assert resume("a")[:2] == (65, 2)
    assert resume("a")[:2] == (0, 0)


def test_ids_of_content_go_on(resume, tmp_path, rows, queue_path):
    """What is in counts among equal events, so that the rest gets the ids that it would have got at once."""
    arguments = ("--insert-ids", "content")
    (tmp_path / "a").write_text(lines(0, 0, 1))
    assert resume(*arguments, "a")[1] == 3
    (tmp_path / "a").write_text(lines(0, 0, 1, 0, 1))
    assert resume(*arguments, "a")[1] == 2
    shutil.copy("a", "b")
    assert resume(*arguments, "b")[1] == 5
    found = [json.loads(data)["properties"]["$insert_id"] for data in rows(queue_path)]
    assert len({*found}) == 5
    assert found[:5] == found[5:]


@each_engine
def test_bookmarks_are_bounded(resume, tmp_path, sql, queue_path):
    """The ones that were moved longest ago go."""
    (tmp_path / "a").write_text(lines(0))
    (tmp_path / "b").write_text(lines(1))
    resume("a")
    resume("b")
    fill = "INSERT INTO {}bookmarks (path, file, done, digest) SELECT {}, {}, 1, '' FROM {}"
    (tmp_path / "b").write_text(lines(1, 2))
    if queue_path.startswith("postgresql:"):
        import psycopg

        with psycopg.connect(queue_path) as server:
            series = f"generate_series(1, {KEPT_BOOKMARKS - 2}) AS n"
            server.execute(fill.format("forwarder.", "n", "n", series))
    else:
        series = (
            f"WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {KEPT_BOOKMARKS - 2})"
        )
        sql(queue_path, f"{series} {fill.format('', 'n', 'n', 's')}")
    assert resume("b")[1] == 1
    (tmp_path / "c").write_text(lines(3))
    assert resume("a", "b", "c")[1] == 1
    assert resume("b", "c")[1] == 0
    assert resume("a")[1] == 1, "the one that was moved longest ago is still known"


@pytest.mark.parametrize("arguments", [[], ["a", "-"], ["a", "--skip", "1"], ["a", "--check"], ["-e", "E"]])
def test_what_can_not_be_resumed(run, arguments):
    """Standard input, one event, and what stores nothing or from elsewhere: exit 64, and what to do."""
    code, out, err = run("enqueue", "--resume", *arguments)
    assert (code, out) == (64, "")
    assert "Name the file" in err or "Leave out" in err or "no --resume" in err


def test_fifo_can_not_be_resumed(resume, tmp_path):
    """How far it is in means nothing for what can be read only once."""
    os.mkfifo(tmp_path / "fifo")
    code, count, err = resume("fifo")
    assert (code, count) == (66, 0)
    assert "is not a regular file" in err
