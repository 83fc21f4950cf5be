"""Where settings come from: a file or mapping, the environment, arguments; and how one is laid over another.

A layer is a plain dict in file form. Laying a layer over another keeps tables whole and replaces everything
else, with one twist: settings that answer the same question go together. A layer that names a token
(``slot_id``, ``token_label``) or a PIN (``pin``, ``pin_file``) takes both answers of lower layers away, so
that ``HSM_TOKEN_LABEL`` is not checked against the ``slot_id`` of a file that was written for another
token.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from manahsm.config.kinds import FilePath, SecretText, Table, Tables, Variables
from manahsm.config.options import OptionError, echo, join_path, options_of, type_name
from manahsm.config.secret import Secret
from manahsm.config.vendors import PROFILES
from manahsm.errors import ConfigError, ConfigProblem
from manahsm.nesting import too_deep

__all__ = ["Layer", "lay_over", "read_environment", "read_file", "settle", "table_of"]

Layer = dict[str, Any]

_SAME_QUESTION = (frozenset({"slot_id", "token_label"}), frozenset({"pin", "pin_file"}))
_PATH_VARIABLES = {v.name for profile in PROFILES.values() for v in profile.variables if v.is_path}
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def _parse(content: bytes, *, is_json: bool) -> object:
    if too_deep(content):
        raise RecursionError
    if is_json:
        return json.loads(content, object_pairs_hook=_without_duplicates)
    return tomllib.loads(content.decode())


def read_file(path: Path) -> object:
    """Parse a file: JSON if its name ends in ``.json``, else TOML.

    Raises:
        ConfigError: it can not be read or is no such document; never with any of its text.
    """
    try:
        return _parse(path.read_bytes(), is_json=path.suffix.lower() == ".json")
    except OSError as error:
        fault = f"can not be read: {error.strerror}"
    except json.JSONDecodeError as error:
        fault = f"is not valid JSON: {error.msg} (at line {error.lineno}, column {error.colno})"
    except tomllib.TOMLDecodeError as error:
        fault = f"is not valid TOML: {error}"
    except UnicodeDecodeError:
        fault = "is not UTF-8 text"
    except OptionError as error:
        fault = str(error)
    except ValueError:
        fault = "holds a number or a path that can not be read"
    except RecursionError:
        fault = "is nested too deeply"
    # Outside the handlers: those exceptions carry the document, and with it perhaps a PIN.
    raise ConfigError([ConfigProblem(str(path), fault)])


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise OptionError(f"sets '{echo(twice)}' twice")
    return table


def table_of(document: object, path: str, problems: list[ConfigProblem]) -> Mapping[Any, Any]:
    """The settings in a document: its table ``hsm``, or all of it where there is no such table.

    Faults of the document go to ``problems``: it is no table, or has something beside its table ``hsm``.
    """
    if isinstance(document, Mapping) and "hsm" in document:
        strangers = (key for key in document if key != "hsm")
        problems.extend(ConfigProblem(path, f"'{echo(str(key))}' is outside of [hsm]") for key in strangers)
        document = document["hsm"]
    if isinstance(document, Mapping):
        return document
    problems.append(ConfigProblem("hsm", f"expected a table, got {type_name(document)}"))
    return {}


def settle(cls: type, raw: Mapping[Any, Any], base: Path) -> Layer:
    """Copy a table with its paths made absolute against ``base`` and its secrets wrapped.

    What has the wrong type stays as it is, for :func:`manahsm.config.options.read_table` to report.
    """
    settled = dict(raw)
    for name, setting in options_of(cls).items():
        value = settled.get(name)
        match setting.kind:
            case Table(cls=nested) if isinstance(value, Mapping):
                settled[name] = settle(nested, value, base)
            case Tables(cls=nested) if isinstance(value, list | tuple):
                settled[name] = [settle(nested, v, base) if isinstance(v, Mapping) else v for v in value]
            case Variables() if isinstance(value, Mapping):
                settled[name] = {k: _anchor(v, base) if k in _PATH_VARIABLES else v for k, v in value.items()}
            case FilePath():
                settled[name] = _anchor(value, base)
            case SecretText() if isinstance(value, str):
                settled[name] = Secret(value)
    return settled


def _anchor(value: object, base: Path) -> object:
    """A relative path that can be used at all, made absolute against ``base``; anything else as it is."""
    if not isinstance(value, str | Path) or not str(value) or str(value).startswith(("/", "~")):
        return value
    return str(base / value)


def lay_over(cls: type, lower: Mapping[Any, Any], higher: Mapping[Any, Any]) -> Layer:
    """One layer from two; ``None`` in the higher one leaves what the lower one says."""
    given = {name: value for name, value in higher.items() if value is not None}
    replaced = {name for question in _SAME_QUESTION if question & given.keys() for name in question}
    result = {name: value for name, value in lower.items() if name not in replaced}
    for name, value in given.items():
        result[name] = _laid_over(cls, name, result.get(name), value)
    return result


def _laid_over(cls: type, name: str, lower: object, higher: object) -> object:
    setting = options_of(cls).get(name)
    if setting is None or not isinstance(lower, Mapping) or not isinstance(higher, Mapping):
        return higher
    match setting.kind:
        case Table(cls=nested):
            return lay_over(nested, lower, higher)
        case Variables():
            return {**lower, **higher}
        case _:
            return higher


def read_environment(environ: Mapping[str, str], problems: list[ConfigProblem]) -> Layer:
    """The settings in ``HSM_*`` variables. An empty variable counts as unset.

    ``HSM_PIN_FILE`` wins over ``HSM_PIN``.
    """
    layer: Layer = {}
    for variable, (name, convert) in _VARIABLES.items():
        written = environ.get(variable, "")
        if not written:
            continue
        try:
            layer[name] = convert(written)
        except OptionError as error:
            problems.append(ConfigProblem(join_path("hsm", name), f"{variable}: {error}"))
    if "pin_file" in layer:
        layer.pop("pin", None)
    return layer


def _flag(word: str) -> bool:
    folded = word.strip().lower()
    if folded not in _TRUE | _FALSE:
        raise OptionError("expected true or false")
    return folded in _TRUE


def _slot_number(word: str) -> int:
    try:
        return int(word, 0)
    except ValueError:
        fault = OptionError("expected a slot number, decimal or with 0x")
    raise fault


_VARIABLES: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "HSM_ENABLED": ("enabled", _flag),
    "HSM_VENDOR": ("vendor", str),
    "HSM_LIBRARY_PATH": ("library_path", str),
    "HSM_SLOT_ID": ("slot_id", _slot_number),
    "HSM_PIN": ("pin", Secret),
    "HSM_PIN_FILE": ("pin_file", str),
    "HSM_TOKEN_LABEL": ("token_label", str),
}


def variable_names() -> Iterable[str]:
    """The environment variables that are read."""
    return _VARIABLES.keys()
