"""A wall clock that runs ahead of this host's: what a process of the forwarder's command calls first."""

import time


def run_ahead(file: str) -> None:
    """From now on this process's clock is ahead by the seconds that stand in *file*."""
    real, real_ns = time.time, time.time_ns

    def ahead_s() -> float:
        with open(file, encoding="ascii") as told:
            return float(told.read())

    time.time = lambda: real() + ahead_s()
    time.time_ns = lambda: real_ns() + int(ahead_s() * 1e9)
