"""Fixtures of the fault tests."""

from __future__ import annotations

from p11fault import p11fault
from p11fault_applications import client, ready, spawn
from softhsm import make_softhsm_token, softhsm_token

__all__ = ["client", "make_softhsm_token", "p11fault", "ready", "softhsm_token", "spawn"]
