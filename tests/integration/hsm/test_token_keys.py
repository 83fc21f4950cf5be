"""Keys in a real token: made, imported, found, relabelled; and tokens that others have filled untidily."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest
from attrs import evolve
from coincurve import PrivateKey
from hsm_hosts import running
from p11fault import FaultModule
from p11fault_rules import Return, Rule, Spoil, Spoiled
from softhsm import SoftHSMToken

from manahsm.ethereum.signatures import complete
from manahsm.hsm.client import HostProcess
from manahsm.hsm.failures import HSMFailure
from manahsm.hsm.info import TokenKey
from manahsm.hsm.outcomes import Action
from manahsm.hsm.quirks import Quirks
from manahsm.processes.frames import MAX_FRAME

pytestmark = pytest.mark.anyio


async def signs(host: HostProcess, key: TokenKey) -> bool:
    session = await host.open_session()
    digest = os.urandom(32)
    (signature,) = await session.sign([(key.public_key, digest)])
    await session.close()
    if isinstance(signature, HSMFailure):
        return False
    complete(signature, digest, key.public_key)
    return True


async def failure_of(call: Callable[[], Awaitable[object]]) -> HSMFailure:
    with pytest.raises(HSMFailure) as caught:
        await call()
    return caught.value


async def test_a_generated_key_stays_in_the_token(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("validator-1")
        assert (key.label, key.can_sign, key.sensitive, key.extractable) == ("validator-1", True, True, False)
        assert await host.find_keys() == [key]
    listing = softhsm_token.run_tool(
        "pkcs11-tool", "--module", str(softhsm_token.library), "--login", "--pin", softhsm_token.pin,
        "--token-label", softhsm_token.label, "--list-objects", "--type", "privkey",
    )  # fmt: skip
    assert "validator-1" in listing
    assert "never extractable" in listing


async def test_an_imported_key_keeps_its_public_key_and_does_not_come_out_again(
    softhsm_token: SoftHSMToken,
) -> None:
    private_key = os.urandom(32)
    async with running(softhsm_token.host_settings()) as host:
        key = await host.import_key(private_key, "imported")
        assert key.public_key == PrivateKey(private_key).public_key.format(compressed=False)
        assert (key.sensitive, key.extractable) == (True, False)
        assert await signs(host, key)


async def test_a_key_that_is_there_is_not_imported_twice(softhsm_token: SoftHSMToken) -> None:
    private_key = os.urandom(32)
    async with running(softhsm_token.host_settings()) as host:
        key = await host.import_key(private_key, "first")
        refused = await failure_of(lambda: host.import_key(private_key, "second"))
        assert (refused.outcome.name, refused.outcome.action) == ("KEY_EXISTS", Action.TELL_CALLER)
        assert private_key.hex() not in str(refused)
        assert await host.find_keys() == [key]


@pytest.mark.parametrize("private_key", [b"", bytes(32), b"\xff" * 32], ids=["empty", "zero", "above n"])
async def test_what_is_no_private_key_is_not_imported(softhsm_token: SoftHSMToken, private_key: bytes) -> None:
    async with running(softhsm_token.host_settings()) as host:
        with pytest.raises(ValueError, match=r"32 bytes|[Ss]ecret"):
            await host.import_key(private_key, "k")
        assert await host.find_keys() == []


async def test_relabelling_renames_both_halves_and_nothing_else(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("old")
        other = await host.generate_key("other")
        await host.relabel_key(key.public_key, "new")
        assert {found.label for found in await host.find_keys()} == {"new", "other"}
        assert await signs(host, key)
        assert await signs(host, other)
        refused = await failure_of(lambda: host.relabel_key(b"\x04" + bytes(64), "x"))
        assert refused.outcome.name == "KEY_NOT_FOUND"


async def test_keys_of_other_curves_are_passed_over(softhsm_token: SoftHSMToken) -> None:
    tool = ("pkcs11-tool", "--module", str(softhsm_token.library), "--login", "--pin", softhsm_token.pin)
    softhsm_token.run_tool(*tool, "--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "p256")
    softhsm_token.run_tool(*tool, "--keypairgen", "--key-type", "rsa:2048", "--id", "02", "--label", "rsa")
    softhsm_token.run_tool(*tool, "--keypairgen", "--key-type", "EC:secp256k1", "--id", "03", "--label", "ours")
    async with running(softhsm_token.host_settings()) as host:
        (key,) = await host.find_keys()
        assert (key.label, key.cka_id) == ("ours", b"\x03")
        assert await signs(host, key)


@pytest.mark.parametrize("identifier", [("--id", "01"), ()], ids=["same id and label", "same label, no id"])
async def test_where_halves_can_not_be_told_apart_each_has_to_prove_itself(
    softhsm_token: SoftHSMToken, identifier: tuple[str, ...]
) -> None:
    tool = ("pkcs11-tool", "--module", str(softhsm_token.library), "--login", "--pin", softhsm_token.pin)
    for _ in range(3):
        softhsm_token.run_tool(*tool, "--keypairgen", "--key-type", "EC:secp256k1", "--label", "same", *identifier)
    async with running(softhsm_token.host_settings()) as host:
        keys = await host.find_keys()
        assert len({key.public_key for key in keys}) == 3
        for key in keys:
            assert await signs(host, key)


async def test_a_public_key_alone_is_no_key(softhsm_token: SoftHSMToken) -> None:
    tool = ("pkcs11-tool", "--module", str(softhsm_token.library), "--login", "--pin", softhsm_token.pin)
    softhsm_token.run_tool(*tool, "--keypairgen", "--key-type", "EC:secp256k1", "--id", "01", "--label", "k")
    async with running(softhsm_token.host_settings()) as host:
        (key,) = await host.find_keys()
    softhsm_token.run_tool(*tool, "--delete-object", "--type", "privkey", "--id", "01")
    async with running(softhsm_token.host_settings()) as host:
        assert await host.find_keys() == []
        assert not await signs(host, key)


async def test_a_label_in_no_known_encoding_does_not_hide_its_key(softhsm_token: SoftHSMToken) -> None:
    tool = ("pkcs11-tool", "--module", str(softhsm_token.library), "--login", "--pin", softhsm_token.pin)
    not_utf8 = os.fsdecode(b"\xff\xfe")
    softhsm_token.run_tool(*tool, "--keypairgen", "--key-type", "EC:secp256k1", "--id", "01", "--label", not_utf8)
    async with running(softhsm_token.host_settings()) as host:
        (key,) = await host.find_keys()
        assert (key.label, key.cka_id) == ("", b"\x01")
        assert await signs(host, key)


async def test_a_key_may_be_known_by_its_bare_point(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings(quirks=Quirks(raw_ec_point=True))) as host:
        key = await host.generate_key("k")
        assert await signs(host, key)
        assert not await signs(host, evolve(key, public_key=b"\x04" + bytes(64)))


async def test_a_token_that_signs_with_another_key_makes_no_key(p11fault: FaultModule) -> None:
    async with running(p11fault.settings()) as host:
        p11fault.set(Spoil(Spoiled.CORRUPT))
        failed = await failure_of(lambda: host.generate_key("k"))
        assert failed.outcome.name == "KEY_UNPROVEN"
        p11fault.clear()
        assert await host.find_keys() == []


async def test_a_label_that_fits_no_frame_is_refused_and_costs_nothing(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        refused = await failure_of(lambda: host.generate_key("x" * MAX_FRAME))
        assert refused.outcome.name == "REQUEST_TOO_LARGE"
        await host.generate_key("k")


async def test_short_ids_do_not_collide(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings(quirks=Quirks(cka_id_bytes=1))) as host:
        keys = [await host.generate_key(f"k{number}") for number in range(30)]
        assert len({key.cka_id for key in keys}) == 30
        assert all(len(key.cka_id) == 1 for key in keys)


async def test_more_keys_than_fit_a_frame_are_all_found(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings(call_timeout=60)) as host:
        made = [await host.import_key(os.urandom(32), f"k{number}") for number in range(101)]
        found = await host.find_keys()
        assert len(found) == 101
        assert {key.public_key: key for key in found} == {key.public_key: key for key in made}


async def test_a_token_that_fails_at_making_a_key_leaves_the_host_well(p11fault: FaultModule) -> None:
    async with running(p11fault.settings()) as host:
        p11fault.set(Return("C_GenerateKeyPair", "CKR_DEVICE_ERROR"))
        failed = await failure_of(lambda: host.generate_key("k"))
        assert (failed.outcome.name, failed.outcome.function) == ("CKR_DEVICE_ERROR", "C_GenerateKeyPair")
        p11fault.clear()
        assert await signs(host, await host.generate_key("k"))


@pytest.mark.parametrize("rule", [Return("C_Sign", "CKR_DEVICE_ERROR"), Spoil(Spoiled.TRUNCATE)], ids=str)
async def test_a_new_key_that_can_not_prove_itself_is_removed(p11fault: FaultModule, rule: Rule) -> None:
    async with running(p11fault.settings()) as host:
        p11fault.set(rule)
        await failure_of(lambda: host.generate_key("k"))
        await failure_of(lambda: host.import_key(os.urandom(32), "k"))
        p11fault.clear()
        assert await host.find_keys() == []


async def test_a_half_that_can_not_be_stored_takes_the_other_back(p11fault: FaultModule) -> None:
    async with running(p11fault.settings()) as host:
        p11fault.set(Return("C_CreateObject", "CKR_DEVICE_MEMORY", every=2))
        failed = await failure_of(lambda: host.import_key(os.urandom(32), "k"))
        assert failed.outcome.name == "CKR_DEVICE_MEMORY"
        p11fault.clear()
    listing = p11fault.token.run_tool(
        "pkcs11-tool", "--module", str(p11fault.token.library), "--login", "--pin", p11fault.token.pin,
        "--list-objects",
    )  # fmt: skip
    assert "Key Object" not in listing
