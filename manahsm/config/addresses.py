"""Where a program may listen: addresses that only this machine reaches, and the others.

The one thing to know: an address is written as digits, or as ``localhost``. Any other name would have to be looked up,
and could mean another address tomorrow.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address

__all__ = ["LOCALHOST", "host_of", "is_address", "is_loopback"]

LOCALHOST = "localhost"
_HOSTS_AT_HAND = 64  # asked of each HTTP request


def is_address(host: str) -> bool:
    """Whether ``host`` is an IPv4 or IPv6 address, or ``localhost`` (pure)."""
    if host == LOCALHOST:
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=_HOSTS_AT_HAND)
def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``: 127.0.0.0/8, ``::1`` or ``localhost`` (pure)."""
    return host == LOCALHOST or (is_address(host) and ip_address(host).is_loopback)


def host_of(header: str) -> str:
    """The host in a ``Host`` header, without port and brackets, in lower case (RFC 9110, 7.2; pure)."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
