"""One login at a time on this machine. Host process only.

The one thing to know: while one process logs in, SoftHSM rewrites the token's file, and a login of another process
then fails with CKR_GENERAL_ERROR, or even CKR_USER_PIN_NOT_INITIALIZED (measured; sessions that are open already do not
notice). So hosts take turns, by a lock on the library's own file: it needs no file of ours, and the kernel drops it
when a host dies. It is a courtesy and not a condition: a lock that can not be had in time is done without.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["login_turn"]

_PATIENCE = 5.0  # seconds; a host that hangs in its login is killed only at its start timeout
_LOOK_EVERY = 0.005


@contextmanager
def login_turn(library_path: str) -> Iterator[None]:
    """Hold the machine's turn to start with or log in through this library."""
    try:
        library = Path(library_path).open("rb")  # noqa: SIM115 - closed below; the block must run without it too
    except OSError:
        # Whoever loads it will say so better.
        yield
        return
    with library:
        give_up = time.monotonic() + _PATIENCE
        while time.monotonic() < give_up:
            with suppress(BlockingIOError):
                fcntl.flock(library, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(_LOOK_EVERY)
        yield
