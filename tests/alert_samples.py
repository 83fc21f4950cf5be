"""Alerts and what leads to them, for tests, and a web server that takes them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from manahsm.monitoring.alert_rules import Alert
from manahsm.monitoring.causes import CAUSES, Cause
from manahsm.monitoring.sinks import Sink
from manahsm.monitoring.values import NO_DETAILS, ComponentHealth, Detail, Finding, Observation, Trend
from supervisors.testing import ManualClock

__all__ = ["A_MOMENT", "Receiver", "RecordingSink", "health_of", "receiver", "sample_alert", "wall_of"]

A_MOMENT = datetime(2025, 6, 7, 8, 9, 10, tzinfo=UTC)


def wall_of(clock: ManualClock) -> Any:
    """A time of day that goes with a manual clock."""
    began = clock.now()
    return lambda: A_MOMENT + timedelta(seconds=clock.now() - began)


def sample_alert(cause: str | Cause = "latched", **changes: Any) -> Alert:
    cause = CAUSES[cause] if isinstance(cause, str) else cause
    fields: dict[str, Any] = {
        "id": "0123456789abcdef",
        "severity": cause.severity,
        "component": "pkcs11:main",
        "cause": cause.name,
        "message": cause.message,
        "raised_at": A_MOMENT,
        "last_seen": A_MOMENT,
    }
    return Alert(**{**fields, **changes})


def health_of(component: str, *found: Cause, details: Mapping[str, Detail] = NO_DETAILS) -> ComponentHealth:
    """What a check reports that found these causes."""
    seen = Observation(tuple(Finding(cause, f"seen at {component}") for cause in found), details)
    return ComponentHealth(
        name=component,
        status=seen.status,
        message=seen.message,
        findings=seen.findings,
        details=seen.details,
        checked_at=A_MOMENT,
        duration=0.0,
        since=A_MOMENT,
        trend=Trend.STEADY,
        history=(),
    )


class RecordingSink(Sink):
    """Remembers what it was offered."""

    name = "recording"

    def __init__(self) -> None:
        self.offered: list[Alert] = []
        self.restored: list[Alert] = []

    def restore(self, alerts: Iterable[Alert]) -> None:
        self.restored.extend(alerts)

    def offer(self, alert: Alert) -> None:
        self.offered.append(alert)

    @property
    def news(self) -> list[tuple[str, str]]:
        return [(alert.cause, "open" if alert.is_open else "resolved") for alert in self.offered]


class Receiver:
    """A real web server: keeps what it gets, and answers with ``statuses`` in turn, then with 200."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/alerts?token=open-sesame"
        self.statuses: list[int] = []
        self.bodies: list[Any] = []
        self.silent = threading.Event()
        self.wake = threading.Event()


@contextmanager
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:  # the client has gone
                return
            if found.silent.is_set():
                found.wake.wait()
            found.bodies.append(json.loads(body))
            self.send_response(found.statuses.pop(0) if found.statuses else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Receiver(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield found
        finally:
            found.wake.set()
            server.shutdown()
            thread.join()
