"""Looking for records in a log: what to look for, and how a record is printed.

The one thing to know: nothing is verified here, and whatever is printed is printable ASCII: a record that somebody
tampered with can not speak to the terminal of whoever reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import frozen

from manahsm.audit.lines import one_line, word
from manahsm.audit.reading import read_lines
from manahsm.nesting import too_deep

__all__ = ["Query", "describe", "moment", "show"]

_SHOWN = ("operation", "outcome", "key_id", "caller", "request_id", "chain_id", "backend", "slot", "tx_hash", "reason")


@frozen(kw_only=True)
class Query:
    """What to look for; ``None`` admits everything.

    Attributes:
        key: a key id or an address.
        caller: exactly this caller.
        outcome, event: their words.
        since: not before this time, in the form that :func:`moment` gives.
        until: before this time.
    """

    key: str | None = None
    caller: str | None = None
    outcome: str | None = None
    event: str | None = None
    since: str | None = None
    until: str | None = None

    def admits(self, record: dict[str, Any]) -> bool:
        """Whether a record is one of those looked for (pure)."""
        time = str(record.get("time", ""))
        return (
            (self.key is None or self.key.lower() in _keys_of(record))
            and all(
                wanted is None or record.get(name) == wanted
                for name, wanted in (("caller", self.caller), ("outcome", self.outcome), ("event", self.event))
            )
            and (self.since is None or self.since <= time)
            and (self.until is None or time < self.until)
        )


def _keys_of(record: dict[str, Any]) -> set[str]:
    return {str(record.get(name)).lower() for name in ("key_id", "address") if record.get(name) is not None}


def moment(text: str) -> str:
    """A time as records hold it: ISO 8601 in UTC, with microseconds, so that text order is time order.

    Args:
        text: a date, or a date and time; without an offset it is UTC.

    Raises:
        ValueError: it is something else.
    """
    given = datetime.fromisoformat(text)
    utc = given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
    return utc.isoformat(timespec="microseconds")[:26] + "Z"


def show(directory: Path, query: Query, *, warn: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Every record that is looked for, oldest first.

    Args:
        directory: where the log is.
        query: what to look for.
        warn: told of each line that is no record.

    Raises:
        OSError: a segment can not be read.
    """
    for line in read_lines(directory):
        if line.growing:
            warn(f"{line.place}: incomplete last line (being written, or torn)")
            continue
        try:
            record = None if too_deep(line.content) else json.loads(line.content)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            warn(f"{line.place}: no record; see verify")
        elif query.admits(record):
            yield record


def describe(record: dict[str, Any]) -> str:
    """A record on one line, for people (pure)."""
    named = [f"{name}={word(record[name])}" for name in _SHOWN if record.get(name) is not None]
    if record.get("diverted"):
        named.append("diverted=true")
    if record.get("summary"):
        named.append(one_line(record["summary"]))
    return " ".join([word(record.get("seq")), word(record.get("time")), word(record.get("event")), *named])
