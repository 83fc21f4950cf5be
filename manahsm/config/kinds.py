"""The kinds of value that manahsm's settings take; :mod:`manahsm.config.options` tells of their two forms.

Nothing is guessed: a string is not a number, a number is not a boolean, a boolean is not a number. Only
whole words of closed sets are repeated in messages; free text, paths' contents and secrets are not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import attrs

from manahsm.config.options import Kind, OptionError, echo, nearest, options_of, read_table, type_name
from manahsm.config.secret import Secret
from manahsm.errors import ConfigError, ConfigProblem

__all__ = [
    "Choice",
    "Choices",
    "FilePath",
    "Fixed",
    "Flag",
    "Integer",
    "Milliseconds",
    "Number",
    "SecretText",
    "Table",
    "Tables",
    "Text",
    "Texts",
    "Variables",
]

MILLISECONDS_IN_A_SECOND = 1000
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_NAME = re.compile(r"(^|_)(PIN|PASS|PASSWORD|PASSPHRASE|SECRET)(_|$)", re.IGNORECASE)


class Flag(Kind):
    """``true`` or ``false``."""

    def describe(self) -> str:
        """The type."""
        return "boolean"

    def parse(self, raw: object) -> bool:
        """Check the type, then the value."""
        if isinstance(raw, bool):
            return raw
        raise OptionError(f"expected true or false, got {type_name(raw)}")


@attrs.frozen
class Integer(Kind):
    """A whole number from ``least`` to ``most``."""

    least: int
    most: int

    def describe(self) -> str:
        """The type and its range."""
        return f"integer, {self.least} to {self.most}"

    def parse(self, raw: object) -> int:
        """Check the type, then the value."""
        if isinstance(raw, bool) or not isinstance(raw, int):
            raise OptionError(f"expected a whole number, got {type_name(raw)}")
        if not self.least <= raw <= self.most:
            raise OptionError(f"must be from {self.least} to {self.most}")
        return raw


@attrs.frozen
class Number(Kind):
    """A number from ``least`` to ``most``; whole numbers are fine too."""

    least: float
    most: float

    def describe(self) -> str:
        """The type and its range."""
        return f"number, {_plain(self.least)} to {_plain(self.most)}"

    def parse(self, raw: object) -> float:
        """Check the type, then the value."""
        return float(_number(raw, self.least, self.most))


@attrs.frozen
class Milliseconds(Kind):
    """A length of time: milliseconds in files, seconds inside. ``least`` and ``most`` are milliseconds."""

    least: int
    most: int
    unit: ClassVar[str] = "ms"

    def describe(self) -> str:
        """The type and its range."""
        return f"number, {self.least} to {self.most}"

    def parse(self, raw: object) -> float:
        """Check the type, then the value."""
        return _number(raw, self.least, self.most) / MILLISECONDS_IN_A_SECOND

    def check(self, value: object) -> float:
        """Judge a time in seconds."""
        least, most = (bound / MILLISECONDS_IN_A_SECOND for bound in (self.least, self.most))
        return float(_number(value, least, most))

    def show(self, value: float) -> float:
        """Milliseconds, whole where they are (and free of the noise of the binary fraction)."""
        milliseconds = round(value * MILLISECONDS_IN_A_SECOND, 6)
        return int(milliseconds) if milliseconds.is_integer() else milliseconds


def _number(raw: object, least: float, most: float) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise OptionError(f"expected a number, got {type_name(raw)}")
    if not least <= raw <= most:  # true for NaN
        raise OptionError(f"must be from {_plain(least)} to {_plain(most)}")
    return raw


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


@attrs.frozen
class Choice(Kind):
    """One word of an enum."""

    words: type[StrEnum]

    def describe(self) -> str:
        """The words themselves."""
        return ", ".join(f"`{word}`" for word in self.words)

    def parse(self, raw: object) -> StrEnum:
        """Check the type, then the value."""
        if not isinstance(raw, str):
            raise OptionError(f"expected one of {', '.join(self.words)}; got {type_name(raw)}")
        for word in self.words:
            if raw == word:
                return word
        raise OptionError(f"unknown value '{echo(raw)}'; {nearest(raw, self.words)}")

    def show(self, value: StrEnum) -> str:
        """The word as a plain string."""
        return str(value)


@attrs.frozen
class Choices(Kind):
    """A list of words of an enum, each at most once; kept as a tuple in the enum's order."""

    words: type[StrEnum]

    def describe(self) -> str:
        """The words themselves."""
        return "list of " + ", ".join(f"`{word}`" for word in self.words)

    def parse(self, raw: object) -> tuple[StrEnum, ...]:
        """Check the type, then the value."""
        if not isinstance(raw, list | tuple | set | frozenset):
            raise OptionError(f"expected a list, got {type_name(raw)}")
        named = {Choice(self.words).parse(word) for word in raw}
        return tuple(word for word in self.words if word in named)

    def show(self, value: tuple[StrEnum, ...]) -> list[str]:
        """A list of plain strings."""
        return [str(word) for word in value]


@attrs.frozen
class Text(Kind):
    """A printable string of 1 to ``longest`` UTF-8 bytes, without blanks at its ends."""

    longest: int

    def describe(self) -> str:
        """The type and its length."""
        return f"string, at most {self.longest} bytes"

    def parse(self, raw: object) -> str:
        """Check the type, then the value."""
        if not isinstance(raw, str):
            raise OptionError(f"expected a string, got {type_name(raw)}")
        if not raw or raw != raw.strip() or not raw.isprintable():
            raise OptionError("must be printable, not empty, and without blanks at its ends")
        if len(raw.encode()) > self.longest:
            raise OptionError(f"must be at most {self.longest} bytes long in UTF-8")
        return raw


@attrs.frozen
class Texts(Kind):
    """A list of at most ``most`` strings, each as :class:`Text` takes it and at most once; kept as a tuple."""

    longest: int
    most: int

    def describe(self) -> str:
        """The type."""
        return f"list of strings, each at most {self.longest} bytes"

    def parse(self, raw: object) -> tuple[str, ...]:
        """Check the type, then each value."""
        if not isinstance(raw, list | tuple):
            raise OptionError(f"expected a list, got {type_name(raw)}")
        if len(raw) > self.most:
            raise OptionError(f"has {len(raw)} entries, but at most {self.most} are taken")
        texts = tuple(Text(self.longest).parse(item) for item in raw)
        if len(set(texts)) < len(texts):
            raise OptionError("has an entry twice")
        return texts

    def show(self, value: tuple[str, ...]) -> list[str]:
        """A list."""
        return list(value)


class FilePath(Kind):
    """A path of a file or directory, made absolute; ``~`` is the home directory."""

    def describe(self) -> str:
        """The type."""
        return "path"

    def parse(self, raw: object) -> Path:
        """Check the type, then the value."""
        if not isinstance(raw, str | Path):
            raise OptionError(f"expected a path, got {type_name(raw)}")
        written = str(raw)
        if not raw or not written.isprintable():
            raise OptionError("must be a path: printable and not empty")
        # os.path and not pathlib: an unknown ~user must not raise, and symbolic links stay as written.
        return Path(os.path.abspath(os.path.expanduser(written)))  # noqa: PTH100, PTH111

    def show(self, value: Path) -> str:
        """The path as a string."""
        return str(value)


class SecretText(Kind):
    """A PIN: a string that is never shown."""

    def describe(self) -> str:
        """The type."""
        return "string (secret)"

    def parse(self, raw: object) -> Secret:
        """Check the type, then the value."""
        if isinstance(raw, int) and not isinstance(raw, bool):
            raise OptionError("write it in quotes: as a number it would lose leading zeros")
        value = raw if isinstance(raw, Secret) else Secret(raw) if isinstance(raw, str) else None
        if value is None:
            raise OptionError(f"expected a string, got {type_name(raw)}")
        if not value.reveal() or not _is_utf8(value.reveal()):
            raise OptionError("must be UTF-8 text and not empty")
        return value

    def show(self, value: Secret) -> str:
        """Three stars, whatever it is."""
        del value
        return "***"


def _is_utf8(text: str) -> bool:
    """False for the stand-ins that Python puts for bytes of the environment that are not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


@attrs.frozen
class Fixed(Kind):
    """One value only, an option so that a configuration can state it. ``reason`` tells why it is fixed."""

    value: bool | int | str
    reason: str

    def describe(self) -> str:
        """The only value."""
        return f"only `{str(self.value).lower()}`"

    def parse(self, raw: object) -> bool | int | str:
        """Check the type, then the value."""
        if type(raw) is type(self.value) and raw == self.value:
            return self.value
        raise OptionError(f"must be {str(self.value).lower()}: {self.reason}")


class Variables(Kind):
    """Environment variables for the processes that load a vendor's library: names to strings, read-only."""

    def describe(self) -> str:
        """The type."""
        return "table of strings"

    def parse(self, raw: object) -> Mapping[str, str]:
        """Check the type, then the value."""
        if not isinstance(raw, Mapping):
            raise OptionError(f"expected a table, got {type_name(raw)}")
        problems = [
            ConfigProblem(echo(str(name)), fault)
            for name, value in raw.items()
            if (fault := self._fault(name, value)) is not None
        ]
        if problems:
            raise ConfigError(problems)
        return MappingProxyType(dict(raw))

    @staticmethod
    def _fault(name: object, value: object) -> str | None:
        if not isinstance(name, str) or not _VARIABLE_NAME.fullmatch(name):
            return "is no name of an environment variable"
        if _SECRET_NAME.search(name):
            return "secrets do not belong in an environment; use pin_file"
        if not isinstance(value, str):
            return f"expected a string, got {type_name(value)}"
        return None if value.isprintable() else "must be printable"

    def show(self, value: Mapping[str, str]) -> dict[str, str]:
        """A plain dict."""
        return dict(value)


@attrs.frozen
class Table(Kind):
    """A nested table."""

    cls: type

    def describe(self) -> str:
        """The type."""
        return "table"

    def parse(self, raw: object) -> Any:
        """Check the type, then the value."""
        problems: list[ConfigProblem] = []
        table = read_table(self.cls, raw, "", problems)
        if problems:
            raise ConfigError(problems)
        return table

    def check(self, value: object) -> Any:
        """Take an instance only: a mapping would leave it open which form its times have."""
        if isinstance(value, self.cls):
            return value
        raise OptionError(f"expected {self.cls.__name__}, got {type_name(value)}; load_config takes mappings")

    def show(self, value: Any) -> dict[str, Any]:
        """Every option that is set, in file form."""
        return {
            name: setting.kind.show(held)
            for name, setting in options_of(self.cls).items()
            if (held := getattr(value, name)) is not None
        }


@attrs.frozen
class Tables(Kind):
    """A list of tables, kept as a tuple."""

    cls: type

    def describe(self) -> str:
        """The type."""
        return "list of tables"

    def parse(self, raw: object) -> tuple[Any, ...]:
        """Check the type, then the value."""
        if not isinstance(raw, list | tuple):
            raise OptionError(f"expected a list of tables, got {type_name(raw)}")
        problems: list[ConfigProblem] = []
        tables = [read_table(self.cls, item, f"[{index}]", problems) for index, item in enumerate(raw)]
        if problems:
            raise ConfigError(problems)
        return tuple(tables)

    def check(self, value: object) -> tuple[Any, ...]:
        """Take a list or tuple of instances."""
        if not isinstance(value, list | tuple):
            raise OptionError(f"expected a list, got {type_name(value)}")
        return tuple(Table(self.cls).check(item) for item in value)

    def show(self, value: tuple[Any, ...]) -> list[dict[str, Any]]:
        """A list of tables in file form."""
        return [Table(self.cls).show(item) for item in value]
