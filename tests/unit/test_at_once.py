"""The same with many things: in order, and never too many at once."""

from __future__ import annotations

import anyio
import pytest

from manahsm.at_once import each, pieces


@pytest.mark.anyio
@pytest.mark.parametrize(("count", "at_once"), [(0, 4), (1, 4), (9, 4), (9, 1), (3, 100)])
async def test_results_are_in_order_however_they_come(count: int, at_once: int) -> None:
    under_way = most = 0

    async def work(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(count - number):  # the later ones are quicker
            await anyio.lowlevel.checkpoint()
        under_way -= 1
        return number * number

    assert await each(work, iter(range(count)), at_once=at_once) == [number * number for number in range(count)]
    assert most == min(count, at_once)


@pytest.mark.anyio
async def test_a_fault_of_one_ends_all() -> None:
    async def work(number: int) -> None:
        if number == 2:
            raise LookupError
        await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await each(work, range(5), at_once=5)
    assert caught.group_contains(LookupError)


@pytest.mark.parametrize(
    ("sizes", "cut"),
    [
        ([], []),
        ([1, 1, 1], [[0, 1, 2]]),
        ([1, 1, 1, 1], [[0, 1, 2], [3]]),
        ([6, 4, 1], [[0, 1], [2]]),
        ([11, 1], [[0], [1]]),
        ([1, 11, 1], [[0], [1], [2]]),
    ],
)
def test_pieces_are_neither_too_many_nor_too_large(sizes: list[int], cut: list[list[int]]) -> None:
    assert pieces(dict(enumerate(sizes)), most=3, largest=10) == cut
