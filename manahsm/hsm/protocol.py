"""What a host process and its client say to each other, in frames of :mod:`manahsm.processes.frames`.

The one thing to know: every call has an id; replies carry it back and may come in any order. The first frame carries
the PIN and an import carries a private key: both are :class:`~manahsm.processes.frames.Confidential`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from manahsm.hsm.quirks import Quirks
from manahsm.processes.frames import Confidential, FrameReader

__all__ = [
    "MAX_ITEMS",
    "CloseSession",
    "Command",
    "Done",
    "Failed",
    "Failure",
    "FindKeys",
    "GenerateKey",
    "ImportKey",
    "Info",
    "KeyRecord",
    "Keys",
    "LogInAgain",
    "LoggedIn",
    "OpenSession",
    "Opened",
    "Ready",
    "RelabelKey",
    "Reply",
    "Shutdown",
    "Sign",
    "Signed",
    "Start",
    "StartFailed",
    "TokenInfo",
    "read_commands",
    "read_replies",
]

MAX_ITEMS = 4096
"""Digests that one :class:`Sign` may carry, so that the answer fits a frame even when each of them fails."""


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


class Start(Confidential, frozen=True, tag=0):
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


class ImportKey(Confidential, frozen=True, tag=6):
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


class LogInAgain(Confidential, frozen=True, tag=9):
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


def read_commands() -> FrameReader[Command]:
    """A reader for the host's end."""
    return FrameReader(msgspec.msgpack.Decoder(Command))


def read_replies() -> FrameReader[Reply]:
    """A reader for the client's end."""
    return FrameReader(msgspec.msgpack.Decoder(Reply))
