"""The children of one run of a supervisor, in start order, and what it remembers of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

from attrs import define, field, frozen

from supervisors.child import ChildRun
from supervisors.errors import DuplicateChild, UnknownChild
from supervisors.exits import Exit
from supervisors.plan import Member
from supervisors.specs import ChildSpec

__all__ = ["ChildState", "ChildStatus", "Record", "Roster"]


class ChildState(Enum):
    """Where a child stands."""

    STARTING = "starting"
    """Launched, not ready yet."""
    RUNNING = "running"
    """Ready."""
    STOPPING = "stopping"
    """Asked to stop, not ended yet."""
    RESTARTING = "restarting"
    """Down, and about to be started again when its siblings are down or its backoff is over."""
    STOPPED = "stopped"
    """Down until an operator restarts it, or not started yet."""
    FINISHED = "finished"
    """Ended by itself and, by its restart type, not started again."""
    WEDGED = "wedged"
    """Given up: it still runs though it was cancelled, and nothing has taken its place."""


@frozen(kw_only=True)
class ChildStatus:
    """A child as its supervisor sees it, at one moment.

    Attributes:
        name: the child.
        state: where it stands.
        incarnation: number of the latest incarnation, from 0; -1 before the first.
        last_exit: how the latest incarnation that ended has ended, or ``None``.
        wedged: tasks of earlier incarnations that can not be ended are still around.
        dynamic: started with ``start_child``, rather than given to the supervisor.
        failures: restarts in a row, since the last calm period.
    """

    name: str
    state: ChildState
    incarnation: int
    last_exit: Exit | None
    wedged: bool
    dynamic: bool
    failures: int


@define(eq=False)
class Record:
    """One child: its spec, its incarnation if it has one, and what came before. The engine's own."""

    spec: ChildSpec
    dynamic: bool
    run: ChildRun | None = None
    incarnation: int = -1
    failures: int = 0
    last_exit: Exit | None = None
    zombies: int = 0
    restarting: bool = False
    held_back: bool = False
    finished: bool = False
    forgotten: bool = field(default=False)

    @property
    def name(self) -> str:
        """The child's name."""
        return self.spec.name

    @property
    def alive(self) -> bool:
        """Whether an incarnation is starting, running or stopping."""
        return self.run is not None and self.run.alive

    @property
    def state(self) -> ChildState:
        """Where the child stands."""
        if self.run is not None and self.run.alive:
            if self.run.stop_asked:
                return ChildState.STOPPING
            return ChildState.RUNNING if self.run.context.is_ready else ChildState.STARTING
        if self.restarting:
            return ChildState.RESTARTING
        if self.zombies:
            return ChildState.WEDGED
        return ChildState.FINISHED if self.finished else ChildState.STOPPED

    def status(self) -> ChildStatus:
        """Return what may be shown of it."""
        return ChildStatus(
            name=self.name,
            state=self.state,
            incarnation=self.incarnation,
            last_exit=self.last_exit,
            wedged=self.zombies > 0,
            dynamic=self.dynamic,
            failures=self.failures,
        )

    def member(self) -> Member:
        """Return what the rules in :mod:`supervisors.plan` need to know of it."""
        return Member(
            name=self.name,
            restart=self.spec.restart,
            significant=self.spec.significant,
            alive=self.alive or self.restarting,
            held_back=self.held_back,
        )


class Roster:
    """Records by name, in start order."""

    def __init__(self, fixed: Iterable[ChildSpec]) -> None:
        self._records = {spec.name: Record(spec, dynamic=False) for spec in fixed}

    def __iter__(self) -> Iterator[Record]:
        return iter(tuple(self._records.values()))

    def __getitem__(self, name: str) -> Record:
        try:
            return self._records[name]
        except KeyError:
            known = ", ".join(self._records) or "none"
            raise UnknownChild(f"no child {name!r}; there are: {known}") from None

    @property
    def dynamic_count(self) -> int:
        """How many dynamic children there are, wedged ones included."""
        return sum(record.dynamic for record in self._records.values())

    @property
    def zombies(self) -> tuple[str, ...]:
        """Names of children with tasks that can not be ended."""
        return tuple(record.name for record in self._records.values() if record.zombies)

    def members(self) -> tuple[Member, ...]:
        """Return all children as the rules see them, in start order."""
        return tuple(record.member() for record in self._records.values())

    def add(self, spec: ChildSpec) -> Record:
        """Add a dynamic child at the end.

        Raises:
            DuplicateChild: the name is taken.
        """
        if spec.name in self._records:
            state = self._records[spec.name].state.value
            raise DuplicateChild(f"there is a child {spec.name!r} already, and it is {state}")
        record = Record(spec, dynamic=True)
        self._records[spec.name] = record
        return record

    def forget(self, record: Record) -> None:
        """Remove a child once nothing of it is left; until then its wedged tasks stay visible."""
        record.forgotten = True
        if not record.zombies and not record.alive and self._records.get(record.name) is record:
            del self._records[record.name]
