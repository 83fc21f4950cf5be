"""The software worker: signs with keys that are unlocked in memory, in the loop, with no thread and no extra hop.

Keys are unlocked by the caller's task before a job is queued, because deriving a key from a passphrase takes
long. A few jobs are done between two checkpoints, which keeps the loop responsive.
"""

from __future__ import annotations

from anyio.lowlevel import checkpoint

from manahsm.errors import SignatureMismatch
from manahsm.ethereum.signatures import sign, verify
from manahsm.requests import Backend
from manahsm.signing.jobs import Made, SoftwareJob
from supervisors import ChildContext, Mailbox, Request

__all__ = ["SoftwareWorker"]

_AT_A_TIME = 16  # about a millisecond of the loop


class SoftwareWorker:
    """Body of the supervised task.

    Args:
        mailbox: of requests with :class:`SoftwareJob` payloads.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    async def run(self, ctx: ChildContext) -> None:
        """Sign until cancelled."""
        ctx.started()
        mailbox = self._mailbox
        while True:
            request: Request | None = await mailbox.receive(ctx.name)
            for _ in range(_AT_A_TIME):
                if request is None:
                    break
                self._answer(request)
                request = mailbox.receive_nowait(ctx.name)
            else:
                if request is not None:
                    mailbox.give_back_one(request, count_attempt=False)
            await checkpoint()

    @staticmethod
    def _answer(request: Request) -> None:
        job: SoftwareJob = request.payload
        signature = sign(job.private_key, job.digest)
        try:
            verify(signature, job.digest, job.public_key)
        except SignatureMismatch as mismatch:
            request.reply.fail(mismatch)
        else:
            request.reply.succeed(Made(signature, Backend.SOFTWARE, None))
