"""The command ``forwarder``."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run a command line and exit with its code (``sysexits.h``; see :mod:`forwarder.errors`)."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["enqueue"]:
        from forwarder.cli import quick

        given = ["enqueue", *quick.enqueue(given[1:])]
    from forwarder.cli import root

    root.main(given)
