"""The sockets of the HTTP interface, open before the service starts and for as long as it may restart its server."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

from attrs import frozen

from manahsm.config.addresses import LOCALHOST
from manahsm.config.api_rules import listeners_of
from manahsm.config.api_tables import Api, Listener
from manahsm.config.listening import port_problem, socket_problem
from manahsm.errors import ConfigError, ConfigProblem
from manahsm.logs import get_logger

__all__ = ["BACKLOG", "Door", "open_doors"]

_log = get_logger("manahsm.api")

BACKLOG = 1024


@frozen
class Door:
    """A socket that listens, and where it was configured."""

    listener: Listener
    socket: socket.socket

    @property
    def url(self) -> str:
        """How it is reached, without the scheme's security: ``host:port`` or the path of the socket."""
        if self.listener.socket is not None:
            return f"unix:{self.listener.socket}"
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def open_doors(api: Api) -> Iterator[tuple[Door, ...]]:
    """Open every listener of a configuration.

    Raises:
        ConfigError: one can not be opened: the port is in use, the address is not of this machine, ...
    """
    with ExitStack() as stack:
        doors = []
        for index, listener in enumerate(listeners_of(api)):
            path = f"hsm.api.listeners[{index}]" if api.listeners else "hsm.api"
            if listener.socket is not None:
                doors.append(Door(listener, stack.enter_context(_unix(api, listener.socket, f"{path}.socket"))))
            else:
                doors.extend(Door(listener, opened) for opened in _tcp(stack, listener, path))
        for door in doors:
            _log.info("listening", at=door.url, dialects=[dialect.value for dialect in door.listener.dialects])
        yield tuple(doors)


def _tcp(stack: ExitStack, listener: Listener, path: str) -> Iterator[socket.socket]:
    hosts = ("127.0.0.1", "::1") if listener.host == LOCALHOST else (listener.host,)
    port = listener.port or 0
    for host in hosts:
        family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET  # noqa: PLR2004 - IP's versions
        if family is socket.AF_INET6 and len(hosts) > 1 and not socket.has_ipv6:
            continue
        opened = stack.enter_context(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP))
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. An answer is written in two pieces, and the second would wait 40 ms for the client.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            opened.bind((host, port))
            opened.listen(BACKLOG)
        except OSError as error:
            if host != hosts[0] and error.errno == errno.EADDRNOTAVAIL:
                continue  # localhost without IPv6
            raise ConfigError([port_problem(error, path, host, port)]) from None
        port = opened.getsockname()[1]  # the same one for both
        opened.setblocking(False)
        yield opened


@contextmanager
def _unix(api: Api, file: Path, path: str) -> Iterator[socket.socket]:
    """Open a Unix socket in place of one that nobody listens at any more; it goes when this ends."""
    _remove_stale(file, path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        try:
            # Closed to others until it has its mode; who may connect is known by uid, and others are refused.
            mask = os.umask(0o177)
            try:
                opened.bind(str(file))
            finally:
                os.umask(mask)
            if any(caller.uid not in {None, os.getuid()} for caller in api.callers):
                file.chmod(0o666)
            opened.listen(BACKLOG)
        except OSError as error:
            raise ConfigError([socket_problem(error, path, file)]) from None
        opened.setblocking(False)
        try:
            yield opened
        finally:
            file.unlink(missing_ok=True)


def _remove_stale(file: Path, path: str) -> None:
    try:
        mode = file.lstat().st_mode
    except OSError:
        return  # there is none, or binding will say what is wrong
    if not stat.S_ISSOCK(mode):
        raise ConfigError(
            [ConfigProblem(path, f"{file} is there and is no socket: move it away, or choose another path")]
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(file))
        except ConnectionRefusedError:
            file.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ConfigError([socket_problem(error, path, file)]) from None
    raise ConfigError([socket_problem(OSError(errno.EADDRINUSE, "in use"), path, file)])
