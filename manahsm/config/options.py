"""What an option is: the kinds of value that a setting may take, and how a table of them is read.

A table of settings is a frozen attrs class whose fields come from :func:`option`. The kind, the default and
the meaning that are written there are all there is: reading, checking, the sample files and the reference
table in docs/configuration.md follow from them.

Every value has two forms. The *file form* is what a user writes (milliseconds, strings); the *inside form*
is what the program holds (seconds, enums, paths). ``parse`` goes in, ``show`` comes back out, ``check``
judges a value that is inside already. What can not be used raises :class:`OptionError` with a sentence for
the user.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import attrs

from manahsm.errors import ConfigError, ConfigProblem

__all__ = [
    "Kind",
    "Option",
    "OptionError",
    "echo",
    "join_path",
    "nearest",
    "option",
    "options_of",
    "read_table",
    "type_name",
]

_OPTION = "manahsm.option"
_LONGEST_ECHO = 40
_TYPE_NAMES: tuple[tuple[type, str], ...] = (
    (bool, "a boolean"),  # before int: a bool is one
    (int, "an integer"),
    (float, "a number with a fraction"),
    (str, "a string"),
    (Mapping, "a table"),
    (list, "a list"),
    (tuple, "a list"),
)


class OptionError(ValueError):
    """A value can not be used. The message is for the user and never repeats a secret."""


class Kind(ABC):
    """One kind of value.

    Attributes:
        unit: unit of the file form, or an empty string.
    """

    unit: ClassVar[str] = ""

    @abstractmethod
    def describe(self) -> str:
        """The type and its range, as the reference table shows them."""

    @abstractmethod
    def parse(self, raw: object) -> Any:
        """Turn the file form into the inside form, or raise :class:`OptionError`."""

    def check(self, value: object) -> Any:
        """Return an inside form as it is kept, or raise. Same as ``parse`` where both agree."""
        return self.parse(value)

    def show(self, value: Any) -> Any:
        """Turn an inside form back into the file form (what :func:`parse` takes)."""
        return value


@attrs.frozen
class Option:
    """One setting of a table.

    Attributes:
        name: key in the file and attribute of the class.
        kind: what values it takes.
        doc: its meaning, one or two sentences.
        default_text: how the reference shows the default where the value alone would mislead, else ``None``.
    """

    name: str
    kind: Kind
    doc: str
    default_text: str | None


def option(kind: Kind, default: Any, doc: str, *, default_text: str | None = None) -> Any:
    """Declare a field of a settings table.

    Args:
        kind: what values it takes.
        default: inside form, or an ``attrs.Factory``.
        doc: its meaning for the reference table and the sample files.
        default_text: shown instead of the default where the value depends on the machine or the vendor.
    """

    def kept(value: object, instance: Any, field: attrs.Attribute[Any]) -> Any:
        if value is None and field.default is None:
            return None
        try:
            return kind.check(value)
        except OptionError as error:
            problem = ConfigProblem(f"{type(instance).__name__}.{field.name}", str(error))
        raise ConfigError([problem])

    return attrs.field(
        default=default,
        converter=attrs.Converter(kept, takes_self=True, takes_field=True),
        metadata={_OPTION: (kind, doc, default_text)},
        # Mappings have no hash; everything else decides equality and hash together.
        hash=False if isinstance(default, Mapping) else None,
    )


def options_of(cls: type) -> dict[str, Option]:
    """All settings of a table class, by name, in the order in which they are declared."""
    return {
        field.name: Option(field.name, *field.metadata[_OPTION])
        for field in attrs.fields(cls)
        if _OPTION in field.metadata
    }


def read_table(cls: type, raw: object, path: str, problems: list[ConfigProblem]) -> Any:
    """Build ``cls`` from a mapping in file form; every fault is appended to ``problems``.

    An instance comes back whatever is wrong, with defaults where a value could not be used, so that the rest
    can be judged in the same pass. ``None`` (JSON ``null``) stands for "not set".

    Args:
        cls: a table class.
        raw: what the user wrote.
        path: dotted path of the table.
        problems: where faults go.
    """
    if not isinstance(raw, Mapping):
        problems.append(ConfigProblem(path, f"expected a table, got {type_name(raw)}"))
        return cls()
    known = options_of(cls)
    problems.extend(_unknown_keys(raw, known, path))
    values: dict[str, Any] = {}
    for name, setting in known.items():
        written = raw.get(name)
        if written is None:
            continue
        here = join_path(path, name)
        try:
            values[name] = setting.kind.parse(written)
        except ConfigError as error:
            problems.extend(ConfigProblem(join_path(here, p.path), p.message) for p in error.problems)
        except OptionError as error:
            problems.append(ConfigProblem(here, str(error)))
    return cls(**values)


def _unknown_keys(raw: Mapping[Any, Any], known: Iterable[str], path: str) -> Iterable[ConfigProblem]:
    for key in raw:
        if not isinstance(key, str):
            yield ConfigProblem(path, f"keys must be strings, got {type_name(key)}")
        elif key not in known:
            yield ConfigProblem(join_path(path, echo(key)), "unknown key; " + nearest(key, known))


def join_path(parent: str, child: str) -> str:
    """``a`` and ``b`` make ``a.b``; ``a`` and ``[0].b`` make ``a[0].b``."""
    separator = "" if not parent or not child or child.startswith("[") else "."
    return parent + separator + child


def echo(text: str) -> str:
    """A user's own word, made fit for one line of an error message."""
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= _LONGEST_ECHO else shown[:_LONGEST_ECHO] + "..."


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which known word was probably meant, or list them all."""
    words = list(known)
    close = difflib.get_close_matches(word[:_LONGEST_ECHO].lower(), words, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "known are: " + ", ".join(words)


def type_name(value: object) -> str:
    """What a user calls the type of a value that a file or a mapping gave."""
    named = (name for cls, name in _TYPE_NAMES if isinstance(value, cls))
    return next(named, f"a value of type {type(value).__name__}")
