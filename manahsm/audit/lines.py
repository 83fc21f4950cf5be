"""The log lines that people grep for, made of audit records (pure).

The one thing to know: these lines are for eyes and grep; what proves anything is the audit log itself. They carry less
than a record does (no summary of what was signed), and every character in them is printable ASCII, so that nothing a
caller sends can end a line early or speak to a terminal.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from manahsm.audit.records import AuditEvent, AuditOutcome, AuditRecord

__all__ = ["hsm_line", "one_line", "signing_line", "word"]

_RESULTS = {AuditOutcome.REFUSED: "refused", AuditOutcome.FAILED: "failure"}
_PLAIN = re.compile(r"[!#-\[\]-~]+")  # printable ASCII without blank, quote and backslash


def hsm_line(record: AuditRecord) -> str:
    """``HSM_AUDIT: key=abc123 operation=sign result=success``; a key that is not known is ``-``."""
    result = "success" if record.outcome is None else _RESULTS.get(record.outcome, "success")
    return f"HSM_AUDIT: key={word(record.key_id)} operation={record.event} result={result}"


def signing_line(record: AuditRecord) -> str | None:
    """``SIGNING_AUDIT: {"event":"transaction_signed",...}`` for what was to be signed, ``None`` for anything else."""
    if record.event is not AuditEvent.SIGN:
        return None
    said = {
        "event": f"{record.operation or 'request'}_{record.outcome or 'seen'}",
        "request_id": record.request_id,
        "caller": record.caller,
        "key": record.key_id,
        "address": record.address,
        "role": record.role,
        "chain_id": record.chain_id,
        "digest": record.digest,
        "tx_hash": record.tx_hash,
        "reason": record.reason,
        "duration": record.duration,
        "signature": _route(record),
    }
    return "SIGNING_AUDIT: " + one_line({name: value for name, value in said.items() if value is not None})


def one_line(value: Any) -> str:
    """JSON in printable ASCII on one line."""
    try:
        quick = msgspec.json.encode(value).decode()
    except (UnicodeEncodeError, TypeError):  # half of a pair of surrogates, or what only the standard library writes
        quick = ""
    if quick.isascii() and quick.isprintable() and quick:
        return quick
    return json.dumps(value, separators=(",", ":"))


def _route(record: AuditRecord) -> dict[str, Any] | None:
    """What made the signature, never the signature itself."""
    if record.backend is None:
        return None
    slot = {} if record.slot is None else {"slot": record.slot}
    return {"backend": record.backend, **slot, "diverted": record.diverted}


def word(value: Any) -> str:
    """A value that stays one word for whoever reads the line, whatever is in it; ``-`` for ``None``."""
    if value is None:
        return "-"
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else one_line(value)
