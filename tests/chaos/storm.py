"""One run of chaos, from the tokens it makes to the verdict.

The one thing to know: it ends only when every fault is lifted, every slot has come back, every caller has its answer
and the service is closed. What is left over then, and what the audit log says, is part of the verdict.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

import anyio
import sniffio
from attrs import field, frozen
from chaos.arena import Arena, short_restart_delays
from chaos.audited import Routes, audit
from chaos.callers import Caller
from chaos.conductor import Conductor, asks_for_login
from chaos.ledger import Ledger, Violation
from chaos.schedule import schedule
from chaos.sorts import SLOTS, Sort
from chaos.watch import Resources, Watch, comes_true
from hsm_hosts import open_descriptors
from services import host_pids

import manahsm
from manahsm.hsm.return_codes import CKR

__all__ = ["CALLERS", "StormReport", "storm"]

CALLERS = 32
_HOSTS = 2 * len(SLOTS)
_WARM_UP = 1.0  # seconds of calls before the first fault, after which memory is measured
_COMES_BACK_WITHIN = 30.0
_ENDS_WITHIN = 20.0
_GROSS = 96 * 2**20  # bytes: far more than what the callers' own account takes


@frozen(kw_only=True)
class StormReport:
    """What a run has shown. Times in seconds."""

    seed: int
    backend: str
    python: str
    seconds: float
    requests: int
    outcomes: Mapping[Sort, Mapping[str, int]]
    routes: Routes
    longest_outage: Mapping[Sort, float]
    slowest: Mapping[Sort, float]
    faults: Mapping[str, int]
    recoveries: Mapping[str, list[float]]
    discarded: Mapping[str, int]
    breakers: Mapping[str, int]
    unlatched: Mapping[str, int]
    hosts_seen: int
    respawns: int
    host_crashes: int
    logins: int
    longest_stall: float
    load: float
    before: Resources
    after: Resources
    left: Resources
    violations: list[Violation] = field(repr=False)
    broken: Mapping[str, int]


async def storm(directory: Path, seed: int, seconds: float) -> StormReport:
    """Run chaos.

    Args:
        directory: an empty one, for tokens and the service's state.
        seed: of the schedule and of what the callers ask for.
        seconds: in which faults happen; recovery and the end come after that.
    """
    arena = Arena.build(directory)
    try:
        with short_restart_delays():
            await arena.make_keys()
            return await _Storm(arena, seed, seconds).run()
    finally:
        arena.close()


class _Storm:
    def __init__(self, arena: Arena, seed: int, seconds: float) -> None:
        self.arena = arena
        self.seed = seed
        self.seconds = seconds
        self.ledger = Ledger()
        self.watch = Watch()
        self.began = 0.0

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    async def run(self) -> StormReport:
        arena, ledger, watch = self.arena, self.ledger, self.watch
        logins_before, starts_before = self._calls("C_Login"), self._calls("C_Initialize")
        descriptors, tasks = open_descriptors(), len(anyio.get_running_tasks())
        async with manahsm.open_service(arena.config()) as service:
            service._parts.hub.subscribe(watch)
            await service.filled()
            await self._start_software_host(service)
            before, after, conductor = await self._blow(service)
        await self._check_end(descriptors, tasks)
        logins, starts = self._calls("C_Login") - logins_before, self._calls("C_Initialize") - starts_before
        self._check_logins(logins, starts, conductor.logins_asked_for)
        self._check_sessions()
        self._check_memory(before, after)
        left = Resources.now()
        routes = audit(arena.audit_directory, ledger, arena.keys, arena.limits, self.now)
        return StormReport(
            seed=self.seed,
            backend=sniffio.current_async_library(),
            python=platform.python_version(),
            seconds=self.seconds,
            requests=ledger.requests,
            outcomes={sort: dict(tally.ended) for sort, tally in ledger.tallies.items()},
            routes=routes,
            longest_outage={sort: tally.longest_outage for sort, tally in ledger.tallies.items()},
            slowest={sort: tally.slowest for sort, tally in ledger.tallies.items()},
            faults=conductor.faults,
            recoveries=conductor.recoveries,
            discarded=watch.discarded,
            breakers=watch.breakers,
            unlatched=conductor.unlatched,
            hosts_seen=len(conductor.hosts_seen),
            respawns=len(conductor.hosts_seen) - _HOSTS,
            host_crashes=watch.host_crashes,
            logins=logins,
            longest_stall=watch.longest_stall,
            load=os.getloadavg()[0],
            before=before,
            after=after,
            left=left,
            violations=ledger.violations,
            broken=ledger.broken,
        )

    async def _blow(self, service: manahsm.Service) -> tuple[Resources, Resources, Conductor]:
        """Callers, faults and their end; returns resources before and after, and who played the faults."""
        stopping = anyio.Event()
        self.began = time.monotonic()
        conductor = Conductor(service, self.arena, self.watch, self.ledger, began=self.began + _WARM_UP)
        async with anyio.create_task_group() as callers:
            for number in range(CALLERS):
                callers.start_soon(self._caller(number, service, conductor).run, stopping)
            await anyio.sleep(_WARM_UP)
            before = Resources.now()
            async with anyio.create_task_group() as operators:
                operators.start_soon(conductor.operate)
                operators.start_soon(self.watch.feel_stalls)
                await conductor.play(schedule(self.seed, self.seconds))
                await anyio.sleep(max(0.0, self.seconds + _WARM_UP - self.now))
                await self._come_back()
                stopping.set()
                for tally in self.ledger.tallies.values():
                    tally.close(self.now)
                operators.cancel_scope.cancel()
        await self._first_route_again(service)
        if not await comes_true(lambda: len(host_pids()) == before.hosts, within=_COMES_BACK_WITHIN):
            self._violated("it comes back by itself", f"{len(host_pids())} hosts run, {before.hosts} should")
        await service.filled()
        after = Resources.now()
        if after.descriptors > before.descriptors:
            self._violated("descriptors are flat", f"{before.descriptors} before, {after.descriptors} after")
        return before, after, conductor

    def _caller(self, number: int, service: manahsm.Service, conductor: Conductor) -> Caller:
        sort = list(Sort)[number % len(Sort)]
        return Caller(
            number,
            sort,
            service,
            self.arena.keys[sort],
            self.ledger,
            seed=self.seed,
            began=self.began,
            is_sound=conductor.is_sound,
        )

    # ---- promises that are looked at in the end ----

    async def _come_back(self) -> None:
        """Nothing is wrong any more: every sort of key signs again."""
        calm, tallies = self.now, self.ledger.tallies

        def silent() -> list[str]:
            return [sort.value for sort, tally in tallies.items() if tally.last_signed <= calm]

        if not await comes_true(lambda: not silent(), within=_COMES_BACK_WITHIN):
            self._violated("it comes back by itself", f"after all faults were lifted nothing was signed for {silent()}")

    async def _first_route_again(self, service: manahsm.Service) -> None:
        """With nobody else asking, each key is signed by the route that it has first."""
        for sort in Sort:
            if not sort.slots:
                continue
            last = None
            with anyio.move_on_after(_COMES_BACK_WITHIN):
                while not (last and last.outcome == "signed" and last.slot == sort.slots[0]):
                    try:
                        await service.sign_hash(bytes(32), self.arena.keys[sort].key_id, request_id="after all")
                    except manahsm.ManaHSMError:
                        await anyio.sleep(0.02)
                    last = self.watch.last
                continue
            self._violated(
                "it comes back by itself", f"the key for {sort.value!r} has not gone back to its slot: {last}"
            )

    async def _start_software_host(self, service: manahsm.Service) -> None:
        """It would be started by the first callers, and its pipes would be descriptors too many."""
        host = service._parts.software_host
        if host is not None:
            host.want()
            if not await comes_true(lambda: host.has_room, within=_COMES_BACK_WITHIN):
                self._violated("it comes back by itself", "the software host was not started")

    async def _check_end(self, descriptors: set[str], tasks: int) -> None:
        """The service is closed: nothing of it is left."""

        def left() -> list[object]:
            more = len(anyio.get_running_tasks()) - tasks
            return [*sorted(open_descriptors() - descriptors), *host_pids(), *([f"{more} tasks"] if more > 0 else [])]

        if not await comes_true(lambda: not left(), within=_ENDS_WITHIN):
            self._violated("nothing is left behind", f"there still are {left()}")

    def _check_logins(self, logins: int, starts: int, asked_for: int) -> None:
        """One try a start, and one for each session that was told that its login is gone."""
        renewals = asked_for + sum(
            count for reason, count in self.watch.discarded.items() if reason in CKR and asks_for_login(CKR[reason])
        )
        if logins > starts + renewals:
            detail = f"{logins} logins, but {starts} starts of the library and {renewals} logins lost"
            self._violated("one login a start", detail)

    def _check_sessions(self) -> None:
        reused = sum(module.reused_after_failure for module in self.arena.modules.values())
        if reused:
            self._violated("a session that failed is not used again", f"{reused} calls")

    def _check_memory(self, before: Resources, after: Resources) -> None:
        more = after.memory - before.memory
        if more > _GROSS:
            self._violated("memory is bounded", f"this process takes {more / 2**20:.0f} MiB more than before")

    def _calls(self, function: str) -> int:
        return sum(module.calls(function) for module in self.arena.modules.values())

    def _violated(self, invariant: str, detail: str) -> None:
        self.ledger.violated(invariant, detail, self.now)
