"""Keeps one host process of a slot alive: each run is one process, and a crash is a restart by the supervisor.

The one thing to know: a wrong or locked PIN latches the slot, and then no host of it starts again before an
operator acts, so that a token is never locked by us. Hosts of a slot start one at a time, for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from manahsm.hsm.client import HostProcess
from manahsm.hsm.failures import HostEnded, HostStartFailed
from manahsm.hsm.info import HostInfo
from manahsm.hsm.outcomes import Action
from manahsm.logs import get_logger
from manahsm.signing.slot import Slot, SlotPhase
from supervisors import ChildContext

__all__ = ["HostKeeper"]

_log = get_logger("manahsm.host")


class HostKeeper:
    """Body of one supervised task: a host process from its start to its end.

    Args:
        slot: whose token the host serves.
    """

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    async def run(self, ctx: ChildContext) -> None:
        """Run one host process until it ends or the task is cancelled; another one after the slot was latched.

        A token that is absent is no reason to hold up the rest of the tree, so this is ready at once and the
        slot's phase tells the truth.

        Raises:
            HostEnded: the process could not be started, crashed or was killed; the supervisor restarts this.
        """
        ctx.started()
        latches = -1
        while latches != self._slot.latches:  # stopped for any other reason, it is started again after a while
            latches = self._slot.latches
            await self._live(ctx)

    async def _live(self, ctx: ChildContext) -> None:
        slot = self._slot
        await self._wait_turn()
        starting = True

        def ready(info: HostInfo) -> None:
            nonlocal starting
            starting = False
            slot.start_turn.release()
            slot.host_ready(ctx.name, host)
            _log.info("host ready", slot=slot.name, host=ctx.name, pid=info.pid, token=info.token_label)

        host = HostProcess(slot.host_settings(), clock=ctx.clock, after_read=slot.checks.make)
        try:
            await self._run_until_latched(host, ready)
        except HostStartFailed as failure:
            if failure.outcome.action is Action.LATCH:
                slot.latch(str(failure))
            else:
                slot.start_failed(str(failure))
            raise
        except HostEnded as ended:
            if ended.outcome.action is Action.LATCH:
                slot.latch(str(ended))
            raise
        finally:
            if starting:
                slot.start_turn.release()
            slot.host_gone(ctx.name)

    async def _run_until_latched(self, host: HostProcess, ready: Callable[[HostInfo], None]) -> None:
        """Run the host; a latched slot keeps no login and no handle: all is opened anew when it is unlatched."""
        slot, latches = self._slot, self._slot.latches
        ended: HostEnded | None = None

        async def stop_when_latched() -> None:
            await slot.wait_until(lambda: slot.latches != latches)
            await host.stop()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_when_latched)
            try:
                await host.run(ready)
            except HostEnded as error:
                ended = error  # kept out of the group, which would wrap it
            tasks.cancel_scope.cancel()
        if ended is not None:
            raise ended

    async def _wait_turn(self) -> None:
        slot = self._slot
        while True:
            await slot.unlatched()
            await slot.start_turn.acquire()
            if slot.phase is not SlotPhase.LATCHED:
                return
            slot.start_turn.release()
