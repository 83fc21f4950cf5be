"""Callers that sign for ever, and check every answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import anyio
from chaos.asks import Ask, ask, fault_in
from chaos.ledger import CANCELLED, NEVER_ENDED, SIGNED, End, Ledger, request_id
from chaos.sorts import Sort

import manahsm

__all__ = ["Caller"]

_NEVER = 6.0  # seconds after the deadline at which a request counts as lost
_DEFAULT_TIMEOUT = 4.0
_THINKS = 0.04
_RESTS = (0.02, 0.08)  # after a refusal
_NODES_LOOK = 20  # every so many-th answer is checked by eth-account as well


class Caller:
    """One caller with one key, one request at a time.

    Args:
        number: its own.
        sort: of its key.
        service: asked.
        key: asked for.
        ledger: told.
        seed: for what is asked, and when.
        began: the beginning, a time of ``time.monotonic``.
        is_sound: whether nothing has been wrong with a slot since such a time.
    """

    def __init__(
        self,
        number: int,
        sort: Sort,
        service: manahsm.Service,
        key: manahsm.KeyInfo,
        ledger: Ledger,
        *,
        seed: int,
        began: float,
        is_sound: Callable[[str, float], bool],
    ) -> None:
        self._number = number
        self._sort = sort
        self._service = service
        self._key = key
        self._ledger = ledger
        self._began = began
        self._is_sound = is_sound
        self._rng = random.Random(f"caller {number} of {seed}")  # noqa: S311 - a test's dice
        self._calls = 0

    async def run(self, stopping: anyio.Event) -> None:
        """Call until told to stop; the last request is seen through."""
        while not stopping.is_set():
            asked = ask(self._sort, self._key, request_id(self._number, self._calls), self._rng)
            self._calls += 1
            sent = time.monotonic()
            outcome = await self._call(asked)
            now = time.monotonic()
            sound = tuple(slot for slot in self._sort.slots if self._is_sound(slot, sent))
            self._ledger.ended(self._number, asked, End(outcome, now - sent, now - self._began, sound))
            rest = self._rng.uniform(0.0, _THINKS) if outcome == SIGNED else self._rng.uniform(*_RESTS)
            await anyio.sleep(rest)

    async def _call(self, asked: Ask) -> str:
        """Ask, and return how it ended."""
        patience = asked.patience
        longest = (asked.request.timeout or _DEFAULT_TIMEOUT) + _NEVER
        with anyio.move_on_after(longest if patience is None else min(patience, longest)):
            try:
                signed = await self._service.sign(asked.request)
            except manahsm.ManaHSMError as error:
                return error.code
            except Exception as error:  # noqa: BLE001 - whatever it is, a caller must never see it
                self._broken("exactly one outcome", asked, f"{type(error).__name__} was raised: {error}")
                return type(error).__name__
            wrong = fault_in(asked, signed, as_a_node_does=self._calls % _NODES_LOOK == 0)
            if wrong is not None:
                self._broken("nothing unverified leaves", asked, wrong)
            return SIGNED
        return NEVER_ENDED if patience is None else CANCELLED

    def _broken(self, invariant: str, asked: Ask, what: str) -> None:
        detail = f"{asked.request.request_id} ({asked.sort.value}): {what}"
        self._ledger.violated(invariant, detail, time.monotonic() - self._began)
