"""A software host as the rest of the signer sees it: chunks of work go out, chunks of verified signatures come back.

The one thing to know: it is a help and never a need. What it does not answer, because it is not there, has crashed or
is slow, is handed back at once to be done in the loop; so there is nothing to retry here and nobody to wait for it.
Its process is started when it is wanted for the first time, so it costs nothing where few are signed at once.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio
from attrs import frozen

from manahsm.processes.child import ChildProcess
from manahsm.processes.frames import FrameReader, ProtocolError, encode
from manahsm.processes.pipes import Outbox, read_while_open
from manahsm.software.messages import READY, CheckAll, SignAll, SignedAll, read_replies
from supervisors import ChildContext, Clock

__all__ = ["SoftwareHost", "SoftwareHostEnded"]

_HOST = "manahsm.software.host"
_MOST = 52  # signatures under way, from which no more are taken: what comes beyond is done in the loop
_PATIENCE = 1.0  # seconds for a chunk that takes a few milliseconds
_START_PATIENCE = 30.0  # seconds
_GRACE = 1.0  # seconds to end by itself once its pipe is closed
_READ_SIZE = 600  # about one chunk: more at once would keep the event loop for long

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

    Attributes:
        pid: its process id while it serves.
    """

    def __init__(self, clock: Clock) -> None:
        self.pid: int | None = None
        self._clock = clock
        self._outbox: Outbox | None = None  # while it serves
        self._chunks: deque[_Chunk] = deque()
        self._under_way = 0
        self._numbers = itertools.count(1)
        self._wanted = anyio.Event()

    @property
    def has_room(self) -> bool:
        """Whether it runs and takes another chunk now."""
        return self._outbox is not None and self._under_way < _MOST and not self._outbox.waiting

    @property
    def under_way(self) -> int:
        """Signatures that it makes or checks."""
        return self._under_way

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
        self._ask(SignAll(next(self._numbers), items), answered, lost)

    def check(self, items: list[Item], *, answered: Callable[[Results], None], lost: Callable[[], None]) -> None:
        """Have signatures of tokens checked. Call it only while :attr:`has_room`.

        Args:
            items: ``r || s``, public key and digest of each: 64, 65 and 32 bytes.
            answered: called with one result for each, as in :class:`~manahsm.software.messages.SignedAll`.
            lost: called in its place where there is no answer and will be none.
        """
        self._ask(CheckAll(next(self._numbers), items), answered, lost)

    def _ask(self, command: SignAll | CheckAll, answered: Callable[[Results], None], lost: Callable[[], None]) -> None:
        assert self._outbox is not None  # noqa: S101 - it has room
        size = len(command.items)
        self._under_way += size
        self._chunks.append(_Chunk(command.id, size, self._clock.now() + _PATIENCE, answered, lost))
        self._outbox.write(encode(command))

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
            await self._serve(child)
        finally:
            self._outbox = self.pid = None
            self._wanted = anyio.Event()
            chunks, self._chunks = self._chunks, deque()
            self._under_way = 0
            for chunk in chunks:
                chunk.lost()
            await child.end(_GRACE)

    async def _serve(self, child: ChildProcess) -> None:
        """Serve until the process ends, or has to.

        Raises:
            SoftwareHostEnded: always, but where the task is cancelled.
        """
        outbox = Outbox(child.commands)
        self._expect_ready(child, outbox)
        ending: SoftwareHostEnded | None = None

        async def end_with(part: Callable[[], Awaitable[SoftwareHostEnded]]) -> None:
            nonlocal ending
            end = await part()
            ending = ending or end
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outbox.serve)
            for part in (self._read, self._watch_lateness, _exit_of):
                tasks.start_soon(end_with, partial(part, child))
        assert ending is not None  # noqa: S101 - else this was cancelled
        raise ending

    def _expect_ready(self, child: ChildProcess, outbox: Outbox) -> None:
        """Take the first frame as the answer to a chunk of nothing."""

        def ready(_results: Results) -> None:
            self._outbox, self.pid = outbox, child.pid

        self._chunks.append(_Chunk(READY, 0, self._clock.now() + _START_PATIENCE, ready, lambda: None))

    async def _read(self, child: ChildProcess) -> SoftwareHostEnded:
        """Pass answers on until there can be none."""
        reader = read_replies()

        def receive() -> bool:
            try:
                data = os.read(child.replies, _READ_SIZE)
            except BlockingIOError:
                return True
            self._take(reader, data)
            return bool(data)

        try:
            await read_while_open(child.replies, receive)
        except SoftwareHostEnded as ended:
            return ended
        return SoftwareHostEnded("the software host closed its pipe")

    def _take(self, reader: FrameReader[SignedAll], data: bytes) -> None:
        """Pass answers on. Whatever is not the answer to the oldest chunk is not trusted, nor is what follows it."""
        try:
            replies = reader.feed(data)
        except ProtocolError as error:
            raise SoftwareHostEnded(f"the software host wrote what is no frame: {error}") from None
        for reply in replies:
            chunk = self._chunks[0] if self._chunks else None
            if chunk is None or (reply.id, len(reply.results)) != (chunk.id, chunk.size):
                raise SoftwareHostEnded("the software host answered what was not asked")
            self._chunks.popleft()
            self._under_way -= chunk.size
            chunk.answered(reply.results)

    async def _watch_lateness(self, child: ChildProcess) -> SoftwareHostEnded:
        """Wait until an answer is late. What is asked while this sleeps is due after it wakes."""
        while True:
            now, due = self._clock.now(), self._chunks[0].due if self._chunks else math.inf
            if due <= now:
                child.kill()
                return SoftwareHostEnded("the software host did not answer in time and was killed")
            await self._clock.sleep_until(min(due, now + _PATIENCE))


async def _exit_of(child: ChildProcess) -> SoftwareHostEnded:
    return SoftwareHostEnded(f"the software host ended with status {await child.wait()}")
