"""Starting, watching and reaping one child process. Linux.

The one thing to know: a hardened child dies with the *thread* that spawned it (PR_SET_PDEATHSIG counts threads), so it
is spawned in the event loop's own thread. anyio.open_process would not do: on trio it spawns from a worker thread that
ends after ten idle seconds, and the child with it. The exit is watched through a pidfd, alike on both loops.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping

import anyio

__all__ = ["ChildProcess", "child_environment"]

_SECRET_PREFIX = "HSM_PIN"  # noqa: S105 - the names of variables


def child_environment(ours: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Our environment and some variables over it, without anything that holds or names a PIN."""
    merged = {**ours, **more}
    return {name: value for name, value in merged.items() if not name.startswith(_SECRET_PREFIX)}


class ChildProcess:
    """A running ``python -m MODULE PARENT``, with a pipe each way; :meth:`end` it when it is no longer needed."""

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        """Start it.

        Args:
            module: run with our own interpreter; its one argument is our process id.
            environment: variables that are added to ours.

        Raises:
            OSError: the process can not be started.
        """
        # -P: whatever lies in the working directory is not imported.
        command = [sys.executable, "-P", "-m", module, str(os.getpid())]
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=child_environment(os.environ, environment),
        )
        if self._process.stdin is None or self._process.stdout is None:  # pragma: no cover - both are PIPE
            raise AssertionError("pipes were asked for")
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self.commands = self._stdin.fileno()
        self.replies = self._stdout.fileno()
        os.set_blocking(self.commands, False)
        os.set_blocking(self.replies, False)
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:  # pragma: no cover - out of descriptors just now
            self.kill()
            self._process.wait()
            self.close_pipes()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait until it has ended, reap it and return its exit status. One waiter at a time."""
        if self._process.returncode is None:
            await anyio.wait_readable(self._pidfd)
        return self._process.wait()

    def kill(self) -> None:
        """End it with SIGKILL, stopped or not. Harmless when it has ended."""
        self._process.send_signal(signal.SIGKILL)

    def close_pipes(self) -> None:
        """Close both pipes, which asks the child to end. Nothing may be waiting for them any more."""
        self._stdin.close()
        self._stdout.close()

    async def end(self, grace: float, *, kill_grace: float = 5.0) -> int | None:
        """Close the pipes, give it ``grace`` seconds to end by itself, then kill and reap it.

        Runs to its end even when cancelled, in real time, because the process is real.

        Returns:
            The exit status; ``None`` where not even SIGKILL ended it within ``kill_grace`` seconds (a process in
            uninterruptible sleep: the kernel ends it when the device lets go).
        """
        self.close_pipes()
        try:
            for patience in (grace, kill_grace):
                with anyio.move_on_after(patience, shield=True):
                    return await self.wait()
                self.kill()
            return None
        finally:
            os.close(self._pidfd)
