"""Checkpoints: made at intervals where something was added, and trouble with the key stops nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint
from audit_samples import CHECKPOINT_ADDRESS, CHECKPOINT_KEY, a_record
from coincurve import PrivateKey
from eth_account import Account
from eth_account.messages import encode_defunct

from manahsm.audit.checkpoints import Checkpoints, checkpoint_digest, checkpoint_text, signer_of
from manahsm.audit.log import AuditLog
from manahsm.audit.records import Head
from manahsm.audit.verify import verify
from manahsm.errors import AuditUnavailable, HSMUnavailable, SignatureMismatch
from manahsm.ethereum.signatures import RecoverableSignature, sign
from supervisors import ChildContext
from supervisors.testing import ManualClock

pytestmark = pytest.mark.anyio

HEAD = Head(1234, "ab" * 32)


class Signer:
    """A checkpoint key whose token can be pulled."""

    def __init__(self, log: AuditLog, *, key: PrivateKey = CHECKPOINT_KEY, audited: bool = False) -> None:
        self.log = log
        self.key = key
        self.audited = audited
        self.pulled = False
        self.calls = 0

    async def __call__(self, digest: bytes) -> RecoverableSignature:
        self.calls += 1
        await checkpoint()
        if self.pulled:
            raise HSMUnavailable("the token is gone")
        if self.audited:
            self.log.append(a_record(self.calls))
        return sign(self.key, digest)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[AuditLog]:
    log = AuditLog.open(tmp_path)
    yield log
    log.close()


def addresses() -> frozenset[str]:
    return frozenset({CHECKPOINT_ADDRESS})


async def test_any_wallet_can_check_a_checkpoint() -> None:
    text = checkpoint_text(HEAD)
    assert text == f"manahsm audit checkpoint\nseq 1234\nhash {'ab' * 32}"
    signed = sign(CHECKPOINT_KEY, checkpoint_digest(HEAD))
    theirs = Account.sign_message(encode_defunct(text=text), CHECKPOINT_KEY.secret)
    assert (signed.r, signed.s) == (theirs.r, theirs.s)
    assert signer_of(HEAD, signed.to_bytes()) == CHECKPOINT_ADDRESS
    assert signer_of(Head(1235, HEAD.hash), signed.to_bytes()) != CHECKPOINT_ADDRESS


async def test_a_checkpoint_vouches_for_the_records_before_it(log: AuditLog, tmp_path: Path) -> None:
    checkpoints = Checkpoints(log, Signer(log), interval=1.0)
    for number in range(3):
        log.append(a_record(number))
    assert await checkpoints.make()
    report = verify(tmp_path, addresses=addresses())
    assert (report.failure, report.checkpoints, report.covered) == (None, 1, 3)
    assert checkpoints.last is not None
    assert checkpoints.last.seq == 3


@pytest.mark.parametrize("audited", [False, True])
async def test_nothing_is_signed_where_nothing_was_added(log: AuditLog, audited: bool) -> None:
    signer = Signer(log, audited=audited)
    checkpoints = Checkpoints(log, signer, interval=1.0)
    assert not await checkpoints.make()
    log.append(a_record(1))
    assert [await checkpoints.make() for _ in range(3)] == [True, False, False]
    log.append(a_record(2))
    assert await checkpoints.make()
    assert signer.calls == 2


async def test_records_that_come_while_the_key_signs_are_covered_by_the_next_one(log: AuditLog, tmp_path: Path) -> None:
    checkpoints = Checkpoints(log, Signer(log, audited=True), interval=1.0)
    log.append(a_record(1))
    await checkpoints.make()
    assert verify(tmp_path, addresses=addresses()).covered == 1
    log.append(a_record(2))
    await checkpoints.make()
    report = verify(tmp_path, addresses=addresses())
    assert (report.failure, report.covered) == (None, 4)


async def test_a_signature_that_is_none_is_not_written(log: AuditLog) -> None:
    async def lie(_digest: bytes) -> RecoverableSignature:
        return RecoverableSignature(5, 1, 0)  # 5 is the x coordinate of no point

    log.append(a_record(1))
    with pytest.raises(SignatureMismatch):
        await Checkpoints(log, lie, interval=1.0).make()
    assert log.head.seq == 1


async def test_a_checkpoint_that_can_not_be_written_was_not_made(log: AuditLog) -> None:
    checkpoints = Checkpoints(log, Signer(log), interval=1.0)
    log.append(a_record(1))
    log.close()
    with pytest.raises(AuditUnavailable):
        await checkpoints.make()
    assert checkpoints.last is None


@asynccontextmanager
async def running(checkpoints: Checkpoints, clock: ManualClock) -> AsyncIterator[ChildContext]:
    context = ChildContext("checkpoints", clock=clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(checkpoints.run, context)
        await waiting(clock)
        yield context
        tasks.cancel_scope.cancel()


async def waiting(clock: ManualClock, *, but: object = ()) -> None:
    """Until the loop waits for its next round."""
    with anyio.fail_after(30):
        while clock.timers() in ([], but):
            await checkpoint()


async def one_interval(clock: ManualClock) -> None:
    due = clock.timers()
    clock.advance(10.0)
    await waiting(clock, but=due)


async def test_one_is_made_at_every_interval_in_which_the_log_has_grown(log: AuditLog) -> None:
    clock = ManualClock()
    checkpoints = Checkpoints(log, Signer(log), interval=10.0)
    async with running(checkpoints, clock):
        log.append(a_record(1))
        clock.advance(9.9)
        assert checkpoints.last is None
        clock.advance(0.1)
        await waiting(clock)
        assert (checkpoints.last, log.head.seq) == (Head(1, checkpoints.last.hash if checkpoints.last else ""), 2)
        await one_interval(clock)
        assert log.head.seq == 2


async def test_a_key_that_does_not_sign_is_trouble_until_it_does(
    log: AuditLog, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    signer = Signer(log)
    signer.pulled = True
    checkpoints = Checkpoints(log, signer, interval=10.0)
    async with running(checkpoints, clock):
        log.append(a_record(1))
        for _ in range(3):
            await one_interval(clock)
            assert checkpoints.trouble == "hsm_unavailable: the token is gone"
        assert caplog.text.count("no audit checkpoint") == 1
        signer.pulled = False
        await one_interval(clock)
        assert checkpoints.trouble is None
        assert checkpoints.last is not None


async def test_it_stops_when_asked_without_another_checkpoint(log: AuditLog) -> None:
    clock = ManualClock()
    checkpoints = Checkpoints(log, Signer(log), interval=10.0)
    context = ChildContext("checkpoints", clock=clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(checkpoints.run, context)
        await waiting(clock)
        log.append(a_record(1))
        context.ask_to_stop()
    assert log.head.seq == 1
