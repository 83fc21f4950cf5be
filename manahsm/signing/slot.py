"""One slot: what outlives the tasks and processes that serve it.

The one thing to know: nothing here runs. The queue of digests, the ready hosts, what the token holds, the circuit
breaker and why the slot may be out of use are kept here, so that any task of the slot can crash and be restarted
without losing them. The phase is derived from these facts and never stored, and whatever makes the slot refuse
also refuses what is queued, at once, so that it can be signed elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import StrEnum

import anyio
from attrs import evolve

from manahsm.config.model import CircuitBreaker as BreakerOptions
from manahsm.config.model import SlotConfig
from manahsm.config.secret import Secret
from manahsm.errors import HSMUnavailable
from manahsm.hsm.client import HostProcess
from manahsm.hsm.failures import HSMFailure
from manahsm.hsm.outcomes import BreakerEffect, Outcome
from manahsm.hsm.settings import HostSettings
from manahsm.logs import get_logger
from manahsm.requests import KeyInfo
from manahsm.signing.changes import Changes
from manahsm.signing.checks import Checks
from manahsm.signing.decisions import escalated, host_ended
from manahsm.signing.observed import Observed, SessionEnded
from manahsm.signing.pool import PoolStats, SessionPool
from manahsm.signing.vitals import Pulse, Repeats, Wellness
from supervisors import (
    BreakerSettings,
    BreakerState,
    CircuitBreaker,
    Clock,
    Event,
    Mailbox,
    Permit,
)

__all__ = ["Slot", "SlotPhase"]

_log = get_logger("manahsm.slot")

_REFUSING = frozenset({BreakerState.OPEN, BreakerState.FORCED_OPEN, BreakerState.LATCHED})
_WELL = frozenset({BreakerState.CLOSED, BreakerState.FORCED_CLOSED})
_HEALTH_CHECK_INTERVAL = 30.0


class SlotPhase(StrEnum):
    """Whether a slot has a token to sign with. Whether it is asked to is its breaker's decision."""

    CONNECTING = "connecting"
    """Hosts are starting; requests that have nowhere else to go may wait for them."""
    UP = "up"
    """At least one host serves sessions."""
    DOWN = "down"
    """The last attempt to start a host or to open a session failed; more follow by themselves."""
    LATCHED = "latched"
    """Out of use until an operator acts: trying again could lock the token, or release a wrong signature."""


class Slot:
    """The lasting state of one configured token.

    Attributes:
        name: as configured; in logs and ``KeyInfo.slots``.
        config: where the token is and how to reach it.
        processes: how many hosts serve it.
        mailbox: digests that wait for a session of this slot.
        pool: sessions over the ready hosts.
        breaker: admits calls, counts how they went.
        pulse: calls that are out.
        wellness: how long the slot has been able to sign.
        checks: where its signatures are checked.
        changes: notified whenever a host comes or goes or the phase may have changed.
        start_turn: taken by a host while it starts, so that a slot never tries its PIN twice at once.
        ready_hosts: hosts that have logged in, by the name of their keeper.
        latches: how often it was latched; what was open before is of no use after.
    """

    def __init__(
        self,
        config: SlotConfig,
        *,
        queue_size: int,
        clock: Clock,
        breaker: BreakerOptions | None = None,
        well_after: float = _HEALTH_CHECK_INTERVAL,
        checks: Checks | None = None,
        on_event: Callable[[Event | Observed], None] | None = None,
    ) -> None:
        pool = config.connection_pool
        self.config = config
        self.name = config.name
        self.clock = clock
        self.mailbox = Mailbox(f"slot {config.name}", queue_size, clock)
        self.processes = min(pool.processes, pool.size)
        self.checks = checks or Checks()
        self.pool = SessionPool(pool.size, self.processes, pool.max_overflow, clock)
        self.breaker = CircuitBreaker(
            f"slot {config.name}",
            _breaker_settings(breaker or BreakerOptions(), pool.call_timeout),
            clock,
            self._breaker_reported,
        )
        self.pulse = Pulse(clock)
        self.wellness = Wellness(well_after)
        self.changes = Changes()
        self.start_turn = anyio.Semaphore(1)
        self.ready_hosts: dict[str, HostProcess] = {}
        self.latches = 0
        self._on_event: Callable[[Event | Observed], None] | None = None
        self._repeats = Repeats()
        self._public_keys: frozenset[bytes] | None = None
        self._serial: str | None = None
        self._pin = config.pin
        self._failure: str | None = None
        self._no_session: str | None = None
        self._pressed = False
        self._was_up = False
        self._review()
        self._on_event = on_event  # what a slot begins with is no news

    # ---- what it is ----

    @property
    def phase(self) -> SlotPhase:
        """Whether this slot has a token to sign with now."""
        if self.breaker.state is BreakerState.LATCHED:
            return SlotPhase.LATCHED
        if self._no_session is not None:
            return SlotPhase.DOWN
        if self.pool.hosts:
            return SlotPhase.UP
        return SlotPhase.CONNECTING if self._failure is None else SlotPhase.DOWN

    @property
    def reason(self) -> str | None:
        """Why it is down or latched, or its breaker not closed, for people."""
        if not self.admits_all:
            return self.breaker.reason
        return self._no_session or self._failure

    @property
    def admits(self) -> bool:
        """Whether a digest may be sent to it now."""
        return self.breaker.refusal() is None

    @property
    def admits_all(self) -> bool:
        """Whether its breaker admits every call; on probation it admits one probe after the other."""
        return self.breaker.state in _WELL

    @property
    def may_be_waited_for(self) -> bool:
        """Whether it is starting, so that a request with no other route may wait for it."""
        return self.phase is SlotPhase.CONNECTING and self.breaker.state not in _REFUSING

    @property
    def well(self) -> bool:
        """Whether it can sign, and is not on probation."""
        return self.phase is SlotPhase.UP and self.admits_all

    @property
    def serving_host(self) -> HostProcess | None:
        """A host to ask about keys: one that takes calls, and not one that has just ended and is still listed."""
        return next((host for host in self.pool.hosts if host.serving), None)

    @property
    def public_keys(self) -> frozenset[bytes]:
        """Public keys (65 bytes each) that the token was last seen to hold."""
        return self._public_keys or frozenset()

    def may_hold(self, key: KeyInfo) -> bool:
        """Whether to ask this slot for ``key``: by what the token holds, or, before it was seen, by the registry."""
        if self._public_keys is None:
            return self.name in key.slots
        return key.public_key in self._public_keys

    def pool_stats(self) -> PoolStats:
        """Return the numbers of its sessions."""
        return self.pool.stats(busy=self.pulse.busy, waiting=len(self.mailbox))

    def host_settings(self) -> HostSettings:
        """Settings for one host process of this slot. A token that was seen is known by its serial from then on."""
        return evolve(HostSettings.of(self.config), serial=self._serial, pin=self._pin)

    def unavailable(self) -> HSMUnavailable:
        """The refusal for a request that this slot cannot serve now."""
        phase, refusal = self.phase, self.breaker.refusal()
        if phase is SlotPhase.LATCHED:
            what, advice = "latched", "correct the cause, then unlatch the slot or restart the service"
        elif phase is not SlotPhase.UP:
            what, advice = phase.value, "it is tried again by itself"
        elif self.breaker.state is BreakerState.FORCED_OPEN:
            what, advice = "closed by an operator", "reset its breaker when it may sign again"
        elif refusal is not None and refusal.retry_after is not None:
            what, advice = "left alone for a while", f"try again in {refusal.retry_after:.1f} s"
        else:
            what, advice = phase.value, "try again"
        return HSMUnavailable(f"slot {self.name} is {what}: {self.reason or 'no host is ready'}; {advice}")

    # ---- what happens to its hosts ----

    def host_ready(self, name: str, host: HostProcess) -> None:
        """A host has logged in; the pool manager adopts it."""
        self.ready_hosts[name] = host
        self._failure = None
        self._review()

    def adopt(self, host: HostProcess) -> None:
        """Take sessions from a host that is ready."""
        if host.info is not None:
            self._serial = host.info.serial or None
        self.pool.attach(host)
        self._review()

    def host_gone(self, name: str) -> None:
        """A host has ended, for whatever reason."""
        host = self.ready_hosts.get(name)
        self._let_go(() if host is None else (host,))

    async def end_hosts(self, *hosts: HostProcess) -> None:
        """Stop hosts that are of no use any more; their keepers start others.

        Nothing is sent to them from now on, and what is queued does not wait for their processes to end.
        """
        self._let_go(hosts)
        async with anyio.create_task_group() as tasks:
            for host in hosts:
                tasks.start_soon(host.stop)

    def _let_go(self, hosts: Collection[HostProcess]) -> None:
        self.ready_hosts = {name: host for name, host in self.ready_hosts.items() if host not in hosts}
        for host in hosts:
            self.pool.detach(host)
            self._repeats.forget(host)
        if not self.pool.hosts:
            self._no_session = None
        self._review()

    def start_failed(self, reason: str) -> None:
        """A host could not be started. With no other host, what is queued is refused at once."""
        self._failure = reason
        self._review()

    def holds(self, public_keys: frozenset[bytes]) -> None:
        """Note all that the token holds."""
        self._public_keys = public_keys
        self.changes.notify()

    # ---- what happens on its sessions ----

    def session_ended(self, reason: str | None) -> None:
        """A session was closed, because it broke or because it was no longer needed (``None``)."""
        if self._on_event is not None:
            self._on_event(SessionEnded(slot=self.name, reason=reason))

    def session_opened(self) -> None:
        """A session is open: there is at least one."""
        if self._no_session is not None:
            self._no_session = None
            self._review()

    def session_refused(self, failure: HSMFailure) -> None:
        """A session could not be opened; with no other open, nothing can be signed."""
        if not self.pool.open and self.pool.hosts and not host_ended(failure.outcome):
            self._no_session = f"no session can be opened: {failure}"
        self._review()

    def happened(self, outcome: Outcome, host: HostProcess, tries: int = 0) -> Outcome:
        """Note a failure on a host; return what it means now that it is known how often that happens."""
        return escalated(outcome, often=self._repeats.note(host, outcome.name, self.clock.now()), tries=tries)

    def judge(self, outcome: Outcome, permit: Permit | None, reason: str) -> None:
        """Let a failure count as the outcome table says.

        Args:
            outcome: escalated already.
            permit: of the call that failed, where there was one.
            reason: for people.
        """
        if permit is not None:
            if outcome.breaker is BreakerEffect.FAILURE:
                permit.failure()
            else:
                permit.release()
        if outcome.breaker is BreakerEffect.LATCH:
            self.latch(reason)
        elif outcome.breaker is BreakerEffect.OPEN_NOW:
            self.breaker.trip(reason)

    def no_answer(self, waited: float, patience: float) -> bool:
        """A request has waited in vain. Where the token was silent all the while, its breaker opens.

        Args:
            waited: seconds that the request has waited.
            patience: seconds that a token may be silent; a call that takes longer than a slow one is too long anyway.

        Returns:
            Whether the token was silent, and not just asked for much or by somebody in a hurry.
        """
        silent, most = self.pulse.silent_for(), min(patience, self.breaker.settings.slow_call)
        if min(waited, silent) < most:
            return False
        self.breaker.trip(f"no answer from the token for {silent:.1f} s")
        return True

    def press(self) -> None:
        """A request waits because no session is free: let the pool manager know, once."""
        if not self._pressed and self.pool.may_overflow:
            self._pressed = True
            self.changes.notify()

    def take_pressure(self) -> bool:
        """Whether requests wait for a session; asked by the pool manager."""
        pressed, self._pressed = self._pressed, False
        return pressed and (len(self.mailbox) > 0 or self.mailbox.held > self.pool.open)

    # ---- latch ----

    def latch(self, reason: str) -> None:
        """Take the slot out of use until an operator acts; the first reason is kept."""
        if self.breaker.state is not BreakerState.LATCHED:
            _log.critical("slot latched", slot=self.name, reason=reason)
            self.latches += 1
            self.breaker.latch(reason)

    def unlatch(self, pin: Secret | None) -> None:
        """An operator has dealt with the cause: start hosts again with this PIN, and sign on probation.

        Raises:
            IllegalTransition: it is not latched.
        """
        self.breaker.unlatch()
        self._pin = pin
        self._failure = self._no_session = None
        self._review()

    # ---- waiting for it ----

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds; it is looked at again after each change."""
        while not condition():
            await self.changes.wait_after(self.changes.version)

    async def settled(self) -> None:
        """Wait until the slot is up, or is known not to be."""
        await self.wait_until(lambda: self.phase is not SlotPhase.CONNECTING)

    async def unlatched(self) -> None:
        """Wait while the slot is latched."""
        await self.wait_until(lambda: self.phase is not SlotPhase.LATCHED)

    # ---- inside ----

    def _breaker_reported(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)
        self._review()

    def _review(self) -> None:
        """After any change: tell the breaker whether there is anything to call, and refuse what can not be signed."""
        up, was_up = self.phase is SlotPhase.UP, self._was_up
        self._was_up = up
        self.breaker.set_available(up, self._no_session or self._failure or "no host is ready")
        self.wellness.note(well=self.well, now=self.clock.now())
        signs = up and self.breaker.state not in _REFUSING
        # What has nowhere else to go comes back to wait for a slot that is starting.
        if (was_up and not up) or not (signs or self.may_be_waited_for):
            self._refuse_queued()
        self.changes.notify()

    def _refuse_queued(self) -> None:
        while (request := self.mailbox.receive_nowait("refusal")) is not None:
            request.reply.fail(self.unavailable())


def _breaker_settings(options: BreakerOptions, call_timeout: float) -> BreakerSettings:
    return BreakerSettings(
        failure_rate=options.failure_rate,
        slow_call_rate=options.slow_call_rate,
        slow_call=options.slow_call,
        window=options.window,
        minimum_calls=options.minimum_calls,
        open_for=options.open_for,
        max_open_for=options.max_open_for,
        probes=options.probes,
        # A call that hangs ends with its host, after call_timeout: what has no verdict long after that is lost.
        verdict_deadline=max(options.slow_call, call_timeout) + 5.0,
    )
