"""What a key's role admits: pure decisions, no I/O.

One rule stands above availability: a key whose role is in ``security_policy.require_hsm_for_roles`` is made
in a token only, has no software twin, and is never signed in software, whatever the fallback settings say.
"""

from __future__ import annotations

from collections.abc import Sequence

from manahsm.config.model import SecurityPolicy
from manahsm.errors import InvalidRequest, PolicyDenied, RoleDenied
from manahsm.requests import Backend, KeyInfo, KeyState, Operation, Role, Usage

__all__ = ["backend_for_new_key", "check_import", "check_may_sign", "check_role_change", "only_key", "software_allowed"]


def check_may_sign(key: KeyInfo, operation: Operation) -> None:
    """Admit or refuse a key for an operation.

    Raises:
        RoleDenied: the key is retired, has no role yet, or may not be used for signing.
    """
    if key.state is KeyState.ACTIVE and key.role is not None and Usage.SIGNING in key.usage:
        return
    if key.state is KeyState.RETIRED:
        reason = "is retired and signs no more; use the key that replaced it"
    elif key.role is None:
        reason = "has no role yet; assign one before it may sign"
    else:
        reason = "may not be used for signing"
    raise RoleDenied(f"{operation} refused: key {key.key_id} ({key.label}) {reason}")


def only_key(keys: Sequence[KeyInfo], role: Role) -> KeyInfo:
    """The one key that is left where a key is named by its role.

    Args:
        keys: active ones with this role.
        role: for the message.

    Raises:
        InvalidRequest: there is none, or more than one; the message names them.
    """
    if len(keys) != 1:
        found = ", ".join(key.label for key in keys) or "none"
        raise InvalidRequest(f"one active key with the role {role} is needed (found: {found}): name a key instead")
    return keys[0]


def software_allowed(key: KeyInfo, policy: SecurityPolicy) -> bool:
    """Whether software may ever sign with this key: as its home, or as the stand-in for a token."""
    if key.role is None or key.role in policy.require_hsm_for_roles:
        return False
    if key.backend is Backend.SOFTWARE:
        return True
    return key.software_twin and policy.allow_software_fallback


def backend_for_new_key(role: Role, requested: Backend | None, policy: SecurityPolicy) -> Backend:
    """Decide where a new key is generated.

    Args:
        role: what the key will be for.
        requested: what the caller asked for, or ``None`` to leave it to the policy.
        policy: the security policy.

    Raises:
        PolicyDenied: the role is bound to a token and software was asked for.
    """
    if role in policy.require_hsm_for_roles:
        if requested is Backend.SOFTWARE:
            raise PolicyDenied(_bound_to_token(role, "is generated in a token only: ask for backend 'hsm'"))
        return Backend.HSM
    return requested or policy.key_generation_policy.default_backend


def check_import(role: Role, backend: Backend, policy: SecurityPolicy, *, keep_software_twin: bool) -> None:
    """Admit or refuse an import of a private key.

    Raises:
        PolicyDenied: the role is bound to a token, and the key would be kept in software, too or alone.
    """
    if role not in policy.require_hsm_for_roles:
        return
    if backend is Backend.SOFTWARE:
        raise PolicyDenied(_bound_to_token(role, "is kept in a token only: import it with backend 'hsm'"))
    if keep_software_twin:
        raise PolicyDenied(_bound_to_token(role, "has no software twin: import it without one"))


def check_role_change(key: KeyInfo, role: Role | None, policy: SecurityPolicy) -> None:
    """Admit or refuse a new role for a key.

    Raises:
        PolicyDenied: the role is bound to a token, and the key lives in software or has a software twin.
    """
    if role is None or role not in policy.require_hsm_for_roles:
        return
    if key.backend is Backend.SOFTWARE:
        raise PolicyDenied(_bound_to_token(role, f"can not be a software key such as {key.key_id}"))
    if key.software_twin:
        raise PolicyDenied(_bound_to_token(role, f"has no software twin: delete that of {key.key_id} first"))


def _bound_to_token(role: Role, rule: str) -> str:
    return f"a {role} key {rule} (security_policy.require_hsm_for_roles)"
