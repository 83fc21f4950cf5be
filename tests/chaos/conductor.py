"""Plays a schedule of faults: begins them, lifts them, acts as the operator, and measures how long recovery takes.

The one thing to know: a fault is lifted, and then nothing is done for the slot but what an operator would do: a slot
that has latched is unlatched once nothing is wrong with it any more. Whatever else it needs, it must do by itself.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections import Counter, defaultdict
from contextlib import suppress
from http import HTTPStatus

import anyio
import anyio.to_thread
from chaos.arena import Arena
from chaos.faults import Act, Blow, Fault
from chaos.ledger import Ledger
from chaos.schedule import Planned
from chaos.sorts import SLOTS
from chaos.watch import Watch
from exposition import lint
from metrics_client import scrape
from p11fault_rules import Return
from services import host_pids

import manahsm
from manahsm.hsm.outcomes import Action, outcome_of
from manahsm.signing.slot import SlotPhase

__all__ = ["Conductor", "asks_for_login"]

_LOOKS = 0.02  # seconds between two looks of the operator
_LONGEST_RECOVERY = 30.0
_CONVALESCES = 3.0  # seconds in which a slot that signs again still may lose what the fault has broken


class Conductor:
    """One service, its arena, and what is wrong at this moment.

    Args:
        service: of whom nothing but the public API is used.
        arena: its tokens.
        watch: who hears what slots do.
        ledger: told what breaks a promise.
        began: the beginning, a time of ``time.monotonic``.
    """

    def __init__(self, service: manahsm.Service, arena: Arena, watch: Watch, ledger: Ledger, *, began: float) -> None:
        self._service = service
        self._arena = arena
        self._watch = watch
        self._ledger = ledger
        self._began = began
        self._active: dict[str, list[Fault]] = {slot: [] for slot in SLOTS}
        self._begun: Counter[str] = Counter()  # by slot
        self._troubled_until = dict.fromkeys(SLOTS, 0.0)
        self._may_latch_until = dict.fromkeys(SLOTS, 0.0)
        self.faults: Counter[str] = Counter()
        self.recoveries: defaultdict[str, list[float]] = defaultdict(list)
        self.unlatched: Counter[str] = Counter()
        self.hosts_seen: set[int] = set()
        """Processes that have served a slot."""
        self.logins_asked_for = 0
        """Calls apart from signing that were made to say that the login is gone."""

    async def play(self, plan: tuple[Planned, ...]) -> None:
        """Let everything happen at its time; returns when the last fault is lifted and its slot signs again."""
        async with anyio.create_task_group() as tasks:
            for planned in plan:
                await anyio.sleep(max(0.0, self._began + planned.at - time.monotonic()))
                tasks.start_soon(self._suffer, planned)

    async def _suffer(self, planned: Planned) -> None:
        slot, fault = planned.slot, planned.fault
        self.faults[fault.kind] += 1
        stopped = await self.begin(slot, fault)
        await anyio.sleep(planned.length)
        await self.lift(slot, fault, stopped)
        begun, lifted, alone = self._begun[slot], time.monotonic(), not self._active[slot]
        self._troubled_until[slot] = math.inf
        with anyio.move_on_after(_LONGEST_RECOVERY):
            recovered = await self._watch.signed(slot, lifted)
            self._troubled_until[slot] = recovered + _CONVALESCES
            if alone and begun == self._begun[slot]:  # else it was another fault's recovery
                self.recoveries[fault.kind].append(recovered - lifted)
            await self._check_metrics(slot, fault)
            return
        await self._did_not_recover(slot, fault)

    async def _check_metrics(self, slot: str, fault: Fault) -> None:
        """Scrape the endpoint as Prometheus does, and have promtool look at what it says."""
        page = await scrape(self._service)
        said = await anyio.to_thread.run_sync(lint, page.text)
        if page.status != HTTPStatus.OK or said:
            detail = f"after {fault} of slot {slot}: HTTP {page.status}, promtool: {said or 'nothing'}"
            self._ledger.violated("metrics can be scraped after every fault", detail, time.monotonic() - self._began)

    async def _did_not_recover(self, slot: str, fault: Fault) -> None:
        status = next(each for each in (await self._service.status()).slots if each.name == slot)
        detail = (
            f"slot {slot} has not signed for {_LONGEST_RECOVERY:g} s after {fault}: {status.phase.value}, breaker "
            f"{status.breaker.state.value}, {status.reason}, {len(status.hosts)} hosts, {status.pool}"
        )
        self._ledger.violated("it comes back by itself", detail, time.monotonic() - self._began)

    def is_sound(self, slot: str, since: float) -> bool:
        """Whether a slot was without a fault, and open for requests, since a time of ``time.monotonic``.

        On a machine that is too busy a token may be silent for so long that its breaker opens for good reason.
        """
        troubled_until = max(self._troubled_until[slot], self._watch.well_since(slot))
        return not self._active[slot] and troubled_until < since

    # ---- faults ----

    async def begin(self, slot: str, fault: Fault) -> set[int]:
        """Begin a fault; returns the hosts that were stopped."""
        self._begun[slot] += 1
        token = self._arena.tokens[slot]
        self._arena.modules[slot].add(*fault.directives)
        if fault.token_away and not any(other.token_away for other in self._active[slot]):
            token.hide()
        self._active[slot].append(fault)
        if fault.latches:
            self._may_latch_until[slot] = math.inf
        if fault.act is not None:
            await self._act(slot, fault.act)
        return await self._strike(slot, fault.blow)

    async def lift(self, slot: str, fault: Fault, stopped: set[int]) -> None:
        """End a fault."""
        self._active[slot].remove(fault)
        if fault.latches and not any(other.latches for other in self._active[slot]):
            self._may_latch_until[slot] = time.monotonic() + _CONVALESCES
        token, module = self._arena.tokens[slot], self._arena.modules[slot]
        module.lift(*fault.directives)
        self._check_login(slot, fault)
        if fault.token_away and not any(other.token_away for other in self._active[slot]):
            token.show()
        for pid in stopped & host_pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if fault.act is not None:
            await self._act(slot, Act.RESET)

    async def _strike(self, slot: str, blow: Blow | None) -> set[int]:
        if blow is None:
            return set()
        status = next(each for each in (await self._service.status()).slots if each.name == slot)
        pids = [host.pid for host in status.hosts]
        hit = pids[:1] if blow in {Blow.KILL_ONE, Blow.STOP_ONE} else pids
        kills = blow in {Blow.KILL_ONE, Blow.KILL_ALL}
        for pid in hit:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if kills else signal.SIGSTOP)
        return set() if kills else set(hit)

    async def _act(self, slot: str, act: Act) -> None:
        with suppress(manahsm.InvalidRequest):  # it is latched: there is nothing else to do with it
            match act:
                case Act.FORCE_OPEN:
                    await self._service.force_open(slot, "chaos")
                case Act.FORCE_CLOSED:
                    await self._service.force_closed(slot, "chaos")
                case Act.RESET:
                    await self._service.reset_breaker(slot)

    def _check_login(self, slot: str, fault: Fault) -> None:
        """A refused PIN was tried once, and not again while it was refused."""
        for rule in fault.directives:
            if not isinstance(rule, Return) or rule.function in {"C_Sign", "C_SignInit"}:
                continue
            fired = self._arena.modules[slot].fired(rule)
            if rule.function != "C_Login":
                self.logins_asked_for += fired * asks_for_login(rule.code)
            elif fired > 1:
                detail = f"slot {slot} tried a PIN {fired} times while it was refused"
                self._ledger.violated("a refused PIN is not tried again", detail, time.monotonic() - self._began)

    # ---- the operator ----

    async def operate(self) -> None:
        """Unlatch what has latched, once nothing is wrong with it any more, until cancelled."""
        while True:
            for status in (await self._service.status()).slots:
                self.hosts_seen.update(host.pid for host in status.hosts)
                if status.phase is SlotPhase.LATCHED and not self._active[status.name]:
                    if self._may_latch_until[status.name] < time.monotonic():
                        detail = f"slot {status.name}: {status.reason}"
                        self._ledger.violated("a slot latches for a reason", detail, time.monotonic() - self._began)
                    with suppress(manahsm.InvalidRequest):
                        await self._service.unlatch(status.name)
                        self.unlatched[status.name] += 1
            await anyio.sleep(_LOOKS)


def asks_for_login(code: int) -> bool:
    """Whether a session that is told this has its login renewed, at once or when it repeats."""
    outcome = outcome_of(code, "C_Sign")
    return Action.LOGIN_AGAIN in {outcome.action, outcome.repeated}
