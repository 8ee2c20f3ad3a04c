"""What a process takes of a core."""

import time
from pathlib import Path


class Share:
    """The share of a core that a process has used since this was made."""

    def __init__(self, pid):
        self._pid = pid
        self._from = self._used_s(), time.monotonic()

    def _used_s(self):
        threads = Path(f"/proc/{self._pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def so_far(self):
        return (self._used_s() - self._from[0]) / max(time.monotonic() - self._from[1], 0.001)
