"""What is written to a child's pipe arrives whole and in order, whenever the pipe takes it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

import anyio
import pytest

from manahsm.processes.pipes import Outbox
from supervisors.testing import settle

pytestmark = pytest.mark.anyio

PIPE_SIZE = 4096


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a small pipe: the one to read, and the one to write."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def arrived(reading: int) -> bytes:
    try:
        return os.read(reading, 1 << 20)
    except BlockingIOError:
        return b""


def test_what_is_written_at_once_is_there_at_once(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    outbox = Outbox(writing)
    outbox.write(b"a")
    assert (arrived(reading), outbox.waiting) == (b"a", 0)


async def test_what_may_wait_goes_in_the_next_turn_behind_one_another(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    outbox = Outbox(writing)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outbox.serve)
        await settle()
        for part in (b"a", b"b", b"c"):
            outbox.write(part, at_once=False)
        assert (arrived(reading), outbox.waiting) == (b"", 3)
        await settle()
        assert (arrived(reading), outbox.waiting) == (b"abc", 0)
        tasks.cancel_scope.cancel()


def test_what_waits_goes_ahead_of_what_is_written_at_once(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    outbox = Outbox(writing)
    outbox.write(b"a", at_once=False)
    outbox.write(b"b")
    assert arrived(reading) == b"ab"


async def test_what_a_full_pipe_does_not_take_follows_as_it_is_read(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    outbox = Outbox(writing)
    sent = b"".join(number.to_bytes(4, "big") for number in range(5 * PIPE_SIZE))
    received = b""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outbox.serve)
        for start in range(0, len(sent), 1000):
            outbox.write(sent[start : start + 1000], at_once=start % 3000 == 0)
        assert outbox.waiting > 0
        with anyio.fail_after(10):
            while len(received) < len(sent):
                await anyio.wait_readable(reading)
                received += arrived(reading)
        tasks.cancel_scope.cancel()
    assert (received == sent, outbox.waiting) == (True, 0)


async def test_a_reader_that_is_gone_is_no_error(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    outbox = Outbox(writing)
    elsewhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(elsewhere, reading)
    os.close(elsewhere)
    outbox.write(b"a")
    with anyio.fail_after(5):
        await outbox.serve()
