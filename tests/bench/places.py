"""Where measures take place: services with real state, and one SoftHSM token with one key.

The one thing to know: a service here is as users have it. Its audit log is on, with the default ``fsync = "interval"``,
and ``max_signing_rate`` is 0; monitoring is on. What differs is said by each measure in its configuration.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from attrs import define, field
from bench.children import HERE, Child, compiled
from bench.contestants import PRIVATE_KEY
from bench.profiling import Profiler
from bench.turns import Plan
from services import config_for, software_config
from softhsm import SoftHSMToken

import manahsm

__all__ = ["KEY", "Bench", "ensure_key", "hosts_of", "opened"]

KEY = "bench"
_numbers = count()


@define(kw_only=True)
class Bench:
    """What every measure gets.

    Attributes:
        directory: of everything that is made.
        plan: how long everything takes.
        backend: the event loop, for processes that are started.
        quick: whether figures only have to be there, and everything that is large is made small.
        signatures: how many the campaign on memory makes.
        profiler: what looks over the service's shoulder during its turns.
    """

    directory: Path
    plan: Plan
    backend: str
    quick: bool = False
    signatures: int = 200_000
    profiler: Profiler = field(factory=Profiler)
    state: Path | None = field(default=None, init=False)
    """State of a service that knows the token's key, once there is one; to be copied."""
    _token: SoftHSMToken | None = field(default=None, init=False)

    def place(self, name: str) -> Path:
        """A new folder."""
        directory = self.directory / f"{next(_numbers)}-{name}"
        directory.mkdir()
        return directory

    def token(self) -> SoftHSMToken:
        """The token of all measures, made when it is first asked for; its key is made by the first service."""
        if self._token is None:
            self._token = SoftHSMToken.create(self.directory / "token", label="bench")
        return self._token

    @asynccontextmanager
    async def software_service(self, **changes: Any) -> AsyncIterator[manahsm.Service]:
        """A service with a software key of the role ``transaction_signer``."""
        async with opened(software_config(self.place("software"), **changes)) as service:
            await service.import_key(PRIVATE_KEY, KEY, "transaction_signer", "software")
            yield service

    def token_config(self, *, size: int, processes: int, **changes: Any) -> dict[str, Any]:
        """A configuration for the token with exactly so many sessions in so many hosts."""
        pool = {"size": size, "max_overflow": 0, "processes": processes, **changes.pop("connection_pool", {})}
        return config_for(self.token(), self.place("token"), connection_pool=pool, **changes)

    @asynccontextmanager
    async def token_service(self, *, size: int, processes: int, **changes: Any) -> AsyncIterator[manahsm.Service]:
        """A service with the token's key, all its sessions open."""
        config = self.token_config(size=size, processes=processes, **changes)
        async with opened(config) as service:
            await ensure_key(service)
            await service.filled()
            yield service

    @contextmanager
    def c_loop(self, sessions: int = 1, library: Path | None = None, **environment: str) -> Iterator[Child]:
        """The C loop over the token's key, in a process of its own."""
        token = self.token()
        command: list[str | Path] = [compiled("c_loop"), library or token.library, token.label, KEY, str(sessions)]
        with Child(command, first=token.pin, **{**token.environment, **environment}) as child:
            yield child

    @contextmanager
    def pkcs11_loop(self) -> Iterator[Child]:
        """python-pkcs11 over the token's key, in a process of its own."""
        token = self.token()
        command: list[str | Path] = [sys.executable, "-P", HERE / "pkcs11_loop.py", token.library, token.label, KEY]
        with Child(command, first=token.pin, **token.environment) as child:
            yield child


async def hosts_of(service: manahsm.Service) -> Callable[[], float]:
    """What tells the processor time so far of a service's host processes, in seconds; they must live on."""
    pids = [host.pid for slot in (await service.status()).slots for host in slot.hosts]
    return lambda: sum(map(_processor_time, pids))


def _processor_time(pid: int) -> float:
    nanoseconds = (int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(nanoseconds) / 1e9


@asynccontextmanager
async def opened(config: Mapping[str, Any]) -> AsyncIterator[manahsm.Service]:
    """Run a service as ``manahsm.run`` does: what was loaded is not gone through by the garbage collector."""
    gc.collect()
    async with manahsm.open_service(config) as service:
        gc.freeze()
        try:
            yield service
        finally:
            gc.unfreeze()


async def ensure_key(service: manahsm.Service) -> None:
    """Make the token's key, or give it its role where another service has made it."""
    try:
        key = await service.get_key(KEY)
    except manahsm.KeyNotFound:
        await service.generate_key(KEY, "transaction_signer", "hsm")
        return
    if key.role is None:
        await service.assign_role(key.key_id, "transaction_signer")
