"""Tables become numbered rows, whatever blocks they come in, and what is no row is refused alone."""

import codecs
import csv
import datetime
import decimal
import gzip
import io
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.errors import InputError, UsageError
from forwarder.records.event.mapping import EventMapping
from forwarder.records.event.rules import MAX_EVENT_BYTES
from forwarder.records.reading import BrokenInputError, Source, read_chunks, source
from forwarder.records.reading.table import separator_of, token_of

HEAD = "event,distinct_id,time,a\n"
BERLIN = datetime.timezone(datetime.timedelta(hours=1))
MOMENT = datetime.datetime(2024, 1, 2, 3, 4, 5, 678901)


class Got:
    """All rows that reading a file handed out, with numbers, and the error that ended it."""

    def __init__(
        self, path: Path, content: bytes, mapping: EventMapping | None, name: str, form: str
    ) -> None:
        path.write_bytes(content)
        self.rows: list[tuple[int, dict]] = []
        self.refused: list[tuple[int, str, bytes | None]] = []
        self.count = 0
        self.error: InputError | None = None
        with path.open("rb") as file:
            self.source = Source(file.fileno())
            try:
                for chunk in read_chunks(self.source, MAX_EVENT_BYTES, True, mapping, name, form):
                    assert len(chunk.numbers) == len(chunk.lines)
                    self.count += len(chunk.lines)
                    self.refused += chunk.refused
                    for number, row in zip(chunk.numbers, chunk.lines, strict=True):
                        if not isinstance(row, bytes):
                            self.rows.append((number, {key: json.loads(row[key]) for key in row}))
            except InputError as error:
                self.error = error


@pytest.fixture
def read(tmp_path):
    """Reads text or bytes as a table from a real file."""

    def read(content, mapping=None, name="", form="auto"):
        data = content.encode() if isinstance(content, str) else content
        return Got(tmp_path / "input", data, mapping, name, form)

    return read


@pytest.mark.parametrize("separator", ",;\t")
def test_a_first_line_for_excel_is_passed_over(read, separator):
    """Which says what separates the cells; lines count on."""
    text = "sep=,\nevent,n\nE,1\n".replace(",", separator)
    assert read(text, name="a.csv").rows == [(3, {"event": "E", "n": 1})]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_rows_are_numbered_by_lines_of_the_file(read, monkeypatch, size):
    """Line breaks in cells, CRLF, blank lines, rows of commas and a byte order mark do not shift a number."""
    monkeypatch.setattr(source, "BLOCK_BYTES", size)
    text = '\n"event",distinct_id,time,"a"\r\nE,u,1,"x\ny ""z"""\r\n\r\n,,,\nF,,2,é\nG,w,3,"1"'
    got = read(codecs.BOM_UTF8 + text.encode())
    assert got.rows == [
        (3, {"event": "E", "distinct_id": "u", "time": 1, "a": 'x\ny "z"'}),
        (7, {"event": "F", "time": 2, "a": "é"}),
        (8, {"event": "G", "distinct_id": "w", "time": 3, "a": 1}),
    ]
    assert (got.count, got.refused, got.error) == (5, [], None)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        *[(text, text) for text in ("-12", "0", "10.00", "0.5", "123456789012345", "-0.12345678901234")],
        *[(text, f'"{text}"') for text in ("007", "+1", "1e5", ".5", "1.", "-", "1_0", "٣", "0x1", " 1")],
        ("1234567890123456", '"1234567890123456"'),
        *[(text, text.lower()) for text in ("true", "True", "FALSE")],
        *[(text, f'"{text}"') for text in ("tRue", "null", "NaN", "yes")],
        ('say "hi"\t\n', '"say \\"hi\\"\\t\\n"'),
    ],
)
def test_a_cell_becomes_a_number_only_if_nothing_is_lost(cell, value):
    """Numbers as they are written, if a double holds them exactly; what may be an id stays text."""
    assert token_of(cell) == value


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.text(max_size=6), min_size=3, max_size=3), max_size=6),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 40),
)
def test_what_a_csv_writer_writes_is_read_back(rows, separator, line_end, size):
    """Any text in cells comes back, with each separator and line end, in blocks of any size."""
    text = io.StringIO()
    # Python's writer does not quote a carriage return by itself.
    quoting = (
        csv.QUOTE_ALL if any("\r" in cell for row in rows for cell in row) or size % 2 else csv.QUOTE_MINIMAL
    )
    writer = csv.writer(text, delimiter=separator, lineterminator=line_end, quoting=quoting)
    writer.writerows([["event", "distinct_id", "c"], *rows])
    read_fd, write_fd = os.pipe()
    with open(write_fd, "wb") as pipe:
        pipe.write(text.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch, open(read_fd, "rb") as pipe:
        patch.setattr(source, "BLOCK_BYTES", size)
        mapping = EventMapping(texts=frozenset(["event", "distinct_id", "c"]))
        chunks = list(read_chunks(Source(pipe.fileno()), MAX_EVENT_BYTES, True, mapping, "a.csv"))
    found = [row for chunk in chunks for row in chunk.lines if not isinstance(row, bytes)]
    expected = [dict(zip(("event", "distinct_id", "c"), row, strict=True)) for row in rows if any(row)]
    assert [{key: json.loads(row[key]) for key in row} for row in found] == [
        {key: cell for key, cell in row.items() if cell} for row in expected
    ]
    assert not any(chunk.refused for chunk in chunks)


def test_a_row_that_does_not_fit_is_refused_alone(read):
    """Too many and too few cells, and text after a closing quote, are refused by line, the others read."""
    got = read(HEAD + 'E,u,1\nE,u,1,2,3\nE,"u" x,1,2\n"E,u,1,2\nF,"v",1,2\nE,u,1,9\n', name="a.csv")
    assert [number for number, _ in got.rows] == [7]
    assert [(number, cells) for number, _, cells in got.refused] == [
        (2, b'["E","u","1"]'),
        (3, b'["E","u","1","2","3"]'),
        (4, None),
        (5, None),
    ]
    reasons = [reason for _, reason, _ in got.refused]
    assert "3 cells" in reasons[0]
    assert "heading has 4" in reasons[0]
    assert "lines 5 to 6" in reasons[3]


@pytest.mark.parametrize("text", ["E,u,1,2\n", ",", "x", ",\n"])
def test_a_quote_that_is_never_closed_names_its_line(read, text):
    """It ends the file there, at the end or after a megabyte of the cell; what came before is handed out."""
    for count in (3, 5_000_000 // len(text)):
        got = read(HEAD + 'E,u,1,2\nE,"' + text * count)
        assert isinstance(got.error, BrokenInputError)
        assert (got.error.line, [number for number, _ in got.rows]) == (3, [2])
        assert got.source.read_bytes < 3_000_000


def test_an_endless_line_ends_the_file_with_its_number(read):
    """A line of more than a megabyte is not kept; what came before is handed out."""
    got = read((HEAD + "E,u,1,2\n").encode() + b"x," * 3_000_000)
    assert isinstance(got.error, BrokenInputError)
    assert (got.error.line, [number for number, _ in got.rows]) == (3, [2])
    assert got.source.read_bytes < 3_000_000


@pytest.mark.parametrize(
    ("head", "name", "is_mapped", "separator"),
    [
        ("event,a\nE,1\n", "", False, ","),
        ("event;a\nE;1,5\n", "", False, ";"),
        ("event\ta\nE\t1\n", "", False, "\t"),
        ('event,a\nE,"x\ny, z"\n', "", False, ","),
        ("a,b\n1,2\n", "", False, ""),
        ("a,b\n1,2\n", "", True, ","),
        ("a,b\n1,2\n", "a.csv", False, ","),
        ("a;b\n1;2\n", "A.CSV.GZ", False, ";"),
        ("a b\tc,d,e\n", "a.tsv.zst", False, "\t"),
        ("a\n1\n", "a.csv", False, ","),
        ("event,a\n", "", False, ","),
        ("starting, event\n", "", False, ","),
        ('Loaded, ok\n{"event":"E","properties":{}}\n', "", True, ""),
        ("2024-01-02 INFO event, x\na, b", "", True, ""),
        ('{"event":"E",\n"a":1}', "a.csv", True, ""),
        ('[{"event":"E"}]', "a.csv", True, ""),
        ("", "a.csv", True, ""),
    ],
)
def test_a_table_is_told_by_its_heading_or_name(head, name, is_mapped, separator):
    """JSON is never read as a table, and what is not named as one only with a heading and rows like it."""
    assert separator_of(head.encode(), name, is_mapped) == separator


def test_no_line_of_a_live_stream_waits_for_the_next(tmp_path):
    """What is no heading is handed out at once, and rows of a table as they come."""
    for first in (b"bad\n", b'\n{"event":"E"}\n', b'\x1e{"event":"E",\t"a":1}\n', b"event,a\nE,1\n"):
        read_fd, write_fd = os.pipe()
        with open(read_fd, "rb") as pipe, open(write_fd, "wb", buffering=0) as writer:
            writer.write(first)
            chunks = read_chunks(Source(pipe.fileno()), MAX_EVENT_BYTES, True)
            assert next(chunks).lines
            if first.startswith(b"event"):
                writer.write(b"F,2\n")
                assert next(chunks).lines == [{"event": '"F"', "a": "2"}]


def test_a_format_that_is_given_is_believed(read):
    """--format decides where content and name say something else, or nothing."""
    assert read("a b\n1\n", EventMapping(name="E"), form="csv").rows == [(2, {"a b": 1})]
    assert read("a,b\tc\n1\t2\n", EventMapping(name="E"), form="tsv").rows == [(2, {"a,b": 1, "c": 2})]
    assert read("event,a\nE,1\n", name="a.csv", form="ndjson").rows == []
    assert read('\n[{"a":1}]', name="a.csv", form="json").count == 1
    assert "not a Parquet file" in str(read("event,a\n", form="parquet").error)


def test_compressed_tables_are_read(read):
    """Compression comes off first; the heading may come in several blocks."""
    packed = gzip.compress((HEAD + "E,u,1,2\n").encode())
    assert read(packed).rows == [(2, {"event": "E", "distinct_id": "u", "time": 1, "a": 2})]


def test_what_is_not_utf8_is_refused(read):
    """A heading that is not UTF-8 as a whole; UTF-16, as Excel writes it, with the remedy."""
    assert "iconv -f LATIN1" in read("event,é\nE,1\n".encode("latin1"), name="a.csv").error.remedy
    assert "iconv -f UTF-16" in read((HEAD + "E,u,1,2\n").encode("utf-16")).error.remedy


@pytest.mark.parametrize(
    ("heading", "mapping", "why"),
    [
        ("a,b", {}, "no column is named event"),
        ("event,a", {"time": "at"}, "--time-column: there is no column 'at'. The columns are: event, a"),
        ("event,a", {"dropped": frozenset(["x"])}, "--drop-columns: there is no column 'x'"),
        ("event,a,a", {}, "'a' is there twice"),
        ("event,,b", {}, "column 2 has no name"),
        ("event,created_at", {}, "'created_at' may be it: give --time-column created_at"),
        ("event,userId,time", {}, "'userId' may be it: give --distinct-id-column userId"),
        ("event,time,ts", {"time": "ts"}, "--drop-columns time"),
    ],
)
def test_columns_that_can_not_be_read_are_named_at_once(read, heading, mapping, why):
    """A heading that does not go with the options, or is ambiguous, is an error before any row is read."""
    with pytest.raises(UsageError, match="column") as raised:
        read(f"{heading}\nx\n", EventMapping(**mapping), "a.csv")
    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("heading", "mapping", "names"),
    [
        ("event,a,a,", {"dropped": frozenset(["", "a"])}, {"event"}),
        ("event,a,a,b", {"only": ["b"]}, {"event", "b"}),
        ("event,created_at,d", {"dropped": frozenset(["created_at"])}, {"event", "d"}),
        ("event,created_at,d", {"time": ""}, {"event", "created_at", "d"}),
        ("event,time,ts", {"time": "ts", "dropped": frozenset(["time"])}, {"event", "ts"}),
        ("event,user_id,date,x", {"dropped": frozenset(["time", "distinct_id"])}, None),
    ],
)
def test_columns_that_are_left_out_may_be_anything(read, heading, mapping, names):
    """Only what is read needs a name of its own."""
    row = ",".join("x" * len(heading.split(",")))
    if names is None:
        with pytest.raises(UsageError):
            read(f"{heading}\n{row}\n", EventMapping(**mapping), "a.csv")
    else:
        assert set(read(f"{heading}\n{row}\n", EventMapping(**mapping), "a.csv").rows[0][1]) == names


def parquet(**columns: object) -> bytes:
    """A Parquet file of these columns."""
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=2)
    return file.getvalue()


def test_parquet_keeps_types_and_nesting(read):
    """Each type becomes what JSON has for it; what has no value is left out, and rows count from 1."""
    moments = pa.array([1704164645678901234, None, 1704164645678901234], pa.timestamp("ns"))
    content = parquet(
        event=["A", "B", "C"],
        time=moments,
        naive=moments,
        aware=pa.array([MOMENT.replace(tzinfo=BERLIN)] * 3, pa.timestamp("us", "Europe/Berlin")),
        day=[MOMENT.date()] * 3,
        clock=[MOMENT.time()] * 3,
        price=[decimal.Decimal("1.50")] * 3,
        ratio=[0.5, float("nan"), None],
        big=[2**60, None, 1],
        word=pa.array(["x", "", None]).dictionary_encode(),
        raw=[b"ok", None, b""],
        yes=[True, False, None],
        nested=[{"a": [1], "t": MOMENT, "n": None}] * 3,
        table=pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
    )
    got = read(content)
    assert (got.refused, got.error, [number for number, _ in got.rows]) == ([], None, [1, 2, 3])
    assert got.rows[0][1] == {
        "event": "A",
        "time": "2024-01-02T03:04:05.678901",
        "naive": "2024-01-02T03:04:05",
        "aware": "2024-01-02T02:04:05",
        "day": "2024-01-02",
        "clock": "03:04:05.678901",
        "price": 1.5,
        "ratio": 0.5,
        "big": 2**60,
        "word": "x",
        "raw": "ok",
        "yes": True,
        "nested": {"a": [1], "t": "2024-01-02T03:04:05", "n": None},
        "table": {"k": 1},
    }
    assert set(got.rows[2][1]) == {
        "event", "time", "naive", "aware", "day", "clock", "price", "big", "raw", "nested"
    }  # fmt: skip


def test_parquet_refuses_a_cell_that_json_can_not_hold(read):
    """The row is refused by its number, with the column's name; the others are read."""
    got = read(parquet(event=["A", "B", "C"], raw=[b"\xff", None, b"x"], n=[1.0, float("inf"), 2.0]))
    assert [number for number, _ in got.rows] == [3]
    assert [number for number, _, _ in got.refused] == [1, 2]
    assert "'properties.raw'" in got.refused[0][1]
    assert "'properties.n'" in got.refused[1][1]


def test_parquet_reads_only_what_is_needed(read):
    """Text columns become text, and ids; left out columns are not read."""
    content = parquet(event=["A"], distinct_id=[7], n=[12], b=[True], x=[b"\xff"])
    mapping = EventMapping(texts=frozenset(["n", "b"]), dropped=frozenset(["x"]))
    assert read(content, mapping).rows == [(1, {"event": "A", "distinct_id": "7", "n": "12", "b": "true"})]


def test_parquet_that_can_not_be_read_says_why(read, monkeypatch, tmp_path):
    """From a pipe, compressed, cut off or damaged, and without pyarrow: each has its sentence."""
    content = parquet(event=["A", "B", "C"] * 2000)
    assert "compressed as a whole" in str(read(gzip.compress(content)).error)
    assert "damaged" in str(read(content[:-9]).error)
    middle = len(content) // 2
    broken = read(content[:middle] + os.urandom(40) + content[middle + 40 :])
    assert "damaged" in str(broken.error) or broken.count == 6000
    read_fd, write_fd = os.pipe()
    os.write(write_fd, content[:1000])
    os.close(write_fd)
    with open(read_fd, "rb") as pipe, pytest.raises(InputError, match="can't be read from a pipe"):
        next(read_chunks(Source(pipe.fileno()), MAX_EVENT_BYTES, True))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "mixpanel-forwarder[parquet]" in read(content).error.remedy
