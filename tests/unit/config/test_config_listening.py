"""What is said where a program can not listen: the option that is to be changed, and how."""

from __future__ import annotations

import errno
import os

import pytest

from manahsm.config.listening import port_problem, socket_problem

FREE = "stop the program that listens there, choose another port, or 0 for any free one"


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            errno.EADDRINUSE,
            f"a.b.port: 10.0.0.1 port 9 is in use: {FREE}",
        ),
        (errno.EACCES, "a.b.port: 10.0.0.1 port 9: not permitted; use a port from 1024 on"),
        (errno.EPERM, "a.b.port: 10.0.0.1 port 9: not permitted; use a port from 1024 on"),
        (errno.EADDRNOTAVAIL, "a.b.host: 10.0.0.1 port 9: no address of this machine"),
        (errno.EMFILE, "a.b.host: 10.0.0.1 port 9: Too many open files"),
    ],
)
def test_a_port_that_can_not_be_listened_at(number: int, said: str) -> None:
    assert str(port_problem(error(number), "a.b", "10.0.0.1", 9)) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EADDRINUSE, "a.s: /run/s is in use: another program listens there; stop it, or choose another path"),
        (errno.EACCES, "a.s: /run/s: not permitted; use a directory that the service may write to"),
        (errno.ENOENT, "a.s: /run/s: No such file or directory"),
    ],
)
def test_a_socket_that_can_not_be_listened_at(number: int, said: str) -> None:
    assert str(socket_problem(error(number), "a.s", "/run/s")) == said


def test_an_error_without_words_is_shown_as_it_is() -> None:
    assert str(port_problem(OSError("no sockets here"), "a", "h", 1)) == "a.host: h port 1: no sockets here"
