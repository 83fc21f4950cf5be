"""The registry: found at once, changed durably, and never half."""

from __future__ import annotations

import gc
import sqlite3
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import evolve
from key_samples import A_DAY, public_key, sample_key

from manahsm.errors import InvalidRequest, KeyExists, KeyNotFound, RegistryError, RoleDenied
from manahsm.keys.index import Change
from manahsm.keys.registry import KeyRegistry
from manahsm.keys.store import SCHEMA_VERSION
from manahsm.requests import Backend, KeyInfo, KeyState, Role, Usage

pytestmark = pytest.mark.anyio

PRIVATE = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "registry.sqlite3"


@pytest.fixture
async def registry(path: Path) -> AsyncIterator[KeyRegistry]:
    async with KeyRegistry.open(path, now=lambda: A_DAY) as registry:
        yield registry


async def reopened(path: Path) -> list[KeyInfo]:
    async with KeyRegistry.open(path) as registry:
        return registry.list()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_key_is_found_by_id_label_and_address(registry: KeyRegistry) -> None:
    key = await registry.add(sample_key(1, label="main"))
    for reference in (
        key.key_id,
        key.key_id.upper(),
        "main",
        key.address,
        key.address.lower(),
        "0x" + key.address[2:].upper(),
        "0X" + key.address[2:].lower(),
    ):
        assert registry.resolve(reference) is key


async def test_keys_in_software_are_those_that_live_there_or_have_a_twin(registry: KeyRegistry) -> None:
    home = await registry.add(sample_key(1, backend=Backend.SOFTWARE))
    twin = await registry.add(sample_key(2, software_twin=True))
    await registry.add(sample_key(3))
    await registry.add(sample_key(4, backend=Backend.SOFTWARE))
    successor = await registry.rotate(sample_key(4).key_id, sample_key(5, backend=Backend.SOFTWARE))

    assert await registry.in_software() == [home.key_id, twin.key_id, successor.key_id]


@pytest.mark.parametrize("changes", [1, 2, 100])
async def test_keys_that_change_meanwhile_are_seen_as_they_are_at_the_end(
    registry: KeyRegistry, monkeypatch: pytest.MonkeyPatch, changes: int
) -> None:
    """With so many changes that it never goes through all of them in peace, too."""
    monkeypatch.setattr("manahsm.keys.registry._AT_ONCE", 1)
    numbers = iter(range(1, 1000))
    for _ in range(3):
        await registry.add(sample_key(next(numbers), backend=Backend.SOFTWARE))
    left = changes

    async def change() -> None:
        nonlocal left
        if left:
            left -= 1
            if left % 2:
                await registry.remove(registry.list()[0].key_id)
            await registry.add(sample_key(next(numbers), backend=Backend.SOFTWARE))

    monkeypatch.setattr("manahsm.keys.registry.checkpoint", change)

    assert await registry.in_software() == [key.key_id for key in registry.list()]


@pytest.mark.parametrize("reference", ["Main", "other", "", "0123456789abcdef", "0x" + "00" * 20])
async def test_a_name_that_no_key_has_is_not_found(registry: KeyRegistry, reference: str) -> None:
    await registry.add(sample_key(1, label="main"))
    with pytest.raises(KeyNotFound):
        registry.resolve(reference)


async def test_an_address_without_0x_is_no_reference(registry: KeyRegistry) -> None:
    key = await registry.add(sample_key(1))
    with pytest.raises(KeyNotFound):
        registry.resolve(key.address[2:])


async def test_an_address_with_a_wrong_checksum_is_not_found(registry: KeyRegistry) -> None:
    key = await registry.add(sample_key(1))
    swapped = "0x" + key.address[2:].swapcase()
    assert swapped.lower() == key.address.lower()
    with pytest.raises(KeyNotFound):
        registry.resolve(swapped)


@pytest.mark.parametrize(
    "reference",
    [PRIVATE, "0x" + PRIVATE, bytes.fromhex(PRIVATE), bytearray.fromhex(PRIVATE), int(PRIVATE, 16), None],
)
async def test_a_private_key_in_place_of_a_name_is_refused_and_not_repeated(
    registry: KeyRegistry, reference: Any
) -> None:
    with pytest.raises(KeyNotFound) as caught:
        registry.resolve(reference)
    assert "4c" not in str(caught.value)
    assert str(int(PRIVATE, 16))[:6] not in str(caught.value)
    assert caught.value.__context__ is None


async def test_everything_about_a_key_survives_a_restart(path: Path) -> None:
    keys = [
        sample_key(1),
        sample_key(
            2,
            label="Schlüssel",
            role=None,
            backend=Backend.SOFTWARE,
            usage=(),
            slots=("b", "a"),
            software_twin=True,
            created_at=datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            last_used=datetime(2999, 1, 1, tzinfo=UTC),
            use_count=2**40,
        ),
    ]
    async with KeyRegistry.open(path) as registry:
        for key in keys:
            await registry.add(key)
    assert await reopened(path) == keys


async def test_files_and_folder_are_private(registry: KeyRegistry, path: Path) -> None:
    await registry.add(sample_key(1))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert path.name + "-wal" in modes
    assert set(modes.values()) == {0o600}


async def test_a_folder_that_was_open_to_others_is_closed(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    path.parent.chmod(0o755)
    path.touch()
    path.chmod(0o666)
    await reopened(path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_second_opener_is_told_who_is_in_the_way(registry: KeyRegistry, path: Path) -> None:
    with pytest.raises(RegistryError, match="another manahsm process"):
        await reopened(path)
    await registry.add(sample_key(1))


async def test_the_file_can_be_opened_again_once_closed(path: Path) -> None:
    for _ in range(3):
        assert await reopened(path) == []


async def test_opening_and_closing_leaves_no_descriptor(path: Path) -> None:
    await reopened(path)
    before = open_descriptors()
    for _ in range(5):
        await reopened(path)
    assert open_descriptors() == before


# --- adding ---------------------------------------------------------------------------------------------------------


async def test_a_key_that_is_there_is_not_added_again(registry: KeyRegistry) -> None:
    await registry.add(sample_key(1))
    with pytest.raises(KeyExists, match="registered already, as 'key 1'"):
        await registry.add(sample_key(1, label="other"))
    assert registry.list() == [sample_key(1)]


async def test_a_label_that_is_taken_is_not_given_twice(registry: KeyRegistry) -> None:
    await registry.add(sample_key(1, label="main"))
    with pytest.raises(KeyExists, match="'main' is taken"):
        await registry.add(sample_key(2, label="main"))
    assert len(registry) == 1


async def test_a_label_that_breaks_the_rules_is_refused(registry: KeyRegistry) -> None:
    with pytest.raises(InvalidRequest, match="label"):
        await registry.add(sample_key(1, label=PRIVATE))


@pytest.mark.parametrize("wrong", [{"key_id": "0" * 16}, {"address": "0x" + "00" * 20}])
async def test_a_key_that_contradicts_itself_is_refused(registry: KeyRegistry, wrong: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="not those of the public key"):
        await registry.add(sample_key(1, **wrong))


async def test_a_key_that_was_only_discovered_is_completed(registry: KeyRegistry) -> None:
    """A key can be seen in its token before the call that generated it has registered it."""
    await registry.set_slots("a", {public_key(1): "from token"})
    added = await registry.add(sample_key(1, label="main", slots=("b",), created_at=A_DAY + timedelta(1)))
    assert added == sample_key(1, label="main", slots=("a", "b"), created_at=A_DAY)
    assert registry.list() == [added]
    with pytest.raises(KeyNotFound):
        registry.resolve("from token")


# --- slots ----------------------------------------------------------------------------------------------------------


async def test_a_key_found_in_a_token_has_no_role(registry: KeyRegistry) -> None:
    change = await registry.set_slots("a", {public_key(1): "dev"})
    expected = sample_key(1, label="dev", role=None, slots=("a",))
    assert change.discovered == (expected,)
    assert registry.resolve("dev") == expected


async def test_keys_of_one_label_in_a_token_get_labels_of_their_own(registry: KeyRegistry) -> None:
    await registry.set_slots("a", {public_key(n): "same" for n in (1, 2, 3)})
    one, two, three = registry.list()
    assert [one.label, two.label, three.label] == ["same", f"same-{two.key_id}", f"same-{three.key_id}"]


async def test_slots_follow_what_the_tokens_hold(registry: KeyRegistry) -> None:
    await registry.add(sample_key(1))
    await registry.set_slots("a", {public_key(1): "", public_key(2): ""})
    change = await registry.set_slots("b", {public_key(1): ""})
    assert [key.slots for key in change.gained] == [("a", "b")]
    change = await registry.set_slots("a", {public_key(2): ""})
    assert [key.slots for key in change.lost] == [("b",)]
    assert [key.slots for key in registry.list()] == [("b",), ("a",)]
    assert registry.list()[0].role is Role.TRANSACTION_SIGNER


async def test_a_look_that_finds_nothing_new_changes_nothing(registry: KeyRegistry, path: Path) -> None:
    await registry.set_slots("a", {public_key(1): "x"})
    before = path.with_name(path.name + "-wal").stat().st_size
    change = await registry.set_slots("a", {public_key(1): "renamed in the token"})
    assert (change.discovered, change.gained, change.lost) == ((), (), ())
    assert path.with_name(path.name + "-wal").stat().st_size == before


async def test_a_retired_key_in_a_token_stays_retired(registry: KeyRegistry) -> None:
    old = await registry.add(sample_key(1, slots=("a",)))
    await registry.rotate(old.key_id, sample_key(2, slots=("a",)))
    await registry.set_slots("a", {public_key(1): "", public_key(2): ""})
    assert registry.resolve(old.key_id).state is KeyState.RETIRED


# --- changing -------------------------------------------------------------------------------------------------------


async def test_a_role_can_be_given_and_taken(registry: KeyRegistry) -> None:
    key = await registry.add(sample_key(1, role=None))
    assert (await registry.set_role(key.key_id, Role.ADMIN)).role is Role.ADMIN
    assert registry.resolve(key.key_id).role is Role.ADMIN
    assert (await registry.set_role(key.key_id, None)).role is None


async def test_a_new_label_frees_the_old_one(registry: KeyRegistry) -> None:
    key = await registry.add(sample_key(1, label="old"))
    await registry.relabel(key.key_id, "new")
    assert registry.resolve("new").key_id == key.key_id
    with pytest.raises(KeyNotFound):
        registry.resolve("old")
    await registry.add(sample_key(2, label="old"))


async def test_a_key_may_be_given_the_label_it_has(registry: KeyRegistry) -> None:
    key = await registry.add(sample_key(1))
    assert await registry.relabel(key.key_id, key.label) == key
    assert registry.resolve(key.label) == key


async def test_relabelling_keeps_the_rules(registry: KeyRegistry) -> None:
    key = await registry.add(sample_key(1))
    await registry.add(sample_key(2, label="taken"))
    with pytest.raises(KeyExists):
        await registry.relabel(key.key_id, "taken")
    with pytest.raises(InvalidRequest):
        await registry.relabel(key.key_id, "")
    assert registry.resolve("taken").key_id == sample_key(2).key_id


async def test_a_twin_is_noted_and_forgotten(registry: KeyRegistry) -> None:
    key = await registry.add(sample_key(1))
    assert (await registry.set_software_twin(key.key_id, software_twin=True)).software_twin
    assert not (await registry.set_software_twin(key.key_id, software_twin=False)).software_twin


async def test_rotation_hands_on_label_and_role_and_retires(registry: KeyRegistry) -> None:
    old = await registry.add(sample_key(1, label="main", role=Role.VALIDATOR))
    new = await registry.rotate(old.key_id, sample_key(2, label="ignored", role=None))
    assert new == sample_key(2, label="main", role=Role.VALIDATOR)
    assert registry.resolve("main") == new
    retired = evolve(old, label=f"main@{old.key_id}", state=KeyState.RETIRED)
    for reference in (old.key_id, old.address, retired.label):
        assert registry.resolve(reference) == retired
    with pytest.raises(KeyNotFound):
        registry.resolve("ignored")


async def test_a_rotation_survives_a_restart(path: Path) -> None:
    async with KeyRegistry.open(path) as registry:
        old = await registry.add(sample_key(1))
        await registry.rotate(old.key_id, sample_key(2))
        expected = registry.list()
    assert await reopened(path) == expected


async def test_a_key_can_be_rotated_to_one_that_its_token_showed_first(registry: KeyRegistry) -> None:
    old = await registry.add(sample_key(1, label="main"))
    await registry.set_slots("a", {public_key(2): "fresh"})
    new = await registry.rotate(old.key_id, sample_key(2))
    assert new == sample_key(2, label="main", slots=("a",))
    with pytest.raises(KeyNotFound):
        registry.resolve("fresh")


async def test_a_key_is_not_rotated_to_itself_or_to_one_in_use(registry: KeyRegistry) -> None:
    old = await registry.add(sample_key(1))
    used = await registry.add(sample_key(2))
    for new in (old, used):
        with pytest.raises(KeyExists):
            await registry.rotate(old.key_id, new)
    assert registry.list() == [old, used]


async def test_labels_pass_down_a_line_of_rotations(registry: KeyRegistry) -> None:
    first = await registry.add(sample_key(1, label="main"))
    second = await registry.rotate(first.key_id, sample_key(2))
    third = await registry.rotate(second.key_id, sample_key(3))
    assert registry.resolve("main") == third
    assert registry.resolve(f"main@{first.key_id}").key_id == first.key_id
    assert registry.resolve(f"main@{second.key_id}").key_id == second.key_id


async def test_a_retired_key_is_not_changed_any_more(registry: KeyRegistry) -> None:
    old = await registry.add(sample_key(1))
    await registry.rotate(old.key_id, sample_key(2))
    before = registry.list()
    for change in (
        registry.set_role(old.key_id, Role.ADMIN),
        registry.relabel(old.key_id, "other"),
        registry.rotate(old.key_id, sample_key(3)),
    ):
        with pytest.raises(RoleDenied, match="retired"):
            await change
    with pytest.raises(KeyExists):
        await registry.add(sample_key(1))
    assert registry.list() == before


async def test_a_removed_key_is_gone_and_its_label_is_free(registry: KeyRegistry) -> None:
    key = await registry.add(sample_key(1, label="main"))
    registry.record_use(key.key_id, A_DAY)
    assert await registry.remove(key.key_id) == evolve(key, use_count=1, last_used=A_DAY)
    for reference in (key.key_id, key.label, key.address):
        with pytest.raises(KeyNotFound):
            registry.resolve(reference)
    assert (await registry.add(sample_key(2, label="main"))).use_count == 0


async def test_changing_a_key_that_is_not_there_says_so(registry: KeyRegistry) -> None:
    for change in (
        registry.set_role("0" * 16, Role.ADMIN),
        registry.relabel("0" * 16, "x"),
        registry.rotate("0" * 16, sample_key(1)),
        registry.remove("0" * 16),
        registry.set_software_twin("0" * 16, software_twin=True),
    ):
        with pytest.raises(KeyNotFound, match="'0000000000000000'"):
            await change


# --- lists ----------------------------------------------------------------------------------------------------------


async def test_lists_are_filtered(registry: KeyRegistry) -> None:
    one = await registry.add(sample_key(1, role=Role.VALIDATOR))
    two = await registry.add(sample_key(2, backend=Backend.SOFTWARE, usage=()))
    three = await registry.rotate(one.key_id, sample_key(3))
    one = registry.resolve(one.key_id)
    assert registry.list() == [one, two, three]
    assert registry.list(role="validator") == [one, three]
    assert registry.list(role=Role.VALIDATOR, state="active") == [three]
    assert registry.list(backend=Backend.SOFTWARE) == [two]
    assert registry.list(label="key 1") == [three]
    assert registry.list(usage=Usage.SIGNING) == [one, three]
    assert registry.list(state=KeyState.RETIRED) == [one]
    assert registry.list(role="admin") == []


# --- counters -------------------------------------------------------------------------------------------------------


async def test_uses_are_seen_at_once_and_survive_a_restart(path: Path) -> None:
    async with KeyRegistry.open(path) as registry:
        key = await registry.add(sample_key(1, use_count=5, last_used=A_DAY))
        registry.record_use(key.key_id, A_DAY + timedelta(seconds=2))
        registry.record_use(key.key_id, A_DAY + timedelta(seconds=1))
        expected = evolve(key, use_count=7, last_used=A_DAY + timedelta(seconds=2))
        assert registry.get(key.label) == expected
        assert registry.list() == [expected]
    assert await reopened(path) == [expected]


async def test_counting_does_not_disturb_what_signing_resolves(registry: KeyRegistry) -> None:
    key = await registry.add(sample_key(1))
    registry.record_use(key.key_id, A_DAY)
    await registry.flush()
    assert registry.resolve(key.key_id) is key


async def test_flushed_counters_survive_later_changes(path: Path) -> None:
    async with KeyRegistry.open(path) as registry:
        key = await registry.add(sample_key(1))
        registry.record_use(key.key_id, A_DAY)
        await registry.flush()
        await registry.relabel(key.key_id, "other")
        await registry.flush()
    (after,) = await reopened(path)
    assert (after.use_count, after.last_used, after.label) == (1, A_DAY, "other")


async def test_a_use_of_a_key_that_is_gone_is_passed_over(registry: KeyRegistry) -> None:
    registry.record_use("0" * 16, A_DAY)
    await registry.flush()
    assert registry.list() == []


# --- trouble --------------------------------------------------------------------------------------------------------


def full(registry: KeyRegistry) -> None:
    """Let SQLite's file grow no more: its own SQLITE_FULL, as on a full disk."""
    registry._store._connection.execute("PRAGMA max_page_count = 1")


def not_full(registry: KeyRegistry) -> None:
    registry._store._connection.execute("PRAGMA max_page_count = 1000000")


async def test_on_a_full_disk_nothing_is_changed_and_it_goes_on_after(path: Path) -> None:
    async with KeyRegistry.open(path) as registry:
        await registry.add(sample_key(1))
        full(registry)
        many = {public_key(n): "" for n in range(2, 400)}
        with pytest.raises(RegistryError, match="full; nothing was changed"):
            await registry.set_slots("a", many)
        assert registry.list() == [sample_key(1)]
        not_full(registry)
        await registry.set_slots("a", many)
        expected = registry.list()
    assert len(expected) == 399
    assert await reopened(path) == expected


async def test_counters_that_could_not_be_written_are_written_later(path: Path) -> None:
    async with KeyRegistry.open(path) as registry:
        key = await registry.add(sample_key(1))
        registry.record_use(key.key_id, A_DAY)
        registry._store._connection.execute("PRAGMA query_only = on")
        with pytest.raises(RegistryError):
            await registry.flush()
        registry._store._connection.execute("PRAGMA query_only = off")
    (after,) = await reopened(path)
    assert after.use_count == 1


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
async def test_the_garbage_collector_is_left_as_it_was(path: Path, enabled: bool, frozen: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    try:
        if frozen:
            gc.freeze()
        await reopened(path)
        assert (gc.isenabled(), gc.get_freeze_count() > 0) == (enabled, frozen)
    finally:
        gc.unfreeze()
        gc.enable()


async def test_the_garbage_collector_works_after_a_start_that_failed(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, not at all " * 100)
    with pytest.raises(RegistryError):
        await reopened(path)
    assert gc.isenabled()


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, not at all " * 100)
    with pytest.raises(RegistryError, match=r"damaged.*Restore"):
        await reopened(path)


async def test_a_damaged_page_is_noticed_at_the_start(path: Path) -> None:
    async with KeyRegistry.open(path) as registry:
        await registry.set_slots("a", {public_key(n): "" for n in range(1, 200)})
    content = bytearray(path.read_bytes())
    content[2 * 4096 : 3 * 4096] = bytes(4096)
    path.write_bytes(content)
    with pytest.raises(RegistryError, match="damaged"):
        await reopened(path)


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE keys SET address = '0x0000000000000000000000000000000000000000'",
        "UPDATE keys SET key_id = '0000000000000000'",
        "UPDATE keys SET public_key = x'04'",
        "UPDATE keys SET role = 'emperor'",
        "UPDATE keys SET slots = 'nonsense'",
        "UPDATE keys SET usage = '5'",
        "UPDATE keys SET created_at = 9000000000000000000",
    ],
)
async def test_a_row_that_contradicts_itself_is_refused(path: Path, edit: str) -> None:
    async with KeyRegistry.open(path) as registry:
        await registry.add(sample_key(1))
    with sqlite3.connect(path) as connection:
        connection.execute(edit)
    connection.close()
    with pytest.raises(RegistryError, match="damaged"):
        await reopened(path)


async def test_a_newer_registry_is_left_alone(path: Path) -> None:
    async with KeyRegistry.open(path) as registry:
        await registry.add(sample_key(1))
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(RegistryError, match="newer manahsm"):
        await reopened(path)


async def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE keys (mine TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(RegistryError, match="another program"):
        await reopened(path)
    assert path.read_bytes() == before


async def test_a_path_that_can_not_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match="cannot be opened"):
        await reopened(tmp_path / "file" / "registry.sqlite3")
    (tmp_path / "folder.sqlite3").mkdir()
    with pytest.raises(RegistryError, match="cannot be opened"):
        await reopened(tmp_path / "folder.sqlite3")
    (tmp_path / "folder.sqlite3").rmdir()
    assert await reopened(tmp_path / "folder.sqlite3") == []


async def test_a_closed_registry_refuses_changes(path: Path) -> None:
    async with KeyRegistry.open(path) as registry:
        pass
    with pytest.raises(RegistryError, match="closed"):
        await registry.add(sample_key(1))
    assert len(registry) == 0


async def test_counters_are_written_and_the_file_closed_under_cancellation(path: Path) -> None:
    with anyio.CancelScope() as scope:
        async with KeyRegistry.open(path) as registry:
            key = await registry.add(sample_key(1))
            registry.record_use(key.key_id, A_DAY)
            scope.cancel()
            await anyio.sleep_forever()
    (after,) = await reopened(path)
    assert after.use_count == 1


async def test_a_cancelled_change_is_whole_or_not_at_all(path: Path) -> None:
    async with KeyRegistry.open(path) as registry:
        old = await registry.add(sample_key(1))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await registry.rotate(old.key_id, sample_key(2))
        in_memory = registry.list()
    assert await reopened(path) == in_memory
    assert len(in_memory) in {1, 2}


async def test_concurrent_changes_are_done_one_after_the_other(path: Path) -> None:
    async with KeyRegistry.open(path) as registry:
        outcomes: list[str] = []

        async def claim(number: int) -> None:
            try:
                await registry.add(sample_key(number, label="only one"))
                outcomes.append("added")
            except KeyExists:
                outcomes.append("refused")

        async with anyio.create_task_group() as tasks:
            for number in range(1, 21):
                tasks.start_soon(claim, number)
        assert sorted(outcomes) == ["added"] + ["refused"] * 19
        expected = registry.list()
    assert await reopened(path) == expected


async def test_the_file_itself_refuses_two_keys_of_one_label(registry: KeyRegistry) -> None:
    both = (sample_key(1, label="same"), sample_key(2, label="same"))
    with pytest.raises(RegistryError, match=r"UNIQUE.*nothing was changed"):
        registry._store.commit(Change(put=both, result=None))
    assert registry._store.load() == []
    await registry.add(sample_key(1))
