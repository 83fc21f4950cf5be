"""What :mod:`supervisors.wakeup` is on trio."""

from __future__ import annotations

from trio import lowlevel

__all__ = ["TrioWakeup"]


class TrioWakeup:
    """A :class:`~supervisors.wakeup.Wakeup`."""

    __slots__ = ("_set", "_task")

    def __init__(self) -> None:
        self._set = False
        self._task: lowlevel.Task | None = None

    def set(self) -> None:
        """See the protocol."""
        self._set = True
        task, self._task = self._task, None
        if task is not None:
            lowlevel.reschedule(task)

    async def wait(self) -> None:
        """See the protocol."""
        if not self._set:
            self._task = lowlevel.current_task()
            await lowlevel.wait_task_rescheduled(self._cancelled)

    def _cancelled(self, _raise: object) -> lowlevel.Abort:
        self._task = None
        return lowlevel.Abort.SUCCEEDED
