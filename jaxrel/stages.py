"""The stages of the pipeline as the compiled programs of one run, and what they make: databases whole, or in passing."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, Device

from jaxrel.benchmark import is_distinct
from jaxrel.catalog import Catalog
from jaxrel.convert import TableRows
from jaxrel.database import rows_in_use, shortened
from jaxrel.fleet import database_key
from jaxrel.links import place_links, sample_link_laws
from jaxrel.prior import Prior
from jaxrel.programs import COMPILER_OPTIONS, compile_or_load
from jaxrel.random import named_key
from jaxrel.schema import sample_schema
from jaxrel.scm import sample_scm
from jaxrel.simulation import Chunk, Passing, simulate, start_rows, stream_rows
from jaxrel.streaming import is_huge, resident_capacity, step_tiles, stream_tables
from jaxrel.tasks import Task, sample_task
from jaxrel.totals import ChildTotals, total_children
from jaxrel.types import HUGE, SCM, TILE, Capacity, Database, Links, Schema, tiles_of

__all__ = ["Made", "Plan", "Stages", "capacity_of_tasks"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every database of a run shares."""

    prior: Prior
    schema: Schema | None  # a user's; None: drawn from the prior
    capacity: Capacity
    digest: dict[str, Any]  # of the run; an index makes it the digest of one database
    catalog: Catalog | None
    format: str
    chunk_rows: int  # of a database that is computed in passing
    tasks: int = 0  # prediction tasks of each database

    @property
    def may_be_huge(self) -> bool:
        """A database may have so many rows that it is computed in passing."""
        return self.capacity.rows > HUGE


# The stages as programs of their own, for a user's schema goes through the very same ones. The three that decide structure run once a
# database on small arrays, and full optimisation gains less there than a first run would wait for it; without any they take three times as
# long, an SCM of many wide tables 360 instead of 80 ms. XLA's older emitters of fusions, gone in the course of JAX 0.11, compile in two
# thirds of the time; what they emit for schema, laws and SCM is as fast, but slower for rows and links.
_LITTLE = {"xla_backend_optimization_level": 1}
_EMITTERS: dict[str, str | bool | int] = {} if jax.__version_info__ >= (0, 11) else {"xla_cpu_use_fusion_emitters": False}


@partial(jax.jit, static_argnames="capacity", compiler_options=_LITTLE | _EMITTERS)
def _schema(root: Array, index: Array, prior: Prior, capacity: Capacity) -> Schema:
    return sample_schema(database_key(root, index), prior, capacity)


@partial(jax.jit, compiler_options=_LITTLE)
def _rekeyed(root: Array, index: Array, declared: Schema) -> Schema:
    return dataclasses.replace(declared, key=named_key(database_key(root, index), "schema"))


@partial(jax.jit, static_argnames="capacity", compiler_options=_LITTLE | _EMITTERS)
def _scm(root: Array, index: Array, prior: Prior, schema: Schema, capacity: Capacity) -> SCM:
    return sample_scm(database_key(root, index), prior, schema, capacity)


@partial(jax.jit, static_argnames="capacity", compiler_options=_LITTLE | _EMITTERS)
def _laws(root: Array, index: Array, prior: Prior, schema: Schema, capacity: Capacity) -> Links:
    return sample_link_laws(database_key(root, index), prior, schema, dataclasses.replace(capacity, rows=TILE))  # rows are placed later


@partial(jax.jit, static_argnames="capacity", compiler_options=COMPILER_OPTIONS)
def _links(laws: Links, schema: Schema, capacity: Capacity) -> Links:
    return place_links(laws, schema, capacity)


@partial(jax.jit, static_argnames="capacity", compiler_options=COMPILER_OPTIONS)
def _simulate(root: Array, index: Array, schema: Schema, links: Links, scm: SCM, capacity: Capacity) -> Database:
    return simulate(database_key(root, index), schema, links, scm, capacity)


@partial(jax.jit, compiler_options=COMPILER_OPTIONS)
def _totals(simulate: Database) -> ChildTotals:
    return total_children(simulate)


@partial(jax.jit, static_argnames="capacity", compiler_options=COMPILER_OPTIONS)
def _task(root: Array, index: Array, attempt: Array, simulate: Database, totals: ChildTotals, capacity: Capacity) -> Task:
    key = named_key(database_key(root, index), "tasks", attempt)
    return sample_task(key, simulate, capacity, tries=1, timed=True, totals=totals)


@partial(jax.jit, static_argnames="capacity", compiler_options=_LITTLE)
def _passing(scm: SCM, capacity: Capacity) -> Passing:
    return start_rows(scm, capacity)


@partial(jax.jit, static_argnames=("capacity", "tiles"), donate_argnames="passing", compiler_options=COMPILER_OPTIONS)
def _chunk(
    root: Array,
    index: Array,
    schema: Schema,
    laws: Links,
    scm: SCM,
    passing: Passing,
    first: Array,
    count: Array,
    capacity: Capacity,
    tiles: int,
) -> Chunk:
    return stream_rows(database_key(root, index), schema, laws, scm, passing, first, count, capacity, tiles)


_WHOLE = {"laws": _laws, "links": _links, "scm": _scm, "simulate": _simulate}
_IN_PASSING = {"laws": _laws, "scm": _scm, "passing": _passing, "chunk": _chunk}
_SHORT = 4  # tasks of a database that fills no more than this part of its row axis are drawn on as much of it
_TRIES = 8  # tasks that are looked at for each that is wanted, most
_STATIC = ("capacity", "tiles")


@functools.cache
def _find_lapack() -> None:
    """Let JAX look up LAPACK, which the gate of tasks calls.

    JAX does so when it lowers such a call; a program that was loaded from disk never was, and would crash (JAX 0.12).
    """
    matrix = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    jax.jit(lambda a: jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(a), a)).lower(matrix)


def capacity_of_tasks(database: Database, capacity: Capacity) -> Capacity:
    """The capacity, with a row axis of one of two lengths that holds a concrete database: two, for each is compiled."""
    short = TILE * -(-tiles_of(capacity.rows) // _SHORT)
    return dataclasses.replace(capacity, rows=short if rows_in_use(database) <= short else capacity.rows)


@dataclasses.dataclass(frozen=True)
class Made:
    """A database on the host, or one whose rows are computed while they are written."""

    database: Database
    rows: Iterator[TableRows] | None = None
    tasks: tuple[Task, ...] = ()


def _fetched(database: Database, device: Device) -> Database:
    """The database on the host; of a CPU, arrays that look at the device's own: a fifth of what ``jax.device_get`` takes for that."""
    fetched: Database = jax.tree.map(np.asarray, database) if device.platform == "cpu" else jax.device_get(database)
    return fetched


class Stages:
    """The compiled stages of one run on one device: made at the first database that needs them, kept in a folder for later processes and
    other devices.

    Many threads may call it.
    """

    def __init__(self, plan: Plan, folder: Path | None, device: Device, lock: threading.RLock) -> None:
        prior, schema = jax.device_put((plan.prior, plan.schema), device)
        self._plan, self._folder, self._device = dataclasses.replace(plan, prior=prior, schema=schema), folder, device
        self._lock, self._ready = lock, False  # of all devices: what one compiles, the others load
        self._stages: dict[tuple[Capacity, int, tuple[str, ...]], dict[str, Callable[..., Any]]] = {}

    def __call__(self, root: Array, index: np.int32) -> Made:
        """Make one database."""
        with jax.default_device(self._device):
            if self._ready and not self._plan.may_be_huge:
                return self._make(root, index)
            with self._lock:  # what is not kept on disk compiles at its first run
                made = self._make(root, index)
                self._ready = True
                return made

    def _compiled(
        self, capacity: Capacity, functions: dict[str, Any], known: dict[str, Any], tiles: int = 0
    ) -> dict[str, Callable[..., Any]]:
        kind = capacity, tiles, tuple(functions)
        with self._lock if kind not in self._stages else contextlib.nullcontext():
            if kind not in self._stages:
                inputs = {name: tuple(x for x in inspect.signature(f).parameters if x not in _STATIC) for name, f in functions.items()}
                static = {"capacity": capacity, "tiles": tiles}
                self._stages[kind] = compile_or_load(functions, inputs, known, static, self._folder, self._device)
        return self._stages[kind]

    def _make(self, root: Array, index: np.int32) -> Made:
        plan = self._plan
        functions: dict[str, Any] = {"schema": _schema if plan.schema is None else _rekeyed}
        if not plan.may_be_huge:
            functions |= _WHOLE
        known = {"root": root, "index": index, "prior": plan.prior, "declared": plan.schema}
        stages = self._compiled(plan.capacity, functions, known)
        schema = stages["schema"](root, index, plan.prior if plan.schema is None else plan.schema)
        if plan.may_be_huge:
            if is_huge(schema):
                return self._streamed(root, index, schema)
            stages = self._compiled(plan.capacity, _WHOLE, known | {"schema": schema})
        links = stages["links"](stages["laws"](root, index, plan.prior, schema), schema)
        scm = stages["scm"](root, index, plan.prior, schema)
        database = stages["simulate"](root, index, schema, links, scm)
        return Made(_fetched(database, self._device), tasks=self._tasks(root, index, database) if plan.tasks else ())

    def _tasks(self, root: Array, index: np.int32, database: Database) -> tuple[Task, ...]:
        """The first distinct tasks that the gate lets through; they do not depend on how long the row axis is."""
        capacity = capacity_of_tasks(database, self._plan.capacity)
        database = shortened(database, capacity.rows)
        known = {"root": root, "index": index, "attempt": np.int32(0), "simulate": database}
        _find_lapack()
        stages = self._compiled(capacity, {"totals": _totals, "task": _task}, known)
        totals, found = stages["totals"](database), list[Task]()
        for attempt in range(self._plan.tasks * _TRIES):
            task: Task = jax.device_get(stages["task"](root, index, np.int32(attempt), database, totals))
            if task.passed and is_distinct(task, found):
                found.append(task)
            if len(found) == self._plan.tasks:
                break
        return tuple(found)

    def _streamed(self, root: Array, index: np.int32, schema: Schema) -> Made:
        """A database whose rows are computed while they are written."""
        capacity, prior, at = resident_capacity(schema, self._plan.capacity), self._plan.prior, np.int32(0)
        tiles = step_tiles(schema, self._plan.chunk_rows // TILE)
        known = {"root": root, "index": index, "prior": prior, "schema": schema, "first": at, "count": at}
        stages = self._compiled(capacity, _IN_PASSING, known, tiles)
        laws, scm = stages["laws"](root, index, prior, schema), stages["scm"](root, index, prior, schema)
        passing: Passing = stages["passing"](scm)
        none = jnp.zeros((0, 0), jnp.float32)
        structure = jax.device_get(Database(schema, laws, scm, none, none, none, none, fits=schema.fits & scm.fits))

        def compute(first: int, count: int) -> Chunk:
            nonlocal passing
            with jax.default_device(self._device):  # a writing thread asks
                chunk: Chunk = stages["chunk"](root, index, schema, laws, scm, passing, np.int32(first), np.int32(count))
            passing = chunk.passing
            return chunk

        return Made(structure, stream_tables(compute, structure.schema, tiles))
