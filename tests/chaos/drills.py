"""Drills: one fault at a time, without dice, measured against what the service claims.

The one thing to know: each drill has a service of its own and a steady load of callers with one key. What stands in for
the key's slot (a second slot, a software twin, or nothing) decides what is owed: no failed request and a diverted
signature in time, or a clear refusal within the deadline. In all cases the slot comes back by itself.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import anyio
from attrs import define, field, frozen
from chaos.arena import Arena
from chaos.conductor import Conductor
from chaos.faults import Blow, Fault
from chaos.ledger import Ledger
from chaos.sorts import BACKUP, PRIMARY, Sort
from chaos.watch import Watch
from p11fault_rules import Crash, Gone, Hang, Return
from services import digest_of, recovered_address

import manahsm

__all__ = ["DRILLS", "Drill", "DrillReport", "StandIn", "drill", "drills"]

CALLERS = 8
_THINKS = 0.005
_TIMEOUT = 2.0
_SHORT_TIMEOUT = 0.8  # where nothing stands in: shorter than the fault
_SLACK = 0.5
_STEADY = 0.4  # seconds of load before the fault
_LENGTH = 1.2  # seconds until it is lifted
_FALLBACK_TIMEOUT = 0.4
_AT_ONCE = 0.050
_AFTER_A_HANG = _FALLBACK_TIMEOUT + 0.100
_COMES_BACK_WITHIN = 30.0


class StandIn(StrEnum):
    """What may sign in the slot's place."""

    SECOND_SLOT = "slot"
    TWIN = "twin"
    NOTHING = "nothing"

    @property
    def sort(self) -> Sort:
        """The sort of key that has it."""
        return _SORTS[self]


_SORTS: Mapping[StandIn, Sort] = MappingProxyType(
    {StandIn.SECOND_SLOT: Sort.TWO_SLOTS, StandIn.TWIN: Sort.TWIN, StandIn.NOTHING: Sort.ONE_SLOT}
)


@frozen
class Drill:
    """One fault, and how soon the first signature by another route must be there.

    Attributes:
        fault: what happens to the primary slot.
        diverted_within: seconds; ``None`` where the slot may well go on signing.
    """

    fault: Fault
    diverted_within: float | None = _AT_ONCE


DRILLS: tuple[Drill, ...] = (
    Drill(Fault("CKR_GENERAL_ERROR", (Return("C_Sign", "CKR_GENERAL_ERROR"),))),
    Drill(Fault("CKR_DEVICE_ERROR", (Return("C_Sign", "CKR_DEVICE_ERROR"),))),
    Drill(Fault("CKR_DEVICE_REMOVED", (Return("C_Sign", "CKR_DEVICE_REMOVED"),))),
    Drill(Fault("hang in C_Sign", (Hang("C_Sign"),)), _AFTER_A_HANG),
    Drill(Fault("library crashes", (Crash("C_Sign"),))),
    Drill(Fault("token gone", (Gone(),))),
    Drill(Fault("one host killed", blow=Blow.KILL_ONE), None),
    Drill(Fault("all hosts killed", blow=Blow.KILL_ALL)),
    Drill(Fault("all hosts stopped", blow=Blow.STOP_ALL), _AFTER_A_HANG),
    Drill(Fault("PIN locked", (Return("C_Login", "CKR_PIN_LOCKED"),), Blow.KILL_ALL)),
)


@define
class DrillReport:
    """What one drill has shown. Times in seconds.

    Attributes:
        fault: its kind.
        stand_in: what was there to stand in.
        signed: signatures that callers got.
        failed: errors that they got, by code.
        slowest: the longest that a request took.
        diverted_after: from the fault to the first signature by another route.
        refused_after: from the fault to the first error.
        recovered_after: from the end of the fault to the first signature by the slot.
        longest_stall: how long the event loop stood still: where that is long, the machine was too busy for the others.
        faults: what is not as it should be, a sentence each.
    """

    fault: str
    stand_in: StandIn
    signed: int = 0
    failed: Counter[str] = field(factory=Counter)
    slowest: float = 0.0
    diverted_after: float | None = None
    refused_after: float | None = None
    recovered_after: float | None = None
    longest_stall: float = 0.0
    faults: list[str] = field(factory=list)


async def drills(directory: Path) -> list[DrillReport]:
    """Run all drills with all that may stand in."""
    arena = Arena.build(directory)
    try:
        await arena.make_keys()
        return [await drill(arena, each, stand_in) for each in DRILLS for stand_in in StandIn]
    finally:
        arena.close()


async def drill(arena: Arena, each: Drill, stand_in: StandIn) -> DrillReport:
    """Run one drill, and judge it."""
    return await _Run(arena, each, stand_in).run()


class _Run:
    def __init__(self, arena: Arena, each: Drill, stand_in: StandIn) -> None:
        self.arena = arena
        self.drill = each
        self.stand_in = stand_in
        self.key = arena.keys[stand_in.sort]
        self.watch = Watch()
        self.report = DrillReport(each.fault.kind, stand_in)
        self.timeout = _SHORT_TIMEOUT if stand_in is StandIn.NOTHING else _TIMEOUT
        self.began = math.inf
        self.lifted = math.inf
        self.told: set[str] = set()  # while the fault was on

    async def run(self) -> DrillReport:
        slots = (PRIMARY, BACKUP) if self.stand_in is StandIn.SECOND_SLOT else (PRIMARY,)
        config = self.arena.config(
            *slots,
            fallback={"fallback_timeout": _FALLBACK_TIMEOUT * 1000, "max_fallback_operations": 1_000_000},
            circuit_breaker={"open_for": 300, "max_open_for": 300},
        )
        async with manahsm.open_service(config) as service:
            service._parts.hub.subscribe(self.watch)
            await service.filled()
            stopping = anyio.Event()
            async with anyio.create_task_group() as callers:
                for number in range(CALLERS):
                    callers.start_soon(self._call, service, number, stopping)
                async with anyio.create_task_group() as meters:
                    meters.start_soon(self.watch.feel_stalls)
                    await anyio.sleep(_STEADY)
                    await self._suffer(service)
                    meters.cancel_scope.cancel()
                stopping.set()
        self.report.longest_stall = self.watch.longest_stall
        self._judge()
        return self.report

    async def _suffer(self, service: manahsm.Service) -> None:
        conductor = Conductor(service, self.arena, self.watch, Ledger(), began=time.monotonic())
        self.watch.forget_diverted()
        self.began = time.monotonic()
        stopped = await conductor.begin(PRIMARY, self.drill.fault)
        await anyio.sleep(_LENGTH)
        await conductor.lift(PRIMARY, self.drill.fault, stopped)
        self.lifted = lifted = time.monotonic()
        async with anyio.create_task_group() as operators:
            operators.start_soon(conductor.operate)
            with anyio.move_on_after(_COMES_BACK_WITHIN):
                self.report.recovered_after = await self.watch.signed(PRIMARY, lifted) - lifted
            operators.cancel_scope.cancel()
        if self.watch.first_diverted is not None:
            self.report.diverted_after = self.watch.first_diverted - self.began

    async def _call(self, service: manahsm.Service, caller: int, stopping: anyio.Event) -> None:
        number = caller
        while not stopping.is_set():
            sent = time.monotonic()
            digest = digest_of(number)
            number += CALLERS
            try:
                signature = await service.sign_hash(digest, self.key.key_id, timeout=self.timeout)
            except manahsm.ManaHSMError as error:
                now = time.monotonic()
                self.report.failed[error.code] += 1
                if now < self.lifted:
                    self.told.add(error.code)
                if self.report.refused_after is None:
                    self.report.refused_after = now - self.began
            else:
                self.report.signed += 1
                if recovered_address(signature, digest) != self.key.address:
                    self.report.faults.append("a signature by another key was released")
            self.report.slowest = max(self.report.slowest, time.monotonic() - sent)
            await anyio.sleep(_THINKS)

    def _judge(self) -> None:
        report, within = self.report, self.drill.diverted_within
        if report.recovered_after is None:
            report.faults.append(f"the slot has not signed again within {_COMES_BACK_WITHIN:g} s")
        if report.slowest > self.timeout + _SLACK:
            report.faults.append(f"a request took {report.slowest:.2f} s of {self.timeout:g} s")
        if self.stand_in is StandIn.NOTHING:
            # Once the fault is over, a deadline may pass just as the slot comes back.
            if self.told - {"hsm_unavailable"} or set(report.failed) - {"hsm_unavailable", "deadline_exceeded"}:
                report.faults.append(f"callers were told {', '.join(report.failed)}, not hsm_unavailable alone")
            return
        if report.failed:
            report.faults.append(f"{report.failed.total()} requests failed")
        if within is not None and (report.diverted_after is None or report.diverted_after > within):
            report.faults.append(f"no diverted signature within {within * 1000:.0f} ms")
