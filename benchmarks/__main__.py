"""``python -m benchmarks``: one run, one table, and the same as JSON.

With names behind it, only these are measured: ``python -m benchmarks delivery disk``.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from benchmarks import (
    backlog,
    commands,
    contention,
    dead_letters,
    delivery,
    disk,
    fairness,
    intake,
    loop,
    memory,
    puts,
    quiet,
    replicated,
    slow_server,
    table,
    trouble,
)
from benchmarks.table import Number

Measure = Callable[[str, argparse.Namespace], Iterator[Number]]

# Each is given a directory, and what is left in it is removed.
PARTS: dict[str, Measure] = {
    "delivery": lambda place, given: delivery.measure(place, given.events, given.rounds),
    "slow_server": lambda place, given: slow_server.measure(place, given.events),
    "trouble": lambda place, _given: trouble.measure(place),
    "uplink": lambda place, _given: trouble.uplink(place),
    "fairness": lambda _place, _given: fairness.measure(),
    "commands": lambda place, given: commands.measure(place, given.events, given.rounds),
    "puts": lambda place, given: puts.measure(place, given.puts),
    "loop": lambda place, given: loop.measure(place, given.puts),
    "contention": lambda place, given: contention.measure(place, given.crowd_s, 2),
    "backlog": lambda place, given: backlog.measure(place, given.waiting, given.rounds, given.events // 2),
    "memory": lambda place, given: memory.measure(place, given.large, given.large // 5),
    "quiet": lambda place, given: quiet.measure(place, given.idle_s, 15),
    "intake": lambda place, given: intake.measure(place, given.rounds, given.idle_s),
    "replicated": lambda _place, given: replicated.measure(given.events, given.rounds, given.puts),
    "dead_letters": lambda place, given: dead_letters.measure(place, given.dead),
    "disk": lambda place, given: disk.measure(place, given.events, given.storm_s),
}


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--events", type=int, default=200_000, help="of a delivery and of a file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--puts", type=int, default=300)
    parser.add_argument("--crowd-s", type=float, default=1.5, help="of each number of processes")
    parser.add_argument("--waiting", type=int, default=1_000_000, help="of a backlog")
    parser.add_argument("--dead", type=int, default=200_000, help="letters")
    parser.add_argument("--large", type=int, default=2000, help="events of 900 kB waiting")
    parser.add_argument("--idle-s", type=float, default=8.0)
    parser.add_argument("--storm-s", type=float, default=8.0)
    parser.add_argument("--json", default="bench.json", metavar="FILE")
    given = parser.parse_args()
    if unknown := set(given.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    return given


def main() -> None:
    """Measure, print the table, and write the JSON."""
    given = arguments()
    # What is asked to end removes its files, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found: list[Number] = []
    for name in given.parts or PARTS:
        started = time.monotonic()
        place = tempfile.mkdtemp(prefix="forwarder-bench-")
        try:
            found.extend(PARTS[name](place, given))
        finally:
            shutil.rmtree(place, ignore_errors=True)
        print(f"measured {name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    found.sort(key=lambda number: number.place)
    print(table.heading(), *map(table.line, found), "", table.sentence(found), sep="\n")
    table.write(given.json, found)
    print(f"\nThe same as JSON: {given.json}")


if __name__ == "__main__":
    main()
