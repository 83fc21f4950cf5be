"""What was asked, what became of it, and what should never have happened.

The one thing to know: the callers' own account is kept here while they call, nine bytes a request; at the end
it is held against the audit log, record by record. Everything that breaks an invariant is a :class:`Violation`.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator

from attrs import define, field, frozen
from chaos.asks import Ask
from chaos.sorts import Sort

__all__ = ["CANCELLED", "NEVER_ENDED", "SIGNED", "End", "Entry", "Ledger", "Tally", "Violation", "request_id"]

SIGNED = "signed"
CANCELLED = "cancelled"
NEVER_ENDED = "never ended"

SLACK = 1.0
"""Seconds after its deadline in which a request must have ended, on a machine that is busy."""

_OWED_TO_LOAD = frozenset({"overloaded", "deadline_exceeded"})
_OWED_TO_SLOTS = frozenset({"hsm_unavailable", "signature_mismatch"})
"""What a caller is told where no other route was left."""
_OWED_TO_FAULTS = frozenset({*_OWED_TO_LOAD, *_OWED_TO_SLOTS, "policy_denied"})
_OWED_TO_BUDGET = frozenset({*_OWED_TO_LOAD, "policy_denied", "fallback_exhausted"})
_MOST_KEPT = 200
_DIGEST_KEPT = 8  # bytes; enough to tell one digest from the other


@frozen
class Violation:
    """Something that should never have happened.

    Attributes:
        invariant: which promise is broken.
        detail: by what.
        at: seconds after the beginning.
    """

    invariant: str
    detail: str
    at: float

    def __str__(self) -> str:
        return f"{self.at:7.2f} s  {self.invariant}: {self.detail}"


def request_id(caller: int, number: int) -> str:
    """The id of a caller's request with this number, from 0."""
    return f"chaos-{caller}-{number}"


@frozen
class End:
    """How a request ended.

    Attributes:
        outcome: ``signed``, ``cancelled``, ``never ended`` or the code of an error.
        took: seconds.
        at: seconds after the beginning.
        sound: slots of its key with which nothing was wrong all the while.
    """

    outcome: str
    took: float
    at: float
    sound: tuple[str, ...] = ()


@define
class Tally:
    """One sort of key: how its requests ended, and how long it was without a signature."""

    ended: Counter[str] = field(factory=Counter)
    last_signed: float = 0.0
    longest_outage: float = 0.0
    slowest: float = 0.0

    def note(self, end: End) -> None:
        """Count an outcome."""
        self.ended[end.outcome] += 1
        self.slowest = max(self.slowest, end.took)
        if end.outcome == SIGNED:
            self.close(end.at)
            self.last_signed = end.at

    def close(self, now: float) -> None:
        """Count the time since the last signature as an outage."""
        self.longest_outage = max(self.longest_outage, now - self.last_signed)


@frozen
class Entry:
    """How one request ended, as its caller saw it; ``digest`` is the beginning of what was to be signed."""

    sort: Sort
    outcome: str
    digest: bytes


class Ledger:
    """The callers' account. Times are seconds after the beginning."""

    def __init__(self) -> None:
        self.tallies = {sort: Tally() for sort in Sort}
        self.violations: list[Violation] = []
        self.broken: Counter[str] = Counter()
        self._outcomes: list[str] = []
        self._codes: dict[str, int] = {}
        self._sorts: dict[int, Sort] = {}
        self._ended: dict[int, array[int]] = {}
        self._digests: dict[int, bytearray] = {}

    def violated(self, invariant: str, detail: str, now: float) -> None:
        """Note that something happened that should not."""
        self.broken[invariant] += 1
        if len(self.violations) < _MOST_KEPT:
            self.violations.append(Violation(invariant, detail, now))

    def ended(self, caller: int, asked: Ask, end: End) -> None:
        """Note how the next request of a caller ended; each has one at a time, and one sort of key."""
        sort = self._sorts[caller] = asked.sort
        code = self._codes.setdefault(end.outcome, len(self._codes))
        if code == len(self._outcomes):
            self._outcomes.append(end.outcome)
        self._ended.setdefault(caller, array("B")).append(code)
        self._digests.setdefault(caller, bytearray()).extend(asked.digest[:_DIGEST_KEPT])
        self.tallies[sort].note(end)
        for invariant, detail in _broken_by(asked, end):
            self.violated(invariant, f"{asked.request.request_id} ({sort.value}) {detail}", end.at)

    def entries(self, caller: int) -> list[Entry]:
        """How the requests of a caller ended, in order."""
        digests = self._digests[caller]
        return [
            Entry(
                self._sorts[caller],
                self._outcomes[code],
                bytes(digests[_DIGEST_KEPT * number : _DIGEST_KEPT * (number + 1)]),
            )
            for number, code in enumerate(self._ended[caller])
        ]

    @property
    def callers(self) -> list[int]:
        """All callers that have asked anything."""
        return sorted(self._ended)

    @property
    def requests(self) -> int:
        """Requests that have ended."""
        return sum(tally.ended.total() for tally in self.tallies.values())


def _broken_by(asked: Ask, end: End) -> Iterator[tuple[str, str]]:
    """Promises that such an end breaks."""
    timeout, told = asked.request.timeout, f"{end.outcome} after {end.took:.2f} s of {asked.request.timeout} s"
    if timeout is not None and end.took > timeout + SLACK:
        yield "an outcome within the deadline", told
    if end.outcome == NEVER_ENDED:
        yield "exactly one outcome", told
    elif end.outcome not in {SIGNED, CANCELLED} and end.outcome not in _allowed(asked.sort):
        yield "nothing else stops", told
    elif end.outcome in _OWED_TO_SLOTS and end.sound:
        yield "one fault costs no request", f"{told}, with nothing wrong with {', '.join(end.sound)}"


def _allowed(sort: Sort) -> frozenset[str]:
    """The errors that a request may end in while tokens are at fault."""
    if sort is Sort.SOFTWARE:
        return _OWED_TO_LOAD
    return _OWED_TO_BUDGET if sort is Sort.TWIN else _OWED_TO_FAULTS
