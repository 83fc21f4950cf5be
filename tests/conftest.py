"""What every test shares: both event loops, and a way to run without coverage."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from coverage import Coverage


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Coverage measures neither this process during the test nor the processes that it starts.

    For tests that put a load on the service: the tracer would be most of what they wait for.
    """
    for name in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(name)
    measuring = Coverage.current()
    if measuring is not None:
        measuring.stop()
    yield
    if measuring is not None:
        measuring.start()
