"""The product speaks plainly, in the field's words."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = ("forwarder", "docs", "man", "debian", "etc", "systemd", "container", "benchmarks", "simulation")
PAGES = ("README.rst", "CONTRIBUTING.rst", "SECURITY.rst", "CHANGELOG.rst", "Makefile")
# What is not said, and what is.
INSTEAD = {
    "far[ _-]end": "Mixpanel, server",
    "anew": "again",
    "amid": "during",
    "of nobody": "without a user",
    "for want of": "lack of",
    "put right": "fix",
    "in vain": "without success",
    "(is|are|was|were) told": "gets",
    "a yes|said yes": "an acknowledgement, accepted",
    "couriers?": "dispatcher",
    "turnstiles?": "writer lock",
    "tally|tallies": "counters",
    "pulse": "heartbeat",
    "strangers?": "external producer",
    "bury|buried|grave": "dead-letter",
}
UNSAID = re.compile(rf"(?<![A-Za-z])({'|'.join(INSTEAD)})(?![A-Za-z])", re.IGNORECASE)


def test_words_that_the_list_replaces_do_not_come_back():
    """No page, help text, message, comment or name of the product has a word that the list replaces."""
    files = [path for place in PLACES for path in (ROOT / place).rglob("*") if path.is_file()]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word[0]}"
        for path in [*files, *(ROOT / page for page in PAGES)]
        if path.suffix not in (".pyc", ".png")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for word in UNSAID.finditer(line)
    ]
    assert found == []
