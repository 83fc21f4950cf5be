"""The whole supervision tree, on one page.

::

    manahsm (rest_for_one)
    ├── timers                       keeps the deadlines of requests that wait
    ├── audit                        writes records through to the disk
    ├── registry                     writes use counters
    ├── software hosts (one_for_one) a process that signs and checks beside the loop, once it is wanted
    ├── software                     the software worker
    ├── slots (one_for_one)
    │   └── slot NAME (rest_for_one)
    │       ├── pool                 adopts hosts that are ready; starts overflow workers
    │       ├── hosts (one_for_one)  host-0, host-1, ...: one process each
    │       └── workers (one_for_one) worker-0, ...: one session each; overflow-0, ... while callers wait
    ├── watch (one_for_one)
    │   ├── twins                    unlocks software twins ahead of need
    │   ├── checkpoints              signs the end of the audit log at intervals
    │   └── alerts, health           the alert manager and the health monitor
    └── interfaces (one_for_one)
        └── metrics                  the HTTP endpoint

Two rules shape it. A token that is absent, broken or latched is ordinary: nothing below ``slots`` ever takes the
service down, so hosts and slots are restarted for ever, with growing delays. And a fault of our own (a bug in the
software worker) is not ordinary: there the budget is small, and the service ends with an error that its embedder
sees. A full disk is no fault of ours: the audit log refuses and the use counters wait until there is room.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from manahsm.signing.host_keeper import HostKeeper
from manahsm.signing.hsm_worker import HSMWorker
from manahsm.signing.pool_manager import PoolManager, RecordKeys
from manahsm.signing.slot import Slot
from manahsm.signing.software_worker import SoftwareWorker
from manahsm.software.client import SoftwareHost
from supervisors import (
    Backoff,
    ChildContext,
    ChildSpec,
    Clock,
    Event,
    Exit,
    Intensity,
    Mailbox,
    Restart,
    Shutdown,
    Stopped,
    Strategy,
    Supervisor,
    Timers,
    cause_of,
)

__all__ = ["build_tree"]

HOST_BACKOFF = Backoff(initial=0.1, factor=2.0, maximum=10.0, jitter=0.2, reset_after=10.0)
WORKER_BACKOFF = Backoff(initial=0.05, factor=2.0, maximum=5.0, jitter=0.2, reset_after=10.0)
HOST_SHUTDOWN = Shutdown(grace=0.0, cancel_grace=10.0)  # a host logs out and finalizes while it is cancelled

Body = Callable[[ChildContext], Awaitable[object]]
OnEvent = Callable[[Event], None]


def build_tree(
    *,
    timers: Timers,
    audit: Body,
    registry: Body,
    software: Mailbox,
    software_host: SoftwareHost | None,
    slots: Sequence[Slot],
    record_keys: RecordKeys,
    watchers: Mapping[str, Body],
    interfaces: Mapping[str, Body],
    clock: Clock,
    on_event: OnEvent,
) -> Supervisor:
    """Put the tree together; ``async with tree.running()`` starts it.

    Args:
        timers: what keeps the deadlines of requests.
        audit: body of the task that syncs the audit log.
        registry: body of the task that flushes the registry.
        software: mailbox of the software worker.
        software_host: where digests are signed, and signatures checked, beside the loop, if anywhere.
        slots: one subtree each.
        watchers: bodies of tasks that look after what is above, by name; a crash of one touches no other.
        interfaces: bodies of tasks that the world talks to, by name.
        record_keys: told what a token holds when its slot comes up.
        clock: the time of every timer in the tree.
        on_event: told of every start, exit and restart.
    """
    slots_tree = Supervisor(
        "slots",
        [_slot_tree(slot, record_keys, clock, on_event).spec() for slot in slots],
        intensity=Intensity.unlimited(),
        backoff=HOST_BACKOFF,
        clock=clock,
        on_event=on_event,
    )

    # A help to the software worker and never a need: it may crash for ever.
    software_hosts = Supervisor(
        "software hosts",
        [] if software_host is None else [ChildSpec("software-host", software_host.run, shutdown=HOST_SHUTDOWN)],
        intensity=Intensity.unlimited(),
        backoff=HOST_BACKOFF,
        clock=clock,
        on_event=on_event,
    )

    def independent(name: str, bodies: Mapping[str, Body]) -> ChildSpec:
        return Supervisor(
            name,
            [ChildSpec(task, body) for task, body in bodies.items()],
            intensity=Intensity(restarts=10, within=60.0),
            backoff=WORKER_BACKOFF,
            clock=clock,
            on_event=on_event,
        ).spec()

    return Supervisor(
        "manahsm",
        [
            ChildSpec("timers", timers.run),
            ChildSpec("audit", audit),
            ChildSpec("registry", registry),
            software_hosts.spec(),
            ChildSpec(
                "software", SoftwareWorker(software, software_host).run, on_exit=_give_back(software, "software")
            ),
            slots_tree.spec(),
            independent("watch", watchers),
            independent("interfaces", interfaces),
        ],
        strategy=Strategy.REST_FOR_ONE,
        intensity=Intensity(restarts=5, within=60.0),
        clock=clock,
        on_event=on_event,
    )


def _slot_tree(slot: Slot, record_keys: RecordKeys, clock: Clock, on_event: OnEvent) -> Supervisor:
    pool = slot.config.connection_pool
    hosts = Supervisor(
        f"hosts of {slot.name}",
        [ChildSpec(f"host-{n}", HostKeeper(slot).run, shutdown=HOST_SHUTDOWN) for n in range(slot.processes)],
        intensity=Intensity.unlimited(),
        backoff=HOST_BACKOFF,
        clock=clock,
        on_event=on_event,
    )
    workers = Supervisor(
        f"workers of {slot.name}",
        [
            ChildSpec(f"worker-{n}", HSMWorker(slot).run, on_exit=_give_back(slot.mailbox, f"worker-{n}"))
            for n in range(pool.size)
        ],
        intensity=Intensity(restarts=10 * pool.size, within=60.0),
        backoff=WORKER_BACKOFF,
        clock=clock,
        on_event=on_event,
    )

    async def start_worker(name: str) -> None:
        worker = HSMWorker(slot, overflow=True)
        spec = ChildSpec(
            name, worker.run, restart=Restart.TEMPORARY, start_timeout=None, on_exit=_give_back(slot.mailbox, name)
        )
        await workers.start_child(spec)

    return Supervisor(
        f"slot {slot.name}",
        [ChildSpec("pool", PoolManager(slot, record_keys, start_worker).run), hosts.spec(), workers.spec()],
        strategy=Strategy.REST_FOR_ONE,
        intensity=Intensity.unlimited(),
        backoff=HOST_BACKOFF,
        clock=clock,
        on_event=on_event,
    )


def _give_back(mailbox: Mailbox, holder: str) -> Callable[[Exit], None]:
    def on_exit(exit_: Exit) -> None:
        mailbox.give_back(holder, cause_of(exit_), count_attempt=not isinstance(exit_, Stopped))

    return on_exit
