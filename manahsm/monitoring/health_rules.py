"""What is wrong with signing, keys, the audit log and the configuration, and with the service as a whole. Pure.

The one thing to know: **overall** status is the worst component, with one exception. An unhealthy slot counts as
degraded where other slots do its work, that is, where each key that it may hold is held by another slot that signs (and
there is such a slot). A backup that is down while the primary signs degrades the service; a token with a key of its own
that is gone makes it unhealthy, and so does the only token. Software that stands in makes up for nothing here: its
signatures are counted, and when they are used up nothing is signed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import frozen

from manahsm.config.tables import Thresholds
from manahsm.errors import ConfigProblem
from manahsm.monitoring import causes
from manahsm.monitoring.causes import HealthStatus, worst
from manahsm.monitoring.traffic import Load, TrafficCounts
from manahsm.monitoring.values import Finding

__all__ = [
    "SlotKeys",
    "joined",
    "judge_audit",
    "judge_configuration",
    "judge_keys",
    "judge_signing",
    "made_up_for",
    "overall",
    "slow_findings",
]


def slow_findings(seconds: float, thresholds: Thresholds, more: str = "") -> Iterator[Finding]:
    """Whether a signature, or an answer of a token, takes too long."""
    found = _level(
        seconds,
        (thresholds.response_time_critical, causes.RESPONSE_HIGH),
        (thresholds.response_time_warning, causes.RESPONSE_ELEVATED),
    )
    if found is not None:
        yield Finding(found, joined(f"{seconds:.3f} s", more))


def judge_signing(traffic: TrafficCounts, loads: Mapping[str, Load], thresholds: Thresholds) -> tuple[Finding, ...]:
    """What is wrong with signing as a whole.

    Args:
        traffic: how requests ended, within the window.
        loads: mean load of each slot, and of ``software``, by name.
        thresholds: where a measure turns bad: at the threshold, not only beyond it.
    """
    findings: list[Finding] = []
    if traffic.total >= thresholds.minimum_requests:
        found = _level(
            traffic.error_rate,
            (thresholds.error_rate_critical, causes.ERRORS_CRITICAL),
            (thresholds.error_rate_warning, causes.ERRORS_HIGH),
        )
        if found is not None:
            kinds = ", ".join(f"{count} {code}" for code, count in sorted(traffic.by_outcome.items()))
            findings.append(Finding(found, f"{traffic.failed} of {traffic.total}: {kinds}"))
        findings.extend(
            slow_findings(traffic.mean, thresholds, f"mean of {traffic.total}, slowest {traffic.slowest:.3f} s")
        )
    name, queue = _most({name: load.queue for name, load in loads.items()})
    found = _level(
        queue,
        (thresholds.queue_critical, causes.QUEUE_FULL),
        (thresholds.queue_warning, causes.QUEUE_FILLING),
    )
    if found is not None:
        findings.append(Finding(found, f"{queue:.0f} wait for {name}"))
    name, use = _most({name: load.use for name, load in loads.items()})
    found = _level(
        use,
        (thresholds.pool_use_critical, causes.POOL_EXHAUSTED),
        (thresholds.pool_use_warning, causes.POOL_PRESSURE),
    )
    if found is not None:
        findings.append(Finding(found, f"{use:.0%} of {name}"))
    return _worst_first(findings)


def judge_audit(trouble: str | None, *, required: bool) -> tuple[Finding, ...]:
    """What is wrong with the audit log.

    Args:
        trouble: why it can not be written, or ``None``.
        required: ``security_policy.audit_all_operations``: then nothing is signed without it.
    """
    if trouble is None:
        return ()
    return (Finding(causes.AUDIT_UNAVAILABLE if required else causes.AUDIT_INCOMPLETE, trouble),)


def judge_keys(
    *, registry_trouble: str | None, missing_files: Sequence[str], locked: int, unknown_canary: str | None
) -> tuple[Finding, ...]:
    """What is wrong with keys.

    Args:
        registry_trouble: why the registry can not be written, or ``None``.
        missing_files: ids of keys whose keystore file is not there.
        locked: keys in software where no passphrase is configured.
        unknown_canary: why ``monitoring.canary_key`` is no key to sign with, or ``None``.
    """
    findings = []
    if registry_trouble is not None:
        findings.append(Finding(causes.REGISTRY_TROUBLE, registry_trouble))
    if missing_files:
        findings.append(Finding(causes.KEYFILES_MISSING, _some(missing_files)))
    if locked:
        findings.append(Finding(causes.KEYSTORE_LOCKED, f"{locked} of them, and no keystore.passphrase_file"))
    if unknown_canary is not None:
        findings.append(Finding(causes.CANARY_UNKNOWN, unknown_canary))
    return _worst_first(findings)


def judge_configuration(problems: Sequence[ConfigProblem]) -> tuple[Finding, ...]:
    """What is wrong with the files that the configuration names; they are needed at the next start, if not before."""
    return (Finding(causes.SECRETS_UNREADABLE, "; ".join(map(str, problems))),) if problems else ()


# ---- the whole ----


@frozen
class SlotKeys:
    """What a slot does for the service.

    Attributes:
        signs: it can sign now.
        keys: ids of the keys that it may hold.
    """

    signs: bool
    keys: frozenset[str]


def made_up_for(slots: Mapping[str, SlotKeys]) -> frozenset[str]:
    """Names of the slots that do not sign, and whose keys other slots hold that do."""
    signing = [slot.keys for slot in slots.values() if slot.signs]
    held = frozenset[str]().union(*signing)
    return frozenset(name for name, slot in slots.items() if signing and not slot.signs and slot.keys <= held)


def overall(statuses: Mapping[str, HealthStatus], helped: Iterable[str]) -> HealthStatus:
    """The status of the service.

    Args:
        statuses: of every component, by name.
        helped: names of components whose work others do; they count as degraded at most.
    """
    lenient = frozenset(helped)
    return worst(
        HealthStatus.DEGRADED if name in lenient and status is HealthStatus.UNHEALTHY else status
        for name, status in statuses.items()
    )


# ---- inside ----


def _level(
    value: float, critical: tuple[float, causes.Cause], warning: tuple[float, causes.Cause]
) -> causes.Cause | None:
    for threshold, cause in (critical, warning):
        if value >= threshold:
            return cause
    return None


def _most(values: Mapping[str, float]) -> tuple[str, float]:
    return max(values.items(), key=lambda item: item[1], default=("", 0.0))


def _worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: finding.cause.status.score))


def joined(*texts: str) -> str:
    """Put together what there is."""
    return "; ".join(text for text in texts if text)


_SHOWN = 5


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
