"""Whether a damaged database says that delivery is paused."""

from __future__ import annotations

from collections.abc import Iterator

from forwarder.salvage.pages import Pages

# Where the table is in a database that was made by us; further behind in one that was adopted.
_FIRST_PAGES = range(1, 33)


def paused(file: str) -> bool | None:
    """What the newest readable version of its ``control`` row says; None: there is none.

    Raises:
        OSError: the file can't be opened.
    """
    pages = Pages(file)
    try:
        for number in (*_roots(pages), *_FIRST_PAGES):
            for cell in pages.leaf(number):
                match cell.columns:
                    # Rows of the other tables have more columns, or others.
                    case (None, 0 | 1 as said, int()) | (None, 0 | 1 as said, int(), str() | None) if (
                        cell.rowid == 1
                    ):
                        return bool(said)
    finally:
        pages.close()
    return None


def _roots(pages: Pages) -> Iterator[int]:
    for cell in pages.leaf(1):
        match cell.columns:
            case ("table", "control", _, int() as root, *_):
                yield root
