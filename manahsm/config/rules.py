"""Contradictions between options: each rule looks at the whole and says what does not fit together.

A rule names the options that it reads and is skipped where one of them is faulty already, so that one
mistake gives one message. All functions are pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from attrs import frozen

from manahsm.config.addresses import is_address, is_loopback
from manahsm.config.api_rules import callers_are_known, listeners_are_safe, origins_are_origins, tls_is_whole
from manahsm.config.model import Config, Kdf, Priority
from manahsm.config.options import join_path
from manahsm.config.slots import declared_slots, slot_name
from manahsm.config.vendors import profile_of
from manahsm.errors import ConfigProblem

__all__ = ["RULES", "Rule", "broken_rules"]


@frozen
class Rule:
    """One thing that must hold.

    Attributes:
        reads: dotted paths of the options that it looks at.
        faults: yields a problem for each way in which it does not hold.
    """

    reads: tuple[str, ...]
    faults: Callable[[Config], Iterator[ConfigProblem]]


def broken_rules(config: Config, known: Iterable[ConfigProblem] = ()) -> list[ConfigProblem]:
    """Every contradiction, apart from those that follow from a ``known`` problem."""
    faulty = [problem.path for problem in known]
    return [
        problem
        for rule in RULES
        if not any(_related(read, path) for read in rule.reads for path in faulty)
        for problem in rule.faults(config)
    ]


def _related(one: str, other: str) -> bool:
    """Whether one path is the other, or lies in it."""
    short, long = sorted((one, other), key=len)
    return long == short or long.startswith((short + ".", short + "["))


def _one_pin(config: Config) -> Iterator[ConfigProblem]:
    if config.pin is not None and config.pin_file is not None:
        yield ConfigProblem("hsm.pin", "pin and pin_file are both set; keep pin_file alone")


def _slots_or_token(config: Config) -> Iterator[ConfigProblem]:
    if config.slots and (config.slot_id is not None or config.token_label is not None):
        yield ConfigProblem(
            "hsm.slots", "slots and a token at the top level (slot_id, token_label) are both set; keep one"
        )


def _some_token(config: Config) -> Iterator[ConfigProblem]:
    if config.enabled and not declared_slots(config):
        yield ConfigProblem(
            "hsm.token_label",
            "no token is named: set token_label, slot_id or slots, or enabled = false for software keys only",
        )


def _each_slot_names_a_token(config: Config) -> Iterator[ConfigProblem]:
    for index, slot in enumerate(config.slots):
        if slot.slot_id is None and slot.token_label is None:
            yield ConfigProblem(f"hsm.slots[{index}]", "names no token: set token_label or slot_id")


def _names_differ(config: Config) -> Iterator[ConfigProblem]:
    times = Counter(slot_name(slot) for slot in config.slots)
    for index, slot in enumerate(config.slots):
        if times[slot_name(slot)] > 1:
            yield ConfigProblem(
                f"hsm.slots[{index}].name",
                f"another slot is called '{slot_name(slot)}' too; give each a name",
            )


def _some_primary(config: Config) -> Iterator[ConfigProblem]:
    if config.slots and all(slot.priority is Priority.BACKUP for slot in config.slots):
        yield ConfigProblem("hsm.slots", "all slots are backups; make at least one primary")


def _library_known(config: Config) -> Iterator[ConfigProblem]:
    for path, slot in declared_slots(config) if config.enabled else ():
        vendor = slot.vendor or config.vendor
        if slot.library_path is None and not profile_of(vendor).libraries:
            yield ConfigProblem(
                join_path(path, "library_path"),
                f"must be set: vendor '{vendor}' has no usual place for it",
            )


def _pool_fits_device(config: Config) -> Iterator[ConfigProblem]:
    pool, most = config.connection_pool, profile_of(config.vendor).quirks.max_sessions
    wanted = pool.size + pool.max_overflow + min(pool.processes, pool.size)
    if config.enabled and most is not None and wanted > most:
        yield ConfigProblem(
            "hsm.connection_pool.size",
            f"size, max_overflow and one session for each of processes make {wanted}, but the device has {most}",
        )


def _breaker_opens_sensibly(config: Config) -> Iterator[ConfigProblem]:
    breaker = config.circuit_breaker
    if breaker.max_open_for < breaker.open_for:
        yield ConfigProblem("hsm.circuit_breaker.max_open_for", "must not be less than open_for")


def _warnings_come_first(config: Config) -> Iterator[ConfigProblem]:
    thresholds = config.monitoring.thresholds
    for measure in ("response_time", "error_rate", "queue", "pool_use"):
        if getattr(thresholds, f"{measure}_warning") > getattr(thresholds, f"{measure}_critical"):
            yield ConfigProblem(
                f"hsm.monitoring.thresholds.{measure}_warning", f"must not be more than {measure}_critical"
            )


def _scrypt_takes_powers_of_two(config: Config) -> Iterator[ConfigProblem]:
    rounds = config.keystore.iterations
    if config.keystore.kdf is Kdf.SCRYPT and rounds & (rounds - 1):
        yield ConfigProblem("hsm.keystore.iterations", "must be a power of two for scrypt, e.g. 262144")


def _audit_is_given_up_twice(config: Config) -> Iterator[ConfigProblem]:
    if not config.audit.enabled and config.security_policy.audit_all_operations:
        yield ConfigProblem(
            "hsm.audit.enabled",
            "without an audit log nothing may be signed while security_policy.audit_all_operations is true; "
            "set that to false as well if you mean it",
        )


def _metrics_stay_on_this_machine(config: Config) -> Iterator[ConfigProblem]:
    endpoint = config.monitoring.metrics
    if not is_address(endpoint.host):
        yield ConfigProblem(
            "hsm.monitoring.metrics.host", "must be an IP address, such as 127.0.0.1 or ::1, or the word localhost"
        )
    elif not (endpoint.allow_remote or is_loopback(endpoint.host)):
        yield ConfigProblem(
            "hsm.monitoring.metrics.host",
            "other machines reach this address, and there is no password: use 127.0.0.1, or set allow_remote = true "
            "beside it if you mean it",
        )


_TOKENS = ("hsm.enabled", "hsm.slots", "hsm.slot_id", "hsm.token_label")

RULES: tuple[Rule, ...] = (
    Rule(("hsm.pin", "hsm.pin_file"), _one_pin),
    Rule(("hsm.slots", "hsm.slot_id", "hsm.token_label"), _slots_or_token),
    Rule(_TOKENS, _some_token),
    Rule(("hsm.slots",), _each_slot_names_a_token),
    Rule(("hsm.slots",), _names_differ),
    Rule(("hsm.slots",), _some_primary),
    Rule((*_TOKENS, "hsm.vendor", "hsm.library_path"), _library_known),
    Rule(("hsm.enabled", "hsm.vendor", "hsm.connection_pool"), _pool_fits_device),
    Rule(("hsm.circuit_breaker",), _breaker_opens_sensibly),
    Rule(("hsm.keystore",), _scrypt_takes_powers_of_two),
    Rule(("hsm.audit.enabled", "hsm.security_policy.audit_all_operations"), _audit_is_given_up_twice),
    Rule(("hsm.monitoring.thresholds",), _warnings_come_first),
    Rule(("hsm.api",), lambda config: listeners_are_safe(config.api)),
    Rule(("hsm.api",), lambda config: tls_is_whole(config.api)),
    Rule(("hsm.api",), lambda config: callers_are_known(config.api)),
    Rule(("hsm.api",), lambda config: origins_are_origins(config.api)),
    Rule(("hsm.monitoring.metrics",), _metrics_stay_on_this_machine),
)
