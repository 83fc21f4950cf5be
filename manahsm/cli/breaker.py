"""``manahsm breaker`` and ``manahsm unlatch``: what an operator decides of a slot of a running service.

The one thing to know: a circuit breaker and a latch live in the service that runs, and end with it. So these commands
need ``--url``: on a service that is opened for the command alone they would do nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from manahsm.cli.failures import Exit
from manahsm.cli.options import Command, Options, Section, reachable
from manahsm.cli.output import say, write_json

if TYPE_CHECKING:
    from manahsm.service import Service
    from manahsm.status import SlotStatus

__all__ = ["act", "breaker", "unlatch"]

_slot = click.argument("slot")
_reason = click.option("--reason", default="by an operator", show_default=True, help="For the audit log and alerts.")


@click.group(cls=Section)
def breaker() -> None:
    """Open, close or reset the breaker of a slot.

    It lives in the running service: say where that is with --url.
    """


@breaker.command("open")
@_slot
@_reason
@reachable
def force_open(options: Options, slot: str, reason: str) -> Exit:
    """Send nothing more to a slot until its breaker is reset, however well it is."""
    return _act(options, slot, lambda service: service.force_open(slot, reason))


@breaker.command("close")
@_slot
@_reason
@reachable
def force_closed(options: Options, slot: str, reason: str) -> Exit:
    """Send digests to a slot whatever fails there, until its breaker is reset."""
    return _act(options, slot, lambda service: service.force_closed(slot, reason))


@breaker.command()
@_slot
@reachable
def reset(options: Options, slot: str) -> Exit:
    """Let a slot's breaker decide again, with nothing counted."""
    return _act(options, slot, lambda service: service.reset_breaker(slot))


@click.command(cls=Command)
@_slot
@reachable
def unlatch(options: Options, slot: str) -> Exit:
    """Take a latched slot back into service, on probation.

    Its PIN file is read anew, and tried once: correct it first. It is about the running service: say where that is with
    --url.
    """
    return _act(options, slot, lambda service: service.unlatch(slot))


def _act(options: Options, slot: str, work: Callable[[Service], Awaitable[None]]) -> Exit:
    from manahsm.cli.opened import with_service  # noqa: PLC0415 - as above
    from manahsm.wire import plain  # noqa: PLC0415 - `--help` does not need it

    if options.url is None:
        raise click.UsageError("breakers and latches live in the running service: say where it is with --url")
    state = with_service(options, lambda service: act(service, slot, work))
    if options.json:
        write_json(plain(state))
    else:
        reason = f" ({state.reason})" if state.reason else ""
        say(f"slot {state.name}: {state.phase.value}, breaker {state.breaker.state.value}{reason}")
    return Exit.OK


async def act(service: Service, slot: str, work: Callable[[Service], Awaitable[None]]) -> SlotStatus:
    """Do it, and return how the slot is then."""
    await work(service)
    return next(one for one in (await service.status()).slots if one.name == slot)
