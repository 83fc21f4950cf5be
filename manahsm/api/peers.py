"""Who is at the other end of a connection, as the operating system and TLS know it.

The one thing to know: ASGI servers hand no client certificate on, so :mod:`manahsm.api.connection` puts a :class:`Peer`
into the scope of each request under :data:`PEER`.
"""

from __future__ import annotations

import socket
import struct
from asyncio import BaseTransport

from attrs import field, frozen

from manahsm.config.addresses import is_loopback
from manahsm.config.api_tables import Listener

__all__ = ["PEER", "Peer", "peer_of"]

PEER = "manahsm.peer"
_UCRED = struct.Struct("3i")  # pid, uid, gid: SO_PEERCRED in unix(7)


@frozen(kw_only=True)
class Peer:
    """The other end.

    Attributes:
        listener: where it came in.
        certificate: first DNS name of its certificate, empty where that has none, ``None`` where it presented none.
        tls: version of TLS, as OpenSSL names it, or ``None``.
        uid: user id of the process at the Unix socket.
    """

    listener: Listener
    certificate: str | None = None
    tls: str | None = None
    uid: int | None = None

    local: bool = field(init=False, repr=False)
    """Whether only this machine reaches the listener."""

    @local.default
    def _is_local(self) -> bool:
        return self.listener.socket is not None or is_loopback(self.listener.host)


def peer_of(transport: BaseTransport, listener: Listener) -> Peer:
    """Look at a connection that was just made."""
    if listener.socket is not None:
        raw = transport.get_extra_info("socket")
        _, uid, _ = _UCRED.unpack(raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return Peer(listener=listener, uid=uid)
    secured = transport.get_extra_info("ssl_object")
    if secured is None:
        return Peer(listener=listener)
    # Empty where none was presented. One that was, but that no authority of ours has signed, ends the handshake.
    presented = secured.getpeercert()
    return Peer(listener=listener, certificate=_first_dns_name(presented) if presented else None, tls=secured.version())


def _first_dns_name(certificate: dict[str, object]) -> str:
    names = certificate.get("subjectAltName", ())
    assert isinstance(names, tuple)  # noqa: S101 - as the ssl module documents it
    return next((value.lower() for kind, value in names if kind == "DNS"), "")
