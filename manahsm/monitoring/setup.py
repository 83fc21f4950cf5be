"""Puts health monitor and alert manager together, and connects them with what happens in a service."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from manahsm.audit.configuration import encoded
from manahsm.config.model import Config
from manahsm.errors import AuditUnavailable
from manahsm.events import Happening
from manahsm.keys.registry import KeyRegistry
from manahsm.monitoring.alert_store import AlertStore
from manahsm.monitoring.alertmanager import ALERTS_PATH, AlertmanagerSink
from manahsm.monitoring.alertmanager import ATTEMPTS as ALERTMANAGER_ATTEMPTS
from manahsm.monitoring.alerts import AlertManager
from manahsm.monitoring.canary import CanaryKey
from manahsm.monitoring.causes import HealthStatus
from manahsm.monitoring.checks import AuditCheck, ConfigurationCheck, KeyCheck, SigningCheck
from manahsm.monitoring.components import slot_component
from manahsm.monitoring.delivery import Poster
from manahsm.monitoring.health import HealthMonitor
from manahsm.monitoring.health_rules import SlotKeys, made_up_for
from manahsm.monitoring.sinks import LogSink, Sink
from manahsm.monitoring.slot_check import SlotCheck
from manahsm.monitoring.webhook import ATTEMPTS as WEBHOOK_ATTEMPTS
from manahsm.monitoring.webhook import WebhookSink
from manahsm.requests import KeyState
from manahsm.signing.observed import SessionEnded, SignEnded
from manahsm.signing.slot import Slot, SlotPhase
from manahsm.times import utc_now
from supervisors import Clock, Mailbox

__all__ = ["Watch", "keep_watch"]


@frozen
class Watch:
    """What watches over a service. The ``run`` of both belongs into the supervision tree.

    Attributes:
        health: the health monitor.
        alerts: the alert manager.
    """

    health: HealthMonitor
    alerts: AlertManager


def keep_watch(
    config: Config,
    *,
    slots: Sequence[Slot],
    software: Mailbox,
    registry: KeyRegistry,
    registry_trouble: Callable[[], str | None],
    audit_trouble: Callable[[], str | None],
    subscribe: Callable[[Callable[[Happening], None]], None],
    clock: Clock,
) -> Watch:
    """Make both. Reads the stored alerts: a small file, and blocks for that.

    Args:
        config: of the service.
        slots: every configured slot.
        software: mailbox of the software worker.
        registry: of keys.
        registry_trouble: why the registry could not be written lately, or ``None``.
        audit_trouble: why the audit log can not be written, or ``None``.
        subscribe: of the hub of events.
        clock: the time of every interval.
    """
    options = config.monitoring
    canary = CanaryKey(options.canary_key, registry)
    signing = SigningCheck(slots, software, config, clock)
    audit = AuditCheck(audit_trouble, config)
    by_slot = {
        slot.name: SlotCheck(
            slot, thresholds=options.thresholds, canary=canary, timeout=options.check_timeout, clock=clock
        )
        for slot in slots
    }
    health = HealthMonitor(
        (
            *by_slot.values(),
            KeyCheck(registry, registry_trouble, canary, config),
            signing,
            audit,
            ConfigurationCheck(config),
        ),
        interval=options.health_check_interval,
        timeout=options.check_timeout,
        retention=options.metrics_retention,
        made_up_for=lambda statuses: _made_up_for(slots, registry, statuses),
        clock=clock,
    )
    store = AlertStore(config.state_dir, _digest_of(config))
    alerts = AlertManager(options, health.names, store, _sinks(config, clock), clock=clock)
    health.subscribe(alerts.observe)

    def listen(event: Happening) -> None:
        match event:
            case SignEnded():
                signing.note(event)
                if event.outcome == AuditUnavailable.code:
                    health.wake(audit.component)
                return  # no alert comes of one signature
            case SessionEnded(reason=str()) if event.slot in by_slot:
                by_slot[event.slot].session_broke()
        alerts.listen(event)

    subscribe(listen)
    return Watch(health, alerts)


def _sinks(config: Config, clock: Clock) -> list[Sink]:
    options = config.monitoring.alerts
    instance = options.instance or socket.gethostname()
    sinks: list[Sink] = [LogSink()]
    if options.webhook_url is not None:
        url = options.webhook_url.reveal()
        sinks.append(
            WebhookSink(Poster(url, timeout=options.timeout, attempts=WEBHOOK_ATTEMPTS, clock=clock), instance)
        )
    if options.alertmanager_url is not None:
        url = options.alertmanager_url + ALERTS_PATH
        poster = Poster(url, timeout=options.timeout, attempts=ALERTMANAGER_ATTEMPTS, clock=clock)
        sinks.append(AlertmanagerSink(poster, instance, interval=options.resend_interval, clock=clock, now=utc_now))
    return sinks


def _made_up_for(slots: Sequence[Slot], registry: KeyRegistry, statuses: Mapping[str, HealthStatus]) -> frozenset[str]:
    signing = {slot.name for slot in slots if _signs(slot, statuses)}
    if not signing or len(signing) == len(slots):
        return frozenset()
    keys = registry.list(state=KeyState.ACTIVE)
    found = made_up_for(
        {
            slot.name: SlotKeys(slot.name in signing, frozenset(key.key_id for key in keys if slot.may_hold(key)))
            for slot in slots
        }
    )
    return frozenset(slot_component(name) for name in found)


def _signs(slot: Slot, statuses: Mapping[str, HealthStatus]) -> bool:
    """By what it says now and by what was last found: a check may know of a loss before the slot does."""
    found = statuses.get(slot_component(slot.name))
    return slot.phase is SlotPhase.UP and slot.admits and found is not HealthStatus.UNHEALTHY


def _digest_of(config: Config) -> str:
    """What tells one configuration from another; secrets are stars in it."""
    return hashlib.sha256(encoded(config)).hexdigest()
