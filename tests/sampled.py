"""Databases that several tests look at: sampled once a session; a second trace of a program is an error."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import hashlib
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrel
from jaxrel.random import named_key
from jaxrel.times import time_rows
from jaxrel.types import NO_TABLE, Capacity, Database

BATCH = {"tiny": 128, "default": 160, "plurel": 32, "hoppe": 160}
ROOT = jnp.asarray([2026, 7], jnp.uint32)


@functools.cache
def small(name: str) -> Any:
    """A preset at its test size."""
    preset = jaxrel.presets.load(name)
    return preset.small or preset


def grown(capacity: Capacity, **factors: int) -> Capacity:
    """A capacity with some sizes multiplied."""
    return dataclasses.replace(capacity, **{name: getattr(capacity, name) * factor for name, factor in factors.items()})


def large(name: str) -> Capacity:
    """Room for twice the structure and four times the rows."""
    return grown(small(name).capacity, rows=4, tables=2, columns=2, nodes=2, edges=2)


def wide(name: str) -> Capacity:
    """Room for twice the numbers in every mechanism."""
    return grown(small(name).capacity, width=2, hidden=2, layers=2, classes=2)


def keys(count: int, start: int = 0) -> jax.Array:
    """u32[count, 2]: keys of databases start, start + 1, …"""
    return named_key(ROOT, "database", start + jnp.arange(count, dtype=jnp.int32))


def traced_once(function: Callable[..., Any]) -> Any:
    """`jax.jit`, for which a second trace is an error: neither a key nor a prior may cause one."""
    traces = []

    def counted(*args: Any) -> Any:
        traces.append(1)
        assert len(traces) == 1, "traced again"
        return function(*args)

    return jax.jit(counted)


@functools.cache
def program(capacity: Capacity) -> Any:
    """Jitted ``(keys, prior) → databases`` side by side."""

    def sample(keys: jax.Array, prior: Any) -> Database:
        return jax.vmap(lambda key: jaxrel.sample_database(key, prior, capacity))(keys)

    return traced_once(sample)


@functools.cache
def stages(capacity: Capacity) -> tuple[Any, ...]:
    """The four stages of one database, jitted one by one."""
    functions = (jaxrel.sample_schema, jaxrel.sample_links, jaxrel.sample_scm, jaxrel.simulate)
    return tuple(traced_once(functools.partial(f, capacity=capacity)) for f in functions)


def staged(key: jax.Array, prior: Any, capacity: Capacity) -> Database:
    """One database, stage by stage."""
    schema_of, links_of, scm_of, simulate = stages(capacity)
    schema = schema_of(key, prior)
    return simulate(key, schema, links_of(key, prior, schema), scm_of(key, prior, schema))


def shared(name: str, compute: Callable[[], Any]) -> Any:
    """A result that the session's processes need one of: who comes first computes it, the others read it."""
    file = Path(os.environ["JAXREL_TESTS_SESSION"]) / f"{name}.pickle"
    with open(file.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            file.write_bytes(pickle.dumps(compute(), protocol=5))
    return pickle.loads(file.read_bytes())


@functools.cache
def databases(name: str, start: int = 0) -> Database:
    """A batch of small databases of a preset, as numpy arrays that lead with the batch."""
    preset = small(name)
    return shared(f"{name}-{start}", lambda: jax.device_get(program(preset.capacity)(keys(BATCH[name], start), preset.prior)))


def each(db: Database) -> Iterator[Database]:
    """The databases of a batch, one by one."""
    for b in range(db.time.shape[0]):
        yield jax.tree.map(lambda x, b=b: x[b], db)


@dataclasses.dataclass
class Table:
    """One table of a database without padding."""

    index: int
    rows: slice
    values: np.ndarray  # f32[columns, rows]
    missing: np.ndarray
    parent_row: np.ndarray  # i32[keys, rows]
    time: np.ndarray


def tables(db: Database) -> Iterator[Table]:
    """The tables of one database."""
    schema = db.schema
    for t in range(int(schema.table_count)):
        rows = slice(int(schema.row_offset[t]), int(schema.row_offset[t]) + int(schema.row_count[t]))
        columns, used = int(schema.column_count[t]), int(np.sum(schema.fk_parent[t] >= 0))
        yield Table(t, rows, db.values[:columns, rows], db.missing[:columns, rows], db.links.parent_row[:used, rows], db.time[rows])


def later(db: Database, time: int, rng: np.random.Generator) -> Database:
    """Another future: other cells, other keys, other times of every row later than a time."""
    values, missing, links, times = (np.array(x) for x in (db.values, db.missing, db.links.parent_row, db.time))
    for t in tables(db):
        if not db.schema.has_time[t.index]:
            continue
        rows = t.rows.start + np.flatnonzero(t.time > time)
        values[:, rows] = rng.choice([-1e30, 1.0, 1e30], (values.shape[0], rows.size))
        missing[:, rows] ^= rng.random((values.shape[0], rows.size)) < 0.5
        for k, p in enumerate(db.schema.fk_parent[t.index]):
            if p != NO_TABLE:
                links[k, rows] = rng.integers(-1, db.schema.row_count[p], rows.size)
        times[rows] = np.sort(rng.integers(time + 1, 2**31 - 1, rows.size))
    return db.replace(values=values, missing=missing, links=db.links.replace(parent_row=links), time=times)


def spread(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """f64[columns]: standard deviation of what is not missing."""
    return np.ma.masked_array(values, missing, np.float64).std(axis=1).filled(0.0)


def digest(*trees: Any) -> str:
    """SHA-256 of the integers of pytrees."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(trees):
        array = np.asarray(leaf)
        assert array.dtype.kind in "iub", array.dtype
        total.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def digest_of_structure(name: str, count: int) -> str:
    """`digest` of the schemas, links and times of the first databases, by a program of the structure alone."""
    capacity = small(name).capacity

    def structure(key: jax.Array, prior: Any) -> Any:
        schema = jaxrel.sample_schema(key, prior, capacity)
        t, rows = jnp.arange(capacity.tables, dtype=jnp.int32), jnp.arange(capacity.rows, dtype=jnp.int32)
        times = jax.vmap(lambda t: time_rows(schema, t, rows))(t)
        return schema, jaxrel.sample_links(key, prior, schema, capacity), times

    schema, links, times = jax.device_get(jax.jit(jax.vmap(structure, (0, None)))(keys(count), small(name).prior))
    real = [[times[b, t, :n] for t, n in enumerate(schema.row_count[b, : schema.table_count[b]])] for b in range(count)]
    return digest((schema, links), real)
