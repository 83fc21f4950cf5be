"""What is to be supervised, and how: frozen, validated values that can be shared and compared.

The one thing to know: a spec is a recipe. The same spec is run again for each restart, so ``run`` must not
depend on anything that an earlier run has used up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any

from attrs import field, frozen, validators

from supervisors.backoff import Backoff
from supervisors.context import ChildContext
from supervisors.exits import Exit

__all__ = ["AutoShutdown", "ChildSpec", "Restart", "Shutdown", "Strategy"]


# With a name of their own: a checker takes the type of the default for that of the field.
_at_least_0: Any = validators.optional(validators.ge(0))
_more_than_0: Any = validators.optional(validators.gt(0))


class Restart(Enum):
    """When a child that has ended is started again (OTP names and rules)."""

    PERMANENT = "permanent"
    """Always."""
    TRANSIENT = "transient"
    """Only after a crash."""
    TEMPORARY = "temporary"
    """Never."""


class Strategy(Enum):
    """Who is restarted along with a child that failed (OTP names and rules)."""

    ONE_FOR_ONE = "one_for_one"
    """Nobody else."""
    ONE_FOR_ALL = "one_for_all"
    """Every sibling."""
    REST_FOR_ONE = "rest_for_one"
    """Those that were started after it."""


class AutoShutdown(Enum):
    """When a supervisor ends because its significant children have ended by themselves (OTP 24)."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


@frozen
class Shutdown:
    """How a child is stopped: it is asked, then cancelled, then given up as wedged. Times in seconds.

    Attributes:
        grace: how long it may take after it was asked, before it is cancelled. 0 cancels at once ("brutal"),
            ``None`` waits for ever: right for nested supervisors, whose own children are bounded.
        cancel_grace: how long it may take after it was cancelled, before it is reported as wedged.
    """

    grace: float | None = field(default=5.0, validator=_at_least_0)
    cancel_grace: float = field(default=5.0, validator=validators.ge(0))

    @classmethod
    def brutal(cls) -> Shutdown:
        """Cancel at once."""
        return cls(grace=0.0)

    @classmethod
    def infinite(cls) -> Shutdown:
        """Ask, and never cancel. For nested supervisors."""
        return cls(grace=None)


@frozen(kw_only=True)
class ChildSpec:
    """One child of a supervisor.

    Attributes:
        name: unique among its siblings.
        run: the child's body. It calls ``started()`` of its context when it is ready, then does its work.
        restart: when it is started again after it has ended.
        shutdown: how it is stopped.
        significant: its own end may end the supervisor (see :class:`AutoShutdown`); not for permanent
            children.
        start_timeout: seconds it may take until ``started()``, or ``None`` for no limit.
        backoff: delays before its restarts; ``None`` takes the supervisor's.
        on_exit: called synchronously whenever an incarnation has ended, before anything is restarted: the
            place to hand back what the incarnation held. It must be quick and must not raise.
    """

    name: str = field(kw_only=False, validator=validators.min_len(1))
    run: Callable[[ChildContext], Awaitable[object]] = field(kw_only=False, validator=validators.is_callable())
    restart: Restart = field(default=Restart.PERMANENT, validator=validators.instance_of(Restart))
    shutdown: Shutdown = field(factory=Shutdown, validator=validators.instance_of(Shutdown))
    significant: bool = False
    start_timeout: float | None = field(default=30.0, validator=_more_than_0)
    backoff: Backoff | None = field(default=None, validator=validators.optional(validators.instance_of(Backoff)))
    on_exit: Callable[[Exit], None] | None = field(
        default=None, validator=validators.optional(validators.is_callable())
    )

    def __attrs_post_init__(self) -> None:
        if self.significant and self.restart is Restart.PERMANENT:
            raise ValueError(
                f"child {self.name!r}: a permanent child never ends by itself, so it can not be significant"
            )
