"""``manahsm top``: the view of ``status``, again and again; ``q`` ends it.

The one thing to know: with ``--json`` it writes one document a line, so that a program can follow it.
"""

from __future__ import annotations

import json
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from manahsm.cli.failures import Exit
from manahsm.cli.options import Command, Options, reachable
from manahsm.cli.output import console

if TYPE_CHECKING:
    from manahsm.service import Service

__all__ = ["top"]

_QUIT = frozenset(b"qQ\x03\x04")  # control-C and control-D come as characters where the terminal does not act on them


@click.command(cls=Command)
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@click.option("--once", is_flag=True, help="Show it once, without taking the terminal over.")
@reachable
def top(options: Options, interval: float, once: bool) -> Exit:
    """Watch a service; q ends it."""
    from manahsm.cli.opened import with_service  # noqa: PLC0415 - `--help` does not need it
    from manahsm.cli.snapshot import settle_in  # noqa: PLC0415 - as above

    async def watch(service: Service) -> None:
        await settle_in(service, options)
        if once or options.json:
            await _write(service, interval, as_json=options.json, once=once)
        else:
            await _live(service, interval)

    with_service(options, watch)
    return Exit.OK


async def _write(service: Service, interval: float, *, as_json: bool, once: bool) -> None:
    import anyio  # noqa: PLC0415 - as above

    from manahsm.cli.snapshot import look  # noqa: PLC0415 - as above
    from manahsm.cli.view import render  # noqa: PLC0415 - as above
    from manahsm.wire import plain  # noqa: PLC0415 - as above

    while True:
        seen = await look(service)
        if as_json:
            click.echo(json.dumps(plain(seen)))
        else:
            console().print(render(seen))
        if once:
            return
        await anyio.sleep(interval)


async def _live(service: Service, interval: float) -> None:
    import anyio  # noqa: PLC0415 - as above
    from rich.live import Live  # noqa: PLC0415 - as above

    from manahsm.cli.snapshot import look  # noqa: PLC0415 - as above
    from manahsm.cli.view import render  # noqa: PLC0415 - as above

    keys = sys.stdin.isatty()
    footer = f"every {interval:g} s; q ends" if keys else f"every {interval:g} s; control-C ends"

    with Live(console=console(), screen=sys.stdout.isatty(), auto_refresh=False) as live, _key_by_key():
        async with anyio.create_task_group() as tasks:
            if keys:
                tasks.start_soon(_wait_for_quit, tasks.cancel_scope.cancel)
            while True:
                live.update(render(await look(service), footer=footer), refresh=True)
                await anyio.sleep(interval)


async def _wait_for_quit(end: Callable[[], None]) -> None:
    import anyio  # noqa: PLC0415 - as above

    while True:
        await anyio.wait_readable(sys.stdin)
        pressed = os.read(sys.stdin.fileno(), 64)
        if not pressed or _QUIT.intersection(pressed):
            end()
            return


@contextmanager
def _key_by_key() -> Iterator[None]:
    """Let the terminal hand over each key as it is pressed, and show none of them."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
