"""What geth sends to Clef and an OP-stack batcher to op-signer, replayed as raw HTTP with a key in a token."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from eth_account import Account
from eth_account.messages import encode_defunct
from served import Served, rpc, serving
from services import A_PRIVATE_KEY, audit_records, config_for
from softhsm import SoftHSMToken

from manahsm.ethereum.signatures import keccak256
from manahsm.http_body import one_piece

pytestmark = pytest.mark.anyio

ADDRESS = Account.from_key(A_PRIVATE_KEY).address
TO = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
ARGUMENTS = {
    "from": ADDRESS,
    "to": TO,
    "gas": "0x5208",
    "maxFeePerGas": "0x77359400",
    "maxPriorityFeePerGas": "0x3b9aca00",
    "value": "0x1",
    "nonce": "0x7",
    "input": "0x",
    "chainId": "0x7a69",
}


def config(token: SoftHSMToken, directory: Path) -> dict[str, Any]:
    return config_for(token, directory, connection_pool={"size": 1, "processes": 1})


async def test_geth_finds_in_us_the_clef_that_it_knew(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    path = tmp_path / "clef.ipc"
    listeners = [{"socket": str(path), "dialects": ["clef"]}]
    async with serving(config(softhsm_token, tmp_path), listeners=listeners) as served:
        await served.service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer")
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            async def call(method: str, *params: Any) -> Any:
                return (await client.post("/", json=rpc(method, list(params)))).json()

            version = await call("account_version")
            listed = await call("account_list")
            signed = await call("account_signTransaction", ARGUMENTS)
            text = await call("account_signData", "text/plain", ADDRESS, "0x68656c6c6f")
            recovered = await call("account_ecRecover", "0x68656c6c6f", text["result"])
            stranger = await call("account_signData", "text/plain", TO, "0x00")

    assert version["result"] == "6.1.0"
    assert [address.lower() for address in listed["result"]] == [ADDRESS.lower()]
    raw, tx = signed["result"]["raw"], signed["result"]["tx"]
    assert Account.recover_transaction(raw) == ADDRESS
    assert tx["hash"] == "0x" + keccak256(bytes.fromhex(raw[2:])).hex()
    assert {name: tx[name] for name in ("type", "nonce", "value", "gas")} == {
        "type": "0x2",
        "nonce": "0x7",
        "value": "0x1",
        "gas": "0x5208",
    }
    assert all(tx[name].startswith("0x") for name in ("v", "r", "s"))
    assert Account.recover_message(encode_defunct(text="hello"), signature=text["result"]) == ADDRESS
    assert recovered["result"].lower() == ADDRESS.lower()
    assert stranger["error"]["message"].startswith("request denied")


@asynccontextmanager
async def op_signer(token: SoftHSMToken, directory: Path, ca: trustme.CA) -> AsyncIterator[Served]:
    certificate, key, authority = (directory / name for name in ("server.pem", "server.key", "ca.pem"))
    issued = ca.issue_cert("signer.example")
    key.touch(mode=0o600)
    issued.private_key_pem.write_to_path(key)
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    ca.cert_pem.write_to_path(authority)
    callers = [{"name": "batcher", "certificate": "batcher.example", "dialect": "op_signer", "keys": ["hot"]}]
    async with serving(
        config(token, directory),
        tls={"certificate": str(certificate), "key": str(key), "client_ca": str(authority)},
        callers=callers,
        allowed_hosts=["signer.example"],
    ) as served:
        await served.service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer")
        yield served


def client_of(served: Served, ca: trustme.CA, *names: str, newest: ssl.TLSVersion | None = None) -> httpx.AsyncClient:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    context.check_hostname = False  # the tests dial an address
    if newest is not None:
        context.maximum_version = newest
    if names:
        ca.issue_cert(*names).configure_cert(context)
    return httpx.AsyncClient(base_url=served.url, verify=context, trust_env=False, headers={"host": "signer.example"})


async def test_a_batcher_finds_in_us_the_op_signer_that_it_knew(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    ca = trustme.CA()
    async with op_signer(softhsm_token, tmp_path, ca) as served, client_of(served, ca, "batcher.example") as client:
        health = await client.post("/", json=rpc("health_status", []))
        signed = await client.post("/", json=rpc("eth_signTransaction", [ARGUMENTS]))
        no_chain = {name: value for name, value in ARGUMENTS.items() if name != "chainId"}
        refused = await client.post("/", json=rpc("eth_signTransaction", [no_chain]))
        unknown = await client.post("/", json=rpc("eth_signTransaction", [{**ARGUMENTS, "from": TO}]))

    assert health.json()["result"]
    assert Account.recover_transaction(signed.json()["result"]) == ADDRESS
    assert refused.json()["error"]["code"] == -32010
    assert unknown.json()["error"]["code"] in {-32010, -32011}
    records = [record for record in audit_records(tmp_path) if record["event"] == "sign"]
    assert {record["caller"] for record in records} == {"batcher"}


@pytest.mark.parametrize(
    ("names", "newest", "status"),
    [
        pytest.param((), None, 401, id="no certificate"),
        pytest.param(("eve.example",), None, 403, id="unknown name"),
        pytest.param(("batcher.example",), ssl.TLSVersion.TLSv1_2, 403, id="TLS 1.2"),
    ],
)
async def test_others_are_turned_away(
    softhsm_token: SoftHSMToken,
    tmp_path: Path,
    names: tuple[str, ...],
    newest: ssl.TLSVersion | None,
    status: int,
) -> None:
    ca = trustme.CA()
    async with op_signer(softhsm_token, tmp_path, ca) as served, client_of(served, ca, *names, newest=newest) as client:
        answer = await client.post("/", json=rpc("health_status", []))

    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_a_certificate_of_another_authority_is_turned_away(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    ca = trustme.CA()
    async with op_signer(softhsm_token, tmp_path, ca) as served:
        context = ssl.create_default_context()
        ca.configure_trust(context)
        context.check_hostname = False
        trustme.CA().issue_cert("batcher.example").configure_cert(context)
        async with httpx.AsyncClient(base_url=served.url, verify=context, trust_env=False) as client:
            with pytest.raises(httpx.TransportError):
                await client.send(one_piece(client.build_request("POST", "/", json=rpc("health_status", []))))
