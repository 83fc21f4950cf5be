"""Who asks, and what they may do: from what a connection and a request say of themselves to an :class:`Access`.

Pure. The one thing to know: whatever is presented must be good. A wrong token is not made up for by a good certificate,
and two credentials must be those of one caller.
"""

from __future__ import annotations

import hashlib
import hmac
from http import HTTPStatus

from attrs import frozen

from manahsm.access import Access
from manahsm.api.peers import Peer
from manahsm.config.api_tables import Api, CallerOptions, Dialect

__all__ = ["ANYBODY", "Callers", "Known", "Refused"]

ANYBODY = CallerOptions(name="anonymous", anonymous=True)
"""Who asks where the configuration names nobody: on this machine, for signatures with every key, for nothing more."""

_BEARER = "bearer"
_TLS_FOR_OP_SIGNER = "TLSv1.3"


@frozen
class Known:
    """A caller who was recognised."""

    access: Access
    dialect: Dialect


class Refused(Exception):  # noqa: N818
    """Nobody whom the configuration names.

    Args:
        status: of HTTP: 401 where nothing was presented that could tell who asks, 403 where it was.
        message: for the caller.
    """

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Callers:
    """Everybody whom the configuration names."""

    def __init__(self, api: Api) -> None:
        callers = api.callers or (ANYBODY,)
        self._by_certificate = {caller.certificate.lower(): caller for caller in callers if caller.certificate}
        self._by_token = [(caller.token_sha256, caller) for caller in callers if caller.token_sha256]
        self._by_uid = {caller.uid: caller for caller in callers if caller.uid is not None}
        self._anonymous = next((caller for caller in callers if caller.anonymous), None)
        self._access = {id(caller): _access_of(caller) for caller in callers}

    def recognise(self, peer: Peer, authorization: str | None) -> Known:
        """Tell who asks.

        Args:
            peer: the other end of the connection.
            authorization: the ``Authorization`` header.

        Raises:
            Refused: nobody who may.
        """
        by_uid = None if peer.uid is None else self._by_uid.get(peer.uid)
        found = (self._from_certificate(peer), self._from_token(authorization), by_uid)
        presented = [caller for caller in found if caller is not None]
        if any(caller is not presented[0] for caller in presented):
            raise Refused(HTTPStatus.FORBIDDEN, "the credentials presented are those of different callers")
        caller = presented[0] if presented else self._anonymous if peer.local else None
        if caller is None:
            raise Refused(HTTPStatus.UNAUTHORIZED, "present a client certificate or a bearer token")
        dialect = _dialect(caller, peer)
        if caller.dialect is Dialect.OP_SIGNER and (peer.certificate is None or peer.tls != _TLS_FOR_OP_SIGNER):
            raise Refused(HTTPStatus.FORBIDDEN, "this caller must present its certificate over TLS 1.3")
        return Known(self._access[id(caller)], dialect)

    def _from_certificate(self, peer: Peer) -> CallerOptions | None:
        if peer.certificate is None:
            return None
        caller = self._by_certificate.get(peer.certificate)
        if caller is None:
            raise Refused(HTTPStatus.FORBIDDEN, "no caller is known by this certificate's first DNS name")
        return caller

    def _from_token(self, authorization: str | None) -> CallerOptions | None:
        if authorization is None:
            return None
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != _BEARER:
            raise Refused(HTTPStatus.UNAUTHORIZED, "only bearer tokens are taken")
        digest = hashlib.sha256(token.strip().encode()).hexdigest()
        found = [caller for known, caller in self._by_token if hmac.compare_digest(known, digest)]
        if not found:
            raise Refused(HTTPStatus.UNAUTHORIZED, "this bearer token is not known")
        return found[0]


def _dialect(caller: CallerOptions, peer: Peer) -> Dialect:
    if caller.dialect is not None:
        return caller.dialect
    served = peer.listener.dialects
    return served[0] if len(served) == 1 else Dialect.WEB3SIGNER


def _access_of(caller: CallerOptions) -> Access:
    assert caller.name is not None  # noqa: S101 - the rules of the configuration
    return Access(
        caller=caller.name,
        keys=frozenset(key.lower() if key.startswith(("0x", "0X")) else key for key in caller.keys),
        roles=frozenset(caller.roles),
        methods=frozenset(caller.methods),
        blind_signing=caller.blind_signing,
        admin=caller.admin,
    )
