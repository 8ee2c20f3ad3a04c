"""What `top` shows: looks at queues and a size in, lines out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from forwarder.cli.plot import MINUTE_S, bars
from forwarder.cli.status import COLOURS, laid_out, rows
from forwarder.cli.table import ascii_only, cut, padded, wrapped
from forwarder.cli.watched import Look
from forwarder.service.causes import MOST_LETTERS, Cause
from forwarder.service.shape import Shape
from forwarder.service.status import FORECASTS, OTHER_KINDS, coming, foretold, passed, sentence
from forwarder.spool import binned
from forwarder.text import duration, printable, rate

# Older than this, a look is said to be old.
STALE_S = 5.0
# A column for each age, beside the names; on a narrower screen there are none.
AGES = ("total", "5 s", "1 min", "5 min", "1 h", "1 d", "more")
_AGE, _AGES_FROM, _WIDEST_NAME = 7, 64, 40
# How many lines of ages there are in any case, and how many causes of dead letters at most.
_LEAST_AGES, _MOST_CAUSES = 3, 3
# In the order of importance, before and behind the ages: what does not fit is left out from the end.
_BEFORE = ("next try", "waiting", "forecast", *(kind.noun for kind in OTHER_KINDS.values()))
_BEHIND = ("requests", "dead letters", "last error", "disk", "daemon", "relay")
KEYS = "p pause  f flush  d dead letters  h help  q quit"
HELP = (
    "p         pause delivery, or resume it; asks first",
    "f         let the daemon forget its current wait and try now",
    "d         why events were refused, by cause",
    "Tab       the next queue, where there are several; so do the arrows",
    "h ?       this help",
    "Enter     back from a page; so do the key that opened it, and Esc",
    "q         quit",
    "",
    "accepted and delivered are events a second, over the last minute. Behind them stand the minutes before, "
    "the newest to the right, both in the same scale; a dot is a minute without a daemon.",
    "",
    "The ages say how many events of a name have waited for up to so long. If many wait, they come from a "
    "sample of rows from all over the queue, scaled to the total.",
    "",
    "FULL IN is when the queue or the disk is full at the present rate.",
    "",
    "All figures are those of `forwarder status`. Looking changes nothing and holds up nobody.",
)


class Line(NamedTuple):
    """A line of the screen, in one style of rich."""

    text: str
    style: str = ""


@dataclass(slots=True)
class State:
    """What a person has chosen: a queue, a page of it, and how far that is scrolled.

    ``asked`` is what waits for y or n: pause or resume. ``message`` is shown until the next key.
    """

    selected: int = 0
    page: str = "flow"
    scroll: int = 0
    asked: str = ""
    message: str = ""


def render(
    looks: Sequence[Look], state: State, width: int, height: int, now: float, utf8: bool = True
) -> list[Line]:
    """The *height* lines of a screen, of *width* columns at most."""
    look = looks[state.selected]
    if state.page == "flow":
        room = height - 1
        head = list(_queues(looks, state.selected, width, room)) if len(looks) > 1 else []
        body = [*head, *_flow(look, width, room - len(head), now, utf8)]
    else:
        body = document(look, state.page, width)[state.scroll :]
    body = [*islice(body, height - 1)]
    body += [Line("")] * (height - 1 - len(body))
    body.append(_foot(look, state, len(looks) > 1))
    lines = [Line(cut(line.text, width), line.style) for line in body]
    return lines if utf8 else [Line(ascii_only(line.text), line.style) for line in lines]


def document(look: Look, page: str, width: int) -> list[Line]:
    """The lines of a *page* that is scrolled: ``help`` or ``dead``."""
    if page == "help":
        return [Line(part) for line in HELP for part in wrapped(line, width, _indent(line))]
    title = f"Dead letters by cause{f', {look.name}' if look.name else ''}"
    total = look.found["dead_letters"] if look.found else 0
    if total > MOST_LETTERS:
        title += f": the newest {MOST_LETTERS:,} of {total:,}"
    lines = [Line(title, "bold"), Line("")]
    for cause, count in look.causes:
        lines += [Line(part) for part in wrapped(f"{count:>7,}  {_said(cause)}", width, " " * 9)]
    if not look.causes:
        lines.append(Line("There are none."))
    return lines


def most_scroll(look: Look, state: State, width: int, height: int) -> int:
    """How far the page can be scrolled."""
    return 0 if state.page == "flow" else max(0, len(document(look, state.page, width)) - (height - 1))


def _indent(line: str) -> str:
    return " " * 10 if "  " in line else ""


def _foot(look: Look, state: State, are_several: bool) -> Line:
    if state.asked:
        of = f" of {printable(look.name)}" if look.name else ""
        return Line(f"{state.asked.capitalize()} delivery{of}? y/n", "reverse")
    if state.message:
        return Line(state.message, "reverse")
    if state.page != "flow":
        return Line(f"{state.page[0]} back  up and down scroll  q quit", "reverse")
    keys = KEYS.replace("pause", "resume") if look.found and look.found["paused"] else KEYS
    return Line(f"Tab next queue  {keys}" if are_several else keys, "reverse")


class _Column(NamedTuple):
    title: str
    width: int
    key: str


# In the order of importance: on a narrow screen the last ones are left out.
_COLUMNS = (
    _Column("STATE", 12, "state"),
    _Column("WAITING", 8, "waiting"),
    _Column("OLDEST", 12, "oldest_waiting_s"),
    _Column("IN/S", 7, "accepted_1m"),
    _Column("OUT/S", 7, "rate_1m"),
    _Column("DEAD", 7, "dead_letters"),
    _Column("FULL IN", 12, "full"),
)
_NAME = 16


def _queues(looks: Sequence[Look], selected: int, width: int, room: int) -> Iterator[Line]:
    """A line for each queue, with the selected one among them where there is no room for all."""
    name_width = min(max(len("QUEUE"), *(len(look.name) for look in looks)), max(_NAME, width // 4))
    columns: list[_Column] = []
    for column in _COLUMNS:
        if 2 + name_width + sum(each.width for each in columns) + column.width > width:
            break
        columns.append(column)
    most = max(2, room // 3)
    first = min(max(0, selected - most // 2), max(0, len(looks) - most))
    titles = "".join(_aligned(column.title, column) for column in columns)
    yield Line(f"  {'QUEUE':<{name_width}}{titles}", "bold")
    for index, look in enumerate(looks[first : first + most], first):
        mark = ">" if index == selected else " "
        name = padded(printable(look.name), name_width)
        if look.found is None:
            yield Line(f"{mark} {name} {look.error or 'looking'}", "red" if look.error else "")
        else:
            cells = "".join(_aligned(_cell(look.found, column.key), column) for column in columns)
            yield Line(f"{mark} {name}{cells}", COLOURS.get(look.found["state"], ""))
    yield Line("")


def _aligned(text: str, column: _Column) -> str:
    return f" {text:<{column.width - 1}}" if column.key == "state" else f" {text:>{column.width - 1}}"


def _cell(found: Mapping[str, Any], key: str) -> str:
    if key == "state":
        return str(found[key]).replace("_", " ")
    if key == "full":
        first_s = min((found[name] for name in _FULL if found[name] is not None), default=None)
        return "never" if first_s is None else duration(first_s) if first_s else "now"
    if key == "oldest_waiting_s":
        return duration(found[key]) if found[key] else "-"
    return short(found[key])


_FULL = ("full_in_s", "disk_full_in_s")


def short(value: float) -> str:
    """A number in 5 characters at most: ``9999``, ``123k``, ``1.2M``."""
    if value < 10 and value != int(value):
        return f"{value:.1f}"
    for unit in ("", "k", "M", "G"):
        if value < (9999.5 if not unit else 999.5):
            return f"{value:.1f}{unit}" if unit and value < 9.95 else f"{value:.0f}{unit}"
        value /= 1000
    return f"{value:.0f}T"


def _flow(look: Look, width: int, room: int, now: float, utf8: bool) -> list[Line]:
    """A queue in detail, in the order of importance."""
    if look.found is None:
        text = look.error or f"Looking{f' at {look.name}' if look.name else ''} ..."
        return [Line(part, "bold red" if look.error else "") for part in wrapped(text, width)]
    found = look.found
    colour = COLOURS.get(found["state"], "")
    first = [Line(part, f"bold {colour}".strip()) for part in wrapped(sentence(found), width)]
    if now - look.at > STALE_S:
        first.append(Line(f"This was so {duration(now - look.at)} ago; the queue does not answer.", "yellow"))
    if not found["exists"]:
        return first
    first += _rates(look, width, now, utf8)
    table = dict(rows(found))
    # Rates and forecast say it, with more.
    del table["last minute"]
    table.pop("at this rate", None)
    table["forecast"] = _forecast(found)
    first += _rows([name for name in _BEFORE if name in table], table, look, width)
    others = [name for name in table if name not in (*_BEFORE, *_BEHIND)]
    rest = _rows([*(name for name in _BEHIND if name in table), *others], table, look, width)
    ages = _ages(look.shape, width) if look.shape and width >= _AGES_FROM else []
    # The ages take what the rest leaves, and their first lines in any case.
    for_ages = max(_LEAST_AGES, room - len(first) - len(rest) - 2)
    return [*first, *([Line(""), *ages[:for_ages], Line("")] if ages else []), *rest]


def _rows(names: Iterable[str], table: Mapping[str, str], look: Look, width: int) -> list[Line]:
    lines = []
    for name in names:
        lines += [Line(part) for part in laid_out(name, table[name], width)]
        if name == "dead letters":
            lines += [Line(f"{count:>9,}  {_said(cause)}") for cause, count in look.causes[:_MOST_CAUSES]]
    return lines


def _rates(look: Look, width: int, now: float, utf8: bool) -> Iterator[Line]:
    assert look.found
    names = ("accepted", "accepted", "accepted_1m"), (passed(look.found), "delivered", "rate_1m")
    start = len(f"{'':<11}{'':>7}/s  ")
    count = max(1, min(width - start, 4 * MINUTE_S)) - 1
    # The present minute is recorded when it is over.
    last = look.minutes[-1].ended_at if look.minutes else now
    until = last if abs(now - last) < MINUTE_S + STALE_S else now
    minutes = binned(look.minutes, until - count * MINUTE_S, until, count) if count else []
    values = {
        name: [*(each and each.rate(kept) for each in minutes), look.found[key]] for name, kept, key in names
    }
    most = max((value for each in values.values() for value in each if value), default=0.0)
    for name, _, key in names:
        spark = bars(values[name], 1, most, utf8)[0]
        yield Line(f"{name:<11}{rate(look.found[key]):>7}/s  {spark}".rstrip())


def _forecast(found: Mapping[str, Any]) -> str:
    """What comes, and when no more is accepted in any case."""
    return "; ".join(
        f"{FORECASTS[key]}: {coming(in_s)}"
        for key, in_s in foretold(found).items()
        if key in _FULL or (in_s is not None and found["waiting"])
    )


def _ages(shape: Shape, width: int) -> list[Line]:
    """How long what waits has waited, by name: as qshape shows the queue of Postfix."""
    if not shape.counts:
        return []
    of = f"ages in a sample of {shape.sampled:,}" if shape.is_sample else "ages"
    table = [("all", shape.totals), *((name or "(no name)", ages) for name, ages in shape.counts)]
    name_width = min(width - _AGE * len(AGES), _WIDEST_NAME)
    lines = [Line(padded(of, name_width) + "".join(f"{title:>{_AGE}}" for title in AGES), "bold")]
    for name, ages in table:
        cells = (short(count) if count else "-" for count in (sum(ages), *ages))
        lines.append(Line(padded(printable(name), name_width) + "".join(f"{cell:>{_AGE}}" for cell in cells)))
    return lines


def _said(cause: Cause) -> str:
    field = f"{cause.field}: " if cause.field and cause.field not in cause.reason else ""
    return printable(f"{cause.event or '(no name)'}  {field}{cause.reason}")
