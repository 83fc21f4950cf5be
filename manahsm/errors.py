"""Every error that manahsm shows to a caller.

Each has a stable ``code`` (what a program matches on) and a message that says what the caller can do next.
None of them ever holds a PIN, a passphrase or key material: messages name paths, labels and key ids only.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

__all__ = [
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
]


class ManaHSMError(Exception):
    """Base of all errors that manahsm raises on purpose. ``code`` never changes between releases."""

    code: ClassVar[str] = "internal_error"


@frozen
class ConfigProblem:
    """One thing that is wrong in a configuration.

    Attributes:
        path: dotted path of the setting, e.g. ``hsm.connection_pool.size``.
        message: what is wrong and what to do about it; never the value of a secret.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ConfigError(ManaHSMError):
    """The configuration can not be used. ``problems`` lists everything that is wrong with it, at once."""

    code = "config_error"

    def __init__(self, problems: tuple[ConfigProblem, ...] | list[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


class KeyNotFound(ManaHSMError):  # noqa: N818 - public names are fixed in the design
    """No key has this id, label or address."""

    code = "key_not_found"


class KeyExists(ManaHSMError):  # noqa: N818
    """A key with this label or public key is already registered."""

    code = "key_exists"


class KeystoreError(ManaHSMError):
    """A software key's keystore file can not be read, decrypted or written."""

    code = "keystore_error"


class RegistryError(ManaHSMError):
    """The key registry's file can not be opened, read or written; what it held before is unchanged."""

    code = "registry_error"


class RoleDenied(ManaHSMError):  # noqa: N818
    """The key's role (or its absence, or its retirement) does not admit this operation."""

    code = "role_denied"


class PolicyDenied(ManaHSMError):  # noqa: N818
    """The security policy forbids this operation, whoever asks."""

    code = "policy_denied"


class InvalidRequest(ManaHSMError):  # noqa: N818
    """The request is malformed, incomplete or ambiguous; nothing was signed."""

    code = "invalid_request"


class InvalidTransaction(InvalidRequest):
    """The transaction, message or authorization is malformed or contradicts itself; nothing was signed."""

    code = "invalid_transaction"


class HSMUnavailable(ManaHSMError):  # noqa: N818
    """No slot that holds this key can sign now, and no software twin may stand in."""

    code = "hsm_unavailable"


class FallbackExhausted(ManaHSMError):  # noqa: N818
    """This outage has used up ``fallback.max_fallback_operations`` software signatures."""

    code = "fallback_exhausted"


class SignatureMismatch(ManaHSMError):  # noqa: N818
    """The device returned a signature that does not recover to the key's public key. It was not released."""

    code = "signature_mismatch"


class Overloaded(ManaHSMError):  # noqa: N818
    """A bounded queue or the session pool is full; try again later."""

    code = "overloaded"


class DeadlineExceeded(ManaHSMError):  # noqa: N818
    """The request's deadline passed before it was signed."""

    code = "deadline_exceeded"


class RateLimited(ManaHSMError):  # noqa: N818
    """``security_policy.max_signing_rate`` is spent. ``retry_after`` is in seconds."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AuditUnavailable(ManaHSMError):  # noqa: N818
    """The audit record could not be written, so nothing was released."""

    code = "audit_unavailable"


class ServiceStopping(ManaHSMError):  # noqa: N818
    """The service is shutting down and takes no new work."""

    code = "service_stopping"
