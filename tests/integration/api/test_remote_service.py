"""A running service from somewhere else: the same methods, results and errors."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from served import Served, serving
from services import A_PRIVATE_KEY, A_TRANSACTION, audit_records, digest_of, software_config

import manahsm
from manahsm.client import ONLY_IN_PROCESS
from manahsm.errors import ManaHSMError

pytestmark = pytest.mark.anyio

TYPED = {
    "types": {"EIP712Domain": [{"name": "name", "type": "string"}], "Note": [{"name": "text", "type": "string"}]},
    "primaryType": "Note",
    "domain": {"name": "notes"},
    "message": {"text": "hello"},
}


@asynccontextmanager
async def remote(directory: Path, **options: Any) -> AsyncIterator[tuple[Served, manahsm.RemoteService]]:
    """A service with software keys, and a connection to it as an administrator by a Unix socket."""
    path = directory / "api.sock"
    callers = [{"name": "operator", "uid": os.getuid(), "admin": True, "blind_signing": True}]
    config = software_config(directory, service={"request_timeout": 5000}, **options)
    async with (
        serving(config, listeners=[{"socket": str(path)}], callers=callers) as served,
        manahsm.connect(f"unix:{path}") as service,
    ):
        yield served, service


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_every_method_of_a_service_is_there_or_listed_with_the_reason() -> None:
    missing = (public(manahsm.Service) | {"config"}) - public(manahsm.RemoteService)

    assert sorted(missing) == sorted(missing & ONLY_IN_PROCESS.keys())
    assert not ONLY_IN_PROCESS.keys() & public(manahsm.RemoteService)


@pytest.mark.parametrize("name", sorted(public(manahsm.RemoteService)))
def test_each_takes_what_the_service_s_takes(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(cls, name)) for cls in (manahsm.RemoteService, manahsm.Service))
    kinds = [
        [(it.kind, it.default) for it in one.parameters.values() if it.name not in ONLY_IN_PROCESS]
        for one in (ours, theirs)
    ]

    assert kinds[0] == kinds[1]


async def test_what_is_signed_there_is_what_is_signed_here(tmp_path: Path) -> None:
    async with remote(tmp_path) as (served, service):
        key = await service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer", "software")
        here = served.service
        pairs = [
            (
                await one.sign_transaction(A_TRANSACTION, "hot"),
                await one.sign_transaction_with_role(A_TRANSACTION, "transaction_signer", 31337),
                await one.sign_message("hello", "hot"),
                await one.sign_message(b"\xff\x00", "hot"),
                await one.sign_hash(digest_of(1), "hot", timeout=3.0, request_id="r-1"),
                await one.sign_typed_data(TYPED, "hot"),
                await one.sign_authorization({"chainId": 1, "address": key.address, "nonce": 0}, "hot"),
                (await one.batch_sign_transactions([A_TRANSACTION, A_TRANSACTION], "hot")),
            )
            for one in (service, here)
        ]

    assert pairs[0] == pairs[1]
    records = [one for one in audit_records(tmp_path) if one["event"] == "sign"]
    assert {one["caller"] for one in records[:8]} == {"operator"}
    assert "r-1" in {one["request_id"] for one in records}


async def test_keys_are_managed(tmp_path: Path) -> None:
    async with remote(tmp_path) as (served, service):
        made = await service.generate_key("one", "transaction_signer", "software")
        assert await service.list_keys() == await served.service.list_keys() == [made]
        assert await service.list_keys(role="validator") == []
        assert (await service.assign_role("one", None)).role is None
        assert (await service.assign_role(made.address, "node_identity")).role is manahsm.Role.NODE_IDENTITY
        new = await service.rotate_key("one")
        assert (await service.get_key("one")) == new
        await service.delete_key(new.key_id)
        with pytest.raises(manahsm.KeyNotFound):
            await service.get_key("one")


async def test_what_it_is_doing_is_told(tmp_path: Path) -> None:
    async with remote(tmp_path) as (served, service):
        here = served.service
        status = await service.status()
        health = await service.trigger_health_check("audit")

        assert (status.accepting, status.slots, status.keys) == (True, (), 0)
        assert health.component("audit").status == "healthy"
        assert (await service.health()).components == (await here.health()).components
        assert await service.alerts(resolved=True) == await here.alerts(resolved=True)
        assert (await service.performance_metrics()).components.keys() == here.performance_metrics().components.keys()
        assert (await service.stats()).started_at == here.stats().started_at
        assert "mana_hsm_signatures_total" in await service.prometheus_metrics()
        await service.allow_fallback()
        await service.withdraw_fallback()


async def test_errors_come_back_as_what_they_were(tmp_path: Path) -> None:
    async with remote(tmp_path, security_policy={"max_signing_rate": 1}) as (_, service):
        await service.generate_key("hot", "transaction_signer", "software")
        asked: list[tuple[type[ManaHSMError], Any]] = [
            (manahsm.KeyNotFound, service.sign_message("x", "cold")),
            (manahsm.KeyExists, service.generate_key("hot", "transaction_signer", "software")),
            (manahsm.InvalidTransaction, service.sign_transaction({"nonce": 0, "nonsense": 1}, "hot", 1)),
            (manahsm.InvalidRequest, service.generate_key("x", "no such role")),
            (manahsm.InvalidRequest, service.force_open("no such slot")),
            (manahsm.InvalidRequest, service.resolve_alert("0" * 16)),
        ]
        for kind, asking in asked:
            with pytest.raises(kind) as caught:
                await asking
            assert type(caught.value) is kind
        with pytest.raises(manahsm.RateLimited) as limited:  # noqa: PT012 - the first are within the rate
            for _ in range(20):
                await service.sign_message("x", "hot")
        assert limited.value.retry_after > 0
        (error,) = await service.batch_sign_transactions([{"nonce": 0}], "hot", 1)
        assert isinstance(error, manahsm.InvalidTransaction | manahsm.RateLimited)


async def test_who_asks_is_not_for_the_caller_to_say(tmp_path: Path) -> None:
    async with remote(tmp_path) as (_, service):
        with pytest.raises(manahsm.InvalidRequest, match="leave caller out"):
            await service.sign_message("x", "hot", caller="somebody else")


async def test_nobody_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    async with manahsm.connect(f"unix:{tmp_path / 'nothing'}") as service:
        with pytest.raises(manahsm.RemoteError, match="was not reached"):
            await service.status()


@pytest.mark.parametrize("url", ["", "localhost:9000", "ftp://127.0.0.1", "http://"])
async def test_an_address_that_is_none_is_an_error_at_once(url: str) -> None:
    with pytest.raises(manahsm.RemoteError, match="an address such as"):
        async with manahsm.connect(url):
            pass


@pytest.mark.parametrize("said", [b"hello", b"[]", b"{}", b'{"jsonrpc":"2.0","id":99,"result":1}'])
async def test_what_is_no_service_is_not_taken_for_one(said: bytes) -> None:
    async def answer(stream: Any) -> None:
        async with stream:
            await stream.receive()
            head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(said)
            await stream.send(head + said)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no Django
        async with manahsm.connect(f"http://127.0.0.1:{port}") as service:
            with pytest.raises(manahsm.RemoteError, match="what answered is no manahsm service"):
                await service.status()
        tasks.cancel_scope.cancel()


async def test_certificates_for_an_address_without_encryption_are_refused(tmp_path: Path) -> None:
    with pytest.raises(manahsm.RemoteError, match="go with https"):
        async with manahsm.connect("http://127.0.0.1:9000", ca=tmp_path / "ca.pem"):
            pass


@pytest.mark.parametrize("what", ["ca", "certificate"])
@pytest.mark.parametrize("there", [False, True])
async def test_a_certificate_that_can_not_be_used_is_named(tmp_path: Path, what: str, there: bool) -> None:
    path = tmp_path / "file.pem"
    if there:
        path.write_text("nonsense")
    given: Any = {"ca": path} if what == "ca" else {"certificate": (path, path)}
    with pytest.raises(manahsm.RemoteError, match=r"file\.pem.*: no PEM that can be used"):
        async with manahsm.connect("https://127.0.0.1:9000", **given):
            pass
