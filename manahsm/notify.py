"""What systemd wants to hear of a service: that it is ready, that it lives, that it stops (sd_notify(3)).

The one thing to know: without ``NOTIFY_SOCKET`` in the environment all of it does nothing, so it need not be asked for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from manahsm.logs import get_logger

__all__ = ["Notifier"]

_log = get_logger("manahsm.notify")


class Notifier:
    """Speaks to the service manager that started this process.

    Args:
        environ: of the process; ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are read.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _address_of(environ.get("NOTIFY_SOCKET", ""))
        self.heard = self._address is not None
        """Whether there is one."""
        self.watchdog: float | None = None
        """Seconds within which it wants a sign of life again and again, or ``None``."""
        usec = environ.get("WATCHDOG_USEC", "")
        if usec.isdecimal() and int(usec) > 0 and environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self.watchdog = int(usec) / 1e6

    def ready(self, status: str) -> None:
        """The service is up. ``status`` is for people."""
        self._tell(f"READY=1\nSTATUS={_one_line(status)}")

    def alive(self, status: str) -> None:
        """The event loop runs. ``status`` is for people."""
        self._tell(f"WATCHDOG=1\nSTATUS={_one_line(status)}")

    def stopping(self) -> None:
        """The service has begun to stop."""
        self._tell("STOPPING=1")

    def _tell(self, message: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as sender:
                sender.connect(self._address)
                sender.sendall(message.encode())
        except OSError as error:
            _log.warning("service manager not told", reason=error.strerror)


def _one_line(text: str) -> str:
    """A line more would be a word more to the manager."""
    return " ".join(text.split())


def _address_of(path: str) -> str | None:
    """A path, or ``@`` and a name in the abstract namespace (unix(7)); systemd's other kinds are for machines."""
    if path.startswith("@"):
        return "\0" + path[1:]
    return path if path.startswith("/") else None
