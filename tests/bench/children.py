"""Contestants in processes of their own: they are told what to do on standard input and answer on standard output.

The one thing to know: a child says ``ready``, takes a line such as ``run 0.3`` and answers with one line, for ``run``
first of all what it did in a second. While it works, this process waits in a thread and its event loop does nothing.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread

__all__ = ["HERE", "Child", "compiled", "together"]

HERE = Path(__file__).parent
_BUILD = HERE.parent.parent / "build"
_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-pthread")


class Child:
    """A process that works on command; a context manager that ends it.

    Attributes:
        process: what was started.
        greeting: the line that it said when it was ready.
    """

    def __init__(self, command: Sequence[str | Path], *, first: str | None = None, **environment: str) -> None:
        """Start it.

        Args:
            command: the program and its arguments, which hold no secrets.
            first: a line that it is given before any command.
            **environment: variables beside those of this process.
        """
        self._name = Path(command[0]).name
        self.process = subprocess.Popen(  # noqa: S603 - our own programs
            [str(part) for part in command],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            if first is not None:
                self._tell(first)
            # Two that start at the same instant can make SoftHSM show no token.
            self.greeting = self._hear()
        except BaseException:
            self.process.kill()
            self.close()
            raise

    async def rate(self, seconds: float) -> float:
        """A turn."""
        return float((await self.ask(f"run {seconds:g}")).split()[0])

    async def ask(self, line: str) -> str:
        """Give a command and wait for the answer, without its end of line.

        Raises:
            RuntimeError: it has ended.
        """
        return await anyio.to_thread.run_sync(self.ask_now, line)

    def ask_now(self, line: str) -> str:
        """The same, where nothing else has to go on meanwhile."""
        self._tell(line)
        return self._hear()

    def _hear(self) -> str:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._name} has ended with status {self.process.wait()}")
        return answer.rstrip("\n")

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.process.kill()
        self.close()

    def close(self) -> None:
        """End it by the end of its input."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        self.process.wait()


def together(children: Sequence[Child]) -> Callable[[float], Awaitable[float]]:
    """Several processes that work at the same time are one contestant."""

    async def turn(seconds: float) -> float:
        rates: list[float] = []

        async def add(child: Child) -> None:
            rates.append(await child.rate(seconds))

        async with anyio.create_task_group() as tasks:
            for child in children:
                tasks.start_soon(add, child)
        return sum(rates)

    return turn


def compiled(name: str) -> Path:
    """A program of one C file in this folder; compiled now where that was not done yet."""
    source = HERE / f"{name}.c"
    version = subprocess.run(["cc", "--version"], capture_output=True, check=True).stdout  # noqa: S607
    known = hashlib.sha256(source.read_bytes() + " ".join(_FLAGS).encode() + version).hexdigest()
    program = _BUILD / f"{name}-{known[:16]}"
    if not program.exists():
        _BUILD.mkdir(exist_ok=True)
        new = program.with_name(f"{program.name}.{os.getpid()}")
        subprocess.run(["cc", *_FLAGS, "-o", new, source, "-ldl"], check=True)  # noqa: S603, S607
        new.rename(program)
    return program
