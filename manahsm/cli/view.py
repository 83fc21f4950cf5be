"""How a service looks on a terminal of 80 columns: its state in one line, then slots, components and alerts (pure).

The one thing to know: everything folds at the width of the console, and nothing that came from elsewhere is printed as
it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from manahsm.cli.output import printable
from manahsm.cli.snapshot import Snapshot
from manahsm.monitoring.alert_rules import Alert
from manahsm.monitoring.components import SIGNING_SERVICE
from manahsm.monitoring.values import HealthReport
from manahsm.status import SlotStatus

__all__ = ["alert_block", "alert_line", "duration", "render"]

_STYLES = {
    "healthy": "green",
    "degraded": "yellow",
    "unhealthy": "bold red",
    "up": "green",
    "connecting": "yellow",
    "down": "bold red",
    "latched": "bold red",
    "closed": "green",
    "half_open": "yellow",
    "open": "bold red",
    "forced_open": "bold red",
    "forced_closed": "yellow",
    "info": "cyan",
    "warning": "yellow",
    "critical": "bold red",
}
_MOST_ALERTS = 12
_LONGEST_NAME = 26  # so that eight columns fit
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def render(snapshot: Snapshot, *, footer: str = "") -> RenderableType:
    """The whole view."""
    parts: list[RenderableType] = [_heading(snapshot), _work(snapshot)]
    if snapshot.status.slots:
        parts += [Text(""), _slots(snapshot.status.slots, snapshot.stats.by_slot)]
    if snapshot.health.components:
        parts += [Text(""), *_components(snapshot.health, snapshot.status.slots)]
    parts += [Text(""), *_alerts(snapshot.alerts)]
    if footer:
        parts += [Text(""), Text(footer, style="dim")]
    return Group(*parts)


def duration(seconds: float) -> str:
    """A length of time in two units at most: ``45s``, ``3m 12s``, ``5h 02m``, ``12d 4h``."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m {whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h {whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d {whole % _DAY // _HOUR}h"


def _heading(snapshot: Snapshot) -> RenderableType:
    status, health = snapshot.status, snapshot.health.status.value
    line = Table.grid(expand=True)
    line.add_column()
    line.add_column(justify="right")
    left = Text.assemble(
        ("manahsm ", "bold"),
        (health, _STYLES[health]),
        f"  up {duration(snapshot.stats.uptime)}  keys {status.keys}  under way {status.under_way}",
    )
    if not status.accepting:
        left.append("  stopping", "bold red")
    line.add_row(left, Text(f"{snapshot.at:%H:%M:%S} UTC", style="dim"))
    return line


def _work(snapshot: Snapshot) -> RenderableType:
    stats = snapshot.stats
    said = [f"signed {stats.signed}", f"failed {stats.failed}", f"refused {stats.refused}"]
    if stats.fallback_operations:
        said.append(f"stand-in {stats.fallback_operations}")
    lines = ["  ".join(said)]
    windows = snapshot.performance.components.get(SIGNING_SERVICE, ())
    if windows:
        last = windows[0]
        lines.append(f"last {last.window:g} s: {last.per_second:.1f}/s, errors {last.error_rate:.1%}")
        if last.p50 is not None and last.p95 is not None:
            lines[-1] += f", p50 {last.p50 * 1000:.1f} ms, p95 {last.p95 * 1000:.1f} ms"
    return Text("\n".join(lines))


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=True, overflow="ellipsis", max_width=None if number else _LONGEST_NAME)
    return table


def _word(word: str) -> Text:
    return Text(printable(word), style=_STYLES.get(word, ""))


def _note(text: str) -> RenderableType:
    """A sentence below what it is about."""
    return Padding(Text(printable(text), overflow="fold"), (0, 0, 0, 2))


def _slots(slots: tuple[SlotStatus, ...], signed: Mapping[str, int]) -> RenderableType:
    table = _table("SLOT", "PHASE", "BREAKER", "SESSIONS", "BUSY", "QUEUE", "KEYS", "SIGNED")
    for slot in slots:
        table.add_row(
            Text(printable(slot.name)),
            _word(slot.phase.value),
            _word(slot.breaker.state.value),
            f"{slot.pool.open}/{slot.pool.size}",
            str(slot.pool.busy),
            str(slot.queue.queued),
            str(slot.keys),
            str(signed.get(slot.name, 0)),
        )
    return table


def _components(health: HealthReport, slots: tuple[SlotStatus, ...]) -> Iterator[RenderableType]:
    """Every component in a table, and below it in full what is wrong with any, or said of a slot alone."""
    table = _table("COMPONENT", "STATUS", "TREND", "")
    notes: list[str] = []
    for one in health.components:
        made_up = "others make up for it" if one.name in health.made_up_for else ""
        table.add_row(Text(printable(one.name)), _word(one.status.value), one.trend.value, made_up)
        if one.findings:
            notes.append(f"{one.name}: {one.message}")
    known = "\n".join(notes)
    notes += [f"slot {slot.name}: {slot.reason}" for slot in slots if slot.reason and slot.reason not in known]
    yield table
    yield from map(_note, notes)


def _alerts(alerts: tuple[Alert, ...]) -> Iterator[RenderableType]:
    if not alerts:
        yield Text("no alerts", style="green")
        return
    for alert in alerts[-_MOST_ALERTS:]:
        yield alert_line(alert)
    if len(alerts) > _MOST_ALERTS:
        yield Text(f"and {len(alerts) - _MOST_ALERTS} more: manahsm alerts list", style="dim")


def alert_line(alert: Alert) -> RenderableType:
    """An alert without its detail."""
    severity = alert.severity.value
    return Text.assemble(
        (f"{severity:8}", _STYLES[severity]),
        f"  {alert.id}  {alert.raised_at:%H:%M}  {printable(alert.component)}: {printable(alert.message)}",
        overflow="fold",
    )


def alert_block(alert: Alert) -> RenderableType:
    """An alert with all that is known of it."""
    often = "once" if alert.count == 1 else f"{alert.count} times"
    seen = f"since {alert.raised_at:%Y-%m-%d %H:%M:%S} UTC, seen {often}"
    if alert.reopened:
        seen += f", came back {alert.reopened} times"
    if alert.resolved_at is not None:
        seen += f", resolved {alert.resolved_at:%Y-%m-%d %H:%M:%S} UTC by {alert.resolved_by}"
    return Group(alert_line(alert), *([_note(alert.detail)] if alert.detail else []), _note(seen))
