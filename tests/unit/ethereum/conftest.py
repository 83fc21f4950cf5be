"""Hypothesis without deadlines: the first example pays for imports, and test machines are shared."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
