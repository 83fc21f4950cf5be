"""How host processes start, end, crash, hang and are reaped; real processes and real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from hsm_hosts import is_alive, open_descriptors, running
from p11fault import FaultModule
from p11fault_rules import Crash, Hang, Print
from softhsm import SoftHSMToken

from manahsm.hsm.client import HostProcess
from manahsm.hsm.failures import HostCrashed, HostEnded, HostStartFailed, HostWedged, HSMFailure
from manahsm.hsm.info import HostInfo
from manahsm.hsm.outcomes import Action
from manahsm.hsm.quirks import Quirks
from manahsm.hsm.settings import HostSettings
from supervisors.clock import SYSTEM_CLOCK, Clock
from supervisors.testing import ManualClock, settle

pytestmark = pytest.mark.anyio


class Life:
    """A host whose end is kept instead of raised, so that a test can look at it."""

    def __init__(self, settings: HostSettings, clock: Clock = SYSTEM_CLOCK) -> None:
        self.host = HostProcess(settings, clock=clock)
        self.ended: HostEnded | None = None
        self.over = anyio.Event()

    async def live(self, *, task_status: anyio.abc.TaskStatus[HostInfo]) -> None:
        try:
            await self.host.run(task_status.started)
        except HostEnded as error:
            self.ended = error
        finally:
            self.over.set()


def reply_pipe_of(pid: int) -> int:
    """The pipe into which a host writes its frames, opened by us, as a library could that looks for it."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        flags = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text().split("flags:")[1].split()[0]
        writes = int(flags, 8) & os.O_ACCMODE == os.O_WRONLY
        if writes and int(entry.name) > 2 and str(entry.readlink()).startswith("pipe:"):
            return os.open(entry, os.O_WRONLY | os.O_NONBLOCK)
    pytest.fail("the host has no reply pipe")


async def test_a_stopped_host_leaves_no_process_and_no_descriptor(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()):  # the loop's own descriptors are open after this
        pass
    before = open_descriptors()
    async with running(softhsm_token.host_settings()) as host:
        assert host.info is not None
        pid = host.info.pid
        assert is_alive(pid)
        await host.open_session()
    assert host.info is None
    assert not is_alive(pid)
    assert open_descriptors() == before


async def test_a_cancelled_host_is_reaped_before_the_cancellation_goes_on(softhsm_token: SoftHSMToken) -> None:
    life = Life(softhsm_token.host_settings())
    async with anyio.create_task_group() as tasks:
        info = await tasks.start(life.live)
        tasks.cancel_scope.cancel()
    assert life.over.is_set()
    assert life.ended is None
    assert not is_alive(info.pid)


async def test_stopping_lets_the_host_finish_what_it_has(softhsm_token: SoftHSMToken) -> None:
    signed = []

    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("k")
        session = await host.open_session()

        async def call() -> None:
            signed.extend(await session.sign([(key.public_key, bytes(32))] * 100))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            await host.stop()
            assert not session.usable
    assert all(isinstance(signature, bytes) for signature in signed)
    assert len(signed) == 100


async def test_a_host_can_run_again_and_refuses_the_sessions_of_its_last_life(
    softhsm_token: SoftHSMToken,
) -> None:
    host = HostProcess(softhsm_token.host_settings())

    async def body(*, task_status: anyio.abc.TaskStatus[HostInfo]) -> None:
        await host.run(task_status.started)

    async with anyio.create_task_group() as tasks:
        first = await tasks.start(body)
        key = await host.generate_key("k")
        old = await host.open_session()
        await host.stop()
    async with anyio.create_task_group() as tasks:
        second = await tasks.start(body)
        assert second.generation == first.generation + 1
        assert not old.usable
        with pytest.raises(HSMFailure) as refused:
            await old.sign([(key.public_key, bytes(32))])
        assert refused.value.outcome.name == "HOST_NOT_RUNNING"
        await old.close()
        session = await host.open_session()
        assert isinstance((await session.sign([(key.public_key, bytes(32))]))[0], bytes)
        await host.stop()


async def test_a_second_run_beside_the_first_is_refused(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        with pytest.raises(RuntimeError, match="running already"):
            await host.run(lambda _: None)
        await host.find_keys()


async def test_a_host_killed_in_the_middle_of_a_call_fails_the_call_and_ends_as_crashed(
    softhsm_token: SoftHSMToken,
) -> None:
    life = Life(softhsm_token.host_settings())
    async with anyio.create_task_group() as tasks:
        info = await tasks.start(life.live)
        key = await life.host.generate_key("k")
        session = await life.host.open_session()
        failures = []

        async def call() -> None:
            with pytest.raises(HSMFailure) as caught:
                await session.sign([(key.public_key, bytes(32))])
            failures.append(caught.value)

        os.kill(info.pid, signal.SIGSTOP)
        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        os.kill(info.pid, signal.SIGKILL)
        await life.over.wait()
    assert isinstance(life.ended, HostCrashed)
    assert life.ended.signal == signal.SIGKILL
    (failure,) = failures
    assert (failure.outcome.name, failure.outcome.unknown) == ("HOST_CRASHED", True)
    assert failure.outcome.action is Action.RETRY_ELSEWHERE
    assert not session.usable
    assert not is_alive(info.pid)


async def test_a_host_that_hangs_is_killed_at_the_deadline(softhsm_token: SoftHSMToken) -> None:
    clock = ManualClock()
    life = Life(softhsm_token.host_settings(), clock)
    async with anyio.create_task_group() as tasks:
        info = await tasks.start(life.live)
        key = await life.host.generate_key("k")
        session = await life.host.open_session()
        os.kill(info.pid, signal.SIGSTOP)
        failures = []

        async def call() -> None:
            with pytest.raises(HSMFailure) as caught:
                await session.sign([(key.public_key, bytes(32))], timeout=7)
            failures.append(caught.value.outcome)

        tasks.start_soon(call)
        await settle()
        clock.advance(6.9)
        await settle()
        assert failures == []
        assert session.usable
        clock.advance(0.2)
        await life.over.wait()
    (outcome,) = failures
    assert (outcome.name, outcome.unknown) == ("DEADLINE_PASSED", True)
    assert isinstance(life.ended, HostWedged)
    assert life.ended.call == "sign"
    assert life.ended.outcome.action is Action.RESPAWN
    assert not is_alive(info.pid)


async def test_a_call_that_hangs_in_the_library_takes_the_calls_beside_it_along(p11fault: FaultModule) -> None:
    clock = ManualClock()
    life = Life(p11fault.settings(), clock)
    async with anyio.create_task_group() as tasks:
        await tasks.start(life.live)
        key = await life.host.generate_key("k")
        first, second = await life.host.open_session(), await life.host.open_session()
        for session in (first, second):
            assert isinstance((await session.sign([(key.public_key, bytes(32))]))[0], bytes)
        p11fault.set(Hang("C_Sign"))
        names: dict[str, str] = {}

        async def call(name: str, seconds: float) -> None:
            session = first if name == "late" else second
            with pytest.raises(HSMFailure) as caught:
                await session.sign([(key.public_key, bytes(32))], timeout=seconds)
            names[name] = caught.value.outcome.name

        tasks.start_soon(call, "beside", 60)
        await settle()
        # The watch sleeps to the first deadline that it knows of; a nearer one has to wake it.
        tasks.start_soon(call, "late", 3)
        await settle()
        clock.advance(4)
        await life.over.wait()
    assert names == {"late": "DEADLINE_PASSED", "beside": "HOST_CRASHED"}


async def test_a_session_that_hangs_does_not_hold_up_the_others(p11fault: FaultModule) -> None:
    life = Life(p11fault.settings())
    async with anyio.create_task_group() as tasks:
        await tasks.start(life.live)
        key = await life.host.generate_key("k")
        stuck, free = await life.host.open_session(), await life.host.open_session()
        assert isinstance((await stuck.sign([(key.public_key, bytes(32))]))[0], bytes)
        p11fault.set(Hang("C_SignInit"))
        tasks.start_soon(stuck.sign, [(key.public_key, bytes(32))])
        await anyio.wait_all_tasks_blocked()
        # Answered by another thread after the call that hangs had reached its own.
        await life.host.token_info()
        p11fault.clear()
        assert isinstance((await free.sign([(key.public_key, bytes(32))]))[0], bytes)
        tasks.cancel_scope.cancel()
    assert life.ended is None


async def test_key_generation_that_misses_its_deadline_is_of_unknown_outcome(p11fault: FaultModule) -> None:
    clock = ManualClock()
    life = Life(p11fault.settings(), clock)
    async with anyio.create_task_group() as tasks:
        await tasks.start(life.live)
        p11fault.set(Hang("C_GenerateKeyPair"))
        unknown = []

        async def call() -> None:
            with pytest.raises(HSMFailure) as caught:
                await life.host.generate_key("k", timeout=20)
            unknown.append(caught.value.outcome.unknown)

        tasks.start_soon(call)
        await settle()
        clock.advance(21)
        await life.over.wait()
    assert unknown == [True]
    assert isinstance(life.ended, HostWedged)


async def test_a_caller_that_stops_waiting_costs_neither_host_nor_session(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        key = await host.generate_key("k")
        session = await host.open_session()
        with anyio.CancelScope() as patience:
            patience.cancel()
            await session.sign([(key.public_key, bytes(32))])
        assert patience.cancelled_caught
        assert session.usable
        assert isinstance((await session.sign([(key.public_key, bytes(32))]))[0], bytes)


async def test_a_session_that_nobody_waited_for_is_closed_again(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings(quirks=Quirks(max_sessions=1))) as host:
        with anyio.CancelScope() as patience:
            patience.cancel()
            await host.open_session()
        # Answered after the abandoned one, so its session is being closed by now.
        await host.token_info()
        session = None
        while session is None:
            try:
                session = await host.open_session()
            except HSMFailure as error:
                assert error.outcome.name == "HOST_SESSION_LIMIT"  # noqa: PT017 - closing takes a moment
        assert session.usable


async def test_a_library_that_crashes_ends_its_host_only(p11fault: FaultModule) -> None:
    life = Life(p11fault.settings())
    async with anyio.create_task_group() as tasks:
        info = await tasks.start(life.live)
        key = await life.host.generate_key("k")
        session = await life.host.open_session()
        p11fault.set(Crash("C_Sign"))
        with pytest.raises(HSMFailure) as caught:
            await session.sign([(key.public_key, bytes(32))])
        assert caught.value.outcome.name == "HOST_CRASHED"
        await life.over.wait()
    assert isinstance(life.ended, HostCrashed)
    assert life.ended.signal == signal.SIGABRT
    assert not is_alive(info.pid)


async def test_a_library_that_prints_damages_no_frame(p11fault: FaultModule, capfd: pytest.CaptureFixture[str]) -> None:
    async with running(p11fault.settings()) as host:
        p11fault.set(Print("C_Sign"), Print("C_SignInit"), Print("C_OpenSession"))
        key = await host.generate_key("k")
        session = await host.open_session()
        results = await session.sign([(key.public_key, bytes(32))] * 20)
        assert all(isinstance(result, bytes) for result in results)
        p11fault.clear()
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "vendor chatter from C_Sign" in printed.err


async def test_a_host_that_does_not_close_in_time_is_killed(p11fault: FaultModule) -> None:
    life = Life(p11fault.settings(stop_grace=0.05))
    async with anyio.create_task_group() as tasks:
        info = await tasks.start(life.live)
        p11fault.set(Hang("C_Finalize"))
        await life.host.stop()
    assert life.ended is None
    assert not is_alive(info.pid)


async def test_a_host_that_is_not_ready_in_time_is_killed(p11fault: FaultModule) -> None:
    p11fault.set(Hang("C_Initialize"))
    clock = ManualClock()
    host = HostProcess(p11fault.settings(start_timeout=30), clock=clock)
    ended = []

    async def body() -> None:
        with pytest.raises(HostStartFailed) as caught:
            await host.run(lambda _: pytest.fail("it is not ready"))
        ended.append(caught.value.outcome.name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(body)
        await settle()
        clock.advance(31)
    assert ended == ["START_TIMEOUT"]
    assert host.info is None


async def test_a_host_that_dies_while_a_session_is_closed_has_closed_it(softhsm_token: SoftHSMToken) -> None:
    life = Life(softhsm_token.host_settings())
    async with anyio.create_task_group() as tasks:
        info = await tasks.start(life.live)
        session = await life.host.open_session()
        os.kill(info.pid, signal.SIGSTOP)
        tasks.start_soon(session.close)
        await settle()
        os.kill(info.pid, signal.SIGKILL)
    assert not session.usable


async def test_a_host_that_stopped_reading_is_not_sent_more_than_it_may_hold(softhsm_token: SoftHSMToken) -> None:
    life = Life(softhsm_token.host_settings())
    async with anyio.create_task_group() as tasks:
        info = await tasks.start(life.live)
        key = await life.host.generate_key("k")
        session = await life.host.open_session()
        os.kill(info.pid, signal.SIGSTOP)
        outcomes: list[str] = []

        async def call() -> None:
            try:
                await session.sign([(key.public_key, bytes(31))] * 1000)  # which it refuses itself, in no time
            except HSMFailure as error:
                outcomes.append(error.outcome.name)
            else:
                outcomes.append("answered")

        async with anyio.create_task_group() as callers:
            for _ in range(20):
                callers.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            refused = len(outcomes)
            os.kill(info.pid, signal.SIGCONT)
        assert set(outcomes[:refused]) == {"HOST_BUSY"}
        assert set(outcomes[refused:]) == {"answered"}
        assert 0 < refused < 20
        await life.host.stop()


async def test_rubbish_in_the_reply_pipe_ends_the_host(softhsm_token: SoftHSMToken) -> None:
    life = Life(softhsm_token.host_settings())
    async with anyio.create_task_group() as tasks:
        info = await tasks.start(life.live)
        pipe = reply_pipe_of(info.pid)
        os.write(pipe, b"\xff" * 64)
        os.close(pipe)
        await life.over.wait()
    assert isinstance(life.ended, HostCrashed)
    assert "no frame" in str(life.ended)
    assert not is_alive(info.pid)


async def test_signals_that_reach_the_whole_group_do_not_end_a_host(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        assert host.info is not None
        for unwanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(host.info.pid, unwanted)
        assert await host.find_keys() == []


_PARENT = """
import os, sys, anyio
from manahsm.config.secret import Secret
from manahsm.hsm.client import HostProcess
from manahsm.hsm.settings import HostSettings
from supervisors.clock import SYSTEM_CLOCK, Clock
from supervisors.testing import ManualClock, settle

async def main():
    settings = HostSettings(
        name="t", library_path=sys.argv[1], token_label=sys.argv[2], pin=Secret(sys.argv[3])
    )
    await HostProcess(settings).run(lambda info: print(info.pid, flush=True))

anyio.run(main, backend=sys.argv[4])
"""


async def test_a_host_dies_with_its_parent(softhsm_token: SoftHSMToken, anyio_backend_name: str) -> None:
    arguments = [str(softhsm_token.library), softhsm_token.label, softhsm_token.pin, anyio_backend_name]
    with subprocess.Popen(  # noqa: ASYNC220, S603 - a parent to kill; nothing else runs in this loop
        [sys.executable, "-c", _PARENT, *arguments],
        env={**os.environ, **softhsm_token.environment},
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watched = os.pidfd_open(pid)
        os.kill(pid, signal.SIGSTOP)  # so that it can not see the end of its pipe
        parent.kill()
        await anyio.wait_readable(watched)
        os.close(watched)


def run_host(parent: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "manahsm.hsm.host", str(parent)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def test_a_host_whose_parent_is_gone_already_does_not_start() -> None:
    done = run_host(parent=1)
    assert done.returncode == 1
    assert b"gone" in done.stderr


def test_a_host_whose_client_says_nothing_ends() -> None:
    done = run_host(parent=os.getpid())
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_thread_of_a_host_that_fails_ends_the_host() -> None:
    script = "from manahsm.hsm.host_session import Lane; l = Lane('x'); l.put(lambda _: 1 / 0, None); l.join()"
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", script], capture_output=True, check=False
    )
    assert done.returncode == 70
    assert b"ZeroDivisionError" in done.stderr


async def test_a_host_that_dies_while_something_else_holds_its_pipe_is_noticed(softhsm_token: SoftHSMToken) -> None:
    life = Life(softhsm_token.host_settings())
    async with anyio.create_task_group() as tasks:
        info = await tasks.start(life.live)
        pipe = reply_pipe_of(info.pid)
        os.kill(info.pid, signal.SIGKILL)
        await life.over.wait()
        os.close(pipe)
    assert isinstance(life.ended, HostCrashed)


async def test_a_call_to_a_host_that_has_just_died_fails_as_a_crash(softhsm_token: SoftHSMToken) -> None:
    life = Life(softhsm_token.host_settings())
    async with anyio.create_task_group() as tasks:
        info = await tasks.start(life.live)
        session = await life.host.open_session()
        os.kill(info.pid, signal.SIGKILL)
        os.waitid(os.P_PID, info.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it is dying
        with pytest.raises(HSMFailure) as caught:
            await session.sign([(bytes(65), bytes(32))])
        assert caught.value.outcome.name == "HOST_CRASHED"


async def test_a_host_that_is_being_stopped_takes_no_calls(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        session = await host.open_session()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host.stop)
            tasks.start_soon(host.stop)
            await anyio.wait_all_tasks_blocked()
            for call in (host.find_keys, lambda: session.sign([(bytes(65), bytes(32))])):
                with pytest.raises(HSMFailure) as caught:
                    await call()
                assert caught.value.outcome.name == "HOST_NOT_RUNNING"
