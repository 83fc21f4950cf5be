"""What to do when a child has ended: pure rules, transcribed from OTP's ``supervisor.erl``.

The one thing to know: nothing here acts. :func:`after_exit` looks at who ended, how, and who the siblings
are, and says who is stopped (in this order), who is started (in this order), who is forgotten, and whether
the supervisor itself is done. The engine carries it out.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from supervisors.exits import Exit, is_abnormal
from supervisors.specs import AutoShutdown, Restart, Strategy

__all__ = ["Member", "Plan", "affected", "after_exit", "must_restart", "restart_plan"]


@frozen(kw_only=True)
class Member:
    """What the rules need to know of a child.

    Attributes:
        name: the child.
        restart: when it is restarted.
        significant: whether its own end may end the supervisor.
        alive: it is starting, running or stopping.
        held_back: an operator stopped it, so it stays down until an operator restarts it.
    """

    name: str
    restart: Restart
    significant: bool = False
    alive: bool = True
    held_back: bool = False


@frozen(kw_only=True)
class Plan:
    """What follows from an exit. Names; each tuple is in the order of doing."""

    stop: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()
    end_supervisor: bool = False


def must_restart(restart: Restart, exit_: Exit) -> bool:
    """Return whether a child of this restart type is started again after this exit."""
    match restart:
        case Restart.PERMANENT:
            return True
        case Restart.TRANSIENT:
            return is_abnormal(exit_)
        case Restart.TEMPORARY:
            return False


def affected(strategy: Strategy, members: Sequence[Member], name: str) -> tuple[Member, ...]:
    """Return who shares the fate of the child ``name``, itself included, in start order."""
    position = next(index for index, member in enumerate(members) if member.name == name)
    match strategy:
        case Strategy.ONE_FOR_ONE:
            return (members[position],)
        case Strategy.ONE_FOR_ALL:
            return tuple(members)
        case Strategy.REST_FOR_ONE:
            return tuple(members[position:])


def restart_plan(strategy: Strategy, members: Sequence[Member], name: str) -> Plan:
    """Return the plan to restart ``name`` and whoever shares its fate.

    As in OTP, temporary siblings are stopped and not started again, and transient siblings that had finished
    are started again with the rest. Unlike OTP, what an operator has stopped stays down.
    """
    fate = affected(strategy, members, name)
    return Plan(
        stop=tuple(member.name for member in reversed(fate) if member.alive and member.name != name),
        start=tuple(
            member.name
            for member in fate
            if member.restart is not Restart.TEMPORARY and (not member.held_back or member.name == name)
        ),
        forget=tuple(member.name for member in fate if member.restart is Restart.TEMPORARY and member.name != name),
    )


def after_exit(
    strategy: Strategy, auto_shutdown: AutoShutdown, members: Sequence[Member], name: str, exit_: Exit
) -> Plan:
    """Return what to do after child ``name`` has ended by itself with ``exit_``.

    Args:
        strategy: the supervisor's.
        auto_shutdown: the supervisor's.
        members: all children in start order; ``name`` among them, not ``alive``.
        name: who ended.
        exit_: how.
    """
    member = next(member for member in members if member.name == name)
    if must_restart(member.restart, exit_):
        return restart_plan(strategy, members, name)
    others = any(other.significant and other.alive for other in members if other.name != name)
    done = member.significant and (
        auto_shutdown is AutoShutdown.ANY_SIGNIFICANT or (auto_shutdown is AutoShutdown.ALL_SIGNIFICANT and not others)
    )
    return Plan(forget=(name,) if member.restart is Restart.TEMPORARY else (), end_supervisor=done)
