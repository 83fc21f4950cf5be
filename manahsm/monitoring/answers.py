"""What the metrics endpoint answers: pages by path, and who may ask. Pure, apart from the pages' own callables.

The one thing to know: on a loopback address only requests that name a loopback host are answered. A browser that a
hostile page has led here by a name of its own (DNS rebinding) names that page's host, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus

import msgspec
from attrs import frozen

from manahsm.config.addresses import host_of, is_loopback
from manahsm.monitoring.exposition import CONTENT_TYPE

__all__ = ["Answer", "Page", "Pages", "answer_to", "pages_of"]

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_METHODS = ("GET", "HEAD")


@frozen
class Answer:
    """One answer.

    Attributes:
        status: of HTTP.
        body: without its length; left out where the method is HEAD.
        content_type: of the body.
        headers: what else to say.
    """

    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def text(cls, status: HTTPStatus, message: str, *headers: tuple[str, str]) -> Answer:
        """A line for people."""
        return cls(status, f"{message}\n".encode(), headers=headers)

    @classmethod
    def json(cls, status: HTTPStatus, document: object) -> Answer:
        """A document: what msgspec encodes, attrs classes, enums and times included."""
        return cls(status, msgspec.json.encode(document) + b"\n", _JSON)


Page = Callable[[], Answer]
Pages = Mapping[str, Page]


def pages_of(
    metrics: Callable[[], str],
    why_not_ready: Callable[[], str | None],
    health: Callable[[], tuple[bool, object]],
) -> Pages:
    """The pages by path.

    Args:
        metrics: everything in the text format.
        why_not_ready: why the service can not sign now, or ``None`` if it can.
        health: whether the service is no worse than degraded, and a document about it.
    """

    def show_metrics() -> Answer:
        return Answer(HTTPStatus.OK, metrics().encode(), CONTENT_TYPE)

    def live() -> Answer:
        return Answer.json(HTTPStatus.OK, {"status": "alive"})

    def ready() -> Answer:
        reason = why_not_ready()
        if reason is None:
            return Answer.json(HTTPStatus.OK, {"status": "ready"})
        return Answer.json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "not_ready", "reason": reason})

    def healthy() -> Answer:
        good, document = health()
        return Answer.json(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, document)

    return {"/metrics": show_metrics, "/livez": live, "/readyz": ready, "/healthz": healthy}


def answer_to(method: str, target: str, host: str | None, pages: Pages, *, loopback_only: bool) -> Answer:
    """Return the answer to one request.

    Args:
        method: of HTTP.
        target: the request target; what follows ``?`` says nothing here.
        host: the ``Host`` header, or ``None`` in HTTP/1.0 without one.
        pages: by path.
        loopback_only: refuse requests that name another host than a loopback one.
    """
    if loopback_only and host is not None and not is_loopback(host_of(host)):
        return Answer.text(HTTPStatus.MISDIRECTED_REQUEST, "ask for this page by 127.0.0.1, [::1] or localhost")
    page = pages.get(target.partition("?")[0])
    if page is None:
        return Answer.text(HTTPStatus.NOT_FOUND, "there is no such page; there are: " + " ".join(pages))
    if method not in _METHODS:
        allowed = ", ".join(_METHODS)
        return Answer.text(HTTPStatus.METHOD_NOT_ALLOWED, f"only {allowed} are allowed", ("Allow", allowed))
    return page()
