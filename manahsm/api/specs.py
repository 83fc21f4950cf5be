"""What a method is: one entry of the table from which methods are served and described.

The one thing to know: an entry says everything, so what ``rpc.discover`` tells and what is served can not differ.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any

from attrs import define, field, frozen

from manahsm.api.calls import Call
from manahsm.api.params import Param, Schema
from manahsm.config.api_tables import Dialect

__all__ = ["Asked", "Do", "Kind", "Spec"]


class Kind(Enum):
    """Who may call a method, and whether a refusal is worth an audit record."""

    READ = auto()
    """Everybody who came so far; they see what concerns them."""
    SIGN = auto()
    """Everybody who came so far, with the keys that they may use. Refusals are recorded."""
    MANAGE = auto()
    """Callers with ``admin``. Refusals are recorded."""


@define
class Asked:
    """A call on its way.

    Attributes:
        call: what is asked.
        recorded: whether the service writes the audit record of what comes of it, refusals included.
    """

    call: Call
    recorded: bool = False


Do = Callable[..., Awaitable[Any]]
"""Takes an :class:`Asked` and one value for each parameter; returns what JSON can hold."""


@frozen(kw_only=True)
class Spec:
    """One method.

    Attributes:
        name: of JSON-RPC.
        summary: one sentence for people.
        kind: who may call it.
        params: what it takes, in order.
        result: what it returns (JSON Schema).
        do: does it.
        dialects: whose it is; it is served where one of them is. Empty: everywhere.
    """

    name: str
    summary: str
    kind: Kind
    params: tuple[Param, ...] = ()
    result: Schema
    do: Do = field(repr=False)
    dialects: frozenset[Dialect] = frozenset()
