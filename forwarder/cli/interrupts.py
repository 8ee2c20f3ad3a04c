"""Signals that end ``enqueue`` between two chunks."""

from __future__ import annotations

import os
import signal


class Interrupts:
    """While entered, SIGINT, SIGTERM and SIGHUP only make `fd` readable, so that nothing is cut off halfway.

    A second signal changes nothing: wrappers often forward the terminal's Ctrl-C, so that it comes twice.
    """

    def __enter__(self) -> Interrupts:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # The interpreter writes the signal's number there at once: no gap between checking and waiting.
        self._wakeup_before = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        # A signal that is ignored, as in the background of a shell script or by nohup, stays ignored.
        ending = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
        heeded = [s for s in ending if signal.getsignal(s) is not signal.SIG_IGN]
        self._before = {signum: signal.signal(signum, lambda *_: None) for signum in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self.fd)
        os.close(self._write_fd)

    def stop(self) -> None:
        """Make it readable without a signal."""
        os.write(self._write_fd, b"\0")

    def exit_code(self) -> int:
        """What a shell would show for the signal that came: 129, 130 or 143."""
        return 128 + os.read(self.fd, 1)[0]
