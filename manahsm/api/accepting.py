"""Taking connections: uvicorn's protocol at every door, and an end that lets answers be sent.

The one thing to know: it listens on copies of the sockets, and closes only these.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
from uvicorn.server import ServerState

from manahsm.api.connection import Connection, Limits, make_config
from manahsm.api.sockets import BACKLOG, Door
from manahsm.config.api_tables import Api

__all__ = ["accepting"]

_GRACE = 2.0  # seconds for answers that are being sent when the service stops


@asynccontextmanager
async def accepting(
    api: Api,
    doors: tuple[Door, ...],
    app: Callable[..., Awaitable[None]],
    context_of: Callable[[Door], ssl.SSLContext | None],
) -> AsyncIterator[None]:
    """Take connections at every door; at the end let answers that are being made be sent, for a while."""
    settings, state = make_config(app, idle=api.idle_timeout), ServerState()
    limits = Limits(connections=api.max_connections, idle=api.idle_timeout)
    loop = asyncio.get_running_loop()
    servers = []
    try:
        for door in doors:
            protocol = partial(Connection, settings, state, door.listener, limits)
            copy = door.socket.dup()
            copy.setblocking(False)
            servers.append(await loop.create_server(protocol, sock=copy, ssl=context_of(door), backlog=BACKLOG))
        yield
    finally:
        for server in servers:
            server.close()
        with anyio.CancelScope(shield=True):
            await _finish(state)


async def _finish(state: ServerState) -> None:
    for connection in tuple(state.connections):
        connection.shutdown()  # closes it if it is idle, else after its answer
    if state.tasks:
        await asyncio.wait(tuple(state.tasks), timeout=_GRACE)
    for task in tuple(state.tasks):
        task.cancel()
    for connection in tuple(state.connections):
        connection.transport.abort()
    with anyio.move_on_after(_GRACE):
        while state.connections:  # noqa: ASYNC110 - each leaves in one of the loop's next rounds
            await asyncio.sleep(0)
