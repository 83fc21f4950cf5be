"""Why a program can not listen where its configuration says: from the system's error to what there is to do (pure)."""

from __future__ import annotations

import errno

from manahsm.errors import ConfigProblem

__all__ = ["port_problem", "socket_problem"]

_NOT_PERMITTED = frozenset({errno.EACCES, errno.EPERM})


def port_problem(error: OSError, table: str, host: str, port: int) -> ConfigProblem:
    """Say what is wrong with a TCP port.

    Args:
        error: of opening it.
        table: dotted path of the table that has the options ``host`` and ``port``.
        host: the address.
        port: the port.
    """
    where = f"{host} port {port}"
    if error.errno == errno.EADDRINUSE:
        free = "stop the program that listens there, choose another port, or 0 for any free one"
        return ConfigProblem(f"{table}.port", f"{where} is in use: {free}")
    if error.errno in _NOT_PERMITTED:
        return ConfigProblem(f"{table}.port", f"{where}: not permitted; use a port from 1024 on")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigProblem(f"{table}.host", f"{where}: no address of this machine")
    return ConfigProblem(f"{table}.host", f"{where}: {error.strerror or error}")


def socket_problem(error: OSError, option: str, file: object) -> ConfigProblem:
    """Say what is wrong with a Unix socket.

    Args:
        error: of opening it.
        option: dotted path of the option that names it.
        file: where it was to be.
    """
    if error.errno == errno.EADDRINUSE:
        return ConfigProblem(
            option, f"{file} is in use: another program listens there; stop it, or choose another path"
        )
    if error.errno in _NOT_PERMITTED:
        return ConfigProblem(option, f"{file}: not permitted; use a directory that the service may write to")
    return ConfigProblem(option, f"{file}: {error.strerror or error}")
