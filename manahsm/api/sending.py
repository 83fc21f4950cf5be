"""``eth_sendTransaction``: fill in what is missing, sign, hand to the node, and know what became of it.

The one thing to know: gas and fees are asked for before the turn of the address begins, so a transaction that would
revert holds nobody up and takes no nonce. A transaction whose sending was cut short is never taken for refused: the
node is asked whether it knows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from manahsm.access import Access
from manahsm.api.calls import Call, Methods, RPCError
from manahsm.api.chain import Chain
from manahsm.api.desk import Desk
from manahsm.api.downstream import DOWNSTREAM_ERROR, Throttled, Unanswered
from manahsm.api.fees import filled, for_estimate, needs_fees
from manahsm.api.gateway import Gateway
from manahsm.api.nonces import Nonces, Turn
from manahsm.api.params import bind, transaction
from manahsm.api.patience import Patient
from manahsm.api.specs import Asked
from manahsm.errors import (
    DeadlineExceeded,
    InvalidRequest,
    KeyNotFound,
    Overloaded,
)
from manahsm.ethereum.fields import NONCE_LIMIT, address, integer
from manahsm.logs import get_logger
from manahsm.requests import Operation, SignedTransaction
from manahsm.service import Service
from supervisors import SYSTEM_CLOCK, Clock

__all__ = ["Sending", "sending_methods"]

_log = get_logger("manahsm.api")

_TRIES = 3
_LEAST_TIMEOUT = 0.001  # seconds; what is left of a request's time may be nothing

# What nodes say (geth, reth, erigon, besu, nethermind, anvil, hardhat): no code tells one refusal from another.
_NONCE_TAKEN = re.compile(
    r"nonce (?:is )?too low|old ?nonce|nonce (?:has )?already (?:been )?used"
    r"|replacement transaction underpriced|could not replace existing|replacement ?not ?allowed|too low to replace",
    re.IGNORECASE,
)
_KNOWN = re.compile(r"already ?known|known transaction|already (?:imported|exists)", re.IGNORECASE)

_PARAMS = (transaction(),)
_read_address = address("from")
_read_nonce = integer("nonce", below=NONCE_LIMIT)


def sending_methods(
    gateway: Gateway,
    node: Patient,
    chain: Chain,
    nonces: Nonces,
    *,
    request_timeout: float,
    clock: Clock = SYSTEM_CLOCK,
) -> Methods:
    """The methods that need both the keys and the node."""
    sending = Sending(gateway, node, chain, nonces, request_timeout=request_timeout, clock=clock)
    return {"eth_sendTransaction": sending.send_transaction}


class Sending:
    """Sends transactions.

    Args:
        gateway: to the service, which signs them.
        node: takes them. A refusal for too many questions is waited out for as long as the request may take.
        chain: says what they need.
        nonces: the turns of all addresses.
        request_timeout: seconds until a transaction must be on its way to the node.
        clock: whose seconds they are.
    """

    def __init__(
        self, gateway: Gateway, node: Patient, chain: Chain, nonces: Nonces, *, request_timeout: float, clock: Clock
    ) -> None:
        self._desk = Desk(gateway)
        self._node = node
        self._chain = chain
        self._nonces = nonces
        self._request_timeout = request_timeout
        self._clock = clock

    async def send_transaction(self, call: Call) -> str:
        """Do ``eth_sendTransaction``: ``[transaction]`` -> its hash, 0x and 64 digits.

        Raises:
            ManaHSMError: nothing was sent.
            Unanswered: it may have been sent, where ``data`` has its hash.
            RPCError: the node refused it, or a question about it; nothing was sent.
        """
        asked = Asked(call)
        try:
            return await self._send(asked)
        except InvalidRequest as refusal:
            if not asked.recorded:
                await self._desk.note_refusal(
                    asked, call.method, refusal, signing=True, operation=Operation.TRANSACTION
                )
            raise

    async def _send(self, asked: Asked) -> str:
        (tx,) = bind(_PARAMS, asked.call.params)
        sender = "0x" + _read_address(tx.get("from")).hex()
        deadline = self._clock.now() + self._request_timeout
        async with AsyncExitStack() as stack:
            stack.enter_context(self._node.until(deadline))
            with self._until(deadline):
                if not await self._may_use(asked.call.visitor.access, sender):
                    await self._sign(asked, sender, tx, deadline)  # refused there, and so in the audit log
                full = await self._complete(tx, sender)
                turn = await stack.enter_async_context(self._nonces.turn(sender))
            return await self._take_turn(turn, asked, sender, full, deadline)

    async def _complete(self, tx: Mapping[str, Any], sender: str) -> dict[str, Any]:
        _, blob_fee = needs_fees(tx)
        quote = await self._chain.quote(blobs=blob_fee)
        gas = await self._chain.estimate(for_estimate(tx, sender)) if tx.get("gas") is None else None
        return filled(tx, quote, gas)

    async def _take_turn(self, turn: Turn, asked: Asked, sender: str, tx: Mapping[str, Any], deadline: float) -> str:
        given: int | None = None if tx.get("nonce") is None else _read_nonce(tx["nonce"])
        for tries_left in reversed(range(_TRIES)):
            with self._until(deadline):
                nonce = await turn.nonce() if given is None else given
                signed = await self._sign(asked, sender, {**tx, "nonce": nonce}, deadline)
            # From here on its own timeouts bound it: a deadline would leave everybody in doubt of what was sent.
            tx_hash = "0x" + signed.hash.hex()
            turn.sends(nonce, tx_hash, chosen=given is None)
            try:
                await self._deliver("0x" + signed.raw_transaction.hex(), tx_hash)
            except Unanswered:
                raise
            except RPCError as refusal:
                if not _NONCE_TAKEN.search(refusal.message):
                    turn.refused()
                    raise
                turn.taken()
                if given is not None or not tries_left:
                    raise
            else:
                turn.sent()
                _log.info(
                    "transaction sent", request_id=asked.call.request_id, sender=sender, nonce=nonce, hash=tx_hash
                )
                return tx_hash
        raise AssertionError("the last try returns or raises")  # pragma: no cover

    async def _deliver(self, raw: str, tx_hash: str) -> None:
        """Hand a signed transaction to the node; again, where it does not answer and does not know it.

        Raises:
            Unanswered: nobody knows whether the node has it.
            RPCError: it was refused.
            Overloaded: it was not handed over.
        """
        lost: Unanswered | None = None
        for _ in range(_TRIES):
            try:
                await self._node.call("eth_sendRawTransaction", [raw])
            except Unanswered as error:
                lost = error
                if await self._arrived(tx_hash, lost):
                    return
            except Throttled:
                if lost is not None:  # what the node says to a second copy tells nothing of the first
                    raise _in_doubt(tx_hash, lost) from None
                raise
            except RPCError as refusal:
                # A second copy is refused where the first one arrived, and so is one that somebody else has sent.
                if (lost is None and not _KNOWN.search(refusal.message)) or not await self._chain.knows(tx_hash):
                    raise
                return
            else:
                return
        assert lost is not None  # noqa: S101 - only then are there more tries
        raise _in_doubt(tx_hash, lost)

    async def _arrived(self, tx_hash: str, lost: Unanswered) -> bool:
        try:
            return await self._chain.knows(tx_hash)
        except (RPCError, Overloaded):
            raise _in_doubt(tx_hash, lost) from None

    # ---- the service ----

    async def _may_use(self, access: Access, sender: str) -> bool:
        async def look(service: Service) -> bool:
            try:
                return access.covers(await service.get_key(sender))
            except KeyNotFound:
                return False

        return await self._desk.look(look)

    async def _sign(self, asked: Asked, sender: str, tx: Mapping[str, Any], deadline: float) -> SignedTransaction:
        left = max(deadline - self._clock.now(), _LEAST_TIMEOUT)
        signed = await self._desk.sign(asked, Operation.TRANSACTION, sender, tx, timeout=left)
        if not isinstance(signed, SignedTransaction):  # pragma: no cover - the operation decides the type
            raise TypeError("expected a signed transaction")
        return signed

    @contextmanager
    def _until(self, deadline: float) -> Iterator[None]:
        try:
            with self._clock.fail_after(max(deadline - self._clock.now(), 0.0)):
                yield
        except TimeoutError:
            message = f"not on its way to the node within {self._request_timeout:g} s: nothing was sent, try again"
            raise DeadlineExceeded(message) from None


def _in_doubt(tx_hash: str, lost: Unanswered) -> Unanswered:
    message = f"{lost.message}; the transaction {tx_hash} may have been sent: look for it before you send it again"
    return Unanswered(DOWNSTREAM_ERROR, message, {"hash": tx_hash})
