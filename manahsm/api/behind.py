"""The node behind the signer, put together: what it adds to the methods, and the way to it for all others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import frozen

from manahsm.api.calls import Methods
from manahsm.api.chain import Chain
from manahsm.api.downstream import Node
from manahsm.api.forwarding import Forwarding
from manahsm.api.gateway import Gateway
from manahsm.api.nonces import Nonces
from manahsm.api.patience import Patient
from manahsm.api.sending import sending_methods
from manahsm.config.api_tables import Api
from supervisors import SYSTEM_CLOCK, Clock

__all__ = ["Behind", "node_behind"]


@frozen(kw_only=True)
class Behind:
    """What there is with a node behind."""

    methods: Methods
    forward: Forwarding


@asynccontextmanager
async def node_behind(
    api: Api, gateway: Gateway, *, request_timeout: float, clock: Clock = SYSTEM_CLOCK
) -> AsyncIterator[Behind | None]:
    """Hold connections to the node, where the configuration names one, for as long as the block lasts.

    Args:
        api: names the node and says how long it may take to answer.
        gateway: to the service that signs.
        request_timeout: seconds until a transaction must be on its way (``service.request_timeout``).
        clock: whose seconds they are.
    """
    if api.downstream is None:
        yield None
        return
    async with Node(api.downstream, timeout=api.downstream_timeout, clock=clock) as node:
        patient = Patient(node, clock=clock)
        chain = Chain(patient, clock=clock)
        nonces = Nonces(chain, clock=clock)
        yield Behind(
            methods=sending_methods(gateway, patient, chain, nonces, request_timeout=request_timeout, clock=clock),
            forward=Forwarding(node, forget_nonces=nonces.forget),
        )
