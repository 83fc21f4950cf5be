"""What this package raises: every error carries an :class:`~manahsm.hsm.outcomes.Outcome` that says what to do.

These are internal to the signer (the service turns them into :mod:`manahsm.errors`), and none ever holds a PIN, key
material or a digest.
"""

from __future__ import annotations

from manahsm.hsm.outcomes import Outcome, outcome_named

__all__ = ["HSMFailure", "HostCrashed", "HostEnded", "HostStartFailed", "HostWedged"]


class HSMFailure(Exception):  # noqa: N818 - the outcome decides whether it is an error for anybody
    """A call to a token failed. ``outcome`` says what to do; ``detail`` is for people.

    Raised to the one who made the call. Whether to repeat it is for the router to decide.
    """

    def __init__(self, outcome: Outcome, detail: str = "") -> None:
        self.outcome = outcome
        self.detail = detail
        where = f" from {outcome.function}" if outcome.function else ""
        super().__init__(f"{outcome.name}{where}: {detail}" if detail else f"{outcome.name}{where}")


class HostEnded(Exception):  # noqa: N818 - base of the ways in which a host process ends unasked
    """A host process ended, and not because it was asked to. What it held open is gone."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        self.outcome = outcome
        super().__init__(message)


class HostStartFailed(HostEnded):
    """A host never became ready. With ``outcome.action`` LATCH it must not be started again until an operator acts."""


class HostCrashed(HostEnded):
    """A host process died, or wrote something that is no frame.

    Attributes:
        returncode: exit status; negative is the signal's number; ``None`` where it had to be killed.
        outcome: ``HOST_CRASHED``: what was being signed may be repeated elsewhere.
    """

    def __init__(self, message: str, *, returncode: int | None) -> None:
        self.returncode = returncode
        super().__init__(outcome_named("HOST_CRASHED", "host"), message)

    @property
    def signal(self) -> int | None:
        """Number of the signal that ended it, or ``None``."""
        return -self.returncode if self.returncode is not None and self.returncode < 0 else None


class HostWedged(HostEnded):
    """A call outlived its deadline, so its host was killed.

    Attributes:
        call: name of the call, e.g. ``sign``.
        outcome: ``DEADLINE_PASSED``: whether the token did it is unknown.
    """

    def __init__(self, message: str, *, call: str) -> None:
        self.call = call
        super().__init__(outcome_named("DEADLINE_PASSED", call), message)
