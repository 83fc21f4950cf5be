"""Logging: structured events, written through the standard library's loggers under ``manahsm``.

The one thing to know: an embedding program decides where they go, as with any library, through :mod:`logging`; only
the command (:mod:`manahsm.run`) sets up a handler, on standard error.
"""

from __future__ import annotations

import logging
import sys
import time

import structlog
from structlog.stdlib import BoundLogger

__all__ = ["configure_logging", "get_logger"]


def get_logger(name: str) -> BoundLogger:
    """Return a logger whose events take key-value pairs: ``log.info("host ready", pid=7)``."""
    logger: BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0),
        ],
        wrapper_class=BoundLogger,
    )
    return logger


def configure_logging(*, debug: bool) -> None:
    """Send events of ``info`` and above (or everything, with ``debug``) to standard error, times in UTC."""
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)-8s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    ours = logging.getLogger("manahsm")
    ours.handlers[:] = [handler]
    ours.propagate = False
    ours.setLevel(logging.DEBUG if debug else logging.INFO)
