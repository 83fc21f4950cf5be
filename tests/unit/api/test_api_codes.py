"""Errors as callers of each dialect see them."""

from __future__ import annotations

import inspect

import pytest

from manahsm import errors
from manahsm.api.calls import RPCError
from manahsm.api.codes import MethodDenied, codes_of, internal_error, not_found, shown
from manahsm.config.api_tables import Dialect
from manahsm.errors import (
    ConfigError,
    HSMUnavailable,
    InvalidRequest,
    InvalidTransaction,
    KeyNotFound,
    ManaHSMError,
    Overloaded,
    PolicyDenied,
    RateLimited,
    RoleDenied,
    ServiceStopping,
)

KINDS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, ManaHSMError) and kind not in {ManaHSMError, ConfigError}
]


def made(kind: type[ManaHSMError]) -> ManaHSMError:
    return RateLimited("why", retry_after=0.25) if kind is RateLimited else kind("why")


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("kind", KINDS)
def test_every_error_says_why_and_has_its_stable_code(kind: type[ManaHSMError], dialect: Dialect) -> None:
    said = shown(made(kind), dialect, "eth_sign")
    assert said.message.endswith("why")
    assert said.data["code"] == kind.code
    assert -32768 <= said.code <= -32000


@pytest.mark.parametrize(
    ("dialect", "method", "error", "code", "words"),
    [
        (Dialect.WEB3SIGNER, "eth_sign", KeyNotFound("why"), -32000, "No unlocked account matches the Sender: why"),
        (Dialect.WEB3SIGNER, "eth_sign", PolicyDenied("why"), -32000, "No unlocked account matches the Sender: why"),
        (Dialect.WEB3SIGNER, "eth_sign", RoleDenied("why"), -32000, "No unlocked account matches the Sender: why"),
        (Dialect.WEB3SIGNER, "eth_sign", InvalidTransaction("why"), -32602, "Invalid params: why"),
        (Dialect.WEB3SIGNER, "eth_sign", MethodDenied("why"), -32604, "Method not enabled: why"),
        (Dialect.WEB3SIGNER, "eth_sign", HSMUnavailable("why"), -32000, "why"),
        (Dialect.CLEF, "account_list", KeyNotFound("why"), -32000, "request denied: why"),
        (Dialect.CLEF, "account_list", MethodDenied("why"), -32000, "request denied: why"),
        (Dialect.CLEF, "account_list", InvalidRequest("why"), -32602, "invalid argument: why"),
        (Dialect.OP_SIGNER, "eth_signTransaction", InvalidTransaction("why"), -32010, "why"),
        (Dialect.OP_SIGNER, "eth_signTransaction", KeyNotFound("why"), -32011, "why"),
        (Dialect.OP_SIGNER, "eth_sign", InvalidRequest("why"), -32012, "why"),
        (Dialect.OP_SIGNER, "eth_sign", PolicyDenied("why"), -32013, "why"),
        (Dialect.OP_SIGNER, "eth_signTransaction", HSMUnavailable("why"), -32000, "why"),
    ],
)
def test_a_dialect_has_its_codes_and_words(
    dialect: Dialect, method: str, error: ManaHSMError, code: int, words: str
) -> None:
    said = shown(error, dialect, method)
    assert (said.code, said.message) == (code, words)


@pytest.mark.parametrize("dialect", Dialect)
def test_methods_of_our_own_have_no_dialect(dialect: Dialect) -> None:
    assert shown(KeyNotFound("why"), dialect, "manahsm_getKey").message == "why"
    assert shown(InvalidRequest("why"), dialect, "manahsm_signTransaction").code == -32602


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Overloaded("why"), 503, "1"),
        (ServiceStopping("why"), 503, "1"),
        (HSMUnavailable("why"), 503, "1"),
        (RateLimited("why", retry_after=0.25), 429, "1"),
        (RateLimited("why", retry_after=2.5), 429, "3"),
        (KeyNotFound("why"), 200, None),
        (InvalidRequest("why"), 200, None),
    ],
)
def test_what_may_be_tried_again_says_when(
    error: ManaHSMError, dialect: Dialect, status: int, retry_after: str | None
) -> None:
    said = shown(error, dialect, "eth_sign")
    assert (said.status, dict(said.headers).get("retry-after")) == (status, retry_after)
    assert ("retry_after" in said.data) is (retry_after is not None)


def test_an_error_of_a_node_is_passed_on_as_it_is() -> None:
    said = shown(RPCError(3, "execution reverted", "0x08c379a0"), Dialect.CLEF, "eth_call")
    assert (said.code, said.message, said.data, said.status) == (3, "execution reverted", "0x08c379a0", 200)


def test_an_error_that_stands_for_one_of_ours_has_its_code_and_status() -> None:
    said = shown(RPCError(-32601, "no", cause=Overloaded("why")), Dialect.CLEF, "eth_call")
    assert (said.code, said.data["code"], said.status) == (-32601, "overloaded", 503)


def test_a_fault_of_ours_tells_no_more_than_where_to_find_it() -> None:
    said = shown(internal_error("r-1"), Dialect.WEB3SIGNER, "eth_sign")
    assert (said.code, said.message, said.data) == (
        -32603,
        "internal error",
        {"code": "internal_error", "request_id": "r-1"},
    )


def test_a_method_that_nobody_serves_is_not_found() -> None:
    assert not_found().code == -32601


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("method", ["eth_sign", "eth_signTransaction", "manahsm_status"])
@pytest.mark.parametrize("kind", [*KINDS, MethodDenied])
def test_every_code_that_is_given_is_described(dialect: Dialect, method: str, kind: type[ManaHSMError]) -> None:
    assert shown(made(kind), dialect, method).code in codes_of(dialect, method)
