"""Stage four and the row functions: every cell of a database, some rows of one table alone, and what is behind them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrel import struct
from jaxrel.clusters import KeyTables, empty_tables
from jaxrel.edges import Packed, pack_edges
from jaxrel.kernel import State, walk
from jaxrel.links import link_tiles
from jaxrel.random import named_key, reduce_key
from jaxrel.tiles import tile_count
from jaxrel.types import (
    AGGREGATES,
    EXPORTS,
    NO_TABLE,
    SCM,
    TILE,
    Capacity,
    Database,
    Interventions,
    Links,
    Schema,
    no_interventions,
    tiles_of,
)

__all__ = ["Chunk", "Passing", "Rows", "Truth", "explain_rows", "simulate", "simulate_rows", "start_rows", "stream_rows"]

_MEASURED = ("node_shift", "node_scale", "column_knots")  # leaves of an SCM that its calibration sets


@struct.dataclass
class Rows:
    """Some rows of one table."""

    values: Array  # f32[C, rows]
    missing: Array  # bool[C, rows]
    time: Array  # i32[rows]


@struct.dataclass
class Truth:
    """What is behind some rows of one table: every node of its SCM."""

    lanes: Array  # f32[N, W, rows], the nodes' values
    code: Array  # i32[N, rows], categories of categorical nodes, else 0
    signal: Array  # f32[N, W, rows], the same before the node's own noise (of a categorical node: what its scores are made of)


def _chunk(
    key: ArrayLike,
    schema: Schema,
    links: Links,
    scm: SCM,
    capacity: Capacity,
    table: ArrayLike,
    first_tile: ArrayLike,
    tiles: int,
    aggregates: Array | None,
    interventions: Interventions | None,
    tells: bool,
) -> State:
    if not isinstance(scm.calibrated, jax.core.Tracer) and not bool(scm.calibrated):
        raise ValueError("scm: not calibrated, so rows cannot be computed alone; take the scm of a simulated Database")
    hears = scm.aggregate_table
    if aggregates is None:
        if not isinstance(hears, jax.core.Tracer) and bool(jnp.any(hears != NO_TABLE)):
            raise ValueError("aggregates: the database sums up child rows, so its Database.aggregates must be given")
        aggregates = jnp.zeros((AGGREGATES, capacity.width, capacity.rows), jnp.float32)
    table = jnp.asarray(table, jnp.int32)
    start = schema.row_offset[table] // TILE
    is_entity = ~schema.is_activity & (jnp.arange(schema.row_count.shape[0], dtype=jnp.int32) < schema.table_count)
    end = jnp.max(jnp.where(is_entity, schema.row_offset // TILE + tiles_of(schema.row_count), 0))  # referenced tables come first
    first = start + jnp.asarray(first_tile, jnp.int32)
    prefix = jnp.where(jnp.any(schema.fk_parent[table] == table), first, jnp.minimum(end, first))
    noise_key, done = named_key(reduce_key(key), "simulate"), interventions or no_interventions()
    run = walk(capacity, tiles, True, tells)
    edges, exports = pack_edges(scm), _no_exports(capacity)
    state: State = run(noise_key, schema, links, scm, edges, done, aggregates, exports, prefix, first, jnp.int32(tiles))
    return state


def _no_exports(capacity: Capacity) -> Array:
    """Exports before any tile is computed: f32[EXPORTS, W, R]."""
    return jnp.zeros((EXPORTS, capacity.width, capacity.rows), jnp.float32)


def simulate_rows(
    key: ArrayLike,
    schema: Schema,
    links: Links,
    scm: SCM,
    capacity: Capacity,
    table: ArrayLike,
    first_tile: ArrayLike,
    tiles: int,
    aggregates: Array | None = None,
    interventions: Interventions | None = None,
) -> Rows:
    """Compute some rows of one table alone: bit for bit those of `simulate`.

    The tables that keys can lead to are computed on the way; of the table itself, where it refers to itself, the rows before.

    Args:
        key: the key that `simulate` was given.
        schema: one schema.
        links: its links.
        scm: its *calibrated* SCM, ``Database.scm``: structural functions never move.
        capacity: static sizes.
        table: i32[], which table.
        first_tile: i32[], first row in tiles of `TILE` rows.
        tiles: static, how many tiles.
        aggregates: ``Database.aggregates``; None where no table of the schema sums up child rows.
        interventions: what is done to nodes; None: nothing. Aggregates are taken as they are given.

    Returns:
        `Rows` of ``tiles * TILE`` rows; those past the table's last row are padding.

    Raises:
        ValueError: if a concrete SCM is not calibrated, or has aggregates that are not given.
    """
    state = _chunk(key, schema, links, scm, capacity, table, first_tile, tiles, aggregates, interventions, False)
    return Rows(values=state.values, missing=state.missing, time=state.time)


@struct.dataclass
class Passing:
    """What some tiles of the row axis leave to the next ones."""

    exports: Array  # f32[EXPORTS, W, R]
    tables: KeyTables  # of the keys of the table at hand
    edges: Packed  # i32[E, fields] and f32[E, fields]: all of them, from the start
    node_shift: Array  # f32[T, N, W], measured for every table whose first tile has passed
    node_scale: Array  # f32[T, N, W]
    column_knots: Array  # f32[T, C, SCORES]


@struct.dataclass
class Chunk:
    """Some tiles of the row axis, computed after all that they can refer to, and what the next ones need."""

    rows: Rows  # of tiles · TILE rows
    parent_row: Array  # i32[K, rows]
    passing: Passing


def start_rows(scm: SCM, capacity: Capacity) -> Passing:
    """What the first call of `stream_rows` takes: the SCM's edges and calibration, and no tile yet."""
    measured = {name: getattr(scm, name) for name in _MEASURED}
    return Passing(exports=_no_exports(capacity), tables=empty_tables(capacity), edges=pack_edges(scm), **measured)


def stream_rows(
    key: ArrayLike,
    schema: Schema,
    laws: Links,
    scm: SCM,
    passing: Passing,
    first: ArrayLike,
    count: ArrayLike,
    capacity: Capacity,
    tiles: int,
) -> Chunk:
    """Compute the next tiles of the row axis: links and cells bit for bit those of `sample_links` and `simulate`.

    Nothing is as long as the database but what later rows can refer to. So ``capacity.rows`` is that of the *resident* tables
    (`jaxrel.tiles.resident_tiles`) and one more tile. Called for all tiles in order, from `start_rows` on, each call with what the one
    before has left.

    Args:
        key: as `simulate` takes it.
        schema: one schema.
        laws: as `sample_link_laws` returns them; ``parent_row`` is not read.
        scm: its SCM, not calibrated; of its edges only where each node's start is read.
        passing: `start_rows`, or what the tiles before have left.
        first: i32[], first tile on the row axis.
        count: i32[], how many tiles; at most ``tiles``, of one table.
        capacity: static sizes; the SCM has no aggregates.
        tiles: static, tiles of the outputs.

    Returns:
        A `Chunk`.
    """
    first, count = jnp.asarray(first, jnp.int32), jnp.asarray(count, jnp.int32)
    parent_row, tables = link_tiles(schema, laws, passing.tables, capacity, first, count, tiles)
    links = dataclasses.replace(laws, parent_row=parent_row)
    scm = dataclasses.replace(scm, **{name: getattr(passing, name) for name in _MEASURED})
    noise_key, done, zero = named_key(reduce_key(key), "simulate"), no_interventions(), jnp.int32(0)
    aggregates = jnp.zeros((AGGREGATES, capacity.width, TILE), jnp.float32)
    run = walk(capacity, tiles, True, streams=True)
    state: State = run(noise_key, schema, links, scm, passing.edges, done, aggregates, passing.exports, zero, first, count)
    measured = {name: getattr(state, name) for name in _MEASURED}
    return Chunk(
        rows=Rows(values=state.values, missing=state.missing, time=state.time),
        parent_row=parent_row,
        passing=Passing(exports=state.exports, tables=tables, edges=passing.edges, **measured),
    )


def explain_rows(
    key: ArrayLike,
    schema: Schema,
    links: Links,
    scm: SCM,
    capacity: Capacity,
    table: ArrayLike,
    first_tile: ArrayLike,
    tiles: int,
    aggregates: Array | None = None,
    interventions: Interventions | None = None,
) -> Truth:
    """The nodes behind some rows of one table: values, and signals before noise. The noise of a mechanism node is their difference.

    Args:
        key: the key that `simulate` was given.
        schema: one schema.
        links: its links.
        scm: its calibrated SCM, ``Database.scm``.
        capacity: static sizes.
        table: i32[], which table.
        first_tile: i32[], first row in tiles of `TILE` rows.
        tiles: static, how many tiles.
        aggregates: ``Database.aggregates``; None where no table of the schema sums up child rows.
        interventions: what is done to nodes; None: nothing.

    Returns:
        `Truth` of ``tiles * TILE`` rows; those past the table's last row are unspecified. A node that nothing shows (``SCM.node_used``) is
        not calibrated: its signal is what its edges bring, as it is.

    Raises:
        ValueError: as `simulate_rows` does.
    """
    lanes, signal = _chunk(key, schema, links, scm, capacity, table, first_tile, tiles, aggregates, interventions, True).told
    W = capacity.width
    return Truth(lanes=lanes[:, :W], code=lanes[:, W].astype(jnp.int32), signal=signal)


def simulate(
    key: ArrayLike, schema: Schema, links: Links, scm: SCM, capacity: Capacity, interventions: Interventions | None = None
) -> Database:
    """Compute every cell of a database.

    Args:
        key: a PRNG key, typed or raw; it moves exogenous noise only (times belong to the schema, links to the links).
        schema: one schema.
        links: its links.
        scm: its SCM; where not calibrated, each table is calibrated on its pilot, and ``Database.scm`` is the calibrated one.
        capacity: static sizes.
        interventions: what is done to nodes (`jaxrel.interventions`), from a calibrated SCM on; None: nothing, by the same program.

    Returns:
        A `Database`.

    Example:
        >>> import jax, jaxrel
        >>> tiny, key = jaxrel.presets.load("tiny"), jax.random.key(0)
        >>> db = jax.jit(jaxrel.sample_database, static_argnums=2)(key, tiny.prior, tiny.capacity)
        >>> simulate = jax.jit(jaxrel.simulate, static_argnums=4)
        >>> again = simulate(jax.random.key(1), db.schema, db.links, db.scm, tiny.capacity)
        >>> bool((again.time == db.time).all()), bool((again.values == db.values).all())
        (True, False)
    """
    noise_key, done, zero = named_key(reduce_key(key), "simulate"), interventions or no_interventions(), jnp.int32(0)
    blank = jnp.zeros((AGGREGATES, capacity.width, capacity.rows), jnp.float32)
    edges, exports, count = pack_edges(scm), _no_exports(capacity), tile_count(schema)
    state = walk(capacity, capacity.tiles, False)(noise_key, schema, links, scm, edges, done, blank, exports, zero, zero, count)
    used = schema.table_count > 0
    measured = {name: getattr(state, name) for name in _MEASURED}
    calibrated = dataclasses.replace(scm, **measured, calibrated=scm.calibrated | used)
    return Database(
        schema=schema,
        links=links,
        scm=calibrated,
        values=state.values,
        missing=state.missing,
        time=state.time,
        aggregates=state.aggregates,
        fits=schema.fits & scm.fits,
    )
