"""``python -m simulation --seconds 60``, or ``--seed 4711`` to live through one day again."""

from __future__ import annotations

import argparse
import random
import time

from simulation.days import day


def main() -> None:
    """Live through days, one seed after the other."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="this one only")
    given = parser.parse_args()
    first = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    ends_at, count, requests = time.monotonic() + given.seconds, 0, 0
    while count == 0 or (given.seed is None and time.monotonic() < ends_at):
        made = day(first + count)
        count += 1
        requests += made.server.requests
    print(f"{count} days from seed {first}, {requests} requests: all well")


if __name__ == "__main__":
    main()
