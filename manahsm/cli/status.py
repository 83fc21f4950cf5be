"""``manahsm status``: what a service has and does, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from manahsm.cli.failures import Exit
from manahsm.cli.options import Command, Options, reachable
from manahsm.cli.output import console, write_json

if TYPE_CHECKING:
    from manahsm.service import Service

__all__ = ["status"]


@click.command(cls=Command)
@reachable
def status(options: Options) -> Exit:
    """Show slots, components and alerts of a service."""
    from manahsm.cli.opened import with_service  # noqa: PLC0415 - as above
    from manahsm.cli.snapshot import Snapshot, look, settle_in  # noqa: PLC0415 - as above
    from manahsm.wire import plain  # noqa: PLC0415 - `--help` does not need it

    async def see(service: Service) -> Snapshot:
        await settle_in(service, options)
        return await look(service)

    seen = with_service(options, see)
    if options.json:
        write_json(plain(seen))
    else:
        from manahsm.cli.view import render  # noqa: PLC0415 - as above

        console().print(render(seen))
    return Exit.OK
