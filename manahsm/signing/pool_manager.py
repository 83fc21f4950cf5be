"""The pool manager of a slot: adopts hosts that are ready, and takes note of what the token holds.

It compares what is with what should be after every change, so it may crash anywhere and be restarted. Hosts
that have ended leave the pool by themselves (:meth:`Slot.host_gone`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from manahsm.hsm.client import HostProcess
from manahsm.hsm.failures import HostEnded, HSMFailure
from manahsm.hsm.info import TokenKey
from manahsm.logs import get_logger
from manahsm.signing.slot import Slot
from supervisors import ChildContext

__all__ = ["PoolManager"]

_log = get_logger("manahsm.pool")

RecordKeys = Callable[[Slot, Sequence[TokenKey]], Awaitable[None]]


class PoolManager:
    """Body of the supervised task of one slot.

    Args:
        slot: whose pool to manage.
        record_keys: told what the token holds whenever the slot comes up.
    """

    def __init__(self, slot: Slot, record_keys: RecordKeys) -> None:
        self._slot = slot
        self._record_keys = record_keys

    async def run(self, ctx: ChildContext) -> None:
        """Adopt hosts until cancelled."""
        ctx.started()
        slot = self._slot
        while True:
            version = slot.changes.version
            for host in tuple(slot.ready_hosts.values()):
                if host not in slot.pool.hosts:
                    await self._adopt(host)
            await slot.changes.wait_after(version)

    async def _adopt(self, host: HostProcess) -> None:
        slot = self._slot
        if not slot.pool.hosts:
            # The first host after an outage: the token may have changed, or be another one.
            try:
                keys = await host.find_keys()
            except (HSMFailure, HostEnded) as failure:
                if host not in slot.ready_hosts.values():
                    return  # it died meanwhile, and its keeper knows
                slot.start_failed(f"the token's keys could not be listed: {failure}")
                raise
            await self._record_keys(slot, keys)
        if host in slot.ready_hosts.values():
            slot.pool.attach(host)
            slot.changes.notify()
            _log.info("host adopted", slot=slot.name, pid=host.info.pid if host.info else None)
