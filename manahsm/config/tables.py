"""The tables of the configuration: every option's kind, default and meaning.

Names and nesting are those of DESIGN 7. Defaults are in the inside form: times in seconds, where files have
milliseconds. All classes are frozen; build a changed copy with ``attrs.evolve``.
"""

# ruff: noqa: RUF009 - option() returns attrs.field(), which makes no shared value

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from attrs import frozen

from manahsm.config.kinds import (
    Choice,
    Choices,
    FilePath,
    Fixed,
    Flag,
    Integer,
    Milliseconds,
    Number,
    Table,
    Text,
    Variables,
)
from manahsm.config.options import option
from manahsm.config.secret import Secret
from manahsm.config.urls import SecretUrl, Url
from manahsm.config.vendors import Vendor
from manahsm.requests import Backend, Role

__all__ = [
    "NO_VARIABLES",
    "AlertOptions",
    "Audit",
    "CircuitBreaker",
    "ConnectionPool",
    "Fallback",
    "Fsync",
    "Kdf",
    "KeyGenerationPolicy",
    "KeystoreOptions",
    "MetricsEndpoint",
    "Monitoring",
    "Priority",
    "SecurityPolicy",
    "ServiceOptions",
    "SlotOptions",
    "Thresholds",
]

_HOUR = 3_600_000
_DAY = 24 * _HOUR
_MOST_SLOT_ID = 2**64 - 1  # CK_SLOT_ID is a CK_ULONG
_LABEL_BYTES = 32  # CK_TOKEN_INFO.label
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


class Priority(StrEnum):
    """Primary slots are asked first, backup slots when no primary one can sign."""

    PRIMARY = "primary"
    BACKUP = "backup"


class Fsync(StrEnum):
    """When audit records reach the disk: before each signature leaves, at intervals, or some time."""

    ALWAYS = "always"
    INTERVAL = "interval"
    NEVER = "never"


class Kdf(StrEnum):
    """How a keystore's passphrase becomes a key (Web3 Secret Storage version 3)."""

    SCRYPT = "scrypt"
    PBKDF2 = "pbkdf2"


@frozen(kw_only=True)
class SlotOptions:
    """One entry of ``slots``: a token, and where it differs from the top level."""

    name: str | None = option(
        Text(64),
        None,
        "How the slot is called in logs, metrics and key lists. Must differ from slot to slot.",
        default_text="the token label, or slot-ID",
    )
    slot_id: int | None = option(Integer(0, _MOST_SLOT_ID), None, "PKCS#11 slot number of the token.")
    token_label: str | None = option(
        Text(_LABEL_BYTES),
        None,
        "Label of the token; survives a change of slot numbers. With slot_id, both must fit.",
    )
    priority: Priority = option(
        Choice(Priority), Priority.PRIMARY, "Backup slots are asked when no primary one can sign."
    )
    vendor: Vendor | None = option(Choice(Vendor), None, "Vendor of this slot.", default_text="hsm.vendor")
    library_path: Path | None = option(
        FilePath(),
        None,
        "PKCS#11 library of this slot.",
        default_text="hsm.library_path if the vendor is the same, else where the vendor installs it",
    )
    pin_file: Path | None = option(
        FilePath(), None, "File with the PIN of this slot.", default_text="the PIN of the top level"
    )
    environment: Mapping[str, str] = option(
        Variables(),
        NO_VARIABLES,
        "Variables for this slot's host processes, over those of hsm.environment.",
    )


@frozen(kw_only=True)
class ConnectionPool:
    """Sessions with a token.

    The defaults here are those of ``generic``; each vendor's profile has its own.
    """

    size: int = option(Integer(1, 1024), 4, "Sessions that are kept open in a slot.", default_text="by vendor")
    max_overflow: int = option(
        Integer(0, 1024),
        8,
        "Sessions that may be opened beyond size under pressure.",
        default_text="by vendor",
    )
    timeout: float = option(Milliseconds(1, _HOUR), 15.0, "Longest wait for a session.", default_text="by vendor")
    idle_timeout: float = option(
        Milliseconds(1, _DAY),
        30.0,
        "Idle time after which an overflow session is closed.",
        default_text="by vendor",
    )
    processes: int = option(
        Integer(1, 64), 2, "Host processes a slot; one crash leaves the others signing. Never more than size."
    )
    call_timeout: float = option(
        Milliseconds(1, _HOUR),
        10.0,
        "Longest single call into the vendor's library; its host process is killed after that.",
        default_text="by vendor",
    )
    start_timeout: float = option(
        Milliseconds(1, _HOUR),
        30.0,
        "Longest time for a host process to load the library, log in and open its sessions.",
        default_text="by vendor",
    )


@frozen(kw_only=True)
class KeyGenerationPolicy:
    """How new keys are made."""

    default_backend: Backend = option(
        Choice(Backend), Backend.HSM, "Where a new key goes if the caller and its role leave it open."
    )
    extractable_keys: bool = option(
        Fixed(value=False, reason="keys made in a token never leave it; import a key to keep a software twin"),
        default=False,
        doc="CKA_EXTRACTABLE of keys in tokens.",
    )
    sensitive_keys: bool = option(
        Fixed(value=True, reason="keys in a token are never readable in the clear"),
        default=True,
        doc="CKA_SENSITIVE of keys in tokens.",
    )
    key_size: int = option(Fixed(256, "secp256k1 keys have 256 bits"), 256, "Size of keys, in bits.")
    curve: str = option(Fixed("secp256k1", "Ethereum accounts use this curve alone"), "secp256k1", "Curve of keys.")


@frozen(kw_only=True)
class SecurityPolicy:
    """What may be signed, where, and how often."""

    require_hsm_for_roles: tuple[Role, ...] = option(
        Choices(Role),
        (Role.VALIDATOR, Role.ADMIN),
        "Keys with these roles are made in a token only and are never signed in software.",
    )
    allow_software_fallback: bool = option(
        Flag(),
        default=True,
        doc="Whether a software twin may ever stand in for a token. false wins over all of fallback.",
    )
    max_signing_rate: float = option(
        Number(0, 1_000_000), 0.0, "Signatures per second for the whole service; 0 is unlimited."
    )
    audit_all_operations: bool = option(
        Flag(), default=True, doc="Refuse to release a signature whose audit record can not be written."
    )
    key_generation_policy: KeyGenerationPolicy = option(
        Table(KeyGenerationPolicy), KeyGenerationPolicy(), "How new keys are made."
    )


@frozen(kw_only=True)
class Fallback:
    """When a software twin stands in for a token that does not answer."""

    enabled: bool = option(Flag(), default=True, doc="Whether software twins stand in.")
    auto_fallback_on_error: bool = option(
        Flag(), default=True, doc="Divert by itself; with false, only after an operator says so."
    )
    fallback_timeout: float = option(
        Milliseconds(1, _HOUR), 5.0, "How long one request waits for tokens before it may be diverted."
    )
    max_fallback_operations: int = option(
        Integer(0, 1_000_000_000), 100, "Software signatures that one outage may use up."
    )


@frozen(kw_only=True)
class CircuitBreaker:
    """When a slot is left alone for a while. One breaker a slot."""

    failure_rate: float = option(Number(0.01, 1), 0.5, "Share of failed calls that opens the breaker.")
    slow_call_rate: float = option(Number(0.01, 1), 0.9, "Share of slow calls that opens the breaker.")
    slow_call: float = option(Milliseconds(1, _HOUR), 2.0, "A call that takes longer is slow.")
    window: float = option(Milliseconds(1, _DAY), 30.0, "How far back calls count.")
    minimum_calls: int = option(Integer(1, 100_000), 10, "Calls in the window before the rates mean anything.")
    open_for: float = option(Milliseconds(1, _HOUR), 5.0, "How long the breaker stays open the first time.")
    max_open_for: float = option(Milliseconds(1, _DAY), 60.0, "Longest it stays open after repeats.")
    probes: int = option(Integer(1, 1000), 3, "Trial calls that are let through before it closes again.")


@frozen(kw_only=True)
class MetricsEndpoint:
    """Where Prometheus finds the metrics, and others whether the service lives and can sign."""

    host: str = option(Text(255), "127.0.0.1", "IP address to listen on, or localhost.")
    port: int | None = option(
        Integer(0, 65535),
        None,
        "Port of /metrics, /livez, /readyz and /healthz; 0 lets the system choose one.",
        default_text="no endpoint",
    )
    allow_remote: bool = option(
        Flag(),
        default=False,
        doc="Permit an address that other machines reach. There is no password: all who reach it see slots and rates.",
    )


@frozen(kw_only=True)
class Thresholds:
    """Where a measure is worth a warning, and where it is critical: at the threshold, not only beyond it."""

    window: float = option(Milliseconds(1000, _DAY), 60.0, "How far back requests, queues and pools are looked at.")
    minimum_requests: int = option(
        Integer(1, 1_000_000), 10, "Requests in the window before response time and error rate mean anything."
    )
    response_time_warning: float = option(Milliseconds(1, _HOUR), 1.0, "Mean time of a signature: Elevated.")
    response_time_critical: float = option(Milliseconds(1, _HOUR), 5.0, "Mean time of a signature: High.")
    error_rate_warning: float = option(Number(0.0001, 1), 0.05, "Share of requests that failed: High.")
    error_rate_critical: float = option(Number(0.0001, 1), 0.20, "Share of requests that failed: Critical.")
    queue_warning: float = option(Number(1, 1_000_000), 50.0, "Mean length of a queue: Filling up.")
    queue_critical: float = option(Number(1, 1_000_000), 100.0, "Mean length of a queue: Critically full.")
    pool_use_warning: float = option(Number(0.01, 1), 0.80, "Mean share of busy sessions: Under pressure.")
    pool_use_critical: float = option(Number(0.01, 1), 0.95, "Mean share of busy sessions: Exhausted.")
    broken_sessions: int = option(Integer(1, 10_000), 20, "Sessions of a slot that break within the window.")


@frozen(kw_only=True)
class AlertOptions:
    """Where alerts go besides the log, and how calm it must be before one that came back is over."""

    calm: float = option(
        Milliseconds(0, _DAY),
        300.0,
        "An alert that comes back so soon after it was resolved is the same one, and is then resolved only when its "
        "cause has been away for this long.",
    )
    webhook_url: Secret | None = option(
        SecretUrl(), None, "Address that gets each alert as JSON, by POST. Kept secret: such addresses often are."
    )
    alertmanager_url: str | None = option(
        Url(), None, "An Alertmanager (API v2), without the path, e.g. http://127.0.0.1:9093."
    )
    timeout: float = option(Milliseconds(10, 600_000), 5.0, "Longest delivery of an alert; it is tried again.")
    resend_interval: float = option(
        Milliseconds(100, _DAY),
        60.0,
        "Time between two deliveries of what is wrong to Alertmanager, which forgets what it does not hear of for four "
        "of these.",
    )
    instance: str | None = option(
        Text(255), None, "How this signer is called in alerts.", default_text="the name of the machine"
    )


@frozen(kw_only=True)
class Monitoring:
    """Health checks and alerts."""

    health_check_interval: float = option(Milliseconds(100, _DAY), 30.0, "Time between health checks.")
    check_timeout: float = option(
        Milliseconds(10, _HOUR), 5.0, "Longest check of one component; a token that takes longer counts as lost."
    )
    canary_key: str | None = option(
        Text(255),
        None,
        "Key (id, label or address) that signs a message of no meaning in each check of a slot that holds it. Best a "
        "key that signs nothing else.",
        default_text="no canary signatures",
    )
    performance_monitoring: bool = option(Flag(), default=True, doc="Keep performance samples.")
    alert_on_fallback: bool = option(Flag(), default=True, doc="Raise an alert when a software twin stands in.")
    alert_on_errors: bool = option(Flag(), default=True, doc="Raise an alert when error rates are high.")
    metrics_retention: float = option(Milliseconds(1000, 366 * _DAY), 3600.0, "How long samples are kept.")
    metrics: MetricsEndpoint = option(Table(MetricsEndpoint), MetricsEndpoint(), "An HTTP endpoint for metrics.")
    thresholds: Thresholds = option(Table(Thresholds), Thresholds(), "Where measures turn bad.")
    alerts: AlertOptions = option(Table(AlertOptions), AlertOptions(), "Where alerts go besides the log.")


@frozen(kw_only=True)
class KeystoreOptions:
    """Encrypted files of software keys (Web3 Secret Storage version 3)."""

    directory: Path | None = option(FilePath(), None, "Where the files are.", default_text="keystore in state_dir")
    passphrase_file: Path | None = option(
        FilePath(),
        None,
        "File with the passphrase of all of them, closed to others. Without it there are no software keys.",
    )
    kdf: Kdf = option(Choice(Kdf), Kdf.SCRYPT, "Key derivation function of new files.")
    iterations: int = option(
        Integer(1024, 2**24),
        2**18,
        "Its work factor: n for scrypt (a power of two), rounds for pbkdf2. Small ones are for tests.",
    )
    processes: int = option(
        Integer(0, 1),
        1,
        "Processes that sign with software keys and check what tokens have signed, beside the event loop, started when "
        "several at once ask for it. They are handed private keys through a pipe and keep none. With 0, the loop does "
        "it.",
    )


@frozen(kw_only=True)
class Audit:
    """The record of everything that was signed or refused."""

    enabled: bool = option(Flag(), default=True, doc="Keep an audit log.")
    directory: Path | None = option(FilePath(), None, "Where it is kept.", default_text="audit in state_dir")
    fsync: Fsync = option(
        Choice(Fsync), Fsync.INTERVAL, "When records are forced to the disk. The order is kept either way."
    )
    fsync_interval: float = option(
        Milliseconds(1, 60_000), 0.1, "Time between two such writes where fsync is interval."
    )
    max_segment_size: int = option(
        Integer(4096, 2**40), 64 * 2**20, "Bytes after which the log goes on in a new file. The chain runs on."
    )
    max_segment_age: float = option(
        Milliseconds(1000, 366 * _DAY), 86_400.0, "Age of a file after which the next record begins a new one."
    )
    checkpoint_key: str | None = option(
        Text(255),
        None,
        "Key (id, label or address) that signs the end of the log at intervals, so that who rewrites it is found out. "
        "Best a key that signs nothing else.",
        default_text="no checkpoints",
    )
    checkpoint_interval: float = option(
        Milliseconds(1000, 7 * _DAY), 60.0, "Time between two checkpoints; none is made where nothing was added."
    )


@frozen(kw_only=True)
class ServiceOptions:
    """Limits of the service as a whole."""

    request_timeout: float = option(
        Milliseconds(1, _HOUR), 30.0, "Longest time for a request whose caller names no timeout."
    )
    queue_size: int = option(
        Integer(1, 1_000_000),
        1024,
        "Requests that may wait for a slot or the software worker; more are refused.",
    )
    shutdown_grace: float = option(
        Milliseconds(0, _HOUR), 10.0, "How long queued requests may still finish when the service stops."
    )
