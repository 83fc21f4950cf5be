"""The task that serves HTTP: uvicorn's protocol on our sockets, on asyncio, wherever the service runs.

The one thing to know: sockets belong to whoever runs the service, and a server listens on copies of them, so one that
crashed is started again without a caller finding the port closed.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial

import anyio
import anyio.to_thread
import sniffio

from manahsm.api.accepting import accepting
from manahsm.api.app import Doors, make_app
from manahsm.api.behind import node_behind
from manahsm.api.dispatch import Dispatcher
from manahsm.api.gateway import Direct, Gateway
from manahsm.api.rest import Rest
from manahsm.api.sockets import Door, open_doors
from manahsm.api.table import methods_for
from manahsm.api.tls import Certificates
from manahsm.config.api_tables import Dialect
from manahsm.config.model import Config
from manahsm.errors import ConfigError
from manahsm.logs import get_logger
from manahsm.service import Service
from supervisors import ChildContext

__all__ = ["Server", "listening"]

_log = get_logger("manahsm.api")

_LOOK = 10.0  # seconds between two looks at the files of the certificate

Wait = Callable[[], Awaitable[object]]


@contextmanager
def listening(config: Config) -> Iterator[Server]:
    """Open the sockets and read the certificate, for as long as the context lasts.

    Raises:
        ConfigError: a socket can not be opened, or a file of the certificate can not be used.
    """
    certificates = Certificates(config.api.tls) if config.api.tls.certificate is not None else None
    with open_doors(config.api) as doors:
        yield Server(config, doors, certificates)


class Server:
    """Serves a service; made by :func:`listening`.

    Attributes:
        doors: where it listens.
    """

    def __init__(self, config: Config, doors: tuple[Door, ...], certificates: Certificates | None) -> None:
        self.doors = doors
        self._config = config
        self._certificates = certificates

    async def serve(self, service: Service, ctx: ChildContext) -> None:
        """Serve until it is told to stop: the body of a supervised task, one of the ``interfaces`` of a service."""
        if sniffio.current_async_library() == "asyncio":

            async def started() -> None:
                ctx.started()

            await self._serve(Direct(service), started, ctx.wait_stopping)
        else:
            await self._serve_beside(service, ctx)

    async def _serve_beside(self, service: Service, ctx: ChildContext) -> None:
        """Serve from an asyncio loop in a thread."""
        from manahsm.api.crossing import crossing  # noqa: PLC0415 - and trio, which nobody else needs

        async with crossing(service) as way:

            async def started(_service: Service) -> None:
                ctx.started()

            async def serve(stopping: Wait) -> None:
                await self._serve(way, partial(way.run, started), stopping)

            loop = _LoopInThread(serve)

            async def pass_on() -> None:
                try:
                    await ctx.wait_stopping()
                finally:
                    loop.stop()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pass_on)
                await anyio.to_thread.run_sync(loop.run)
                tasks.cancel_scope.cancel()

    async def _serve(self, gateway: Gateway, started: Wait, stopping: Wait) -> None:
        """Serve on this asyncio loop."""
        async with AsyncExitStack() as stack:
            doors = await self._doors(gateway, stack)
            app = make_app(self._config.api, doors)
            await stack.enter_async_context(accepting(self._config.api, self.doors, app, self._context_of))
            await started()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch_certificates)
                await stopping()
                tasks.cancel_scope.cancel()

    async def _doors(self, gateway: Gateway, stack: AsyncExitStack) -> Doors:
        config, api = self._config, self._config.api
        behind = await stack.enter_async_context(
            node_behind(api, gateway, request_timeout=config.service.request_timeout)
        )
        sending, forward = (behind.methods, behind.forward) if behind is not None else ({}, None)
        return Doors(
            rpc={
                dialects: Dispatcher(
                    methods_for(config, gateway, dialects, sending), forward=forward, max_batch=api.max_batch
                )
                for dialects in {door.listener.dialects for door in self.doors}
            },
            rest=Rest(gateway, reload=self._reload),
        )

    # ---- certificates ----

    def _context_of(self, door: Door) -> ssl.SSLContext | None:
        if self._certificates is None or door.listener.socket is not None:
            return None
        for_op_signer = door.listener.dialects == (Dialect.OP_SIGNER,)
        return self._certificates.context(ssl.TLSVersion.TLSv1_3 if for_op_signer else ssl.TLSVersion.TLSv1_2)

    async def _watch_certificates(self) -> None:
        while self._certificates is not None:
            await anyio.sleep(_LOOK)
            if self._certificates.changed():
                await self._reload()

    async def _reload(self) -> str:
        """Read the certificate anew; return what came of it."""
        if self._certificates is None:
            return "there is no certificate to reload"
        try:
            self._certificates.reload()
        except ConfigError as error:
            _log.error("certificate not reloaded, the one before stays", reason=str(error))
            return f"not reloaded, the certificate before stays: {error}"
        return "reloaded"


class _LoopInThread:
    """An asyncio loop that runs one thing, in a thread, until it is told to stop from another."""

    def __init__(self, main: Callable[[Wait], Awaitable[None]]) -> None:
        self._main = main
        self._lock = threading.Lock()
        self._stopped = False
        self._stop: Callable[[], object] | None = None

    def run(self) -> None:
        """Run it; returns or raises when it has ended."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        with self._lock:
            self._stop = lambda: loop.call_soon_threadsafe(stopping.set)
            if self._stopped:
                stopping.set()
        try:
            await self._main(stopping.wait)
        finally:
            with self._lock:
                self._stop = None

    def stop(self) -> None:
        """Tell it to end, whether it has begun or not."""
        with self._lock:
            self._stopped = True
            if self._stop is not None:
                self._stop()
