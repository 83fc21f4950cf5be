"""Connections of the HTTP interface, over real sockets: TLS, who is at the other end, limits, and their end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from attrs import frozen

from manahsm.api.accepting import accepting
from manahsm.api.peers import PEER, Peer
from manahsm.api.sockets import Door, open_doors
from manahsm.api.tls import Certificates
from manahsm.config.api_tables import Api, CallerOptions, Listener, Tls
from manahsm.errors import ConfigError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Uvicorn needs asyncio."""
    return "asyncio"


async def tell_peer(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what is known of the other end, once the whole request is here."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    peer: Peer = scope[PEER]
    said = {"certificate": peer.certificate, "tls": peer.tls, "uid": peer.uid, "local": peer.local, "size": size}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})


@asynccontextmanager
async def served(
    api: Api, app: Any = tell_peer, *, least: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
) -> AsyncIterator[Door]:
    certificates = Certificates(api.tls) if api.tls.certificate else None

    def context_of(door: Door) -> ssl.SSLContext | None:
        return certificates.context(least) if certificates and door.listener.socket is None else None

    with open_doors(api) as doors:
        async with accepting(api, doors, app, context_of):
            yield doors[0]


@asynccontextmanager
async def connected(door: Door, context: ssl.SSLContext | None = None) -> AsyncIterator[Any]:
    """A client's connection, as a pair of streams."""
    if door.listener.socket is not None:
        reader, writer = await asyncio.open_unix_connection(door.listener.socket)
    else:
        address = door.socket.getsockname()[:2]
        name = "signer.example" if context is not None else None
        reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname=name)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def exchange(door: Door, sent: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Send bytes and read until the other end closes."""
    async with connected(door, context) as (reader, writer):
        writer.write(sent)
        return bytes(await reader.read())


async def cut_off(door: Door, sent: bytes, context: ssl.SSLContext | None = None) -> bool:
    """Whether a connection ends, in whatever way, without an answer."""
    try:
        return b"HTTP" not in await exchange(door, sent, context)
    except (ssl.SSLError, ConnectionError):
        return True


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def said_of(answer: bytes) -> Any:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    return json.loads(body.split(b"\r\n")[1])  # one chunk


class TestPlain:
    async def test_a_peer_on_loopback_is_local_and_nobody(self) -> None:
        async with served(Api(port=0)) as door:
            said = said_of(await exchange(door, GET))

        assert said == {"certificate": None, "tls": None, "uid": None, "local": True, "size": 0}

    async def test_a_peer_at_a_unix_socket_has_its_uid(self, tmp_path: Path) -> None:
        api = Api(listeners=(Listener(socket=tmp_path / "s"),))
        async with served(api) as door:
            said = said_of(await exchange(door, GET))

        assert (said["uid"], said["local"]) == (os.getuid(), True)
        assert not (tmp_path / "s").exists()

    async def test_more_connections_than_allowed_are_closed_at_once(self) -> None:
        async with served(Api(port=0, max_connections=1)) as door, connected(door) as (reader, writer):
            writer.write(GET.replace(b"close", b"keep-alive"))
            await reader.readuntil(b"\r\n\r\n")
            assert await cut_off(door, GET)

    @pytest.mark.parametrize(
        "sent",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"POST / HTTP/1.1\r\nHost: localhost\r\n", id="half a head"),
            pytest.param(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nab", id="half a body"),
            pytest.param(GET.replace(b"close", b"keep-alive"), id="one request and no more"),
        ],
    )
    async def test_a_connection_on_which_no_request_comes_is_closed(self, sent: bytes) -> None:
        async with served(Api(port=0, idle_timeout=1.0)) as door:
            try:
                answer = await exchange(door, sent)
            except ConnectionResetError:
                answer = b""

        assert answer.count(b"HTTP/1.1 200") == sent.count(b"keep-alive")

    async def test_a_head_that_never_ends_is_cut_off(self) -> None:
        endless = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"a" * 200_000
        async with served(Api(port=0)) as door, connected(door) as (reader, writer):
            answer = b""
            with suppress(ConnectionError):
                for start in range(0, len(endless), 16_384):
                    writer.write(endless[start : start + 16_384])
                    await writer.drain()
                answer = await reader.read()

        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")

    @pytest.mark.parametrize(
        "smuggled",
        [
            b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
            b"Content-Length: 0\r\nContent-Length: 30\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
            b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
            b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
            b"Content-Length: +3\r\n\r\nabcGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    )
    async def test_two_requests_smuggled_in_one_are_none(self, smuggled: bytes) -> None:
        async with served(Api(port=0)) as door:
            answer = await exchange(door, b"POST / HTTP/1.1\r\nHost: localhost\r\n" + smuggled)

        assert answer.count(b"HTTP/1.1") == 1
        assert answer.startswith(b"HTTP/1.1 400")

    async def test_an_answer_under_way_is_sent_before_the_end(self) -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            await go_on.wait()
            await tell_peer(scope, receive, send)

        async with served(Api(port=0), slow) as door, asyncio.TaskGroup() as tasks:
            answer = tasks.create_task(exchange(door, GET))
            await begun.wait()
            asyncio.get_running_loop().call_later(0.05, go_on.set)
            await answer

        assert answer.result().startswith(b"HTTP/1.1 200")


class TestSockets:
    def test_a_port_in_use_is_an_error_that_says_so(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(ConfigError, match=f"127.0.0.1 port {port} is in use"), open_doors(Api(port=port)):
                pass

    def test_an_address_of_another_machine_is_an_error_that_says_so(self) -> None:
        with (
            pytest.raises(ConfigError, match=r"host: 192\.0\.2\.1 port 0: no address"),
            open_doors(Api(host="192.0.2.1", port=0)),
        ):
            pass

    def test_localhost_is_one_port_on_both_loopback_addresses(self) -> None:
        with open_doors(Api(host="localhost", port=0)) as doors:
            ports = {door.socket.getsockname()[1] for door in doors}

        assert len(ports) == 1

    def test_a_socket_that_nobody_listens_at_any_more_is_replaced(self, tmp_path: Path) -> None:
        file = tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(file))
        with open_doors(Api(listeners=(Listener(socket=file),))), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(file))

    def test_a_socket_in_use_is_left_alone(self, tmp_path: Path) -> None:
        api = Api(listeners=(Listener(socket=tmp_path / "s"),))
        with open_doors(api):
            with pytest.raises(ConfigError, match="is in use: another program listens there"), open_doors(api):
                pass
            assert (tmp_path / "s").exists()

    def test_a_file_in_its_place_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "s").write_text("precious")
        with (
            pytest.raises(ConfigError, match="is no socket"),
            open_doors(Api(listeners=(Listener(socket=tmp_path / "s"),))),
        ):
            pass
        assert (tmp_path / "s").read_text() == "precious"

    @pytest.mark.parametrize(("uid", "mode"), [(os.getuid(), 0o600), (os.getuid() + 1, 0o666)])
    def test_a_socket_is_open_to_others_where_one_of_them_is_a_caller(
        self, tmp_path: Path, uid: int, mode: int
    ) -> None:
        api = Api(listeners=(Listener(socket=tmp_path / "s"),), callers=(CallerOptions(name="a", uid=uid),))
        with open_doors(api):
            assert (tmp_path / "s").stat().st_mode & 0o777 == mode


@frozen
class Authority:
    """A certificate authority and its files."""

    ca: trustme.CA
    directory: Path

    def server(self, *names: str) -> Tls:
        """Write a certificate of the server; the files of the one before are replaced."""
        issued = self.ca.issue_cert(*(names or ("signer.example",)))
        certificate, key, client_ca = (self.directory / name for name in ("server.pem", "server.key", "clients.pem"))
        key.touch(mode=0o600)
        issued.private_key_pem.write_to_path(key)
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.ca.cert_pem.write_to_path(client_ca)
        return Tls(certificate=certificate, key=key, client_ca=client_ca)

    def client(self, *names: str) -> ssl.SSLContext:
        """A client that trusts this authority, with a certificate of these names, if any."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if names:
            self.ca.issue_cert(*names).configure_cert(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(trustme.CA(), tmp_path)


class TestTls:
    async def test_the_first_dns_name_of_a_client_s_certificate_is_its_name(self, authority: Authority) -> None:
        client = authority.client("Batcher.example", "other.example")
        async with served(Api(port=0, tls=authority.server())) as door:
            said = said_of(await exchange(door, GET, client))

        assert (said["certificate"], said["tls"]) == ("batcher.example", "TLSv1.3")

    async def test_a_client_without_a_certificate_has_no_name(self, authority: Authority) -> None:
        async with served(Api(port=0, tls=authority.server())) as door:
            assert said_of(await exchange(door, GET, authority.client()))["certificate"] is None

    async def test_a_certificate_without_a_dns_name_is_not_none(self, authority: Authority) -> None:
        async with served(Api(port=0, tls=authority.server())) as door:
            assert said_of(await exchange(door, GET, authority.client("10.0.0.1")))["certificate"] == ""

    async def test_a_certificate_of_another_authority_ends_the_connection(self, authority: Authority) -> None:
        client = authority.client()
        trustme.CA().issue_cert("batcher.example").configure_cert(client)
        async with served(Api(port=0, tls=authority.server())) as door:
            assert await cut_off(door, GET, client)

    async def test_a_client_that_is_too_old_is_refused(self, authority: Authority) -> None:
        client = authority.client()
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        tls = authority.server()
        async with served(Api(port=0, tls=tls), least=ssl.TLSVersion.TLSv1_3) as door:
            assert await cut_off(door, GET, client)
        async with served(Api(port=0, tls=tls), least=ssl.TLSVersion.TLSv1_2) as door:
            assert said_of(await exchange(door, GET, client))["tls"] == "TLSv1.2"

    async def test_plain_http_is_not_answered(self, authority: Authority) -> None:
        async with served(Api(port=0, tls=authority.server())) as door:
            assert await cut_off(door, GET)

    async def test_a_new_certificate_is_taken_without_a_restart(self, authority: Authority) -> None:
        api = Api(port=0, tls=authority.server())
        certificates = Certificates(api.tls)
        with open_doors(api) as doors:
            async with accepting(api, doors, tell_peer, lambda _: certificates.context(ssl.TLSVersion.TLSv1_2)):
                renewed = Authority(trustme.CA(), authority.directory)
                with pytest.raises(ssl.SSLCertVerificationError):
                    await exchange(doors[0], GET, renewed.client())
                assert not certificates.changed()
                renewed.server()
                assert certificates.changed()
                certificates.reload()
                said = said_of(await exchange(doors[0], GET, renewed.client("b.example")))
                with pytest.raises(ssl.SSLCertVerificationError):
                    await exchange(doors[0], GET, authority.client())

        assert said["certificate"] == "b.example"
        assert not certificates.changed()

    async def test_a_renewal_that_went_wrong_leaves_the_certificate_that_was(self, authority: Authority) -> None:
        api = Api(port=0, tls=authority.server())
        certificates = Certificates(api.tls)
        with open_doors(api) as doors:
            async with accepting(api, doors, tell_peer, lambda _: certificates.context(ssl.TLSVersion.TLSv1_2)):
                (authority.directory / "server.pem").write_text("half a fi")
                with pytest.raises(ConfigError, match="is no PEM file that can be used"):
                    certificates.reload()
                said_of(await exchange(doors[0], GET, authority.client()))

    @pytest.mark.parametrize(
        ("spoil", "option", "message"),
        [
            (lambda tls: tls.key.chmod(0o640), "key", "chmod 600"),
            (lambda tls: tls.key.chmod(0o604), "key", "chmod 600"),
            (lambda tls: tls.key.unlink(), "key", "No such file"),
            (lambda tls: tls.certificate.unlink(), "certificate", "No such file"),
            (lambda tls: tls.certificate.write_bytes(tls.key.read_bytes()), "certificate", "no PEM file"),
            (lambda tls: tls.client_ca.write_text(""), "client_ca", "no PEM file"),
        ],
    )
    def test_files_that_can_not_be_used_are_named_at_the_start(
        self, authority: Authority, spoil: Callable[[Tls], None], option: str, message: str
    ) -> None:
        tls = authority.server()
        spoil(tls)
        with pytest.raises(ConfigError, match=message) as caught:
            Certificates(tls)
        assert [problem.path for problem in caught.value.problems] == [f"hsm.api.tls.{option}"]

    def test_a_key_that_is_a_credential_of_systemd_may_show_the_mask_of_its_access_list(
        self, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tls = authority.server()
        assert tls.key is not None
        tls.key.chmod(0o440)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tls.key.parent))

        Certificates(tls)
