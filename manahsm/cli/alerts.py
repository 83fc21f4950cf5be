"""``manahsm alerts``: what is wrong at this moment, and saying that it is dealt with.

The one thing to know: open alerts survive a restart, so they can be read without a running service too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from manahsm.cli.failures import Exit
from manahsm.cli.options import Options, Section, reachable
from manahsm.cli.output import console, say, write_json

if TYPE_CHECKING:
    from manahsm.monitoring.alert_rules import Alert
    from manahsm.service import Service

__all__ = ["alerts"]


@click.group(cls=Section)
def alerts() -> None:
    """List and resolve alerts."""


@alerts.command("list")
@click.option("--resolved", is_flag=True, help="The last resolved ones too.")
@reachable
def list_alerts(options: Options, resolved: bool) -> Exit:
    """List open alerts, oldest first. Exits with 3 where there is one."""
    from manahsm.cli.opened import with_service  # noqa: PLC0415 - as above
    from manahsm.cli.snapshot import settle_in  # noqa: PLC0415 - as above
    from manahsm.wire import plain  # noqa: PLC0415 - `--help` does not need it

    async def look(service: Service) -> list[Alert]:
        await settle_in(service, options)
        return await service.alerts(resolved=resolved)

    found = with_service(options, look)
    if options.json:
        write_json(plain(found))
    elif found:
        from manahsm.cli.view import alert_block  # noqa: PLC0415 - as above

        for alert in found:
            console().print(alert_block(alert))
    else:
        say("no alerts")
    return Exit.FOUND if any(alert.is_open for alert in found) else Exit.OK


@alerts.command()
@click.argument("alert_id", metavar="ID")
@reachable
def resolve(options: Options, alert_id: str) -> Exit:
    """Say that an alert is dealt with; while its cause lasts it stays silent."""
    from manahsm.cli.opened import with_service  # noqa: PLC0415 - as above
    from manahsm.wire import plain  # noqa: PLC0415 - as above

    resolved = with_service(options, lambda service: service.resolve_alert(alert_id))
    if options.json:
        write_json(plain(resolved))
    else:
        say(f"resolved {resolved.id}: {resolved.component}: {resolved.message}")
    return Exit.OK
