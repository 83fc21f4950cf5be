"""Running host processes in tests, and a PKCS#11 module that misbehaves on request (tests/integration/hsm/shim.c)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from attrs import frozen
from softhsm import SoftHSMToken

from manahsm.hsm.client import HostProcess
from manahsm.hsm.info import HostInfo
from manahsm.hsm.settings import HostSettings
from supervisors.clock import SYSTEM_CLOCK, Clock

__all__ = ["Shim", "build_shim", "is_alive", "open_descriptors", "running"]

_SOURCE = Path(__file__).parent / "integration" / "hsm" / "shim.c"


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


@frozen
class Shim:
    """The misbehaving module over a SoftHSM token; its directives are explained in shim.c."""

    token: SoftHSMToken
    library: Path
    control: Path

    def settings(self, **changes: Any) -> HostSettings:
        """Settings of a host that loads the shim."""
        environment = {
            **self.token.environment,
            "P11SHIM_REAL": str(self.token.library),
            "P11SHIM_CONTROL": str(self.control),
        }
        changes = {"library_path": str(self.library), "environment": environment, **changes}
        return self.token.host_settings(**changes)

    def misbehave(self, *directives: str) -> None:
        """From now on; without directives it behaves."""
        replacement = self.control.with_suffix(".new")
        replacement.write_text("".join(f"{directive}\n" for directive in directives))
        replacement.rename(self.control)


def build_shim(directory: Path) -> Path:
    """Compile the shim; returns the library."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.fail("a C compiler is needed: apt-get install gcc libc6-dev")
    library = directory / "libp11shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True)  # noqa: S603 - our own source
    return library


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
