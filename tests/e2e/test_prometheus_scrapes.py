"""A Prometheus of Debian's scrapes a running service with the configuration that operators load."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import anyio.to_thread
import pytest
from debian_servers import debian_server, free_port
from metrics_client import METRICS
from services import A_PRIVATE_KEY, config_for, digest_of
from softhsm import SoftHSMToken

import manahsm

pytestmark = pytest.mark.anyio

CONFIG = Path(__file__).parents[2] / "config" / "prometheus"


@pytest.fixture
def anyio_backend() -> str:
    """One loop alone: Prometheus takes five seconds to begin, and the endpoint's own tests run on both."""
    return "trio"


@contextmanager
def prometheus(directory: Path, target: tuple[str, int]) -> Iterator[int]:
    """Run it on our scrape example with another target and shorter times; gives its port."""
    directory.mkdir()
    shutil.copy(CONFIG / "alerts.yml", directory)
    example = (CONFIG / "manahsm.yml").read_text()
    text = example.replace("127.0.0.1:9464", "{}:{}".format(*target)).replace("_interval: 15s", "_interval: 200ms")
    assert text.count("200ms") == 2
    (directory / "prometheus.yml").write_text(text)
    port = free_port()
    with debian_server(
        "prometheus",
        directory,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ):
        yield port


def api(port: int, path: str) -> Any:
    """Ask its HTTP API; ``None`` while it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", f"/api/v1/{path}")
        answer = connection.getresponse()
        return json.loads(answer.read())["data"] if answer.status == 200 else None
    except OSError:
        return None
    finally:
        connection.close()


async def ask(port: int, path: str) -> Any:
    return await anyio.to_thread.run_sync(partial(api, port, path))


async def query(port: int, expression: str) -> float | None:
    data = await ask(port, f"query?query={quote(expression)}")
    return float(data["result"][0]["value"][1]) if data and data["result"] else None


async def rules(port: int) -> list[dict[str, Any]]:
    data = await ask(port, "rules")
    return [rule for group in data["groups"] for rule in group["rules"]] if data else []


def raised(found: list[dict[str, Any]]) -> set[str]:
    """Names of the alerts that are pending or firing."""
    return {rule["name"] for rule in found if rule["state"] != "inactive"}


async def test_prometheus_scrapes_counts_and_evaluates_every_rule(
    softhsm_token: SoftHSMToken, directory: Path, tmp_path: Path
) -> None:
    config = config_for(softhsm_token, directory, connection_pool={"size": 1, "processes": 1}, **METRICS)
    async with manahsm.open_service(config) as service:
        key = await service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer")
        for number in range(7):
            await service.sign_hash(digest_of(number), key.key_id)
        assert service.metrics_address is not None
        with prometheus(tmp_path / "prometheus", service.metrics_address) as port, anyio.fail_after(60):
            signed = 'mana_hsm_signatures_total{backend="hsm",operation="hash",outcome="signed",service="signer"}'
            while await query(port, signed) != 7:  # noqa: ASYNC110 - another program does the work
                await anyio.sleep(0.05)
            await service.force_open(softhsm_token.label)
            while "ManaHSMBreakerForcedOpen" not in raised(found := await rules(port)):  # noqa: ASYNC110
                await anyio.sleep(0.05)
            up = await query(port, 'up{job="manahsm"}')

    assert up == 1
    assert {rule["name"]: rule.get("lastError", "") for rule in found if rule["health"] != "ok"} == {}
    assert raised(found) == {"ManaHSMBreakerForcedOpen"}
