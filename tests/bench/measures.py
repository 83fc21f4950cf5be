"""Every measure by its name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from bench.figures import Figure
from bench.hsm import hosts, hsm, latency
from bench.places import Bench
from bench.slow import slow
from bench.software import batch, software

__all__ = ["MEASURES"]

Measure = Callable[[Bench], Awaitable[list[Figure]]]

MEASURES: Mapping[str, Measure] = {
    "software": software,
    "batch": batch,
    "hsm": hsm,
    "hosts": hosts,
    "latency": latency,
    "slow": slow,
}
