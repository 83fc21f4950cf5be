"""Commands as processes beside services: batches, the live view, interruptions, and a service that runs already."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from command_line import manahsm
from rich.console import Console
from services import children_of, config_for, host_pids, software_config
from softhsm import SoftHSMToken

import manahsm as service_package
from manahsm.cli.breaker import act
from manahsm.cli.snapshot import look
from manahsm.cli.surroundings import is_locked
from manahsm.cli.view import render
from manahsm.signing.slot import SlotPhase
from supervisors import BreakerState

DEADLINE = 30.0


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "manahsm.cli", *map(str, words)]


# ---- a service that runs already ----


def test_beside_a_service_that_runs_the_advice_is_to_ask_that_one(software: Path, tmp_path: Path) -> None:
    running = subprocess.Popen(  # noqa: S603 - our own module
        command("serve", "--stdio", "--config", software), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        until(lambda: is_locked(tmp_path / "state" / "registry.sqlite3.lock"))
        refused = manahsm("keys", "list", "--config", software, "--json")
        assert (refused.status, refused.error["code"]) == (1, "service_running")
        assert "--url http://127.0.0.1:9000" in refused.error["message"]
        assert manahsm("check", "--config", software).status == 1
    finally:
        running.communicate(timeout=DEADLINE)
    assert running.returncode == 0
    assert manahsm("keys", "list", "--config", software).status == 0


# ---- batches ----


def test_a_batch_is_answered_in_order_with_a_bar_beside_it(used: Path, tmp_path: Path) -> None:
    lines = [{"id": number, "key": "hot", "message": f"message {number}"} for number in range(20)]
    file = tmp_path / "batch.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = subprocess.run(command("sign", "batch", file, "--config", used), capture_output=True, check=False)  # noqa: S603
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [answer["id"] for answer in answers] == list(range(20))
    assert {answer["backend"] for answer in answers} == {"hsm"}
    assert b"20/20" in done.stderr


def test_a_batch_with_a_bad_line_fails_and_signs_the_rest(used: Path) -> None:
    lines = b'{"id": 1, "key": "hot", "message": "a"}\nnonsense\n{"id": 3, "key": "nobody", "message": "b"}\n'
    done = subprocess.run(  # noqa: S603 - our own module
        command("sign", "batch", "-", "--quiet", "--config", used), input=lines, capture_output=True, check=False
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert ["error" in answer for answer in answers] == [False, True, True]
    assert b"lines that were not signed: 2" in done.stderr


def test_a_batch_whose_reader_has_seen_enough_ends_without_a_word(software: Path, tmp_path: Path) -> None:
    file = tmp_path / "batch.jsonl"
    file.write_text('{"id": 1, "key": "nobody", "message": "a"}\n' * 5000)
    words = command("sign", "batch", file, "--quiet", "--config", software)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:  # noqa: S603 - our own module
        assert running.stdout is not None
        assert running.stderr is not None
        assert json.loads(running.stdout.readline())["id"] == 1
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(DEADLINE) == 1


def test_a_batch_whose_answers_are_lost_says_so(software: Path, tmp_path: Path) -> None:
    file = tmp_path / "batch.jsonl"
    file.write_text('{"id": 1, "key": "nobody", "message": "a"}\n' * 5)
    with Path("/dev/full").open("wb") as full:
        words = command("sign", "batch", file, "--quiet", "--config", software)
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False)  # noqa: S603 - our own module
    assert (done.returncode, done.stderr) == (1, b"manahsm: the output was lost: No space left on device\n")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What is started can be interrupted, though a shell that runs tests in the background has them ignore that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_ends_the_service_in_order(used: Path) -> None:
    running = subprocess.Popen(  # noqa: S603 - our own module
        command("sign", "batch", "-", "--json", "--quiet", "--config", used),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert running.stdin is not None
    assert running.stdout is not None
    running.stdin.write(b'{"id": 1, "key": "hot", "message": "a"}\n')
    running.stdin.flush()
    assert json.loads(running.stdout.readline())["id"] == 1
    hosts = host_pids(running.pid)
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=DEADLINE) == 130  # while its input is open: the end of that is another way to end
    output, errors = running.communicate()
    assert json.loads(output) == {"error": {"code": "interrupted", "message": "interrupted"}}
    assert b"Traceback" not in errors
    assert [pid for pid in hosts if Path(f"/proc/{pid}").exists()] == []
    assert hosts
    assert json.loads(manahsm("audit", "show", "--config", used, "--json").output.splitlines()[-1])["event"] == "stop"


# ---- looking ----


def test_check_says_what_each_slot_has(used: Path) -> None:
    checked = manahsm("check", "--config", used)
    assert checked.status == 0
    assert "mechanism CKM_ECDSA: yes" in checked.output
    assert manahsm("check", "--config", used, "--json").document["ok"] is True


@pytest.fixture
def half_gone(softhsm_token: SoftHSMToken, tmp_path: Path) -> Path:
    """One slot with a token, and one with a long name and none."""
    good = {"token_label": softhsm_token.label}
    gone = {"token_label": "elsewhere", "name": "backup-in-the-other-machine-room", "priority": "backup"}
    table = config_for(softhsm_token, tmp_path, connection_pool={"size": 2, "processes": 1})["hsm"]
    del table["token_label"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"hsm": {**table, "slots": [good, gone]}}))
    return path


def test_what_is_wrong_shows_in_80_columns_and_in_the_exit_status(half_gone: Path) -> None:
    for words, status in (
        (("top", "--once"), 0),
        (("status",), 0),
        (("alerts", "list"), 3),
        (("doctor",), 3),
    ):
        shown = manahsm(*words, "--config", half_gone)
        assert (words, shown.status, shown.errors) == (words, status, "")
        assert shown.width <= 80
        assert "elsewhere" in shown.output.replace("\n", "")
        assert words[0] not in {"top", "status"} or "SIGNED" in shown.output
    assert manahsm("check", "--config", half_gone).status == 3


def test_a_snapshot_in_json_is_one_line(software: Path) -> None:
    shown = manahsm("top", "--once", "--json", "--config", software)
    assert shown.status == 0
    assert shown.output.count("\n") == 1
    assert set(shown.document) == {"at", "status", "health", "alerts", "performance", "stats"}


def test_an_alert_is_resolved_by_its_id(half_gone: Path) -> None:
    listed = manahsm("alerts", "list", "--config", half_gone, "--json")
    alert = next(alert for alert in listed.document if alert["severity"] == "critical")
    unknown = manahsm("alerts", "resolve", "0" * 16, "--config", half_gone, "--json")
    assert (unknown.status, unknown.error["code"]) == (1, "invalid_request")
    resolved = manahsm("alerts", "resolve", alert["id"], "--config", half_gone, "--json")
    assert (resolved.status, resolved.document["resolved_by"]) == (0, "operator")


def test_the_live_view_ends_with_q(software: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, command("top", "--interval", "0.1", "--config", software))  # noqa: S606
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    shown = b""
    try:
        while b"q ends" not in shown:
            shown += os.read(terminal, 65536)
        os.write(terminal, b"q")
        while True:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # its end has closed
                break
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert b"signing_service" in shown
    assert children_of(pid) == set()


# ---- what needs --url from a terminal, on a service that is here ----


@pytest.mark.anyio
async def test_a_breaker_is_opened_and_reset(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    table = config_for(softhsm_token, tmp_path, connection_pool={"size": 1, "processes": 1})
    async with service_package.open_service(table) as service:
        name = softhsm_token.label
        opened = await act(service, name, lambda one: one.force_open(name, "a test"))
        assert opened.breaker.state is BreakerState.FORCED_OPEN
        console = Console(width=80)
        with console.capture() as shown:
            console.print(render(await look(service)))
        assert max(map(len, shown.get().splitlines())) <= 80
        assert f"slot {name}: a test" in shown.get()
        reset = await act(service, name, lambda one: one.reset_breaker(name))
        assert (reset.breaker.state, reset.phase) == (BreakerState.CLOSED, SlotPhase.UP)


@pytest.mark.anyio
async def test_everything_is_asked_for_at_once(tmp_path: Path) -> None:
    with anyio.fail_after(DEADLINE):
        async with service_package.open_service(software_config(tmp_path)) as service:
            seen = await look(service)
    assert seen.status.accepting
    assert seen.stats.operations == 0
