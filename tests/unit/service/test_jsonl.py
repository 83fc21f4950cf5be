"""JSON lines: what a line means, and that answers keep the order of the lines whatever happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manahsm.errors import DeadlineExceeded, KeyNotFound
from manahsm.jsonl import BadLine, answer_line, parse_line, serve_lines
from manahsm.requests import (
    Backend,
    Operation,
    Outcome,
    Signature,
    SignedAuthorization,
    SignedTransaction,
    SignRequest,
)
from manahsm.stdio import LineTooLong
from supervisors.testing import ManualClock, settle


def line_of(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


# ---- lines ----


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("tx", Operation.TRANSACTION),
        ("message", Operation.MESSAGE),
        ("typed_data", Operation.TYPED_DATA),
        ("authorization", Operation.AUTHORIZATION),
        ("hash", Operation.HASH),
    ],
)
def test_a_line_becomes_a_request(name: str, operation: Operation) -> None:
    line_id, request = parse_line(line_of(id="x", key="hot", chain_id=5, timeout=2, **{name: {"a": 1}}))

    assert line_id == "x"
    assert (request.operation, request.key, request.payload) == (operation, "hot", {"a": 1})
    assert (request.chain_id, request.timeout, request.caller) == (5, 2, "stdio")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"", "not a line of JSON"),
        (b"{", "not a line of JSON"),
        (b"\xff", "not a line of JSON"),
        (b"[" * 5000, "nested deeper"),
        (b'{"id": 1, "key": "k", "hash": ' + b"9" * 5000 + b"}", "not a line of JSON"),
        (b'{"id": 1, "key": "k", "hash": NaN}', "not a line of JSON"),
        (b'{"id": 1, "key": "k", "key": "j", "hash": "h"}', "a name stands twice"),
        (b'{"id": 1, "key": "k", "tx": {"to": "0x1", "to": "0x2"}}', "a name stands twice"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (line_of(id=True, key="k", hash="h"), "id must be"),
        (line_of(id=1.5, key="k", hash="h"), "id must be"),
        (line_of(id=2**64, key="k", hash="h"), "id must be"),
        (line_of(id=-(2**63) - 1, key="k", hash="h"), "id must be"),
        (line_of(id=[], key="k", hash="h"), "id must be"),
        (line_of(id=1, key="k"), "exactly one of"),
        (line_of(id=1, key="k", hash="h", tx={}), "exactly one of"),
        (line_of(id=1, key="k", hash="h", keys="k"), "unknown field 'keys'"),
        (line_of(id=1, hash="h"), "key must be a string"),
        (line_of(id=1, key=7, hash="h"), "key must be a string"),
        (line_of(id=1, key="k", hash="h", chain_id="1"), "chain_id must be"),
        (line_of(id=1, key="k", hash="h", chain_id=True), "chain_id must be"),
        (line_of(id=1, key="k", hash="h", timeout=0), "timeout must be"),
        (line_of(id=1, key="k", hash="h", timeout="1"), "timeout must be"),
        (line_of(id=1, key="k", hash="h", timeout=True), "timeout must be"),
        (line_of(id=1, key="k", hash="h", timeout=10**400), "timeout must be"),
    ],
)
def test_a_bad_line_says_what_is_wrong(line: bytes, says: str) -> None:
    with pytest.raises(BadLine, match=says):
        parse_line(line)


def test_a_number_of_more_than_64_bits_is_kept_exactly() -> None:
    _, request = parse_line(line_of(id=1, key="k", tx={"value": 10**20 + 1}))
    assert request.payload == {"value": 10**20 + 1}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
LINES = st.binary() | st.dictionaries(
    st.sampled_from(["id", "key", "tx", "hash", "chain_id", "timeout", "message"]) | st.text(max_size=3), JSON_VALUES
).map(lambda fields: json.dumps(fields).encode())


@given(LINES)
def test_any_line_is_a_request_or_a_bad_line_whose_id_can_be_written_back(line: bytes) -> None:
    try:
        line_id, request = parse_line(line)
    except BadLine as bad:
        line_id, request = bad.line_id, SignRequest.message(b"", "k")
    outcome = Outcome(request_id=request.request_id, error=KeyNotFound("no such key"))

    assert json.loads(answer_line(line_id, outcome)) == {
        "id": line_id,
        "error": {"code": "key_not_found", "message": "no such key"},
    }


def test_results_are_written_as_hex() -> None:
    made: dict[str, Any] = {"r": 1, "s": 2, "backend": Backend.HSM, "key_id": "0123456789abcdef"}
    transaction = SignedTransaction(raw_transaction=b"\x02\xff", hash=b"\x11" * 32, v=1, **made)
    signature = Signature(y_parity=1, digest=b"\x22" * 32, **made)
    authorization = SignedAuthorization(chain_id=5, address=b"\x33" * 20, nonce=7, y_parity=0, **made)
    lines = [
        json.loads(answer_line(n, Outcome(request_id="x", result=result)))
        for n, result in enumerate((transaction, signature, authorization))
    ]

    by = {"backend": "hsm", "key_id": "0123456789abcdef"}
    assert lines == [
        {"id": 0, "raw_transaction": "0x02ff", "hash": "0x" + "11" * 32, **by},
        {"id": 1, "signature": "0x" + f"{1:064x}{2:064x}1c", "hash": "0x" + "22" * 32, **by},
        {
            "id": 2,
            "authorization": {
                "chainId": "0x5",
                "address": "0x" + "33" * 20,
                "nonce": "0x7",
                "yParity": "0x0",
                "r": "0x1",
                "s": "0x2",
            },
            **by,
        },
    ]


# ---- serving them ----


class Lines:
    """Both ends of :func:`serve_lines`, moved by the test."""

    def __init__(self, *lines: bytes | LineTooLong) -> None:
        self.lines = list(lines)
        self.ended = anyio.Event()
        self.stop = anyio.Event()
        self.clock = ManualClock()
        self.written: list[Any] = []
        self.gates: dict[Any, anyio.Event] = {}
        self.reader_is_there = anyio.Event()
        self.result: bool | None = None

    async def read(self) -> bytes | LineTooLong | None:
        if not self.lines:
            await self.ended.wait()
            return None
        return self.lines.pop(0)

    async def write(self, line: bytes) -> None:
        await self.reader_is_there.wait()
        self.written.append(json.loads(line)["id"])

    async def answer(self, request: SignRequest) -> Outcome:
        gate = self.gates[request.payload] = anyio.Event()
        await gate.wait()
        return Outcome(request_id=request.request_id, error=DeadlineExceeded("late"))

    async def serve(self, **options: Any) -> None:
        options = {"grace": 5.0, "clock": self.clock, **options}
        self.result = await serve_lines(self.read, self.write, self.answer, self.stop, **options)


def message_line(number: int) -> bytes:
    return line_of(id=number, key="k", message=number)


async def served(lines: Lines, steps: Callable[[], Any], **options: Any) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: lines.serve(**options))
        await settle()
        await steps()


@pytest.mark.anyio
async def test_answers_wait_for_those_before_them() -> None:
    lines = Lines(message_line(1), b"bad", message_line(2), b"  ", LineTooLong("too long"))
    lines.reader_is_there.set()

    async def steps() -> None:
        lines.gates[2].set()
        await settle()
        assert lines.written == []
        lines.gates[1].set()
        await settle()
        assert lines.written == [1, None, 2, None]
        lines.ended.set()

    await served(lines, steps)
    assert lines.result is True


@pytest.mark.anyio
async def test_no_more_lines_are_read_than_may_be_under_way() -> None:
    lines = Lines(*(message_line(number) for number in range(5)))
    lines.reader_is_there.set()

    async def steps() -> None:
        assert len(lines.lines) == 3
        lines.gates[1].set()
        await settle()
        assert len(lines.lines) == 3  # its answer waits for that of the line before
        lines.gates[0].set()
        await settle()
        assert len(lines.lines) == 1
        lines.stop.set()
        for gate in lines.gates.values():
            gate.set()

    await served(lines, steps, at_once=2)
    assert lines.written == [0, 1, 2, 3]


@pytest.mark.anyio
async def test_after_a_stop_nothing_is_read_and_what_was_read_is_answered() -> None:
    lines = Lines(message_line(1))
    lines.reader_is_there.set()

    async def steps() -> None:
        lines.stop.set()
        await settle()
        lines.lines.append(message_line(2))
        await lines.clock.run_for(4.9)
        lines.gates[1].set()

    await served(lines, steps)
    assert (lines.result, lines.written, len(lines.lines)) == (True, [1], 1)


@pytest.mark.anyio
async def test_what_is_not_signed_within_the_grace_is_refused() -> None:
    lines = Lines(message_line(1), message_line(2))
    lines.reader_is_there.set()

    async def steps() -> None:
        lines.gates[2].set()
        lines.stop.set()
        await lines.clock.run_for(5.1)

    await served(lines, steps)
    assert (lines.result, lines.written) == (True, [1, 2])


@pytest.mark.anyio
async def test_a_reader_that_never_comes_is_left_after_the_grace() -> None:
    lines = Lines(message_line(1))

    async def steps() -> None:
        lines.stop.set()
        lines.gates[1].set()
        await lines.clock.run_for(6.9)
        assert lines.result is None
        await lines.clock.run_for(0.2)

    await served(lines, steps)
    assert (lines.result, lines.written) == (False, [])
