"""The software worker: has digests signed with keys that are unlocked in memory.

The one thing to know: a few digests are signed here, in the loop, with no thread and no extra hop. Where more wait,
they go to the software host in chunks, beside the loop; what that can not take is signed here all the same, so that
both processors are busy. Keys are unlocked by the caller's task before work is queued, because deriving a key from a
passphrase takes long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from anyio.lowlevel import checkpoint

from manahsm.errors import SignatureMismatch
from manahsm.ethereum.signatures import RecoverableSignature, sign, verify
from manahsm.requests import Backend
from manahsm.signing.jobs import Made, SoftwareJob
from manahsm.software.client import Results, SoftwareHost
from supervisors import ChildContext, Mailbox, Request

__all__ = ["SoftwareWorker"]

_AT_ONCE = 8  # digests: half a millisecond of the loop, or of the host, in which the next callers get ready
_SEVERAL = 4  # fewer are signed sooner than they are sent there and back

Answer = Made | SignatureMismatch


class SoftwareWorker:
    """Body of the supervised task.

    Args:
        mailbox: of requests whose payload is a tuple of :class:`SoftwareJob`; they are answered with a list that has
            a :class:`Made` or a ``SignatureMismatch`` for each.
        host: where digests are signed beside the loop; ``None``: nowhere.
    """

    def __init__(self, mailbox: Mailbox, host: SoftwareHost | None) -> None:
        self._mailbox = mailbox
        self._host = host

    async def run(self, ctx: ChildContext) -> None:
        """Sign until cancelled."""
        ctx.started()
        while True:
            requests: list[Request] = [await self._mailbox.receive(ctx.name)]
            size = len(requests[0].payload)
            host = self._host if self._host is not None and self._host.has_room else None
            while size < _AT_ONCE and (more := self._mailbox.receive_nowait(ctx.name)) is not None:
                requests.append(more)
                size += len(more.payload)
            if host is not None and _worth_a_trip(size, host.under_way):
                self._hand_over(requests, host)
            else:
                if self._host is not None and size >= _SEVERAL:
                    self._host.want()
                await self._sign_here(requests)
            await checkpoint()

    async def _sign_here(self, requests: Sequence[Request]) -> None:
        for request in requests:
            answers: list[Answer] = []
            for number, job in enumerate(request.payload, start=1):
                answers.append(_sign(job))
                if not number % _AT_ONCE:
                    await checkpoint()
            request.reply.succeed(answers)

    def _hand_over(self, requests: Sequence[Request], host: SoftwareHost) -> None:
        """Send them to the host. They stay in our custody, so whatever becomes of it or of us, none is lost."""

        def answered(results: Results) -> None:
            made = map(_answer_of, results)
            for request in requests:
                request.reply.succeed([next(made) for _ in request.payload])

        def lost() -> None:
            for request in requests:
                if request.reply.held:
                    self._mailbox.give_back_one(request, count_attempt=False)

        host.sign([_item_of(job) for job in _jobs_of(requests)], answered=answered, lost=lost)


def _worth_a_trip(size: int, under_way: int) -> bool:
    """Whether to send digests to the host: several, or a few that find it at work and soon through (pure)."""
    return size >= _SEVERAL or 0 < under_way < _AT_ONCE


def _jobs_of(requests: Sequence[Request]) -> Iterator[SoftwareJob]:
    return (job for request in requests for job in request.payload)


def _item_of(job: SoftwareJob) -> tuple[bytes, bytes, bytes]:
    return job.private_key.secret, job.public_key, job.digest


def _sign(job: SoftwareJob) -> Answer:
    signature = sign(job.private_key, job.digest)
    try:
        verify(signature, job.digest, job.public_key)
    except SignatureMismatch as mismatch:
        return mismatch
    return Made(signature, Backend.SOFTWARE, None)


def _answer_of(result: bytes | None) -> Answer:
    if result is None:
        return SignatureMismatch("the signature does not belong to this key and digest")
    return Made(RecoverableSignature.from_bytes(result), Backend.SOFTWARE, None)
