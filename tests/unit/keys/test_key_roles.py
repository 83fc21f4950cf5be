"""Which key may sign what, and where: the whole grid, not samples of it."""

from __future__ import annotations

from itertools import product

import pytest
from attrs import evolve
from key_samples import sample_key

from manahsm.config.model import KeyGenerationPolicy, SecurityPolicy
from manahsm.errors import PolicyDenied, RoleDenied
from manahsm.keys.roles import (
    backend_for_new_key,
    check_import,
    check_may_sign,
    check_role_change,
    software_allowed,
)
from manahsm.requests import Backend, KeyState, Operation, Role

DEFAULT = SecurityPolicy()
BOUND = (Role.VALIDATOR, Role.ADMIN)
FREE = (Role.TRANSACTION_SIGNER, Role.NODE_IDENTITY)


@pytest.mark.parametrize(("role", "operation"), list(product(Role, Operation)))
def test_an_active_key_with_a_role_may_sign(role: Role, operation: Operation) -> None:
    check_may_sign(sample_key(1, role=role), operation)


@pytest.mark.parametrize("operation", Operation)
def test_a_key_without_a_role_signs_nothing(operation: Operation) -> None:
    with pytest.raises(RoleDenied, match=rf"^{operation} refused: key .* has no role yet"):
        check_may_sign(sample_key(1, role=None), operation)


@pytest.mark.parametrize("role", [None, *Role])
def test_a_retired_key_signs_nothing(role: Role | None) -> None:
    with pytest.raises(RoleDenied, match="is retired"):
        check_may_sign(sample_key(1, role=role, state=KeyState.RETIRED), Operation.TRANSACTION)


def test_a_key_that_is_not_for_signing_signs_nothing() -> None:
    with pytest.raises(RoleDenied, match="may not be used for signing"):
        check_may_sign(sample_key(1, usage=()), Operation.HASH)


@pytest.mark.parametrize(
    ("backend", "twin", "fallback", "expected"),
    [
        (Backend.SOFTWARE, False, False, True),
        (Backend.SOFTWARE, False, True, True),
        (Backend.HSM, False, True, False),
        (Backend.HSM, True, True, True),
        (Backend.HSM, True, False, False),
    ],
)
@pytest.mark.parametrize("role", FREE)
def test_software_signs_for_its_own_keys_and_for_twins_where_the_policy_lets_it(
    role: Role, backend: Backend, twin: bool, fallback: bool, expected: bool
) -> None:
    key = sample_key(1, role=role, backend=backend, software_twin=twin)
    assert software_allowed(key, evolve(DEFAULT, allow_software_fallback=fallback)) is expected


@pytest.mark.parametrize(("role", "backend", "twin"), list(product((None, *BOUND), Backend, (False, True))))
def test_software_never_signs_for_a_bound_role_or_none(role: Role | None, backend: Backend, twin: bool) -> None:
    key = sample_key(1, role=role, backend=backend, software_twin=twin)
    assert not software_allowed(key, DEFAULT)


@pytest.mark.parametrize(("role", "requested"), list(product(BOUND, (None, Backend.HSM))))
def test_a_key_for_a_bound_role_is_made_in_a_token(role: Role, requested: Backend | None) -> None:
    policy = evolve(DEFAULT, key_generation_policy=KeyGenerationPolicy(default_backend=Backend.SOFTWARE))
    assert backend_for_new_key(role, requested, policy) is Backend.HSM


@pytest.mark.parametrize("role", BOUND)
def test_a_software_key_for_a_bound_role_is_refused(role: Role) -> None:
    with pytest.raises(PolicyDenied, match="require_hsm_for_roles"):
        backend_for_new_key(role, Backend.SOFTWARE, DEFAULT)


@pytest.mark.parametrize(("role", "default", "requested"), list(product(FREE, Backend, (None, *Backend))))
def test_another_key_is_made_where_the_caller_or_else_the_policy_says(
    role: Role, default: Backend, requested: Backend | None
) -> None:
    policy = evolve(DEFAULT, key_generation_policy=KeyGenerationPolicy(default_backend=default))
    assert backend_for_new_key(role, requested, policy) is (requested or default)


@pytest.mark.parametrize(
    ("role", "backend", "twin"),
    [*product(BOUND, (Backend.SOFTWARE,), (False, True)), *product(BOUND, (Backend.HSM,), (True,))],
)
def test_an_import_that_would_leave_a_bound_key_in_software_is_refused(
    role: Role, backend: Backend, twin: bool
) -> None:
    with pytest.raises(PolicyDenied):
        check_import(role, backend, DEFAULT, keep_software_twin=twin)


@pytest.mark.parametrize(
    ("role", "backend", "twin"),
    [*product(FREE, Backend, (False, True)), *product(BOUND, (Backend.HSM,), (False,))],
)
def test_other_imports_are_admitted(role: Role, backend: Backend, twin: bool) -> None:
    check_import(role, backend, DEFAULT, keep_software_twin=twin)


@pytest.mark.parametrize(
    ("role", "backend", "twin"),
    [*product(BOUND, (Backend.SOFTWARE,), (False, True)), *product(BOUND, (Backend.HSM,), (True,))],
)
def test_a_key_that_software_holds_is_not_given_a_bound_role(role: Role, backend: Backend, twin: bool) -> None:
    key = sample_key(1, role=None, backend=backend, software_twin=twin)
    with pytest.raises(PolicyDenied):
        check_role_change(key, role, DEFAULT)


@pytest.mark.parametrize(
    ("role", "backend", "twin"),
    [*product((None, *FREE), Backend, (False, True)), *product(BOUND, (Backend.HSM,), (False,))],
)
def test_other_role_changes_are_admitted(role: Role | None, backend: Backend, twin: bool) -> None:
    check_role_change(sample_key(1, role=None, backend=backend, software_twin=twin), role, DEFAULT)


def test_which_roles_are_bound_is_the_policys_to_say() -> None:
    nothing_bound = evolve(DEFAULT, require_hsm_for_roles=())
    assert backend_for_new_key(Role.VALIDATOR, Backend.SOFTWARE, nothing_bound) is Backend.SOFTWARE
    assert software_allowed(sample_key(1, role=Role.ADMIN, backend=Backend.SOFTWARE), nothing_bound)
