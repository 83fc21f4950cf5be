"""One HTTP connection: uvicorn's, with what it lacks for a service that must not be hurt by whom it talks to.

It says who is at the other end, lets the application cut it off, closes a connection that sends nothing for too long or
too large a head, and there is a limit to how many there are.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from manahsm.api.peers import PEER, Peer, peer_of
from manahsm.config.api_tables import Listener

__all__ = ["CUT_OFF", "Connection", "Limits"]

CUT_OFF = "manahsm.cut_off"
"""Where the scope of a request has what ends its connection at once, though what is sent has not been read."""

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
        self._late: asyncio.TimerHandle | None = None
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
        self._request_is_here()
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

    def on_message_complete(self) -> None:
        """The request is here; what follows is its answer."""
        self._head = 0
        self._request_is_here()
        super().on_message_complete()

    def _wait_for_request(self) -> None:
        self._request_is_here()
        self._late = self.loop.call_later(self._limits.idle, self._too_late)

    def _request_is_here(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


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
