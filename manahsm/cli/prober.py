"""The child that looks into a PKCS#11 library, for `init` and `doctor`: ``python -m manahsm.cli.prober PARENT``.

The one thing to know: it is to a host process what a look is to a visit. It loads the library and says what tokens
there are; it logs in only to try whether a token makes a secp256k1 key, and removes that key again. One JSON document
comes in on standard input, one goes out on standard output. It is hardened like a host: the document can hold a PIN.
"""

from __future__ import annotations

import sys

from manahsm.processes.hardening import detach_standard_streams, harden

__all__ = ["main"]


def main() -> int:
    """Answer the one question and return the exit status."""
    harden(parent=int(sys.argv[1]))
    questions, answers = detach_standard_streams()
    from manahsm.cli.probing import answer  # noqa: PLC0415 - only now may foreign code be loaded

    answer(questions, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
