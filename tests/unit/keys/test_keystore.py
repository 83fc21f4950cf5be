"""Software keys on disk: private, whole, readable by other clients, and never shown."""

from __future__ import annotations

import hashlib
import json
import pickle
import stat
from pathlib import Path
from typing import Any

import anyio
import pytest
from eth_keyfile import create_keyfile_json, decode_keyfile_json

from manahsm.config.model import Kdf
from manahsm.config.secret import Secret
from manahsm.errors import KeystoreError
from manahsm.ethereum.signatures import address_of, keccak256, key_id_of, public_key_of, recover, sign
from manahsm.keys.keystore import Keystore, KeystoreEntry

pytestmark = pytest.mark.anyio

PASSPHRASE = "correct horse Батарея"
PRIVATE = bytes.fromhex("4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318")
KEY_ID = key_id_of(public_key_of(PRIVATE))
LIGHT = 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keystore"


@pytest.fixture
def keystore(folder: Path) -> Keystore:
    return again(folder)


def again(folder: Path, passphrase: str = PASSPHRASE) -> Keystore:
    return Keystore(folder, Secret(passphrase), iterations=LIGHT)


def path_of(folder: Path, key_id: str = KEY_ID) -> Path:
    return folder / f"{key_id}.json"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_crypto(path: Path, **changes: Any) -> None:
    edit(path, crypto={**json.loads(path.read_text())["crypto"], **changes})


async def test_a_stored_key_comes_back_after_a_restart(keystore: Keystore, folder: Path) -> None:
    assert await keystore.store(PRIVATE) == public_key_of(PRIVATE)
    unlocked = await again(folder).unlock(KEY_ID)
    assert (unlocked.key_id, unlocked.public_key) == (KEY_ID, public_key_of(PRIVATE))
    assert unlocked.private_key.secret == PRIVATE


async def test_a_created_key_signs(keystore: Keystore, folder: Path) -> None:
    public_key = await keystore.create("a name")
    unlocked = await again(folder).unlock(key_id_of(public_key))
    digest = bytes(range(32))
    assert recover(sign(unlocked.private_key, digest), digest) == public_key


async def test_created_keys_differ(keystore: Keystore) -> None:
    assert await keystore.create() != await keystore.create()


@pytest.mark.parametrize("kdf", Kdf)
async def test_other_clients_can_read_the_file(folder: Path, kdf: Kdf) -> None:
    await Keystore(folder, Secret(PASSPHRASE), kdf=kdf, iterations=LIGHT).store(PRIVATE, "main")
    content = json.loads(path_of(folder).read_text())
    assert content["version"] == 3
    assert content["crypto"]["kdf"] == kdf
    assert content["address"] == address_of(public_key_of(PRIVATE))[2:].lower()
    assert decode_keyfile_json(content, PASSPHRASE.encode()) == PRIVATE
    assert PRIVATE.hex() not in path_of(folder).read_text().lower()


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
async def test_a_file_of_another_client_can_be_read(folder: Path, keystore: Keystore, kdf: str) -> None:
    content: dict[str, Any] = create_keyfile_json(PRIVATE, PASSPHRASE.encode(), kdf=kdf, iterations=LIGHT)
    content["Crypto"] = content.pop("crypto")  # as early clients wrote it
    del content["address"]  # optional in version 3
    folder.mkdir(parents=True)
    path_of(folder).write_text(json.dumps(content))
    assert (await keystore.unlock(KEY_ID)).private_key.secret == PRIVATE


async def test_files_and_folder_are_private(keystore: Keystore, folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    await keystore.store(PRIVATE)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path_of(folder).stat().st_mode) == 0o600


async def test_nothing_but_the_file_is_left_in_the_folder(keystore: Keystore, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / ".tmp-of-a-crash").touch()
    await keystore.store(PRIVATE)
    assert list(folder.iterdir()) == [path_of(folder)]


async def test_storing_a_key_again_changes_nothing(keystore: Keystore, folder: Path) -> None:
    await keystore.store(PRIVATE)
    before = path_of(folder).read_bytes()
    assert await again(folder).store(PRIVATE) == public_key_of(PRIVATE)
    assert path_of(folder).read_bytes() == before


async def test_storing_a_key_whose_file_has_another_passphrase_does_not_overwrite_it(
    keystore: Keystore, folder: Path
) -> None:
    await keystore.store(PRIVATE)
    before = path_of(folder).read_bytes()
    with pytest.raises(KeystoreError, match="does not open"):
        await again(folder, "another").store(PRIVATE)
    assert path_of(folder).read_bytes() == before


async def test_an_unlocked_key_stays_in_memory_until_it_is_locked(keystore: Keystore, folder: Path) -> None:
    await keystore.store(PRIVATE)
    unlocked = await keystore.unlock(KEY_ID)
    path_of(folder).rename(folder / "away")
    assert await keystore.unlock(KEY_ID) is unlocked
    assert keystore.unlocked(KEY_ID) is unlocked
    keystore.lock()
    assert keystore.unlocked(KEY_ID) is None
    with pytest.raises(KeystoreError, match="no keystore file"):
        await keystore.unlock(KEY_ID)


async def test_callers_who_unlock_at_once_share_one_derivation(folder: Path) -> None:
    await again(folder).store(PRIVATE)
    asked = []

    def passphrase() -> Secret:
        asked.append(1)
        return Secret(PASSPHRASE)

    keystore = Keystore(folder, passphrase, iterations=LIGHT)
    found = []

    async def unlock() -> None:
        found.append(await keystore.unlock(KEY_ID))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(unlock)
    assert len({id(key) for key in found}) == 1
    assert len(asked) == 1


async def test_a_deleted_key_is_gone_from_disk_and_memory(keystore: Keystore, folder: Path) -> None:
    await keystore.store(PRIVATE)
    await keystore.delete(KEY_ID)
    assert list(folder.iterdir()) == []
    for attempt in (keystore.unlock(KEY_ID), keystore.delete(KEY_ID)):
        with pytest.raises(KeystoreError, match="no keystore file"):
            await attempt


async def test_files_are_listed_without_the_passphrase(keystore: Keystore, folder: Path) -> None:
    assert await keystore.list() == ()
    await keystore.store(PRIVATE, "main")
    (folder / "notes.txt").write_text("x")
    (folder / ("0" * 16 + ".json")).write_text("not JSON")
    (folder / ("1" * 16 + ".json")).mkdir()
    address = address_of(public_key_of(PRIVATE)).lower()
    expected = KeystoreEntry(key_id=KEY_ID, address=address, name="main", path=path_of(folder))
    assert await again(folder, "wrong").list() == (expected,)


async def test_a_wrong_passphrase_is_told_from_nothing_else(keystore: Keystore, folder: Path) -> None:
    await keystore.store(PRIVATE)
    with pytest.raises(KeystoreError, match=r"does not open with this passphrase; check") as caught:
        await again(folder, "wrong horse").unlock(KEY_ID)
    assert str(path_of(folder)) in str(caught.value)
    assert "horse" not in str(caught.value)


async def test_a_file_that_holds_another_key_is_refused(keystore: Keystore, folder: Path) -> None:
    other = await keystore.create()
    path_of(folder, key_id_of(other)).rename(path_of(folder))
    with pytest.raises(KeystoreError, match="another key than its name says"):
        await again(folder).unlock(KEY_ID)


async def test_a_file_whose_address_is_not_its_keys_is_refused(keystore: Keystore, folder: Path) -> None:
    await keystore.store(PRIVATE)
    edit(path_of(folder), address="00" * 20)
    with pytest.raises(KeystoreError, match="another key than its address says"):
        await again(folder).unlock(KEY_ID)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b"\xff\xfe"), "not JSON"),
        (lambda path: path.write_text("[]"), "not a version 3"),
        (lambda path: edit(path, version=4), "not a version 3"),
        (lambda path: edit(path, crypto=None), "damaged"),
        (lambda path: edit(path, crypto={}), "damaged"),
        (lambda path: edit_crypto(path, kdf="argon2"), "damaged"),
        (lambda path: edit_crypto(path, ciphertext="zz"), "damaged"),
        (lambda path: edit_crypto(path, ciphertext="00" * 32), "does not open"),
        (lambda path: edit_crypto(path, cipherparams={}), "damaged"),
        (lambda path: edit(path, address=5), "another key"),
    ],
)
async def test_a_damaged_file_is_explained(keystore: Keystore, folder: Path, damage: Any, message: str) -> None:
    await keystore.store(PRIVATE)
    damage(path_of(folder))
    with pytest.raises(KeystoreError, match=message):
        await again(folder).unlock(KEY_ID)


@pytest.mark.parametrize(
    "kdf_and_parameters",
    [
        ("scrypt", {"n": 2**40}),
        ("scrypt", {"r": 2**30}),
        ("scrypt", {"p": 17}),
        ("pbkdf2", {"c": 10**12, "prf": "hmac-sha256"}),
    ],
)
async def test_a_file_that_would_exhaust_the_machine_is_not_opened(
    keystore: Keystore, folder: Path, kdf_and_parameters: tuple[str, dict[str, Any]]
) -> None:
    await keystore.store(PRIVATE)
    kdf, parameters = kdf_and_parameters
    usual = json.loads(path_of(folder).read_text())["crypto"]["kdfparams"]
    edit_crypto(path_of(folder), kdf=kdf, kdfparams={**usual, **parameters})
    with pytest.raises(KeystoreError, match="more memory or time"):
        await again(folder).unlock(KEY_ID)


async def test_a_file_with_a_key_outside_the_curve_is_refused(keystore: Keystore, folder: Path) -> None:
    await keystore.store(PRIVATE)
    crypto = json.loads(path_of(folder).read_text())["crypto"]
    salt = bytes.fromhex(crypto["kdfparams"]["salt"])
    derived = hashlib.scrypt(PASSPHRASE.encode(), salt=salt, n=LIGHT, r=8, p=1, dklen=32)
    # AES-CTR: the same bits flipped in the ciphertext make the private key 0, and the MAC is honest.
    zeroed = bytes(a ^ b for a, b in zip(bytes.fromhex(crypto["ciphertext"]), PRIVATE, strict=True))
    mac = keccak256(derived[16:] + zeroed)
    edit_crypto(path_of(folder), ciphertext=zeroed.hex(), mac=mac.hex())
    with pytest.raises(KeystoreError, match="no valid private key"):
        await again(folder).unlock(KEY_ID)


@pytest.mark.parametrize("key_id", ["", "../../../etc/passwd", "0" * 15, "0" * 17, "0" * 15 + "/"])
async def test_only_key_ids_become_file_names(keystore: Keystore, key_id: str) -> None:
    with pytest.raises(KeystoreError, match="16 hexadecimal"):
        await keystore.unlock(key_id)


async def test_a_folder_that_can_not_be_used_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    keystore = again(tmp_path / "file")
    with pytest.raises(KeystoreError, match="cannot be written"):
        await keystore.store(PRIVATE)
    for attempt in (keystore.unlock(KEY_ID), keystore.list(), keystore.delete(KEY_ID)):
        with pytest.raises(KeystoreError, match="cannot be"):
            await attempt
    assert keystore.unlocked(KEY_ID) is None


async def test_an_error_of_the_passphrase_reaches_the_caller(folder: Path) -> None:
    def missing() -> Secret:
        raise KeystoreError("no passphrase_file")

    with pytest.raises(KeystoreError, match="no passphrase_file"):
        await Keystore(folder, missing, iterations=LIGHT).store(PRIVATE)
    assert not folder.exists()


async def test_an_unlocked_key_shows_nothing_and_does_not_leave_the_process(keystore: Keystore) -> None:
    await keystore.store(PRIVATE)
    unlocked = await keystore.unlock(KEY_ID)
    for shown in (repr(unlocked), str(unlocked), f"{unlocked}", repr([unlocked])):
        assert KEY_ID in shown
        assert PRIVATE.hex() not in shown
        assert "PrivateKey" not in shown
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(unlocked)


def test_scrypt_takes_powers_of_two_only(folder: Path) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Keystore(folder, Secret(PASSPHRASE), iterations=1000)
    Keystore(folder, Secret(PASSPHRASE), kdf=Kdf.PBKDF2, iterations=1000)
