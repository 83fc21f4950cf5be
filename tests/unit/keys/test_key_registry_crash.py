"""kill -9 in the middle of writes: what was promised is there, and the registry opens as if nothing had been."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from manahsm.keys.registry import KeyRegistry
from manahsm.requests import KeyInfo, KeyState

pytestmark = pytest.mark.anyio

# Adds keys and rotates every third one, for ever; prints a key's id once the registry says that it is durable.
WRITER = """
import sys
from itertools import count
from pathlib import Path

import anyio
from key_samples import A_DAY, sample_key

from manahsm.keys.registry import KeyRegistry


async def main():
    async with KeyRegistry.open(Path(sys.argv[1])) as registry:
        for number in count(1):
            key = await registry.add(sample_key(number, label=f"label {number}"))
            registry.record_use(key.key_id, A_DAY)
            print("added", key.key_id, flush=True)
            if number % 3 == 0:
                await registry.rotate(key.key_id, sample_key(number + 1_000_000))
                print("rotated", key.key_id, flush=True)
            if number % 10 == 0:
                await registry.flush()
                print("flushed", number, flush=True)


anyio.run(main)
"""


@pytest.mark.parametrize("kills", range(5))
async def test_a_registry_killed_while_writing_keeps_every_promise(tmp_path: Path, kills: int) -> None:
    path = tmp_path / "registry.sqlite3"
    after = random.Random(kills).randrange(3, 60)  # noqa: S311 - not for cryptography
    promises = write_and_kill(path, after)
    keys = await everything(path)
    added = [words[1] for words in promises if words[0] == "added"]
    rotated = [words[1] for words in promises if words[0] == "rotated"]
    flushed = [int(words[1]) for words in promises if words[0] == "flushed"]
    by_id = {key.key_id: key for key in keys}
    assert set(added) <= set(by_id)
    assert {key_id for key_id in rotated if by_id[key_id].state is not KeyState.RETIRED} == set()
    assert all(by_id[key_id].use_count == 1 for key_id in added[: max(flushed, default=0)])
    # Nothing but the one step that was under way may be there without a promise.
    assert len(keys) - (len(added) + len(rotated)) in {0, 1}
    active = [key.label for key in keys if key.state is KeyState.ACTIVE]
    assert active == sorted(active, key=lambda label: int(label.split()[1]))


def write_and_kill(path: Path, after: int) -> list[list[str]]:
    tests = Path(__file__).parents[2]
    with subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(tests)},
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    return [line.split() for line in lines if line.endswith("\n")]


async def everything(path: Path) -> list[KeyInfo]:
    with anyio.fail_after(30):
        async with KeyRegistry.open(path) as registry:
            return registry.list()
