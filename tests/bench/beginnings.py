"""Measures that need a process of their own each time: how long a start takes, and what a service takes of memory.

The one thing to know: files are in the page cache and byte code is compiled, as on a machine where the program was run
before. The token is the one of all measures, and the key is known to the registry.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread
from bench.children import HERE
from bench.contestants import PRIVATE_KEY
from bench.figures import Figure, Spread, at_most, slope
from bench.places import KEY, Bench, ensure_key, opened
from services import software_config

__all__ = ["begin", "begun", "memory", "start"]

_SESSIONS, _HOSTS = 8, 2
_STARTS = 9
_IDLE = 3  # idle services that are looked at
_MB = 1e6


async def begun(bench: Bench, config: Mapping[str, Any], *, signatures: int = 0) -> dict[str, Any]:
    """Run :mod:`bench.fresh` with a configuration and return what it printed."""
    return await anyio.to_thread.run_sync(begin, bench, config, signatures)


def begin(bench: Bench, config: Mapping[str, Any], signatures: int) -> dict[str, Any]:
    """The same, where nothing else has to go on meanwhile."""
    profile = str(bench.directory / "fresh.profile") if bench.profiler.wanted else None
    asked = {"config": config, "backend": bench.backend, "signatures": signatures, "profile": profile}
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-P", HERE / "fresh.py"],
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    if profile is not None:
        bench.profiler.load(Path(profile))
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def token_config(bench: Bench) -> dict[str, Any]:
    """Of a service with 8 sessions in 2 hosts that has run before."""
    config = bench.token_config(size=_SESSIONS, processes=_HOSTS)
    state = Path(config["hsm"]["state_dir"])
    if bench.state is not None:
        shutil.copytree(bench.state, state)
        return config
    small = {**config["hsm"], "connection_pool": {"size": 1, "processes": 1}}
    async with opened({"hsm": small}) as service:
        await ensure_key(service)
    bench.state = bench.place("state") / "state"
    shutil.copytree(state, bench.state)
    return config


async def start(bench: Bench) -> list[Figure]:
    """From a new process to the first signature by the token: 8 sessions in 2 hosts, on a warm machine."""
    config = await token_config(bench)
    await begun(bench, config)
    starts = [await begun(bench, config) for _ in range(1 if bench.quick else _STARTS)]

    def figure(name: str, most: float | None = None) -> Figure:
        spread = Spread.of(each[name] for each in starts)
        target = at_most(most) if most is not None else None
        return Figure(measure="start", name=name, unit="s", spread=spread, target=target)

    return [figure("import to signature", 1.0), figure("open to signature"), figure("import"), figure("open")]


async def memory(bench: Bench) -> list[Figure]:
    """What an idle service and its hosts take (8 sessions in 2 hosts), and how it grows with software signatures."""
    config = await token_config(bench)
    idle = [await begun(bench, config) for _ in range(1 if bench.quick else _IDLE)]
    hosts = [host for each in idle for host in each["hosts"]]
    figures = [
        _bytes("idle service, RSS", [each["service"]["rss"] for each in idle], 80),
        _bytes("idle service, PSS", [each["service"]["pss"] for each in idle]),
        _bytes("each host, RSS", [host["rss"] for host in hosts], 35),
        _bytes("each host, PSS", [host["pss"] for host in hosts]),
    ]
    signatures = 2_000 if bench.quick else bench.signatures
    software = software_config(bench.place("growth"))
    async with opened(software) as service:
        await service.import_key(PRIVATE_KEY, KEY, "transaction_signer", "software")
    seen = (await begun(bench, software, signatures=signatures))["growth"]
    counts, resident = [count for count, _ in seen], [rss for _, rss in seen]
    return [
        *figures,
        _bytes(f"growth over {signatures:,} signatures, RSS", [resident[-1] - resident[0]], 2),
        _bytes("growth over 1,000,000 by least squares, RSS", [slope(counts, resident) * 1e6]),
    ]


def _bytes(name: str, values: Sequence[float], most: float | None = None) -> Figure:
    target = at_most(most) if most is not None else None
    spread = Spread.of(value / _MB for value in values)
    return Figure(measure="memory", name=name, unit="MB", spread=spread, target=target)
