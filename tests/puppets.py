"""A stage for supervised children that do what the test tells them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from supervisors import Backoff, ChildContext, ChildSpec, Intensity, Supervisor
from supervisors.testing import EventRecorder, ManualClock, settle


class Puppet:
    """A child that logs its starts and ends, and waits for orders between."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log
        self.contexts: list[ChildContext] = []
        self.fail_starts = 0
        self.value: object = None
        self._order: Callable[[], object] | None = None
        self._told = anyio.Event()

    async def run(self, context: ChildContext) -> object:
        self.log.append(f"+{self.name}")
        self.contexts.append(context)
        if self.fail_starts:
            self.fail_starts -= 1
            self.log.append(f"!{self.name}")
            raise RuntimeError(f"{self.name} can not start")
        try:
            context.started(self.value)
            while self._order is None:
                self._told = anyio.Event()
                await self._told.wait()
            order, self._order = self._order, None
            return order()
        finally:
            self.log.append(f"-{self.name}")

    @property
    def incarnations(self) -> int:
        return len(self.contexts)

    def obey(self, order: Callable[[], object]) -> None:
        """Have the running incarnation call ``order`` and end as that does."""
        self._order = order
        self._told.set()

    async def crash(self, error: BaseException | None = None) -> None:
        def fail() -> None:
            raise error or RuntimeError(f"{self.name} crashed")

        self.obey(fail)
        await settle()

    async def finish(self, value: object = None) -> None:
        self.obey(lambda: value)
        await settle()

    async def wedge(self) -> None:
        """Declare itself wedged, then end."""
        context = self.contexts[-1]
        self.obey(lambda: context.declare_wedged("the test said so"))
        await settle()


class Stage:
    """Puppets, and a supervisor over them on a clock that stands still."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.events = EventRecorder()
        self.log: list[str] = []
        self.puppets: dict[str, Puppet] = {}

    def spec(self, name: str, **options: Any) -> ChildSpec:
        self.puppets[name] = Puppet(name, self.log)
        return ChildSpec(name, self.puppets[name].run, **options)

    def supervisor(self, *children: ChildSpec | str, **options: Any) -> Supervisor:
        specs = [self.spec(child) if isinstance(child, str) else child for child in children]
        defaults: dict[str, Any] = {
            "intensity": Intensity.unlimited(),
            "backoff": Backoff.none(),
            "clock": self.clock,
            "on_event": self.events,
        }
        return Supervisor("top", specs, **(defaults | options))

    def __getitem__(self, name: str) -> Puppet:
        return self.puppets[name]

    def take_log(self) -> str:
        """Return what was logged since the last time, e.g. ``+a +b -b``."""
        text = " ".join(self.log)
        self.log.clear()
        return text
