"""Frames between a host process and its client: a 4-byte big-endian length, then one msgpack message.

The one thing to know: the first frame carries the PIN and an import carries a private key, so messages that hold
secrets hide them from ``repr``, and errors about frames never quote their bytes. Every call has an id; replies carry
it back and may come in any order.

Messages are msgspec structs laid out as arrays with an integer tag: the cheapest form that is still checked on arrival.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from manahsm.hsm.quirks import Quirks

__all__ = [
    "MAX_FRAME",
    "MAX_ITEMS",
    "CloseSession",
    "Command",
    "Done",
    "Failed",
    "Failure",
    "FindKeys",
    "FrameReader",
    "GenerateKey",
    "ImportKey",
    "Info",
    "KeyRecord",
    "Keys",
    "LogInAgain",
    "LoggedIn",
    "OpenSession",
    "Opened",
    "ProtocolError",
    "Ready",
    "RelabelKey",
    "Reply",
    "Shutdown",
    "Sign",
    "Signed",
    "Start",
    "StartFailed",
    "TokenInfo",
    "encode",
    "read_commands",
    "read_replies",
]

MAX_FRAME = 4 << 20
"""Bytes that one message may have; a longer length means that something else writes into the pipe."""

MAX_ITEMS = 4096
"""Digests that one :class:`Sign` may carry, so that the answer fits a frame even when each of them fails."""

_LENGTH_SIZE = 4

Message = TypeVar("Message")


class ProtocolError(Exception):
    """The bytes in the pipe are no frames of ours. Nothing that follows them can be trusted."""


class Failure(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Why something failed: a return code, or where ``rv`` is ``None`` a name of ``OWN_OUTCOMES``."""

    name: str
    rv: int | None
    function: str
    detail: str = ""


class Info(msgspec.Struct, array_like=True, frozen=True):
    """What a host found: see :class:`manahsm.hsm.info.HostInfo`, which has the same fields."""

    pid: int
    slot_id: int
    token_label: str
    serial: str
    manufacturer: str
    model: str
    firmware: str
    flags: list[str]
    max_sessions: int | None
    max_session_threads: int | None
    mechanisms: list[str]
    locking: bool
    library: str
    generation: int


class KeyRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A key pair in the token: see :class:`manahsm.hsm.info.TokenKey`, which has the same fields."""

    public_key: bytes
    label: str
    cka_id: bytes
    can_sign: bool
    sensitive: bool
    extractable: bool


# ---- from the client to the host ----


class _Confidential(msgspec.Struct, array_like=True, frozen=True):
    """A message with a PIN or a key in it: shown by name only."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("secret", "***")]


class Start(_Confidential, frozen=True, tag=0):
    """First frame: which library, token and PIN."""

    library_path: str
    slot_id: int | None
    token_label: str | None
    serial: str | None
    pin: str | None
    read_write_sessions: bool
    raw_ec_point: bool
    max_sessions: int | None
    cka_id_bytes: int
    point_on_private_key: bool
    device_error_throttles: bool = False

    @property
    def quirks(self) -> Quirks:
        """The quirks as a value."""
        return Quirks(
            read_write_sessions=self.read_write_sessions,
            raw_ec_point=self.raw_ec_point,
            max_sessions=self.max_sessions,
            cka_id_bytes=self.cka_id_bytes,
            point_on_private_key=self.point_on_private_key,
            device_error_throttles=self.device_error_throttles,
        )


class Sign(msgspec.Struct, array_like=True, frozen=True, tag=1, gc=False):
    """Sign each (65-byte public key, 32-byte digest) in order on one session; answered by :class:`Signed`."""

    id: int
    session: int
    generation: int
    items: Sequence[tuple[bytes, bytes]]


class OpenSession(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Answered by :class:`Opened`."""

    id: int


class CloseSession(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Close it after what it still has to sign; answered by :class:`Done`."""

    id: int
    session: int


class FindKeys(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Answered by one or more :class:`Keys`."""

    id: int


class GenerateKey(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """Make a key pair; answered by :class:`Keys`."""

    id: int
    label: str


class ImportKey(_Confidential, frozen=True, tag=6):
    """Put a key pair into the token; answered by :class:`Keys`."""

    id: int
    private_key: bytes
    public_key: bytes
    label: str


class RelabelKey(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """Set CKA_LABEL of both halves; answered by :class:`Done`."""

    id: int
    public_key: bytes
    label: str


class TokenInfo(msgspec.Struct, array_like=True, frozen=True, tag=8):
    """Look at the token again; answered by :class:`Ready`."""

    id: int


class LogInAgain(_Confidential, frozen=True, tag=9):
    """The login was lost: log in once more, with a new generation; answered by :class:`LoggedIn`."""

    id: int
    pin: str


class Shutdown(msgspec.Struct, array_like=True, frozen=True, tag=10):
    """Finish what is queued, close sessions, log out, finalize, exit 0. The end of the pipe means the same."""


Command = (
    Start
    | Sign
    | OpenSession
    | CloseSession
    | FindKeys
    | GenerateKey
    | ImportKey
    | RelabelKey
    | TokenInfo
    | LogInAgain
    | Shutdown
)

# ---- from the host to the client ----


class Ready(msgspec.Struct, array_like=True, frozen=True, tag=0):
    """The host is logged in and serves (id 0), or the answer to :class:`TokenInfo`."""

    id: int
    info: Info


class Signed(msgspec.Struct, array_like=True, frozen=True, tag=1, gc=False):
    """One entry for each item, in order: 64 bytes ``r || s``, or why not."""

    id: int
    results: list[bytes | Failure]


class Opened(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """A session is open, in this generation."""

    id: int
    session: int
    generation: int


class Done(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """It is done."""

    id: int


class Keys(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Some keys; ``more`` follow under the same id."""

    id: int
    keys: list[KeyRecord]
    more: bool = False


class LoggedIn(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """Logged in again; sessions of earlier generations are gone."""

    id: int
    generation: int


class Failed(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """The call failed as a whole."""

    id: int
    failure: Failure


class StartFailed(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """The host can not serve and ends."""

    failure: Failure


Reply = Ready | Signed | Opened | Done | Keys | LoggedIn | Failed | StartFailed

_encoder = msgspec.msgpack.Encoder()


def encode(message: Command | Reply) -> bytes:
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


def read_commands() -> FrameReader[Command]:
    """A reader for the host's end."""
    return FrameReader(msgspec.msgpack.Decoder(Command))


def read_replies() -> FrameReader[Reply]:
    """A reader for the client's end."""
    return FrameReader(msgspec.msgpack.Decoder(Reply))
