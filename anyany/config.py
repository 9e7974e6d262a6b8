"""The strict configuration loader: YAML values into frozen dataclasses, or one clear line.

A configuration is a dataclass that stands beside the class it configures; a YAML file holds values
of its fields and nothing else. OmegaConf parses the YAML and the `key=value` overrides; the values
are then checked here against the fields' types without any conversion (OmegaConf alone would read
"3" as 3). The only widenings are a whole number for a float, a list for a tuple and text for a
Path. Every mistake is a ConfigError of one line: file, dotted key, nearest valid key.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import (
    Any,
    Final,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from anyany.errors import ConfigError, InternalError

T = TypeVar("T")

_ABSENT: Final = "???"  # OmegaConf's own sign for a value that must still be given
_SCALARS: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "null",
}


def load_config(path: str | Path, schema: type[T], overrides: Sequence[str] = ()) -> T:
    """Read a YAML file into the dataclass that it is written for.

    Args:
        path: the YAML file.
        schema: a dataclass; fields without a default must be in the file or the overrides.
        overrides: `key=value` each, the key dotted, the value in YAML; later ones win.

    Raises:
        ConfigError: the file is missing or no YAML mapping, a key is unknown or missing, a value
            has the wrong type, or an interpolation (`${`) was used.
    """
    source = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{source}: no such configuration file") from None
    except (OSError, UnicodeDecodeError, ValueError):
        raise ConfigError(f"{source}: expected a readable YAML file in UTF-8") from None
    data = _parse_yaml(text, source)
    for override in overrides:
        _apply_override(data, override, source)
    return from_dict(data, schema, source=source)


def from_dict(data: Mapping[str, Any], schema: type[T], *, source: str) -> T:
    """Build a dataclass from plain values, as strictly as from a file.

    Args:
        data: nested mappings of plain values.
        schema: the dataclass to build.
        source: what to call the origin of the values in errors.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type.
    """
    if not dataclasses.is_dataclass(schema):
        raise InternalError(f"expected a dataclass as configuration schema, got {schema!r}")
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}: expected a mapping of keys to values, got {_describe(data)}")
    _refuse_interpolation(data, "", source)
    built: T = _Builder(source, schema).build(data, schema, "")
    return built


def to_dict(config: object) -> dict[str, Any]:
    """Turn a configuration into plain values for JSON or YAML; `from_dict` reads them back."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise InternalError(f"expected a dataclass instance, got {type(config).__name__}")
    return {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.init
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _parse_yaml(text: str, source: str) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError, YAMLError  # type: ignore[import-untyped]

    data: Any
    try:
        data = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = " ".join((error.problem or "cannot be parsed").split())
        raise ConfigError(f"{source}: not valid YAML at line {line}: {problem}") from None
    except (YAMLError, OmegaConfBaseException, AssertionError, RecursionError, ValueError):
        what = "interpolation (${...}) is refused" if "${" in text else "expected a YAML mapping"
        raise ConfigError(f"{source}: {what}; write plain values under keys") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: expected a mapping of keys to values, got {_describe(data)}")
    return data


def _apply_override(data: dict[str, Any], override: str, source: str) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"{source}: expected an override as key=value, got {override!r}")
    where = f"{source} with {override!r}"
    value = _parse_yaml(f"value: {text}", where).get("value")
    place: Any = data
    for name in names[:-1]:
        if place.get(name) in (None, _ABSENT):
            place[name] = {}
        place = place[name]
        if not isinstance(place, dict):
            raise ConfigError(f"{where}: key {key!r} goes through {name!r}, which holds no keys")
    place[names[-1]] = value


def _refuse_interpolation(value: Any, key: str, source: str) -> None:
    if isinstance(value, str) and "${" in value:
        raise ConfigError(f"{source}: key {key!r}: interpolation (${{...}}) is refused")
    if isinstance(value, Mapping):
        for name, item in value.items():
            _refuse_interpolation(item, _join(key, str(name)), source)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_interpolation(item, _join(key, str(index)), source)


class _Builder:
    """Builds typed values; keeps the source and the root schema for its error lines."""

    def __init__(self, source: str, root: type) -> None:
        self.source = source
        self.root = root

    def build(self, value: Any, hint: Any, key: str) -> Any:
        """Check `value` against the type `hint` and return it in that type."""
        origin = get_origin(hint)
        if hint is Any:
            return self._json(value, key)
        if dataclasses.is_dataclass(hint):
            return self._dataclass(value, hint, key)
        if origin is Literal:
            fits = [c for c in get_args(hint) if type(c) is type(value) and c == value]
            return fits[0] if fits else self._mismatch(value, hint, key)
        if origin in (Union, types.UnionType):
            return self._union(value, hint, key)
        if origin in (tuple, list, Sequence):
            return self._sequence(value, hint, key)
        if origin in (dict, Mapping):
            return self._mapping(value, hint, key)
        if hint not in _SCALARS:
            raise InternalError(f"expected a supported type for configuration {key!r}: {hint!r}")
        return self._scalar(value, hint, key)

    def _dataclass(self, value: Any, schema: Any, key: str) -> Any:
        if not isinstance(value, Mapping):
            self._mismatch(value, schema, key)
        hints = get_type_hints(schema)
        fields = {field.name: field for field in dataclasses.fields(schema) if field.init}
        for name in value:
            if name not in fields:
                self._unknown(_join(key, str(name)), [_join(key, field) for field in fields])
        given = {name: item for name, item in value.items() if item != _ABSENT}
        for name, field in fields.items():
            required = (
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING
            )
            if required and name not in given:
                raise ConfigError(
                    f"{self.source}: missing key {_join(key, name)!r}, "
                    f"expected {_expected(hints[name])}"
                )
        built = {k: self.build(v, hints[k], _join(key, k)) for k, v in given.items()}
        try:
            return schema(**built)
        except ConfigError:
            raise
        except (ValueError, TypeError) as error:  # raised by the dataclass's own checks
            where = f"key {key!r}: " if key else ""
            raise ConfigError(f"{self.source}: {where}{' '.join(str(error).split())}") from None

    def _unknown(self, key: str, siblings: list[str]) -> NoReturn:
        name = key.rpartition(".")[2]
        close = difflib.get_close_matches(key, siblings, n=1, cutoff=0.6)
        if not close:  # perhaps it stands at the wrong depth
            tails = {k.rpartition(".")[2]: k for k in reversed(list(_keys(self.root)))}
            close = [tails[t] for t in difflib.get_close_matches(name, tails, n=1, cutoff=0.8)]
        if not close:
            close = difflib.get_close_matches(key, siblings, n=1, cutoff=0.0)
        nearest = f"; nearest valid key: {close[0]!r}" if close else "; no key is valid here"
        raise ConfigError(f"{self.source}: unknown key {key!r}{nearest}")

    def _union(self, value: Any, hint: Any, key: str) -> Any:
        members = get_args(hint)
        if value is None and type(None) in members:
            return None
        structured = [m for m in members if dataclasses.is_dataclass(m)]
        if isinstance(value, Mapping) and len(structured) == 1:
            return self.build(value, structured[0], key)  # so that its errors stay precise
        exact = [m for m in members if m is type(value)]
        others = [m for m in members if m is not type(None) and m not in exact]
        if not exact and len(others) == 1:
            return self.build(value, others[0], key)
        for member in (*exact, *others):
            try:
                return self.build(value, member, key)
            except ConfigError:
                continue
        return self._mismatch(value, hint, key)

    def _sequence(self, value: Any, hint: Any, key: str) -> Any:
        if not isinstance(value, list | tuple):
            self._mismatch(value, hint, key)
        inner = get_args(hint)
        if get_origin(hint) is not tuple:
            return [self.build(v, inner[0], _join(key, str(i))) for i, v in enumerate(value)]
        if len(inner) == 2 and inner[1] is Ellipsis:
            inner = (inner[0],) * len(value)
        if len(inner) != len(value):
            self._mismatch(value, hint, key)
        pairs = zip(value, inner, strict=True)
        return tuple(self.build(v, t, _join(key, str(i))) for i, (v, t) in enumerate(pairs))

    def _mapping(self, value: Any, hint: Any, key: str) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            self._mismatch(value, hint, key)
        key_hint, item_hint = get_args(hint)
        built = {}
        for name, item in value.items():
            if get_origin(key_hint) is Literal and name not in get_args(key_hint):
                self._unknown(_join(key, str(name)), [_join(key, k) for k in get_args(key_hint)])
            where = _join(key, str(name))
            built[self.build(name, key_hint, where)] = self.build(item, item_hint, where)
        return built

    def _scalar(self, value: Any, hint: Any, key: str) -> Any:
        if type(value) is hint:
            return value
        if hint is float and type(value) is int:
            return float(value)
        if hint is Path and isinstance(value, str | Path):
            return Path(value)
        return self._mismatch(value, hint, key)

    def _json(self, value: Any, key: str) -> Any:
        if isinstance(value, Mapping):
            return {self._scalar(k, str, key): self._json(v, _join(key, str(k)))
                    for k, v in value.items()}  # fmt: skip
        if isinstance(value, list | tuple):
            return [self._json(v, _join(key, str(i))) for i, v in enumerate(value)]
        if value is None or type(value) in (bool, int, float, str):
            return value
        return self._mismatch(value, Any, key)

    def _mismatch(self, value: Any, hint: Any, key: str) -> NoReturn:
        raise ConfigError(
            f"{self.source}: key {key!r}: expected {_expected(hint)}, got {_describe(value)}"
        )


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _keys(schema: Any, prefix: str = "", depth: int = 8) -> Iterator[str]:
    """All dotted keys of a schema, outermost first within each branch."""
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        key = _join(prefix, field.name)
        yield key
        for inner in (hints[field.name], *get_args(hints[field.name])):
            if dataclasses.is_dataclass(inner) and depth:
                yield from _keys(inner, key, depth - 1)


def _expected(hint: Any) -> str:
    if hint is Any:
        return "a plain value"
    if hint in _SCALARS:
        return _SCALARS[hint]
    if dataclasses.is_dataclass(hint):
        return "a mapping with keys " + ", ".join(f.name for f in dataclasses.fields(hint))
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(member) for member in inner)
    if origin is tuple and not (len(inner) == 2 and inner[1] is Ellipsis):
        return f"a list of {len(inner)} values"
    if origin in (dict, Mapping):
        return f"a mapping to {_expected(inner[1])}"
    return f"a list of {_expected(inner[0])}" if inner else str(hint)


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    kind = _SCALARS.get(type(value), type(value).__name__)
    text = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return "null" if value is None else f"{kind} ({text})"
