"""``python -m manahsm.run`` as a real process: lines in, lines out, signals, and what it says when it can not run."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from services import (
    A_TRANSACTION,
    children_of,
    config_for,
    digest_of,
    host_pids,
    software_config,
    write_config_file,
)
from softhsm import SoftHSMToken

import manahsm

DEADLINE = 30.0  # seconds: far beyond what anything here takes

BLOB_TRANSACTION = {**A_TRANSACTION, "type": 3, "maxFeePerBlobGas": 10**9, "blobs": ["0x" + "00" * 131072]}


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "manahsm.run", "--config", str(config), *arguments]


def run(config: Path, *arguments: str, lines: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - our own module
        command(config, *arguments), input=lines, capture_output=True, timeout=DEADLINE, check=False, **options
    )


def answers(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def code_of(answer: dict[str, Any]) -> str:
    return str(answer["error"]["code"]) if "error" in answer else "signed"


def hash_line(number: int, key: str = "hot") -> bytes:
    return json.dumps({"id": number, "key": key, "hash": "0x" + digest_of(number).hex()}).encode() + b"\n"


def until(condition: Callable[[], object]) -> None:
    """Poll a condition of another process."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


class Running:
    """A command that is under way, with pipes to it."""

    def __init__(self, config: Path, *arguments: str, **options: Any) -> None:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(command(config, *arguments), **(pipes | {"bufsize": 0} | options))  # noqa: S603
        self.seen: set[int] = set()

    def hosts(self) -> set[int]:
        """Its descendants; remembered, to look for them when it is gone."""
        found = children_of(self.process.pid)
        self.seen |= found
        return found

    def ask(self, line: bytes) -> dict[str, Any]:
        """Write a line and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def read_log_until(self, words: bytes, times: int = 1) -> bytes:
        """Wait until its log has said so; returns all that it has said meanwhile."""
        assert self.process.stderr is not None
        said = b""
        while times:
            line = self.process.stderr.readline()
            assert line, "it ended"
            said += line
            times -= words in line
        return said

    def send(self, number: int) -> None:
        self.hosts()
        self.process.send_signal(number)

    def end(self) -> tuple[int, bytes, bytes]:
        """Wait for it; what it left behind is for :meth:`leftovers`."""
        output, errors = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, output or b"", errors or b""

    def leftovers(self) -> set[int]:
        """Descendants that still live."""
        return {pid for pid in self.seen if Path(f"/proc/{pid}").exists()}


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Start commands that do not outlive the test."""
    started: list[Running] = []

    def begin(config: Path, *arguments: str, **options: Any) -> Running:
        started.append(Running(config, *arguments, **options))
        return started[-1]

    yield begin
    for running in started:
        running.hosts()
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()
        for pid in running.leftovers():
            os.kill(pid, signal.SIGKILL)
        for pipe in (running.process.stdin, running.process.stdout, running.process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def software(tmp_path: Path) -> Path:
    """Configuration with software keys only; there is none yet."""
    return write_config_file(tmp_path / "config.json", software_config(tmp_path))


@pytest.fixture(scope="module")
def used_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The token and the state of a service that made the key ``hot`` and ended; tests work on copies."""
    directory = tmp_path_factory.mktemp("hot")

    async def make_key() -> None:
        async with manahsm.open_service(config_for(SoftHSMToken.create(directory / "softhsm"), directory)) as service:
            await service.generate_key("hot", "transaction_signer", "hsm")

    anyio.run(make_key)
    return directory


@pytest.fixture
def hsm(used_once: Path, softhsm_token: SoftHSMToken, tmp_path: Path) -> Path:
    """Configuration with a token that holds the key ``hot``."""
    shutil.rmtree(softhsm_token.directory / "tokens")
    shutil.copytree(used_once / "softhsm" / "tokens", softhsm_token.directory / "tokens")
    shutil.copytree(used_once / "state", tmp_path / "state")
    return write_config_file(tmp_path / "config.json", config_for(softhsm_token, tmp_path))


# ---- lines ----


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_line_is_answered_in_order_and_bad_ones_stop_nothing(hsm: Path, backend: str) -> None:
    lines = [
        hash_line(1),
        b'{"id":"bad json","key":\n',
        b"\n",
        json.dumps({"id": "tx", "key": "hot", "chain_id": 31337, "tx": A_TRANSACTION}).encode() + b"\n",
        b"   \r\n",
        json.dumps({"id": "wrong chain", "key": "hot", "chain_id": 1, "tx": A_TRANSACTION}).encode() + b"\n",
        b"\xff\xfe\n",
        b"[" * 9000 + b"\n",
        json.dumps({"id": "blobs", "key": "hot", "chain_id": 31337, "tx": BLOB_TRANSACTION}).encode() + b"\n",
        *(hash_line(number) for number in range(100, 400)),
        hash_line(5, key="nobody"),
        b'{"id":123456789012345678901234567890,"key":"hot","hash":"0x00"}\n',
        b'{"id":"late","key":"hot","timeout":1' + b"0" * 400 + b',"hash":"0x' + b"11" * 32 + b'"}\n',
        b'{"id":"last, without a newline","key":"hot","message":"hello"}',
    ]
    done = run(hsm, "--stdio", "--backend", backend, lines=b"".join(lines))

    assert done.returncode == 0, done.stderr.decode()
    got = [(answer["id"], code_of(answer)) for answer in answers(done.stdout)]
    assert got == [
        (1, "signed"),
        (None, "invalid_request"),
        ("tx", "signed"),
        ("wrong chain", "invalid_transaction"),
        (None, "invalid_request"),
        (None, "invalid_request"),
        ("blobs", "signed"),
        *((number, "signed") for number in range(100, 400)),
        (5, "key_not_found"),
        (None, "invalid_request"),
        ("late", "invalid_request"),
        ("last, without a newline", "signed"),
    ]
    assert {answer["backend"] for answer in answers(done.stdout) if "error" not in answer} == {"hsm"}
    assert b"Traceback" not in done.stderr


def test_a_line_that_is_too_long_is_refused_and_the_next_is_read(software: Path) -> None:
    done = run(software, "--stdio", lines=b"x" * (9 * 1024 * 1024) + b"\n" + hash_line(1))

    assert done.returncode == 0
    assert [code_of(answer) for answer in answers(done.stdout)] == ["invalid_request", "key_not_found"]
    assert "8388608 bytes" in answers(done.stdout)[0]["error"]["message"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_files_as_input_and_output(software: Path, tmp_path: Path, backend: str) -> None:
    lines, output = tmp_path / "lines", tmp_path / "output"
    lines.write_bytes(b"".join(hash_line(number) for number in range(2000)))
    with lines.open("rb") as source, output.open("wb") as target:
        done = subprocess.run(  # noqa: S603 - our own module
            command(software, "--stdio", "--backend", backend),
            stdin=source,
            stdout=target,
            stderr=subprocess.PIPE,
            timeout=DEADLINE,
            check=False,
        )

    assert done.returncode == 0, done.stderr.decode()
    assert [answer["id"] for answer in answers(output.read_bytes())] == list(range(2000))


def test_no_input_at_all(software: Path) -> None:
    done = run(software, "--stdio")
    null = subprocess.run(  # noqa: S603 - our own module
        command(software, "--stdio"), stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE, check=False
    )

    assert (done.returncode, done.stdout) == (0, b"")
    assert (null.returncode, null.stdout) == (0, b"")


def test_a_queue_that_is_shorter_than_the_input_makes_the_input_wait(hsm: Path) -> None:
    config = json.loads(hsm.read_text())
    config["hsm"]["service"]["queue_size"] = 3
    done = run(write_config_file(hsm, config), "--stdio", lines=b"".join(hash_line(number) for number in range(500)))

    assert {code_of(answer) for answer in answers(done.stdout)} == {"signed"}


@pytest.mark.parametrize(
    ("streams", "status", "said"),
    [
        ("<&-", 0, ""),
        (">&-", 1, "Bad file descriptor"),
        (">/dev/full", 1, "No space left on device"),
        ("| true; exit ${PIPESTATUS[0]}", 1, "Broken pipe"),
    ],
)
def test_streams_that_are_closed_or_full_end_it_in_order(software: Path, streams: str, status: int, said: str) -> None:
    line = " ".join(f"'{word}'" for word in command(software, "--stdio"))
    done = subprocess.run(  # noqa: S603 - our own module
        ["bash", "-c", f"{line} {streams}"],  # noqa: S607 - redirections are the shell's
        input=hash_line(1) * 3000,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )

    assert done.returncode == status, done.stderr.decode()
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_answers_never_mix_with_logs_when_standard_error_is_closed(software: Path) -> None:
    line = " ".join(f"'{word}'" for word in command(software, "--stdio"))
    done = subprocess.run(  # noqa: S603 - our own module
        ["bash", "-c", f"{line} 2>&-"],  # noqa: S607
        input=hash_line(1),
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )

    assert done.returncode == 0
    assert [code_of(answer) for answer in answers(done.stdout)] == ["key_not_found"]


# ---- signals ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_signal_stops_it_in_order(
    hsm: Path, start: Callable[..., Running], number: signal.Signals, backend: str
) -> None:
    running = start(hsm, "--stdio", "--backend", backend)
    assert code_of(running.ask(hash_line(1))) == "signed"
    running.send(number)
    status, output, errors = running.end()

    assert len(running.seen) == 2  # hosts
    assert (status, output) == (0, b""), errors.decode()
    assert running.leftovers() == set()


def test_what_was_read_before_the_signal_is_answered(hsm: Path, start: Callable[..., Running]) -> None:
    running = start(hsm, "--stdio")
    running.ask(hash_line(0))
    assert running.process.stdin is not None
    running.process.stdin.write(b"".join(hash_line(number) for number in range(1, 200)))
    running.process.stdin.flush()
    assert running.process.stdout is not None
    first = json.loads(running.process.stdout.readline())
    running.send(signal.SIGTERM)
    status, output, _ = running.end()

    got = [first, *answers(output)]
    assert status == 0
    assert [(answer["id"], code_of(answer)) for answer in got] == [(n, "signed") for n in range(1, len(got) + 1)]
    assert running.leftovers() == set()


def test_a_signal_ends_endless_input(software: Path, start: Callable[..., Running], tmp_path: Path) -> None:
    endless = tmp_path / "endless"
    endless.write_bytes(hash_line(1) * 400_000)
    with endless.open("rb") as source:
        running = start(software, "--stdio", stdin=source)
        assert running.process.stdout is not None
        running.process.stdout.readline()
        running.send(signal.SIGTERM)
        status, output, _ = running.end()

    assert status == 0
    assert len(output.splitlines()) < 300_000


def test_a_signal_ends_it_when_nobody_reads_the_answers(software: Path, start: Callable[..., Running]) -> None:
    config = json.loads(software.read_text())
    config["hsm"]["service"]["shutdown_grace"] = 100
    running = start(write_config_file(software, config), "--stdio", stderr=subprocess.DEVNULL)
    assert running.process.stdin is not None
    os.set_blocking(running.process.stdin.fileno(), False)
    line = hash_line(1)

    def stuck() -> bool:
        """Write until it does not read any more, because its own output is full."""
        assert running.process.stdin is not None
        try:
            return running.process.stdin.write(line * 100) is None
        except BlockingIOError:
            return True

    until(lambda: stuck() and _asleep(running.process.pid))
    running.send(signal.SIGTERM)
    assert running.process.wait(DEADLINE) == 1
    assert running.leftovers() == set()


def _asleep(pid: int) -> bool:
    """Whether a process got no processor time for a while."""

    def used() -> list[str]:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]

    before, end = used(), time.monotonic() + 0.3
    while time.monotonic() < end:
        if used() != before:
            return False
        time.sleep(0.01)
    return True


def test_what_can_not_be_signed_in_time_is_refused_after_a_signal(hsm: Path, start: Callable[..., Running]) -> None:
    config = json.loads(hsm.read_text())
    config["hsm"]["service"]["shutdown_grace"] = 100
    config["hsm"]["connection_pool"] = {"size": 1, "processes": 1}  # the end waits seconds for each
    running = start(write_config_file(hsm, config), "--stdio")
    running.read_log_until(b"host adopted")
    for pid in running.hosts():
        os.kill(pid, signal.SIGSTOP)
    assert running.process.stdin is not None
    running.process.stdin.write(hash_line(2) + hash_line(3))
    running.process.stdin.flush()
    until(lambda: _asleep(running.process.pid))
    running.send(signal.SIGTERM)
    status, output, errors = running.end()

    assert status == 0, errors.decode()
    assert [(answer["id"], code_of(answer)) for answer in answers(output)] == [
        (2, "service_stopping"),
        (3, "service_stopping"),
    ]
    assert running.leftovers() == set()


def test_a_second_interrupt_ends_it_at_once(hsm: Path, start: Callable[..., Running]) -> None:
    running = start(hsm, "--stdio")
    running.read_log_until(b"host adopted", 2)
    for pid in running.hosts():
        os.kill(pid, signal.SIGSTOP)  # a clean end would have to wait for them
    running.send(signal.SIGINT)
    running.read_log_until(b"stopping")
    running.send(signal.SIGINT)
    status, _, _ = running.end()

    assert status == 130
    until(lambda: not running.leftovers())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_signal_during_the_start_ends_it(
    softhsm_token: SoftHSMToken, tmp_path: Path, start: Callable[..., Running], backend: str
) -> None:
    config = write_config_file(tmp_path / "config.json", config_for(softhsm_token, tmp_path))
    running = start(config, "--stdio", "--backend", backend)
    until(lambda: host_pids(running.process.pid))
    running.send(signal.SIGTERM)
    status, output, errors = running.end()

    assert (status, output) == (0, b""), errors.decode()
    assert b"Traceback" not in errors
    assert running.leftovers() == set()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_without_an_option_it_serves_http_until_a_signal_comes(
    hsm: Path, start: Callable[..., Running], backend: str
) -> None:
    running = start(served(hsm), "--backend", backend)
    address = re.search(rb"listening at=(\S+)", running.read_log_until(b"ready"))
    assert address is not None
    host, _, port = address[1].decode().partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    call = {"jsonrpc": "2.0", "id": 1, "method": "eth_accounts"}
    connection.request("POST", "/", json.dumps(call), {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    running.send(signal.SIGTERM)
    status, _, errors = running.end()
    connection.close()

    assert len(answer["result"]) == 1
    assert status == 0, errors.decode()
    assert b"Traceback" not in errors
    assert running.leftovers() == set()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket such as systemd's, at ``tmp_path / "notify"``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(DEADLINE)
        listening.bind(str(tmp_path / "notify"))
        yield listening


def managed(tmp_path: Path) -> dict[str, Any]:
    """What systemd gives a unit with ``Type=notify`` and ``WatchdogSec=200ms``."""
    return {"env": {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}}


def test_the_service_manager_is_told_that_it_signs_lives_and_stops(
    hsm: Path, start: Callable[..., Running], manager: socket.socket, tmp_path: Path
) -> None:
    running = start(served(hsm), **managed(tmp_path))
    said = [manager.recv(1024) for _ in range(4)]
    running.send(signal.SIGTERM)
    while (last := manager.recv(1024)).startswith(b"WATCHDOG=1"):
        pass

    assert said == [b"READY=1\nSTATUS=signing", *[b"WATCHDOG=1\nSTATUS=signing"] * 3]
    assert last == b"STOPPING=1"
    assert running.end()[0] == 0


def test_the_service_manager_is_told_why_nothing_is_signed(
    softhsm_token: SoftHSMToken, start: Callable[..., Running], manager: socket.socket, tmp_path: Path
) -> None:
    config = write_config_file(tmp_path / "config.json", config_for(softhsm_token, tmp_path))
    (softhsm_token.directory / "pin").write_text("98765\n")
    running = start(served(config), **managed(tmp_path))
    said = manager.recv(1024)
    running.send(signal.SIGTERM)

    assert said.startswith(b"READY=1\nSTATUS=not signing: no slot can sign: manahsm-test is latched")
    assert running.end()[0] == 0


def test_a_port_in_use_is_an_error_before_anything_starts(hsm: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run(served(hsm, port=taken.getsockname()[1]))

    assert done.returncode == 2
    assert b"is in use: stop the program that listens there" in done.stderr


def served(config: Path, port: int = 0) -> Path:
    """The same configuration with an HTTP interface on another port."""
    table = json.loads(config.read_text())
    table["hsm"]["api"] = {"port": port}
    return write_config_file(config.with_name("served.json"), table)


# ---- check ----


def test_check_says_what_it_found(hsm: Path) -> None:
    done = run(hsm, "--check")
    said = done.stdout.decode()

    assert done.returncode == 0, done.stderr.decode()
    for part in (
        "slot manahsm-test: up (softhsm, ",
        "token: manahsm-test (serial ",
        "login: good; mechanism CKM_ECDSA: yes",
        "hosts: ",
        "keys: 1",
        " hot (transaction_signer; hsm: manahsm-test; active)",
    ):
        assert part in said


def test_check_without_tokens(software: Path) -> None:
    done = run(software, "--check")

    assert (done.returncode, done.stdout.decode()) == (0, "slots: none (software keys only)\nkeys: 0\n")


def test_check_fails_on_a_wrong_pin_and_says_so(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    config = write_config_file(tmp_path / "config.json", config_for(softhsm_token, tmp_path))
    (softhsm_token.directory / "pin").write_text("98765\n")
    done = run(config, "--check")

    assert done.returncode == 1
    assert "slot manahsm-test: latched" in done.stdout.decode()
    assert "wrong PIN" in done.stdout.decode()
    assert b"98765" not in done.stdout + done.stderr
    assert "user PIN count low" in softhsm_token.flags()


# ---- what can not run ----


def test_every_mistake_in_a_configuration_is_told_at_once(tmp_path: Path) -> None:
    config = write_config_file(
        tmp_path / "config.json",
        {"hsm": {"vender": "softhsm", "connection_pool": {"size": 0}, "slot_id": "one", "pin": "31337"}},
    )
    done = run(config, "--check")

    assert done.returncode == 2
    for part in ("hsm.vender", "vendor", "hsm.connection_pool.size", "hsm.slot_id"):
        assert part in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert b"31337" not in done.stderr


@pytest.mark.parametrize("arguments", [("--check",), ("--stdio",)])
def test_a_library_that_is_not_there(softhsm_token: SoftHSMToken, tmp_path: Path, arguments: tuple[str]) -> None:
    config = config_for(softhsm_token, tmp_path, library_path="/nowhere/libsofthsm2.so")
    done = run(write_config_file(tmp_path / "config.json", config), *arguments)

    assert done.returncode == 2
    assert "library_path" in done.stderr.decode()
    assert "/nowhere/libsofthsm2.so" in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_configuration_file_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path / "nowhere.toml", "--check")

    assert done.returncode == 2
    assert "nowhere.toml" in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_state_directory_that_is_in_use(software: Path, start: Callable[..., Running]) -> None:
    running = start(software, "--stdio")
    running.ask(hash_line(1))
    done = run(software, "--check")

    assert done.returncode == 1
    assert "another manahsm process" in done.stderr.decode()
    assert b"Traceback" not in done.stderr


# ---- secrets ----


def test_the_pin_is_in_no_command_line_and_in_no_environment_of_a_child(
    softhsm_token: SoftHSMToken, tmp_path: Path, hsm: Path, start: Callable[..., Running]
) -> None:
    config = json.loads(hsm.read_text())
    del config["hsm"]["pin_file"]
    with_variable = write_config_file(tmp_path / "variable.json", config)
    running = start(with_variable, "--stdio", env={**os.environ, "HSM_PIN": softhsm_token.pin})
    line = {"id": 1, "key": "hot", "chain_id": 31337, "tx": BLOB_TRANSACTION}
    assert code_of(running.ask(json.dumps(line).encode() + b"\n")) == "signed"  # has a worker process started, too
    pin = softhsm_token.pin.encode()
    children = running.hosts()
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in {running.process.pid, *children}}
    environments = {pid: _environment(pid) for pid in children}

    assert len(children) == 3
    assert not any(pin in line for line in lines.values())
    assert not any(pin in environment for environment in environments.values())


def _environment(pid: int) -> bytes:
    """What its owner may read; a host is closed even to that one, so root looks where it can."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except PermissionError:
        return b""
