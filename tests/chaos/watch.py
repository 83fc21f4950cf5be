"""A look at the service from its side: what it reports as it happens, and what it takes of the machine.

The one thing to know: the events are those that metrics and alerts listen to. They say which slot has signed, which the
callers can not see; the callers' own account (:mod:`chaos.ledger`) never depends on them.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import anyio
from attrs import frozen
from services import host_pids

from manahsm.signing.observed import SessionEnded, SignEnded
from supervisors import BreakerAvailabilityChanged, BreakerStateChanged, ChildExited, Crashed

__all__ = ["Resources", "Watch", "comes_true"]

_BEAT = 0.005  # seconds


@frozen
class Resources:
    """What this process and its hosts take.

    Attributes:
        memory: resident bytes of this process.
        descriptors: open file descriptors of this process.
        hosts: host processes.
        tasks: tasks of the event loop.
    """

    memory: int
    descriptors: int
    hosts: int
    tasks: int

    @classmethod
    def now(cls) -> Resources:
        """Measure. Needs a running loop."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            memory=pages * os.sysconf("SC_PAGE_SIZE"),
            descriptors=len(os.listdir("/proc/self/fd")) - 1,  # noqa: PTH208 - the names are all that is wanted
            hosts=len(host_pids()),
            tasks=len(anyio.get_running_tasks()),
        )


async def comes_true(condition: Callable[[], object], *, within: float) -> bool:
    """Wait until ``condition`` holds, for what nobody tells of; return whether it did within so many seconds."""
    with anyio.move_on_after(within):
        while not condition():  # noqa: ASYNC110 - nobody sets an event
            await anyio.sleep(0.02)
        return True
    return False


class Watch:
    """Listens to a service. Times are of ``time.monotonic``."""

    def __init__(self) -> None:
        self.host_crashes = 0
        self.discarded: Counter[str] = Counter()
        self.breakers: Counter[str] = Counter()
        self.last: SignEnded | None = None
        self.last_signed: dict[str | None, float] = {}
        self.first_diverted: float | None = None
        self.longest_stall = 0.0
        """Seconds in which the event loop did nothing: a machine that is too busy, or code that blocks it."""
        self._well_since: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._changed = anyio.Event()

    def __call__(self, event: object) -> None:
        """Take an event."""
        match event:
            case SignEnded():
                self._note(event)
            case SessionEnded(reason=str(reason)):
                self.discarded[reason] += 1
            case ChildExited(supervisor=supervisor, exit=Crashed()) if supervisor.startswith("hosts "):
                self.host_crashes += 1
            case BreakerStateChanged(breaker=breaker, state=state):
                self.breakers[state] += 1
                self._note_health(breaker, "state", well=state in {"closed", "forced_closed"})
            case BreakerAvailabilityChanged(breaker=breaker, available=available):
                self._note_health(breaker, "hosts", well=available)
            case _:
                pass

    def well_since(self, slot: str) -> float:
        """Since when a slot has had a host and a closed breaker; infinity where it has not."""
        return max(self._well_since[slot].values(), default=-math.inf)

    def _note_health(self, breaker: str, fact: str, *, well: bool) -> None:
        self._well_since[breaker.removeprefix("slot ")][fact] = time.monotonic() if well else math.inf

    def _note(self, event: SignEnded) -> None:
        self.last = event
        if event.outcome == "signed":
            now = time.monotonic()
            self.last_signed[event.slot] = now
            if event.diverted and self.first_diverted is None:
                self.first_diverted = now
            self._changed.set()
            self._changed = anyio.Event()

    def forget_diverted(self) -> None:
        """Wait for the first diverted signature from now on."""
        self.first_diverted = None

    async def feel_stalls(self) -> None:
        """Measure how late the loop comes back, until cancelled."""
        while True:
            due = time.monotonic() + _BEAT
            await anyio.sleep(_BEAT)
            self.longest_stall = max(self.longest_stall, time.monotonic() - due)

    async def signed(self, slot: str | None, since: float) -> float:
        """Wait for a signature by ``slot`` (``None``: software) later than ``since``; return when it was made."""
        while self.last_signed.get(slot, 0.0) < since:
            await self._changed.wait()
        return self.last_signed[slot]
