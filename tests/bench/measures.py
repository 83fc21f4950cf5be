"""Every measure by its name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from bench.beginnings import memory, start
from bench.figures import Figure
from bench.hsm import hosts, hsm, latency
from bench.over_http import http
from bench.places import Bench
from bench.registries import keys
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
    "start": start,
    "memory": memory,
    "http": http,
    "keys": keys,
}
