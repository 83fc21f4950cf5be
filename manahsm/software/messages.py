"""What a software host and its client say to each other, in frames of :mod:`manahsm.processes.frames`.

The one thing to know: the host keeps no keys. A digest to sign comes with its private key, and both are forgotten when
the answer is written (but for a few keys that it has just used).
"""

from __future__ import annotations

import msgspec

from manahsm.processes.frames import Confidential, FrameReader

__all__ = ["READY", "CheckAll", "SignAll", "SignedAll", "read_commands", "read_replies"]


READY = 0
"""Id of the first answer, to no question: the host serves."""


class SignAll(Confidential, frozen=True, tag=0):
    """Sign each (32-byte private key, 65-byte public key, 32-byte digest); answered by :class:`SignedAll`."""

    id: int
    items: list[tuple[bytes, bytes, bytes]]


class CheckAll(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Check each (``r || s`` as a token returned it, 65-byte public key, 32-byte digest) and find its recovery id.

    Answered by :class:`SignedAll`.
    """

    id: int
    items: list[tuple[bytes, bytes, bytes]]


Command = SignAll | CheckAll


class SignedAll(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One entry for each item, in order.

    Attributes:
        id: of the :class:`SignAll` or :class:`CheckAll`.
        results: 65 bytes ``r || s || y_parity`` that recover to the public key; ``None`` where there are none.
    """

    id: int
    results: list[bytes | None]


def read_commands() -> FrameReader[Command]:
    """A reader for the host's end."""
    return FrameReader(msgspec.msgpack.Decoder(Command))


def read_replies() -> FrameReader[SignedAll]:
    """A reader for the client's end."""
    return FrameReader(msgspec.msgpack.Decoder(SignedAll))
