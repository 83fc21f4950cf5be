"""What every test shares: both event loops, and what coverage measures.

The one thing to know: coverage takes as long to begin in a process as a host takes to start. So processes that tests
start are measured where they are the subject, and not where they are among the things that a test needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from coverage import Coverage

TESTS = Path(__file__).parent
PROCESSES_ARE_THE_SUBJECT = (
    TESTS / "integration" / "audit",
    TESTS / "integration" / "cli",
    TESTS / "integration" / "hsm",
    TESTS / "integration" / "software",
    TESTS / "integration" / "service" / "test_service_command.py",
    TESTS / "integration" / "service" / "test_service_hands.py",
)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _processes_are_measured_where_they_are_the_subject(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(request.path.is_relative_to(place) for place in PROCESSES_ARE_THE_SUBJECT):
        _measure_no_process(monkeypatch)


def _measure_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(name)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Coverage measures neither this process during the test nor the processes that it starts.

    For tests that put a load on the service: the tracer would be most of what they wait for.
    """
    _measure_no_process(monkeypatch)
    measuring = Coverage.current()
    if measuring is not None:
        measuring.stop()
    yield
    if measuring is not None:
        measuring.start()
