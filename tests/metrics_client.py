"""Asks a running service for its metrics as Prometheus does, over HTTP."""

from __future__ import annotations

import http.client
import json
from typing import Any

import anyio.to_thread
from attrs import frozen
from exposition import Samples, samples_of

import manahsm

__all__ = ["METRICS", "Scrape", "scrape", "value_of"]

METRICS = {"monitoring": {"metrics": {"port": 0}}}
"""For a configuration: an endpoint on a port that the system chooses."""


@frozen
class Scrape:
    """An answer over HTTP."""

    status: int
    content_type: str
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def samples(self) -> Samples:
        return samples_of(self.text)


async def scrape(service: manahsm.Service, path: str = "/metrics") -> Scrape:
    """Ask the endpoint of a service that runs in this loop."""
    host, port = service.metrics_address or ("", 0)
    return await anyio.to_thread.run_sync(_get, host, port, path)


def _get(host: str, port: int, path: str) -> Scrape:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return Scrape(answer.status, answer.headers["Content-Type"], answer.read().decode())
    finally:
        connection.close()


def value_of(samples: Samples, metric: str, **labels: str) -> float:
    """The sum of every series of a metric that has these labels."""
    wanted = set(labels.items())
    found = [value for (name, its), value in samples.items() if name == metric and wanted <= its]
    assert found, f"no series {metric} {labels}"
    return sum(found)
