"""The turns of an address: in order, bounded, without gaps, and by the node's count wherever that can be trusted."""

from __future__ import annotations

import anyio
import pytest
from attrs import define, field

from manahsm.api.calls import RPCError
from manahsm.api.nonces import LAG, Nonces
from manahsm.errors import Overloaded
from supervisors.testing import ManualClock, wait_all_tasks_blocked

pytestmark = pytest.mark.anyio

ADDRESS = "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf"
OTHER = "0x2b5ad5c4795c026514f8317c7a215e218dccd6cf"


@define
class Ledger:
    """A node as nonces see it: what it counts and which transactions it has are set by the test."""

    counts: dict[str, int] = field(factory=dict)
    known: set[str] = field(factory=set)
    away: bool = False
    asked: list[str] = field(factory=list)

    async def count(self, address: str) -> int:
        await self._answer("count")
        return self.counts.get(address, 0)

    async def knows(self, tx_hash: str) -> bool:
        await self._answer(tx_hash)
        return tx_hash in self.known

    async def _answer(self, what: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.asked.append(what)
        if self.away:
            raise RPCError(-32000, "downstream unreachable")

    def take(self, nonce: int, tx_hash: str) -> None:
        self.known.add(tx_hash)
        self.counts[ADDRESS] = nonce + 1


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def nonces(ledger: Ledger, clock: ManualClock) -> Nonces:
    return Nonces(ledger, clock=clock)


async def send(nonces: Nonces, tx_hash: str, *, explicit: int | None = None) -> int:
    """Send a transaction that the node takes, and says so."""
    async with nonces.turn(ADDRESS) as turn:
        nonce = await turn.nonce() if explicit is None else explicit
        turn.sends(nonce, tx_hash, chosen=explicit is None)
        turn.sent()
    return nonce


async def next_nonce(nonces: Nonces) -> int:
    async with nonces.turn(ADDRESS) as turn:
        return await turn.nonce()


async def test_the_first_nonce_is_the_nodes_count(nonces: Nonces, ledger: Ledger) -> None:
    ledger.counts[ADDRESS] = 7
    assert await next_nonce(nonces) == 7


async def test_a_node_that_lags_is_counted_on_from_what_it_took(nonces: Nonces) -> None:
    assert [await send(nonces, f"0x{number}") for number in range(3)] == [0, 1, 2]


async def test_what_others_sent_from_the_address_is_counted(nonces: Nonces, ledger: Ledger) -> None:
    await send(nonces, "0xa")
    ledger.counts[ADDRESS] = 5
    assert await next_nonce(nonces) == 5


async def test_a_nonce_that_was_chosen_and_not_used_is_chosen_again(nonces: Nonces) -> None:
    await send(nonces, "0xa")
    assert [await next_nonce(nonces) for _ in range(3)] == [1, 1, 1]


async def test_a_refused_transaction_leaves_its_nonce(nonces: Nonces) -> None:
    async with nonces.turn(ADDRESS) as turn:
        turn.sends(await turn.nonce(), "0xa", chosen=True)
        turn.refused()
    assert await next_nonce(nonces) == 0


async def test_the_nonce_after_a_taken_one_is_at_least_one_more(nonces: Nonces, ledger: Ledger) -> None:
    async with nonces.turn(ADDRESS) as turn:
        turn.sends(await turn.nonce(), "0xa", chosen=True)
        turn.taken()
        assert await turn.nonce() == 1
        ledger.counts[ADDRESS] = 9
        assert await turn.nonce() == 9


async def take_by_others(nonces: Nonces) -> int:
    async with nonces.turn(ADDRESS) as turn:
        nonce = await turn.nonce()
        turn.sends(nonce, "0xa", chosen=True)
        turn.taken()
    return nonce


async def test_nonces_that_others_took_are_not_tried_again_though_the_node_does_not_count_them(
    nonces: Nonces,
) -> None:
    assert [await take_by_others(nonces) for _ in range(5)] == [0, 1, 2, 3, 4]


async def test_a_nonce_that_others_took_is_tried_again_once_the_count_stays_behind(
    nonces: Nonces, clock: ManualClock
) -> None:
    await take_by_others(nonces)
    assert await next_nonce(nonces) == 1
    clock.advance(LAG)
    assert await next_nonce(nonces) == 0


async def test_a_callers_choice_that_was_taken_says_nothing_of_the_next(nonces: Nonces) -> None:
    async with nonces.turn(ADDRESS) as turn:
        turn.sends(5, "0xa", chosen=False)
        turn.taken()
    assert await next_nonce(nonces) == 0


async def test_addresses_do_not_wait_for_each_other(nonces: Nonces) -> None:
    async with nonces.turn(ADDRESS), nonces.turn(OTHER) as turn:
        assert await turn.nonce() == 0


async def test_turns_come_in_the_order_of_arrival(nonces: Nonces) -> None:
    served: list[int] = []
    sent: list[int] = []

    async def take_turn(number: int) -> None:
        async with nonces.turn(ADDRESS) as turn:
            served.append(number)
            nonce = await turn.nonce()
            turn.sends(nonce, f"0x{number}", chosen=True)
            await anyio.lowlevel.checkpoint()
            turn.sent()
            sent.append(nonce)

    async with anyio.create_task_group() as tasks, nonces.turn(ADDRESS):
        for number in range(20):
            tasks.start_soon(take_turn, number)
            await wait_all_tasks_blocked()
    assert served == list(range(20))
    assert sent == list(range(20))


async def test_more_sends_than_may_wait_are_refused_at_once(ledger: Ledger, clock: ManualClock) -> None:
    nonces = Nonces(ledger, most_waiting=2, clock=clock)

    async def wait() -> None:
        async with nonces.turn(ADDRESS):
            pass

    async with nonces.turn(ADDRESS), anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(wait)
        await wait_all_tasks_blocked()
        with pytest.raises(Overloaded):
            await wait()
        async with nonces.turn(OTHER):
            pass
        tasks.cancel_scope.cancel()
    await wait()


async def test_a_caller_who_leaves_while_waiting_is_not_waited_for(nonces: Nonces) -> None:
    async with nonces.turn(ADDRESS), anyio.create_task_group() as tasks:
        tasks.start_soon(next_nonce, nonces)
        await wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert await next_nonce(nonces) == 0


async def test_what_is_known_of_addresses_is_bounded(nonces: Nonces) -> None:
    for number in range(1200):
        async with nonces.turn(f"0x{number:040x}"):
            pass
    assert len(nonces) == 1000


async def test_an_address_whose_turn_is_taken_is_never_forgotten(nonces: Nonces) -> None:
    second: list[int] = []

    async def come_second() -> None:
        second.append(await next_nonce(nonces))

    async with anyio.create_task_group() as tasks, nonces.turn(ADDRESS):
        for number in range(1200):
            async with nonces.turn(f"0x{number:040x}"):
                pass
        tasks.start_soon(come_second)
        await wait_all_tasks_blocked()
        assert second == []
    assert second == [0]


# ---- in doubt ----


async def cut_short(nonces: Nonces, tx_hash: str, *, explicit: int | None = None) -> None:
    """Hand a transaction to the node, and never hear of it."""
    async with nonces.turn(ADDRESS) as turn:
        nonce = await turn.nonce() if explicit is None else explicit
        turn.sends(nonce, tx_hash, chosen=explicit is None)


async def test_before_anything_else_the_node_is_asked_for_a_transaction_in_doubt(
    nonces: Nonces, ledger: Ledger
) -> None:
    await cut_short(nonces, "0xa")
    ledger.asked.clear()
    await next_nonce(nonces)
    assert ledger.asked == ["0xa", "count"]


async def test_a_transaction_in_doubt_that_arrived_counts_as_sent(nonces: Nonces, ledger: Ledger) -> None:
    await cut_short(nonces, "0xa")
    ledger.known.add("0xa")  # while the count still lags
    assert await next_nonce(nonces) == 1


async def test_a_transaction_in_doubt_that_did_not_arrive_leaves_its_nonce(nonces: Nonces) -> None:
    await cut_short(nonces, "0xa")
    assert await next_nonce(nonces) == 0


async def test_nothing_is_sent_while_nobody_can_tell(nonces: Nonces, ledger: Ledger) -> None:
    await cut_short(nonces, "0xa")
    ledger.away = True
    with pytest.raises(RPCError):
        await next_nonce(nonces)
    ledger.away = False
    ledger.known.add("0xa")
    assert await next_nonce(nonces) == 1


# ---- nonces that callers choose ----


async def test_a_callers_choice_of_the_next_nonce_is_counted_on_from(nonces: Nonces) -> None:
    await send(nonces, "0xa")
    await send(nonces, "0xb", explicit=1)
    assert await next_nonce(nonces) == 2


async def test_a_callers_choice_further_on_is_not_counted_on_from(nonces: Nonces) -> None:
    await send(nonces, "0xa")
    await send(nonces, "0xb", explicit=5)
    assert await next_nonce(nonces) == 1


async def test_a_callers_choice_is_not_counted_on_from_where_nothing_is_known(nonces: Nonces) -> None:
    await send(nonces, "0xb", explicit=5)
    assert await next_nonce(nonces) == 0


async def test_a_callers_choice_in_doubt_is_theirs_too(nonces: Nonces, ledger: Ledger) -> None:
    await cut_short(nonces, "0xb", explicit=5)
    ledger.known.add("0xb")
    assert await next_nonce(nonces) == 0


async def test_a_replacement_does_not_take_nonces_back(nonces: Nonces) -> None:
    for number in range(3):
        await send(nonces, f"0x{number}")
    await send(nonces, "0xfaster", explicit=1)
    assert await next_nonce(nonces) == 3


# ---- a count that stays behind ----


async def test_a_count_that_stays_behind_what_waits_in_the_node_is_a_matter_of_waiting(
    nonces: Nonces, ledger: Ledger, clock: ManualClock
) -> None:
    for number in range(3):
        await send(nonces, f"0x{number}")
    ledger.known |= {"0x0", "0x1", "0x2"}
    assert await next_nonce(nonces) == 3
    clock.advance(2 * LAG)
    assert await next_nonce(nonces) == 3


async def test_the_gap_that_a_dropped_transaction_left_is_filled(
    nonces: Nonces, ledger: Ledger, clock: ManualClock
) -> None:
    for number in range(3):
        await send(nonces, f"0x{number}")
    ledger.known |= {"0x0", "0x2"}
    ledger.counts[ADDRESS] = 1  # the node has dropped 0x1, and 0x2 waits for one in its place
    assert await next_nonce(nonces) == 3
    clock.advance(LAG)
    assert await send(nonces, "0xnew") == 1
    ledger.counts[ADDRESS] = 3
    assert await next_nonce(nonces) == 3


async def test_what_looked_like_a_gap_and_was_none_is_left_behind(nonces: Nonces, clock: ManualClock) -> None:
    for number in range(5):
        await send(nonces, f"0x{number}")
    assert await next_nonce(nonces) == 5
    clock.advance(LAG)
    async with nonces.turn(ADDRESS) as turn:
        assert await turn.nonce() == 0  # of which the node says, by mistake, that it does not know it
        turn.sends(0, "0xnew", chosen=True)
        turn.taken()
        assert await turn.nonce() == 5


async def test_a_lag_is_counted_from_when_it_began(nonces: Nonces, ledger: Ledger, clock: ManualClock) -> None:
    await send(nonces, "0xa")
    assert await next_nonce(nonces) == 1  # behind from here on
    clock.advance(LAG - 1)
    ledger.counts[ADDRESS] = 1  # not any more
    assert await send(nonces, "0xb") == 1
    clock.advance(2)
    assert await next_nonce(nonces) == 2


async def test_a_chain_that_was_turned_back_is_believed(nonces: Nonces, ledger: Ledger) -> None:
    for number in range(3):
        ledger.take(await send(nonces, f"0x{number}"), f"0x{number}")
    ledger.counts[ADDRESS] = 1
    nonces.forget()
    assert await next_nonce(nonces) == 1


async def test_what_is_remembered_of_one_address_is_bounded(nonces: Nonces, clock: ManualClock) -> None:
    for number in range(1100):
        await send(nonces, f"0x{number}")
    clock.advance(2 * LAG)
    assert await next_nonce(nonces) == 1100  # whose first hashes nobody remembers: they are not guessed to be lost
    assert len(nonces._senders[ADDRESS].sent) == 1024
