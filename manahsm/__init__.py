"""A supervised Ethereum signing service whose keys live in hardware security modules.

    async with manahsm.open_service("config/softhsm.toml") as service:
        key = await service.generate_key("validator-key-1", role="validator", backend="hsm")
        signed = await service.sign_transaction(tx, key.key_id, chain_id=1)

Names are loaded when they are first used, so that a host process, which lives in a subpackage, never loads the
service around it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manahsm.channel import SigningChannel
    from manahsm.client import RemoteService, connect
    from manahsm.config.load import load_config
    from manahsm.config.model import Config
    from manahsm.config.samples import generate_sample_config
    from manahsm.connection import RemoteError
    from manahsm.errors import (
        AuditUnavailable,
        ConfigError,
        ConfigProblem,
        DeadlineExceeded,
        FallbackExhausted,
        HSMUnavailable,
        InvalidRequest,
        InvalidTransaction,
        KeyExists,
        KeyNotFound,
        KeystoreError,
        ManaHSMError,
        Overloaded,
        PolicyDenied,
        RateLimited,
        RegistryError,
        RoleDenied,
        ServiceStopping,
        SignatureMismatch,
    )
    from manahsm.requests import (
        Backend,
        KeyInfo,
        KeyState,
        Operation,
        Outcome,
        Role,
        Signature,
        SignedAuthorization,
        SignedTransaction,
        SignRequest,
        Usage,
    )
    from manahsm.service import Service, open_service
    from manahsm.status import ServiceStatus, SlotStatus

__version__ = "0.1.0"

__all__ = [
    "AuditUnavailable",
    "Backend",
    "Config",
    "ConfigError",
    "ConfigProblem",
    "DeadlineExceeded",
    "FallbackExhausted",
    "HSMUnavailable",
    "InvalidRequest",
    "InvalidTransaction",
    "KeyExists",
    "KeyInfo",
    "KeyNotFound",
    "KeyState",
    "KeystoreError",
    "ManaHSMError",
    "Operation",
    "Outcome",
    "Overloaded",
    "PolicyDenied",
    "RateLimited",
    "RegistryError",
    "RemoteError",
    "RemoteService",
    "Role",
    "RoleDenied",
    "Service",
    "ServiceStatus",
    "ServiceStopping",
    "SignRequest",
    "Signature",
    "SignatureMismatch",
    "SignedAuthorization",
    "SignedTransaction",
    "SigningChannel",
    "SlotStatus",
    "Usage",
    "connect",
    "generate_sample_config",
    "load_config",
    "open_service",
]

_HOMES = {
    "manahsm.channel": ("SigningChannel",),
    "manahsm.client": ("RemoteService", "connect"),
    "manahsm.connection": ("RemoteError",),
    "manahsm.config.load": ("load_config",),
    "manahsm.config.model": ("Config",),
    "manahsm.config.samples": ("generate_sample_config",),
    "manahsm.errors": (
        "AuditUnavailable",
        "ConfigError",
        "ConfigProblem",
        "DeadlineExceeded",
        "FallbackExhausted",
        "HSMUnavailable",
        "InvalidRequest",
        "InvalidTransaction",
        "KeyExists",
        "KeyNotFound",
        "KeystoreError",
        "ManaHSMError",
        "Overloaded",
        "PolicyDenied",
        "RateLimited",
        "RegistryError",
        "RoleDenied",
        "ServiceStopping",
        "SignatureMismatch",
    ),
    "manahsm.requests": (
        "Backend",
        "KeyInfo",
        "KeyState",
        "Operation",
        "Outcome",
        "Role",
        "Signature",
        "SignedAuthorization",
        "SignedTransaction",
        "SignRequest",
        "Usage",
    ),
    "manahsm.service": (
        "Service",
        "open_service",
    ),
    "manahsm.status": (
        "ServiceStatus",
        "SlotStatus",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
