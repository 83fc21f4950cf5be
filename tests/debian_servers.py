"""Servers of Debian's packages in tests, on loopback: Prometheus and Alertmanager."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["debian_server", "free_port"]


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def debian_server(package: str, directory: Path, *arguments: str) -> Iterator[None]:
    """Run the server that is named like its package; what it says goes to ``directory/log``."""
    program = shutil.which(package)
    if program is None:
        pytest.fail(f"{package} is missing: scripts/test installs it, or apt-get install {package}")
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen([program, *arguments], stdout=log, stderr=log) as process,  # noqa: S603 - a test's own
    ):
        try:
            yield
        finally:
            process.terminate()
