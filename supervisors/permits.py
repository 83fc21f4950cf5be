"""What a circuit breaker hands out and shows: permits, refusals and its counts."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from attrs import frozen

from supervisors.breaker_rules import BreakerState
from supervisors.errors import PermitSpent
from supervisors.exits import leaves
from supervisors.window import Counts

__all__ = ["BreakerStats", "Permit", "Refusal", "VerdictTaker"]


@frozen
class Refusal:
    """Why no call is admitted now.

    Attributes:
        reason: for people.
        retry_after: seconds until one may be, or ``None`` where only an operator or a restart helps.
    """

    reason: str
    retry_after: float | None


@frozen(kw_only=True)
class BreakerStats:
    """What a breaker knows, at one moment.

    Attributes:
        name: the breaker.
        state: its state.
        reason: why it is in that state.
        available: whether supervision lets calls through at all.
        window: finished calls in the window.
        outstanding: permits without a verdict, given since the breaker last changed.
        overdue: those of them that are slow already.
        openings: openings in a row, which make the open time grow.
        admitted, refused: permits given and refused since it was made.
        late: verdicts dropped because they came after ``verdict_deadline``, or after the breaker had changed.
    """

    name: str
    state: BreakerState
    reason: str
    available: bool
    window: Counts
    outstanding: int
    overdue: int
    openings: int
    admitted: int
    refused: int
    late: int


class VerdictTaker(Protocol):
    """What a permit needs of its breaker."""

    name: str

    def take_verdict(self, permit: Permit, *, failed: bool | None, duration: float | None) -> None:
        """Take the verdict of a permit: failed, not failed, or none."""
        ...


class Permit:
    """The right to make one call, and the duty to say how it went. See :mod:`supervisors.breaker`.

    Attributes:
        started: when it was given, as a time of the breaker's clock.

    As a context manager it gives the verdict that was not given: released when the block was just left, or
    left by a cancellation; failure when it was left by an exception.
    """

    __slots__ = ("_breaker", "_spent", "started")

    def __init__(self, breaker: VerdictTaker, started: float) -> None:
        self._breaker = breaker
        self.started = started
        self._spent = False

    @property
    def spent(self) -> bool:
        """Whether its verdict was given."""
        return self._spent

    def success(self, duration: float | None = None) -> None:
        """The call went well; it took ``duration`` seconds (since the permit was given, if not said).

        Raises:
            PermitSpent: there was a verdict already.
        """
        self._spend(failed=False, duration=duration)

    def failure(self, duration: float | None = None) -> None:
        """The call failed in a way that speaks against the called; ``duration`` as in :meth:`success`.

        Raises:
            PermitSpent: there was a verdict already.
        """
        self._spend(failed=True, duration=duration)

    def release(self) -> None:
        """There is no verdict: the call was not made, was cancelled, or failed by the caller's own fault.

        Raises:
            PermitSpent: there was a verdict already.
        """
        self._spend(failed=None, duration=None)

    def _spend(self, *, failed: bool | None, duration: float | None) -> None:
        if self._spent:
            raise PermitSpent(f"{self._breaker.name}: this permit has had its verdict")
        self._spent = True
        self._breaker.take_verdict(self, failed=failed, duration=duration)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._spent:
            return
        # Neither asyncio's nor trio's cancellation is an Exception; a group may hold both.
        if error is not None and any(isinstance(leaf, Exception) for leaf in leaves(error)):
            self.failure()
        else:
            self.release()
