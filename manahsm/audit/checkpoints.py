"""Checkpoints: the end of the log, signed by a key of ours at intervals and written into the log.

The one thing to know: hashes alone prove only that the log is the one that its last hash belongs to, and whoever can
rewrite all of it can compute them anew. A checkpoint can not be computed anew without the key. So the key is best one
in a token that signs nothing else: a key that signs messages for callers would sign the text of a checkpoint for them.

What is signed is the EIP-191 digest (``personal_sign``) of the text that :func:`checkpoint_text` gives, which no
transaction and no typed data can share. The signature is in the record: "never a signature" is about what callers asked
for, and this is one of the log itself, public by its nature.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from manahsm.audit.log import AuditLog
from manahsm.audit.records import AuditEvent, AuditOutcome, AuditRecord, Head
from manahsm.errors import ManaHSMError, SignatureMismatch
from manahsm.ethereum.messages import message_digest
from manahsm.ethereum.signatures import RecoverableSignature, address_of, recover
from manahsm.logs import get_logger
from supervisors import ChildContext

__all__ = ["Checkpoints", "SignDigest", "checkpoint_digest", "checkpoint_text", "claim_of", "signer_of"]

_log = get_logger("manahsm.audit")
_SIGNATURE_SIZE = 65
_GREATEST_SEQ = 10**18


class _SignatureLike(Protocol):
    """What is used of a signature: verified, low-s, with its y parity."""

    @property
    def r(self) -> int: ...
    @property
    def s(self) -> int: ...
    @property
    def y_parity(self) -> int: ...


SignDigest = Callable[[bytes], Awaitable[_SignatureLike]]


def checkpoint_text(head: Head) -> str:
    """The text that a checkpoint signs; any wallet that knows ``personal_sign`` can check it."""
    return f"manahsm audit checkpoint\nseq {head.seq}\nhash {head.hash}"


def checkpoint_digest(head: Head) -> bytes:
    """The 32 bytes that are signed for a head (EIP-191, version 0x45)."""
    return message_digest(checkpoint_text(head).encode())


def claim_of(summary: Mapping[str, Any]) -> tuple[Head, bytes] | None:
    """The head and the 65-byte signature that the summary of a checkpoint holds; ``None`` where it does not (pure)."""
    seq, digest, signature = (summary.get(name) for name in ("seq", "hash", "signature"))
    if type(seq) is not int or not 0 < seq < _GREATEST_SEQ or not isinstance(digest, str):
        return None
    if not isinstance(signature, str) or not signature.startswith("0x"):
        return None
    try:
        head, raw = Head.parse(f"{seq}:{digest}"), bytes.fromhex(signature[2:])
    except ValueError:
        return None
    return (head, raw) if len(raw) == _SIGNATURE_SIZE else None


def signer_of(head: Head, signature: bytes) -> str | None:
    """The EIP-55 address whose key made a checkpoint (65 bytes ``r || s || y_parity``), ``None`` where none did."""
    made = RecoverableSignature(
        int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]
    )
    public_key = recover(made, checkpoint_digest(head))
    return None if public_key is None else address_of(public_key)


class Checkpoints:
    """Makes a checkpoint at every interval in which the log has grown.

    Attributes:
        last: the last head that was signed by this process.
        trouble: why the last try failed; ``None`` while all is well.
    """

    def __init__(self, log: AuditLog, sign: SignDigest, *, interval: float) -> None:
        """Args: ``sign`` signs a 32-byte digest with the configured key; ``interval`` is in seconds."""
        self.last: Head | None = None
        self.trouble: str | None = None
        self._log = log
        self._sign = sign
        self._interval = interval
        self._written = 0

    async def run(self, context: ChildContext) -> None:
        """Make one at every interval. A supervised child's body; trouble with the key or the log does not end it."""
        context.started(self)
        while not await self._stopping(context):
            try:
                await self.make()
            except ManaHSMError as error:
                self._failed(error)

    async def _stopping(self, context: ChildContext) -> bool:
        """Wait for the end of an interval, or of everything."""
        with context.clock.move_on_after(self._interval):
            await context.wait_stopping()
        return context.stopping

    async def make(self) -> bool:
        """Sign the log as it is now and record it.

        Returns:
            False where nothing was added since the last checkpoint.

        Raises:
            ManaHSMError: the key does not sign now, or the record could not be written.
        """
        head = self._log.head
        if head.seq == self._written:
            return False
        signature = await self._sign(checkpoint_digest(head))
        made = RecoverableSignature(signature.r, signature.s, signature.y_parity).to_bytes()
        address = signer_of(head, made)
        if address is None:
            raise SignatureMismatch("what was to sign a checkpoint of the audit log returned no signature of it")
        await self._log.write(
            AuditRecord(
                event=AuditEvent.CHECKPOINT,
                address=address,
                summary={"seq": head.seq, "hash": head.hash, "signature": "0x" + made.hex()},
                outcome=AuditOutcome.DONE,
            )
        )
        self.last, self._written, self.trouble = head, self._log.head.seq, None
        return True

    def _failed(self, error: ManaHSMError) -> None:
        trouble = f"{error.code}: {error}"
        if trouble != self.trouble:
            _log.error("no audit checkpoint", reason=trouble)
        self.trouble = trouble
