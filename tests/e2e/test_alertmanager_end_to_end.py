"""An Alertmanager of Debian's receives an alert of a running service, passes it on, and hears of its end."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from alert_samples import Receiver, receiver
from debian_servers import debian_server, free_port
from services import config_for, eventually
from softhsm import SoftHSMToken

import manahsm

pytestmark = pytest.mark.anyio

ROUTES = """\
route: {{receiver: pager, group_by: [alertname, component], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}
receivers:
  - name: pager
    webhook_configs: [{{url: '{url}', send_resolved: true}}]
"""


@pytest.fixture
def anyio_backend() -> str:
    """One loop alone: the wait is for Alertmanager's groups, and the sink's own tests run on both."""
    return "trio"


@contextmanager
def alertmanager(directory: Path, pager: Receiver) -> Iterator[int]:
    """Run one that passes everything on to ``pager``; gives its port."""
    directory.mkdir()
    (directory / "alertmanager.yml").write_text(ROUTES.format(url=pager.url))
    port = free_port()
    with debian_server(
        "prometheus-alertmanager",
        directory,
        f"--config.file={directory / 'alertmanager.yml'}",
        f"--storage.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ):
        yield port


def known_alerts(port: int) -> dict[str, Any]:
    """The alerts that it holds to be going on, by name."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/api/v2/alerts")
        return {alert["labels"]["alertname"]: alert for alert in json.loads(connection.getresponse().read())}
    finally:
        connection.close()


def paged(pager: Receiver) -> list[tuple[str, str]]:
    """What the pager was told, as pairs of alert name and status, without repetitions."""
    told = [(alert["labels"]["alertname"], alert["status"]) for body in pager.bodies for alert in body["alerts"]]
    return list(dict.fromkeys(told))


async def test_a_pulled_token_is_paged_once_and_called_off_when_it_is_back(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    lost = "ManaHSMConnectivityLost"
    with receiver() as pager, alertmanager(tmp_path / "alertmanager", pager) as port:
        alerts = {"alertmanager_url": f"http://127.0.0.1:{port}", "resend_interval": 500, "instance": "signer-1"}
        config = config_for(
            softhsm_token,
            tmp_path,
            connection_pool={"size": 1, "processes": 1},
            monitoring={"health_check_interval": 500, "alerts": alerts},
        )
        async with manahsm.open_service(config):
            softhsm_token.hide()
            await eventually(lambda: (lost, "firing") in paged(pager), within=60.0)
            held = (await anyio.to_thread.run_sync(partial(known_alerts, port)))[lost]
            softhsm_token.show()
            await eventually(lambda: (lost, "resolved") in paged(pager), within=60.0)
            left = await anyio.to_thread.run_sync(partial(known_alerts, port))

    assert held["labels"] == {
        "alertname": lost,
        "component": "pkcs11:manahsm-test",
        "severity": "critical",
        "instance": "signer-1",
    }
    assert held["annotations"]["summary"] == "HSM connectivity lost"
    assert lost not in left
    assert [pair for pair in paged(pager) if pair[0] == lost] == [(lost, "firing"), (lost, "resolved")]
