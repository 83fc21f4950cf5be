"""Where gauges come from at a scrape: the callables that the service gives, and what the kernel knows.

The one thing to know: all of it is read synchronously in the event loop, so a source answers at once and from memory;
the files read here are in ``/proc``.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from attrs import frozen

from manahsm.audit.log import AuditLog
from manahsm.keys.index import KeyKind
from manahsm.status import ServiceStatus

__all__ = ["AuditState", "ProcessState", "Sources", "audit_state", "process_state", "resident_memory"]

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_STARTTIME = 22 - 3  # field 22 of /proc/PID/stat (proc_pid_stat(5)), counted from the one behind the name


@frozen(kw_only=True)
class AuditState:
    """The audit log at one moment.

    Attributes:
        healthy: whether the last write and sync went well.
        records: sequence number of the last record.
        unsynced: records that were not forced to the disk yet.
        lag: seconds since the last sync while records wait for one, else 0.
    """

    healthy: bool
    records: int
    unsynced: int
    lag: float


def audit_state(log: AuditLog | None, *, syncs: bool, now: datetime) -> AuditState | None:
    """Look at the audit log.

    Args:
        log: ``None`` where there is none.
        syncs: whether it forces records to the disk at all (``audit.fsync`` is not ``never``).
        now: the time (UTC).
    """
    if log is None:
        return None
    unsynced = log.unsynced_records if syncs else 0
    lag = (now - log.last_sync).total_seconds() if unsynced and log.last_sync else 0.0
    return AuditState(healthy=log.healthy, records=log.head.seq, unsynced=unsynced, lag=max(0.0, lag))


@frozen(kw_only=True)
class ProcessState:
    """The process that runs the service, without its hosts.

    Attributes:
        resident_memory: bytes.
        cpu_seconds: user and system time.
        open_fds: descriptors that are open.
        max_fds: the soft limit.
        started_at: seconds since 1970.
    """

    resident_memory: int
    cpu_seconds: float
    open_fds: int
    max_fds: int
    started_at: float


def resident_memory(pid: int | str = "self") -> int:
    """Resident memory of a process in bytes; 0 once it is gone."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def process_state() -> ProcessState:
    """Look at this process, in /proc.

    Raises:
        OSError: /proc is not there.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    since_boot = int(fields[_STARTTIME]) / _TICKS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ProcessState(
        resident_memory=resident_memory(),
        cpu_seconds=time.process_time(),
        open_fds=len(os.listdir("/proc/self/fd")) - 1,  # noqa: PTH208 - names are enough; one is of this listing
        max_fds=soft,
        started_at=time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot,
    )


def _no_audit() -> AuditState | None:
    return None


@frozen(kw_only=True)
class Sources:
    """What a service shows of itself.

    Attributes:
        status: what it has and does.
        count_keys: how many keys of each kind it has.
        audit: its audit log, or ``None`` where it has none.
        health: scores of components, 1 healthy, 0.5 degraded, 0 unhealthy; one that was not checked may be left out.
        alerts: the cause of each open alert, by name.
        process: what the kernel knows of this process.
    """

    status: Callable[[], ServiceStatus]
    count_keys: Callable[[], Mapping[KeyKind, int]]
    audit: Callable[[], AuditState | None] = _no_audit
    health: Callable[[], Mapping[str, float]] = dict
    alerts: Callable[[], Iterable[str]] = tuple
    process: Callable[[], ProcessState] = process_state
