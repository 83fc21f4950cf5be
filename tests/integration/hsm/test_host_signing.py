"""A host process and a real SoftHSM token: sessions and signatures."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest
from hsm_hosts import running
from p11fault import FaultModule
from p11fault_rules import CantLock, Logout, Return, Spoil, Spoiled
from softhsm import SoftHSMToken

from manahsm.ethereum.signatures import complete
from manahsm.hsm.client import HostProcess, HostSession
from manahsm.hsm.failures import HSMFailure
from manahsm.hsm.outcomes import Action
from manahsm.hsm.protocol import MAX_ITEMS
from manahsm.hsm.quirks import Quirks

pytestmark = pytest.mark.anyio


async def failure_of(call: Callable[[], Awaitable[object]]) -> HSMFailure:
    with pytest.raises(HSMFailure) as caught:
        await call()
    return caught.value


async def sign_and_check(session: HostSession, public_key: bytes) -> None:
    digest = os.urandom(32)
    (signature,) = await session.sign([(public_key, digest)])
    assert isinstance(signature, bytes)
    complete(signature, digest, public_key)


async def test_a_key_of_the_token_signs_what_recovers_to_its_public_key(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("k")
        await sign_and_check(await host.open_session(), key.public_key)


async def test_several_digests_in_one_call_come_back_in_order(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        keys = [await host.generate_key(f"k{number}") for number in range(3)]
        session = await host.open_session()
        items = [(keys[number % 3].public_key, os.urandom(32)) for number in range(50)]
        signatures = await session.sign(items)
        for (public_key, digest), signature in zip(items, signatures, strict=True):
            assert isinstance(signature, bytes)
            complete(signature, digest, public_key)


async def test_digests_that_wait_behind_others_are_answered_in_order_though_they_are_written_later(
    softhsm_token: SoftHSMToken,
) -> None:
    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("k")
        session = await host.open_session()
        items = [(key.public_key, os.urandom(32)) for _ in range(6)]
        ended: list[int] = []
        calls = []
        for number, item in enumerate(items):
            (call,) = session.begin_each([item], behind=number)
            call.then(partial(ended.append, number))
            calls.append(call)
        await calls[-1].wait()
        for (public_key, digest), call in zip(items, calls, strict=True):
            (signature,) = session.signed(call)
            assert isinstance(signature, bytes)
            complete(signature, digest, public_key)
    assert ended == [0, 1, 2, 3, 4]  # who waits for the last took its callback's place


async def test_what_was_to_be_written_later_goes_along_with_what_is_written_now(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("k")
        first, second = await host.open_session(), await host.open_session()
        (later,) = first.begin_each([(key.public_key, os.urandom(32))], behind=1)
        (now,) = second.begin_each([(key.public_key, os.urandom(32))])
        await later.wait()
        await now.wait()
        signatures = [*first.signed(later), *second.signed(now)]
    assert [len(signature) for signature in signatures if isinstance(signature, bytes)] == [64, 64]


async def test_four_sessions_in_one_host_sign_thousands_of_digests_and_none_is_wrong(
    softhsm_token: SoftHSMToken,
) -> None:
    checked = []

    async def caller(session: HostSession, public_key: bytes) -> None:
        for _ in range(25):
            items = [(public_key, os.urandom(32)) for _ in range(5)]
            for (_, digest), signature in zip(items, await session.sign(items), strict=True):
                assert isinstance(signature, bytes)
                checked.append(complete(signature, digest, public_key))

    async with running(softhsm_token.host_settings()) as host:
        keys = [await host.generate_key(f"k{number}") for number in range(4)]
        sessions = [await host.open_session() for _ in range(4)]
        async with anyio.create_task_group() as callers:
            for number in range(16):
                callers.start_soon(caller, sessions[number % 4], keys[number // 4].public_key)
    assert len(checked) == 2000


async def test_an_unknown_key_fails_alone_and_its_neighbours_are_signed(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("k")
        unknown = b"\x04" + bytes(64)
        session = await host.open_session()
        first, second, third = await session.sign(
            [(key.public_key, bytes(32)), (unknown, bytes(32)), (key.public_key, bytes(32))]
        )
        assert isinstance(first, bytes)
        assert isinstance(third, bytes)
        assert isinstance(second, HSMFailure)
        assert second.outcome.name == "KEY_NOT_FOUND"
        assert session.usable


@pytest.mark.parametrize("length", [0, 31, 33, 64])
async def test_a_digest_that_is_not_32_bytes_is_refused(softhsm_token: SoftHSMToken, length: int) -> None:
    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("k")
        session = await host.open_session()
        (refused,) = await session.sign([(key.public_key, bytes(length))])
        assert isinstance(refused, HSMFailure)
        assert refused.outcome.action is Action.TELL_CALLER
        await sign_and_check(session, key.public_key)


async def test_overlapping_calls_on_one_session_are_all_signed(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("k")
        session = await host.open_session()
        async with anyio.create_task_group() as callers:
            for _ in range(20):
                callers.start_soon(sign_and_check, session, key.public_key)


async def test_closing_one_session_leaves_the_others_logged_in(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("k")
        first, second = await host.open_session(), await host.open_session()
        await sign_and_check(first, key.public_key)
        await first.close()
        assert not first.usable
        await sign_and_check(second, key.public_key)
        await sign_and_check(await host.open_session(), key.public_key)


async def test_a_closed_session_refuses_to_sign_and_can_be_closed_again(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        session = await host.open_session()
        await session.close()
        await session.close()
        refused = await failure_of(lambda: session.sign([(bytes(65), bytes(32))]))
        assert refused.outcome.name == "SESSION_DISCARDED"


async def test_a_host_refuses_a_session_number_it_does_not_know(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        session = await host.open_session()
        session.id += 1
        (refused,) = await session.sign([(bytes(65), bytes(32))])
        assert isinstance(refused, HSMFailure)
        assert refused.outcome.name == "SESSION_DISCARDED"


async def test_too_many_digests_in_one_call_are_refused_and_cost_nothing(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("k")
        session = await host.open_session()
        refused = await failure_of(lambda: session.sign([(key.public_key, bytes(32))] * (MAX_ITEMS + 1)))
        assert refused.outcome.name == "REQUEST_TOO_LARGE"
        await sign_and_check(session, key.public_key)


async def test_the_largest_call_of_which_each_item_fails_is_answered(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        session = await host.open_session()
        results = await session.sign([(bytes(65), bytes(31))] * MAX_ITEMS)
        assert len(results) == MAX_ITEMS
        assert session.usable


async def test_more_sessions_than_the_device_has_are_refused(softhsm_token: SoftHSMToken) -> None:
    settings = softhsm_token.host_settings(quirks=Quirks(max_sessions=2))
    async with running(settings) as host:
        assert host.info is not None
        assert host.info.max_session_threads == 2
        first = await host.open_session()
        await host.open_session()
        refused = await failure_of(host.open_session)
        assert (refused.outcome.name, refused.outcome.action) == ("HOST_SESSION_LIMIT", Action.SHRINK)
        await first.close()
        await host.open_session()


async def test_a_session_that_sees_a_return_code_from_c_sign_is_never_used_again(p11fault: FaultModule) -> None:
    async with running(p11fault.settings()) as host:
        key = await host.generate_key("k")
        session = await host.open_session()
        await sign_and_check(session, key.public_key)
        p11fault.set(Return("C_Sign", "CKR_DEVICE_ERROR"))
        first, second = await session.sign([(key.public_key, bytes(32))] * 2)
        assert isinstance(first, HSMFailure)
        assert (first.outcome.name, first.outcome.rv, first.outcome.function) == ("CKR_DEVICE_ERROR", 0x30, "C_Sign")
        assert isinstance(second, HSMFailure)
        assert second.outcome.name == "SESSION_DISCARDED"
        assert not session.usable
        p11fault.clear()
        await session.close()
        await sign_and_check(await host.open_session(), key.public_key)


@pytest.mark.parametrize("function", ["C_SignInit", "C_FindObjectsInit"])
async def test_a_vendor_return_code_keeps_its_number(p11fault: FaultModule, function: str) -> None:
    async with running(p11fault.settings()) as host:
        key = await host.generate_key("k")
        session = await host.open_session()
        p11fault.set(Return(function, 0x80000042))
        (failed,) = await session.sign([(key.public_key, bytes(32))])
        assert isinstance(failed, HSMFailure)
        assert failed.outcome.rv == 0x80000042
        assert failed.outcome.name == "CKR_VENDOR_0x80000042"
        p11fault.clear()


async def test_a_signature_of_another_length_is_not_a_signature(p11fault: FaultModule) -> None:
    async with running(p11fault.settings()) as host:
        key = await host.generate_key("k")
        session = await host.open_session()
        p11fault.set(Spoil(Spoiled.TRUNCATE))
        (failed,) = await session.sign([(key.public_key, bytes(32))])
        assert isinstance(failed, HSMFailure)
        assert failed.outcome.name == "SIGNATURE_LENGTH"
        assert not session.usable
        p11fault.clear()


async def test_a_library_that_refuses_locking_gets_one_session_and_one_thread(p11fault: FaultModule) -> None:
    p11fault.set(CantLock())
    async with running(p11fault.settings()) as host:
        assert host.info is not None
        assert (host.info.locking, host.info.max_session_threads) == (False, 1)
        key = await host.generate_key("k")
        session = await host.open_session()
        await sign_and_check(session, key.public_key)
        assert (await failure_of(host.open_session)).outcome.name == "HOST_SESSION_LIMIT"
        await session.close()
        p11fault.set(CantLock(), Return("C_OpenSession", "CKR_SESSION_COUNT"))
        assert (await failure_of(host.open_session)).outcome.action is Action.SHRINK
        p11fault.set(CantLock())
        await sign_and_check(await host.open_session(), key.public_key)


async def test_a_token_without_room_for_a_session_says_so_and_the_host_lives_on(p11fault: FaultModule) -> None:
    async with running(p11fault.settings()) as host:
        p11fault.set(Return("C_OpenSession", "CKR_SESSION_COUNT"))
        refused = await failure_of(host.open_session)
        assert (refused.outcome.name, refused.outcome.action) == ("CKR_SESSION_COUNT", Action.SHRINK)
        p11fault.clear()
        await host.open_session()


async def test_a_login_that_the_token_dropped_is_seen_and_renewed(p11fault: FaultModule) -> None:
    async with running(p11fault.settings()) as host:
        key = await host.generate_key("k")
        session = await host.open_session()
        await sign_and_check(session, key.public_key)
        p11fault.set(Logout("C_SignInit"))
        (dead,) = await session.sign([(key.public_key, bytes(32))])
        p11fault.clear()
        assert isinstance(dead, HSMFailure)
        assert dead.outcome.action is Action.FIND_KEY_AGAIN
        another = await host.open_session()
        (hidden,) = await another.sign([(key.public_key, bytes(32))])
        assert isinstance(hidden, HSMFailure)
        assert (hidden.outcome.name, hidden.outcome.action) == ("CKR_USER_NOT_LOGGED_IN", Action.LOGIN_AGAIN)
        assert not another.usable
        await host.log_in_again(another.generation)
        await sign_and_check(await host.open_session(), key.public_key)


async def test_logging_in_again_begins_a_generation_and_refuses_the_sessions_of_the_last(
    softhsm_token: SoftHSMToken,
) -> None:
    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("k")
        old = await host.open_session()
        await sign_and_check(old, key.public_key)
        assert await host.log_in_again(old.generation) == old.generation + 1
        assert not old.usable
        refused = await failure_of(lambda: old.sign([(key.public_key, bytes(32))]))
        assert refused.outcome.name == "STALE_GENERATION"
        await old.close()
        await sign_and_check(await host.open_session(), key.public_key)


async def test_many_who_saw_the_login_go_log_in_once(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        seen = host.generation
        async with anyio.create_task_group() as callers:
            for _ in range(5):
                callers.start_soon(host.log_in_again, seen)
        assert host.generation == seen + 1


async def test_the_host_itself_refuses_a_stale_generation(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("k")
        session = await host.open_session()
        session._host_generation += 1
        (refused,) = await session.sign([(key.public_key, bytes(32))])
        assert isinstance(refused, HSMFailure)
        assert refused.outcome.name == "STALE_GENERATION"


async def test_a_token_that_is_taken_away_is_noticed_and_found_again_by_the_next_host(
    softhsm_token: SoftHSMToken,
) -> None:
    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("k")
        session = await host.open_session()
        await sign_and_check(session, key.public_key)
        softhsm_token.hide()
        (dead,) = await session.sign([(key.public_key, bytes(32))])
        assert isinstance(dead, HSMFailure)
        assert dead.outcome.action is Action.FIND_KEY_AGAIN
        assert (await failure_of(host.token_info)).outcome.action is Action.FAIL_OVER
        (gone,) = await (await host.open_session()).sign([(key.public_key, bytes(32))])
        assert isinstance(gone, HSMFailure)
        assert gone.outcome.action is Action.FAIL_OVER
    softhsm_token.show()
    async with running(softhsm_token.host_settings()) as host:
        await sign_and_check(await host.open_session(), key.public_key)


async def test_logging_in_again_survives_an_anchor_that_can_not_be_closed(p11fault: FaultModule) -> None:
    async with running(p11fault.settings()) as host:
        key = await host.generate_key("k")
        p11fault.set(Return("C_CloseSession", "CKR_SESSION_HANDLE_INVALID"))
        generation = await host.log_in_again(host.generation)
        assert host.info is not None
        assert host.info.generation == generation
        p11fault.clear()
        await sign_and_check(await host.open_session(), key.public_key)


async def test_a_host_that_does_not_run_says_so(softhsm_token: SoftHSMToken) -> None:
    host = HostProcess(softhsm_token.host_settings())
    assert (await failure_of(host.find_keys)).outcome.name == "HOST_NOT_RUNNING"
    await host.stop()
