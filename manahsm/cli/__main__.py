"""``python -m manahsm.cli``: the same as ``manahsm``."""

from __future__ import annotations

from manahsm.cli import main

if __name__ == "__main__":
    main()
