"""The OpenRPC document that ``rpc.discover`` returns: every method that is served here, and nothing else (pure).

Source: the OpenRPC specification 1.3, https://spec.open-rpc.org.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from manahsm.api.codes import codes_of
from manahsm.api.params import Param
from manahsm.api.specs import Kind, Spec
from manahsm.config.api_tables import Dialect

__all__ = ["openrpc_document"]

_VERSION = "1.3.2"
_TAGS = {Kind.READ: "read", Kind.SIGN: "sign", Kind.MANAGE: "admin"}


def openrpc_document(specs: Iterable[Spec], dialect: Dialect, version: str) -> dict[str, Any]:
    """Describe methods.

    Args:
        specs: what is served.
        dialect: whose error codes the caller gets.
        version: of manahsm.
    """
    return {
        "openrpc": _VERSION,
        "info": {
            "title": "manahsm",
            "version": version,
            "description": "A supervised Ethereum signing service whose keys live in hardware security modules.",
            "license": {"name": "Apache-2.0"},
        },
        "methods": [_method(spec, dialect) for spec in sorted(specs, key=lambda spec: spec.name)],
    }


def _method(spec: Spec, dialect: Dialect) -> dict[str, Any]:
    return {
        "name": spec.name,
        "summary": spec.summary,
        "tags": [{"name": _TAGS[spec.kind]}],
        "paramStructure": "either",
        "params": [_param(param) for param in spec.params],
        "result": {"name": "result", "schema": spec.result},
        "errors": [
            {"code": code, "message": message} for code, message in sorted(codes_of(dialect, spec.name).items())
        ],
    }


def _param(param: Param) -> dict[str, Any]:
    return {"name": param.name, "required": param.required, "schema": param.schema}
