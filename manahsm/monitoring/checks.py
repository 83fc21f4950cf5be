"""What is looked at: one class a component. Each looks, within a time, and leaves the verdict to pure rules.

The one thing to know: a check asks and never waits for ever. It is cancelled when its time is over, keeps nothing that
belongs to callers, and does to a token only what a worker would do that saw the same.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import anyio.to_thread

from manahsm.config.model import Config
from manahsm.config.secret_files import read_secret_file
from manahsm.errors import ConfigProblem
from manahsm.keys.registry import KeyRegistry
from manahsm.monitoring.canary import CanaryKey
from manahsm.monitoring.components import AUDIT, CONFIG_MANAGER, KEY_MANAGER, SIGNING_SERVICE
from manahsm.monitoring.health_rules import judge_audit, judge_configuration, judge_keys, judge_signing
from manahsm.monitoring.traffic import SLICES, Load, LoadWindow, Traffic
from manahsm.monitoring.values import Observation
from manahsm.requests import KeyState
from manahsm.signing.observed import SignEnded
from manahsm.signing.pool import sessions_allowed
from manahsm.signing.slot import Slot, SlotPhase
from supervisors import Clock, Mailbox

__all__ = [
    "AuditCheck",
    "Check",
    "ConfigurationCheck",
    "KeyCheck",
    "SigningCheck",
    "Wake",
    "slot_load",
]

T = TypeVar("T")
Wake = Callable[[], None]

_AT_ONCE = 1_000  # files that a thread looks at in one go: about half a millisecond
_PAUSE = 0.0002  # seconds


class Check(ABC):
    """How one component is looked at.

    Attributes:
        component: its name.
    """

    component: str

    @abstractmethod
    async def look(self) -> Observation:
        """Look at it now. May be cancelled anywhere, and must not raise for what is wrong with the component."""

    async def watch(self, wake: Wake) -> None:  # noqa: B027 - most have nothing to watch for
        """Run beside the checks, and call ``wake`` when it should be looked at again at once."""


class SigningCheck(Check):
    """Response times, errors, queues and pools, over a window.

    Args:
        slots: every configured slot.
        software: mailbox of the software worker.
        config: for its thresholds.
        clock: whose time the window is.
    """

    component = SIGNING_SERVICE

    def __init__(self, slots: Sequence[Slot], software: Mailbox, config: Config, clock: Clock) -> None:
        self._slots = tuple(slots)
        self._software = software
        self._thresholds = config.monitoring.thresholds
        self._clock = clock
        self._traffic = Traffic(self._thresholds.window)
        self._loads = {name: LoadWindow() for name in (*(slot.name for slot in slots), "software")}

    def note(self, event: SignEnded) -> None:
        """Count a request that has ended."""
        self._traffic.note(event.outcome, event.duration, self._clock.now())

    async def watch(self, wake: Wake) -> None:
        """Sample the load."""
        del wake
        while True:
            for slot in self._slots:
                self._loads[slot.name].note(slot_load(slot))
            self._loads["software"].note(Load(queue=len(self._software)))
            await self._clock.sleep(self._thresholds.window / SLICES)

    async def look(self) -> Observation:
        """Judge what was counted."""
        counts = self._traffic.counts(self._clock.now())
        loads = {name: window.mean for name, window in self._loads.items()}
        return Observation(
            judge_signing(counts, loads, self._thresholds),
            {
                "window": self._thresholds.window,
                "signed": counts.signed,
                "failed": counts.failed,
                "error_rate": round(counts.error_rate, 4),
                "mean_response_time": round(counts.mean, 6),
                "slowest_response_time": round(counts.slowest, 6),
                **{f"queue:{name}": round(load.queue, 2) for name, load in loads.items()},
                **{f"pool_use:{name}": round(loads[name].use, 3) for name in loads if name != "software"},
            },
        )


def slot_load(slot: Slot) -> Load:
    """How much is asked of a slot now. One that is not up has no sessions to use.

    Its pool is used up when requests wait and no more sessions can be opened, however many the configuration allows.
    """
    waiting = len(slot.mailbox)
    if slot.phase is not SlotPhase.UP:
        return Load(queue=waiting)
    most = min(slot.pool.size + slot.pool.max_overflow, sum(sessions_allowed(host.info) for host in slot.pool.hosts))
    if waiting and not slot.mailbox.waiting_receivers and not slot.pool.may_overflow:
        return Load(queue=waiting, use=1.0)
    return Load(queue=waiting, use=min(1.0, slot.pulse.busy / most) if most else 0.0)


class AuditCheck(Check):
    """Whether the audit log can be written.

    Args:
        trouble: why it can not, or ``None``; the log knows by itself when it is well again.
        config: whether there is one, and how much depends on it.
    """

    component = AUDIT

    def __init__(self, trouble: Callable[[], str | None], config: Config) -> None:
        self._trouble = trouble
        self._config = config

    async def look(self) -> Observation:
        """Ask the log."""
        required = self._config.security_policy.audit_all_operations
        trouble = self._trouble()
        return Observation(
            judge_audit(trouble, required=required),
            {
                "enabled": self._config.audit.enabled,
                "required": required,
                "directory": str(self._config.audit_directory),
            },
        )


class KeyCheck(Check):
    """Whether the registry can be written, and what software keys need is there.

    Args:
        registry: of keys.
        registry_trouble: why it could not be written lately, or ``None``.
        canary: ``monitoring.canary_key``.
        config: where keystore files are, and whether they can be opened.
    """

    component = KEY_MANAGER

    def __init__(
        self, registry: KeyRegistry, registry_trouble: Callable[[], str | None], canary: CanaryKey, config: Config
    ) -> None:
        self._registry = registry
        self._registry_trouble = registry_trouble
        self._canary = canary
        self._directory = config.keystore_directory
        self._has_passphrase = config.keystore.passphrase_file is not None
        self._disk = _Disk()

    async def look(self) -> Observation:
        """Ask the registry, and look for files."""
        active = {kind: count for kind, count in self._registry.census().items() if kind.state is KeyState.ACTIVE}
        in_software = await self._registry.in_software()
        missing = await self._disk.look(partial(_without_file, in_software, self._directory)) if in_software else []
        findings = judge_keys(
            registry_trouble=self._registry_trouble(),
            missing_files=missing,
            locked=0 if self._has_passphrase else len(in_software),
            unknown_canary=self._canary.problem(),
        )
        return Observation(
            findings,
            {
                "keys": sum(active.values()),
                "keys_in_software": len(in_software),
                "keys_without_role": sum(count for kind, count in active.items() if kind.role is None),
            },
        )


def _without_file(key_ids: Sequence[str], directory: Path) -> list[str]:
    """Return those whose file is not there. A listing tells it; 100,000 looks would take half a second.

    The loop gets its turn in between: a thread that computes may keep it waiting for 5 ms (sys.setswitchinterval).
    """
    found: defaultdict[str, set[str]] = defaultdict(set)  # by the first letter: a large set takes 4 ms to grow
    missing: list[str] = []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        for part in _parts(entries):
            for entry in part:
                if entry.is_file(follow_symlinks=False) or Path(entry).is_file():
                    found[entry.name[0]].add(entry.name)
    for ids in _parts(key_ids):
        for key_id in ids:
            name = f"{key_id}.json"
            if name in found[name[0]]:
                found[name[0]].remove(name)  # one by one: to let go of all of them at the end would take 5 ms
            else:
                missing.append(key_id)
    return missing


def _parts(of: Iterable[T]) -> Iterator[list[T]]:
    """Go through many in a thread, with a pause after each part."""
    everything = iter(of)
    while part := list(islice(everything, _AT_ONCE)):
        yield part
        time.sleep(_PAUSE)


class ConfigurationCheck(Check):
    """Whether the secret files that the configuration names could be read again.

    Args:
        config: the configuration in force.
    """

    component = CONFIG_MANAGER

    def __init__(self, config: Config) -> None:
        self._files = config.secret_files()
        self._disk = _Disk()

    async def look(self) -> Observation:
        """Read every file, and forget it."""

        def read() -> list[ConfigProblem]:
            return [problem for option, path in self._files if (problem := _problem_with(path, option)) is not None]

        problems = await self._disk.look(read) if self._files else []
        return Observation(judge_configuration(problems), {"secret_files": len(self._files)})


def _problem_with(path: Path, option: str) -> ConfigProblem | None:
    try:
        read_secret_file(path)
    except ValueError as error:
        return ConfigProblem(option, str(error))
    return None


class _Disk:
    """Looks at files in a thread; a file system that hangs holds one thread, and not one a check."""

    def __init__(self) -> None:
        self._looking = False

    async def look(self, at: Callable[[], T]) -> T:
        """Do it.

        Raises:
            TimeoutError: the last look has not ended yet.
        """
        if self._looking:
            raise TimeoutError

        def look() -> T:
            try:
                return at()
            finally:
                self._looking = False

        self._looking = True
        return await anyio.to_thread.run_sync(look, abandon_on_cancel=True)
