"""One HTTP connection: uvicorn's, with what it lacks for a service that must not be hurt by whom it talks to.

It says who is at the other end, lets the application cut it off, closes a connection that sends nothing for too long or
too large a head, and there is a limit to how many there are.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from weakref import ref

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from manahsm.api.peers import PEER, Peer, peer_of
from manahsm.config.api_tables import Listener

__all__ = ["CUT_OFF", "TOGETHER", "Connection", "Limits"]

CUT_OFF = "manahsm.cut_off"
"""Where the scope of a request has what ends its connection at once, though what is sent has not been read."""

TOGETHER = "manahsm.together"
"""Where it has what is called before the head of an answer with one body, so that both are written at once: a write is
a call of the system, which takes 10 us, and a packet in the network."""

_LONGEST_HEAD = 32_768  # bytes of a request line and its headers


class Limits:
    """What connections may take.

    Args:
        connections: how many there may be at once.
        idle: seconds in which a whole request must have come, from the last answer or the begin of the connection.
    """

    def __init__(self, *, connections: int, idle: float) -> None:
        self.connections = connections
        self.idle = idle


class Connection(HttpToolsProtocol):
    """A connection; see :class:`asyncio.Protocol`."""

    def __init__(self, config: Config, state: ServerState, listener: Listener, limits: Limits) -> None:
        super().__init__(config, state, {})
        self._listener = listener
        self._limits = limits
        self._peer: Peer | None = None
        self._due: float | None = None  # when the request that is awaited must be here
        self._timer: asyncio.TimerHandle | None = None
        self._head = 0  # bytes of this request's head so far; -1 while there is none to come

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, if there is room for it."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            transport.abort()
            return
        self._peer = peer_of(transport, self._listener)
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, as long as the head does not grow too large."""
        if self._head >= 0:
            self._head += len(data)
        before = self._head
        super().data_received(data)
        if before > _LONGEST_HEAD and self._head == before and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        """Put the peer where the application finds it."""
        super().on_message_begin()
        self.scope[PEER] = self._peer  # type: ignore[literal-required]
        self.scope[CUT_OFF] = self.transport.abort  # type: ignore[literal-required]
        self._wait_for_request()

    def on_headers_complete(self) -> None:
        """The head is here; what follows is limited by the application."""
        self._head = -1
        super().on_headers_complete()
        self.scope[TOGETHER] = partial(_write_together, ref(self.cycle))  # type: ignore[literal-required]

    def on_message_complete(self) -> None:
        """The request is here; what follows is its answer."""
        self._head = 0
        self._due = None
        super().on_message_complete()

    def _wait_for_request(self) -> None:
        """Give a request its time. A timer that runs is left to find out: one for each request took 4 us."""
        self._due = self.loop.time() + self._limits.idle
        if self._timer is None:
            self._timer = self.loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._due is None:
            return
        if self.loop.time() < self._due:
            self._timer = self.loop.call_at(self._due, self._look)
        elif not self.transport.is_closing():
            self.transport.abort()


class _Together:
    """A transport whose first write waits for the second."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._first: bytes | None = None
        self.close = transport.close
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if self._first is None:
            self._first = data
        else:
            self._transport.write(self._first + data)
            self._first = b""


def _write_together(reference: ref[RequestResponseCycle]) -> None:
    # The cycle has the scope that has this: were it held from here, only the garbage collector would end either, and a
    # request would take a tenth longer.
    cycle = reference()
    if cycle is not None:
        cycle.transport = _Together(cycle.transport)  # type: ignore[assignment]


def make_config(app: Any, *, idle: float) -> Config:
    """Uvicorn's settings: nothing but HTTP/1.1, no logs, no signals, no trust in headers about other addresses."""
    config = Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=int(idle),
    )
    config.load()
    return config
