"""What travels from a caller's task to a signer worker and back."""

from __future__ import annotations

import msgspec
from attrs import define
from coincurve import PrivateKey

from manahsm.errors import ManaHSMError
from manahsm.ethereum.signatures import RecoverableSignature
from manahsm.processes.frames import Confidential
from manahsm.requests import Backend

__all__ = ["HSMJob", "Made", "SoftwareJob", "as_diverted", "made_or_raised"]


@define
class HSMJob:
    """A digest for a key that some slot holds.

    Attributes:
        public_key: 65 bytes; the worker's signature must recover to it.
        digest: the 32 bytes to sign.
        tries: how often it has failed on this slot.
        begun: a session has come to it: until then it waits, in the slot's queue or behind another in a host.
    """

    public_key: bytes
    digest: bytes
    tries: int = 0
    begun: bool = False


class SoftwareJob(Confidential, frozen=True):
    """A digest for a key that is unlocked in memory."""

    private_key: PrivateKey
    public_key: bytes
    digest: bytes


class Made(msgspec.Struct, frozen=True):
    """A verified signature and where it was made.

    Attributes:
        signature: normalised and verified.
        backend: what made it.
        slot: whose token, or ``None`` for software.
        diverted: not by the route that the key has first: a backup slot or the software twin stood in.
    """

    signature: RecoverableSignature
    backend: Backend
    slot: str | None
    diverted: bool = False


def as_diverted(made: Made) -> Made:
    """The same, made by another route than the first."""
    return msgspec.structs.replace(made, diverted=True)


def made_or_raised(answer: Made | ManaHSMError) -> Made:
    """Return what was made, or raise why nothing was."""
    if isinstance(answer, ManaHSMError):
        raise answer
    return answer
