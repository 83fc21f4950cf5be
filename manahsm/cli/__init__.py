"""The command line ``manahsm``: set up, look, manage keys, sign.

The one thing to know: importing this package loads nothing else. The child process that lists tokens lives in it
(:mod:`manahsm.cli.prober`) and must stay small, and ``manahsm --help`` must be quick.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line with the arguments of this process, and exit with its status."""
    from manahsm.cli.app import application  # noqa: PLC0415 - see above

    application()
