"""What a service is made of, put together from its configuration, and its life from start to stop.

The one thing to know: everything is opened in order and closed in reverse, whatever happens in between: the audit log
first and last, then the registry, then the supervision tree with all that runs in it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import anyio
from attrs import evolve

from manahsm.audit.checkpoints import Checkpoints
from manahsm.audit.configuration import record_configuration
from manahsm.audit.journal import Journal
from manahsm.audit.log import AuditLog
from manahsm.audit.records import AuditEvent, AuditOutcome, AuditRecord
from manahsm.config.model import Config, Fsync
from manahsm.errors import RegistryError, ServiceStopping
from manahsm.events import EventHub, log_event
from manahsm.keyring import Keyring
from manahsm.keys.keystore import Keystore
from manahsm.keys.registry import KeyRegistry
from manahsm.logs import get_logger
from manahsm.monitoring.endpoint import Endpoint, listening
from manahsm.monitoring.meters import Meters
from manahsm.monitoring.setup import keep_watch
from manahsm.monitoring.sources import Sources, audit_state
from manahsm.operators import Operators
from manahsm.requests import Signature, SignRequest
from manahsm.signing.checks import Checks
from manahsm.signing.gate import Gate
from manahsm.signing.limits import RateLimit
from manahsm.signing.pipeline import Signer
from manahsm.signing.router import Router
from manahsm.signing.slot import Slot
from manahsm.signing.stand_in import StandIn
from manahsm.signing.twins import TwinKeeper
from manahsm.software.client import SoftwareHost
from manahsm.status import ServiceStatus, slot_status
from manahsm.times import utc_now
from manahsm.tree import Body, build_tree
from supervisors import ChildContext, Clock, Mailbox, Timers

__all__ = ["Assembly", "assembled"]

_log = get_logger("manahsm.service")

_FLUSH_INTERVAL = 5.0  # seconds between two writes of use counters


Interfaces = Callable[["Assembly"], Mapping[str, Body]]
"""Makes the bodies of tasks that the world talks to, by name, for a service that is being put together."""


class Assembly:
    """The parts of one service. Made by :func:`assembled`, used by :class:`manahsm.Service`."""

    def __init__(
        self,
        config: Config,
        registry: KeyRegistry,
        audit: AuditLog | None,
        slots: tuple[Slot, ...],
        *,
        software_host: SoftwareHost | None,
        hub: EventHub,
        endpoint: Endpoint | None,
        interfaces: Interfaces,
        clock: Clock,
    ) -> None:
        passphrase = config.passphrase()
        keystore = None
        if passphrase is not None:
            keystore = Keystore(
                config.keystore_directory,
                passphrase,
                kdf=config.keystore.kdf,
                iterations=config.keystore.iterations,
            )
        policy = config.security_policy
        self.config = config
        self.clock = clock
        self.hub = hub
        self.registry = registry
        self.slots = slots
        self.software = Mailbox("software", config.service.queue_size, clock)
        self.software_host = software_host
        self.timers = Timers(clock)
        self.gate = Gate()
        self.journal = Journal(audit, required=policy.audit_all_operations)
        self.keyring = Keyring(registry, keystore, slots, policy, self.journal)
        self.stand_in = StandIn(policy, config.fallback, clock, hub)
        self.router = Router(
            slots,
            self.software,
            stand_in=self.stand_in,
            fallback_timeout=config.fallback.fallback_timeout,
            clock=clock,
            timers=self.timers,
        )
        self.operators = Operators(config, slots, self.stand_in, self.journal)
        self.signer = Signer(
            registry=registry,
            keystore=keystore,
            router=self.router,
            journal=self.journal,
            policy=policy,
            limit=RateLimit(policy.max_signing_rate, clock),
            gate=self.gate,
            default_timeout=config.service.request_timeout,
            clock=clock,
            observe=hub,
        )
        self.watch = keep_watch(
            config,
            slots=slots,
            software=self.software,
            registry=registry,
            registry_trouble=lambda: self._registry_trouble,
            audit_trouble=lambda: audit.trouble if audit is not None else None,
            subscribe=hub.subscribe,
            clock=clock,
        )
        self.meters = Meters(config, tuple(slot.name for slot in slots), self._sources(audit), clock=clock)
        hub.subscribe(self.meters.listen)
        self.metrics_address = endpoint.addresses[0] if endpoint is not None else None
        self._registry_trouble: str | None = None
        self._tree = build_tree(
            audit=audit.run if audit is not None else _idle,
            timers=self.timers,
            registry=self._flush_registry,
            software=self.software,
            software_host=self.software_host,
            slots=slots,
            record_keys=self.keyring.record_token,
            watchers=self._watchers(audit, TwinKeeper(registry, keystore, self.stand_in)),
            interfaces={**self._own_interfaces(endpoint), **interfaces(self)},
            clock=clock,
            on_event=hub,
        )

    # ---- what watches ----

    def _watchers(self, audit: AuditLog | None, twins: TwinKeeper) -> dict[str, Body]:
        watchers: dict[str, Body] = {"twins": twins.run}
        options = self.config.audit
        if audit is not None and options.checkpoint_key is not None:
            key = options.checkpoint_key

            async def sign(digest: bytes) -> Signature:
                request = SignRequest.hash(digest, key, caller="audit checkpoint")
                signed = await self.signer.sign(request)
                assert isinstance(signed, Signature)  # noqa: S101 - the operation decides the type
                return signed

            watchers["checkpoints"] = Checkpoints(audit, sign, interval=options.checkpoint_interval).run
        watchers["alerts"] = self.watch.alerts.run
        watchers["health"] = self.watch.health.run
        return watchers

    def _own_interfaces(self, endpoint: Endpoint | None) -> dict[str, Body]:
        if endpoint is None:
            return {}
        return {"metrics": partial(endpoint.serve, self.meters.pages(self.watch.health.report))}

    def _sources(self, audit: AuditLog | None) -> Sources:
        syncs = self.config.audit.fsync is not Fsync.NEVER
        return Sources(
            status=self.status,
            count_keys=self.registry.census,
            audit=lambda: audit_state(audit, syncs=syncs, now=utc_now()),
            health=lambda: {one.name: one.status.score for one in self.watch.health.report().components},
            alerts=lambda: [alert.cause for alert in self.watch.alerts.alerts()],
        )

    def status(self) -> ServiceStatus:
        """Return what the service has and does at this moment."""
        return ServiceStatus(
            accepting=not self.gate.closed,
            under_way=self.gate.inside,
            keys=len(self.registry),
            slots=tuple(slot_status(slot) for slot in self.slots),
            software=self.software.stats(),
            routes=evolve(self.router.stats),
        )

    async def _flush_registry(self, ctx: ChildContext) -> None:
        ctx.started()
        while True:
            await ctx.clock.sleep(_FLUSH_INTERVAL)
            try:
                await self.registry.flush()
                self._registry_trouble = None
            except RegistryError as error:  # counters are kept and written later: no reason to sign nothing meanwhile
                _log.error("use counters not written", error=str(error))
                self._registry_trouble = str(error)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the tree; on the way out refuse new work, finish or refuse what was accepted, and stop everything."""
        try:
            async with self._tree.running():
                await self.journal.write(AuditRecord(event=AuditEvent.START, outcome=AuditOutcome.DONE))
                await record_configuration(self.journal, self.config)
                await self._settle()
                try:
                    yield
                finally:
                    await self._drain()
                    self.journal.note_now(AuditRecord(event=AuditEvent.STOP, outcome=AuditOutcome.DONE))
        finally:
            self._refuse_rest()

    async def _settle(self) -> None:
        """Wait until each slot is up or known not to be, but no longer than its own start may take."""
        async with anyio.create_task_group() as tasks:
            for slot in self.slots:
                tasks.start_soon(self._settle_slot, slot)

    async def _settle_slot(self, slot: Slot) -> None:
        with self.clock.move_on_after(slot.config.connection_pool.start_timeout):
            await slot.settled()
        if slot.reason is not None:
            _log.error("slot out of use", slot=slot.name, phase=slot.phase.value, reason=slot.reason)

    async def _drain(self) -> None:
        """Refuse new requests, and let those inside finish within the grace."""
        self.gate.close()
        with self.clock.move_on_after(self.config.service.shutdown_grace, shield=True):
            await self.gate.empty()

    def _refuse_rest(self) -> None:
        """Answer what no worker is left to answer."""
        self.gate.close()
        for mailbox in (self.software, *(slot.mailbox for slot in self.slots)):
            mailbox.close(lambda: ServiceStopping("the service stopped before this was signed"), held=True)


@asynccontextmanager
async def assembled(
    config: Config, *, environ: Mapping[str, str], clock: Clock, interfaces: Interfaces
) -> AsyncIterator[Assembly]:
    """Open everything, run it for as long as the context lasts, and close it again; see ``open_service``."""
    hub = EventHub(log_event)
    software_host = SoftwareHost(clock) if config.keystore.processes else None
    checks = Checks(software_host)  # of all slots
    slots = tuple(
        Slot(
            slot,
            queue_size=config.service.queue_size,
            clock=clock,
            breaker=config.circuit_breaker,
            well_after=config.monitoring.health_check_interval,
            checks=checks,
            on_event=hub,
        )
        for slot in config.resolved_slots(environ)
    )
    async with AsyncExitStack() as stack:
        audit = None
        if config.audit.enabled:
            options = config.audit
            audit = AuditLog.open(
                config.audit_directory,
                fsync=options.fsync,
                fsync_interval=options.fsync_interval,
                max_segment_size=options.max_segment_size,
                max_segment_age=options.max_segment_age,
            )
            stack.callback(audit.close)
        registry = await stack.enter_async_context(KeyRegistry.open(config.state_dir / "registry.sqlite3"))
        endpoint = None
        if config.monitoring.metrics.port is not None:
            endpoint = await stack.enter_async_context(listening(config.monitoring.metrics))
        parts = Assembly(
            config,
            registry,
            audit,
            slots,
            software_host=software_host,
            hub=hub,
            endpoint=endpoint,
            interfaces=interfaces,
            clock=clock,
        )
        await stack.enter_async_context(parts.running())
        yield parts


async def _idle(ctx: ChildContext) -> None:
    """Stand in the tree where there is nothing to do."""
    ctx.started()
    await ctx.wait_stopping()
