"""Presets: priors and capacities as TOML, found by name."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrel.prior import Prior, check, read_prior
from jaxrel.types import Capacity

__all__ = ["Preset", "load", "names", "parse", "path", "read"]


@dataclasses.dataclass(frozen=True)
class Preset:
    """A prior with a capacity that holds it.

    Attributes:
        name: the file's stem.
        prior: pytree of traced leaves.
        capacity: static sizes.
        small: the same families at test size (at most 4 tables and 4,096 rows), or None where the file gives none.
    """

    name: str
    prior: Prior
    capacity: Capacity
    small: Preset | None = None


def _folder() -> Path:
    inside = Path(__file__).parent / "configs"  # in the wheel
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"  # in the source tree


def names() -> list[str]:
    """Names of the presets that come with jaxrel."""
    return sorted(p.stem for p in _folder().glob("*.toml"))


def path(name: str) -> Path:
    """The TOML file of a preset.

    Raises:
        ValueError: for an unknown name, with the known ones.
    """
    if name not in names():
        raise ValueError(f"preset {name!r} is unknown; known presets are {', '.join(names())}")
    return _folder() / f"{name}.toml"


def load(name: str) -> Preset:
    """Load a preset by name.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> import jaxrel
        >>> jaxrel.presets.load("tiny").capacity.tables
        4
    """
    return read(path(name))


def read(file: str | Path) -> Preset:
    """Read a preset from a TOML file and check it.

    Raises:
        ValueError: naming the file and the field, for a file that cannot be read, is no TOML, or breaks a rule of `jaxrel.check`.
    """
    file = Path(file)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or "not UTF-8"
        raise ValueError(f"{file}: cannot be read ({cause}); give the path of a TOML file") from None
    try:
        return parse(file.stem, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: not valid TOML: {error}") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def parse(name: str, data: Mapping[str, Any]) -> Preset:
    """Build a preset from nested mappings.

    Raises:
        ValueError: naming the field.
    """
    rest = dict(data)
    small = rest.pop("small", None)
    preset = _build(name, rest)
    if small is None:
        return preset
    if not isinstance(small, Mapping):
        raise ValueError(f"small: expected a table [small], got {small!r}")
    merged = dict(rest)
    for section, values in small.items():
        if section not in rest or not isinstance(values, Mapping):
            raise ValueError(f"small.{section}: unknown section; it overrides keys of {', '.join(rest)}")
        merged[section] = {**rest[section], **values}
    try:
        return dataclasses.replace(preset, small=_build(name, merged))
    except ValueError as error:
        raise ValueError(f"small: {error}") from None


def _build(name: str, data: Mapping[str, Any]) -> Preset:
    sections = dict(data)
    sizes = sections.pop("capacity", None)
    fields = [f.name for f in dataclasses.fields(Capacity)]
    if not isinstance(sizes, Mapping):
        raise ValueError("capacity: missing section [capacity]")
    for key in sizes:
        if key not in fields:
            raise ValueError(f"capacity.{key}: unknown key; known are {', '.join(fields)}")
    for key in fields:
        if key not in sizes:
            raise ValueError(f"capacity.{key}: missing key")
    for section in sections:
        if section not in ("layouts", "schema", "links", "scm"):
            raise ValueError(f"{section}: unknown section; known are layouts, schema, links, scm, capacity and small")
    capacity = Capacity(**sizes)
    prior = read_prior(sections)
    check(prior, capacity)
    return Preset(name=name, prior=prior, capacity=capacity)
