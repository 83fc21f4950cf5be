"""How a slot is looked at: its token is asked how it is, a canary is signed, and what is found is acted on.

The one thing to know: a token that was pulled out is noticed here when nobody signs. Its hosts are ended then, as a
worker would end them, so that callers are sent elsewhere at once, and so that the token is found again when it is back
(a library that has lost its token may never see it again). The circuit breaker is not touched: it counts calls, and a
slot without hosts admits none anyway.
"""

from __future__ import annotations

from collections import deque

import anyio
from attrs import frozen

from manahsm.config.tables import Thresholds
from manahsm.hsm.client import HostProcess
from manahsm.hsm.failures import HSMFailure
from manahsm.hsm.outcomes import Action, BreakerEffect
from manahsm.logs import get_logger
from manahsm.monitoring.canary import CanaryKey, sign_canary
from manahsm.monitoring.causes import CONNECTIVITY_LOST
from manahsm.monitoring.checks import Check, Wake
from manahsm.monitoring.components import slot_component
from manahsm.monitoring.slot_rules import Answer, Canary, Probe, Signed, SlotView, judge_slot
from manahsm.monitoring.values import Detail, Observation
from manahsm.signing.changes import Changes
from manahsm.signing.pool import sessions_allowed
from manahsm.signing.slot import Slot, SlotPhase
from supervisors import Clock

__all__ = ["SlotCheck"]

_log = get_logger("manahsm.health")

_NO_HOST = frozenset({"HOST_NOT_RUNNING", "HOST_STOPPED", "HOST_CRASHED"})
_MOST_BROKEN = 10_000  # broken sessions that are remembered


@frozen
class _Said:
    """What one host said of its token, after so many seconds."""

    answer: Answer
    detail: str
    flags: frozenset[str]
    duration: float


class SlotCheck(Check):
    """Looks at one slot.

    Args:
        slot: which.
        thresholds: where its measures turn bad.
        canary: the key of canary signatures.
        timeout: seconds for all of it.
        clock: its time.
    """

    def __init__(self, slot: Slot, *, thresholds: Thresholds, canary: CanaryKey, timeout: float, clock: Clock) -> None:
        self.component = slot_component(slot.name)
        self.slot = slot
        self._thresholds = thresholds
        self._canary = canary
        self._timeout = timeout
        self._clock = clock
        self._lost = False
        self._broken: deque[float] = deque(maxlen=_MOST_BROKEN)
        self._useless: set[HostProcess] = set()
        self._hosts_to_end = Changes()

    def session_broke(self) -> None:
        """Count a session that broke."""
        self._broken.append(self._clock.now())

    # ---- beside the checks ----

    async def watch(self, wake: Wake) -> None:
        """Look again at once when the slot's phase or its breaker has changed; end hosts that lost their token."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_slot, wake)
            tasks.start_soon(self._end_hosts)

    async def _watch_slot(self, wake: Wake) -> None:
        slot = self.slot
        seen = (slot.phase, slot.breaker.state)
        while True:
            version = slot.changes.version
            now = (slot.phase, slot.breaker.state)
            if now != seen:
                seen = now
                wake()
            await slot.changes.wait_after(version)

    async def _end_hosts(self) -> None:
        while True:
            version = self._hosts_to_end.version
            useless, self._useless = self._useless, set()
            await self.slot.end_hosts(*useless)
            await self._hosts_to_end.wait_after(version)

    # ---- the check ----

    async def look(self) -> Observation:
        """Ask every host, then sign a canary where that harms nobody."""
        slot, deadline = self.slot, self._clock.now() + self._timeout
        probe = await self._probe(deadline)
        canary = Canary(signed=Signed.SKIPPED, detail="the token was not reached")
        if probe.answer in {Answer.ANSWERED, Answer.NOT_ASKED}:
            canary = await sign_canary(slot, self._canary, deadline, self._clock)
        hosts = slot.pool.hosts
        view = SlotView(
            phase=slot.phase,
            reason=slot.reason,
            breaker=slot.breaker.state,
            lost=self._lost,
            hosts=len(hosts),
            hosts_wanted=slot.processes,
            sessions=slot.pool.open,
            sessions_wanted=int(min(slot.pool.size, sum(sessions_allowed(host.info) for host in hosts))),
            broken=self._broken_lately(),
            probe=probe,
            canary=canary,
        )
        findings = judge_slot(view, self._thresholds)
        self._lost = any(finding.cause is CONNECTIVITY_LOST for finding in findings)
        return Observation(findings, self._details(view))

    def _broken_lately(self) -> int:
        since = self._clock.now() - self._thresholds.window
        while self._broken and self._broken[0] <= since:
            self._broken.popleft()
        return len(self._broken)

    def _details(self, view: SlotView) -> dict[str, Detail]:
        slot = self.slot
        info = next((host.info for host in slot.pool.hosts if host.info is not None), None)
        return {
            "phase": view.phase.value,
            "breaker": view.breaker.value,
            "priority": slot.config.priority.value,
            "hosts": view.hosts,
            "sessions": view.sessions,
            "sessions_busy": slot.pulse.busy,
            "queue": len(slot.mailbox),
            "keys": len(slot.public_keys),
            "token": None if info is None else info.token_label,
            "serial": None if info is None else info.serial,
            "firmware": None if info is None else info.firmware,
            "token_answered": view.probe.answer.value,
            "token_answer_time": round(view.probe.duration, 6),
            "canary": view.canary.signed.value,
            "canary_detail": view.canary.detail or None,
            "canary_time": round(view.canary.duration, 6),
        }

    # ---- asking the token ----

    async def _probe(self, deadline: float) -> Probe:
        """Ask all hosts at once. One whose library takes one call at a time is left alone while it signs."""
        slot = self.slot
        hosts = [host for host in slot.pool.hosts if self._may_be_asked(host)]
        if slot.phase is not SlotPhase.UP or not hosts:
            return Probe(answer=Answer.NOT_ASKED)
        said: dict[HostProcess, _Said] = {}

        async def ask(host: HostProcess) -> None:
            said[host] = await self._ask(host)

        with self._clock.move_on_at(deadline):
            async with anyio.create_task_group() as tasks:
                for host in hosts:
                    tasks.start_soon(ask, host)
        for host in hosts:
            said.setdefault(host, _Said(Answer.SILENT, f"no answer within {self._timeout:g} s", frozenset(), 0.0))
        good = [one for one in said.values() if one.answer is Answer.ANSWERED]
        bad = [one for one in said.values() if one.answer is not Answer.ANSWERED]
        return Probe(
            answer=_combined({one.answer for one in said.values()}),
            detail="; ".join(sorted({one.detail for one in bad})),
            silent=len(bad),
            flags=frozenset().union(*(one.flags for one in good)),
            duration=min((one.duration for one in good), default=0.0),
        )

    def _may_be_asked(self, host: HostProcess) -> bool:
        return host.info is not None and (host.info.locking or not self.slot.pulse.busy)

    async def _ask(self, host: HostProcess) -> _Said:
        began = self._clock.now()
        try:
            info = await host.token_info()
        except HSMFailure as failure:
            if failure.outcome.name in _NO_HOST:  # it ended meanwhile, and says nothing of the token
                return _Said(Answer.NOT_ASKED, str(failure), frozenset(), 0.0)
            self._act(failure, host)
            return _Said(Answer.FAILED, str(failure), frozenset(), 0.0)
        return _Said(Answer.ANSWERED, "", frozenset(info.flags), self._clock.now() - began)

    def _act(self, failure: HSMFailure, host: HostProcess) -> None:
        """Do what a worker would do that saw the same."""
        outcome = self.slot.happened(failure.outcome, host)
        _log.warning("token does not answer", slot=self.slot.name, outcome=outcome.name, then=outcome.action.value)
        if outcome.breaker is BreakerEffect.LATCH:
            self.slot.latch(str(failure))
        if outcome.action in {Action.RESPAWN, Action.FAIL_OVER}:
            self._useless.add(host)
            self._hosts_to_end.notify()


def _combined(answers: set[Answer]) -> Answer:
    """What the answers of all hosts say of their token: one that answers is enough, one that asked counts."""
    order = (Answer.ANSWERED, Answer.FAILED, Answer.SILENT, Answer.NOT_ASKED)
    return next(answer for answer in order if answer in answers)
