"""Applications on the fault module for its own tests: processes that have it loaded, logged in, with a key.

The one thing to know: import the fixtures ``spawn``, ``client`` and ``ready`` into a conftest, with ``p11fault``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from p11fault import FaultModule
from raw_client import CKA, RawClient

from manahsm.hsm.return_codes import CKR

__all__ = ["DIGEST", "LOGGED_IN", "OK", "Ready", "Spawn", "client", "ready", "slot_of", "spawn"]

OK = CKR["CKR_OK"]
DIGEST = bytes(range(32))
LOGGED_IN = 3  # CKS_RW_USER_FUNCTIONS

Spawn = Callable[[], RawClient]


class Ready(NamedTuple):
    """An application that is logged in and has a key."""

    client: RawClient
    slot: int
    session: int
    public: int
    key: int

    @property
    def point(self) -> bytes:
        point: bytes = self.client.attribute(self.session, self.public, CKA.EC_POINT)[1]
        return point[2:]


@pytest.fixture
def spawn(p11fault: FaultModule) -> Iterator[Spawn]:
    """Start processes that have the module loaded and initialised."""
    with ExitStack() as stack:

        def start() -> RawClient:
            client = stack.enter_context(RawClient(str(p11fault.library), p11fault.environment))
            assert client.initialize() == (OK, None)
            return client

        yield start


def slot_of(client: RawClient) -> int:
    """The slot of the token that is initialised; SoftHSM always shows an empty one beside it."""
    _, slots = client.slots()
    return next(int(slot) for slot in slots if client.token(slot)[1][0])


@pytest.fixture
def client(spawn: Spawn) -> RawClient:
    return spawn()


@pytest.fixture
def ready(client: RawClient, p11fault: FaultModule) -> Ready:
    slot = slot_of(client)
    _, session = client.open(slot)
    assert client.login(session, p11fault.token.pin) == (OK, None)
    _, (public, key) = client.generate(session, b"\x01\x02")
    return Ready(client, slot, session, public, key)
