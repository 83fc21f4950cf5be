"""Waking one task once."""

from __future__ import annotations

import anyio
import pytest

from supervisors.testing import settle
from supervisors.wakeup import Wakeup, new_wakeup

pytestmark = pytest.mark.anyio


async def wait_for(wakeup: Wakeup, woken: list[str]) -> None:
    await wakeup.wait()
    woken.append("woken")


async def test_the_task_that_waits_is_woken_and_not_before() -> None:
    wakeup, woken = new_wakeup(), list[str]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for, wakeup, woken)
        await settle()
        assert woken == []
        wakeup.set()
    assert woken == ["woken"]


async def test_one_that_comes_later_does_not_wait() -> None:
    wakeup = new_wakeup()
    wakeup.set()
    with anyio.fail_after(5):
        await wakeup.wait()


async def test_setting_it_twice_is_harmless() -> None:
    wakeup, woken = new_wakeup(), list[str]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for, wakeup, woken)
        await settle()
        wakeup.set()
        wakeup.set()
    wakeup.set()
    assert woken == ["woken"]


async def test_a_task_can_be_cancelled_while_it_waits_and_setting_it_then_is_harmless() -> None:
    wakeup, woken = new_wakeup(), list[str]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for, wakeup, woken)
        await settle()
        tasks.cancel_scope.cancel()
    wakeup.set()
    await settle()
    assert woken == []


async def test_a_task_that_is_cancelled_already_does_not_wait() -> None:
    wakeup = new_wakeup()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await wakeup.wait()
    assert scope.cancelled_caught


async def test_set_and_cancelled_in_the_same_moment_ends_the_wait_once() -> None:
    wakeup, ended = new_wakeup(), list[str]()

    async def wait() -> None:
        try:
            await wakeup.wait()
        finally:
            ended.append("ended")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await settle()
        wakeup.set()
        tasks.cancel_scope.cancel()
    assert ended == ["ended"]
