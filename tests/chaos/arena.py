"""Where chaos takes place: two tokens behind fault modules, and a key of every sort.

The one thing to know: everything is real but the misfortune. Two SoftHSM tokens, each in a directory of its own, are
reached through the fault module (tests/faults/p11fault.c), each with a control file of its own; the service above them
is the one that ships, with times that are short enough for a fault and its recovery to fit into a second or two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attrs import evolve, field, frozen
from chaos.audited import Limits
from chaos.sorts import BACKUP, PRIMARY, SLOTS, Sort
from coincurve import PrivateKey
from p11fault import FaultModule
from services import config_for
from softhsm import SoftHSMToken

import manahsm
from manahsm import tree

__all__ = ["Arena", "short_restart_delays"]

_TIMES: Mapping[str, Any] = MappingProxyType(
    {
        "connection_pool": {
            "size": 4,
            "max_overflow": 4,
            "processes": 2,
            "timeout": 1500,
            "idle_timeout": 2000,
            "call_timeout": 1500,
            "start_timeout": 8000,
        },
        "circuit_breaker": {"slow_call": 400, "window": 5000, "open_for": 250, "max_open_for": 1000},
        "fallback": {"fallback_timeout": 400, "max_fallback_operations": 100},
        "monitoring": {"health_check_interval": 500, "metrics": {"port": 0}},
        "service": {"request_timeout": 4000, "shutdown_grace": 5000},
        "audit": {"fsync": "never"},
    }
)
_IN_PEACE: Mapping[str, Any] = MappingProxyType({"connection_pool": {"call_timeout": 30_000, "start_timeout": 60_000}})


@frozen
class Arena:
    """Tokens, fault modules and keys; a context manager that leaves no module misbehaving.

    Attributes:
        directory: of everything that it makes.
        tokens: by the names of their slots.
        modules: the fault module of each slot.
        keys: one of each sort, once they are made.
    """

    directory: Path
    tokens: Mapping[str, SoftHSMToken]
    modules: Mapping[str, FaultModule]
    keys: dict[Sort, manahsm.KeyInfo] = field(factory=dict)

    @classmethod
    def build(cls, directory: Path) -> Arena:
        """Make tokens without keys."""
        tokens = {name: SoftHSMToken.create(directory / name, label=f"chaos-{name}") for name in SLOTS}
        modules = {name: FaultModule.over(tokens[name], directory / f"{name}.control") for name in SLOTS}
        return cls(directory, tokens, modules)

    def close(self) -> None:
        """Let go of the modules."""
        for module in self.modules.values():
            module.close()

    @property
    def limits(self) -> Limits:
        """What is configured for stand-ins."""
        table = self.config()["hsm"]
        return Limits(table["fallback"]["max_fallback_operations"], table["monitoring"]["health_check_interval"] / 1000)

    @property
    def audit_directory(self) -> Path:
        """Where the services here keep their audit log."""
        return self.directory / "state" / "audit"

    def config(self, *slots: str, **changes: Any) -> dict[str, Any]:
        """A configuration with these slots (both by default); the first is the primary one."""
        names = slots or SLOTS
        entries = []
        for name in names:
            token = self.tokens[name]
            pin = token.directory / "pin"
            if not pin.exists():
                pin.touch(mode=0o600)
                pin.write_text(token.pin)
            entries.append(
                {
                    "name": name,
                    "token_label": token.label,
                    "priority": "primary" if name == names[0] else "backup",
                    "pin_file": str(pin),
                    "environment": dict(self.modules[name].environment),
                }
            )
        config = config_for(self.tokens[names[0]], self.directory, slots=entries, **_laid_over(_TIMES, changes))
        config["hsm"]["library_path"] = str(self.modules[names[0]].library)
        for option in ("token_label", "pin_file", "environment"):
            del config["hsm"][option]
        return config

    async def make_keys(self) -> None:
        """Make a key of every sort, and put it where it belongs."""
        async with manahsm.open_service(self.config(PRIMARY, **_IN_PEACE)) as service:
            self._keep(Sort.ONE_SLOT, await service.generate_key("one-slot", "transaction_signer"))
            self._keep(Sort.VALIDATOR, await service.generate_key("validator", "validator"))
            self._keep(
                Sort.TWIN,
                await service.import_key(_new_key(), "twin", "transaction_signer", keep_software_twin=True),
            )
            self._keep(Sort.SOFTWARE, await service.generate_key("software", "node_identity", "software"))
        async with manahsm.open_service(self.config(BACKUP, PRIMARY, **_IN_PEACE)) as service:
            self._keep(Sort.BACKUP_ALONE, await service.generate_key("backup-alone", "transaction_signer"))
            self._keep(Sort.TWO_SLOTS, await service.import_key(_new_key(), "two-slots", "transaction_signer"))
            self._keep(Sort.VALIDATOR_TWO_SLOTS, await service.import_key(_new_key(), "validator-2", "validator"))

    def _keep(self, sort: Sort, key: manahsm.KeyInfo) -> None:
        if set(key.slots) != set(sort.slots):
            raise RuntimeError(f"the key for {sort.value!r} is in {key.slots}")
        self.keys[sort] = key


def _new_key() -> bytes:
    secret: bytes = PrivateKey().secret
    return secret


def _laid_over(tables: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **tables,
        **{
            name: {**tables.get(name, {}), **given} if isinstance(given, dict) else given
            for name, given in changes.items()
        },
    }


@contextmanager
def short_restart_delays(longest: float = 1.0, calm: float = 3.0) -> Iterator[None]:
    """Restart hosts after a second at the latest, where the delay otherwise grows to half a minute.

    A minute of faults, one after the other, would mostly be a wait for hosts that are left alone on purpose.
    """
    shipped = tree.HOST_BACKOFF
    tree.HOST_BACKOFF = evolve(shipped, maximum=longest, reset_after=calm)
    try:
        yield
    finally:
        tree.HOST_BACKOFF = shipped
