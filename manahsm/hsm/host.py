"""The host process: ``python -m manahsm.hsm.host``, the only process into which a vendor's library is ever loaded.

The one thing to know: it trusts nobody but its client. It reads commands from the pipe on fd 0, answers on the one on
fd 1, and ends when the first one ends. It is plain Python without an event loop, and it imports little, because several
of it run beside the service; and nothing but the standard library before it has hardened itself.
"""

from __future__ import annotations

import sys

from manahsm.processes.hardening import detach_standard_streams, harden

__all__ = ["main"]


def main() -> int:
    """Be a host for the process whose id is the first argument; returns the exit status."""
    harden(parent=int(sys.argv[1]))
    command_pipe, reply_pipe = detach_standard_streams()
    from manahsm.hsm.host_server import serve  # noqa: PLC0415 - only now may foreign code be loaded

    return serve(command_pipe, reply_pipe)


if __name__ == "__main__":
    sys.exit(main())
