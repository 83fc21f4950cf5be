"""Every way in that must be refused, at a running service, on both loops; and that nothing was signed then."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from served import Served, rpc, serving
from services import A_PRIVATE_KEY, A_TRANSACTION, audit_records, software_config

from manahsm.keys.registry import KeyInfo

pytestmark = pytest.mark.anyio

ACCOUNTS = b'{"jsonrpc":"2.0","id":1,"method":"eth_accounts"}'
TOKENS = {"alice": "token-of-alice", "bob": "token-of-bob", "root": "token-of-root"}
TX = {name: hex(value) if isinstance(value, int) else value for name, value in A_TRANSACTION.items() if name != "type"}


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKENS[name]}"}


def caller(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "token_sha256": hashlib.sha256(TOKENS[name].encode()).hexdigest(), **options}


@asynccontextmanager
async def two_callers(directory: Path, **api: Any) -> AsyncIterator[tuple[Served, KeyInfo, KeyInfo]]:
    """Alice and Bob with a key each, and an administrator."""
    callers = [
        caller("alice", keys=["alice's"]),
        caller("bob", keys=["bob's"], methods=["eth_*"]),
        caller("root", admin=True),
    ]
    async with serving(software_config(directory), callers=callers, **api) as served:
        service = served.service
        of_alice = await service.import_key(A_PRIVATE_KEY, "alice's", "transaction_signer", "software")
        of_bob = await service.generate_key("bob's", "transaction_signer", "software")
        yield served, of_alice, of_bob


def signatures(directory: Path) -> list[dict[str, Any]]:
    return [record for record in audit_records(directory) if record["event"] == "sign"]


async def test_callers_sign_with_their_own_keys_and_are_named_in_the_audit_log(tmp_path: Path) -> None:
    async with two_callers(tmp_path) as (served, alice, _):
        answer = await served.call("eth_sign", alice.address, "0x68656c6c6f", **bearer("alice"), x_request_id="r-1")

    assert "result" in answer, answer
    (record,) = signatures(tmp_path)
    assert (record["caller"], record["request_id"], record["outcome"]) == ("alice", "r-1", "signed")


@pytest.mark.parametrize("method", ["eth_sign", "personal_sign", "eth_signTransaction", "manahsm_signMessage"])
async def test_the_key_of_another_caller_is_refused_and_on_record(tmp_path: Path, method: str) -> None:
    async with two_callers(tmp_path) as (served, _, bob):
        params: Any = {
            "eth_sign": [bob.address, "0x00"],
            "personal_sign": ["0x00", bob.address],
            "eth_signTransaction": [{**TX, "from": bob.address}],
            "manahsm_signMessage": {"key": bob.address, "message": "0x00"},
        }[method]
        answer = (await served.post(json.dumps(rpc(method, params)).encode(), **bearer("alice"))).json()

    assert "result" not in answer
    (record,) = signatures(tmp_path)
    assert (record["caller"], record["outcome"], record["key_id"]) == ("alice", "refused", bob.key_id)


async def test_callers_see_their_own_keys_alone(tmp_path: Path) -> None:
    async with two_callers(tmp_path) as (served, alice, bob):
        seen = {name: (await served.call("eth_accounts", **bearer(name)))["result"] for name in ("alice", "root")}

    assert seen == {"alice": [alice.address.lower()], "root": sorted([alice.address.lower(), bob.address.lower()])}


async def test_a_method_that_is_not_the_caller_s_is_refused(tmp_path: Path) -> None:
    async with two_callers(tmp_path) as (served, _, bob):
        answer = await served.call("personal_sign", "0x00", bob.address, **bearer("bob"))

    assert "personal_sign" in answer["error"]["message"]
    assert signatures(tmp_path) == []


@pytest.mark.parametrize("method", ["manahsm_generateKey", "manahsm_deleteKey", "manahsm_status", "manahsm_importKey"])
async def test_a_signer_does_not_manage(tmp_path: Path, method: str) -> None:
    async with two_callers(tmp_path) as (served, _, _):
        before = len(await served.service.list_keys())
        body = json.dumps(rpc(method, {"label": "x", "role": "transaction_signer", "key": "alice's"})).encode()
        answer = (await served.post(body, **bearer("alice"))).json()
        after = len(await served.service.list_keys())

    assert answer["error"]["data"]["code"] == "policy_denied"
    assert before == after


async def test_an_administrator_manages_and_is_on_record(tmp_path: Path) -> None:
    async with two_callers(tmp_path) as (served, _, _):
        body = json.dumps(
            rpc("manahsm_generateKey", {"label": "new", "role": "transaction_signer", "backend": "software"})
        )
        answer = (await served.post(body.encode(), **bearer("root"), x_request_id="r-9")).json()

    assert answer["result"]["label"] == "new"
    record = next(one for one in audit_records(tmp_path) if one.get("summary", {}).get("label") == "new")
    assert (record["event"], record["caller"], record["request_id"]) == ("generate_key", "root", "r-9")


async def test_digests_are_not_signed_for_those_who_may_not_sign_blindly(tmp_path: Path) -> None:
    async with two_callers(tmp_path) as (served, alice, _):
        url = f"{served.url}/api/v1/eth1/sign/0x{alice.public_key[1:].hex()}"
        answer = await served.post(b'{"data":"0x00"}', url=url, **bearer("alice"))

    assert answer.status_code in {403, 404}
    (record,) = signatures(tmp_path)
    assert record["outcome"] == "refused"
    assert "blind_signing" in record["reason"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 401, id="no token"),
        pytest.param({"authorization": "Bearer wrong"}, 401, id="bad token"),
        pytest.param({"host": "evil.example", **bearer("alice")}, 403, id="wrong Host"),
        pytest.param({"host": "evil.example:9000", **bearer("alice")}, 403, id="wrong Host with a port"),
        pytest.param({"origin": "https://evil.example", **bearer("alice")}, 403, id="a web page of another origin"),
        pytest.param({"origin": "null", **bearer("alice")}, 403, id="a web page without an origin"),
        pytest.param({"content-type": "text/plain", **bearer("alice")}, 415, id="what a web page may send unasked"),
    ],
)
async def test_who_does_not_belong_here_is_turned_away(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with two_callers(tmp_path) as (served, alice, _):
        body = json.dumps(rpc("eth_sign", [alice.address, "0x00"])).encode()
        answer = await served.post(body, **headers)

    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert signatures(tmp_path) == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(b'{"a":' * 5000 + b"1" + b"}" * 5000, 400, -32700, id="deep JSON"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"eth_accounts","extra":1}', 400, -32600, id="unknown field"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"id":2,"method":"eth_accounts"}', 400, -32700, id="a name twice"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"eth_accounts"}{}', 400, -32700, id="two documents"),
        pytest.param(b"[]", 400, -32600, id="an empty batch"),
        pytest.param(
            b"[" + b'{"jsonrpc":"2.0","id":1,"method":"eth_accounts"},' * 100 + b"1]",
            400,
            -32600,
            id="a batch too long",
        ),
        pytest.param(b"", 400, -32700, id="nothing"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"eth_nothing"}', 200, -32601, id="unknown method"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"eth_sign","params":[1]}', 200, -32602, id="wrong parameters"),
    ],
)
async def test_what_is_no_request_gets_an_error_of_json_rpc(
    tmp_path: Path, body: bytes, status: int, code: int
) -> None:
    async with two_callers(tmp_path) as (served, _, _):
        answer = await served.post(body, **bearer("alice"))

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_oversized_body_is_not_read_to_its_end(tmp_path: Path, chunked: bool) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"eth_accounts","params":["' + b"a" * 5000 + b'"]}'
    async with two_callers(tmp_path, max_body=4096) as (served, _, _):

        async def parts() -> AsyncIterator[bytes]:
            yield body

        sent: Any = parts() if chunked else body
        answer = await served.post(sent, **bearer("alice"))

    assert answer.status_code == 413
    assert "max_body" in answer.json()["error"]["message"]


async def test_a_notification_signs_nothing(tmp_path: Path) -> None:
    async with two_callers(tmp_path) as (served, alice, _):
        call = rpc("eth_sign", [alice.address, "0x00"])
        del call["id"]
        answer = await served.post(json.dumps(call).encode(), **bearer("alice"))

    assert (answer.status_code, answer.content) == (204, b"")
    assert signatures(tmp_path) == []


async def test_an_origin_that_is_configured_may_ask(tmp_path: Path) -> None:
    async with two_callers(tmp_path, cors_origins=["https://wallet.example"]) as (served, alice, _):
        origin = {"origin": "https://wallet.example"}
        answer = await served.post(json.dumps(rpc("eth_accounts")).encode(), **origin, **bearer("alice"))

    assert answer.json()["result"] == [alice.address.lower()]
    assert answer.headers["access-control-allow-origin"] == "https://wallet.example"


async def test_a_name_that_is_configured_may_be_asked_by(tmp_path: Path) -> None:
    async with two_callers(tmp_path, allowed_hosts=["signer.example"]) as (served, _, _):
        answer = await served.post(
            json.dumps(rpc("eth_accounts")).encode(), host="Signer.example:9000", **bearer("root")
        )

    assert answer.status_code == 200
