"""A process for which no file has two names, as on vfat: link(2), and open(2) with O_TMPFILE, are refused."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_LOAD, _IS_EQUAL, _HAS_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
# The numbers of link, linkat and openat; -1: the machine has none such.
_CALLS = {"x86_64": (86, 265, 257), "aarch64": (-1, 37, 56)}
_O_TMPFILE_ALONE = os.O_TMPFILE & ~os.O_DIRECTORY


def why_not() -> str:
    """Why it can't be had on this machine; "" if it can."""
    return "" if platform.machine() in _CALLS else f"no numbers of system calls for {platform.machine()}"


def refuse_links() -> None:
    """Refuse them from now on, in this thread and all that it starts; for good."""
    link, linkat, openat = _CALLS[platform.machine()]
    program = [
        (_LOAD, 0, 0, 0),  # the call's number
        (_IS_EQUAL, 5, 0, link & 0xFFFFFFFF),
        (_IS_EQUAL, 4, 0, linkat),
        (_IS_EQUAL, 0, 2, openat),
        (_LOAD, 0, 0, 32),  # its third argument
        (_HAS_BITS, 2, 0, _O_TMPFILE_ALONE),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _FAIL | errno.EOPNOTSUPP),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    given = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _FILTER, given, 0, 0)):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), "no system call can be refused here")
