"""The service's front gate: counts who is inside, and once closed lets nobody in."""

from __future__ import annotations

from typing import Self

import anyio

from manahsm.errors import ServiceStopping

__all__ = ["Gate"]


class Gate:
    """Open until :meth:`close`; what was admitted before that may finish."""

    def __init__(self) -> None:
        self._inside = 0
        self._closed = False
        self._empty: anyio.Event | None = None

    @property
    def closed(self) -> bool:
        """Whether nothing more is admitted."""
        return self._closed

    @property
    def inside(self) -> int:
        """How many were admitted and have not left."""
        return self._inside

    def admit(self) -> Self:
        """Return what counts one operation as under way: ``with gate.admit():``.

        Raises:
            ServiceStopping: the gate is closed.
        """
        if self._closed:
            raise ServiceStopping("the service is stopping and takes no new work")
        return self

    def __enter__(self) -> None:
        self._inside += 1

    def __exit__(self, *_: object) -> None:
        self._inside -= 1
        if not self._inside and self._empty is not None:
            self._empty.set()

    def close(self) -> None:
        """Admit nothing more."""
        self._closed = True

    async def empty(self) -> None:
        """Wait until nobody is inside."""
        while self._inside:
            self._empty = anyio.Event()
            await self._empty.wait()
