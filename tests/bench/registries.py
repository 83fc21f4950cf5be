"""The measure of cost as keys grow: look-ups, the start and memory with few keys and with many in the registry.

The one thing to know: the rows are written by the registry's own store in one transaction, with public keys that are
points of the curve; they are software keys that nobody signs with. The key that signs is the token's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
from bench.beginnings import begun, token_config
from bench.figures import Figure, Spread, at_most
from bench.places import Bench, opened
from bench.turns import contest, loop_in_turns
from coincurve import PrivateKey

from manahsm.ethereum.signatures import address_of, key_id_of, public_key_of
from manahsm.keys.index import Change
from manahsm.keys.registry import KeyRegistry
from manahsm.keys.store import KeyStore
from manahsm.requests import Backend, KeyInfo, Role

__all__ = ["keys"]

_SIZES = (10, 1_000, 100_000)
_QUICK = (10, 1_000)
_STARTS = 3
_FLAT = 1.0  # microseconds that a look-up may take longer among many keys: a fortieth of a software signature
_REFERENCES = 1024
_BEAT = 0.001

_BY: dict[str, Callable[[KeyInfo], str]] = {
    "id": lambda key: key.key_id,
    "label": lambda key: key.label,
    "address": lambda key: key.address,
}


async def keys(bench: Bench) -> list[Figure]:
    """10, 1,000 and 100,000 keys in the registry: look-ups, the start to the first signature, and memory."""
    sizes = _QUICK if bench.quick else _SIZES
    made = [_key(number) for number in range(sizes[-1])]
    configs = []
    for size in sizes:
        config = await token_config(bench)
        _store(Path(config["hsm"]["state_dir"]) / "registry.sqlite3", made[:size])
        configs.append(config)
    figures = await _look_ups(bench, sizes, configs, made)
    figures += await _starts(bench, sizes, configs)
    figures.append(await _health_check(sizes[0], configs[0]))
    figures.append(await _health_check(sizes[-1], configs[-1]))
    return figures


def _key(number: int) -> KeyInfo:
    public_key = public_key_of(PrivateKey.from_int(number + 1))
    return KeyInfo(
        key_id=key_id_of(public_key),
        address=address_of(public_key),
        public_key=public_key,
        label=f"key-{number}",
        role=Role.TRANSACTION_SIGNER,
        backend=Backend.SOFTWARE,
        created_at=datetime.now(UTC),
    )


def _store(path: Path, made: Sequence[KeyInfo]) -> None:
    store = KeyStore.open(path)
    try:
        store.commit(Change(put=tuple(made), result=None))
    finally:
        store.close()


async def _look_ups(
    bench: Bench, sizes: Sequence[int], configs: Sequence[dict[str, Any]], made: Sequence[KeyInfo]
) -> list[Figure]:
    """The registries open side by side, each asked for the same number of its own keys in no order."""
    figures = []
    dice = random.Random(1)  # noqa: S311 - not for cryptography
    async with AsyncExitStack() as stack:
        registries = []
        for config in configs:
            path = Path(config["hsm"]["state_dir"]) / "registry.sqlite3"
            registries.append(await stack.enter_async_context(KeyRegistry.open(path)))
        for name, reference in _BY.items():
            contestants = {}
            for size, registry in zip(sizes, registries, strict=True):
                asked = [reference(dice.choice(made[:size])) for _ in range(_REFERENCES)]
                contestants[f"{size:,} keys"] = loop_in_turns(_look_up(registry, asked))
            found = (await contest(contestants, bench.plan)).rates
            few, *others = ([1e6 / _REFERENCES / rate for rate in rates] for rates in found.values())
            figures += [
                Figure(measure="keys", name=f"look-up by {name}, {who}", unit="us", spread=Spread.of(times))
                for who, times in zip(found, (few, *others), strict=True)
            ]
            longer = Spread.of(many - one for many, one in zip(others[-1], few, strict=True))
            what = f"look-up by {name}, longer among {sizes[-1]:,} keys"
            figures.append(Figure(measure="keys", name=what, unit="us", spread=longer, target=at_most(_FLAT)))
    return figures


def _look_up(registry: KeyRegistry, references: Sequence[str]) -> Callable[[int], object]:
    """All references, one after the other: what is counted is a thousand look-ups."""
    resolve = registry.resolve

    def work(_: int) -> None:
        for reference in references:
            resolve(reference)

    return work


async def _starts(bench: Bench, sizes: Sequence[int], configs: Sequence[dict[str, Any]]) -> list[Figure]:
    rounds: list[list[dict[str, Any]]] = []
    for config in () if bench.quick else configs:
        await begun(bench, config)
    for _ in range(1 if bench.quick else _STARTS):
        rounds.append([await begun(bench, config) for config in configs])  # noqa: PERF401 - one after the other
    figures = []
    for place, size in enumerate(sizes):
        taken = Spread.of(each[place]["import to signature"] for each in rounds)
        target = at_most(2.0) if place == len(sizes) - 1 else None
        name = f"import to signature, {size:,} keys"
        figures.append(Figure(measure="keys", name=name, unit="s", spread=taken, target=target))
        resident = Spread.of(each[place]["service"]["rss"] / 1e6 for each in rounds)
        figures.append(Figure(measure="keys", name=f"idle service, RSS, {size:,} keys", unit="MB", spread=resident))
    added = Spread.of(
        (each[-1]["service"]["rss"] - each[0]["service"]["rss"]) / (sizes[-1] - sizes[0]) for each in rounds
    )
    return [*figures, Figure(measure="keys", name="memory added by a key, RSS", unit="bytes", spread=added)]


async def _health_check(size: int, config: dict[str, Any]) -> Figure:
    """How long the loop is kept by a look at everything, which happens every half minute."""
    latest = []
    async with opened(config) as service:
        await service.trigger_health_check()
        for _ in range(3):
            late = 0.0
            async with anyio.create_task_group() as tasks:

                async def beat() -> None:
                    nonlocal late
                    while True:
                        due = time.perf_counter() + _BEAT
                        await anyio.sleep(_BEAT)
                        late = max(late, time.perf_counter() - due)

                tasks.start_soon(beat)
                await anyio.sleep(10 * _BEAT)
                await service.trigger_health_check()
                await anyio.sleep(2 * _BEAT)
                tasks.cancel_scope.cancel()
            latest.append(late * 1000)
    return Figure(
        measure="keys",
        name=f"1 ms heartbeat beside a health check, latest, {size:,} keys",
        unit="ms",
        spread=Spread.of(latest),
    )
