"""What a software host and its client say to each other, in frames of :mod:`manahsm.processes.frames`.

The one thing to know: the host keeps no keys. Each digest comes with its private key, and both are forgotten when the
answer is written (but for a few keys that it has just used).
"""

from __future__ import annotations

import msgspec

from manahsm.processes.frames import Confidential, FrameReader

__all__ = ["READY", "SignAll", "SignedAll", "read_commands", "read_replies"]


READY = 0
"""Id of the first answer, to no question: the host serves."""


class SignAll(Confidential, frozen=True):
    """Sign each (32-byte private key, 65-byte public key, 32-byte digest); answered by :class:`SignedAll`."""

    id: int
    items: list[tuple[bytes, bytes, bytes]]


class SignedAll(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One entry for each item, in order.

    Attributes:
        id: of the :class:`SignAll`.
        results: 65 bytes ``r || s || y_parity`` that recover to the public key; ``None`` where they did not.
    """

    id: int
    results: list[bytes | None]


def read_commands() -> FrameReader[SignAll]:
    """A reader for the host's end."""
    return FrameReader(msgspec.msgpack.Decoder(SignAll))


def read_replies() -> FrameReader[SignedAll]:
    """A reader for the client's end."""
    return FrameReader(msgspec.msgpack.Decoder(SignedAll))
