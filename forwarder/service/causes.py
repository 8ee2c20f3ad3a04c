"""Why the newest dead letters are dead, at a cost that does not depend on how many there are."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from forwarder.spool import View

MOST_LETTERS = 1000


class Cause(NamedTuple):
    """Why events of one name were refused: the field that was named, or "", and Mixpanel's words.

    The words may quote a value of an event; the field never does.
    """

    event: str
    field: str
    reason: str


def recent(view: View) -> list[tuple[Cause, int]]:
    """The causes of the newest `MOST_LETTERS` dead letters with their counts, the most frequent first."""
    letters = view.latest_dead_letters(MOST_LETTERS)
    return Counter(Cause(each.event, each.field, each.reason) for each in letters).most_common()
