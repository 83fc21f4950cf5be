"""Which keystore files are missing, of few keys and of many."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from key_samples import sample_key

from manahsm.config.model import Config
from manahsm.config.tables import KeystoreOptions
from manahsm.keys.registry import KeyRegistry
from manahsm.monitoring.canary import CanaryKey
from manahsm.monitoring.checks import KeyCheck
from manahsm.monitoring.values import Observation
from manahsm.requests import Backend

pytestmark = pytest.mark.anyio


class Scene:
    def __init__(self, registry: KeyRegistry, folder: Path) -> None:
        self.registry = registry
        self.config = Config(keystore=KeystoreOptions(directory=folder))
        self.check = KeyCheck(registry, lambda: None, CanaryKey(None, registry), self.config)

    async def missing(self) -> str | None:
        """What is said of missing files."""
        return _missing(await self.check.look())


def _missing(seen: Observation) -> str | None:
    return next((finding.detail for finding in seen.findings if finding.cause.name == "keyfiles_missing"), None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keystore"


@pytest.fixture
async def scene(tmp_path: Path, folder: Path) -> AsyncIterator[Scene]:
    async with KeyRegistry.open(tmp_path / "registry.sqlite3") as registry:
        yield Scene(registry, folder)


async def keys_of(scene: Scene, count: int) -> list[str]:
    """Add so many keys in software and return their ids."""
    return [
        (await scene.registry.add(sample_key(number, backend=Backend.SOFTWARE))).key_id
        for number in range(1, count + 1)
    ]


async def test_without_keys_there_need_be_no_folder(scene: Scene) -> None:
    assert await scene.missing() is None


async def test_without_a_folder_every_file_is_missing(scene: Scene) -> None:
    first, second = await keys_of(scene, 2)

    assert await scene.missing() == f"{first}, {second}"


async def test_only_a_file_of_the_right_name_is_one(scene: Scene, folder: Path) -> None:
    names = await keys_of(scene, 6)
    folder.mkdir()
    plain, linked, dangling, directory, bare, other = names
    (folder / f"{plain}.json").touch()
    (folder / f"{linked}.json").symlink_to(folder / f"{plain}.json")
    (folder / f"{dangling}.json").symlink_to(folder / "nowhere")
    (folder / f"{directory}.json").mkdir()
    (folder / bare).touch()
    (folder / f"{other}.json.bak").touch()
    (folder / "notes.json").symlink_to(folder / "notes.json")

    assert await scene.missing() == f"{dangling}, {directory}, {bare}, {other}"


async def test_many_are_looked_at_in_parts(scene: Scene, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manahsm.monitoring.checks._AT_ONCE", 3)
    names = await keys_of(scene, 20)
    folder.mkdir()
    for key_id in names:
        (folder / f"{key_id}.json").touch()
    assert await scene.missing() is None

    (folder / f"{names[7]}.json").unlink()
    assert await scene.missing() == names[7]


async def test_what_there_is_is_counted(scene: Scene) -> None:
    first, *_ = await keys_of(scene, 3)
    await scene.registry.add(sample_key(4, role=None))
    await scene.registry.add(sample_key(5, software_twin=True))
    await scene.registry.rotate(first, sample_key(6))

    details = (await scene.check.look()).details
    assert details == {"keys": 5, "keys_in_software": 3, "keys_without_role": 1}
