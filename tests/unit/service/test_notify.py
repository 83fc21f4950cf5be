"""The service manager is told that the service is ready, lives and stops."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from manahsm.notify import Notifier


@pytest.fixture(params=["a path", "an abstract name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket such as systemd's, and its address as the environment has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(5)
        path = str(tmp_path / "notify") if request.param == "a path" else f"@manahsm-test-{os.getpid()}"
        listening.bind("\0" + path[1:] if path.startswith("@") else path)
        yield listening, path


def test_it_hears_each_word(manager: tuple[socket.socket, str]) -> None:
    listening, path = manager
    notifier = Notifier({"NOTIFY_SOCKET": path})
    notifier.ready("signing")
    notifier.alive("not signing")
    notifier.stopping()

    assert [listening.recv(1024) for _ in range(3)] == [
        b"READY=1\nSTATUS=signing",
        b"WATCHDOG=1\nSTATUS=not signing",
        b"STOPPING=1",
    ]


def test_a_status_of_two_lines_adds_no_word(manager: tuple[socket.socket, str]) -> None:
    listening, path = manager
    Notifier({"NOTIFY_SOCKET": path}).alive("slot a\nSTOPPING=1\r\nis down")

    assert listening.recv(1024) == b"WATCHDOG=1\nSTATUS=slot a STOPPING=1 is down"


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1"])
def test_without_a_manager_nothing_is_said(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("signing")

    assert not notifier.heard


def test_a_manager_that_is_gone_does_not_end_the_service(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).alive("signing")

    assert "service manager not told" in caplog.text


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_a_watchdog_is_for_this_process_or_for_none(environment: dict[str, str], seconds: float | None) -> None:
    assert Notifier(environment).watchdog == seconds
