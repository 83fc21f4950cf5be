"""The measure of a token that takes its time: 10 ms a signature, as many at once as there are sessions.

The one thing to know: the delay is the fault module's, and SoftHSM's own work would keep two processors busy at 6,400
signatures a second, which a device on a network does not. So the module recalls what it has signed before (``recall``
in p11fault.c): 256 digests are signed again and again, and a call takes 10 ms and next to no processor.
"""

from __future__ import annotations

from contextlib import ExitStack

from attrs import evolve
from bench.children import together
from bench.figures import Figure, Spread, at_least, each_rate, processor_times
from bench.heartbeat import Heartbeat
from bench.places import KEY, Bench, hosts_of
from bench.turns import contest, keep_busy
from p11fault import FaultModule
from p11fault_rules import Delay, Recall
from services import digest_of

__all__ = ["slow"]

_DELAY = 10.0  # milliseconds
_TARGETS = {16: 0.95, 32: 0.95, 64: 0.9}
_HOSTS = 2
_DIGESTS = 256
_CALLERS = 2  # for each session, so that one waits where one is answered
_LONGER = 3  # times the turns of other measures, because so little happens in one


async def slow(bench: Bench) -> list[Figure]:
    """``sign_hash`` through 16, 32 and 64 sessions in 2 hosts, where each call takes 10 ms."""
    figures: list[Figure] = []
    with FaultModule.over(bench.token(), bench.place("slow") / "control") as module:
        async with bench.token_service(size=1, processes=1):
            pass  # the key is there now
        module.set(Delay("C_Sign", _DELAY), Recall())
        for sessions, bound in list(_TARGETS.items())[: 1 if bench.quick else None]:
            figures += await _with(bench, module, sessions, bound)
    return figures


async def _with(bench: Bench, module: FaultModule, sessions: int, bound: float) -> list[Figure]:
    heart = Heartbeat()
    name, c_name, watched = f"{sessions} sessions", f"C loop, {sessions} sessions", f"{sessions} with heartbeat"
    async with bench.token_service(size=sessions, processes=_HOSTS, **module.config_changes()) as service:

        async def sign(number: int) -> None:
            await service.sign_hash(digest_of(number % _DIGESTS + 1), KEY)

        async def ours(seconds: float) -> float:
            return await keep_busy(sign, seconds, callers=_CALLERS * sessions)

        with ExitStack() as stack:
            loops = [
                stack.enter_context(bench.c_loop(sessions // _HOSTS, module.library, **module.environment))
                for _ in range(_HOSTS)
            ]
            plan = evolve(bench.plan, rounds=max(2, bench.plan.rounds // 2), seconds=_LONGER * bench.plan.seconds)
            found = await contest(
                {c_name: together(loops), name: bench.profiler.over(ours), watched: heart.beside(ours)},
                plan,
                others=await hosts_of(service),
            )
    ideal = sessions * 1000 / _DELAY
    rates = {each: found.rates[each] for each in (c_name, name)}
    return [
        Figure(
            measure="slow",
            name=f"{each} / {ideal:,.0f} a second",
            unit="x",
            spread=Spread.of(rate / ideal for rate in found.rates[each]),
            target=target,
        )
        for each, target in ((name, at_least(bound)), (c_name, None))
    ] + [
        *(evolve(figure, name=f"{name}, {figure.name}") for figure in heart.figures("slow")),
        *each_rate("slow", rates),
        *processor_times("slow", found.processor, (name,)),
        *processor_times("slow", found.beside, (name,), of="its hosts"),
    ]
