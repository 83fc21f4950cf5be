"""Calls of our own to a node that was asked too much: waited out, never beyond the deadline of the request."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from manahsm.api.calls import RPCError
from manahsm.api.downstream import Throttled, seconds_to_wait
from manahsm.api.patience import Patient
from supervisors.testing import ManualClock

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@define
class Busy:
    """A node that was asked too much for a number of times."""

    refusals: int
    retry_after: float | None = None
    error: Exception | None = None
    asked_at: list[float] = field(factory=list)
    clock: ManualClock = field(factory=ManualClock)

    async def call(self, method: str, _params: Any) -> str:
        self.asked_at.append(self.clock.now())
        if len(self.asked_at) <= self.refusals:
            raise self.error or Throttled(-32005, "slow down", retry_after=self.retry_after)
        return method


async def ask(busy: Busy, *, within: float | None) -> list[Any]:
    """Ask, for as long as a minute takes; returns the result or the error, if it came to one."""
    ended: list[Any] = []
    patient = Patient(busy, clock=busy.clock)

    async def call() -> None:
        try:
            if within is None:
                ended.append(await patient.call("eth_chainId", []))
            else:
                with patient.until(busy.clock.now() + within):
                    ended.append(await patient.call("eth_chainId", []))
        except RPCError as error:
            ended.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await busy.clock.run_for(60)
        tasks.cancel_scope.cancel()
    return ended


async def test_a_node_that_says_when_to_come_back_is_asked_then() -> None:
    busy = Busy(refusals=2, retry_after=7.0)
    assert await ask(busy, within=30) == ["eth_chainId"]
    assert [at - busy.asked_at[0] for at in busy.asked_at] == [0, 7, 14]


async def test_a_node_that_does_not_say_is_asked_less_and_less_often() -> None:
    busy = Busy(refusals=5)
    assert await ask(busy, within=60) == ["eth_chainId"]
    waits = [after - before for before, after in zip(busy.asked_at, busy.asked_at[1:], strict=False)]
    assert all(2**n / 4 <= wait <= 2**n / 2 for n, wait in enumerate(waits))


async def test_a_node_that_says_at_once_is_not_asked_at_once() -> None:
    busy = Busy(refusals=1, retry_after=0.0)
    await ask(busy, within=30)
    assert busy.asked_at[1] - busy.asked_at[0] >= 0.25


async def test_nobody_waits_for_what_comes_after_the_deadline() -> None:
    busy = Busy(refusals=9, retry_after=30.0)
    (error,) = await ask(busy, within=30)
    assert isinstance(error, Throttled)
    assert len(busy.asked_at) == 1


async def test_without_a_deadline_a_refusal_is_one() -> None:
    (error,) = await ask(Busy(refusals=1, retry_after=0.1), within=None)
    assert isinstance(error, Throttled)


async def test_another_error_is_not_waited_out() -> None:
    busy = Busy(refusals=1, error=RPCError(3, "execution reverted"))
    (error,) = await ask(busy, within=30)
    assert error is busy.error


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("Thu, 01 Jan 2026 12:00:05 GMT", 5.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2026 13:00:05 +0100", 5.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("\u0663", None),
        ("9" * 400, None),
        ("soon", None),
    ],
)
def test_when_to_come_back_is_read_in_both_forms(text: str, seconds: float | None) -> None:
    assert seconds_to_wait(text, NOW) == seconds


@given(st.text() | st.from_regex(r"\w{3}, \d{1,9} \w{3} \d{1,9} \d{2}:\d{2}:\d{2} ?[+-]?\d{0,9}"))
def test_any_text_is_a_time_to_wait_or_none(text: str) -> None:
    read: Callable[..., float | None] = seconds_to_wait
    waits = read(text, NOW)
    assert waits is None or waits >= 0
