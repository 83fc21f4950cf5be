"""A service in a process that has just begun: ``fresh.py``, with a JSON object on standard input.

The one thing to know: the clock starts before ``import manahsm``, and what is printed, one JSON object, is times in
seconds and memory in bytes. The object has ``config``, ``backend``, ``signatures`` (0 for an idle service) and
``profile``, whether to print where the time of the start went, too.
"""

from __future__ import annotations

from time import perf_counter

_BEGAN = perf_counter()

import gc  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

KEY = "bench"
_CALLERS = 64
_SAMPLES = 50
_WARM_UP = 0.1  # of the signatures
_SETTLES = 0.5  # seconds


async def _main(asked: Mapping[str, Any]) -> dict[str, Any]:
    import anyio  # noqa: PLC0415

    import manahsm  # noqa: PLC0415

    imported = perf_counter()
    async with manahsm.open_service(asked["config"]) as service:
        opened = perf_counter()
        await service.sign_hash(bytes(31) + b"\1", KEY)
        signed = perf_counter()
        gc.freeze()
        found: dict[str, Any] = {
            "import": imported - _BEGAN,
            "open": opened - imported,
            "import to signature": signed - _BEGAN,
            "open to signature": signed - imported,
        }
        if asked["signatures"]:
            found["growth"] = await _grow(service, asked["signatures"])
        else:
            await service.filled()
            await anyio.sleep(_SETTLES)
            found["service"] = memory_of(os.getpid())
            found["hosts"] = [memory_of(host.pid) for slot in (await service.status()).slots for host in slot.hosts]
    return found


async def _grow(service: Any, signatures: int) -> list[tuple[int, int]]:
    """Sign, and look now and then: how many were signed, and what is resident. The warm-up is not looked at."""
    import anyio  # noqa: PLC0415

    done, begin = 0, int(_WARM_UP * signatures)
    step = max(1, signatures // _SAMPLES)
    seen: list[tuple[int, int]] = []
    transaction = {"gas": 21_000, "to": "0x" + "12" * 20, "maxFeePerGas": 10**9, "maxPriorityFeePerGas": 10**8}

    async def call() -> None:
        nonlocal done
        while done < begin + signatures:
            done += 1
            if done >= begin and (done - begin) % step == 0:
                seen.append((done - begin, memory_of(os.getpid())["rss"]))
            await service.sign_transaction({**transaction, "nonce": done, "value": done}, KEY, 1)

    async with anyio.create_task_group() as tasks:
        for _ in range(_CALLERS):
            tasks.start_soon(call)
    return seen


def memory_of(pid: int) -> dict[str, int]:
    """Resident bytes of a process, and its proportional share of those where the kernel tells (0 where it does not)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except PermissionError:
        rollup = ""
    shares = [int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")]
    return {"rss": pages * os.sysconf("SC_PAGE_SIZE"), "pss": sum(shares)}


def _run() -> None:
    asked = json.load(sys.stdin)
    logging.getLogger("manahsm").addHandler(logging.NullHandler())
    logging.getLogger("manahsm").propagate = False
    profile = None
    if asked["profile"]:
        import cProfile  # noqa: PLC0415

        profile = cProfile.Profile()
        profile.enable()
    import anyio  # noqa: PLC0415

    found = anyio.run(_main, asked, backend=asked["backend"])
    if profile is not None:
        profile.disable()
        profile.dump_stats(asked["profile"])
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    _run()
