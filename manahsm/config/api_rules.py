"""What must hold between the options of the HTTP interface: nobody unknown from beyond this machine, nothing in clear.

All functions are pure; :mod:`manahsm.config.rules` calls them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

from manahsm.config.addresses import is_address, is_loopback
from manahsm.config.api_tables import Api, CallerOptions, Dialect, Listener
from manahsm.errors import ConfigProblem

__all__ = ["callers_are_known", "listeners_are_safe", "listeners_of", "origins_are_origins", "tls_is_whole"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


def listeners_of(api: Api) -> tuple[Listener, ...]:
    """Every place to listen."""
    if api.listeners:
        return api.listeners
    first = (Listener(host=api.host, port=api.port),)
    return first if api.socket is None else (*first, Listener(socket=api.socket))


def listeners_are_safe(api: Api) -> Iterator[ConfigProblem]:
    """Each listens at one place; beyond loopback only with encryption, and for callers that can be told apart."""
    for index, listener in enumerate(listeners_of(api)):
        path = f"hsm.api.listeners[{index}]" if api.listeners else "hsm.api"
        if (listener.port is None) == (listener.socket is None):
            yield ConfigProblem(f"{path}.port", "exactly one of port and socket must be set")
        if not listener.dialects:
            yield ConfigProblem(f"{path}.dialects", "is empty: name at least one")
        if listener.port is None or is_loopback(listener.host):
            continue
        if not is_address(listener.host):
            yield ConfigProblem(f"{path}.host", "must be an IP address, localhost, or 0.0.0.0 or :: for all of them")
        elif api.tls.certificate is None:
            yield ConfigProblem(
                f"{path}.host",
                f"{listener.host} can be reached from other machines: set hsm.api.tls.certificate and key, or use "
                "127.0.0.1",
            )
        elif not any(caller.certificate or caller.token_sha256 for caller in api.callers):
            yield ConfigProblem(
                f"{path}.host",
                f"{listener.host} can be reached from other machines: name hsm.api.callers with a certificate or a "
                "token_sha256, or use 127.0.0.1",
            )


def tls_is_whole(api: Api) -> Iterator[ConfigProblem]:
    """A certificate and its key come together; authorities of clients serve nothing without them."""
    tls = api.tls
    if (tls.certificate is None) != (tls.key is None):
        missing = "key" if tls.key is None else "certificate"
        yield ConfigProblem(f"hsm.api.tls.{missing}", "certificate and key are needed together")
    elif tls.client_ca is not None and tls.certificate is None:
        yield ConfigProblem("hsm.api.tls.client_ca", "has no effect without certificate and key")


def callers_are_known(api: Api) -> Iterator[ConfigProblem]:
    """Each caller has a name and a way to be known, no two the same, and no rights that way can not carry."""
    for index, caller in enumerate(api.callers):
        path = f"hsm.api.callers[{index}]"
        if caller.name is None:
            yield ConfigProblem(f"{path}.name", "is missing: it stands for the caller in the audit log")
        for option, message in _faults(api, caller):
            yield ConfigProblem(f"{path}.{option}", message)
    for option in ("name", "certificate", "token_sha256", "uid"):
        values = Counter(getattr(caller, option) for caller in api.callers)
        for value in (value for value, count in values.items() if value is not None and count > 1):
            yield ConfigProblem("hsm.api.callers", f"two callers have the same {option}" + _named(option, value))
    if sum(caller.anonymous for caller in api.callers) > 1:
        yield ConfigProblem("hsm.api.callers", "more than one caller is anonymous; keep one")


def _named(option: str, value: object) -> str:
    return "" if option == "token_sha256" else f": {value}"


def _faults(api: Api, caller: CallerOptions) -> Iterator[tuple[str, str]]:
    if not (caller.certificate or caller.token_sha256 or caller.uid is not None or caller.anonymous):
        yield "name", "has no way to be known: set certificate, token_sha256, uid or anonymous"
    if caller.token_sha256 is not None and not _SHA256.fullmatch(caller.token_sha256):
        yield (
            "token_sha256",
            "must be 64 lower-case hex digits: the SHA-256 of the token, as `manahsm token` prints it",
        )
    if caller.certificate is not None and api.tls.client_ca is None:
        yield "certificate", "needs hsm.api.tls.client_ca: the authority that signed it"
    if caller.uid is not None and all(listener.socket is None for listener in listeners_of(api)):
        yield "uid", "needs a Unix socket: set hsm.api.socket"
    if caller.admin and caller.anonymous:
        yield "admin", "whoever manages keys must be known: anonymous callers can not be admin"
    if caller.dialect is Dialect.OP_SIGNER and caller.certificate is None:
        yield "dialect", "op_signer callers are known by their certificate: set certificate"


def origins_are_origins(api: Api) -> Iterator[ConfigProblem]:
    """Each origin is a scheme, a host and maybe a port (RFC 6454), and none stands for all."""
    for origin in api.cors_origins:
        parts = urlsplit(origin)
        if parts.scheme not in {"http", "https"} or origin != f"{parts.scheme}://{parts.netloc}" or not parts.hostname:
            yield ConfigProblem(
                "hsm.api.cors_origins", "must be origins such as https://wallet.example, without a path"
            )
