"""Three workers, one of which keeps crashing, and not one question lost.

Run it with ``python examples/supervisors_demo.py [asyncio|trio]``. It answers 30 questions by three supervised
workers over one mailbox. Every tenth question crashes the worker that has it, once; the supervisor starts the worker
again, and the mailbox hands the question to another. One question crashes every worker, and fails as poison.
"""

from __future__ import annotations

import sys

import anyio

from supervisors import (
    Backoff,
    BreakerSettings,
    ChildContext,
    ChildExited,
    ChildSpec,
    CircuitBreaker,
    Intensity,
    Mailbox,
    Poisoned,
    Supervisor,
    SupervisorEvent,
    cause_of,
)

QUESTIONS = 30
POISON = 13

mailbox = Mailbox("questions", capacity=100, max_attempts=3)
breaker = CircuitBreaker("oracle", BreakerSettings(minimum_calls=20, failure_rate=0.9))
crashed_before: set[int] = set()


async def worker(context: ChildContext) -> None:
    """Answer questions until told to stop: the supervisor cancels the wait for the next one."""
    context.started()
    while True:
        request = await mailbox.receive(context.name)
        with breaker.acquire() as permit:  # left by an error without a verdict: a failure
            request.reply.succeed(await oracle(request.payload))
            permit.success()


async def oracle(question: int) -> int:
    """Think; fail for some questions."""
    await anyio.sleep(0.001)
    first_time = question not in crashed_before
    crashed_before.add(question)
    if question == POISON or (question % 10 == 0 and first_time):
        raise RuntimeError(f"question {question} is too hard")
    return question * question


def worker_spec(name: str) -> ChildSpec:
    """Return a worker whose unanswered questions go back to the mailbox, whatever ends it."""
    return ChildSpec(name, worker, on_exit=lambda exit_: mailbox.give_back(name, cause_of(exit_)))


def report(event: SupervisorEvent) -> None:
    """Print crashes as they happen."""
    if isinstance(event, ChildExited) and cause_of(event.exit) is not None:
        print(f"  {event.child} (incarnation {event.incarnation}) crashed: {cause_of(event.exit)}")


async def main() -> dict[int, int | str]:
    """Ask all questions at once and return the answers."""
    answers: dict[int, int | str] = {}

    async def ask(question: int) -> None:
        try:
            answers[question] = await mailbox.ask(question, timeout=10)
        except Poisoned:
            answers[question] = "poison"

    workers = Supervisor(
        "workers",
        [worker_spec(f"worker-{number}") for number in range(3)],
        intensity=Intensity(restarts=20, within=10),
        backoff=Backoff(initial=0.01),
        on_event=report,
    )
    root = Supervisor("root", [workers.spec()])
    async with root.running(), anyio.create_task_group() as callers:
        for question in range(QUESTIONS):
            callers.start_soon(ask, question)
    right = sum(answer == question * question for question, answer in answers.items())
    print(f"{len(answers)} answers, {right} of them right, poison: {POISON}; {mailbox.stats().returned} returned")
    print(f"the breaker is {breaker.state.value}")
    return answers


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
