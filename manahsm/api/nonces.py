"""Whose turn it is to send from an address, and with which nonce.

The one thing to know: an address has one turn at a time. In it a nonce is chosen, the transaction signed and sent; the
nonce counts as used only once the node has taken the transaction, so one that was refused leaves no gap. The node's
count rules, but for one case: it may lag behind what it took from us, and then we go by what we sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
from attrs import define, field, frozen

from manahsm.errors import Overloaded
from supervisors import SYSTEM_CLOCK, Clock

__all__ = ["LAG", "Counts", "Nonces", "Turn"]

LAG = 60.0
"""Seconds for which a node may count fewer transactions than it took from us before we ask what became of them."""

_MOST_WAITING = 1024
_MOST_ADDRESSES = 1000
_MOST_SENT = 1024


class Counts(Protocol):
    """What is asked of the node."""

    async def count(self, address: str) -> int:
        """The nonce that comes next, transactions that are not mined yet included."""
        ...

    async def knows(self, tx_hash: str) -> bool:
        """Whether the node has a transaction, mined or not."""
        ...


@frozen
class _Sending:
    """A transaction that was handed to the node, which has not said that it took it."""

    nonce: int
    tx_hash: str
    chosen: bool  # by us, not by the caller


@define
class _Sender:
    """What is known of one address."""

    turn: anyio.Lock = field(factory=anyio.Lock)
    inside: int = 0
    next: int | None = None
    sent: OrderedDict[int, str | None] = field(factory=OrderedDict)  # nonce -> hash; None for what others sent
    behind_since: float | None = None
    in_doubt: _Sending | None = None

    def record(self, nonce: int, tx_hash: str | None) -> None:
        """Count on from a nonce that is used."""
        self.next = max(self.next or 0, nonce + 1)
        self.sent[nonce] = tx_hash
        if len(self.sent) > _MOST_SENT:
            self.sent.popitem(last=False)

    def forget(self) -> None:
        self.next = self.behind_since = None
        self.sent.clear()


class Nonces:
    """The turns of all addresses. What is known of one is forgotten when many others have sent since.

    Args:
        chain: the node.
        most_waiting: sends of one address that may wait for their turn.
        clock: the time of :data:`LAG`.
    """

    def __init__(self, chain: Counts, *, most_waiting: int = _MOST_WAITING, clock: Clock = SYSTEM_CLOCK) -> None:
        self._chain = chain
        self._most_waiting = most_waiting
        self._clock = clock
        self._senders: OrderedDict[str, _Sender] = OrderedDict()

    def __len__(self) -> int:
        """How many addresses something is known of."""
        return len(self._senders)

    def forget(self) -> None:
        """Forget what was sent: nonces are what the node says."""
        for sender in self._senders.values():
            sender.forget()

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[Turn]:
        """Wait for the turn of an address, first come first served, and hold it inside the block.

        Args:
            address: 0x, in lower case.

        Raises:
            Overloaded: too many wait already.
            RPCError: the node does not say what became of the transaction before.
        """
        sender = self._senders.setdefault(address, _Sender())
        self._senders.move_to_end(address)
        if sender.inside > self._most_waiting:
            raise Overloaded(f"{self._most_waiting} transactions of this address wait to be sent: try again later")
        sender.inside += 1
        try:
            async with sender.turn:
                turn = Turn(address, sender, self._chain, self._clock)
                await turn.settle()
                yield turn
        finally:
            sender.inside -= 1
            self._drop_idle()

    def _drop_idle(self) -> None:
        excess = len(self._senders) - _MOST_ADDRESSES
        if excess > 0:
            idle = [address for address, sender in self._senders.items() if not sender.inside]
            for address in idle[:excess]:
                del self._senders[address]


class Turn:
    """The right to send the next transaction of an address."""

    def __init__(self, address: str, sender: _Sender, chain: Counts, clock: Clock) -> None:
        self._address = address
        self._sender = sender
        self._chain = chain
        self._clock = clock
        self._was_taken = False

    async def settle(self) -> None:
        """Find out what became of a transaction whose sending was cut short, before anything else is sent.

        Where the node does not know it, it may still come: then its nonce turns out to be taken when it is used again.
        """
        doubtful = self._sender.in_doubt
        if doubtful is not None:
            if await self._chain.knows(doubtful.tx_hash):
                self.sent()
            self._sender.in_doubt = None

    async def nonce(self) -> int:
        """Choose the nonce of the next transaction.

        Raises:
            RPCError: the node does not say how many it counts.
        """
        count = await self._chain.count(self._address)
        if self._was_taken:  # by one that the node has: there is no gap for the next one to fill
            return max(count, self._sender.next or 0)
        return await self._next(count)

    async def _next(self, count: int) -> int:
        sender = self._sender
        while sender.sent and next(iter(sender.sent)) < count:
            sender.sent.popitem(last=False)
        if sender.next is None or count >= sender.next:
            sender.behind_since = None
            return count
        if sender.behind_since is None:
            sender.behind_since = self._clock.now()
        if self._clock.now() - sender.behind_since < LAG:
            return sender.next
        # Late for a lag. The transaction that the node does not count is there, waiting, or it was dropped and all that
        # follow it wait for one in its place.
        if count not in sender.sent:  # so many wait that we have forgotten
            return sender.next
        tx_hash = sender.sent[count]
        return sender.next if tx_hash is not None and await self._chain.knows(tx_hash) else count

    def sends(self, nonce: int, tx_hash: str, *, chosen: bool) -> None:
        """Say that a transaction is handed to the node now. Until it is told how that ended, its fate is in doubt.

        Args:
            nonce: of the transaction.
            tx_hash: 0x.
            chosen: the nonce came from :meth:`nonce`, not from the caller.
        """
        self._sender.in_doubt = _Sending(nonce, tx_hash, chosen)

    def sent(self) -> None:
        """Say that the node took it."""
        sender, done = self._sender, self._sender.in_doubt
        sender.in_doubt = None
        if done is None:
            return
        # A caller may choose a nonce further on; the gap is theirs to fill, and we do not count on from there.
        if done.chosen or (sender.next is not None and done.nonce <= sender.next):
            sender.record(done.nonce, done.tx_hash)

    def refused(self) -> None:
        """Say that the node did not take it."""
        self._sender.in_doubt = None

    def taken(self) -> None:
        """Say that the node did not take it because another transaction has its nonce."""
        sender, done = self._sender, self._sender.in_doubt
        sender.in_doubt = None
        self._was_taken = True
        if done is not None and done.chosen and done.nonce not in sender.sent:
            sender.record(done.nonce, None)
