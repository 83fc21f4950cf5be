"""Drives the PKCS#11 module that misbehaves on request (tests/faults/p11fault.c), and reads what it counted.

The one thing to know: rules hold from the next call on, in every process that has the module loaded, and their counts
are of all these processes together: ``Return("C_Sign", "CKR_DEVICE_ERROR", count=3)`` fails three calls and no more.

    async def test_it(p11fault: FaultModule) -> None:
        rule = Return("C_Sign", "CKR_DEVICE_ERROR", count=3)
        p11fault.set(rule, Delay("*", 1, jitter=49), Quirk(QuirkName.RAW_EC_POINT))
        async with running(p11fault.settings()) as host: ...
        assert p11fault.fired(rule) == 3
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import itertools
import mmap
import os
import struct
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from p11fault_rules import FUNCTIONS, Directive, Rule
from softhsm import SoftHSMToken

from manahsm.hsm.settings import HostSettings

__all__ = ["FaultModule", "build", "p11fault"]

_SCRIPT = Path(__file__).parent.parent / "scripts" / "build-faults"


@functools.cache
def build() -> Path:
    """The compiled module; compiled now where this was not done yet."""
    done = subprocess.run([_SCRIPT], capture_output=True, text=True, check=False)  # noqa: S603 - our own script
    if done.returncode != 0:
        pytest.fail(f"the fault module can not be built: {done.stderr}")
    return Path(done.stdout.strip())


_RULE_COUNTERS = 4096
_APPLICATIONS = 256


class _RuleCounts(ctypes.Structure):
    _fields_ = (("seen", ctypes.c_uint64), ("fired", ctypes.c_uint64))


class _Application(ctypes.Structure):
    _fields_ = (("pid", ctypes.c_uint64), ("sessions", ctypes.c_uint64), ("hanging", ctypes.c_uint64))


class _SharedCounts(ctypes.Structure):
    """``shared_counts`` of p11fault.c."""

    _fields_ = (
        ("calls", ctypes.c_uint64 * len(FUNCTIONS)),
        ("reused", ctypes.c_uint64),
        ("rules", _RuleCounts * _RULE_COUNTERS),
        ("applications", _Application * _APPLICATIONS),
    )


class FaultModule:
    """The misbehaving module over a SoftHSM token. Close it, or use it as a context manager."""

    def __init__(self, token: SoftHSMToken, library: Path, control: Path) -> None:
        """Behave, to begin with.

        Args:
            token: what it forwards to.
            library: the compiled module, see :func:`build`.
            control: the control file, which is made; its counts are kept beside it.
        """
        self.token = token
        self.library = library
        self.control = control
        self._rule_ids = itertools.count(1)
        self._ids: dict[Rule, int] = {}
        self._directives: tuple[Directive, ...] = ()
        self._edition = 0
        self._file = os.open(f"{control}.state", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, ctypes.sizeof(_SharedCounts))
        self._memory = mmap.mmap(self._file, ctypes.sizeof(_SharedCounts))
        self._counts: _SharedCounts | None = _SharedCounts.from_buffer(self._memory)
        self.set()

    @classmethod
    def over(cls, token: SoftHSMToken, control: Path) -> FaultModule:
        """One more over a token, with a control file of its own."""
        return cls(token, build(), control)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Behave from now on, and let go of the counts. Harmless when it is closed."""
        if self._counts is not None:
            self.set()
            self._counts = None
            self._memory.close()
            os.close(self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that a process needs which loads the module."""
        return {
            **self.token.environment,
            "P11FAULT_REAL": str(self.token.library),
            "P11FAULT_CONTROL": str(self.control),
        }

    def settings(self, **changes: Any) -> HostSettings:
        """Settings of a host that loads the module; ``changes`` replace single fields."""
        return self.token.host_settings(
            **{"library_path": str(self.library), "environment": self.environment, **changes}
        )

    def config_changes(self) -> dict[str, Any]:
        """What ``services.config_for(token, directory, ...)`` needs for a service that loads the module."""
        return {"library_path": str(self.library), "environment": dict(self.environment)}

    # ---- what it shall do ----

    def set(self, *directives: Directive) -> None:
        """From now on these and no others; their counts begin at 0."""
        self._number(directives)
        self._write(directives)

    def clear(self) -> None:
        """Behave."""
        self.set()

    def add(self, *directives: Directive) -> None:
        """These too, from 0; those that are there go on counting."""
        self._number(directives)
        self._write((*self._directives, *directives))

    def lift(self, *directives: Directive) -> None:
        """These not any more; the others go on counting."""
        self._write(tuple(directive for directive in self._directives if directive not in directives))

    def _number(self, directives: tuple[Directive, ...]) -> None:
        for directive in directives:
            if isinstance(directive, Rule):
                number = next(self._rule_ids) % _RULE_COUNTERS
                self._shared.rules[number].seen = self._shared.rules[number].fired = 0
                self._ids[directive] = number

    def _write(self, directives: tuple[Directive, ...]) -> None:
        self._directives = directives
        lines = []
        for directive in directives:
            line = directive.line()
            if isinstance(directive, Rule):
                line = f"{line} id={self._ids[directive]}"
            lines.append(f"{line}\n")
        replacement = self.control.with_name(f"{self.control.name}.new")
        replacement.write_text("".join(lines))
        # The module looks at inode, size and time. A file system's clock is coarse and inodes are used again.
        self._edition += 1
        os.utime(replacement, ns=(self._edition, self._edition))
        replacement.rename(self.control)

    # ---- what it counted, over all processes ----

    @property
    def _shared(self) -> _SharedCounts:
        if self._counts is None:
            raise ValueError("the fault module is closed")
        return self._counts

    def calls(self, *functions: str) -> int:
        """Calls of these functions since the control file was made, those that failed or hang among them."""
        return sum(int(self._shared.calls[FUNCTIONS.index(function)]) for function in functions)

    def seen(self, rule: Rule) -> int:
        """Calls that came by a rule since it was last set or added."""
        return int(self._shared.rules[self._ids[rule]].seen)

    def fired(self, rule: Rule) -> int:
        """How often a rule did what it says since it was last set or added; it may have been lifted meanwhile."""
        return int(self._shared.rules[self._ids[rule]].fired)

    @property
    def reused_after_failure(self) -> int:
        """Calls of C_SignInit and C_Sign on sessions where one of them had failed before."""
        return int(self._shared.reused)

    def open_sessions(self, pid: int | None = None) -> int:
        """Sessions open in one living process, or in all of them."""
        return sum(int(each.sessions) for each in self._living() if pid in (None, each.pid))

    def hanging(self) -> int:
        """Calls that wait for a :class:`Hang` to be lifted, in living processes."""
        return sum(int(each.hanging) for each in self._living())

    def _living(self) -> Iterator[_Application]:
        for number, application in enumerate(self._shared.applications):
            if (application.sessions or application.hanging) and self._is_locked(number):
                yield application

    def _is_locked(self, byte: int) -> bool:
        """A process holds the lock on its byte as long as it lives; struct flock of Linux."""
        layout = "hhqqi4x"
        asked = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        answer = struct.unpack(layout, fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, asked))
        return bool(answer[0] != fcntl.F_UNLCK)


@pytest.fixture
def p11fault(softhsm_token: SoftHSMToken, tmp_path: Path) -> Iterator[FaultModule]:
    """The module over a fresh token; it behaves until it is told otherwise, and again after the test."""
    with FaultModule.over(softhsm_token, tmp_path / "p11fault.control") as module:
        yield module
