"""Which errors of an act are refusals, and have an audit record of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from manahsm.access import Access
from manahsm.api.calls import Call, Visitor
from manahsm.api.desk import Desk
from manahsm.api.specs import Asked, Kind
from manahsm.config.api_tables import Dialect
from manahsm.errors import (
    HSMUnavailable,
    InvalidRequest,
    KeyNotFound,
    ManaHSMError,
    PolicyDenied,
    RateLimited,
    RoleDenied,
)

pytestmark = pytest.mark.anyio


class Counted:
    """A way to the service on which nothing is done: what is to be written there is counted."""

    def __init__(self) -> None:
        self.asked = 0

    async def run(self, _work: Callable[[Any], Awaitable[Any]]) -> Any:
        self.asked += 1


def asked() -> Asked:
    visitor = Visitor(
        access=Access(caller="alice"), dialect=Dialect.WEB3SIGNER, dialects=tuple(Dialect), request_id="r-1"
    )
    return Asked(Call(method="an_act", params=None, visitor=visitor, request_id="r-1"))


async def recorded(error: ManaHSMError, kind: Kind) -> int:
    gateway = Counted()
    await Desk(gateway).keep_refusal(asked(), "an_act", kind, error)
    return gateway.asked


@pytest.mark.parametrize("error", [InvalidRequest("x"), KeyNotFound("x"), PolicyDenied("x"), RoleDenied("x")])
@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.READ])
async def test_a_refusal_is_recorded(error: ManaHSMError, kind: Kind) -> None:
    assert await recorded(error, kind) == 1


@pytest.mark.parametrize("error", [HSMUnavailable("x"), RateLimited("x", retry_after=1.0)])
async def test_what_could_not_be_done_is_no_refusal(error: ManaHSMError) -> None:
    assert await recorded(error, Kind.SIGN) == 0


async def test_a_refusal_to_read_is_not_worth_a_record() -> None:
    assert await recorded(KeyNotFound("x"), Kind.READ) == 0
