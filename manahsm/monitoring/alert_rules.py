"""When an alert is raised, goes on, comes back and ends. Pure: a standing and what was seen give the next standing.

The one thing to know: there is one :class:`Standing` for a component and a cause, and at most one open alert in it.

- So many bad looks in a row (``Cause.bad``) raise it; each further one counts and keeps it up to date.
- So many good looks in a row (``Cause.good``) resolve it.
- Looks that follow on one another faster than at intervals, because something has happened or somebody has asked, do
  not make either come sooner.
- One that comes back within the *calm* time after that is the same alert, reopened. It flaps, and from then on it is
  resolved only when the good looks have gone on for the calm time: who is paged for it is paged once.
- An operator may resolve it at any time. Then it stays silent until its cause has ended, and counts anew after that.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from attrs import Factory, evolve, frozen

from manahsm.monitoring.causes import Cause, Severity
from manahsm.monitoring.values import Detail

__all__ = ["Alert", "Pace", "ResolvedBy", "Standing", "bad_look", "good_look", "resolved_by_operator", "restored"]


class ResolvedBy(StrEnum):
    """Who or what has ended an alert."""

    ITSELF = "itself"
    OPERATOR = "operator"
    TIME = "time"
    """It was news."""
    CONFIGURATION = "configuration"
    """Its component is not there any more."""


@frozen(kw_only=True)
class Alert:
    """One alert, as it is or was. Times are UTC.

    Attributes:
        id: 16 hex characters, for ``resolve_alert``.
        severity: how urgent it is; never changes.
        component: what it is about, e.g. ``pkcs11:main``.
        cause: name of the cause, see ``docs/operations.md``.
        message: what is wrong; always the same for a cause.
        detail: numbers, names and reasons, as of the last time it was seen.
        details: what else was known then.
        raised_at: when it was raised first.
        last_seen: when its cause was last seen.
        count: how often.
        reopened: how often it has come back soon after it was resolved.
        resolved_at: when it ended, or ``None`` while it is open.
        resolved_by: who or what ended it.
    """

    id: str
    severity: Severity
    component: str
    cause: str
    message: str
    detail: str = ""
    details: Mapping[str, Detail] = Factory(dict)  # a plain one: it is written as JSON
    raised_at: datetime
    last_seen: datetime
    count: int = 1
    reopened: int = 0
    resolved_at: datetime | None = None
    resolved_by: ResolvedBy | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.resolved_at is None


@frozen(kw_only=True)
class Pace:
    """How fast things may go.

    Attributes:
        interval: seconds between two looks.
        calm: seconds for which the cause of an alert that has come back must be away.
    """

    interval: float
    calm: float

    def is_enough(self, looks: int, since: float, now: float, *, needed: int) -> bool:
        """Whether so many looks in a row since then are as many as needed, at intervals (with some room for jitter)."""
        return looks >= needed and now - since >= (needed - 1) * self.interval / 2


@frozen(kw_only=True)
class Standing:
    """How one cause stands at one component. Times are the clock's.

    Attributes:
        bad: bad looks in a row.
        good: good looks in a row.
        since: when the first of these looks was.
        alert: the open alert, or the last one.
        resolved: when that ended.
        flapping: it has come back, and is resolved only after a calm time.
        silenced: an operator has resolved it, and its cause has not ended yet.
    """

    bad: int = 0
    good: int = 0
    since: float = 0.0
    alert: Alert | None = None
    resolved: float | None = None
    flapping: bool = False
    silenced: bool = False

    @property
    def open(self) -> Alert | None:
        """The open alert, if there is one."""
        return self.alert if self.alert is not None and self.alert.is_open else None


def bad_look(
    standing: Standing,
    cause: Cause,
    new: Alert,
    *,
    now: float,
    pace: Pace,
) -> Standing:
    """The cause was seen.

    Args:
        standing: as it was.
        cause: what was seen.
        new: the alert that would be raised for it now.
        now: clock time.
        pace: how fast things may go.
    """
    since = standing.since if standing.bad else now
    standing = evolve(standing, bad=standing.bad + 1, good=0, since=since)
    last = standing.alert
    if last is not None and last.is_open:
        return evolve(standing, alert=_seen_again(last, new))
    if standing.silenced or not pace.is_enough(standing.bad, since, now, needed=cause.bad):
        return standing
    if last is not None and standing.resolved is not None and now - standing.resolved < pace.calm:
        again = evolve(_seen_again(last, new), resolved_at=None, resolved_by=None, reopened=last.reopened + 1)
        return evolve(standing, alert=again, resolved=None, flapping=True)
    return evolve(standing, alert=new, resolved=None, flapping=False)


def good_look(
    standing: Standing,
    cause: Cause,
    *,
    now: float,
    wall: datetime,
    pace: Pace,
    by: ResolvedBy = ResolvedBy.ITSELF,
) -> Standing:
    """The cause was not seen, where it would have been.

    Args:
        standing: as it was.
        cause: what was not seen.
        now: clock time.
        wall: time of day.
        pace: how fast things may go.
        by: what has ended it.
    """
    since = standing.since if standing.good else now
    standing = evolve(standing, bad=0, good=standing.good + 1, since=since, silenced=False)
    alert = standing.open
    if alert is None or not pace.is_enough(standing.good, since, now, needed=cause.good):
        return standing
    if standing.flapping and now - since < pace.calm:
        return standing
    return evolve(standing, alert=evolve(alert, resolved_at=wall, resolved_by=by), resolved=now, flapping=False)


def resolved_by_operator(standing: Standing, *, wall: datetime) -> Standing:
    """An operator has dealt with it, or does not want to hear of it again."""
    alert = standing.open
    if alert is None:
        return standing
    ended = evolve(alert, resolved_at=wall, resolved_by=ResolvedBy.OPERATOR)
    # What comes after that is another one, however soon.
    return evolve(standing, alert=ended, resolved=None, flapping=False, silenced=standing.bad > 0)


def restored(alert: Alert) -> Standing:
    """The standing of an alert that was open when the service stopped: it goes on, or the next look ends it."""
    return Standing(bad=1, alert=alert)


def _seen_again(alert: Alert, new: Alert) -> Alert:
    return evolve(alert, detail=new.detail, details=new.details, last_seen=new.last_seen, count=alert.count + 1)
