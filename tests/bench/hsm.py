"""Measures of keys in a token: one session, two hosts, and how much longer than the call one signature takes.

The one thing to know: everybody signs with the same key of the same SoftHSM token. The floor is a C loop over
C_SignInit and C_Sign with one session, which does nothing else; a signature of ours is verified and recorded as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from time import perf_counter_ns

from bench.children import together
from bench.figures import Figure, Spread, against, at_least, at_most, each_rate, percentile, processor_times
from bench.heartbeat import Heartbeat
from bench.places import KEY, Bench, hosts_of
from bench.turns import contest, keep_busy
from services import digest_of

__all__ = ["hosts", "hsm", "latency"]

_ONE, _TWO = "C loop, 1 session", "C loop, 2 processes"
_WATCHED = "with heartbeat"
_CALLERS_OF_ONE = 8
_CALLERS = 64
_BLOCK, _SETTLING = 50, 5  # calls of a block, and how many more come first and do not count
_BLOCKS = 6  # of each in a round


async def hsm(bench: Bench) -> list[Figure]:
    """``sign_hash`` through one session in one host, kept busy by 8 callers."""
    async with bench.token_service(size=1, processes=1) as service:

        async def sign(number: int) -> None:
            await service.sign_hash(digest_of(number + 1), KEY)

        async def ours(seconds: float) -> float:
            return await keep_busy(sign, seconds, callers=_CALLERS_OF_ONE)

        with bench.c_loop() as c_loop, bench.pkcs11_loop() as python:
            name = "1 session"
            contestants = {_ONE: c_loop.rate, "python-pkcs11": python.rate, name: bench.profiler.over(ours)}
            found = await contest(contestants, bench.plan, others=await hosts_of(service))
    rates = found.rates
    return [
        against("hsm", rates, name, _ONE, at_least(0.95)),
        against("hsm", rates, name, "python-pkcs11"),
        *each_rate("hsm", rates),
        *processor_times("hsm", found.processor, (name,)),
        *processor_times("hsm", found.beside, (name,), of="its host"),
    ]


async def hosts(bench: Bench) -> list[Figure]:
    """``sign_hash`` through 8 sessions in 2 hosts, by 64 callers."""
    heart = Heartbeat()
    async with bench.token_service(size=8, processes=2) as service:

        async def sign(number: int) -> None:
            await service.sign_hash(digest_of(number + 1), KEY)

        async def ours(seconds: float) -> float:
            return await keep_busy(sign, seconds, callers=_CALLERS)

        with ExitStack() as stack:
            one, *pair = (stack.enter_context(bench.c_loop()) for _ in range(3))

            name = "2 hosts"
            found = await contest(
                {_ONE: one.rate, _TWO: together(pair), name: bench.profiler.over(ours), _WATCHED: heart.beside(ours)},
                bench.plan,
                others=await hosts_of(service),
            )
    rates = {each: found.rates[each] for each in found.rates if each != _WATCHED}
    return [
        against("hosts", rates, name, _ONE, at_least(1.4)),
        against("hosts", rates, _TWO, _ONE),
        against("hosts", rates, name, _TWO),
        *heart.figures("hosts"),
        *each_rate("hosts", rates),
        *processor_times("hosts", found.processor, (name,)),
        *processor_times("hosts", found.beside, (name,), of="its hosts"),
    ]


async def latency(bench: Bench) -> list[Figure]:
    """``sign_hash`` by one caller on an idle service: what one signature takes longer than the C call."""
    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    async with bench.token_service(size=1, processes=1) as service:

        async def calls(_: float) -> float:
            taken = []
            for number in range(_BLOCK + _SETTLING):
                began = perf_counter_ns()
                await service.sign_hash(digest_of(number + 1), KEY)
                taken.append((perf_counter_ns() - began) / 1e6)
            ours[-1] += taken[_SETTLING:]
            return sum(taken)

        block = bench.profiler.over(calls)

        with bench.c_loop() as c_loop:
            for _ in range(bench.plan.rounds + 1):
                ours.append([])
                theirs.append([])
                for _ in range(1 if bench.quick else _BLOCKS):
                    answer = await c_loop.ask(f"latency {_BLOCK + _SETTLING}")
                    theirs[-1] += [int(each) / 1e6 for each in answer.split()][_SETTLING:]
                    await block(0.0)
    return [
        _gain("p50", 50, ours[1:], theirs[1:], 0.25),
        _gain("p99", 99, ours[1:], theirs[1:], 1.0),
        *(
            _percentile(who, percent, blocks[1:])
            for percent in (50, 99)
            for who, blocks in (("one signature", ours), ("C call", theirs))
        ),
    ]


def _gain(
    name: str, percent: float, ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], most: float
) -> Figure:
    """What ours takes longer at this percentile: of all calls, with the differences of each round beside it."""
    by_round = [percentile(a, percent) - percentile(b, percent) for a, b in zip(ours, theirs, strict=True)]
    pooled = percentile(_joined(ours), percent) - percentile(_joined(theirs), percent)
    return Figure(
        measure="latency",
        name=f"one signature - C call, {name}",
        unit="ms",
        spread=Spread.of(by_round),
        pooled=pooled,
        target=at_most(most),
    )


def _percentile(who: str, percent: float, blocks: Sequence[Sequence[float]]) -> Figure:
    return Figure(
        measure="latency",
        name=f"{who}, p{percent:g}",
        unit="ms",
        spread=Spread.of(percentile(block, percent) for block in blocks),
        pooled=percentile(_joined(blocks), percent),
    )


def _joined(blocks: Sequence[Sequence[float]]) -> list[float]:
    return [each for block in blocks for each in block]
