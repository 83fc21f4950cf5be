"""Any HTTP at all, over real sockets: never a fault of ours, never a traceback, never a secret.

What JSON-RPC methods do with anything is in :mod:`test_api_methods`; here it is paths, methods of HTTP, headers and
bodies, and bytes that are no HTTP.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from attrs import frozen
from coincurve import PrivateKey
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from served import Served, rpc, serving
from services import A_PRIVATE_KEY, PASSPHRASE, software_config

TOKENS = {"root": "token-of-root-0451", "alice": "token-of-alice-0451"}
SECRETS = [secret.encode() for secret in (A_PRIVATE_KEY.hex(), PASSPHRASE, *TOKENS.values())]
PUBLIC_KEY = PrivateKey(A_PRIVATE_KEY).public_key.format(compressed=False)[1:].hex()
SIGN = f"/api/v1/eth1/sign/0x{PUBLIC_KEY}"
PATHS = ["/", "/upcheck", "/healthcheck", "/reload", "/api/v1/eth1/publicKeys", "/api/v1/eth1/sign/", SIGN]
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
FAULTS = {status for status in range(500, 600) if status != 503}
FUZZED = partial(settings, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@frozen
class Fuzzed:
    """A running service, and what it has logged of faults."""

    served: Served
    faults: list[str]

    def send(self, sent: bytes) -> bytes:
        """Send bytes; returns all that came until the other end closed, which tells of no fault and no secret."""
        address = self.served.server.doors[0].socket.getsockname()[:2]
        came = b""
        with socket.create_connection(address, timeout=20) as connection:
            try:
                connection.sendall(sent)
                while part := connection.recv(65536):
                    came += part
            except ConnectionError:
                pass  # closed before all was sent
        faults = list(self.faults)
        self.faults.clear()
        assert not {int(status) for status in STATUS.findall(came)} & FAULTS
        assert not [secret for secret in (b"Traceback", b'File "', *SECRETS) if secret in came]
        assert faults == []
        return came


class _Faults(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


@contextmanager
def fuzzed(directory: Path) -> Iterator[Fuzzed]:
    policy = {"key_generation_policy": {"default_backend": "software"}, "audit_all_operations": False}
    config = software_config(directory, security_policy=policy, audit={"enabled": False})
    hashes = {name: hashlib.sha256(token.encode()).hexdigest() for name, token in TOKENS.items()}
    callers: list[dict[str, Any]] = [
        {"name": "root", "token_sha256": hashes["root"], "admin": True, "blind_signing": True},
        {"name": "alice", "token_sha256": hashes["alice"]},
        {"name": "anybody", "anonymous": True, "methods": ["eth_*"]},
    ]
    running = serving(
        config, callers=callers, idle_timeout=1000, max_body=1024, cors_origins=["https://wallet.example"]
    )
    handler = _Faults()
    logging.getLogger().addHandler(handler)
    try:
        with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(running) as served:
            portal.call(served.service.import_key, A_PRIVATE_KEY, "hot", "transaction_signer", "software")
            yield Fuzzed(served, handler.seen)
    finally:
        logging.getLogger().removeHandler(handler)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    with fuzzed(tmp_path_factory.mktemp("fuzzed")) as running:
        yield running


# ---- requests that are HTTP ----

LINE = st.binary(max_size=40).map(lambda data: re.sub(rb"[\r\n\0]", b"", data))
ODD = st.sampled_from([b"%", b"%00", b"%2e%2e/", b"//", b"?", b"?x=%ff", b";a=b", b"#", b"\xc3\xa9", b" "])
METHODS = st.sampled_from(
    [
        *[b"GET", b"POST"] * 5,
        b"HEAD",
        b"PUT",
        b"DELETE",
        b"OPTIONS",
        b"TRACE",
        b"CONNECT",
        b"get",
        b"PRI",
        b"",
        b"G\xc3\x89T",
    ]
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.binary(max_size=9).map(lambda b: "0x" + b.hex()),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.just("data") | st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)
BODIES = (
    ANYTHING.map(lambda document: json.dumps(document).encode())
    | ANYTHING.map(lambda value: json.dumps({"data": value}).encode())
    | st.sampled_from(SECRETS).map(lambda secret: b'{"data":"0x' + secret + b'"}')
    | st.sampled_from([b"", b"[" * 900, b"a" * 1100])
    | st.binary(max_size=60)
)
WORDS = (
    "host authorization origin content-type x-request-id expect cookie range upgrade x-forwarded-for accept-encoding"
)
NAMES = [name.encode() for name in (*WORDS.split(), "access-control-request-method")]
HEADERS = st.dictionaries(
    st.sampled_from(NAMES),
    LINE
    | st.sampled_from(
        [b"localhost", b"[::1]:9", b"application/json", b"https://wallet.example", b"100-continue", b"h2c"]
    )
    | st.sampled_from(list(TOKENS.values())).map(lambda token: b"Bearer " + token.encode()),
    max_size=5,
)


@st.composite
def targets(draw: st.DrawFn) -> bytes:
    """Paths that are served, spoilt or not, and others."""
    path = draw(st.sampled_from(PATHS)).encode()
    form = draw(st.sampled_from(["as it is", "as it is", "odd", "cut", "absolute", "else"]))
    match form:
        case "odd":
            at = draw(st.integers(0, len(path)))
            return bytes(path[:at] + draw(ODD) + path[at:])
        case "cut":
            return bytes(path[: draw(st.integers(0, len(path)))])
        case "absolute":
            return b"http://localhost" + path
        case "else":
            return draw(st.sampled_from([b"*", b"", b"/metrics", b"/api/v1/eth2/sign/0x00"]) | LINE)
        case _:
            return path


AUTHORISED: list[dict[bytes, bytes]] = [{b"authorization": f"Bearer {token}".encode()} for token in TOKENS.values()]
PROPER = [
    *[(b"POST", SIGN.encode(), b'{"data":"0x68656c6c6f"}')] * 4,
    (b"POST", b"/", json.dumps(rpc("eth_accounts")).encode()),
    (b"POST", b"/reload", b""),
    *((b"GET", path.encode(), b"") for path in PATHS[1:5]),
]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, framed as it should be: right, or with some of its parts anything at all."""
    method, target, body = draw(st.sampled_from(PROPER))
    headers: dict[bytes, bytes] = {b"host": b"localhost", b"content-type": b"application/json"}
    spoilt = draw(st.sets(st.sampled_from(["method", "target", "headers", "body"]), max_size=2))
    method = draw(METHODS) if "method" in spoilt else method
    target = draw(targets()) if "target" in spoilt else target
    headers |= draw(HEADERS if "headers" in spoilt else st.sampled_from(AUTHORISED))
    body = draw(BODIES) if "body" in spoilt else body
    head = b"".join(b"%b: %b\r\n" % pair for pair in headers.items())
    line = b"%b %b HTTP/1.1\r\n" % (method, target)
    return line + head + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body


def post(path: str, body: bytes, *headers: bytes) -> bytes:
    """A request that is right."""
    lines = [b"POST %b HTTP/1.1" % path.encode(), b"host: localhost", b"content-type: application/json", *headers]
    return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"connection: close", b"", body])


AS_ROOT = b"authorization: Bearer " + TOKENS["root"].encode()


def test_what_is_right_is_done(service: Fuzzed) -> None:
    """So that what follows is not all turned away at the door."""
    came = service.send(post(SIGN, b'{"data":"0x68656c6c6f"}', AS_ROOT))
    assert came.startswith(b"HTTP/1.1 200 ")
    assert re.fullmatch(rb"0x[0-9a-f]{130}", came.partition(b"\r\n\r\n")[2])


@FUZZED(max_examples=200)
@given(sent=requests())
@example(sent=post("/reload", b"", AS_ROOT))
@example(sent=post(SIGN, b'{"data":"0x' + SECRETS[0] + b'"}'))
def test_any_request_is_answered(service: Fuzzed, sent: bytes) -> None:
    assert STATUS.match(service.send(sent))


# ---- bytes ----

RIGHT = [
    post("/", json.dumps(rpc("eth_accounts")).encode()),
    post(SIGN, b'{"data":"0x68656c6c6f"}', AS_ROOT),
    b"GET /healthcheck HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2 + b"HEAD /upcheck HTTP/1.0\r\n\r\n",
    b"POST /reload HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
]


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """Requests of which a piece is missing, doubled, or something else."""
    sent = draw(st.sampled_from(RIGHT))
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(sent)))
        end = draw(st.integers(begin, min(len(sent), begin + 12)))
        instead = draw(st.sampled_from([b"", sent[begin:end] * 2, b"\r\n", b"\0", b"\xff", b"-1", b"99999999999"]))
        sent = sent[:begin] + instead + sent[end:]
    return sent


@FUZZED(max_examples=60)
@given(sent=st.binary(max_size=200).map(lambda data: data + b"\r\n\r\n") | spoilt())
def test_any_bytes_end_in_an_answer_or_a_closed_connection(service: Fuzzed, sent: bytes) -> None:
    service.send(sent)
