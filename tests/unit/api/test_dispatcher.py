"""From the body of a request to the body of its answer: single calls, batches, faults, and what is not ours."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from anyio.from_thread import start_blocking_portal
from attrs import define, field

from manahsm.access import Access
from manahsm.api.calls import Answer, Call, Method, RPCError, Visitor
from manahsm.api.crossing import crossing
from manahsm.api.dispatch import Dispatcher, Forward
from manahsm.config.api_tables import Dialect
from manahsm.errors import HSMUnavailable, Overloaded

pytestmark = pytest.mark.anyio

SECRET = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"


def visitor(**access: Any) -> Visitor:
    return Visitor(
        access=Access(caller="alice", **access),
        dialect=Dialect.WEB3SIGNER,
        dialects=tuple(Dialect),
        request_id="r-1",
    )


async def echo(call: Call) -> Any:
    return {"params": call.params, "request_id": call.request_id}


async def fail(call: Call) -> Any:
    raise RuntimeError(f"a fault near {call.params}")


async def unwritable(_call: Call) -> Any:
    return object()


async def unavailable(_call: Call) -> Any:
    raise HSMUnavailable("no slot is up")


METHODS: dict[str, Method] = {"echo": echo, "fail": fail, "unwritable": unwritable, "unavailable": unavailable}


@define
class Node:
    """What is behind, as far as these tests need one."""

    asked: list[str] = field(factory=list)

    async def stream(self, call: Call, body: bytes) -> Answer:
        self.asked.append(f"stream {call.method}")
        return Answer(body=b"streamed " + body)

    async def ask(self, call: Call) -> Any:
        self.asked.append(f"ask {call.method}")
        if call.method == "eth_refused":
            raise RPCError(3, "execution reverted", "0x08")
        return msgspec.Raw(b'{"number":123456789012345678901234567890}')


def call(method: str, *params: Any, number: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}


async def answer_to(
    document: Any, *, forward: Forward | None = None, who: Visitor | None = None, methods: Any = METHODS
) -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return await Dispatcher(methods, forward=forward, max_batch=40).answer(body, who or visitor())


def said(answer: Answer) -> Any:
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body)


async def test_a_call_is_done_and_answered() -> None:
    answer = await answer_to(call("echo", "x", number="a"))
    assert answer.status == 200
    assert said(answer) == {"jsonrpc": "2.0", "id": "a", "result": {"params": ["x"], "request_id": "r-1"}}


async def test_what_is_no_request_is_answered_with_400() -> None:
    assert [(await answer_to(body)).status for body in (b"{", b"[]", b"1", b'{"id":1}')] == [400] * 4


async def test_a_notification_is_neither_done_nor_answered() -> None:
    done = []

    async def note(call: Call) -> None:
        done.append(call)

    notification = {"jsonrpc": "2.0", "method": "note"}
    node = Node()
    for document in (notification, [notification, notification], {**notification, "method": "eth_sendTransaction"}):
        answer = await answer_to(document, forward=node, methods={"note": note})
        assert (answer.status, answer.body) == (204, b"")
    assert (done, node.asked) == ([], [])


async def test_a_method_that_nobody_serves_is_not_found_and_not_repeated() -> None:
    error = said(await answer_to(call("<script>")))["error"]
    assert error["code"] == -32601
    assert "script" not in error["message"]


async def test_an_error_that_passes_says_when_to_try_again() -> None:
    answer = await answer_to(call("unavailable"))
    assert (answer.status, dict(answer.headers)) == (503, {"retry-after": "1"})
    assert said(answer)["error"]["data"]["code"] == "hsm_unavailable"


@pytest.mark.parametrize("method", ["fail", "unwritable"])
async def test_a_fault_of_ours_is_in_the_log_and_not_in_the_answer(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "manahsm"):
        answer = await answer_to(call(method, SECRET))
    assert answer.status == 200
    assert said(answer)["error"] == {
        "code": -32603,
        "message": "internal error",
        "data": {"code": "internal_error", "request_id": "r-1"},
    }
    assert "r-1" in caplog.text
    assert "Traceback" in caplog.text


async def test_a_batch_is_answered_in_order_each_call_by_its_own_fate() -> None:
    answer = await answer_to(
        [
            call("echo", number=1),
            call("fail", number=2),
            {"jsonrpc": "2.0", "method": "echo"},
            7,
            call("unavailable", number=3),
            call("echo", number=1),
        ]
    )
    answers = said(answer)
    assert answer.status == 200
    assert [one["id"] for one in answers] == [1, 2, None, 3, 1]
    assert [one.get("error", {}).get("code") for one in answers] == [None, -32603, -32600, -32000, None]
    assert [one["result"]["request_id"] for one in answers if "result" in one] == ["r-1/0", "r-1/5"]
    assert answers[1]["error"]["data"]["request_id"] == "r-1/1"


async def test_calls_of_a_batch_run_at_once_but_not_all() -> None:
    inside, most, full = 0, 0, anyio.Event()

    async def meet(_call: Call) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 16:
            full.set()
        await full.wait()
        await anyio.lowlevel.checkpoint()
        inside -= 1
        return most

    with anyio.fail_after(20):
        answers = said(await answer_to([call("meet", number=n) for n in range(40)], methods={"meet": meet}))
    assert [one["id"] for one in answers] == list(range(40))
    assert most == 16


async def test_answers_of_a_batch_do_not_fill_the_memory() -> None:
    async def large(_call: Call) -> str:
        return "a" * (12 * 2**20)

    answer = await answer_to([call("large", number=n) for n in range(4)], methods={"large": large})
    assert isinstance(answer.body, bytes)
    assert len(answer.body) < 33 * 2**20
    assert sorted(one.get("error", {}).get("code", 0) for one in said(answer)) == [-32003, -32003, 0, 0]


async def test_what_is_not_ours_goes_to_the_node_as_it_came() -> None:
    node = Node()
    body = b' {"jsonrpc": "2.0","id":1, "method":"eth_call"}'
    answer = await answer_to(body, forward=node)
    assert (answer.body, node.asked) == (b"streamed " + body, ["stream eth_call"])


async def test_what_is_ours_does_not_go_to_the_node() -> None:
    node = Node()
    await answer_to(call("echo"), forward=node)
    await answer_to([call("echo")], forward=node)
    assert node.asked == []


async def test_calls_of_a_batch_go_to_the_node_one_by_one() -> None:
    node = Node()
    answers = said(await answer_to([call("eth_call"), call("eth_refused"), call("echo")], forward=node))
    assert answers[0]["result"] == {"number": 123456789012345678901234567890}
    assert answers[1]["error"] == {"code": 3, "message": "execution reverted", "data": "0x08"}
    assert node.asked == ["ask eth_call", "ask eth_refused"]


@pytest.mark.parametrize("batch", [False, True])
async def test_a_method_that_is_not_the_caller_s_does_not_go_to_the_node(batch: bool) -> None:
    node = Node()
    document: Any = call("eth_call")
    answer = said(
        await answer_to([document] if batch else document, forward=node, who=visitor(methods=frozenset({"eth_get*"})))
    )
    error = (answer[0] if batch else answer)["error"]
    assert (error["data"]["code"], node.asked) == ("policy_denied", [])


async def test_a_node_that_is_overloaded_is_said_to_be() -> None:
    class Full(Node):
        async def stream(self, _call: Call, _body: bytes) -> Answer:
            raise Overloaded("too many requests wait for the node")

    answer = await answer_to(call("eth_call"), forward=Full())
    assert answer.status == 503


async def test_a_caller_who_leaves_cancels_what_is_done_for_them() -> None:
    cancelled = []

    async def wait(call: Call) -> None:
        try:
            await anyio.sleep_forever()
        except BaseException:
            cancelled.append(call.request_id)
            raise

    for document in (call("wait"), [call("wait")] * 20):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.wait_all_tasks_blocked)
                tasks.start_soon(_cancel_when_blocked, scope)
                await answer_to(document, methods={"wait": wait})
        assert scope.cancelled_caught
    assert len(cancelled) == 1 + 16


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the way to a service on another loop, which has ended
async def test_calls_whose_loop_has_ended_are_told_so() -> None:
    nobody: Any = None
    with start_blocking_portal(backend="trio") as portal, portal.wrap_async_context_manager(crossing(nobody)) as way:
        gateway = way

    async def lost(_call: Call) -> None:
        await gateway.run(lambda service: service.status())

    answers = said(await answer_to([call("lost", number=1), 7, call("lost", number=2)], methods={"lost": lost}))
    assert [(one["id"], one["error"]["code"]) for one in answers] == [(1, -32000), (None, -32600), (2, -32000)]
    assert answers[0]["error"]["data"]["code"] == "service_stopping"


async def _cancel_when_blocked(scope: anyio.CancelScope) -> None:
    await anyio.wait_all_tasks_blocked()
    scope.cancel()
