"""Whatever a service takes goes through ``manahsm.connect`` alike: the same table of calls, here and there.

The one thing to know: the key is in software, whose signatures are deterministic (RFC 6979), so they can be compared.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import coincurve
import eth_keys
import pytest
from call_samples import CALLS
from eth_account import Account
from served import serving
from services import A_PRIVATE_KEY, A_TRANSACTION, audit_records, software_config

import manahsm
from manahsm.errors import ManaHSMError

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def both(directory: Path, **api: Any) -> AsyncIterator[tuple[manahsm.Service, manahsm.RemoteService]]:
    """A service with the key of the calls, and a connection to it."""
    path = directory / "api.sock"
    callers = [{"name": "operator", "uid": os.getuid(), "admin": True, "blind_signing": True}]
    async with (
        serving(software_config(directory), listeners=[{"socket": str(path)}], callers=callers, **api) as served,
        manahsm.connect(f"unix:{path}") as remote,
    ):
        await served.service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer", "software")
        yield served.service, remote


async def ended(call: Any, service: Any) -> Any:
    """What a call returns, or the kind of what it raises."""
    try:
        return without_words(await call(service))
    except (ManaHSMError, TypeError) as error:
        return type(error)


def without_words(result: Any) -> Any:
    if isinstance(result, list):
        return [without_words(item) for item in result]
    if isinstance(result, manahsm.Outcome):
        return result.request_id, without_words(result.result), without_words(result.error)
    return type(result) if isinstance(result, ManaHSMError) else result


async def test_every_argument_has_the_same_result_here_and_there(tmp_path: Path) -> None:
    async with both(tmp_path) as (here, there):
        results = {name: (await ended(call, here), await ended(call, there)) for name, call in CALLS.items()}

    assert {name: pair for name, pair in results.items() if pair[0] != pair[1]} == {}


@pytest.mark.parametrize(
    "key",
    [Account.from_key(A_PRIVATE_KEY), eth_keys.keys.PrivateKey(A_PRIVATE_KEY), coincurve.PrivateKey(A_PRIVATE_KEY)],
)
async def test_a_private_key_is_imported_in_every_form(tmp_path: Path, key: Any) -> None:
    async with both(tmp_path) as (here, there):
        await here.delete_key("hot")
        assert (
            await there.import_key(key, "hot", manahsm.Role.TRANSACTION_SIGNER, manahsm.Backend.SOFTWARE)
        ).label == "hot"


@pytest.mark.parametrize("key", [A_PRIVATE_KEY, "0x" + A_PRIVATE_KEY.hex(), Account.from_key(A_PRIVATE_KEY)], ids=type)
async def test_a_private_key_in_place_of_a_name_is_never_sent(key: Any) -> None:
    async with manahsm.connect("unix:/nobody/is/there") as there:
        for asking in (
            there.sign_message("x", key),
            there.sign_transaction(A_TRANSACTION, key),
            there.batch_sign_transactions([A_TRANSACTION], key),
            there.get_key(key),
            there.assign_role(key, None),
        ):
            with pytest.raises(manahsm.InvalidRequest, match="private keys are never sent") as caught:
                await asking
            assert A_PRIVATE_KEY.hex() not in str(caught.value)


async def test_a_request_id_that_no_log_would_hold_is_refused_and_not_replaced(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, there):
        with pytest.raises(manahsm.InvalidRequest, match="request_id"):
            await there.sign_message("x", "hot", request_id="line\nbreak")
        await there.sign_message("x", "hot", request_id="r:1")

    assert [one["request_id"] for one in audit_records(tmp_path) if one["event"] == "sign"] == ["r:1"]


async def test_of_a_batch_in_pieces_the_one_that_fails_costs_no_other(tmp_path: Path) -> None:
    large = {**A_TRANSACTION, "data": bytes(600_000)}
    async with both(tmp_path) as (_, there):
        results = await there.batch_sign_transactions([A_TRANSACTION, large, A_TRANSACTION], "hot")

    assert [type(result) for result in results] == [
        manahsm.SignedTransaction,
        manahsm.RemoteError,
        manahsm.SignedTransaction,
    ]
    assert "raise hsm.api.max_body" in str(results[1])


async def test_a_channel_to_it_gives_each_outcome_once(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, there), there.open_channel(capacity=4) as channel:
        for number in range(4):
            request = manahsm.SignRequest.message(f"message {number}", "hot", request_id=str(number))
            await channel.send(request)
        channel.finish()
        outcomes = [outcome async for outcome in channel]

    assert sorted(outcome.request_id for outcome in outcomes) == ["0", "1", "2", "3"]
    assert {outcome.error for outcome in outcomes} == {None}
