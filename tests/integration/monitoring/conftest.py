"""Fixtures of the monitoring tests."""

from __future__ import annotations

from p11fault import p11fault
from softhsm import make_softhsm_token, softhsm_token

__all__ = ["make_softhsm_token", "p11fault", "softhsm_token"]
