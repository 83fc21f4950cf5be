"""Fixtures of the HTTP interface's tests."""

from __future__ import annotations

from softhsm import softhsm_token

__all__ = ["softhsm_token"]
