"""Where alerts go: log lines, and POST requests to a real web server."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
import pytest
from alert_samples import A_MOMENT, Receiver, receiver, sample_alert, wall_of
from attrs import evolve

from manahsm.monitoring.alert_rules import Alert, ResolvedBy
from manahsm.monitoring.alertmanager import AlertmanagerSink, postable
from manahsm.monitoring.causes import CAUSES, Severity
from manahsm.monitoring.delivery import Poster, Undelivered
from manahsm.monitoring.sinks import LogSink, Sink
from manahsm.monitoring.webhook import ATTEMPTS, MOST_WAITING, WebhookSink, webhook_body
from supervisors.testing import ManualClock

pytestmark = pytest.mark.anyio

NOBODY = "http://127.0.0.1:9/"  # the discard service: nothing listens there


@pytest.fixture
def web() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


class Stage:
    """A sink that runs, with a clock that a test moves and a network that takes real time."""

    def __init__(self, url: str, *, attempts: int = ATTEMPTS) -> None:
        self.clock = ManualClock()
        self.poster = Poster(url, timeout=5.0, attempts=attempts, clock=self.clock)
        self.trouble: list[str | None] = []

    def webhook(self) -> WebhookSink:
        return WebhookSink(self.poster, "signer-1")

    def alertmanager(self) -> AlertmanagerSink:
        return AlertmanagerSink(self.poster, "signer-1", interval=60.0, clock=self.clock, now=wall_of(self.clock))

    @asynccontextmanager
    async def running(self, sink: Sink) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.run, lambda _, trouble: self.trouble.append(trouble))
            yield
            tasks.cancel_scope.cancel()

    async def until(self, condition: Callable[[], object], *, moving: float = 0.0) -> None:
        with anyio.fail_after(20):
            while not condition():
                self.clock.advance(moving)
                await anyio.sleep(0.002)


def resolved(alert: Alert) -> Alert:
    return evolve(alert, resolved_at=A_MOMENT + timedelta(minutes=1), resolved_by=ResolvedBy.ITSELF)


# ---- log ----


@pytest.mark.parametrize("cause", [CAUSES["latched"], CAUSES["wrong_pin_tried"], CAUSES["stand_in"]])
def test_the_log_has_the_originals_line_at_the_level_of_the_severity(
    cause: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "manahsm")
    alert = sample_alert(cause, detail="so it is")  # type: ignore[arg-type]
    LogSink().offer(alert)
    LogSink().offer(resolved(alert))

    levels = {Severity.CRITICAL: logging.CRITICAL, Severity.WARNING: logging.WARNING, Severity.INFO: logging.INFO}
    raised, ended = caplog.records
    assert raised.levelno == levels[alert.severity]
    line = f"HSM_ALERT [{alert.severity.value.upper()}] pkcs11:main: {alert.message} "
    assert raised.getMessage().startswith(line)
    assert "detail='so it is'" in raised.getMessage()
    assert alert.id in raised.getMessage()
    assert ended.getMessage().startswith(f"HSM_ALERT [RESOLVED] pkcs11:main: {alert.message} ")


# ---- one post ----


async def test_a_server_in_trouble_is_tried_again_until_it_takes_it(web: Receiver) -> None:
    stage = Stage(web.url)
    web.statuses = [500, 503, 429, 200]
    async with stage.poster.connected(), anyio.create_task_group() as tasks:
        tasks.start_soon(stage.poster.post, b"7")
        await stage.until(lambda: len(web.bodies) == 4, moving=1.0)

    assert web.bodies == [7, 7, 7, 7]


@pytest.mark.parametrize("status", [400, 401, 404, 301])
async def test_a_refusal_is_not_repeated(web: Receiver, status: int) -> None:
    stage = Stage(web.url)
    web.statuses = [status]
    async with stage.poster.connected():
        with pytest.raises(Undelivered, match=f"refused with status {status}"):
            await stage.poster.post(b"7")

    assert web.bodies == [7]


async def test_after_so_many_tries_it_is_given_up_and_the_address_stays_a_secret() -> None:
    stage = Stage(NOBODY + "secret-token", attempts=3)
    caught: list[Undelivered] = []

    async def post() -> None:
        try:
            await stage.poster.post(b"7")
        except Undelivered as error:
            caught.append(error)

    async with stage.poster.connected(), anyio.create_task_group() as tasks:
        tasks.start_soon(post)
        await stage.until(lambda: caught, moving=1.0)

    assert str(caught[0]) == "not reached: ConnectError"


async def test_a_server_that_does_not_answer_is_given_up_after_the_timeout(web: Receiver) -> None:
    stage = Stage(web.url, attempts=1)
    web.silent.set()
    async with stage.poster.connected(), anyio.create_task_group() as tasks:

        async def post() -> None:
            with pytest.raises(Undelivered, match="no answer within 5 s"):
                await stage.poster.post(b"7")
            tasks.cancel_scope.cancel()

        tasks.start_soon(post)
        await stage.until(stage.clock.timers)
        stage.clock.advance(5.0)
        await anyio.sleep_forever()


async def test_the_http_client_logs_no_address(web: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage(web.url)
    async with stage.poster.connected():
        await stage.poster.post(b"7")

    assert "open-sesame" not in caplog.text


# ---- webhook ----


def test_what_is_posted_can_be_read_by_people_and_programs() -> None:
    alert = sample_alert(detail="wrong PIN", details={"hosts": 0})

    body = json.loads(webhook_body(alert, "signer-1"))

    assert (body["status"], body["instance"]) == ("firing", "signer-1")
    assert body["alert"] == {
        "id": "0123456789abcdef",
        "severity": "critical",
        "component": "pkcs11:main",
        "cause": "latched",
        "message": "Slot latched",
        "detail": "wrong PIN",
        "details": {"hosts": 0},
        "raised_at": "2025-06-07T08:09:10Z",
        "last_seen": "2025-06-07T08:09:10Z",
        "count": 1,
        "reopened": 0,
        "resolved_at": None,
        "resolved_by": None,
    }
    assert json.loads(webhook_body(resolved(alert), "s"))["status"] == "resolved"


async def test_each_alert_is_posted_when_it_is_raised_and_when_it_is_resolved(web: Receiver) -> None:
    stage, alert = Stage(web.url), sample_alert()
    sink = stage.webhook()
    async with stage.running(sink):
        sink.offer(alert)
        await stage.until(lambda: len(web.bodies) == 1)
        sink.offer(resolved(alert))
        await stage.until(lambda: len(web.bodies) == 2)

    assert [body["status"] for body in web.bodies] == ["firing", "resolved"]
    assert stage.trouble[0] is None


async def test_while_it_is_away_only_the_latest_of_each_alert_waits(web: Receiver) -> None:
    stage, one, two = Stage(web.url), sample_alert(), sample_alert(id="f" * 16)
    sink = stage.webhook()
    for alert in (one, two, resolved(one), one, resolved(one)):
        sink.offer(alert)
    async with stage.running(sink):
        await stage.until(lambda: len(web.bodies) == 2)

    assert [(body["alert"]["id"][0], body["status"]) for body in web.bodies] == [("f", "firing"), ("0", "resolved")]


def test_however_many_alerts_wait_memory_is_bounded_and_the_oldest_is_given_up() -> None:
    sink = Stage(NOBODY).webhook()
    for number in range(MOST_WAITING + 7):
        sink.offer(sample_alert(id=f"{number:016x}"))

    assert len(sink._waiting) == MOST_WAITING
    assert sink.dropped == 7
    assert next(iter(sink._waiting)) == f"{7:016x}"


async def test_what_could_not_be_delivered_is_told_and_the_next_one_is_tried(web: Receiver) -> None:
    stage = Stage(web.url)
    web.statuses = [404]
    sink = stage.webhook()
    sink.offer(sample_alert())
    sink.offer(sample_alert(id="f" * 16))
    async with stage.running(sink):
        await stage.until(lambda: len(stage.trouble) == 2)

    assert stage.trouble == ["refused with status 404", None]


async def test_a_sink_that_is_ended_in_a_delivery_goes_on_with_it_when_it_runs_again(web: Receiver) -> None:
    stage = Stage(web.url)
    sink = stage.webhook()
    sink.offer(sample_alert())
    web.silent.set()
    async with stage.running(sink):
        await stage.until(lambda: not sink._waiting)
    assert sink._waiting
    web.silent.clear()
    web.wake.set()
    async with stage.running(sink):
        await stage.until(lambda: not sink._waiting and stage.trouble)

    assert web.bodies[-1]["alert"]["id"] == "0123456789abcdef"


# ---- Alertmanager ----


def test_labels_are_the_identity_of_an_alert_and_do_not_change_while_it_lives() -> None:
    alert = sample_alert(detail="wrong PIN")
    later = resolved(evolve(alert, detail="still", count=9, last_seen=A_MOMENT + timedelta(hours=1)))

    first = postable(alert, "signer-1", now=A_MOMENT, kept_for=240.0)
    last = postable(later, "signer-1", now=A_MOMENT + timedelta(hours=1), kept_for=240.0)

    assert first["labels"] == last["labels"]
    assert first["labels"] == {
        "alertname": "ManaHSMLatched",
        "component": "pkcs11:main",
        "severity": "critical",
        "instance": "signer-1",
    }
    assert first["annotations"] == {"summary": "Slot latched", "description": "wrong PIN", "id": alert.id}
    assert (first["startsAt"], first["endsAt"]) == ("2025-06-07T08:09:10+00:00", "2025-06-07T08:13:10+00:00")
    assert last["endsAt"] == "2025-06-07T08:10:10+00:00"


async def test_what_is_open_is_sent_again_and_what_is_resolved_until_it_was_taken(web: Receiver) -> None:
    stage, alert = Stage(web.url), sample_alert()
    sink = stage.alertmanager()
    sink.offer(alert)
    async with stage.running(sink):
        await stage.until(lambda: stage.trouble == [None] and stage.clock.timers() == [1060.0])
        stage.clock.advance(60.0)
        await stage.until(lambda: stage.trouble == [None, None] and stage.clock.timers() == [1120.0])
        web.statuses = [400, 200]
        sink.offer(resolved(alert))
        await stage.until(lambda: len(stage.trouble) == 3 and stage.clock.timers() == [1120.0])
        stage.clock.advance(60.0)
        await stage.until(lambda: len(stage.trouble) == 4)
        assert sink._known == {}

    ends = [body[0]["endsAt"] for body in web.bodies]
    assert ends == [
        "2025-06-07T08:13:10+00:00",
        "2025-06-07T08:14:10+00:00",
        "2025-06-07T08:10:10+00:00",
        "2025-06-07T08:10:10+00:00",
    ]
    assert stage.trouble == [None, None, "refused with status 400", None]


async def test_after_a_restart_it_goes_on_with_what_was_open(web: Receiver) -> None:
    stage = Stage(web.url)
    sink = stage.alertmanager()
    sink.restore([sample_alert()])
    async with stage.running(sink):
        await stage.until(lambda: web.bodies)

    assert web.bodies[0][0]["labels"]["alertname"] == "ManaHSMLatched"
