"""Doing the same with many things, so many at once, with the results in their order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import TypeVar

import anyio

__all__ = ["each", "pieces"]

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


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


def pieces(sizes: Mapping[K, int], *, most: int, largest: int) -> list[list[K]]:
    """Cut what is in order into pieces of at most ``most`` items and ``largest`` in size; no item is cut (pure)."""
    cut: list[list[K]] = []
    room = 0
    for item, size in sizes.items():
        if not cut or size > room or len(cut[-1]) == most:
            cut.append([])
            room = largest
        cut[-1].append(item)
        room -= size
    return cut
