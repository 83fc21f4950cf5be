"""The check of what tokens have signed: in the event loop, or beside it where several signatures arrive at once.

The one thing to know: a check is a third of what a token's signature costs the loop. What one read of a host's pipe has
brought is checked together, once it was read, and several go to the software host. That is a help and never a need:
what it does not answer is checked here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from attrs import frozen

from manahsm.errors import SignatureMismatch
from manahsm.ethereum.signatures import RecoverableSignature, complete
from manahsm.signing.jobs import HSMJob
from manahsm.software.client import Results, SoftwareHost

__all__ = ["Checks", "Verdict"]

_SEVERAL = 3  # fewer are checked sooner than they are sent there and back

Verdict = Callable[[], RecoverableSignature]
"""Returns the verified signature, or raises ``SignatureMismatch``; where it is checked here, when this is called."""


@frozen
class _Check:
    raw: bytes
    job: HSMJob
    then: Callable[[Verdict], object]

    def here(self) -> None:
        """Have it made by whoever is told."""
        self.then(partial(complete, self.raw, self.job.digest, self.job.public_key))


class Checks:
    """Signatures that wait for their check, of all slots.

    Args:
        host: checks beside the loop; ``None``: nowhere.
    """

    def __init__(self, host: SoftwareHost | None = None) -> None:
        self._host = host
        self._waiting: list[_Check] = []

    def add(self, raw: bytes, job: HSMJob, then: Callable[[Verdict], object]) -> None:
        """Note a signature, for the next :meth:`make`.

        Args:
            raw: ``r || s`` as the token returned it.
            job: what it should be the signature of.
            then: called with the verdict. It must not raise.
        """
        self._waiting.append(_Check(raw, job, then))

    def make(self) -> None:
        """Check what was noted: nothing more arrives at the moment."""
        if not self._waiting:
            return
        checks, self._waiting = self._waiting, []
        if self._host is not None and len(checks) >= _SEVERAL:
            if self._host.has_room:
                _hand_over(checks, self._host)
                return
            self._host.want()
        for check in checks:
            check.here()


def _hand_over(checks: list[_Check], host: SoftwareHost) -> None:
    def answered(results: Results) -> None:
        for check, result in zip(checks, results, strict=True):
            check.then(partial(_read, result))

    def lost() -> None:
        for check in checks:
            check.here()

    host.check([(check.raw, check.job.public_key, check.job.digest) for check in checks], answered=answered, lost=lost)


def _read(result: bytes | None) -> RecoverableSignature:
    if result is None:
        raise SignatureMismatch("the device returned what is no signature by this key over this digest")
    return RecoverableSignature.from_bytes(result)
