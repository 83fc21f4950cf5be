"""The machine that figures belong to: what kind it is, and not which one."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["LIBRARIES", "describe"]

LIBRARIES = (
    "anyio", "coincurve", "eth-account", "httptools", "msgspec", "python-pkcs11", "rlp", "safe-pysha3", "starlette",
    "trio", "uvicorn",
)  # fmt: skip


def describe() -> dict[str, str]:
    """Processor, kernel, Python and libraries; nothing by which somebody could find the machine."""
    found = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "softhsm": _first_line("softhsm2-util", "--version"),
        "node": _first_line("node", "--version"),
    }
    return {**found, **_libraries()}


def _libraries() -> Mapping[str, str]:
    known = {}
    for name in LIBRARIES:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    return known


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "not there"
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own literals
    return done.stdout.partition("\n")[0].strip()
