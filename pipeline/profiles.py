"""Profiles: what a run is made with. profiles/NAME.toml says only what differs from the profile it `extends`, and what
no profile says is the default of the settings' dataclass.

    extends = "cpu"                  # another profile; without it, the defaults
    leaves_out = ["training"]        # optional stages of that profile which this one has not
    seed = 0                         # of sampling, bootstrap and random choices
    [model]                          # and a table for each stage that has settings
"""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from attention_rhythm.errors import UsageError, unknown
from evaluation.settings import ModelSettings
from pipeline.manifest import ROOT
from pipeline.stages import STAGES

PROFILES = ROOT / "profiles"
TYPES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


@dataclass(frozen=True)
class Profile:
    """A profile, checked: `tables` has the settings of every stage that it has, by the name of the table."""

    name: str
    seed: int
    tables: Mapping[str, Any]


def names() -> list[str]:
    """The profiles that there are."""
    return sorted(file.stem for file in PROFILES.glob("*.toml"))


def settings_classes() -> dict[str, type]:
    """The dataclass of each table that a profile may have."""
    return {"model": ModelSettings, **{table: cls for stage in STAGES for table, cls in stage.settings.items()}}


def optional_tables() -> set[str]:
    """The tables without which a profile lacks a stage: those that no other stage always has."""
    always = {table for stage in STAGES if not stage.optional for table in stage.settings}
    return {table for stage in STAGES if stage.optional for table in stage.settings} - always


def load_profile(name: str) -> Profile:
    """UsageError if there is none, or it says something that no stage understands; the message names file and key."""
    merged = _merged(name, ())
    seed = merged.pop("seed", 0)
    if type(seed) is not int:
        raise UsageError(f"profiles/{name}.toml: seed is a whole number, not {seed!r}")
    tables = {
        table: settings_of(cls, merged.get(table, {}), f"profiles/{name}.toml: [{table}]", seed)
        for table, cls in settings_classes().items()
        if table in merged or table not in optional_tables()
    }
    return Profile(name, seed, tables)


def _merged(name: str, below: tuple[str, ...]) -> dict[str, Any]:
    """The keys and tables of a profile over those of the one it extends."""
    if name not in names():
        raise UsageError(unknown("profile", name, names()))
    if name in below:
        raise UsageError(f"profiles/{name}.toml extends itself: {' extends '.join([*below, name])}")
    where = f"profiles/{name}.toml"
    try:
        own = tomllib.loads((PROFILES / f"{name}.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: {error}") from error
    base = _merged(own.pop("extends"), (*below, name)) if "extends" in own else {}
    for table in own.pop("leaves_out", []):
        if table not in optional_tables():
            there = ", ".join(sorted(optional_tables()))
            raise UsageError(f"{where}: leaves_out names {table!r}; what can be left out: {there}")
        base.pop(table, None)
    for key, value in own.items():
        if key != "seed" and (key not in settings_classes() or not isinstance(value, dict)):
            there = ", ".join(settings_classes())
            raise UsageError(f"{where}: {key!r} is no table of settings; there are {there}")
        base[key] = {**base.get(key, {}), **value} if isinstance(value, dict) else value
    return base


def settings_of(cls: type, table: Mapping[str, Any], where: str, seed: int) -> Any:
    """A table as its dataclass; a field `seed` is the profile's.

    Raises:
        UsageError: a key that is no field, a value of another type, a field without default that is not there, and
            whatever the dataclass itself refuses.
    """
    known = {f.name: f for f in fields(cls)}
    hints = typing.get_type_hints(cls)
    if unknown := [key for key in table if key not in known or key == "seed"]:
        raise UsageError(
            f"{where} has no setting {unknown[0]!r}; there are {', '.join(k for k in known if k != 'seed')}"
        )
    lacking = [f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING]
    if lacking := [name for name in lacking if name not in table]:
        raise UsageError(f"{where} lacks {lacking[0]}")
    values = {key: _of_type(hints[key], value, f"{where} {key}") for key, value in table.items()}
    if "seed" in known:
        values["seed"] = seed
    try:
        return cls(**values)
    except UsageError as error:
        raise UsageError(f"{where} {error}") from error


def _of_type(kind: Any, value: Any, where: str) -> Any:
    """A TOML value as the field's type wants it (lists become tuples). UsageError for another type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):  # TOML has no null: only the other member can be written
        return _of_type(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{where} is a list, not {value!r}")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise UsageError(f"{where} has {len(kinds)} values, not {len(value)}")
        return tuple(_of_type(k, v, where) for k, v in zip(kinds, value, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise UsageError(f"{where} is a table, not {value!r}")
        return {k: _of_type(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UsageError(f"{where} is {TYPES[kind]}, not {value!r}")
    return value
