"""The tables of the HTTP interface: where it listens, who may ask, and what for.

What must hold between them (no listener beyond loopback without TLS and callers, ...) is in
:mod:`manahsm.config.api_rules`.
"""

# ruff: noqa: RUF009 - option() returns attrs.field(), which makes no shared value

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from attrs import frozen

from manahsm.config.kinds import Choice, Choices, FilePath, Flag, Integer, Milliseconds, Table, Tables, Text, Texts
from manahsm.config.options import option
from manahsm.config.secret import Secret
from manahsm.config.urls import SecretUrl
from manahsm.requests import Role

__all__ = ["Api", "CallerOptions", "Dialect", "Listener", "Tls"]

_HOUR = 3_600_000


class Dialect(StrEnum):
    """Which signer's methods are served, and whose error codes are used."""

    WEB3SIGNER = "web3signer"
    CLEF = "clef"
    OP_SIGNER = "op_signer"


@frozen(kw_only=True)
class Tls:
    """The certificate of the interface, and who may present one of their own."""

    certificate: Path | None = option(FilePath(), None, "PEM file with its certificate, and those up to a root.")
    key: Path | None = option(FilePath(), None, "PEM file with the private key of it, closed to others.")
    client_ca: Path | None = option(
        FilePath(), None, "PEM file of the authorities whose client certificates are taken.", default_text="none are"
    )


@frozen(kw_only=True)
class Listener:
    """One place to listen: a TCP port or a Unix socket."""

    host: str = option(Text(255), "127.0.0.1", "Address to listen on.")
    port: int | None = option(Integer(0, 65535), None, "Port to listen on; 0 lets the system choose one.")
    socket: Path | None = option(FilePath(), None, "Unix socket to listen on, in place of a port.")
    dialects: tuple[Dialect, ...] = option(
        Choices(Dialect), tuple(Dialect), "Whose methods are served here. With one alone, its error codes are used."
    )


@frozen(kw_only=True)
class CallerOptions:
    """Somebody who may ask: how they are known, and what they may do."""

    name: str | None = option(
        Text(255), None, "How the caller is called in the audit log.", default_text="none: required"
    )
    certificate: str | None = option(
        Text(255), None, "First DNS name in the certificate that the caller presents (subjectAltName)."
    )
    token_sha256: str | None = option(
        Text(64), None, "SHA-256, in hex, of the bearer token that the caller sends. The token itself is kept nowhere."
    )
    uid: int | None = option(Integer(0, 2**32 - 2), None, "User id of the caller's process, at the Unix socket.")
    anonymous: bool = option(
        Flag(), default=False, doc="Whoever is not known otherwise, on loopback and the Unix socket, is this caller."
    )
    keys: tuple[str, ...] = option(
        Texts(255, 10_000), (), "Keys (ids, labels or addresses) that the caller may use.", default_text="all"
    )
    roles: tuple[Role, ...] = option(Choices(Role), (), "Roles of keys that the caller may use.", default_text="all")
    methods: tuple[str, ...] = option(
        Texts(255, 1000), (), "Methods that the caller may call; `*` stands for any characters.", default_text="all"
    )
    blind_signing: bool = option(
        Flag(), default=False, doc="Whether the caller may have digests signed whose meaning nobody can see."
    )
    admin: bool = option(
        Flag(), default=False, doc="Whether the caller may manage keys (all of them), breakers and alerts."
    )
    dialect: Dialect | None = option(
        Choice(Dialect),
        None,
        "Whose error codes the caller gets. `op_signer` asks for a client certificate over TLS 1.3.",
        default_text="that of the listener, else `web3signer`",
    )


@frozen(kw_only=True)
class Api:
    """The HTTP interface."""

    host: str = option(Text(255), "127.0.0.1", "Address to listen on.")
    port: int = option(Integer(0, 65535), 9000, "Port to listen on; 0 lets the system choose one.")
    socket: Path | None = option(FilePath(), None, "Unix socket to listen on as well.")
    listeners: tuple[Listener, ...] = option(
        Tables(Listener), (), "Places to listen, in place of the three options above."
    )
    tls: Tls = option(Table(Tls), Tls(), "Encryption of every TCP listener.")
    callers: tuple[CallerOptions, ...] = option(
        Tables(CallerOptions),
        (),
        "Who may ask.",
        default_text="anybody on loopback, for signatures; nobody else, and nobody for more",
    )
    allowed_hosts: tuple[str, ...] = option(
        Texts(255, 1000),
        (),
        "Names that requests may give in their Host header, beside the addresses that are listened on.",
        default_text="those and loopback names only",
    )
    cors_origins: tuple[str, ...] = option(
        Texts(2048, 100), (), "Origins of web pages that may ask.", default_text="none"
    )
    downstream: Secret | None = option(
        SecretUrl(),
        None,
        "Ethereum node that gets what is not signed here, and signed transactions. Kept secret: such addresses often "
        "hold keys.",
        default_text="none: only signing",
    )
    downstream_timeout: float = option(
        Milliseconds(10, _HOUR),
        10.0,
        "How long the node may take to answer; to begin and for each part, where its answer is passed on as it comes.",
    )
    downstream_stream_timeout: float = option(
        Milliseconds(10, _HOUR), 120.0, "How long an answer that is passed on as it comes may take, once it has begun."
    )
    max_body: int = option(Integer(1024, 2**30), 2**20, "Bytes of the largest request body.")
    max_batch: int = option(Integer(1, 100_000), 100, "Calls in the largest batch.")
    max_requests: int = option(
        Integer(1, 100_000),
        1024,
        "Requests at once, those included whose answer still comes from the node; more are answered with 503.",
    )
    max_connections: int = option(Integer(1, 100_000), 2048, "Connections at once; more are closed.")
    idle_timeout: float = option(Milliseconds(1000, _HOUR), 30.0, "How long a connection may wait for a request.")
