"""A bare asyncio ``task.cancel()`` cuts through every shield: the registry must not end up half changed."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from key_samples import sample_key

from manahsm.keys.index import Change
from manahsm.keys.registry import KeyRegistry
from manahsm.requests import KeyInfo


def test_memory_and_file_agree_after_a_bare_cancel_in_the_middle_of_a_commit(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    committing, go_on = threading.Event(), threading.Event()

    async def main() -> list[KeyInfo]:
        async with KeyRegistry.open(path) as registry:
            commit = registry._store.commit

            def slow_commit(change: Change[Any]) -> None:
                committing.set()
                assert go_on.wait(30)
                commit(change)

            registry._store.commit = slow_commit  # type: ignore[method-assign]
            first = asyncio.create_task(registry.add(sample_key(1, label="same")))
            await asyncio.to_thread(committing.wait, 30)
            first.cancel()
            # Comes while the first is still on its way to the disk, and must see what it did.
            second = asyncio.create_task(registry.add(sample_key(2, label="same")))
            go_on.set()
            outcomes = await asyncio.gather(first, second, return_exceptions=True)
            assert [type(outcome).__name__ for outcome in outcomes] == ["CancelledError", "KeyExists"]
            return registry.list()

    async def reopen() -> list[KeyInfo]:
        async with KeyRegistry.open(path) as registry:
            return registry.list()

    in_memory = asyncio.run(main())
    assert in_memory == [sample_key(1, label="same")]
    assert asyncio.run(reopen()) == in_memory
