"""A service under load that can be killed: what it is, and what is known of it from outside.

As a program, ``audit_load.py CALLERS`` with a configuration on standard input: that many callers sign with a software
key as fast as they can, for ever, and the request id of each signature is written to standard output, unbuffered,
after the caller has received it.

The one thing to know: an id in the pipe means that a caller held that signature, so its record must be in the log,
whenever the process was killed.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import anyio

import manahsm
from manahsm.audit.show import Query, show

__all__ = ["killed_under_load", "signed_ids"]

_CALLERS = 4


def killed_under_load(config: Mapping[str, Any], *, after: int, then: float = 0.0) -> set[str]:
    """Run the program, kill it with SIGKILL, and return the request ids whose signatures a caller received.

    Args:
        config: of the service.
        after: how many signatures to wait for first.
        then: seconds in which it goes on before it is killed.
    """
    with subprocess.Popen(  # noqa: S603 - this file
        [sys.executable, __file__, str(_CALLERS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(config).encode())
        process.stdin.close()
        pipe = process.stdout.fileno()
        received = bytearray()
        while received.count(b"\n") < after:
            received += _read(pipe)
        deadline = monotonic() + then
        while (left := deadline - monotonic()) > 0:
            if select.select([pipe], [], [], left)[0]:
                received += _read(pipe)
        process.send_signal(signal.SIGKILL)
        while more := os.read(pipe, 65536):
            received += more
    assert process.returncode == -signal.SIGKILL, process.returncode
    *whole, _cut = received.split(b"\n")
    return {line.decode() for line in whole}


def _read(pipe: int) -> bytes:
    content = os.read(pipe, 65536)
    assert content, "the service ended by itself"
    return content


def signed_ids(directory: Path) -> set[str]:
    """The request ids of all signatures that an audit log has a record of."""
    return {
        str(record["request_id"])
        for record in show(directory, Query(event="sign", outcome="signed"), warn=lambda _: None)
    }


async def _main(config: Any, callers: int) -> None:
    numbers = itertools.count()

    async def call(service: manahsm.Service) -> None:
        while True:
            request_id = f"{os.getpid()}-{next(numbers)}"
            await service.sign_hash(os.urandom(32), "load", request_id=request_id)
            os.write(1, f"{request_id}\n".encode())
            await anyio.lowlevel.checkpoint()

    async with manahsm.open_service(config) as service:
        if not await service.list_keys():
            await service.generate_key("load", "node_identity", "software")
        async with anyio.create_task_group() as tasks:
            for _ in range(callers):
                tasks.start_soon(call, service)


if __name__ == "__main__":
    anyio.run(_main, json.load(sys.stdin), int(sys.argv[1]))
