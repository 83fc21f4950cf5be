"""Running host processes in tests, and what they leave behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc

from manahsm.hsm.client import HostProcess
from manahsm.hsm.info import HostInfo
from manahsm.hsm.settings import HostSettings
from supervisors.clock import SYSTEM_CLOCK, Clock

__all__ = ["is_alive", "open_descriptors", "running"]


@asynccontextmanager
async def running(settings: HostSettings, clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[HostProcess]:
    """A host that is up inside the block and gone after it. How it ended unasked is raised in a group."""
    host = HostProcess(settings, clock=clock)

    async def body(*, task_status: anyio.abc.TaskStatus[HostInfo]) -> None:
        await host.run(task_status.started)

    async with anyio.create_task_group() as tasks:
        await tasks.start(body)
        try:
            yield host
        finally:
            with anyio.CancelScope(shield=True):
                await host.stop()


def is_alive(pid: int) -> bool:
    """Whether a process exists, zombies included."""
    return Path(f"/proc/{pid}").exists()


def open_descriptors() -> set[str]:
    """The file descriptors of this process with what they are."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found
