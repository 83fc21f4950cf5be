"""``manahsm check``: open the service, say what each slot has, and close it again.

The one thing to know: it is what ``python -m manahsm.run --check`` does, with exit status 3 where a slot is not up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from manahsm.cli.failures import Exit
from manahsm.cli.options import Command, Options, common
from manahsm.cli.output import say, write_json

if TYPE_CHECKING:
    from manahsm.requests import KeyInfo
    from manahsm.service import Service
    from manahsm.status import ServiceStatus

__all__ = ["check"]


@click.command(cls=Command)
@common
def check(options: Options) -> Exit:
    """Open the service and say what it has.

    Validates the configuration, connects to every token, prints what was found. Exits with 3 where a slot is not up:
    `manahsm doctor` then says why.
    """
    from manahsm.check import describe  # noqa: PLC0415 - slow to import, and `--help` does not need it
    from manahsm.cli.opened import with_service  # noqa: PLC0415 - as above
    from manahsm.signing.slot import SlotPhase  # noqa: PLC0415 - as above
    from manahsm.wire import plain  # noqa: PLC0415 - as above

    async def look(service: Service) -> tuple[ServiceStatus, list[KeyInfo]]:
        await service.filled()
        return await service.status(), await service.list_keys()

    status, keys = with_service(options, look)
    good = all(slot.phase is SlotPhase.UP for slot in status.slots)
    if options.json:
        write_json({"ok": good, "status": plain(status), "keys": plain(keys)})
    else:
        for line in describe(status, keys):
            say(line)
        if not good:
            say("not every slot is up: `manahsm doctor` says what to do")
    return Exit.OK if good else Exit.FOUND
