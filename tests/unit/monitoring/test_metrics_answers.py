"""Who is answered what: paths, methods, hosts."""

from __future__ import annotations

import json
from http import HTTPStatus

import pytest

from manahsm.config.addresses import host_of
from manahsm.monitoring.answers import Answer, answer_to, pages_of

PAGES = pages_of(lambda: "a 1\n", lambda: None, lambda: (True, {"status": "healthy"}))
NOT_READY = pages_of(lambda: "", lambda: "no slot", lambda: (False, {"status": "unhealthy"}))


def ask(target: str, method: str = "GET", host: str | None = "127.0.0.1:9464", *, loopback_only: bool = True) -> Answer:
    return answer_to(method, target, host, PAGES, loopback_only=loopback_only)


def test_metrics_are_text_of_the_version_that_prometheus_reads() -> None:
    answer = ask("/metrics")

    assert (answer.status, answer.body) == (HTTPStatus.OK, b"a 1\n")
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/healthz", "/healthz?verbose=1"])
def test_probes_are_json(target: str) -> None:
    answer = ask(target)

    assert (answer.status, answer.content_type) == (HTTPStatus.OK, "application/json")
    assert set(json.loads(answer.body)) == {"status"}


def test_a_service_that_can_not_sign_says_why() -> None:
    answer = NOT_READY["/readyz"]()

    assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert json.loads(answer.body) == {"status": "not_ready", "reason": "no slot"}
    assert NOT_READY["/healthz"]().status == HTTPStatus.SERVICE_UNAVAILABLE
    assert NOT_READY["/livez"]().status == HTTPStatus.OK


@pytest.mark.parametrize("target", ["/", "", "*", "/metrics/", "/METRICS", "//metrics", "/livez/../metrics"])
def test_there_are_no_other_pages(target: str) -> None:
    assert ask(target).status == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
def test_nothing_can_be_changed(method: str) -> None:
    answer = ask("/metrics", method)

    assert answer.status == HTTPStatus.METHOD_NOT_ALLOWED
    assert answer.headers == (("Allow", "GET, HEAD"),)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9464", "localhost:1", "LOCALHOST", "[::1]", "[::1]:9464", "127.9.9.9", None]
)
def test_a_loopback_host_is_answered(host: str | None) -> None:
    assert ask("/metrics", host=host).status == HTTPStatus.OK


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9464",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.0.2.7",
        "[2001:db8::1]:80",
        "2001:db8::1",
        "",
        ":80",
        "[",
        "0.0.0.0",  # noqa: S104 - browsers take it for this machine
    ],
)
def test_a_page_led_here_by_another_name_learns_nothing(host: str) -> None:
    for target in ("/metrics", "/livez", "/nothing"):
        assert ask(target, host=host).status == HTTPStatus.MISDIRECTED_REQUEST


def test_any_host_is_answered_where_other_machines_may_ask() -> None:
    assert ask("/metrics", host="node7.example", loopback_only=False).status == HTTPStatus.OK


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("a.example:80", "a.example"),
        ("A.Example", "a.example"),
        ("[::1]:80", "::1"),
        ("::1", "::1"),
        (" localhost ", "localhost"),
    ],
)
def test_a_host_is_read_without_its_port(header: str, host: str) -> None:
    assert host_of(header) == host
