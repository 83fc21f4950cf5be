"""Where the time goes: cProfile over the loop of the service during its turns, by function and by package.

The one thing to know: the profiler makes every call slower, small functions most; the shares are right in kind, the
times are not those of the table. Host processes are not looked into.
"""

from __future__ import annotations

import cProfile
import io
import pstats
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

from attrs import define, field
from bench.turns import Contestant

__all__ = ["Profiler", "by_package", "package_of", "report"]

_TOP = 25
_PURE = Path(sysconfig.get_path("purelib"))
_STANDARD = Path(sysconfig.get_path("stdlib"))
_ROOT = Path(__file__).resolve().parents[2]

Stats = dict[tuple[str, int, str], Any]


@define
class Profiler:
    """Looks during the turns of contestants that went through :meth:`over`; does nothing unless it is ``wanted``."""

    wanted: bool = False
    profile: cProfile.Profile = field(factory=cProfile.Profile)
    _loaded: pstats.Stats | None = field(default=None, init=False)

    def over(self, work: Contestant) -> Contestant:
        """The same contestant, looked at while it works, with everything else in its thread."""
        if not self.wanted:
            return work

        async def turn(seconds: float) -> float:
            self.profile.enable()
            try:
                return await work(seconds)
            finally:
                self.profile.disable()

        return turn

    def load(self, file: Path) -> None:
        """Take what was seen in another process."""
        if self._loaded is None:
            self._loaded = pstats.Stats(str(file))
        else:
            self._loaded.add(str(file))

    def report(self) -> str:
        """What was seen."""
        return report(self._loaded or pstats.Stats(self.profile))


def report(stats: pstats.Stats) -> str:
    """The functions that took most themselves, and the packages."""
    output = io.StringIO()
    stats.stream = output  # type: ignore[attr-defined]
    stats.files = []  # type: ignore[attr-defined]
    stats.sort_stats("tottime").print_stats(_TOP)
    entries: Stats = stats.stats  # type: ignore[attr-defined]
    shares = by_package(entries)
    whole = sum(shares.values()) or 1.0
    lines = [f"  {seconds:8.3f} s  {seconds / whole:6.1%}  {name}" for name, seconds in shares.most_common(_TOP)]
    text = output.getvalue().strip().replace(f"{_PURE}/", "").replace(f"{_STANDARD}/", "").replace(f"{_ROOT}/", "")
    return "\n".join([text, "", "by package", *lines])


def by_package(entries: Stats) -> Counter[str]:
    """Seconds in the functions themselves, by the package that they are of; built-in ones by their own name."""
    shares: Counter[str] = Counter()
    for (file, _, name), (_, _, itself, *_) in entries.items():
        shares[package_of(file, name)] += itself
    return shares


def package_of(file: str, name: str) -> str:
    """What a function belongs to: ``manahsm.audit``, ``anyio``, ``stdlib asyncio``, or its own name if it is in C."""
    if file == "~":
        return name.strip("<>").removeprefix("built-in method ")
    path = Path(file)
    if path.is_relative_to(_PURE):
        return path.relative_to(_PURE).parts[0].removesuffix(".py")
    if path.is_relative_to(_STANDARD):
        return f"stdlib {path.relative_to(_STANDARD).parts[0].removesuffix('.py')}"
    if path.is_absolute() and path.is_relative_to(_ROOT):
        return ".".join(path.relative_to(_ROOT).with_suffix("").parts[:2])
    return f"generated {path.name.split(' ')[0].strip('<')}"
