"""The report of the drills as a table for people, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import asdict
from chaos.drills import CALLERS, DrillReport
from chaos.tables import heading, milliseconds, table

__all__ = ["as_json", "as_text"]


def as_text(reports: Sequence[DrillReport], backend: str) -> str:
    """One line a drill, in 100 columns, and then what is wrong."""
    rows = [
        (
            report.fault,
            report.stand_in.value,
            f"{report.signed:,}",
            report.failed.total(),
            milliseconds(report.diverted_after),
            milliseconds(report.refused_after),
            milliseconds(report.slowest),
            milliseconds(report.recovered_after),
            milliseconds(report.longest_stall),
            "no" if report.faults else "yes",
        )
        for report in reports
    ]
    head = ("fault", "stand-in", "signed", "failed", "diverted", "refused", "slowest", "recovered", "stall", "ok")
    wrong = [f"  {report.fault}, {report.stand_in.value}: {fault}" for report in reports for fault in report.faults]
    return "\n".join(
        [
            f"drills on {backend}: {CALLERS} callers, one fault of the primary slot at a time",
            "diverted, refused: from the fault to the first signature by another route, the first error;",
            "slowest: the longest answer; recovered: from the end of the fault to the slot's first signature;",
            "stall: how long the event loop stood still (a busy machine: then the other times say little)",
            heading("drills"),
            table(head, rows),
            heading("promises"),
            *(wrong or ["  all kept"]),
        ]
    )


def as_json(reports: Sequence[DrillReport], backend: str) -> dict[str, Any]:
    """The same, for programs; times in seconds."""
    return {"backend": backend, "drills": [asdict(report) for report in reports]}
