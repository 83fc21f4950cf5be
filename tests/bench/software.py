"""Measures of software keys: many callers, one caller, the channel and batches, against those who do without us."""

from __future__ import annotations

from contextlib import ExitStack
from time import perf_counter

import anyio
from bench.contestants import CHAIN_ID, TRANSACTIONS, eth_account_loop, node_signer, plain_loop
from bench.figures import Figure, against, at_least, each_rate, processor_times
from bench.heartbeat import Heartbeat
from bench.places import KEY, Bench
from bench.turns import Contestant, Window, contest, keep_busy, loop_in_turns

import manahsm

__all__ = ["batch", "software"]

_CALLERS = 64
_AHEAD = 64  # requests under way in the channel
_PLAIN, _ETH_ACCOUNT, _WATCHED = "plain loop", "eth-account", "with heartbeat"


async def software(bench: Bench) -> list[Figure]:
    """``sign_transaction`` (1559) with a software key, by 64 callers at once."""
    heart = Heartbeat()
    async with bench.software_service() as service:

        async def sign(number: int) -> None:
            await service.sign_transaction(TRANSACTIONS[number % len(TRANSACTIONS)], KEY, CHAIN_ID)

        async def many(seconds: float) -> float:
            return await keep_busy(sign, seconds, callers=_CALLERS)

        async def one(seconds: float) -> float:
            return await keep_busy(sign, seconds)

        async def through_channel(seconds: float) -> float:
            return await _channel(service, seconds)

        with ExitStack() as stack:
            ours = {
                "64 callers": bench.profiler.over(many),
                _WATCHED: heart.beside(many),
                "channel": through_channel,
                "one caller": one,
            }
            found = await contest({**_others(stack), **ours}, bench.plan)
    rates = {name: found.rates[name] for name in found.rates if name != _WATCHED}
    return [
        against("software", rates, "64 callers", _PLAIN, at_least(0.5)),
        against("software", rates, "64 callers", _ETH_ACCOUNT, at_least(5)),
        *(against("software", rates, "64 callers", name) for name in ("viem", "ethers") if name in rates),
        against("software", rates, "channel", _PLAIN),
        against("software", rates, "one caller", _PLAIN),
        *heart.figures("software"),
        *each_rate("software", rates),
        *processor_times("software", found.processor, ("64 callers", "channel", "one caller", _PLAIN, _ETH_ACCOUNT)),
    ]


async def batch(bench: Bench) -> list[Figure]:
    """``batch_sign_transactions`` of 1,000 with a software key."""
    heart = Heartbeat()
    batch = TRANSACTIONS[:100] if bench.quick else TRANSACTIONS
    async with bench.software_service() as service:

        async def sign(_: int) -> None:
            results = await service.batch_sign_transactions(batch, KEY, CHAIN_ID)
            assert all(isinstance(each, manahsm.SignedTransaction) for each in results)

        async def batches(seconds: float) -> float:
            return await keep_busy(sign, seconds, count=len(batch))

        with ExitStack() as stack:
            others = _others(stack, node=False)
            ours = {"batch": bench.profiler.over(batches), _WATCHED: heart.beside(batches)}
            found = await contest({**others, **ours}, bench.plan)
    rates = {name: found.rates[name] for name in found.rates if name != _WATCHED}
    return [
        against("batch", rates, "batch", _PLAIN, at_least(0.75)),
        against("batch", rates, "batch", _ETH_ACCOUNT, at_least(8)),
        *heart.figures("batch"),
        *each_rate("batch", rates),
        *processor_times("batch", found.processor, ("batch", _PLAIN, _ETH_ACCOUNT)),
    ]


def _others(stack: ExitStack, *, node: bool = True) -> dict[str, Contestant]:
    found = {_PLAIN: loop_in_turns(plain_loop()), _ETH_ACCOUNT: loop_in_turns(eth_account_loop())}
    for library in ("viem", "ethers") if node else ():
        child = node_signer(library)
        if child is not None:
            found[library] = stack.enter_context(child).rate
    return found


async def _channel(service: manahsm.Service, seconds: float) -> float:
    """One task sends as long as there is time, another receives."""
    window = Window.of(seconds)
    async with service.open_channel(capacity=_AHEAD) as channel, anyio.create_task_group() as tasks:

        async def send() -> None:
            number = 0
            while perf_counter() < window.end:
                tx = TRANSACTIONS[number % len(TRANSACTIONS)]
                await channel.send(manahsm.SignRequest.transaction(tx, KEY, chain_id=CHAIN_ID))
                number += 1
            channel.finish()

        tasks.start_soon(send)
        async for outcome in channel:
            outcome.unwrap()
            window.finished(perf_counter())
    return window.rate
