"""Reading from a child's pipe and writing to it, on either event loop.

The one thing to know: ``anyio.wait_readable`` registers a descriptor with the kernel and takes it out again for every
read, and wakes a task to do it. asyncio can call back instead, from the same place; trio can not, and is cheaper there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress

import anyio
from sniffio import current_async_library

__all__ = ["Outbox", "read_while_open"]


class Outbox:
    """What is on its way into a child's pipe. Where the child is dying, its exit is what tells.

    Args:
        descriptor: not blocking.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting = bytearray()
        self._news = anyio.Event()

    @property
    def waiting(self) -> int:
        """Bytes that wait."""
        return len(self._waiting)

    def write(self, data: bytes, *, at_once: bool = True) -> None:
        """Write what the pipe takes; the rest when it takes more.

        Args:
            data: whole, behind what waits already.
            at_once: otherwise in the loop's next turn, with all that others write until then.
        """
        empty = not self._waiting
        self._waiting += data
        if at_once:
            with suppress(OSError):
                self._write()
        if empty and self._waiting:
            self._news.set()

    async def serve(self) -> None:
        """Write what :meth:`write` has left, until cancelled or the child is dying."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            while self._waiting:
                try:
                    self._write()
                except BlockingIOError:
                    await anyio.wait_writable(self._descriptor)
                except OSError:
                    return

    def _write(self) -> None:
        del self._waiting[: os.write(self._descriptor, self._waiting)]


async def read_while_open(descriptor: int, read: Callable[[], bool]) -> None:
    """Call ``read`` each time there is something to read, until it returns ``False``.

    Args:
        descriptor: not blocking.
        read: reads some of what is there; what it leaves is reported again.

    Raises:
        Exception: what ``read`` raised.
    """
    if current_async_library() != "asyncio":
        await anyio.wait_readable(descriptor)
        while read():
            await anyio.wait_readable(descriptor)
        return
    loop, over = asyncio.get_running_loop(), anyio.Event()
    fault: Exception | None = None

    def readable() -> None:
        nonlocal fault
        try:
            goes_on = read()
        except Exception as error:  # noqa: BLE001 - raised again below, where somebody awaits it
            goes_on, fault = False, error
        if not goes_on:
            loop.remove_reader(descriptor)
            over.set()

    loop.add_reader(descriptor, readable)
    try:
        await over.wait()
    finally:
        loop.remove_reader(descriptor)
    if fault is not None:
        raise fault
