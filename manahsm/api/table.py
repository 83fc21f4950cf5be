"""Every method in one table: which are served where somebody came in, and who may call them.

The one thing to know: access is looked at here, before a parameter is read, and a refusal is recorded here where the
service never came to see the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from manahsm import __version__
from manahsm.api import params
from manahsm.api.calls import Call, Method, Methods
from manahsm.api.clef import clef_specs
from manahsm.api.codes import MethodDenied
from manahsm.api.desk import Desk
from manahsm.api.gateway import Gateway
from manahsm.api.manage import manahsm_specs
from manahsm.api.openrpc import openrpc_document
from manahsm.api.specs import Asked, Do, Kind, Spec
from manahsm.api.web3signer import web3signer_specs
from manahsm.config.api_tables import Dialect
from manahsm.config.model import Config
from manahsm.errors import ManaHSMError

__all__ = ["check_may_call", "methods_for"]

_NONE: Methods = MappingProxyType({})


def methods_for(config: Config, gateway: Gateway, dialects: tuple[Dialect, ...], extra: Methods = _NONE) -> Methods:
    """The methods that are served on a listener.

    Args:
        config: of the service.
        gateway: to the service.
        dialects: whose methods are served there.
        extra: more methods, which read their parameters themselves. They win over those of the same name.
    """
    desk = Desk(gateway)
    specs: dict[str, Spec] = {}
    served: dict[str, Method] = {}

    async def discover(asked: Asked) -> dict[str, Any]:
        return openrpc_document(specs.values(), asked.call.visitor.dialect, __version__)

    ours = (*web3signer_specs(desk), *clef_specs(desk), *manahsm_specs(desk, config), _discovery(discover))
    for spec in ours:
        if not spec.dialects or not spec.dialects.isdisjoint(dialects):
            specs[spec.name], served[spec.name] = spec, _bound(spec, desk)
    for name, method in extra.items():
        specs[name] = spec = _extra(name)
        served[name] = _guarded(spec, method, desk)
    return MappingProxyType(served)


def check_may_call(call: Call, kind: Kind) -> None:
    """Insist that the caller may call this method at all.

    Raises:
        MethodDenied: they may not.
    """
    access = call.visitor.access
    if not access.admits(call.method):
        raise MethodDenied(
            f"caller {access.caller} may not call {call.method}: an administrator can add it in hsm.api.callers"
        )
    if kind is Kind.MANAGE and not access.admin:
        raise MethodDenied(f"caller {access.caller} may not call {call.method}: it is for callers with admin = true")


def _bound(spec: Spec, desk: Desk) -> Method:
    """The method of an entry: look at access, read the parameters, do it."""

    async def method(call: Call) -> Any:
        asked = Asked(call)
        try:
            check_may_call(call, spec.kind)
            return await spec.do(asked, *params.bind(spec.params, call.params))
        except ManaHSMError as error:
            await desk.keep_refusal(asked, spec.name, spec.kind, error)
            raise

    return method


def _guarded(spec: Spec, method: Method, desk: Desk) -> Method:
    """A method that does all by itself, but for looking at access."""

    async def guarded(call: Call) -> Any:
        try:
            check_may_call(call, spec.kind)
        except ManaHSMError as error:
            await desk.keep_refusal(Asked(call), spec.name, spec.kind, error)
            raise
        return await method(call)

    return guarded


def _discovery(do: Do) -> Spec:
    return Spec(
        name="rpc.discover",
        summary="This document.",
        kind=Kind.READ,
        result={"type": "object", "description": "OpenRPC 1.3"},
        do=do,
    )


_SENDS: Mapping[str, tuple[str, params.Schema]] = {
    "eth_sendTransaction": (
        "Fill in what a transaction lacks, sign it with the key of its sender, and send it to the node.",
        {"type": "string", "description": "the hash of the transaction"},
    ),
}


def _extra(name: str) -> Spec:
    summary, result = _SENDS.get(name, ("A method of this installation.", {}))
    taken = (params.transaction(),) if name in _SENDS else ()
    return Spec(name=name, summary=summary, kind=Kind.SIGN, params=taken, result=result, do=_never)


async def _never(*_: Any) -> Any:  # pragma: no cover - such an entry is only described
    raise AssertionError("an extra method does itself")
