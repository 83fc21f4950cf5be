"""The HTTP endpoint for Prometheus and probes: ``/metrics``, ``/livez``, ``/readyz``, ``/healthz``.

The one thing to know: it must never hurt the service. One request a connection, a few connections at once (others wait
in the kernel's queue), limits on what is read and on how long a connection may take, and no fault of a client or of a
page ends more than its own connection. HTTP/1.1 is h11's; the sockets are anyio's, so it is the same on both loops.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import anyio
import h11
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import SocketAttribute, SocketListener, SocketStream

from manahsm.config.addresses import is_loopback
from manahsm.config.listening import port_problem
from manahsm.config.tables import MetricsEndpoint
from manahsm.errors import ConfigError
from manahsm.logs import get_logger
from manahsm.monitoring.answers import Answer, Pages, answer_to
from supervisors import ChildContext, Clock

__all__ = ["CONNECTIONS", "Endpoint", "listening"]

_log = get_logger("manahsm.endpoint")

CONNECTIONS = 16
_LONGEST_REQUEST = 8192  # bytes of the request line and all headers
_TIME = 10.0  # seconds for a connection, from its begin to its end
_LINGER = 1.0  # seconds for the client to take the answer and close
_LONGEST_LINGER = 65536  # bytes that are read and thrown away meanwhile
_PAUSE = 1.0  # seconds without accepting after the system had no descriptor or memory for a connection
_GONE = (BrokenResourceError, ClosedResourceError, EndOfStream, OSError)


class Endpoint:
    """Sockets that are open. Made by :func:`listening`.

    Args:
        listeners: not closed here, so a task that serves them can be restarted.
        loopback_only: refuse requests that name another host than a loopback one.
    """

    def __init__(self, listeners: list[SocketListener], *, loopback_only: bool) -> None:
        self._listeners = listeners
        self._loopback_only = loopback_only

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Addresses and ports that it listens on."""
        sockets = (listener.extra(SocketAttribute.raw_socket) for listener in self._listeners)  # noqa: S610 - no Django
        names = (socket.getsockname() for socket in sockets)
        return tuple((name[0], name[1]) for name in names)

    async def serve(self, pages: Pages, ctx: ChildContext) -> None:
        """Serve until cancelled: the body of a supervised task, once ``pages`` are bound.

        Args:
            pages: what to serve, by path.
            ctx: of the task.
        """
        ctx.started()
        server = _Server(pages, ctx.clock, loopback_only=self._loopback_only)
        async with anyio.create_task_group() as tasks:
            for listener in self._listeners:
                tasks.start_soon(server.accept, listener)


class _Server:
    """Serves pages for as long as one task runs."""

    def __init__(self, pages: Pages, clock: Clock, *, loopback_only: bool) -> None:
        self._pages = pages
        self._clock = clock
        self._loopback_only = loopback_only
        self._room = anyio.Semaphore(CONNECTIONS)

    async def accept(self, listener: SocketListener) -> None:
        """Take connections and serve each in a task of its own."""
        async with anyio.create_task_group() as tasks:
            while True:
                await self._room.acquire()
                try:
                    stream = await listener.accept()
                except (OSError, BrokenResourceError) as error:  # on trio, the second stands for the first
                    self._room.release()
                    _log.warning("no connection accepted", reason=str(error.__cause__ or error))
                    await self._clock.sleep(_PAUSE)
                except BaseException:
                    self._room.release()
                    raise
                else:
                    tasks.start_soon(self._serve, stream)

    async def _serve(self, stream: SocketStream) -> None:
        try:
            with self._clock.move_on_after(_TIME):
                await self._converse(stream)
        except _GONE:
            pass  # a client may leave when it likes
        except Exception:  # noqa: BLE001 - a fault of ours here is no reason to stop serving others
            _log.exception("connection failed")
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)
            self._room.release()

    async def _converse(self, stream: SocketStream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_LONGEST_REQUEST)
        request: h11.Request | None = None
        try:
            request = await _read_request(connection, stream)
        except h11.RemoteProtocolError as error:
            answer = Answer.text(HTTPStatus(error.error_status_hint), "this is no HTTP request that is served here")
        else:
            if request is None:
                return
            answer = self._answer(request)
        head = request is not None and request.method == b"HEAD"
        await stream.send(_encode(connection, answer, head=head))
        await stream.send_eof()
        # Closing with something unread would reset the connection, and the answer could be lost.
        with self._clock.move_on_after(_LINGER):
            left = _LONGEST_LINGER
            while left > 0:
                left -= len(await stream.receive(left))

    def _answer(self, request: h11.Request) -> Answer:
        hosts = [value.decode("latin-1") for name, value in request.headers if name == b"host"]
        try:
            return answer_to(
                request.method.decode("ascii"),
                request.target.decode("latin-1"),
                hosts[0] if hosts else None,
                self._pages,
                loopback_only=self._loopback_only,
            )
        except Exception:  # noqa: BLE001 - a fault of a page is no reason to stop serving the others
            _log.exception("page failed", target=request.target[:64].decode("latin-1"))
            return Answer.text(HTTPStatus.INTERNAL_SERVER_ERROR, "this page failed; the log says why")


async def _read_request(connection: h11.Connection, stream: SocketStream) -> h11.Request | None:
    """Read a request's head; ``None`` where the client left without one. A body is nothing that is served here."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        try:
            received = await stream.receive(_LONGEST_REQUEST)
        except EndOfStream:
            received = b""
        connection.receive_data(received)


def _encode(connection: h11.Connection, answer: Answer, *, head: bool) -> bytes:
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Connection", "close"),
        *answer.headers,
    ]
    reason = answer.status.phrase
    parts = [
        connection.send(h11.Response(status_code=answer.status, headers=headers, reason=reason)),
        b"" if head else connection.send(h11.Data(data=answer.body)),
        connection.send(h11.EndOfMessage()),
    ]
    return b"".join(part for part in parts if part)


# ---- sockets ----


@asynccontextmanager
async def listening(options: MetricsEndpoint) -> AsyncIterator[Endpoint]:
    """Open the sockets for as long as the context lasts.

    Args:
        options: the table ``monitoring.metrics``, with a port.

    Raises:
        ConfigError: it can not listen there: the port is in use, the address is not of this machine, ...
    """
    assert options.port is not None  # noqa: S101 - whoever calls this has looked
    try:
        sockets = await anyio.create_tcp_listener(local_host=options.host, local_port=options.port)
    except OSError as error:
        raise ConfigError([port_problem(error, "hsm.monitoring.metrics", options.host, options.port)]) from error
    async with sockets:
        listeners = [listener for listener in sockets.listeners if isinstance(listener, SocketListener)]
        endpoint = Endpoint(listeners, loopback_only=is_loopback(options.host))
        for address, port in endpoint.addresses:
            _log.info("metrics endpoint", address=address, port=port)
        yield endpoint
