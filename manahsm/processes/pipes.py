"""Reading from a child's pipe, on either event loop.

The one thing to know: ``anyio.wait_readable`` registers a descriptor with the kernel and takes it out again for every
read, and wakes a task to do it. asyncio can call back instead, from the same place; trio can not, and is cheaper there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
from sniffio import current_async_library

__all__ = ["read_while_open"]


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
