"""Unlocks software twins ahead of need: deriving a key from a passphrase takes most of a second, an outage has none.

The one thing to know: only twins that software may ever sign with are unlocked, the ones used last first, one after
the other. Whatever could not be unlocked is tried again when it is needed.
"""

from __future__ import annotations

from datetime import UTC, datetime

from manahsm.errors import ManaHSMError
from manahsm.keys.keystore import Keystore
from manahsm.keys.registry import KeyRegistry
from manahsm.logs import get_logger
from manahsm.requests import Backend, KeyInfo
from manahsm.signing.stand_in import StandIn
from supervisors import ChildContext

__all__ = ["TwinKeeper"]

_log = get_logger("manahsm.fallback")

_NEVER = datetime.min.replace(tzinfo=UTC)


class TwinKeeper:
    """Body of the supervised task.

    Args:
        registry: which keys have twins.
        keystore: where the twins are, or ``None`` where no software keys are configured.
        stand_in: which of them may ever stand in.
    """

    def __init__(self, registry: KeyRegistry, keystore: Keystore | None, stand_in: StandIn) -> None:
        self._registry = registry
        self._keystore = keystore
        self._stand_in = stand_in

    async def run(self, ctx: ChildContext) -> None:
        """Unlock what there is at the start, then stand by: twins that are imported later are unlocked already."""
        ctx.started()
        if self._keystore is not None:
            for key in self._wanted():
                try:
                    await self._keystore.unlock(key.key_id)
                except ManaHSMError as error:
                    _log.warning("software twin can not be unlocked", key_id=key.key_id, error=str(error))
        await ctx.wait_stopping()

    def _wanted(self) -> list[KeyInfo]:
        keys = [key for key in self._registry.list(backend=Backend.HSM) if self._stand_in.may_ever(key)]
        return sorted(keys, key=lambda key: key.last_used or _NEVER, reverse=True)
