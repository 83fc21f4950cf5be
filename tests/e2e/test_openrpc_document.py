"""What ``rpc.discover`` returns, held against the meta-schema of OpenRPC by their own packages."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest
from served import serving
from services import software_config

from manahsm.config.api_tables import Dialect

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the lock file of npm is for x86_64")

EMPTY = {"openrpc": "1.3.2", "info": {"title": "t", "version": "1"}, "methods": []}
SCRIPT = Path(__file__).parent / "node" / "openrpc.mjs"


def faults_of(document: Any) -> list[str]:
    """What the meta-schema has against a document."""
    done = subprocess.run(  # noqa: S603 - our own script
        ["node", SCRIPT],  # noqa: S607 - as scripts/test found it
        input=json.dumps(document).encode(),
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    faults: list[str] = json.loads(done.stdout)
    return faults


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("anyio_backend", "dialects"),
    [
        ("asyncio", tuple(Dialect)),
        ("trio", (Dialect.WEB3SIGNER,)),
        ("asyncio", (Dialect.CLEF,)),
        ("trio", (Dialect.OP_SIGNER,)),
    ],
)
async def test_the_document_is_one_of_openrpc(directory: Path, dialects: tuple[Dialect, ...]) -> None:
    listener = {"port": 0, "dialects": [str(dialect) for dialect in dialects]}
    async with serving(software_config(directory), listeners=[listener], downstream="http://127.0.0.1:1") as served:
        document = (await served.call("rpc.discover"))["result"]
    assert "eth_sendTransaction" in [method["name"] for method in document["methods"]]
    assert faults_of(document) == []


def test_a_document_without_methods_is_right() -> None:
    assert faults_of(EMPTY) == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"openrpc": "9.9.9"}, "/openrpc"),
        ({"methods": [{"name": "a", "params": [{"name": "b"}]}]}, "/methods/0/params/0"),
        ({"methods": [{"name": "a", "params": [{"name": "b", "schema": {"type": "strong"}}]}]}, "/methods/0/params/0"),
        ({"methods": [{"name": "a", "params": [{"name": "b", "schema": {"minimun": 1}}]}]}, "/methods/0/params/0"),
    ],
)
def test_a_document_that_is_wrong_is_noticed(change: dict[str, Any], path: str) -> None:
    assert any(fault.startswith(path) for fault in faults_of({**EMPTY, **change}))
