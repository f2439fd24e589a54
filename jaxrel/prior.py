"""The prior: the distribution over databases, a pytree of traced leaves, and its validation on the host.

A leaf is a `Range`, a `Weights` or a number; TOML mirrors the tree field by field. `jaxrel.draws` draws from the leaves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxrel import struct
from jaxrel.families import FAMILIES
from jaxrel.registry import (
    ACTIVATIONS,
    AGGREGATE_LAWS,
    COMBINES,
    CUTS,
    DEGREES,
    EXOGENOUS,
    KINDS,
    LAYOUTS,
    MARGINALS,
    NOISES,
    POPULARITIES,
    SCALES,
)
from jaxrel.types import (
    AGGREGATES,
    BURSTS,
    CLUSTERS,
    EXPORTS,
    LEVELS,
    MAX_FOREIGN_KEYS,
    NO_TABLE,
    Capacity,
    Schema,
    row_offsets_host,
    tiles_of,
)

__all__ = [
    "LayoutPrior",
    "LinkPrior",
    "Prior",
    "Range",
    "SCMPrior",
    "SchemaPrior",
    "Weights",
    "capacity_for",
    "check",
    "read_prior",
]

_MOST_ROWS = 1 << 30


@struct.dataclass
class Range:
    """Numbers between ``low`` and ``high`` (both included) with density proportional to ``x ** -power``."""

    low: Array  # i32[] or f32[]
    high: Array  # i32[] or f32[]
    power: Array  # f32[], 0 uniform, 1 log-uniform


@struct.dataclass
class Weights:
    """Relative weights over the names of a registry."""

    weight: Array  # f32[names]


@dataclasses.dataclass(frozen=True)
class _Spec:
    """What a leaf may hold: a kind ("integer", "real", "share", "number", "weights"), its bounds, and what it is where none is given."""

    kind: str
    low: float = 0.0
    high: float = 1.0
    names: tuple[str, ...] = ()
    default: float | None = None


def _leaf(kind: str, low: float = 0.0, high: float = 1.0, names: tuple[str, ...] = (), default: float | None = None) -> Any:
    return dataclasses.field(metadata={"spec": _Spec(kind, low, high, names, default)})


@struct.dataclass
class LayoutPrior:
    """Parameters of the random DAGs, for schemas and for SCMs."""

    attach: Array = _leaf("number", 1, 8)  # Barabási–Albert: edges of a new node
    probability: Range = _leaf("share")  # Erdős–Rényi: share of ordered pairs; either order makes an edge
    neighbours: Range = _leaf("integer", 1, 8)  # Watts–Strogatz: neighbours on each side
    rewire: Range = _leaf("share")  # Watts–Strogatz
    depth: Range = _leaf("integer", 2, 64)  # layered
    drop: Array = _leaf("number", 0, 1)  # layered: share of layer-to-layer edges left out
    sink_drop: Array = _leaf("number", 0, 1)  # Barabási–Albert: a sink with several parents loses one


@struct.dataclass
class SchemaPrior:
    """Tables, rows, columns, keys and time spans."""

    tables: Range = _leaf("integer", 1, 1024)
    layouts: Weights = _leaf("weights", names=LAYOUTS)
    double_key: Array = _leaf("number", 0, 1)  # a table has a second key to one of its parents
    self_reference: Array = _leaf("number", 0, 1)
    nullable_key: Array = _leaf("number", 0, 1)
    null_key: Range = _leaf("share")  # share of nulls in a nullable key
    entity_rows: Range = _leaf("integer", 1, _MOST_ROWS)
    activity_rows: Range = _leaf("integer", 1, _MOST_ROWS)
    columns: Range = _leaf("integer", 1, 1024)
    kinds: Weights = _leaf("weights", names=KINDS)
    classes: Range = _leaf("integer", 2, 1024)
    missing_column: Array = _leaf("number", 0, 1)
    missing: Range = _leaf("share")  # share of missing values in such a column
    days: Range = _leaf("integer", -20000, 24000)  # days since 1970-01-01 between which the span of the events lies
    least_days: Array = _leaf("number", 30, 3650)
    one_to_one: Array = _leaf("number", 0, 1)  # a referenced table with parents has no two rows of one parent row
    junction: Array = _leaf("number", 0, 1)  # a table with two parents has no two rows of one pair of parent rows
    degree_key: Array = _leaf("number", 0, 1)  # share of the other keys that follow a degree law
    capped_key: Array = _leaf("number", 0, 1)  # share of those left whose parent rows have a most number of children
    occupancy: Range = _leaf("share", 0.01, 1)  # share of the places under that number that are taken
    timed_entity: Array = _leaf("number", 0, 1)  # share of referenced tables whose rows come into being over time, and all their children
    founders: Range = _leaf("share")  # share of such a table's rows that exist at its start
    late: Range = _leaf("share")  # share of the span after which such a table starts
    trend: Range = _leaf("share")  # the intensity of events goes from 1 - trend to 1 + trend, or back
    season: Range = _leaf("share")  # and swings by so much over a year
    bursts: Range = _leaf("integer", 0, BURSTS)  # and jumps so many times
    burst_height: Range = _leaf("integer", 0, 16)  # by so many times itself, halved every 256th of the span
    calendar: Array = _leaf("number", 0, 1)  # share of timed tables with quiet hours and days
    calendar_depth: Range = _leaf("share")  # how quiet: 1 as in typical weeks, 0 not at all
    style: Array = _leaf("number", 0, 1)  # how much tables and databases differ in style (`jaxrel.style`)
    binned: Array = _leaf("number", 0, 1)  # share of categorical and boolean columns that are real lanes cut into classes
    binned_database: Array = _leaf("number", 0, 1)  # share of databases in which all of them are
    many: Array = _leaf("number", 0, 1)  # share of categorical columns with many classes, by a Zipf law
    many_classes: Range = _leaf("integer", 2, 4096)


@struct.dataclass
class LinkPrior:
    """How foreign keys choose parent rows."""

    uniform: Array = _leaf("number", 0, 1)
    levels: Range = _leaf("integer", 1, LEVELS)
    clusters: Range = _leaf("integer", 1, CLUSTERS)
    strong: Array = _leaf("number", 0, 1)  # share of keys whose matching clusters have affinity 0.9
    match: Range = _leaf("share")  # affinity of matching clusters of the other keys
    other: Range = _leaf("share")  # affinity of clusters that do not match
    popularity: Weights = _leaf("weights", names=POPULARITIES)
    inactive: Range = _leaf("share", 0, 0.99)
    roots: Range = _leaf("share")  # self-references: share of rows without a parent
    agree: Array = _leaf("number", 0, 1)  # share of clustered keys that follow the first one of their table
    homophily: Array = _leaf("number", 0, 1)  # share of keys by which like links to like; keys to tables without time only
    strength: Range = _leaf("share", -1, 1)  # their rank correlation
    degrees: Weights = _leaf("weights", names=DEGREES)
    histogram: Weights = _leaf("weights", names=tuple(str(d) for d in range(16)))  # the empirical degree law: weight of each degree
    delayed: Array = _leaf("number", 0, 1)  # share of keys to timed parents whose rows come some time after their parent
    delay: Range = _leaf("integer", 1, 1 << 27)  # mean of the least time between, in seconds
    recent: Array = _leaf("number", 0, 1)  # share of keys to timed parents that choose among the latest ones only
    window: Range = _leaf("share")  # the latest share that they choose among


@struct.dataclass
class SCMPrior:
    """Structural causal models."""

    layouts: Weights = _leaf("weights", names=LAYOUTS)
    nodes: Range = _leaf("integer", 1, 1024)  # at least so many
    observed: Range = _leaf("share")  # and at least columns + ceil(columns / observed) + spare; 0: columns + spare
    spare: Array = _leaf("number", 0, 64)
    dense: Array = _leaf("number", 2, 1024, default=16.0)  # most nodes of a graph as dense as drawn; larger ones are thinned to its parents
    roots: Array = _leaf("number", 0.01, 1)  # largest share of exogenous nodes
    width: Range = _leaf("integer", 1, 256)
    categorical: Array = _leaf("number", 0, 1)  # share of categorical nodes among those that no column observes
    exogenous: Weights = _leaf("weights", names=EXOGENOUS)
    trend_power: Range = _leaf("real", 0, 8)
    period: Range = _leaf("share")  # cycle length as a share of the table's span or rows
    rho: Range = _leaf("real", 0, 0.95)
    series_noise: Array = _leaf("number", 0, 100)  # noise of a time series on an activity table, beside trend and cycle of ±1
    families: Weights = _leaf("weights", names=FAMILIES)
    activations: Weights = _leaf("weights", names=ACTIVATIONS)
    hidden: Range = _leaf("integer", 1, 1024)
    layers: Range = _leaf("integer", 1, 16)
    depth: Range = _leaf("integer", 1, 6)  # of trees
    gain: Range = _leaf("real", 1e-3, 1e3)  # pre-activation scale
    bias: Range = _leaf("real", 0, 100)
    density: Range = _leaf("share", 0.01, 1)
    single_lane: Array = _leaf("number", 0, 1)  # share of edges that read one lane of their parent, not all
    scales: Weights = _leaf("weights", names=SCALES)  # law of the edge weights
    combine: Weights = _leaf("weights", names=COMBINES)
    noise: Range = _leaf("real", 0, 100)  # standard deviation in units of the signal
    label_noise: Array = _leaf("number", 0, 10, default=0.0)  # least noise of categories that columns observe, in units of their scores
    noises: Weights = _leaf("weights", names=NOISES)
    spread: Range = _leaf("real", 0, 2)  # growth of the logarithm of the noise with the signal
    even: Array = _leaf("number", 0, 1)  # share of nodes where it does not grow
    gathers: Range = _leaf("integer", 0, EXPORTS)  # parent nodes read through one foreign key
    gather_edge: Array = _leaf("number", 0, 1)  # share of mechanism nodes that a gathered node feeds
    gather_copy: Array = _leaf("number", 0, 1)  # share of such edges that pass the gathered lanes on as they are, weighted
    summary: Array = _leaf("number", 0, 1)  # referenced tables sum up all their columns in one more node, which keys gather first
    marginals: Weights = _leaf("weights", names=MARGINALS)  # of real columns
    missing_by_value: Array = _leaf("number", 0, 1)  # share of columns whose missing values depend on a value
    missing_by_itself: Array = _leaf("number", 0, 1)  # share of those where it is the missing value itself
    value_scale: Range = _leaf("real", 1e-6, 1e6)  # unit of a real column
    value_offset: Array = _leaf("number", 0, 1e3)  # half of the real columns are shifted by up to so many units, either way
    aggregates: Range = _leaf("integer", 0, AGGREGATES)  # nodes that sum up child rows, of a table with children that have no time
    aggregate_laws: Weights = _leaf("weights", names=AGGREGATE_LAWS)
    recency: Array = _leaf("number", 0, 1)  # share of aggregates to which later children count for more
    decay: Range = _leaf("real", 0, 20)  # e-foldings of that, from the first child row to the last
    trait: Array = _leaf("number", 0, 1)  # share of homophilous keys whose traits are exogenous nodes of their two tables
    calendar_cycle: Array = _leaf("number", 0, 1)  # share of the time series of timed tables that repeat by day, week or year
    style: Array = _leaf("number", 0, 1)  # how much tables and databases differ in style
    cuts: Weights = _leaf("weights", names=CUTS)  # of binned columns
    permuted: Range = _leaf("share")  # of a database: share of binned columns whose classes are in no order
    descending: Range = _leaf("share")  # and, among the others, of those that descend


@struct.dataclass
class Prior:
    """The distribution over databases."""

    layouts: LayoutPrior
    schema: SchemaPrior
    links: LinkPrior
    scm: SCMPrior


# ---------------------------------------------------------------- host: reading and checking


def _number(where: str, value: Any, spec: _Spec, integer: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (integer and value != int(value)) or value != value:
        raise ValueError(f"{where}: expected {'an integer' if integer else 'a number'}, got {value!r}")
    if not spec.low <= value <= spec.high:
        raise ValueError(f"{where}: {value} lies outside the allowed {spec.low:g}…{spec.high:g}")
    return float(value)


def _leaf_of(value: Any, dtype: Any = np.float32) -> Array:
    return jax.device_put(np.asarray(value, dtype))  # a conversion on the device would be a program of its own


def _read_leaf(where: str, value: Any, spec: _Spec) -> Any:
    if spec.kind == "number":
        return _leaf_of(_number(where, value, spec, False))
    if spec.kind == "weights":
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected a table of weights such as {{ {spec.names[0]} = 1.0 }}, got {value!r}")
        for name in value:
            if name not in spec.names:
                raise ValueError(f"{where}.{name}: unknown key; known are {', '.join(spec.names)}")
        weights = [_number(f"{where}.{n}", value.get(n, 0.0), _Spec("number", 0, 4096), False) for n in spec.names]
        if max(weights) * 4096 < 1:
            raise ValueError(f"{where}: all weights are 0; give at least one name a weight")
        return Weights(weight=_leaf_of(weights))
    integer = spec.kind == "integer"
    if not isinstance(value, Mapping):
        value = {"low": value, "high": value}
    for name in value:
        if name not in ("low", "high", "power"):
            raise ValueError(f"{where}.{name}: unknown key; a range has low, high and power")
    for name in ("low", "high"):
        if name not in value:
            raise ValueError(f"{where}.{name}: missing key; a range has low, high and power")
    low, high = (_number(f"{where}.{n}", value[n], spec, integer) for n in ("low", "high"))
    power = _number(f"{where}.power", value.get("power", 0.0), _Spec("number", 0, 4), False)
    dtype = np.int32 if integer else np.float32
    return Range(low=_leaf_of(low, dtype), high=_leaf_of(high, dtype), power=_leaf_of(power))


def _read_section(where: str, cls: Any, data: Any) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected a table [{where}], got {data!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in data:
        if name not in fields:
            raise ValueError(f"{where}.{name}: unknown key; known are {', '.join(fields)}")
    specs = {name: field.metadata["spec"] for name, field in fields.items()}
    for name, spec in specs.items():
        if name not in data and spec.default is None:
            raise ValueError(f"{where}.{name}: missing key")
    return cls(**{n: _read_leaf(f"{where}.{n}", data.get(n, spec.default), spec) for n, spec in specs.items()})


_SECTIONS = {"layouts": LayoutPrior, "schema": SchemaPrior, "links": LinkPrior, "scm": SCMPrior}


def read_prior(data: Mapping[str, Any]) -> Prior:
    """Build a prior from nested mappings, as TOML gives them.

    Args:
        data: sections ``layouts``, ``schema``, ``links`` and ``scm``; a range is ``{low, high, power}`` or one number, weights are
            a mapping from names to numbers (a missing name weighs 0).

    Raises:
        ValueError: naming the field, for an unknown or missing key, a value of the wrong type or outside its bounds.
    """
    for name in _SECTIONS:
        if name not in data:
            raise ValueError(f"{name}: missing section [{name}]")
    return Prior(**{n: _read_section(n, cls, data[n]) for n, cls in _SECTIONS.items()})


def _most_nodes(prior: Prior, columns: int) -> int:
    scm = prior.scm
    observed = int(np.round(float(scm.observed.low) * 2**24))
    extra = -(-columns * 2**24 // observed) if observed > 0 else 0
    return max(int(scm.nodes.high), columns + extra + int(scm.spare))


def _most(prior: Prior, columns: int, keys: int) -> tuple[int, int]:
    """Most nodes and edges of one table with so many columns and keys."""
    nodes, gathers = _most_nodes(prior, columns), keys * int(prior.scm.gathers.high) + int(prior.scm.aggregates.high)
    summary = int(float(prior.scm.summary) > 0)
    dense = min(nodes, int(np.ceil(float(prior.scm.dense))))  # of a thinned graph twice its mean, many deviations away
    within = nodes * (nodes - 1) // 2 if dense == nodes else dense * nodes
    return nodes + gathers + summary, within + nodes + gathers * nodes + summary * columns


def check(prior: Prior, capacity: Capacity) -> None:
    """Validate a prior against its bounds and, at its worst case, against a capacity. Host side; leaves must be concrete.

    Raises:
        ValueError: naming the field, for low > high, a value outside its bounds, a logarithmic range from 0, or a capacity too small.
    """
    for section, cls in _SECTIONS.items():
        for field in dataclasses.fields(cls):
            spec, value, where = field.metadata["spec"], getattr(getattr(prior, section), field.name), f"{section}.{field.name}"
            if spec.kind == "weights":
                weight = np.asarray(value.weight)
                if weight.shape != (len(spec.names),) or not (weight >= 0).all() or weight.max(initial=0) * 4096 < 1:
                    raise ValueError(f"{where}: expected {len(spec.names)} weights of at least 0, not all 0, got {weight.tolist()}")
                continue
            if spec.kind == "number":
                _number(where, float(value), spec, False)
                continue
            low, high, power = (float(x) for x in (value.low, value.high, value.power))
            for name, x in (("low", low), ("high", high)):
                if not spec.low - 1e-6 <= x <= spec.high + 1e-6:
                    raise ValueError(f"{where}.{name}: {x:g} lies outside the allowed {spec.low:g}…{spec.high:g}")
            if low > high:
                raise ValueError(f"{where}: low = {low:g} is above high = {high:g}; exchange them")
            if spec.kind == "share" and power != 0:
                raise ValueError(f"{where}.power: shares are drawn uniformly; set power = 0")
            if spec.kind == "integer" and (power * 2 != round(power * 2) or not 0 <= power <= 4):
                raise ValueError(f"{where}.power: {power:g} is not a multiple of 0.5 between 0 and 4")
            if power > 0 and low <= 0:
                raise ValueError(f"{where}: low = {low:g} must be above 0 where power is not 0")
    schema, scm = prior.schema, prior.scm
    if int(schema.days.high) - int(schema.days.low) < int(schema.least_days):
        raise ValueError(f"schema.days: the range holds no span of schema.least_days = {int(schema.least_days)} days; widen it")
    tables, columns = int(schema.tables.high), int(schema.columns.high)
    keys = min(MAX_FOREIGN_KEYS, tables + 1)
    entity, activity = (t + (t > 1) for t in (tiles_of(int(schema.entity_rows.high)), tiles_of(int(schema.activity_rows.high))))
    tiles = max(activity, (tables - 1) * max(activity, entity) + min(entity, activity) if tables > 1 else 0, tables * entity)
    nodes, edges = _most(prior, columns, keys)
    classes = max(int(schema.classes.high), 2)
    need = {"tables": tables, "foreign_keys": keys, "columns": columns, "rows": tiles * 1024, "nodes": nodes, "edges": tables * edges}
    need |= {"width": int(scm.width.high), "hidden": max(int(scm.hidden.high), 2 ** int(scm.depth.high)), "layers": int(scm.layers.high)}
    need |= {"classes": classes}
    for name, least in need.items():
        if getattr(capacity, name) < least:
            have = getattr(capacity, name)
            raise ValueError(f"capacity.{name}: the prior can need {least}, but the capacity is {have}; raise it or narrow the prior")


def capacity_for(schema: Schema, prior: Prior) -> Capacity:
    """The smallest capacity that holds a given schema with SCMs of a prior. Host side; arrays must be concrete.

    Args:
        schema: one schema; its padded shapes give tables, keys and columns.
        prior: its ``scm`` section bounds nodes, edges, width and units.
    """
    tables, keys = schema.fk_parent.shape
    columns = schema.column_kind.shape[1]
    key_count = np.sum(np.asarray(schema.fk_parent) != NO_TABLE, axis=1)
    sizes = [_most(prior, int(c), int(k)) for c, k in zip(np.asarray(schema.column_count), key_count, strict=True)]
    _, tiles = row_offsets_host(np.asarray(schema.row_count))
    scm = prior.scm
    return Capacity(
        tables=tables,
        foreign_keys=keys,
        columns=columns,
        rows=tiles * 1024,
        nodes=max(n for n, _ in sizes),
        edges=sum(e for _, e in sizes),
        width=int(scm.width.high),
        hidden=max(int(scm.hidden.high), 2 ** int(scm.depth.high)),
        layers=int(scm.layers.high),
        classes=max(int(np.max(np.where(schema.column_binned, 0, schema.column_classes))), int(prior.schema.classes.high), 2),
    )
