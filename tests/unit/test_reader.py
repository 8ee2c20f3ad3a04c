"""Input of any accepted form becomes numbered lines, whatever blocks it comes in."""

import bz2
import codecs
import gzip
import json
import lzma
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.errors import InputError
from forwarder.records.event.rules import MAX_EVENT_BYTES
from forwarder.records.reading import (
    CHUNK_LINES,
    BrokenInputError,
    Source,
    StoppedError,
    array,
    decompression,
    read_chunks,
    source,
    take_apart,
)

(GZIP,) = (codec for codec in decompression._CODECS if codec.name == "gzip")
EVENTS = [b'{"event": "A", "properties": {"n": %d}}' % n for n in range(5)]
NDJSON = b"".join(event + b"\n" for event in EVENTS)


class Got:
    """All that reading a file handed out, and the error that ended it."""

    def __init__(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        fd = os.open(path, os.O_RDONLY)
        self.lines: list[bytes] = []
        self.refused: list[tuple[int, str]] = []
        self.error: InputError | None = None
        try:
            for chunk in read_chunks(Source(fd), MAX_EVENT_BYTES):
                assert chunk.numbers == range(len(self.lines) + 1, len(self.lines) + len(chunk.lines) + 1)
                assert len(chunk.lines) <= CHUNK_LINES
                self.lines += chunk.lines
                self.refused += [(number, reason) for number, reason, _ in chunk.refused]
        except InputError as error:
            self.error = error
        finally:
            os.close(fd)


@pytest.fixture(params=[1, 7, 1 << 20], ids=lambda size: f"blocks of {size}")
def read(request, tmp_path, monkeypatch):
    """Reads bytes from a real file, in blocks of several sizes."""
    monkeypatch.setattr(source, "BLOCK_BYTES", request.param)
    monkeypatch.setattr(decompression, "BLOCK_BYTES", request.param)
    return lambda content: Got(tmp_path / "input", content)


def test_lines_are_handed_out_as_they_came(read):
    """Each line of NDJSON is one entry, byte for byte."""
    got = read(NDJSON)
    assert (got.lines, got.refused, got.error) == (EVENTS, [], None)


def test_last_line_needs_no_newline(read):
    """A last line without a newline is taken."""
    assert read(NDJSON[:-1]).lines == EVENTS


def test_empty_input_has_no_events(read):
    """Empty input, also gzipped, is no error and holds no lines."""
    for content in (b"", codecs.BOM_UTF8, gzip.compress(b"")):
        got = read(content)
        assert (got.lines, got.error) == ([], None)


def test_blank_lines_are_counted(read):
    """Blank lines keep their numbers, so that a refusal names the line an editor shows."""
    assert read(b"\n  \n" + EVENTS[0] + b"\n\n" + EVENTS[1]).lines == [b"", b"  ", EVENTS[0], b"", EVENTS[1]]


def test_many_blank_lines_come_before_the_first_event(tmp_path):
    """White space at the start, however long, neither hides what follows nor loses count."""
    got = Got(tmp_path / "input", b"\n" * 300_000 + NDJSON)
    assert len(got.lines) == 300_005
    assert got.lines[-5:] == EVENTS


def test_crlf_is_a_line_end(read):
    """Lines that end in CRLF are handed out without either byte."""
    assert read(NDJSON.replace(b"\n", b"\r\n")).lines == EVENTS


def test_utf8_bom_is_passed_over(read):
    """A UTF-8 byte order mark is not part of the first line, gzipped or not."""
    for content in (codecs.BOM_UTF8 + NDJSON, gzip.compress(codecs.BOM_UTF8 + NDJSON)):
        assert read(content).lines == EVENTS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_utf16_and_utf32_are_refused_with_the_remedy(read, encoding):
    """Text in UTF-16 or UTF-32, with or without a mark, is refused as a whole, naming iconv."""
    got = read(NDJSON.decode().encode(encoding))
    assert got.lines == []
    assert "UTF-16" in str(got.error)
    assert "iconv" in got.error.remedy


def test_a_zip_archive_is_refused_with_the_remedy(read):
    """A zip archive is named as such instead of as thousands of bad lines."""
    got = read(b"PK\x03\x04\x01\n\x02\n\x03\n")
    assert got.lines == []
    assert "Unpack it: unzip -p" in got.error.remedy


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress, zstandard.compress])
def test_other_compressions_are_read_as_gzip_is(read, pack, tmp_path):
    """bzip2, xz and zstd are read in one stream or several, padded or packed twice; what is cut short hands
    out what came before, and what follows is named."""
    many = b"".join(pack(event + b"\n") for event in EVENTS)
    for content in (pack(NDJSON), many, many + bytes(600), gzip.compress(many), pack(many)):
        got = read(content)
        assert (got.lines, got.error) == (EVENTS, None)
    after = read(pack(NDJSON) + b"rest\n")
    assert (after.lines, "is not" in str(after.error)) == (EVENTS, True)
    lines = [os.urandom(40).hex().encode() for _ in range(2000)]
    packed = b"".join(pack(b"\n".join(lines[at : at + 100]) + b"\n") for at in range(0, 2000, 100))
    cut = Got(tmp_path / "cut", packed[:-300])
    assert "cut short" in str(cut.error)
    assert 1800 <= len(cut.lines) < 2000
    assert cut.lines == lines[: len(cut.lines)]
    broken = Got(tmp_path / "broken", packed[:9000] + bytes(range(1, 200)) + packed[9200:])
    assert broken.error is not None
    assert broken.lines[:200] == lines[:200]


def test_compressed_data_may_be_many_times_larger(tmp_path):
    """What decompresses to a hundred times its size, and begins with a frame to be skipped, is read."""
    skipped = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    got = Got(tmp_path / "input", skipped + zstandard.compress(NDJSON * 30_000))
    assert got.error is None
    assert got.lines == EVENTS * 30_000


def test_compression_that_this_python_can_not_read_names_the_remedy(read, monkeypatch):
    """Without a module for it, what to install and the command that does without are named."""
    for name in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    got = read(zstandard.compress(NDJSON))
    assert got.lines == []
    assert "zstd" in str(got.error)
    assert "zstandard" in str(got.error)
    assert "zstdcat FILE | forwarder enqueue" in got.error.remedy


def test_gzip_is_unpacked(read):
    """Gzip of NDJSON or an array, in one member or several, padded with zeros or packed twice, is read."""
    many = b"".join(gzip.compress(event + b"\n") for event in EVENTS)
    packed_array = gzip.compress(b"[" + b",".join(EVENTS) + b"]")
    for content in (gzip.compress(NDJSON), many, many + bytes(600), packed_array, gzip.compress(many)):
        got = read(content)
        assert (got.lines, got.error) == (EVENTS, None)


def test_gzip_may_unpack_to_much_more(tmp_path):
    """A small gzip file of many blocks' worth of text is read completely."""
    got = Got(tmp_path / "input", gzip.compress(NDJSON * 30_000))
    assert got.lines == EVENTS * 30_000


def test_gzip_hands_out_all_that_came(monkeypatch):
    """A live gzip stream that was flushed is unpacked up to there, though it unpacks to many blocks."""
    monkeypatch.setattr(decompression, "BLOCK_BYTES", 1000)
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(NDJSON * 1000) + packer.flush(zlib.Z_SYNC_FLUSH)
    unpacked = decompression.decompress([packed], GZIP, lambda: None)
    assert b"".join(next(unpacked) for _ in range(len(NDJSON))) == NDJSON * 1000


def test_truncated_gzip_hands_out_what_is_complete(tmp_path):
    """Of gzip that is cut short, every complete line is handed out, and the cut is an error."""
    lines = [os.urandom(40).hex().encode() for _ in range(2000)]
    packed = gzip.compress(b"\n".join(lines) + b"\n")
    got = Got(tmp_path / "input", packed[: len(packed) // 2])
    assert 500 < len(got.lines) < 1500
    assert got.lines == lines[: len(got.lines)]
    assert isinstance(got.error, BrokenInputError)
    assert f"cut short here, after {len(packed) // 2} bytes" in str(got.error)


def test_damaged_gzip_is_an_error(tmp_path):
    """Gzip data that is damaged inside is an error; nothing after the damage is handed out."""
    lines = [os.urandom(40).hex().encode() for _ in range(2000)]
    packed = bytearray(gzip.compress(b"\n".join(lines)))
    packed[-6] ^= 0xFF  # in the checksum
    got = Got(tmp_path / "input", bytes(packed))
    assert got.lines == lines[: len(got.lines)]
    assert isinstance(got.error, BrokenInputError)
    assert "damaged" in str(got.error)


def test_what_follows_gzip_must_be_gzip(read):
    """Something else after gzip data is an error, and all of the gzip data is handed out."""
    got = read(gzip.compress(NDJSON) + b"something else")
    assert got.lines == EVENTS
    assert "not gzip" in str(got.error)


def test_line_too_long_is_refused_alone(tmp_path):
    """A line that is much too long is refused by its number; its neighbours are not."""
    long = b"x" * (MAX_EVENT_BYTES * 5)
    got = Got(tmp_path / "input", EVENTS[0] + b"\n" + long + b"\n" + EVENTS[1] + b"\n" + long)
    assert got.lines == [EVENTS[0], b"", EVENTS[1], b""]
    assert [number for number, _ in got.refused] == [2, 4]
    assert all("longer than 1000000 bytes" in reason for _, reason in got.refused)


# JSON arrays


def test_array_is_taken_apart(read):
    """Each element of an array is one entry, byte for byte, however the array is laid out."""
    compact = b"[" + b",".join(EVENTS) + b"]"
    spread = b" \r\n[\n  " + b" ,\n\t".join(EVENTS) + b"\n]\n\n"
    for content in (compact, spread, b" " * 5000 + compact, codecs.BOM_UTF8 + compact):
        got = read(content)
        assert (got.lines, got.refused, got.error) == (EVENTS, [], None)


def test_elements_of_any_kind_are_handed_out(read):
    """Elements that are no objects, or no JSON inside, are left for their reader to judge."""
    elements = [b"1", b'"a,]"', b"null", b"[[1], 2]", b'{"a": nope}', b'{"b": "\\"]}"}', b"1" * 5000, b"\xff"]
    assert read(b"[" + b" , ".join(elements) + b"]").lines == elements


def test_empty_array_has_no_events(read):
    """An empty array holds no lines."""
    got = read(b" [ ] ")
    assert (got.lines, got.error) == ([], None)


@pytest.mark.parametrize(
    ("after", "why", "at"),
    [
        (b' {"b": 2}]', "a comma or ] is missing", 10),
        (b", , 3]", "an element is missing", 11),
        (b',{"b": ]', "closes what was not opened", 16),
        (b',{"b": [}', "closes what was not opened", 17),
        (b"", "ends without a ]", 9),
        (b",", "ends without a ]", 10),
        (b', {"b": 2', "begins at byte", 11),
        (b', "b', "begins at byte", 11),
        (b", tru", "begins at byte", 11),
    ],
)
def test_broken_array_hands_out_what_comes_before(read, after, why, at):
    """Elements before a syntax error are handed out; the error says what is wrong and at which byte."""
    got = read(b'[{"a":1}' + after)
    assert got.lines == [b'{"a":1}']
    assert isinstance(got.error, BrokenInputError)
    assert why in str(got.error)
    assert str(got.error).endswith(f"byte {at}")


def test_element_too_long_is_refused_alone(tmp_path):
    """An element that is much too long is refused by its number; its neighbours are not."""
    long = b'{"a": ["' + b'\\"]x' * MAX_EVENT_BYTES + b'"]}'
    got = Got(tmp_path / "input", b"[" + b",".join([EVENTS[0], long, EVENTS[1], long, EVENTS[2]]) + b"]")
    assert got.lines == [EVENTS[0], b"", EVENTS[1], b"", EVENTS[2]]
    assert [number for number, _ in got.refused] == [2, 4]


def test_deep_element_is_handed_out(read):
    """Nesting deeper than any stack is followed to its end."""
    deep = b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    got = read(b"[" + b",".join([EVENTS[0], deep, EVENTS[1]]) + b"]")
    assert (got.lines, got.error) == ([EVENTS[0], deep, EVENTS[1]], None)


def test_endless_nesting_is_given_up():
    """Opening brackets without end are an error, not all of the memory."""
    with pytest.raises(BrokenInputError, match="nested too deep"):
        pieces(cut(b"[" * 100_000, 1000), max_bytes=10_000)


def cut(content: bytes, size: int) -> Iterator[bytes]:
    """*content* in blocks of *size*."""
    return (content[at : at + size] for at in range(0, len(content), size))


def pieces(blocks: Iterator[bytes], max_bytes: int = MAX_EVENT_BYTES) -> list[bytes]:
    """The elements of an array that comes in *blocks*."""
    return [line for lines, _ in array.split_values(blocks, max_bytes) for line in lines]


nested = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab"\\{}[], é', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='a"}', max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(
    elements=st.lists(
        st.dictionaries(st.text(alphabet="ab{", max_size=2), nested, max_size=3) | nested, max_size=12
    ),
    indent=st.sampled_from([None, 2]),
    size=st.integers(1, 200),
    quick=st.booleans(),
)
def test_any_array_is_taken_apart(elements, indent, size, quick):
    """Whatever an array holds and however it is cut, its elements come out, also by the quick way."""
    content = json.dumps(elements, indent=indent, ensure_ascii=False).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array, "_WINDOW_MIN_BYTES", 1 if quick else 1 << 30)
        found = pieces(cut(content, size))
    assert [json.loads(piece) for piece in found] == elements


def test_quick_way_gives_the_same_lines(monkeypatch):
    """Text and nesting that look like gaps don't lead the quick way astray."""
    event = {"event": "},{", "properties": {"a": [{"b": 1}, {"b": 2}], "c": '"},{"'}}
    content = json.dumps([event] * 3000, separators=(",", ":")).encode()
    quick = pieces(cut(content, 100_000))
    monkeypatch.setattr(array, "_WINDOW_MIN_BYTES", 1 << 30)
    assert quick == pieces(cut(content, 100_000)) == [content[1 : content.index(b"}},{") + 2]] * 3000


# Live streams


def test_pause_hands_out_what_is_complete():
    """While a pipe stays open and silent, its complete lines are handed out and the partial one is kept."""
    read_fd, write_fd = os.pipe()
    try:
        chunks = read_chunks(Source(read_fd), MAX_EVENT_BYTES)
        os.write(write_fd, NDJSON + b'{"par')
        assert next(chunks).lines == EVENTS
        os.write(write_fd, b"tial\n")
        assert next(chunks).lines == [b'{"partial']
    finally:
        os.close(write_fd)
        assert list(chunks) == []
        os.close(read_fd)


def test_pause_hands_out_elements_before_their_comma():
    """An array's element is handed out when it is complete, not when the next one begins."""
    read_fd, write_fd = os.pipe()
    chunks = read_chunks(Source(read_fd), MAX_EVENT_BYTES)
    os.write(write_fd, b"[\n" + EVENTS[0])
    assert next(chunks).lines == [EVENTS[0]]
    os.write(write_fd, b"\n," + EVENTS[1] + b"]")
    os.close(write_fd)
    assert [chunk.lines for chunk in chunks] == [[EVENTS[1]]]
    os.close(read_fd)


def test_stop_keeps_complete_lines_and_drops_the_partial_one():
    """When woken, what is complete is handed out, and what is not stays untaken."""
    (read_fd, write_fd), (wake_fd, waker_fd) = os.pipe(), os.pipe()
    chunks = read_chunks(Source(read_fd, wake_fd), MAX_EVENT_BYTES)
    os.write(write_fd, NDJSON + b'{"par')
    assert next(chunks).lines == EVENTS
    os.write(waker_fd, b"\0")
    with pytest.raises(StoppedError):
        next(chunks)
    for fd in (read_fd, write_fd, wake_fd, waker_fd):
        os.close(fd)


def test_stop_takes_what_a_pipe_holds():
    """When woken, what a pipe holds by then is still handed out, since its writer has let go of it."""
    (read_fd, write_fd), (wake_fd, waker_fd) = os.pipe(), os.pipe()
    os.write(waker_fd, b"\0")
    os.write(write_fd, NDJSON)
    chunks = read_chunks(Source(read_fd, wake_fd), MAX_EVENT_BYTES)
    assert next(chunks).lines == EVENTS
    with pytest.raises(StoppedError):
        next(chunks)
    for fd in (read_fd, write_fd, wake_fd, waker_fd):
        os.close(fd)


def test_end_that_comes_with_the_stop_is_not_trusted():
    """When woken, a line without its newline is not taken for whole, though the input has ended."""
    (read_fd, write_fd), (wake_fd, waker_fd) = os.pipe(), os.pipe()
    os.write(waker_fd, b"\0")
    os.write(write_fd, NDJSON + b'{"par')
    os.close(write_fd)
    chunks = read_chunks(Source(read_fd, wake_fd), MAX_EVENT_BYTES)
    assert next(chunks).lines == EVENTS
    with pytest.raises(StoppedError):
        next(chunks)
    for fd in (read_fd, wake_fd, waker_fd):
        os.close(fd)


def test_stop_ends_within_a_block_of_gzip(tmp_path):
    """When woken, gzip data that unpacks to many blocks is left where it is."""
    path = tmp_path / "input"
    path.write_bytes(gzip.compress(NDJSON * 50_000))
    wake_fd, waker_fd = os.pipe()
    fd = os.open(path, os.O_RDONLY)
    chunks = read_chunks(Source(fd, wake_fd), MAX_EVENT_BYTES)
    next(chunks)
    os.write(waker_fd, b"\0")
    with pytest.raises(StoppedError):
        assert sum(len(chunk.lines) for chunk in chunks) < 100_000
    for each in (fd, wake_fd, waker_fd):
        os.close(each)


def test_unreadable_descriptor_is_an_error(tmp_path):
    """A descriptor that can't be read is an error in words, not a traceback."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(InputError, match="can't be read: Is a directory"):
            next(read_chunks(Source(fd), MAX_EVENT_BYTES))
    finally:
        os.close(fd)


# Several forms in one input, and what a crash leaves.

ARRAYS = b"[%s,%s]\n[%s]\n" % tuple(EVENTS[:3])


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"[\n" + EVENTS[0] + b",\n" + EVENTS[1] + b",\n]\n", EVENTS[:2]),
        (b"[\n" + EVENTS[0] + b"\n]\n\n[\n" + EVENTS[1] + b"\n]\n", EVENTS[:2]),
        (b"[" + EVENTS[0] + b"][" + EVENTS[1] + b"]", EVENTS[:2]),
        (b"[\n" + EVENTS[0] + b"\n]\n" + EVENTS[1] + b"\n" + EVENTS[2], EVENTS[:3]),
        (b"[\n" + EVENTS[0] + b"\n]\0\0\n\xef\xbb\xbf[\n" + EVENTS[1] + b"]", EVENTS[:2]),
    ],
    ids=["trailing comma", "over lines", "on a line", "then lines", "with a mark and NULs"],
)
def test_arrays_may_be_followed_by_more(read, content, lines):
    """Behind an array another may come, or lines; a comma before its end means nothing."""
    got = read(content)
    assert (got.lines, got.refused, got.error) == (lines, [], None)


@pytest.mark.parametrize("comma", [b"", b",", b"\n\n"])
def test_events_over_several_lines_are_taken_apart(tmp_path, comma):
    """JSON that is laid out over several lines is handed out value by value."""
    laid_out = [json.dumps(json.loads(event), indent=2).encode() for event in EVENTS]
    got = Got(tmp_path / "input", (comma + b"\n").join(laid_out))
    assert (got.lines, got.error) == (laid_out, None)


@pytest.mark.parametrize(
    "first",
    [
        *(b"[INFO] starting", b"[2026-01-01 12:00:00] starting", b"[1] x"),
        *(b'[{"event":"E","pr', b'[{"event":"E","properties":{}', b'[{"event":"E","properties":{"a":1'),
    ],
)
def test_a_first_line_that_is_no_array_ends_nothing(tmp_path, first):
    """A line of a log, or one cut off, which begins as an array does, is a bad line and no more."""
    got = Got(tmp_path / "input", first + b"\n" + NDJSON)
    assert (got.lines, got.error) == ([first, *EVENTS], None)


def test_arrays_one_a_line_are_lines(tmp_path):
    """Of arrays on lines of their own each is one line, for `take_apart` to take apart."""
    got = Got(tmp_path / "input", ARRAYS)
    assert (got.lines, got.error) == (ARRAYS.splitlines(), None)
    assert [part for line in got.lines for part in take_apart(line)] == EVENTS[:3]


def test_an_array_on_a_line_may_be_longer_than_an_event(tmp_path):
    """A line that holds many events may be longer than one; an endless one is refused with the remedy."""
    many = b"[" + b",".join([EVENTS[0]] * 50_000) + b"]"
    got = Got(tmp_path / "input", EVENTS[1] + b"\n" + many + b"\n[" + b"9" * (17 << 20) + b"\n" + EVENTS[2])
    assert got.lines == [EVENTS[1], many, b"", EVENTS[2]]
    [(number, reason)] = got.refused
    assert number == 3
    assert "jq -c '.[]'" in reason


def test_a_list_inside_an_object_that_is_too_long_is_told_the_remedy(tmp_path):
    """A line too long that begins like an object with a list of events says how to take that apart."""
    [(_, reason)] = Got(tmp_path / "input", b'{"events":[' + b" " * (2 << 20) + b"]}").refused
    assert "jq -c '.events[]'" in reason


@pytest.mark.parametrize("at", ["first", "between", "inside"])
def test_a_run_of_nulls_costs_no_event(read, at):
    """NULs, as a crash leaves them in a file, take none of the events around them with them."""
    nuls = b"\0" * 3000
    content = {
        "first": nuls + NDJSON,
        "between": EVENTS[0] + b"\n" + nuls + b"\n".join(EVENTS[1:]),
        "inside": EVENTS[0] + b"\n" + EVENTS[1] + b'\n{"event":"cut o' + nuls + b"\n".join(EVENTS[2:]),
    }[at]
    found = [part for line in read(content).lines for part in take_apart(line) or [line]]
    assert [part for part in found if part in EVENTS] == EVENTS


def test_megabytes_of_nulls_cost_no_event(tmp_path):
    """A run of NULs that is longer than any line leaves the line behind it."""
    got = Got(tmp_path / "input", EVENTS[0] + b"\n" + b"\0" * (5 << 20) + EVENTS[1])
    assert [part for line in got.lines for part in take_apart(line) or [line]] == EVENTS[:2]


A, B = EVENTS[:2]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (A, None),
        (b" " + A + b" ", None),
        (b'{"a": 1, ', None),
        (b"not JSON", None),
        (b"5 " + A, None),
        (A + b",", [A]),
        (b"," + A, [A]),
        (b"\xef\xbb\xbf" + A, [A]),
        (b"\x1e" + A, [A]),
        (A + B, [A, B]),
        (A + b" , \xef\xbb\xbf" + B, [A, B]),
        (b"[" + A + b"," + B + b"]", [A, B]),
        (b"[" + A + b"]," + b"[" + B + b"]", [A, B]),
        (b"[]", []),
        (b"\0\0", []),
        (b"\0" + A + b"\0", [A]),
        (b'{"event": "E\0' + A, [b'{"event": "E', A]),
        (b"[" * 100_000, None),
        (b"\xff", None),
    ],
)
def test_a_line_is_taken_apart_where_that_is_certain(line, found):
    """Several events on a line, and what does not belong to one, are told apart; nothing is guessed."""
    assert take_apart(line) == found


def test_numbers_of_any_length_stay_in_take_apart():
    """A piece is the text that it was."""
    long = b'{"n":' + b"9" * 5000 + b".10}"
    assert take_apart(long + long) == [long, long]
