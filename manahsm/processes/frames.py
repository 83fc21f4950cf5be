"""Frames between us and a child process: a 4-byte big-endian length, then one msgpack message.

The one thing to know: frames carry PINs and private keys, so messages that hold secrets hide them from ``repr``
(:class:`Confidential`), and errors about frames never quote their bytes.

Messages are msgspec structs laid out as arrays with an integer tag: the cheapest form that is still checked on arrival.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec

__all__ = ["MAX_FRAME", "Confidential", "FrameReader", "FrameWriter", "ProtocolError", "encode"]

MAX_FRAME = 4 << 20
"""Bytes that one message may have; a longer length means that something else writes into the pipe."""

_LENGTH_SIZE = 4

Message = TypeVar("Message")


class ProtocolError(Exception):
    """The bytes in the pipe are no frames of ours. Nothing that follows them can be trusted."""


class Confidential(msgspec.Struct, array_like=True, frozen=True):
    """A message with a PIN or a key in it: shown by name only."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("secret", "***")]


_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """Return the frame of one message.

    Raises:
        ProtocolError: the message is longer than :data:`MAX_FRAME`.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a {type(message).__name__} message of {len(body)} bytes; the limit is {MAX_FRAME}")
    return len(body).to_bytes(_LENGTH_SIZE, "big") + body


class FrameReader(Generic[Message]):
    """Cuts a byte stream into messages. Feed it whatever arrived; it keeps what is incomplete.

    A wrong length or a message that does not decode raises :class:`ProtocolError`, after which the reader is of no use.
    """

    def __init__(self, decoder: msgspec.msgpack.Decoder[Message]) -> None:
        self._decode = decoder.decode
        self._pending = b""

    @property
    def incomplete(self) -> bool:
        """Whether the stream stopped in the middle of a frame."""
        return bool(self._pending)

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that ``data`` completes, in order.

        Raises:
            ProtocolError: these bytes are no frames of ours.
        """
        if self._pending:
            data = self._pending + data
        messages: list[Message] = []
        view = memoryview(data)
        start = 0
        while len(data) - start >= _LENGTH_SIZE:
            body = start + _LENGTH_SIZE
            length = int.from_bytes(view[start:body], "big")
            if length > MAX_FRAME:
                raise ProtocolError(f"a frame of {length} bytes; the limit is {MAX_FRAME}")
            end = body + length
            if end > len(data):
                break
            try:
                messages.append(self._decode(view[body:end]))
            except msgspec.MsgspecError:
                # The cause may quote the message, and messages can hold secrets.
                raise ProtocolError(f"a frame of {length} bytes that is no message") from None
            start = end
        self._pending = data[start:]
        return messages


class FrameWriter:
    """Writes frames whole into a blocking pipe, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def __call__(self, message: msgspec.Struct) -> None:
        """Write one. Nobody reads it any more where the other end is gone: the end of our own pipe then ends us."""
        frame = encode(message)
        with self._lock, suppress(BrokenPipeError):
            while frame:
                frame = frame[os.write(self._descriptor, frame) :]
