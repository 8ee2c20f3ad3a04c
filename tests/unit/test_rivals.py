"""The comparison in the docs is what ``make bench-rivals`` has measured."""

import json
from pathlib import Path

from benchmarks.rivals_picture import draw, table

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "docs/pictures/rivals.json").read_text())


def test_table_and_picture_are_of_the_record():
    """Whoever measures again writes all three."""
    page = (ROOT / "docs/performance.rst").read_text()
    assert table(RESULTS) in page
    assert (ROOT / "docs/pictures/rivals.svg").read_text() == draw(RESULTS)


def test_a_longer_bar_is_a_larger_figure():
    """The longest of a panel has its whole width, and one of nothing has none."""
    drawn = draw(RESULTS)
    assert drawn.count('class="bar ours"') == 3
    assert drawn.count("<rect") == 3 * len(RESULTS)
    assert 'width="160.0"' in drawn
