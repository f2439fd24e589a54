"""The kernel: one interpreter for every SCM. It walks tiles, nodes and edges; all trip counts are the batch's maximum, all write
indices unbatched. A branch is taken where any database of the batch needs it and its result is selected by data.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrel import struct
from jaxrel.batching import Loop, batched, fixed_loop, quick_loop
from jaxrel.columns import from_score, knots_of, missing_values, to_score
from jaxrel.edges import Packed, combine_edges, pack_edges
from jaxrel.exogenous import exogenous_rows
from jaxrel.noise import add_noise
from jaxrel.random import gumbel, named_key, normals, reduce_key, row_bits, row_pair
from jaxrel.schema import missing_key, time_rows
from jaxrel.tiles import SEGMENT, Tile, tile_at, tile_count
from jaxrel.types import EXPORTS, NO_ROW, SCM, SCORES, TILE, Capacity, Database, Kind, Links, NodeKind, Schema, tiles_of

__all__ = ["Rows", "simulate", "simulate_rows"]

_CLIP = 30.0  # standardised signals beyond it are cut
_CODES = 255  # the highest code of a category
_GUMBEL = 4096  # lanes of a row's words: noise from 0, Gumbel noise of the classes from here
_NODE_FIELDS = ("kind", "width", "classes", "combine", "noise", "law", "spread")
_SERIES_FIELDS = (*(f"series_{name}" for name in ("trend", "power", "cycle", "period", "phase", "noise", "rho")), "noise_knots")
_TABLE_FIELDS = (*_SERIES_FIELDS, "gather_fk", "gather_export", "export_node", "edge_start")


@struct.dataclass
class _State:
    """What one tile hands to the next."""

    exports: Array  # f32[B, EXPORTS, W, R]
    lanes: Array  # f32[B, N, W + 1, TILE], the nodes of one tile; what an earlier tile left is written before it is read
    shift: Array  # f32[B, N, W], calibration of the table at hand
    scale: Array  # f32[B, N, W]
    knots: Array  # f32[B, C, SCORES]
    column_knots: Array  # f32[B, T, C, SCORES]
    node_shift: Array  # f32[B, T, N, W]
    node_scale: Array  # f32[B, T, N, W]
    values: Array  # f32[B, C, rows]
    missing: Array  # bool[B, C, rows]
    time: Array  # i32[B, rows]


@struct.dataclass
class _Context:
    """One tile's inputs for all databases."""

    noise_key: Array  # u32[B, N, 2], exogenous noise of each node
    weight_key: Array  # u32[B, N, 2], prototypes of each node
    tile: Tile
    parent_row: Array  # i32[B, K, TILE]
    nodes: dict[str, Array]  # [B, N, …], the table's slice of the SCM's node fields
    edges: Packed


def _at(x: Array, i: Array) -> Array:
    """x[b, i[b]] of every database: [B, …]."""
    return jax.vmap(lambda row, j: jax.lax.dynamic_index_in_dim(row, j, 0, keepdims=False))(x, i)


def _gather(schema: Schema, context: _Context, exports: Array, lanes: Array, n: Array) -> Array:
    """Lanes of a parent row's exported node: f32[B, W, TILE], 0 where the key is null."""

    def one(schema: Schema, tile: Tile, nodes: dict[str, Array], parent_row: Array, exports: Array, lanes: Array) -> Array:
        fk, slot = nodes["gather_fk"][n], nodes["gather_export"][n]
        parent = jnp.maximum(schema.fk_parent[tile.table, fk], 0)
        row = parent_row[fk]
        from_table = exports[slot][:, jnp.clip(schema.row_offset[parent] + row, 0, exports.shape[-1] - 1)]
        # a self-reference: rows of this very tile are not exported yet; a pilot takes its own nearest row for the parent
        is_self = parent == tile.table
        count = jnp.maximum(schema.row_count[parent], 1)
        run_length = jnp.maximum(count // (TILE // SEGMENT), 1)
        run = jnp.minimum(row // run_length, TILE // SEGMENT - 1)
        near = run * SEGMENT + jnp.clip(row - run * run_length, 0, SEGMENT - 1)
        inside = jnp.where(tile.is_pilot, near, row - tile.rows[0])
        source = lanes[nodes["export_node"][slot], : exports.shape[1]]
        from_tile = source[:, jnp.clip(inside, 0, TILE - 1)]
        value = jnp.where(is_self & (tile.is_pilot | (row >= tile.rows[0])), from_tile, from_table)
        return jnp.where(row != NO_ROW, value, 0.0)

    return jax.vmap(one)(schema, context.tile, context.nodes, context.parent_row, exports, lanes)


def _standardise(signal: Array, state: _State, context: _Context, n: Array) -> tuple[Array, Array, Array]:
    """Signal in units of its pilot, and the calibration used; measured where this tile is the table's pilot."""
    real = context.tile.real[:, None, :]
    count = jnp.maximum(jnp.sum(real, axis=-1, dtype=jnp.float32), 1.0)
    mean = jnp.sum(jnp.where(real, signal, 0.0), axis=-1) / count
    spread = jnp.sqrt(jnp.sum(jnp.where(real, jnp.square(signal - mean[..., None]), 0.0), axis=-1) / count)
    gathered = (context.nodes["kind"][:, n] == NodeKind.GATHER)[:, None]
    shift = jnp.where(gathered, 0.0, mean)
    dead = spread <= 1e-5 + 1e-3 * jnp.abs(mean)  # what varies less than that is, for the most part, rounding
    scale = jnp.where(gathered, 1.0, jnp.where(dead, 0.0, 1.0 / jnp.where(dead, 1.0, spread)))
    measures = context.tile.measures[:, None]
    shift = jnp.where(measures, jax.lax.stop_gradient(shift), state.shift[:, n])
    scale = jnp.where(measures, jax.lax.stop_gradient(scale), state.scale[:, n])
    return jnp.clip((signal - shift[..., None]) * scale[..., None], -_CLIP, _CLIP), shift, scale


def _classify(value: Array, context: _Context, n: Array, capacity: Capacity) -> tuple[Array, Array]:
    """A categorical node: the code with the best score plus Gumbel noise, i32[B, TILE], and its prototype, f32[B, W, TILE]."""
    W, Q = capacity.width, capacity.classes
    width, classes = context.nodes["width"][:, n], context.nodes["classes"][:, n]
    noise_key, prototype_key = context.noise_key[:, n], context.weight_key[:, n]
    q, w = jnp.arange(Q, dtype=jnp.int32), jnp.arange(W, dtype=jnp.int32)
    prototype, _ = normals(row_pair(prototype_key[:, None, None, :], q[None, :, None], w[None, None, :]))
    prototype = jnp.where((w[None, :] < width[:, None])[:, None, :], prototype, 0.0)
    sharpness = 3.0 / jnp.sqrt(jnp.maximum(width, 1).astype(jnp.float32))
    score = jnp.einsum("bqw,bwr->bqr", prototype * sharpness[:, None, None], jax.lax.stop_gradient(value))

    def challenge(c: Array, best: Array) -> Array:  # one class after another: all at once, XLA computes every score anew for each use
        noise = gumbel(row_bits(noise_key[:, None, :], context.tile.rows, _GUMBEL + c))
        word = jax.lax.bitcast_convert_type(jax.lax.dynamic_index_in_dim(score, c, 1, keepdims=False) + 0.5 * noise, jnp.int32)
        ordered = word ^ ((word >> 31) & 0x7FFFFFFF)  # integers in the order of the floats; the code in the low bits
        ranked = (ordered & ~_CODES) | (_CODES - c)
        return jnp.where((c < classes)[:, None], jnp.maximum(best, ranked), best)

    lowest = jnp.full(value.shape[::2], jnp.iinfo(jnp.int32).min, jnp.int32)
    code = _CODES - (jax.lax.fori_loop(0, jnp.max(classes), challenge, lowest) & _CODES)
    code = jnp.minimum(code, Q - 1)
    return code, jnp.einsum("bqw,bqr->bwr", prototype, (code[:, None, :] == q[None, :, None]).astype(jnp.float32))


def _node(schema: Schema, state: _State, context: _Context, n: Array, carry: Any, capacity: Capacity, loop: Loop) -> Any:
    """One node of one tile in every database: its lanes, and in lane W the code of a categorical node."""
    lanes, shift, scale = carry
    W = capacity.width
    kind = context.nodes["kind"][:, n]
    exists = n < context.nodes["count"]
    width = context.nodes["width"][:, n]
    batch = lanes.shape[0]
    blank = jnp.zeros((batch, W, TILE), jnp.float32)

    row_count = jnp.take_along_axis(schema.row_count, context.tile.table[:, None], axis=1)[:, 0]

    def has(code: NodeKind) -> Array:
        return (kind == code) & exists

    def exogenous(blank: Array) -> Array:
        series = {name: context.nodes[name][:, n] for name in _SERIES_FIELDS}
        any_memory = jnp.any((series["series_rho"] > 0) & has(NodeKind.EXOGENOUS))
        value = exogenous_rows(context.noise_key[:, n], series, row_count, context.tile.rows, any_memory)
        return blank.at[:, 0].set(value)

    signal = jax.lax.cond(jnp.any(has(NodeKind.EXOGENOUS)), exogenous, lambda x: x, blank)
    gathered = jax.lax.cond(jnp.any(has(NodeKind.GATHER)), lambda x: _gather(schema, context, state.exports, lanes, n), lambda x: x, blank)

    def mechanism(_: Array) -> Array:
        start = context.nodes["edge_start"]
        count = jnp.where(has(NodeKind.MECHANISM), start[:, n + 1] - start[:, n], 0)
        return combine_edges(context.edges, lanes, start[:, n], count, context.nodes["combine"][:, n], capacity, loop)

    computed = jax.lax.cond(jnp.any(has(NodeKind.MECHANISM)), mechanism, lambda x: x, blank)
    pick = kind[:, None, None]
    signal = jnp.where(pick == NodeKind.MECHANISM, computed, jnp.where(pick == NodeKind.GATHER, gathered, signal))

    in_width = jnp.arange(W, dtype=jnp.int32)[None, :, None] < width[:, None, None]
    value, node_shift, node_scale = _standardise(signal, state, context, n)

    def noise(value: Array) -> Array:
        def words() -> tuple[Array, Array]:
            lane = jnp.arange(W, dtype=jnp.int32)  # one draw a lane: interleaving the two of a pair would not vectorise
            return row_pair(context.noise_key[:, n, None, None, :], context.tile.rows[:, None, :], lane[:, None])

        deviation = jnp.where(node_scale == 0.0, 1.0, context.nodes["noise"][:, n, None])  # a dead signal becomes pure noise
        return add_noise(words, context.nodes["law"][:, n], value, deviation, context.nodes["spread"][:, n], has(NodeKind.MECHANISM))

    value = jnp.where(pick == NodeKind.MECHANISM, jax.lax.cond(jnp.any(has(NodeKind.MECHANISM)), noise, lambda x: x, value), value)
    value = jnp.where(in_width & exists[:, None, None], value, 0.0)

    classes = jnp.where(exists, context.nodes["classes"][:, n], 0)
    no_code = jnp.zeros((batch, TILE), jnp.int32)
    code, prototype = jax.lax.cond(jnp.any(classes > 0), lambda v: _classify(v, context, n, capacity), lambda v: (no_code, v), value)
    value = jnp.where((classes > 0)[:, None, None], prototype, value)
    both = jnp.concatenate([value, code.astype(jnp.float32)[:, None]], axis=1)
    put = jax.lax.dynamic_update_index_in_dim
    return put(lanes, both, n, 1), put(shift, node_shift, n, 1), put(scale, node_scale, n, 1)


def _seen(schema: Schema, scm: SCM, tile: Tile, lanes: Array, W: int) -> Array:
    """The lane that each column of one database's tile observes (of a category its code), f32[C, TILE]."""
    kind = schema.column_kind[tile.table]
    labelled = (kind == Kind.CATEGORICAL) | (kind == Kind.BOOLEAN)
    return lanes[scm.column_node[tile.table], jnp.where(labelled, W, scm.column_lane[tile.table])]


def _observe(
    schema: Schema, scm: SCM, tile: Tile, seen: Array, score: Array, any_marginal: Array, any_driver: Array
) -> tuple[Array, Array, Array]:
    """Columns of one database's tile: values f32[C, TILE], missing bool[C, TILE], time i32[TILE]."""
    t = tile.table
    kind = schema.column_kind[t]
    labelled = (kind == Kind.CATEGORICAL) | (kind == Kind.BOOLEAN)
    shown = jax.lax.cond(any_marginal, lambda: from_score(seen, score, scm.column_marginal[t], scm.column_shape[t]), lambda: seen)
    real = scm.column_offset[t][:, None] + scm.column_scale[t][:, None] * shown
    real = jnp.where((kind == Kind.INTEGER)[:, None], jnp.round(real), real)
    values = jnp.where(labelled[:, None], seen, real)
    exists = (jnp.arange(kind.shape[0], dtype=jnp.int32) < schema.column_count[t])[:, None] & tile.real[None, :]
    missing = missing_values(missing_key(schema, t), tile.rows, schema.column_null[t], scm.column_driver[t], score, any_driver) | ~exists
    return jnp.where(missing, 0.0, values), missing, jnp.where(tile.real, time_rows(schema, t, tile.rows), 0)


def _step(
    key: Array,
    schema: Schema,
    links: Links,
    scm: SCM,
    edges: Packed,
    capacity: Capacity,
    state: _State,
    j: Array,
    out_tile: Array,
    loop: Loop,
) -> _State:
    """One tile in every database (leaves lead with B): tile ``j`` of the row axis, written as tile ``out_tile`` of the outputs."""
    tile = jax.vmap(tile_at, (0, None))(schema, j)
    position = jnp.take_along_axis(schema.row_offset, tile.table[:, None], axis=1) + tile.rows
    parent_row = jax.vmap(lambda x, p: x[:, jnp.clip(p, 0, x.shape[1] - 1)])(links.parent_row, position)
    table_id = jnp.take_along_axis(schema.table_id, tile.table[:, None], axis=1)[:, 0]
    nodes = {name: _at(getattr(scm, f"node_{name}"), tile.table) for name in _NODE_FIELDS}
    nodes |= {
        name: _at(getattr(scm, name), tile.table) for name in (*_SERIES_FIELDS, "gather_fk", "gather_export", "export_node", "edge_start")
    }
    nodes["count"] = _at(scm.node_count, tile.table)
    node = jnp.arange(capacity.nodes, dtype=jnp.int32)[None, :]
    context = _Context(
        noise_key=named_key(key[:, None], table_id[:, None], node),
        weight_key=named_key(scm.key[:, None], "prototype", table_id[:, None], node),
        tile=tile,
        parent_row=jnp.where(tile.real[:, None], parent_row, jnp.int32(NO_ROW)),
        nodes=nodes,
        edges=edges,
    )
    calibrated = scm.calibrated[:, None, None]
    entered = _at(scm.node_shift, tile.table), _at(scm.node_scale, tile.table)
    known = [jnp.where(calibrated, given, current) for given, current in zip(entered, (state.shift, state.scale), strict=True)]
    context = dataclasses.replace(context, tile=dataclasses.replace(tile, measures=tile.measures & ~scm.calibrated))
    state = dataclasses.replace(state, shift=known[0], scale=known[1])

    node_step = functools.partial(_node, schema, state, context, capacity=capacity, loop=loop)
    carry = state.lanes, state.shift, state.scale
    lanes, shift, scale = loop(0, jnp.max(nodes["count"]), capacity.nodes, node_step, carry)

    seen = jax.vmap(functools.partial(_seen, W=capacity.width))(schema, scm, context.tile, lanes)
    own_table = _at(scm.column_marginal, tile.table), _at(scm.column_driver, tile.table)
    in_use = jnp.arange(capacity.columns, dtype=jnp.int32)[None, :] < jnp.take_along_axis(schema.column_count, tile.table[:, None], axis=1)
    any_marginal, any_driver = jnp.any((own_table[0] != 0) & in_use), jnp.any((own_table[1] >= 0) & in_use)
    measures = context.tile.measures
    knots = jnp.where(calibrated, _at(scm.column_knots, tile.table), state.knots)
    ranked = any_marginal | any_driver
    measured = jax.lax.cond(ranked & jnp.any(measures), lambda: jax.vmap(knots_of)(seen, context.tile.real), lambda: knots)
    knots = jnp.where(measures[:, None, None], measured, knots)
    score = jax.lax.cond(ranked, lambda: jax.vmap(to_score)(seen, knots), lambda: jnp.zeros_like(seen))
    observe = jax.vmap(_observe, (0, 0, 0, 0, 0, None, None))
    values, missing, time = observe(schema, scm, context.tile, seen, score, any_marginal, any_driver)
    exported = jax.vmap(lambda x, i: x[i, : capacity.width])(lanes, nodes["export_node"])
    own = (jnp.arange(capacity.tables, dtype=jnp.int32)[None, :] == tile.table[:, None]) & jnp.any(tile.real, axis=1)[:, None]
    own = own[:, :, None, None]
    update = jax.lax.dynamic_update_slice
    zero = jnp.int32(0)
    return dataclasses.replace(
        state,
        exports=update(state.exports, exported, (zero, zero, zero, j * TILE)),
        lanes=lanes,
        shift=shift,
        scale=scale,
        knots=knots,
        column_knots=jnp.where(own, knots[:, None], state.column_knots),
        node_shift=jnp.where(own, shift[:, None], state.node_shift),
        node_scale=jnp.where(own, scale[:, None], state.node_scale),
        values=update(state.values, jnp.where(context.tile.is_pilot[:, None, None], 0.0, values), (zero, zero, out_tile * TILE)),
        missing=update(state.missing, missing | tile.is_pilot[:, None, None], (zero, zero, out_tile * TILE)),
        time=update(state.time, jnp.where(tile.is_pilot[:, None], 0, time), (zero, out_tile * TILE)),
    )


def _empty(batch: int, capacity: Capacity, rows: int, scm: SCM) -> _State:
    W = capacity.width
    return _State(
        exports=jnp.zeros((batch, EXPORTS, W, capacity.rows), jnp.float32),
        lanes=jnp.zeros((batch, capacity.nodes, W + 1, TILE), jnp.float32),
        shift=jnp.zeros((batch, capacity.nodes, W), jnp.float32),
        scale=jnp.ones((batch, capacity.nodes, W), jnp.float32),
        knots=jnp.zeros((batch, capacity.columns, len(SCORES)), jnp.float32),
        column_knots=scm.column_knots,
        node_shift=scm.node_shift,
        node_scale=scm.node_scale,
        values=jnp.zeros((batch, capacity.columns, rows), jnp.float32),
        missing=jnp.ones((batch, capacity.columns, rows), bool),
        time=jnp.zeros((batch, rows), jnp.int32),
    )


@functools.cache
def _walk(capacity: Capacity, tiles: int) -> Any:
    """The kernel over the row axis of a batch of databases.

    It computes the tiles before ``prefix`` and then ``count`` tiles from ``first`` on, which are the ones it returns; all three
    are the batch's maximum, as the loop needs them unbatched.
    """

    def walk(key: Array, schema: Schema, links: Links, scm: SCM, prefix: Array, first: Array, count: Array, loop: Loop) -> _State:
        prefix, first, count = jnp.max(prefix), jnp.max(first), jnp.max(count)  # every leaf leads with B
        state, edges = _empty(key.shape[0], capacity, tiles * TILE, scm), pack_edges(scm)

        def step(i: Array, state: _State) -> _State:
            j = jnp.where(i < prefix, i, i - prefix + first)
            return _step(key, schema, links, scm, edges, capacity, state, j, jnp.maximum(i - prefix, 0), loop)

        return loop(0, prefix + jnp.minimum(count, tiles), capacity.tiles, step, state)

    return batched(functools.partial(walk, loop=quick_loop), functools.partial(walk, loop=fixed_loop))


@struct.dataclass
class Rows:
    """Some rows of one table."""

    values: Array  # f32[C, rows]
    missing: Array  # bool[C, rows]
    time: Array  # i32[rows]


def simulate_rows(
    key: ArrayLike, schema: Schema, links: Links, scm: SCM, capacity: Capacity, table: ArrayLike, first_tile: ArrayLike, tiles: int
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

    Returns:
        `Rows` of ``tiles * TILE`` rows; those past the table's last row are padding.

    Raises:
        ValueError: if a concrete SCM is not calibrated.
    """
    if not isinstance(scm.calibrated, jax.core.Tracer) and not bool(scm.calibrated):
        raise ValueError("scm: not calibrated, so rows cannot be computed alone; take the scm of a simulated Database")
    table = jnp.asarray(table, jnp.int32)
    start = schema.row_offset[table] // TILE
    is_entity = ~schema.is_activity & (jnp.arange(schema.row_count.shape[0], dtype=jnp.int32) < schema.table_count)
    end = jnp.max(jnp.where(is_entity, schema.row_offset // TILE + tiles_of(schema.row_count), 0))  # referenced tables come first
    first = start + jnp.asarray(first_tile, jnp.int32)
    prefix = jnp.where(jnp.any(schema.fk_parent[table] == table), first, jnp.minimum(end, first))
    noise_key = named_key(reduce_key(key), "simulate")
    state = _walk(capacity, tiles)(noise_key, schema, links, scm, prefix, first, jnp.int32(tiles))
    return Rows(values=state.values, missing=state.missing, time=state.time)


def simulate(key: ArrayLike, schema: Schema, links: Links, scm: SCM, capacity: Capacity) -> Database:
    """Compute every cell of a database.

    Args:
        key: a PRNG key, typed or raw; it moves exogenous noise only (times belong to the schema, links to the links).
        schema: one schema.
        links: its links.
        scm: its SCM; where not calibrated, each table is calibrated on its pilot, and ``Database.scm`` is the calibrated one.
        capacity: static sizes.

    Returns:
        A `Database`.

    Example:
        >>> import jax, jaxrel
        >>> tiny, key = jaxrel.presets.load("tiny"), jax.random.key(0)
        >>> db = jaxrel.sample_database(key, tiny.prior, tiny.capacity)
        >>> again = jaxrel.simulate(jax.random.key(1), db.schema, db.links, db.scm, tiny.capacity)
        >>> bool((again.time == db.time).all()), bool((again.values == db.values).all())
        (True, False)
    """
    noise_key = named_key(reduce_key(key), "simulate")
    zero = jnp.int32(0)
    state = _walk(capacity, capacity.tiles)(noise_key, schema, links, scm, zero, zero, tile_count(schema))
    used = schema.table_count > 0
    measured = {name: getattr(state, name) for name in ("node_shift", "node_scale", "column_knots")}
    calibrated = dataclasses.replace(scm, **measured, calibrated=scm.calibrated | used)
    return Database(
        schema=schema,
        links=links,
        scm=calibrated,
        values=state.values,
        missing=state.missing,
        time=state.time,
        fits=schema.fits & scm.fits,
    )
