"""Doing the same with many things, so many at once, with the results in their order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import anyio

__all__ = ["each"]

T = TypeVar("T")
R = TypeVar("R")


async def each(work: Callable[[T], Awaitable[R]], items: Iterable[T], *, at_once: int) -> list[R]:
    """Await ``work(item)`` for every item.

    Args:
        work: what to do; an exception of one cancels the others.
        items: in the order of their results.
        at_once: how many may be under way, 1 or more.
    """
    waiting = list(items)
    results: dict[int, R] = {}
    ahead = iter(enumerate(waiting))

    async def do_some() -> None:
        for position, item in ahead:
            results[position] = await work(item)

    async with anyio.create_task_group() as tasks:
        for _ in range(min(at_once, len(waiting))):
            tasks.start_soon(do_some)
    return [results[position] for position in range(len(waiting))]
