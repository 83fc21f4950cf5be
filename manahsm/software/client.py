"""A software host as the rest of the signer sees it: chunks of digests go out, chunks of signatures come back.

The one thing to know: it is a help and never a need. What it does not answer, because it is not there, has crashed or
is slow, is handed back at once to be signed in the loop; so there is nothing to retry here and nobody to wait for it.
Its process is started when it is wanted for the first time, so it costs nothing where few are signed at once.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import anyio
from attrs import frozen

from manahsm.processes.child import ChildProcess
from manahsm.processes.frames import FrameReader, ProtocolError, encode
from manahsm.software.messages import READY, SignAll, SignedAll, read_replies
from supervisors import ChildContext, Clock

__all__ = ["SoftwareHost", "SoftwareHostEnded"]

_HOST = "manahsm.software.host"
_MOST = 64  # digests under way, four milliseconds of a processor: all of them may come back at once
_PATIENCE = 1.0  # seconds for a chunk that takes a few milliseconds
_START_PATIENCE = 30.0  # seconds
_GRACE = 1.0  # seconds to end by itself once its pipe is closed
_READ_SIZE = 1200  # about one chunk: more at once would keep the event loop for long

Item = tuple[bytes, bytes, bytes]
Results = Sequence[bytes | None]


class SoftwareHostEnded(Exception):  # noqa: N818 - says what happened
    """The process crashed, was slow and was killed, or wrote what is no answer. The supervisor starts another one."""


@frozen
class _Chunk:
    id: int
    size: int
    due: float
    answered: Callable[[Results], None]
    lost: Callable[[], None]


class SoftwareHost:
    """One process at a time. :meth:`run` is the body of a supervised task.

    Args:
        clock: the time of deadlines.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._child: ChildProcess | None = None  # once it has said that it serves
        self._chunks: deque[_Chunk] = deque()
        self._under_way = 0
        self._numbers = itertools.count(1)
        self._backlog = b""
        self._awaited = anyio.Event()
        self._wanted = anyio.Event()

    @property
    def has_room(self) -> bool:
        """Whether it runs and takes another chunk now."""
        return self._child is not None and self._under_way < _MOST and not self._backlog

    def want(self) -> None:
        """Say that there is work for it; harmless when it runs."""
        self._wanted.set()

    def sign(self, items: list[Item], *, answered: Callable[[Results], None], lost: Callable[[], None]) -> None:
        """Have digests signed. Call it only while :attr:`has_room`.

        Args:
            items: private key, public key and digest of each: 32, 65 and 32 bytes.
            answered: called with one result for each, as in :class:`~manahsm.software.messages.SignedAll`.
            lost: called in its place where there is no answer and will be none.
        """
        assert self._child is not None  # noqa: S101 - it has room
        number = next(self._numbers)
        self._under_way += len(items)
        self._chunks.append(_Chunk(number, len(items), self._clock.now() + _PATIENCE, answered, lost))
        self._backlog = encode(SignAll(number, items))
        self._write(self._child)
        self._awaited.set()

    async def run(self, ctx: ChildContext) -> None:
        """Wait until it is wanted, then run one process until it ends or the task is cancelled.

        Raises:
            SoftwareHostEnded: it ended by itself, or had to be ended.
        """
        ctx.started()
        await self._wanted.wait()
        try:
            child = ChildProcess(_HOST, {})
        except OSError as error:
            raise SoftwareHostEnded(f"the software host can not be started: {error.strerror}") from error
        try:
            self._expect_ready(child)
            await self._serve(child)
        finally:
            self._child = None
            self._wanted = anyio.Event()
            chunks, self._chunks = self._chunks, deque()
            self._under_way, self._backlog = 0, b""
            for chunk in chunks:
                chunk.lost()
            await child.end(_GRACE)

    def _expect_ready(self, child: ChildProcess) -> None:
        """Take the first frame as the answer to a chunk of nothing."""

        def ready(_results: Results) -> None:
            self._child = child

        self._chunks.append(_Chunk(READY, 0, self._clock.now() + _START_PATIENCE, ready, lambda: None))
        self._awaited.set()

    async def _serve(self, child: ChildProcess) -> None:
        ending: SoftwareHostEnded | None = None

        async def watch_exit() -> None:
            nonlocal ending
            returncode = await child.wait()
            ending = ending or SoftwareHostEnded(f"the software host ended with status {returncode}")
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch_exit)
            try:
                await self._exchange(child)
            except SoftwareHostEnded as error:
                ending = error  # kept out of the group, which would wrap it
            tasks.cancel_scope.cancel()
        if ending is not None:
            raise ending

    async def _exchange(self, child: ChildProcess) -> None:
        reader = read_replies()
        while True:
            await self._awaited.wait()
            self._awaited = anyio.Event()
            while self._chunks:
                with self._clock.move_on_at(self._chunks[0].due) as late:
                    await self._ready(child)
                if late.cancelled_caught:
                    child.kill()
                    raise SoftwareHostEnded("the software host did not answer in time and was killed")
                self._write(child)
                with suppress(BlockingIOError):
                    self._take(reader, os.read(child.replies, _READ_SIZE))

    async def _ready(self, child: ChildProcess) -> None:
        if self._backlog:
            await anyio.wait_writable(child.commands)
        else:
            await anyio.wait_readable(child.replies)

    def _take(self, reader: FrameReader[SignedAll], data: bytes) -> None:
        """Pass answers on. Whatever is not the answer to the oldest chunk is not trusted, nor is what follows it."""
        try:
            replies = reader.feed(data)
        except ProtocolError as error:
            raise SoftwareHostEnded(f"the software host wrote what is no frame: {error}") from None
        if not data:
            raise SoftwareHostEnded("the software host closed its pipe")
        for reply in replies:
            chunk = self._chunks[0] if self._chunks else None
            if chunk is None or (reply.id, len(reply.results)) != (chunk.id, chunk.size):
                raise SoftwareHostEnded("the software host answered what was not asked")
            self._chunks.popleft()
            self._under_way -= chunk.size
            chunk.answered(reply.results)

    def _write(self, child: ChildProcess) -> None:
        """Write what the pipe takes. Where the process is dying, its exit ends the chunks."""
        if self._backlog:
            with suppress(OSError):
                self._backlog = self._backlog[os.write(child.commands, self._backlog) :]
