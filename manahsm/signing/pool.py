"""Sessions with one token, spread evenly over its host processes.

The one thing to know: a session belongs to whoever acquired it until it is released, and one that may not be
used again is closed there, never handed on. Hosts come and go underneath. ``size`` sessions are kept open; while
callers wait, ``max_overflow`` more may be, wherever there is room. How many sessions a host may really have is
learned from its library (no locking: one), from the token's own count, and from being refused one more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType

import anyio
from attrs import define, frozen

from manahsm.hsm.client import HostProcess, HostSession
from manahsm.hsm.failures import HSMFailure
from manahsm.hsm.info import HostInfo
from manahsm.hsm.outcomes import Action
from manahsm.signing.changes import Changes
from supervisors import SYSTEM_CLOCK, Clock

__all__ = ["NoRoom", "OpenFailed", "PoolStats", "SessionPool", "sessions_allowed"]

GROW_AGAIN_AFTER = (1.0, 30.0)
"""Seconds until one more session is tried after the token has refused one: at first, and at most."""


class OpenFailed(Exception):  # noqa: N818
    """A host could not open a session."""

    def __init__(self, host: HostProcess, failure: HSMFailure) -> None:
        self.host = host
        self.failure = failure
        super().__init__(str(failure))


class NoRoom(Exception):  # noqa: N818 - an answer, not a fault
    """No host has room for another overflow session."""


@frozen(kw_only=True)
class PoolStats:
    """Numbers of one pool.

    Attributes:
        size: sessions that it keeps.
        max_overflow: sessions that it may open beyond that.
        open: sessions that are open now.
        overflow: those of them that are beyond ``size``.
        busy: sessions that are signing now.
        waiting: requests that wait for a session.
        opened: sessions opened since the start.
        closed: sessions since the start that were closed while they were good: no longer needed.
        discarded: sessions that broke since the start, by reason: names of outcomes, or ``HOST_GONE``.
    """

    size: int
    max_overflow: int
    open: int
    overflow: int
    busy: int
    waiting: int
    opened: int
    closed: int
    discarded: Mapping[str, int]


def sessions_allowed(info: HostInfo | None) -> float:
    """How many sessions a host may have open for signing (pure): 0 when it has ended, infinity for no limit.

    A token's own limit counts for each application, and each host keeps one session as its anchor.
    """
    if info is None:
        return 0
    threads = math.inf if info.max_session_threads is None else info.max_session_threads
    token = math.inf if info.max_sessions is None else max(1, info.max_sessions - 1)
    return min(threads, token)


@define(eq=False)
class _Room:
    """The sessions of one host, those that are being opened included."""

    kept: int = 0
    overflow: int = 0
    limit: float = math.inf
    """Sessions at which the token refused another; exceeded by one at a time, after ``try_at``."""
    try_at: float = 0.0
    wait: float = GROW_AGAIN_AFTER[0]

    @property
    def open(self) -> int:
        return self.kept + self.overflow

    def refused(self, now: float) -> None:
        """The token allows no more than are open now."""
        self.limit = self.open
        self.try_at = now + self.wait
        self.wait = min(GROW_AGAIN_AFTER[1], self.wait * 2)

    def opened(self, now: float) -> None:
        """Another was opened: go on from there, one at a time."""
        if self.open > self.limit:
            self.limit = self.open
            self.wait = GROW_AGAIN_AFTER[0]
            self.try_at = now + self.wait

    def admits(self, now: float) -> bool:
        return self.open < self.limit or (self.open == self.limit and now >= self.try_at)


@define(eq=False)
class _Lease:
    """A session that is out, and the room that it takes."""

    host: HostProcess
    room: _Room
    overflow: bool
    detached: Callable[[], object] | None = None


class SessionPool:
    """Up to ``size`` sessions over up to ``processes`` hosts, and up to ``max_overflow`` more.

    Each host has at most an even share of either, so that one that comes back finds its sessions waiting for it.

    Args:
        size: sessions in all, 1 or more.
        processes: hosts that share them, from 1 to ``size``.
        max_overflow: sessions beyond ``size`` under pressure.
        clock: its time.
    """

    def __init__(self, size: int, processes: int, max_overflow: int = 0, clock: Clock = SYSTEM_CLOCK) -> None:
        self.size = size
        self.max_overflow = max_overflow
        self._processes = processes
        self._share = math.ceil(size / processes)
        self._overflow_share = math.ceil((size + max_overflow) / processes)
        self._clock = clock
        self._rooms: dict[HostProcess, _Room] = {}
        self._leases: dict[HostSession, _Lease] = {}
        self._changes = Changes()
        self._careful = False
        self._opening = anyio.Lock()
        self._opened = self._closed = self._overflow = 0
        self._discarded: Counter[str] = Counter()

    @property
    def hosts(self) -> tuple[HostProcess, ...]:
        """Hosts that serve sessions now."""
        return tuple(self._rooms)

    @property
    def open(self) -> int:
        """Sessions that are open."""
        return len(self._leases)

    @property
    def may_overflow(self) -> bool:
        """Whether an overflow session could be opened now."""
        return self._overflow < self.max_overflow and self._room_for(overflow=True) is not None

    def stats(self, *, busy: int = 0, waiting: int = 0) -> PoolStats:
        """Return all numbers, with those that only the slot knows."""
        return PoolStats(
            size=self.size,
            max_overflow=self.max_overflow,
            open=len(self._leases),
            overflow=sum(lease.overflow for lease in self._leases.values()),
            busy=busy,
            waiting=waiting,
            opened=self._opened,
            closed=self._closed,
            discarded=MappingProxyType(dict(self._discarded)),
        )

    # ---- hosts ----

    def attach(self, host: HostProcess) -> None:
        """Take sessions from ``host`` from now on."""
        self._rooms.setdefault(host, _Room())
        self._changes.notify()

    def detach(self, host: HostProcess) -> None:
        """Take no more sessions from ``host``; those that are out are released as broken ones."""
        self._rooms.pop(host, None)
        for lease in tuple(self._leases.values()):
            if lease.host is host and lease.detached is not None:
                lease.detached()
        self._changes.notify()

    def open_carefully(self) -> None:
        """Open one session at a time until one was opened: there was a problem with the login."""
        self._careful = True

    # ---- sessions ----

    async def acquire(self, *, overflow: bool = False) -> HostSession:
        """Open a session on the host that has the fewest.

        Args:
            overflow: one beyond ``size``; otherwise this waits for a host with room.

        Raises:
            NoRoom: no room for one beyond ``size``.
            OpenFailed: the host could not open one.
        """
        host = await self._reserve(overflow=overflow)
        room = self._rooms[host]
        try:
            session = await self._open_on(host)
        except HSMFailure as failure:
            self._leave(room, overflow=overflow)
            if failure.outcome.action is Action.SHRINK:
                room.refused(self._clock.now())
            raise OpenFailed(host, failure) from failure
        except BaseException:
            self._leave(room, overflow=overflow)
            raise
        room.opened(self._clock.now())
        self._careful = False
        self._opened += 1
        self._leases[session] = _Lease(host, room, overflow)
        self._changes.notify()
        return session

    async def release(self, session: HostSession, reason: str | None = None) -> None:
        """Close a session and free its place.

        Args:
            session: one that is out.
            reason: why it broke; ``None`` where it is good, and only not needed any more.
        """
        if reason is None:
            self._closed += 1
        else:
            self._discarded[reason] += 1
        try:
            await session.close()
        finally:
            lease = self._leases.pop(session)
            self._leave(lease.room, overflow=lease.overflow)

    async def filled(self) -> None:
        """Wait until ``size`` sessions are open, or as many as all the hosts have room for."""
        while len(self._leases) < self.size and not self._full:
            await self._changes.wait_after(self._changes.version)

    def host_of(self, session: HostSession) -> HostProcess:
        """Return the host of a session that is out."""
        return self._leases[session].host

    def when_detached(self, session: HostSession, detached: Callable[[], object]) -> None:
        """Have ``detached`` called when the session's host leaves the pool: it may take nothing new then."""
        lease = self._leases[session]
        lease.detached = detached
        if lease.host not in self._rooms:
            detached()

    # ---- inside ----

    @property
    def _full(self) -> bool:
        """Whether all hosts are there, and none has room for a session that is not open yet."""
        opening = sum(room.open for room in self._rooms.values()) - len(self._leases)
        return len(self._rooms) == self._processes and opening <= 0 and self._room_for(overflow=False) is None

    async def _reserve(self, *, overflow: bool) -> HostProcess:
        while (host := self._room_for(overflow=overflow)) is None:
            if overflow:
                raise NoRoom
            version = self._changes.version
            with self._clock.move_on_at(self._next_try()):
                await self._changes.wait_after(version)
        room = self._rooms[host]
        room.kept += not overflow
        room.overflow += overflow
        self._overflow += overflow
        return host

    def _leave(self, room: _Room, *, overflow: bool) -> None:
        room.kept -= not overflow
        room.overflow -= overflow
        self._overflow -= overflow
        self._changes.notify()

    def _room_for(self, *, overflow: bool) -> HostProcess | None:
        if overflow and self._overflow >= self.max_overflow:
            return None
        now = self._clock.now()
        with_room = [
            host
            for host, room in self._rooms.items()
            if host.serving
            and (room.open < self._overflow_share if overflow else room.kept < self._share)
            and room.open < sessions_allowed(host.info)
            and room.admits(now)
        ]
        return min(with_room, key=lambda host: self._rooms[host].open, default=None)

    def _next_try(self) -> float:
        now = self._clock.now()
        return min((room.try_at for room in self._rooms.values() if room.try_at > now), default=math.inf)

    async def _open_on(self, host: HostProcess) -> HostSession:
        if not self._careful:
            return await host.open_session()
        async with self._opening:
            return await host.open_session()
