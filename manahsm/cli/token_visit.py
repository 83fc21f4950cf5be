"""A visit to a token through a real host process: log in, open sessions, look at the keys, sign something.

The one thing to know: the PIN is tried once, and the signature is over a fresh message of no meaning, is checked in
software and thrown away. Nothing in the token is changed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import anyio
from attrs import evolve

from manahsm.cli.findings import Finding, Verdict
from manahsm.config.slots import SlotConfig
from manahsm.errors import SignatureMismatch
from manahsm.ethereum.messages import message_digest
from manahsm.ethereum.signatures import address_of, complete
from manahsm.hsm.client import HostProcess, HostSession
from manahsm.hsm.failures import HostEnded, HSMFailure
from manahsm.hsm.info import TokenKey
from manahsm.hsm.outcomes import Action
from manahsm.hsm.settings import HostSettings
from manahsm.signing.pool import sessions_allowed

__all__ = ["visit"]

_NO_KEY = (
    "make one: `manahsm keys generate LABEL --role transaction_signer --backend hsm`, then run this again; or give "
    "--try-key to make a key and remove it again"
)


async def visit(slot: SlotConfig) -> list[Finding]:
    """Log in and try everything that a service does with a token."""
    host, ready = HostProcess(HostSettings.of(slot)), anyio.Event()
    ended: list[HostEnded] = []
    findings: list[Finding] = []

    async def live() -> None:
        try:
            await host.run(lambda _info: ready.set())
        except HostEnded as error:
            ended.append(error)
        finally:
            ready.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live)
        await ready.wait()
        if not ended:
            findings.append(Finding("login", Verdict.OK, "the PIN is right" if slot.pin else "none is needed"))
            try:
                findings += await _sessions(host, slot)
                findings += await _keys(host)
            except HSMFailure as failure:
                findings.append(Finding("token", Verdict.FAIL, str(failure), _advice(failure)))
            await host.stop()
    if ended:
        remedy = _advice(ended[0])
        findings.append(Finding("login" if "log in" in str(ended[0]) else "host", Verdict.FAIL, str(ended[0]), remedy))
    return [evolve(finding, slot=slot.name) for finding in findings]


def _advice(failure: HostEnded | HSMFailure) -> str:
    """What to do about a failure, by what the signer would do (pure)."""
    match failure.outcome.name:
        case "CKR_PIN_INCORRECT" | "CKR_PIN_INVALID" | "CKR_PIN_LEN_RANGE":
            return (
                "put the right PIN into the PIN file. Each command that logs in uses up one try, and after a few the "
                "token locks"
            )
        case "CKR_PIN_LOCKED":
            return "have the security officer set a new PIN with the vendor's tool"
        case "PIN_MISSING":
            return "name a file with the PIN in pin_file"
        case "CKR_SESSION_COUNT" | "HOST_SESSION_LIMIT":
            return "lower connection_pool.size, or end what else uses the token"
    if failure.outcome.action in {Action.FAIL_OVER, Action.RESPAWN, Action.BACK_OFF}:
        return "look whether the device answers (the vendor's own tool tells), then try again"
    return "look at the library's own log, and at the vendor's documentation of this return code"


async def _sessions(host: HostProcess, slot: SlotConfig) -> list[Finding]:
    pool = slot.connection_pool
    share = -(-pool.size // min(pool.processes, pool.size))  # what the fullest host keeps open
    wanted = int(min(share, sessions_allowed(host.info)))
    opened: list[HostSession] = []
    refused: HSMFailure | None = None
    try:
        while len(opened) < wanted:
            opened.append(await host.open_session())
    except HSMFailure as failure:
        refused = failure
    for session in opened:
        await session.close()
    if refused is not None:
        text = f"a host needs {share} sessions, and only {len(opened)} could be opened: {refused}"
        return [Finding("sessions", Verdict.WARN if opened else Verdict.FAIL, text, _advice(refused))]
    if wanted < share:
        text = f"a host may have {wanted} at once, and is meant to have {share}"
        remedy = "raise connection_pool.processes, or lower connection_pool.size"
        return [Finding("sessions", Verdict.WARN, text, remedy)]
    return [Finding("sessions", Verdict.OK, f"opened {len(opened)} at once, as many as a host keeps")]


async def _keys(host: HostProcess) -> list[Finding]:
    keys = await host.find_keys()
    able = [key for key in keys if key.can_sign]
    if not able:
        text = "the token holds no secp256k1 key that may sign: whether it has that curve is not known yet"
        return [Finding("curve", Verdict.NOTE, text, _NO_KEY)]
    return [
        Finding("curve", Verdict.OK, f"secp256k1: {len(able)} keys"),
        *_exposed(able),
        await _signature(host, able[0]),
    ]


def _exposed(keys: Sequence[TokenKey]) -> list[Finding]:
    exposed = [key for key in keys if key.extractable or not key.sensitive]
    if not exposed:
        return []
    named = ", ".join(f"{key.label!r} ({address_of(key.public_key)})" for key in exposed[:3])
    more = f" and {len(exposed) - 3} more" if len(exposed) > 3 else ""  # noqa: PLR2004 - as many as were named
    return [
        Finding(
            "keys",
            Verdict.WARN,
            f"can be taken out of the token: {named}{more}",
            "make new keys with `manahsm keys generate`: theirs are sensitive and not extractable",
        )
    ]


async def _signature(host: HostProcess, key: TokenKey) -> Finding:
    digest = message_digest(f"manahsm doctor: of no meaning ({secrets.token_hex(16)})")
    session = await host.open_session()
    began = time.perf_counter()
    signed = (await session.sign([(key.public_key, digest)]))[0]
    took = time.perf_counter() - began
    await session.close()
    if isinstance(signed, HSMFailure):
        return Finding("signature", Verdict.FAIL, f"key {key.label!r}: {signed}", _advice(signed))
    try:
        complete(signed, digest, key.public_key)
    except SignatureMismatch as mismatch:
        return Finding(
            "signature",
            Verdict.FAIL,
            f"key {key.label!r}: {mismatch}",
            "do not use this token: ask its vendor why it signs with another key",
        )
    address = address_of(key.public_key)
    return Finding("signature", Verdict.OK, f"key {key.label!r} signed for {address} in {took * 1000:.1f} ms")
