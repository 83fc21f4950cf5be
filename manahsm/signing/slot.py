"""One slot: what outlives the tasks and processes that serve it.

The one thing to know: nothing here runs. The queue of digests, the ready hosts, what the token holds and why it
may be out of use are kept here, so that any task of the slot can crash and be restarted without losing them.
The phase is derived from these facts and never stored.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import anyio

from manahsm.config.model import SlotConfig
from manahsm.errors import HSMUnavailable
from manahsm.hsm.client import HostProcess
from manahsm.hsm.settings import HostSettings
from manahsm.requests import KeyInfo
from manahsm.signing.changes import Changes
from manahsm.signing.pool import SessionPool
from supervisors import Clock, Mailbox

__all__ = ["Slot", "SlotPhase"]


class SlotPhase(StrEnum):
    """Whether a slot can sign."""

    CONNECTING = "connecting"
    """Hosts are starting; requests may wait for them."""
    UP = "up"
    """At least one host serves sessions."""
    DOWN = "down"
    """The last attempt to start a host failed; more follow by themselves."""
    LATCHED = "latched"
    """Out of use until an operator acts: trying again could lock the token."""


class Slot:
    """The lasting state of one configured token.

    Attributes:
        name: as configured; in logs and ``KeyInfo.slots``.
        config: where the token is and how to reach it.
        processes: how many hosts serve it.
        mailbox: digests that wait for a session of this slot.
        pool: sessions over the ready hosts.
        changes: notified whenever a host comes or goes or the phase may have changed.
        start_turn: taken by a host while it starts, so that a slot never tries its PIN twice at once.
    """

    def __init__(self, config: SlotConfig, *, queue_size: int, clock: Clock) -> None:
        self.config = config
        self.name = config.name
        self.clock = clock
        self.mailbox = Mailbox(f"slot {config.name}", queue_size, clock)
        self.processes = min(config.connection_pool.processes, config.connection_pool.size)
        self.pool = SessionPool(config.connection_pool.size, self.processes)
        self.changes = Changes()
        self.start_turn = anyio.Semaphore(1)
        self.ready_hosts: dict[str, HostProcess] = {}
        self._public_keys: frozenset[bytes] | None = None
        self._failure: str | None = None
        self._latched: str | None = None

    # ---- what it is ----

    @property
    def phase(self) -> SlotPhase:
        """Whether this slot can sign now."""
        if self._latched is not None:
            return SlotPhase.LATCHED
        if self.pool.hosts:
            return SlotPhase.UP
        return SlotPhase.CONNECTING if self._failure is None else SlotPhase.DOWN

    @property
    def reason(self) -> str | None:
        """Why it is down or latched, for people."""
        return self._latched or self._failure

    @property
    def public_keys(self) -> frozenset[bytes]:
        """Public keys (65 bytes each) that the token was last seen to hold."""
        return self._public_keys or frozenset()

    def may_hold(self, key: KeyInfo) -> bool:
        """Whether to ask this slot for ``key``: by what the token holds, or, before it was seen, by the registry."""
        if self._public_keys is None:
            return self.name in key.slots
        return key.public_key in self._public_keys

    def host_settings(self) -> HostSettings:
        """Settings for one host process of this slot."""
        config, pool = self.config, self.config.connection_pool
        return HostSettings(
            name=self.name,
            library_path=str(config.library_path),
            slot_id=config.slot_id,
            token_label=config.token_label,
            pin=config.pin,
            environment=config.environment,
            quirks=config.quirks,
            call_timeout=pool.call_timeout,
            start_timeout=pool.start_timeout,
        )

    def unavailable(self) -> HSMUnavailable:
        """The refusal for a request that this slot cannot serve now."""
        advice = {
            SlotPhase.LATCHED: "correct the cause, then restart the service",
            SlotPhase.DOWN: "it is tried again by itself",
        }.get(self.phase, "try again")
        return HSMUnavailable(f"slot {self.name} is {self.phase.value}: {self.reason or 'no host is ready'}; {advice}")

    # ---- what happens to it ----

    def host_ready(self, name: str, host: HostProcess) -> None:
        """A host has logged in; the pool manager adopts it."""
        self.ready_hosts[name] = host
        self._failure = None
        self.changes.notify()

    def host_gone(self, name: str) -> None:
        """A host has ended, for whatever reason."""
        host = self.ready_hosts.pop(name, None)
        if host is not None:
            self.pool.detach(host)
        self.changes.notify()

    def start_failed(self, reason: str) -> None:
        """A host could not be started. With no other host, what is queued is refused at once."""
        self._failure = reason
        self._changed_for_worse()

    def latch(self, reason: str) -> None:
        """Take the slot out of use until an operator acts; the first reason is kept."""
        self._latched = self._latched or reason
        self._changed_for_worse()

    def holds(self, public_keys: frozenset[bytes]) -> None:
        """Note all that the token holds."""
        self._public_keys = public_keys
        self.changes.notify()

    def _changed_for_worse(self) -> None:
        if self.phase in (SlotPhase.DOWN, SlotPhase.LATCHED):
            self._refuse_queued()
        self.changes.notify()

    def _refuse_queued(self) -> None:
        while (request := self.mailbox.receive_nowait("refusal")) is not None:
            request.reply.fail(self.unavailable())

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
        await self.wait_until(lambda: self._latched is None)
