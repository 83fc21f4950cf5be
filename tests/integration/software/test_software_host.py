"""A software host: it signs beside the loop, and whatever becomes of it, nothing is lost and nothing wrong released."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from coincurve import PrivateKey
from services import A_PRIVATE_KEY, children_of, digest_of, eventually

from manahsm.ethereum.signatures import CURVE_ORDER, RecoverableSignature, public_key_of, sign, verify
from manahsm.processes.frames import encode
from manahsm.signing.jobs import Made, SoftwareJob
from manahsm.signing.software_worker import SoftwareWorker
from manahsm.software.client import SoftwareHost, SoftwareHostEnded
from manahsm.software.messages import SignAll, SignedAll, read_replies
from manahsm.software.signing import sign_and_check
from supervisors import SYSTEM_CLOCK, ChildContext, Mailbox, Request
from supervisors.testing import ManualClock, settle

pytestmark = pytest.mark.anyio

PUBLIC_KEY = public_key_of(A_PRIVATE_KEY)


def items(count: int) -> list[tuple[bytes, bytes, bytes]]:
    return [(A_PRIVATE_KEY, PUBLIC_KEY, digest_of(number)) for number in range(1, count + 1)]


@asynccontextmanager
async def running(host: SoftwareHost) -> AsyncIterator[list[SoftwareHostEnded]]:
    """Run a host inside the block; yields a list of how it ended unasked, which is filled when it does."""
    ended: list[SoftwareHostEnded] = []

    async def run() -> None:
        try:
            await host.run(ChildContext("host"))
        except SoftwareHostEnded as error:
            ended.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        host.want()
        await eventually(lambda: host.has_room)
        yield ended
        tasks.cancel_scope.cancel()


def pid_of(host: SoftwareHost) -> int:
    assert host.pid is not None
    return host.pid


class Chunk:
    """What became of a chunk: its results, or that it was lost."""

    def __init__(self, host: SoftwareHost, wanted: list[tuple[bytes, bytes, bytes]]) -> None:
        self.results: list[bytes | None] | None = None
        self.lost = 0
        self._ask(host, wanted)

    def _ask(self, host: SoftwareHost, wanted: list[tuple[bytes, bytes, bytes]]) -> None:
        host.sign(wanted, answered=self.answered, lost=self.loses)

    def answered(self, results: list[bytes | None]) -> None:
        self.results = list(results)

    def loses(self) -> None:
        self.lost += 1


class Checked(Chunk):
    """The same of a chunk to check."""

    def _ask(self, host: SoftwareHost, wanted: list[tuple[bytes, bytes, bytes]]) -> None:
        host.check(wanted, answered=self.answered, lost=self.loses)


async def test_what_it_signs_equals_what_is_signed_in_the_loop() -> None:
    host = SoftwareHost(SYSTEM_CLOCK)
    async with running(host):
        chunk = Chunk(host, items(20))
        await eventually(lambda: chunk.results)
    assert chunk.results == [sign(A_PRIVATE_KEY, digest).to_bytes() for _, _, digest in items(20)]


async def test_a_signature_by_another_key_than_asked_for_is_withheld() -> None:
    host = SoftwareHost(SYSTEM_CLOCK)
    other = public_key_of(b"\x05" * 32)
    async with running(host):
        chunk = Chunk(host, [(A_PRIVATE_KEY, other, digest_of(1)), *items(1)])
        await eventually(lambda: chunk.results)
    assert chunk.results == [None, sign(A_PRIVATE_KEY, digest_of(1)).to_bytes()]


async def test_what_it_checks_equals_what_is_checked_in_the_loop() -> None:
    host = SoftwareHost(SYSTEM_CLOCK)
    made = [sign(A_PRIVATE_KEY, digest) for _, _, digest in items(20)]
    raw = [signature.to_bytes()[:64] for signature in made]
    high = raw[0][:32] + (CURVE_ORDER - made[0].s).to_bytes(32, "big")
    wanted = [(each, PUBLIC_KEY, digest_of(number)) for number, each in enumerate(raw, start=1)]
    async with running(host):
        chunk = Checked(host, [*wanted, (high, PUBLIC_KEY, digest_of(1))])
        await eventually(lambda: chunk.results)
    assert chunk.results == [signature.to_bytes() for signature in (*made, made[0])]


async def test_what_is_no_signature_by_this_key_over_this_digest_is_withheld() -> None:
    host = SoftwareHost(SYSTEM_CLOCK)
    raw, digest = sign(A_PRIVATE_KEY, digest_of(1)).to_bytes()[:64], digest_of(1)
    other = public_key_of(b"\x05" * 32)
    wrong = [(raw, other, digest), (raw, PUBLIC_KEY, digest_of(2)), (raw[:63], PUBLIC_KEY, digest), (b"", b"", b"")]
    async with running(host) as ended:
        chunk = Checked(host, [(bytes(64), PUBLIC_KEY, digest), *wrong, (raw, PUBLIC_KEY, digest)])
        await eventually(lambda: chunk.results)
        assert ended == []
    assert chunk.results == [*[None] * 5, sign(A_PRIVATE_KEY, digest).to_bytes()]


async def test_what_is_no_key_or_no_digest_is_withheld_and_stops_nothing() -> None:
    host = SoftwareHost(SYSTEM_CLOCK)
    async with running(host) as ended:
        chunk = Chunk(host, [(bytes(32), PUBLIC_KEY, digest_of(1)), (A_PRIVATE_KEY, PUBLIC_KEY, b"short")])
        await eventually(lambda: chunk.results)
        assert ended == []
    assert chunk.results == [None, None]


async def test_a_host_that_is_killed_loses_what_it_had_at_once() -> None:
    host = SoftwareHost(SYSTEM_CLOCK)
    async with running(host) as ended:
        os.kill(pid_of(host), signal.SIGSTOP)
        chunks = [Chunk(host, items(4)), Chunk(host, items(4))]
        os.kill(pid_of(host), signal.SIGKILL)
        await eventually(lambda: ended)
        assert not host.has_room
    assert [(chunk.results, chunk.lost) for chunk in chunks] == [(None, 1), (None, 1)]


async def test_a_host_that_is_silent_is_killed_and_loses_what_it_had() -> None:
    clock = ManualClock()
    host = SoftwareHost(clock)
    async with running(host) as ended:
        pid = pid_of(host)
        os.kill(pid, signal.SIGSTOP)
        chunk = Chunk(host, items(4))
        await clock.run_for(0.9)
        assert chunk.lost == 0
        await clock.run_for(0.2)
        await eventually(lambda: ended)
    assert (chunk.lost, "did not answer" in str(ended[0]), Path(f"/proc/{pid}").exists()) == (1, True, False)


async def test_an_answer_that_does_not_fit_the_question_is_not_believed() -> None:
    host = SoftwareHost(SYSTEM_CLOCK)
    async with running(host) as ended:
        os.kill(pid_of(host), signal.SIGSTOP)
        chunk = Chunk(host, items(2))
        signature = sign(A_PRIVATE_KEY, digest_of(2)).to_bytes()
        for answer in (SignedAll(7, [signature, signature]), SignedAll(1, [signature])):
            with pytest.raises(SoftwareHostEnded, match="what was not asked"):
                host._take(read_replies(), encode(answer))
        os.kill(pid_of(host), signal.SIGKILL)
        await eventually(lambda: ended)
    assert (chunk.results, chunk.lost) == (None, 1)


async def test_it_has_room_for_so_many_digests_and_no_more() -> None:
    host = SoftwareHost(SYSTEM_CLOCK)
    async with running(host):
        os.kill(pid_of(host), signal.SIGSTOP)
        chunks = [Chunk(host, items(16)) for _ in range(4)]
        assert not host.has_room
        os.kill(pid_of(host), signal.SIGCONT)
        await eventually(lambda: all(chunk.results for chunk in chunks))
        assert host.has_room


async def test_it_ends_with_its_task_and_leaves_no_process() -> None:
    host = SoftwareHost(SYSTEM_CLOCK)
    async with running(host):
        pid = pid_of(host)
    assert not Path(f"/proc/{pid}").exists()


async def test_no_process_is_started_before_it_is_wanted() -> None:
    host = SoftwareHost(SYSTEM_CLOCK)
    before = children_of(os.getpid())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.run, ChildContext("host"))
        await settle()
        assert children_of(os.getpid()) == before
        host.want()
        await eventually(lambda: host.has_room)
        tasks.cancel_scope.cancel()


async def test_its_memory_can_not_be_read_by_others_and_its_messages_hide_keys() -> None:
    host = SoftwareHost(SYSTEM_CLOCK)
    async with running(host):
        limits = Path(f"/proc/{pid_of(host)}/limits").read_text()
        command = Path(f"/proc/{pid_of(host)}/cmdline").read_bytes()
        chunk = Chunk(host, items(1))
        await eventually(lambda: chunk.results)
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    assert A_PRIVATE_KEY.hex().encode() not in command
    assert A_PRIVATE_KEY.hex() not in repr(SignAll(1, items(1))) + str(SignAll(1, items(1)))


async def test_what_a_host_lost_is_signed_in_the_loop() -> None:
    mailbox, host = Mailbox("software", 100), SoftwareHost(SYSTEM_CLOCK)
    key = PrivateKey(A_PRIVATE_KEY)
    requests = [Request((SoftwareJob(key, PUBLIC_KEY, digest_of(number)),)) for number in range(1, 9)]
    async with running(host) as ended, anyio.create_task_group() as tasks:
        os.kill(pid_of(host), signal.SIGSTOP)
        for request in requests:
            mailbox.send_nowait(request)
        tasks.start_soon(SoftwareWorker(mailbox, host).run, ChildContext("software"))
        await settle()
        assert mailbox.held == len(requests)  # all of them are with the host
        os.kill(pid_of(host), signal.SIGKILL)
        with anyio.fail_after(10):
            answers = [(await request.wait())[0] for request in requests]
        await eventually(lambda: ended)
        tasks.cancel_scope.cancel()
    for number, answer in enumerate(answers, start=1):
        assert isinstance(answer, Made)
        verify(answer.signature, digest_of(number), PUBLIC_KEY)


async def test_a_few_are_signed_in_the_loop_without_the_host() -> None:
    mailbox, host = Mailbox("software", 100), SoftwareHost(SYSTEM_CLOCK)
    job = SoftwareJob(PrivateKey(A_PRIVATE_KEY), PUBLIC_KEY, digest_of(1))
    async with running(host), anyio.create_task_group() as tasks:
        os.kill(pid_of(host), signal.SIGSTOP)
        tasks.start_soon(SoftwareWorker(mailbox, host).run, ChildContext("software"))
        with anyio.fail_after(10):
            (answer,) = await mailbox.ask((job,), timeout=5)
        os.kill(pid_of(host), signal.SIGCONT)
        tasks.cancel_scope.cancel()
    verify(answer.signature, digest_of(1), PUBLIC_KEY)


def test_a_recovery_id_that_ethereum_can_not_express_is_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    signature = sign_and_check(*items(1)[0])
    assert signature is not None
    monkeypatch.setattr("manahsm.software.signing._key", lambda _secret: Forger(signature[:64] + b"\x02"))
    assert sign_and_check(*items(1)[0]) is None


class Forger:
    def __init__(self, signature: bytes) -> None:
        self.signature = signature

    def sign_recoverable(self, _digest: bytes, *, hasher: None) -> bytes:
        assert hasher is None
        return self.signature


def test_65_bytes_read_back_are_the_signature() -> None:
    signature = sign(A_PRIVATE_KEY, digest_of(1))
    assert RecoverableSignature.from_bytes(signature.to_bytes()) == signature
