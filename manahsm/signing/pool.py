"""Sessions with one token, spread evenly over its host processes.

The one thing to know: a session belongs to whoever acquired it until it is released, and one that may not be
used again is closed there, never handed on. Hosts come and go underneath; :meth:`SessionPool.acquire` waits for
one that has room.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from attrs import frozen

from manahsm.hsm.client import HostProcess, HostSession
from manahsm.signing.changes import Changes

__all__ = ["PoolStats", "SessionPool"]


@frozen(kw_only=True)
class PoolStats:
    """Numbers of one pool.

    Attributes:
        size: sessions that it keeps.
        open: sessions that are open now.
        waiting: workers that wait for a session.
        opened: sessions opened since the start.
        discarded: sessions that broke since the start.
    """

    size: int
    open: int
    waiting: int
    opened: int
    discarded: int


class SessionPool:
    """Up to ``size`` sessions over up to ``processes`` hosts; no host has more than its even share.

    Args:
        size: sessions in all, 1 or more.
        processes: hosts that share them, from 1 to ``size``.
    """

    def __init__(self, size: int, processes: int) -> None:
        self.size = size
        self.share = math.ceil(size / processes)
        self._open: dict[HostProcess, int] = {}
        self._owners: dict[HostSession, HostProcess] = {}
        self._attached: dict[HostSession, anyio.CancelScope] = {}
        self._changes = Changes()
        self._waiting = self._opened = self._discarded = 0

    @property
    def hosts(self) -> tuple[HostProcess, ...]:
        """Hosts that serve sessions now."""
        return tuple(self._open)

    def stats(self) -> PoolStats:
        """Return all numbers."""
        return PoolStats(
            size=self.size,
            open=len(self._owners),
            waiting=self._waiting,
            opened=self._opened,
            discarded=self._discarded,
        )

    def attach(self, host: HostProcess) -> None:
        """Take sessions from ``host`` from now on."""
        self._open.setdefault(host, 0)
        self._changes.notify()

    def detach(self, host: HostProcess) -> None:
        """Take no more sessions from ``host``; those that are out are released as broken ones."""
        self._open.pop(host, None)
        for session, scope in self._attached.items():
            if self._owners[session] is host:
                scope.cancel()
        self._changes.notify()

    async def acquire(self) -> HostSession:
        """Open a session on the host that has the fewest, waiting for a host with room.

        Raises:
            HSMFailure: the host could not open one.
        """
        host = await self._reserve()
        try:
            session = await host.open_session()
        except BaseException:
            self._unreserve(host)
            raise
        self._opened += 1
        self._owners[session] = host
        self._changes.notify()
        return session

    async def filled(self) -> None:
        """Wait until all sessions are open."""
        while len(self._owners) < self.size:
            await self._changes.wait_after(self._changes.version)

    async def release(self, session: HostSession) -> None:
        """Close a session and free its place."""
        if not session.usable:
            self._discarded += 1
        try:
            await session.close()
        finally:
            self._unreserve(self._owners.pop(session))

    def host_of(self, session: HostSession) -> HostProcess:
        """Return the host of a session that is out."""
        return self._owners[session]

    @contextmanager
    def while_attached(self, session: HostSession) -> Iterator[None]:
        """Cancel the block when the session's host leaves the pool: for waiting for work with a session in hand."""
        with anyio.CancelScope() as scope:
            self._attached[session] = scope
            try:
                yield
            finally:
                del self._attached[session]

    async def _reserve(self) -> HostProcess:
        self._waiting += 1
        try:
            while True:
                with_room = [host for host, count in self._open.items() if count < self._most(host)]
                if with_room:
                    host = min(with_room, key=self._open.__getitem__)
                    self._open[host] += 1
                    return host
                await self._changes.wait_after(self._changes.version)
        finally:
            self._waiting -= 1

    def _most(self, host: HostProcess) -> int:
        """Sessions that ``host`` may have: its share, one where its library refuses locking, none when it has ended."""
        if host.info is None:
            return 0
        threads = host.info.max_session_threads
        return self.share if threads is None else min(self.share, threads)

    def _unreserve(self, host: HostProcess) -> None:
        if host in self._open:
            self._open[host] -= 1
            self._changes.notify()
