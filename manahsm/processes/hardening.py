"""What a host process does to itself before it sees a secret. Linux; the first thing that ``host.py`` runs.

The one thing to know: the PIN and imported keys pass through this process's memory. So it leaves no core file, can
not be read through /proc or ptrace by others of the same user, and never outlives the process that started it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal

__all__ = ["detach_standard_streams", "harden"]

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_NICE = 10


def harden(parent: int) -> None:
    """Prepare this process to hold secrets and a foreign library.

    Args:
        parent: process id of the one who started it; this process ends here if that one is gone already.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It died before the line above, so nobody would ever end us.
        raise SystemExit("the process that started this host is gone")
    # Where a token is a program, or keys are software, signing takes all of a processor. The event loop that has it
    # done goes first: without this a heartbeat of a millisecond was late by 17 ms, with it by 5.
    os.nice(_NICE)
    for unwanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # They reach the whole process group or service; the client decides when its hosts end.
        signal.signal(unwanted, signal.SIG_IGN)
    # A crash of the vendor's library then says on stderr where it was called from.
    faulthandler.enable()


def detach_standard_streams() -> tuple[int, int]:
    """Keep the frame pipes for ourselves; returns (where frames come from, where they go).

    File descriptor 0 then reads nothing and 1 goes to stderr, so that a library which prints can not damage a frame.
    The new descriptors are not inherited by anything that a library may start.
    """
    commands, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return commands, replies
