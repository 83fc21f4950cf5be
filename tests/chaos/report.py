"""The report of a run of chaos as a table for people, and as JSON."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

from chaos.ledger import SIGNED
from chaos.sorts import Sort
from chaos.storm import CALLERS, StormReport
from chaos.tables import counts, heading, milliseconds, table
from chaos.watch import Resources

__all__ = ["as_json", "as_text"]


def as_text(report: StormReport) -> str:
    """Everything, in 100 columns."""
    parts = {
        "keys": _keys(report),
        "outcomes": counts(_all_outcomes(report)),
        "faults, and how long until the slot signs again": _faults(report),
        "sessions discarded, by reason": counts(report.discarded),
        "hosts": (
            f"  {report.hosts_seen} have served, {report.respawns} of them in place of others; {report.host_crashes} "
            f"crashed or failed to start; {report.logins} logins"
        ),
        "breakers became": counts(report.breakers),
        "slots unlatched by the operator": counts(report.unlatched),
        "what it takes": _resources(report),
        "promises": _verdict(report),
    }
    lines = [
        f"chaos: seed {report.seed}, {report.seconds:g} s of faults on {report.backend}, Python {report.python}",
        f"       {report.requests:,} requests of {CALLERS} callers",
    ]
    for name, text in parts.items():
        lines += [heading(name), text]
    return "\n".join(lines)


def as_json(report: StormReport) -> dict[str, Any]:
    """The same, for programs."""
    return {
        "seed": report.seed,
        "backend": report.backend,
        "python": report.python,
        "seconds": report.seconds,
        "requests": report.requests,
        "keys": {
            sort.value: {
                "outcomes": dict(report.outcomes[sort]),
                "primary": report.routes.primary[sort],
                "backup": report.routes.backup[sort],
                "software": report.routes.software[sort],
                "longest_outage": round(report.longest_outage[sort], 3),
                "slowest": round(report.slowest[sort], 3),
            }
            for sort in Sort
        },
        "faults": {
            kind: {"times": times, "recoveries": [round(each, 4) for each in report.recoveries.get(kind, [])]}
            for kind, times in sorted(report.faults.items())
        },
        "discarded": dict(report.discarded),
        "breakers": dict(report.breakers),
        "unlatched": dict(report.unlatched),
        "hosts_seen": report.hosts_seen,
        "respawns": report.respawns,
        "host_crashes": report.host_crashes,
        "logins": report.logins,
        "longest_stall": round(report.longest_stall, 4),
        "load": report.load,
        "resources": {name: _numbers(found) for name, found in _measured(report)},
        "broken": dict(report.broken),
        "violations": [str(violation) for violation in report.violations],
    }


def _keys(report: StormReport) -> str:
    rows = []
    for sort in Sort:
        outcomes, routes = Counter(report.outcomes[sort]), report.routes
        rows.append(
            (
                sort.value,
                f"{outcomes.total():,}",
                f"{routes.primary[sort]:,}",
                f"{routes.backup[sort]:,}",
                f"{routes.software[sort]:,}",
                f"{outcomes.total() - outcomes[SIGNED]:,}",
                milliseconds(report.longest_outage[sort]),
                milliseconds(report.slowest[sort]),
            )
        )
    head = ("key", "requests", "primary", "backup", "software", "not signed", "longest gap", "slowest")
    return table(head, rows)


def _all_outcomes(report: StormReport) -> dict[str, int]:
    routes = report.routes
    not_signed: Counter[str] = Counter()
    for outcomes in report.outcomes.values():
        not_signed.update({name: count for name, count in outcomes.items() if name != SIGNED})
    software = routes.software[Sort.SOFTWARE]
    signed = {
        "signed by the first slot": routes.primary.total(),
        "signed by the backup slot": routes.backup.total(),
        "signed by the software twin": routes.software.total() - software,
        "signed with a software key": software,
    }
    return {**signed, **not_signed}


def _faults(report: StormReport) -> str:
    rows = []
    for kind, times in sorted(report.faults.items()):
        measured = sorted(report.recoveries.get(kind, []))
        values = (measured[0], median(measured), measured[-1]) if measured else (None, None, None)
        rows.append((kind, times, len(measured), *(milliseconds(value) for value in values)))
    return table(("fault", "times", "measured", "min", "median", "max"), rows)


def _measured(report: StormReport) -> tuple[tuple[str, Resources], ...]:
    return ("before", report.before), ("after", report.after), ("closed", report.left)


def _numbers(found: Resources) -> dict[str, int]:
    return {
        "memory": found.memory,
        "descriptors": found.descriptors,
        "hosts": found.hosts,
        "tasks": found.tasks,
    }


def _resources(report: StormReport) -> str:
    rows = [
        (name, f"{found.memory / 2**20:.1f} MiB", found.descriptors, found.hosts, found.tasks)
        for name, found in _measured(report)
    ]
    machine = (
        f"  the event loop stood still for {milliseconds(report.longest_stall)} at most; load average of the machine "
        f"{report.load:.1f}"
    )
    return f"{table(('', 'memory', 'descriptors', 'hosts', 'tasks'), rows)}\n{machine}"


def _verdict(report: StormReport) -> str:
    if not report.broken:
        return "  all kept"
    lines = [f"  BROKEN: {name}, {count} times" for name, count in sorted(report.broken.items())]
    lines += [f"  {violation}" for violation in report.violations[:40]]
    return "\n".join([*lines, f"  to see this schedule again: --seed {report.seed}"])
