"""The software host: ``python -m manahsm.software.host``, which signs with private keys that it is handed, and checks.

The one thing to know: a signature and its check take 67 us of a processor, as much as all the rest of a request, so a
service that is asked for many has them made here, beside its event loop; of what a token has signed, the check. This
process trusts nobody but its client, keeps nothing, and ends when its pipe does. Nothing but the standard library is
loaded before it has hardened itself.
"""

from __future__ import annotations

import os
import sys

from manahsm.processes.hardening import detach_standard_streams, harden

__all__ = ["main"]

_READ_SIZE = 1 << 18


def serve(command_pipe: int, reply_pipe: int) -> int:
    """Serve until the client ends the pipe; returns the exit status."""
    from manahsm.processes.frames import FrameWriter  # noqa: PLC0415 - only now may more be loaded
    from manahsm.software.messages import READY, CheckAll, SignedAll, read_commands  # noqa: PLC0415
    from manahsm.software.signing import complete_or_none, sign_and_check  # noqa: PLC0415

    reader, write = read_commands(), FrameWriter(reply_pipe)
    write(SignedAll(READY, []))
    while data := os.read(command_pipe, _READ_SIZE):
        for command in reader.feed(data):
            work = complete_or_none if type(command) is CheckAll else sign_and_check
            write(SignedAll(command.id, [work(*item) for item in command.items]))
    return 0


def main() -> int:
    """Be a software host for the process whose id is the first argument; returns the exit status."""
    harden(parent=int(sys.argv[1]))
    return serve(*detach_standard_streams())


if __name__ == "__main__":
    sys.exit(main())
