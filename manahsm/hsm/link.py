"""Our end of one host process's pipes: frames out, replies in, deadlines, and how the process ended.

The one thing to know: a call that outlives its deadline kills the host, because a call inside a vendor's library can
not be cancelled and the session behind it may never come back. Every call that was outstanding then fails at once,
so that its request can be signed elsewhere; reaping the process comes after.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence

import anyio
import anyio.abc

from manahsm.hsm.calls import Call, CallTable
from manahsm.hsm.failures import HostCrashed, HostEnded, HostStartFailed, HostWedged, HSMFailure
from manahsm.hsm.outcomes import Outcome, outcome_named, outcome_of
from manahsm.hsm.protocol import (
    CloseSession,
    Command,
    Failed,
    Failure,
    Keys,
    Opened,
    Reply,
    Shutdown,
    StartFailed,
    read_replies,
)
from manahsm.processes.child import ChildProcess
from manahsm.processes.frames import ProtocolError, encode
from manahsm.processes.pipes import Outbox, read_while_open
from supervisors.clock import Clock

__all__ = ["READY", "HostLink", "failure_to_error"]

READY = 0
"""Id of the first call, which the ready frame answers."""

_READ_SIZE = 512  # about 6 signatures, a millisecond: more in one go would keep the event loop for long
_MAX_BACKLOG = 1 << 20  # bytes that wait because the pipe is full: the host has stopped reading


class HostLink:
    """One running host process, as calls and replies. Serves in :meth:`serve` and ends for good."""

    def __init__(self, child: ChildProcess, name: str, clock: Clock, after_read: Callable[[], object]) -> None:
        self._child = child
        self._name = name
        self._clock = clock
        self._after_read = after_read
        self._calls = CallTable()
        self._reader = read_replies()
        self._outbox = Outbox(child.commands)
        self._ended = anyio.Event()
        self._stopping = False
        self.is_open = True
        """Whether calls are taken: neither stopping nor ended. Kept, because it is asked four times a signature."""
        self._wakes_at = -math.inf
        self._nap = anyio.CancelScope()
        self.ending: HostEnded | None = None
        """Why it ended, once :attr:`is_open` is false; ``None`` where it was asked to."""

    # ---- calls ----

    def begin(self, name: str, timeout: float) -> Call:
        """Begin a call, which the caller sends next.

        Args:
            name: what it is called in messages.
            timeout: seconds until the host counts as wedged and is killed.

        Raises:
            HSMFailure: HOST_NOT_RUNNING.
        """
        if not self.is_open:
            raise HSMFailure(outcome_named("HOST_NOT_RUNNING", name), f"host {self._name} has ended")
        call = self._calls.add(name, math.inf)
        self.due_in(call, timeout)
        return call

    def due_in(self, call: Call, timeout: float) -> None:
        """Set when a call is due: in so many seconds from now."""
        call.deadline = self._clock.now() + timeout
        if call.deadline < self._wakes_at:
            # Rare: the watch sleeps to the first deadline and looks again then, whatever came in between.
            self._wakes_at = call.deadline
            self._nap.cancel()

    def send(self, call: Call, command: Command) -> None:
        """Send the command of a call.

        Raises:
            HSMFailure: REQUEST_TOO_LARGE, or HOST_BUSY when the host has stopped reading. The call has ended then.
        """
        self.send_all((call,), (command,))

    def send_all(self, calls: Sequence[Call], commands: Iterable[Command], *, at_once: bool = True) -> None:
        """Send the commands of some calls in one write.

        Args:
            calls: what :meth:`begin` returned.
            commands: one for each of them.
            at_once: otherwise in the loop's next turn, with all that others send until then: the write and the
                wake-up of the host are a tenth of what a signature costs this process.

        Raises:
            HSMFailure: as :meth:`send`, of all of them.
        """
        try:
            frames = b"".join(map(encode, commands))
        except ProtocolError as error:
            raise self._not_sent(calls, "REQUEST_TOO_LARGE", str(error)) from None
        if self._outbox.waiting + len(frames) > _MAX_BACKLOG:
            raise self._not_sent(calls, "HOST_BUSY", f"host {self._name} does not keep up")
        self._outbox.write(frames, at_once=at_once)

    def _not_sent(self, calls: Sequence[Call], outcome: str, detail: str) -> HSMFailure:
        for call in calls:
            self._calls.take(call.id)
        return HSMFailure(outcome_named(outcome, calls[0].name), detail)

    # ---- ending ----

    def stop(self) -> None:
        """Ask the host to finish what it has and end; new calls are refused from now on."""
        if self.is_open:
            self._stopping = True
            self.is_open = False
            self._outbox.write(encode(Shutdown()))

    def kill(self) -> None:
        """End the process now."""
        self._child.kill()

    def give_up(self, ending: HostEnded) -> None:
        """End it for a reason that only the client knows."""
        self._end(ending)

    async def close(self, grace: float) -> int | None:
        """Fail what is still outstanding, then end and reap the process; runs to its end even when cancelled."""
        self._end(None)
        return await self._child.end(grace)

    def _end(self, ending: HostEnded | None) -> None:
        """The host is no more, or will not be for long. Only the first reason counts."""
        if self._ended.is_set():
            return
        self.ending = ending
        self.is_open = False
        self._ended.set()
        self._calls.fail_all(self._error_for)

    def _error_for(self, call: Call) -> HSMFailure:
        if self.ending is not None and call.deadline <= self._clock.now():
            detail = f"no answer from host {self._name} in time; whether the token did it is unknown"
            return HSMFailure(outcome_named("DEADLINE_PASSED", call.name), detail)
        if self.ending is None:
            return HSMFailure(outcome_named("HOST_STOPPED", call.name), f"host {self._name} was stopped")
        return HSMFailure(outcome_named("HOST_CRASHED", call.name), str(self.ending))

    # ---- serving ----

    async def serve(self, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Read replies, watch deadlines and the process; returns when the host has ended (see :attr:`ending`)."""
        async with anyio.create_task_group() as tasks:
            for task in (self._read, self._watch_deadlines, self._watch_exit, self._outbox.serve):
                tasks.start_soon(task)
            task_status.started()
            await self._ended.wait()
            tasks.cancel_scope.cancel()

    async def _read(self) -> None:
        await read_while_open(self._child.replies, lambda: self._receive() != b"")
        # Nothing can come any more. A host that lives on without its pipe is of no use.
        self._child.kill()

    def _receive(self) -> bytes | None:
        """Deliver what has arrived; empty at the end of the pipe or of its sense, ``None`` when nothing is there."""
        try:
            data = os.read(self._child.replies, _READ_SIZE)
        except BlockingIOError:
            return None
        try:
            for reply in self._reader.feed(data):
                self._deliver(reply)
        except ProtocolError as error:
            self._end(HostCrashed(f"host {self._name} wrote what is no frame: {error}", returncode=None))
            return b""
        self._after_read()
        return data

    def _deliver(self, reply: Reply) -> None:
        if isinstance(reply, StartFailed):
            failure = reply.failure
            reason = failure.detail or f"{failure.name} from {failure.function}"
            self._end(HostStartFailed(outcome_from(failure), f"host {self._name}: {reason}"))
            return
        call = self._calls.get(reply.id)
        if call is None:
            return
        if isinstance(reply, Keys) and reply.more:
            call.pages.extend(reply.keys)
            return
        self._calls.take(call.id)
        if isinstance(reply, Failed):
            call.fail(failure_to_error(reply.failure))
        elif call.abandoned and isinstance(reply, Opened):
            # Nobody knows this session.
            self._outbox.write(encode(CloseSession(0, reply.session)))
        else:
            call.answer(reply)

    async def _watch_deadlines(self) -> None:
        while True:
            due = self._calls.next_deadline()
            if due <= self._clock.now():
                self._child.kill()
                self._end(self._wedged_by(next(call for call in self._calls if call.deadline == due)))
                return
            self._wakes_at = due
            self._nap = anyio.CancelScope()
            with self._nap:
                await (anyio.sleep_forever() if due == math.inf else self._clock.sleep_until(due))

    def _wedged_by(self, call: Call) -> HostEnded:
        if call.id == READY:
            message = f"host {self._name} was not ready in time; it was killed"
            return HostStartFailed(outcome_named("START_TIMEOUT", call.name), message)
        message = f"host {self._name}: {call.name} did not return in time; the host was killed"
        return HostWedged(message, call=call.name)

    async def _watch_exit(self) -> None:
        returncode = await self._child.wait()
        # What it wrote before it ended still counts.
        while self._receive():
            pass
        if self._stopping:
            self._end(None)
            return
        how = f"was ended by signal {-returncode}" if returncode < 0 else f"ended with status {returncode}"
        self._end(HostCrashed(f"host {self._name} {how}", returncode=returncode))


def outcome_from(failure: Failure) -> Outcome:
    """Classify what a host reported."""
    if failure.rv is None:
        return outcome_named(failure.name, failure.function)
    return outcome_of(failure.rv, failure.function)


def failure_to_error(failure: Failure) -> HSMFailure:
    """Make the exception for what a host reported."""
    return HSMFailure(outcome_from(failure), failure.detail)
