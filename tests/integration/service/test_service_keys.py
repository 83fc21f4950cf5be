"""Keys through the service, on a real token: every way to make, find, change and retire one."""

from __future__ import annotations

from pathlib import Path

import pytest
from services import A_PRIVATE_KEY, A_TRANSACTION, config_for, digest_of, recovered_address, software_config
from softhsm import SoftHSMToken

import manahsm
from manahsm.ethereum.signatures import address_of, public_key_of

pytestmark = pytest.mark.anyio

AN_ADDRESS = address_of(public_key_of(A_PRIVATE_KEY))


async def test_a_key_generated_in_the_token_signs_and_can_not_be_taken_out(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        key = await service.generate_key("hot", role="transaction_signer", backend="hsm", usage=["signing"])
        signature = await service.sign_hash(digest_of(1), "hot")
        (in_token,) = await service._slots[0].pool.hosts[0].find_keys()

    assert recovered_address(signature, digest_of(1)) == key.address
    assert (signature.backend, signature.key_id) == ("hsm", key.key_id)
    assert (key.role, key.backend, key.slots, key.software_twin) == (
        "transaction_signer",
        "hsm",
        ("manahsm-test",),
        False,
    )
    assert (in_token.public_key, in_token.sensitive, in_token.extractable) == (key.public_key, True, False)


async def test_a_key_is_found_by_id_label_and_address_and_by_every_filter(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        hot = await service.generate_key("hot", "transaction_signer", "hsm")
        await service.generate_key("cold", "node_identity", "software")
        found = [await service.get_key(name) for name in (hot.key_id, "hot", hot.address, hot.address.lower())]
        lists = {
            "all": await service.list_keys(),
            "role": await service.list_keys(role="node_identity"),
            "backend": await service.list_keys(backend="hsm"),
            "label": await service.list_keys(label="cold"),
            "usage": await service.list_keys(usage="signing"),
            "both": await service.list_keys(role="node_identity", backend="hsm"),
        }
        with pytest.raises(manahsm.InvalidRequest, match="role must be one of"):
            await service.list_keys(role="king")
        with pytest.raises(manahsm.KeyNotFound):
            await service.get_key("nobody")

    assert {key.key_id for key in found} == {hot.key_id}
    names = {name: [key.label for key in keys] for name, keys in lists.items()}
    assert names == {
        "all": ["hot", "cold"],
        "role": ["cold"],
        "backend": ["hot"],
        "label": ["cold"],
        "usage": ["hot", "cold"],
        "both": [],
    }


async def test_keys_and_their_ids_outlive_a_restart(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    config = config_for(softhsm_token, tmp_path)
    async with manahsm.open_service(config) as service:
        made = [
            await service.generate_key("hot", "transaction_signer", "hsm"),
            await service.generate_key("soft", "node_identity", "software"),
        ]
        await service.sign_hash(digest_of(1), "hot")
    async with manahsm.open_service(config) as service:
        found = await service.list_keys()
        signatures = [await service.sign_hash(digest_of(2), key.key_id) for key in made]

    assert [(key.key_id, key.address, key.label, key.role) for key in found] == [
        (key.key_id, key.address, key.label, key.role) for key in made
    ]
    assert [key.use_count for key in found] == [1, 0]
    assert [recovered_address(signature, digest_of(2)) for signature in signatures] == [key.address for key in made]


async def test_a_key_of_the_token_that_nobody_registered_signs_nothing_until_it_has_a_role(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    softhsm_token.run_tool(
        *("pkcs11-tool", "--module", str(softhsm_token.library), "--token-label", softhsm_token.label),
        *("--login", "--pin", softhsm_token.pin, "--keypairgen", "--key-type", "EC:secp256k1"),
        *("--label", "made elsewhere", "--id", "4711", "--usage-sign"),
    )
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        (found,) = await service.list_keys()
        with pytest.raises(manahsm.RoleDenied, match="no role"):
            await service.sign_hash(digest_of(1), found.key_id)
        assigned = await service.assign_role("made elsewhere", "transaction_signer")
        signature = await service.sign_hash(digest_of(1), "made elsewhere")
        await service.assign_role("made elsewhere", None)
        with pytest.raises(manahsm.RoleDenied, match="no role"):
            await service.sign_hash(digest_of(1), found.key_id)

    assert (found.label, found.role, found.backend, found.slots) == ("made elsewhere", None, "hsm", ("manahsm-test",))
    assert assigned.role == "transaction_signer"
    assert recovered_address(signature, digest_of(1)) == found.address


async def test_a_second_service_finds_the_keys_of_the_first_without_their_roles(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path / "first")) as first:
        made = await first.generate_key("shared", "validator", "hsm")
        async with manahsm.open_service(config_for(softhsm_token, tmp_path / "second")) as second:
            (found,) = await second.list_keys()

    assert (found.key_id, found.address, found.label, found.role) == (made.key_id, made.address, "shared", None)


async def test_an_imported_key_keeps_its_address_with_and_without_a_twin(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        plain = await service.import_key(A_PRIVATE_KEY, "plain", "validator")
        twin = await service.import_key("0x" + "07" * 32, "twin", "transaction_signer", keep_software_twin=True)
        soft = await service.import_key(b"\x08" * 32, "soft", "node_identity", "software")
        signatures = [await service.sign_hash(digest_of(3), key.key_id) for key in (plain, twin, soft)]
        with pytest.raises(manahsm.KeyExists, match="plain"):
            await service.import_key(A_PRIVATE_KEY, "again", "validator")

    assert plain.address == AN_ADDRESS
    assert [key.software_twin for key in (plain, twin, soft)] == [False, True, False]
    assert [signature.backend for signature in signatures] == ["hsm", "hsm", "software"]
    assert [recovered_address(signature, digest_of(3)) for signature in signatures] == [
        key.address for key in (plain, twin, soft)
    ]
    files = {path.stem for path in (tmp_path / "state" / "keystore").glob("*.json")}
    assert files == {twin.key_id, soft.key_id}


async def test_a_rotated_key_is_retired_and_signs_no_more(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        old = await service.generate_key("main", "transaction_signer", "hsm")
        new = await service.rotate_key("main")
        retired = await service.get_key(old.key_id)
        signed = await service.sign_transaction_with_role(A_TRANSACTION, "transaction_signer", 31337)
        with pytest.raises(manahsm.RoleDenied, match="retired"):
            await service.sign_hash(digest_of(1), old.key_id)
        with pytest.raises(manahsm.PolicyDenied, match="retired"):
            await service.rotate_key(old.key_id)
        labels = {key.public_key: key.label for key in await service._slots[0].pool.hosts[0].find_keys()}

    assert (new.label, new.role, new.backend, new.slots) == ("main", old.role, "hsm", old.slots)
    assert new.address != old.address
    assert (retired.label, retired.state) == (f"main@{old.key_id}", "retired")
    assert signed.key_id == new.key_id
    assert labels == {new.public_key: "main", old.public_key: f"main@{old.key_id}"}


async def test_software_keys_are_deleted_and_token_keys_never(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        hot = await service.generate_key("hot", "validator", "hsm")
        soft = await service.generate_key("soft", "node_identity", "software")
        deleted = await service.delete_key("soft")
        with pytest.raises(manahsm.KeyNotFound):
            await service.sign_hash(digest_of(1), soft.key_id)
        with pytest.raises(manahsm.PolicyDenied, match="never destroys"):
            await service.delete_key("hot")
        kept = await service.list_keys()

    assert deleted.key_id == soft.key_id
    assert [key.key_id for key in kept] == [hot.key_id]
    assert list((tmp_path / "state" / "keystore").glob("*.json")) == []


async def test_roles_bound_to_tokens_never_meet_software(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        key = await service.import_key(A_PRIVATE_KEY, "v", "validator")
        soft = await service.generate_key("soft", "node_identity", "software")
        twin = await service.import_key(b"\x07" * 32, "twin", "transaction_signer", keep_software_twin=True)
        for attempt in (
            service.generate_key("w", "validator", "software"),
            service.import_key(b"\x09" * 32, "w", "admin", "software"),
            service.import_key(b"\x09" * 32, "w", "admin", keep_software_twin=True),
            service.assign_role(soft.key_id, "validator"),
            service.assign_role(twin.key_id, "admin"),
        ):
            with pytest.raises(manahsm.PolicyDenied, match="require_hsm_for_roles"):
                await attempt
        by_default = await service.generate_key("w", "validator")
        with pytest.raises(manahsm.RoleDenied, match="in a token only"):
            await service.sign_transaction(A_TRANSACTION, A_PRIVATE_KEY, 31337)
        signed = await service.sign_transaction(A_TRANSACTION, key.key_id, 31337)

    assert by_default.backend == "hsm"
    assert signed.backend == "hsm"


async def test_a_software_key_whose_role_became_bound_to_tokens_is_neither_used_nor_rotated(tmp_path: Path) -> None:
    lax = software_config(
        tmp_path,
        security_policy={"require_hsm_for_roles": [], "key_generation_policy": {"default_backend": "software"}},
    )
    async with manahsm.open_service(lax) as service:
        key = await service.generate_key("v", "validator")
    async with manahsm.open_service(software_config(tmp_path)) as service:
        with pytest.raises(manahsm.RoleDenied, match="in a token only"):
            await service.sign_hash(digest_of(1), key.key_id)
        with pytest.raises(manahsm.PolicyDenied, match="in a token only"):
            await service.rotate_key(key.key_id)
        kept = await service.list_keys()

    assert [known.key_id for known in kept] == [key.key_id]


@pytest.mark.parametrize("label", ["", "a\nb", "x" * 65, "0x" + "11" * 32, "11" * 32])
async def test_a_label_that_may_not_be_used_makes_no_key(
    softhsm_token: SoftHSMToken, tmp_path: Path, label: str
) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        with pytest.raises(manahsm.InvalidRequest):
            await service.generate_key(label, "transaction_signer", "hsm")
        in_token = await service._slots[0].pool.hosts[0].find_keys()

    assert in_token == []


async def test_a_label_that_is_taken_makes_no_key(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        first = await service.generate_key("main", "transaction_signer", "hsm")
        with pytest.raises(manahsm.KeyExists, match="main"):
            await service.generate_key("main", "transaction_signer", "hsm")
        with pytest.raises(manahsm.KeyExists, match="main"):
            await service.import_key(A_PRIVATE_KEY, "main", "transaction_signer")
        in_token = await service._slots[0].pool.hosts[0].find_keys()

    assert [key.public_key for key in in_token] == [first.public_key]


async def test_while_one_host_ends_another_looks_after_the_keys(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        slot = service._slots[0]
        await service.filled()
        ending, other = slot.pool.hosts
        assert ending._link is not None
        ending._link.stop()  # it takes nothing new from now on, and is still in the pool
        key = await service.generate_key("hot", "transaction_signer")
        new = await service.rotate_key(key.key_id)
        labels = {found.public_key: found.label for found in await other.find_keys()}

    assert labels[new.public_key] == "hot"
    assert labels[key.public_key] != "hot"


async def test_an_import_reaches_every_slot_that_is_up(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    second = SoftHSMToken.create(softhsm_token.directory, label="second", pin=softhsm_token.pin)
    config = config_for(
        softhsm_token,
        tmp_path,
        slots=[{"token_label": softhsm_token.label}, {"token_label": "second", "priority": "backup"}],
    )
    del config["hsm"]["token_label"]
    async with manahsm.open_service(config) as service:
        key = await service.import_key(A_PRIVATE_KEY, "everywhere", "transaction_signer")
        made = await service.generate_key("here", "transaction_signer")
        status = await service.status()

    assert key.slots == (softhsm_token.label, second.label)
    assert made.slots == (softhsm_token.label,)
    assert [slot.keys for slot in status.slots] == [2, 1]


async def test_without_a_passphrase_there_are_no_software_keys(tmp_path: Path) -> None:
    config = software_config(tmp_path)
    del config["hsm"]["keystore"]
    async with manahsm.open_service(config) as service:
        with pytest.raises(manahsm.KeystoreError, match="passphrase_file"):
            await service.generate_key("soft", "node_identity", "software")
        with pytest.raises(manahsm.HSMUnavailable, match="no slot is configured"):
            await service.generate_key("hot", "node_identity", "hsm")


async def test_one_key_a_role_is_what_signing_with_a_role_needs(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        with pytest.raises(manahsm.InvalidRequest, match="found: none"):
            await service.sign_transaction_with_role(A_TRANSACTION, "admin", 31337)
        for label in ("a", "b"):
            await service.generate_key(label, "admin")
        with pytest.raises(manahsm.InvalidRequest, match="found: a, b"):
            await service.sign_transaction_with_role(A_TRANSACTION, "admin", 31337)
