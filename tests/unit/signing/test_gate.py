"""The front gate: who is inside may finish, and once it is closed nobody comes in."""

from __future__ import annotations

import anyio
import pytest

from manahsm.errors import ServiceStopping
from manahsm.signing.gate import Gate
from supervisors.testing import settle

pytestmark = pytest.mark.anyio


async def test_a_closed_gate_admits_nobody() -> None:
    gate = Gate()
    gate.close()
    with pytest.raises(ServiceStopping), gate.admit():
        pytest.fail("it was admitted")
    assert (gate.closed, gate.inside) == (True, 0)


async def test_one_who_fails_inside_has_left() -> None:
    gate = Gate()
    with pytest.raises(ZeroDivisionError), gate.admit():
        raise ZeroDivisionError
    assert gate.inside == 0


async def test_the_end_waits_for_the_last_one_inside() -> None:
    gate = Gate()
    events: list[str] = []
    leave = [anyio.Event(), anyio.Event()]

    async def visit(number: int) -> None:
        with gate.admit():
            await leave[number].wait()

    async def wait_for_the_end() -> None:
        await gate.empty()
        events.append("empty")

    async with anyio.create_task_group() as tasks:
        for number in range(2):
            tasks.start_soon(visit, number)
        await settle()
        gate.close()
        tasks.start_soon(wait_for_the_end)
        await settle()
        leave[0].set()
        await settle()
        assert (gate.inside, events) == (1, [])
        leave[1].set()
    assert (gate.inside, events) == (0, ["empty"])


async def test_an_empty_gate_is_waited_for_without_waiting() -> None:
    with anyio.fail_after(1):
        await Gate().empty()
