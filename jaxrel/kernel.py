"""The kernel: one interpreter for every SCM. It walks tiles, nodes and edges; all trip counts are the batch's maximum. A branch is taken
where any tile of a step needs it and its result is selected by data.

One database, or a batch of which a derivative is taken, goes along the row axis in step, and all write indices are unbatched. Else a
batch of B databases has B lanes, and each takes a tile of whichever database has one left (`jaxrel.schedule`): what leads with B is then
the databases' in the state, and the lanes' in a tile's inputs.

Pass 1 computes all that no aggregate feeds, parents first. Then child rows are summed up (`jaxrel.aggregates`), and pass 2 visits
the tables that hear of them once more, with all their nodes: the same tiles by the same step, another node count.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrel import struct
from jaxrel.aggregates import aggregate_children
from jaxrel.batching import Loop, batched, fixed_loop, quick_loop
from jaxrel.categories import prototype_key
from jaxrel.columns import from_score, in_units, measured_knots, missing_values, to_score
from jaxrel.cuts import cut_codes, cut_key
from jaxrel.edges import Packed
from jaxrel.lanes import at_own, of_lane, rows_at, write_tile
from jaxrel.nodes import SERIES_FIELDS, Context, TableStreams, walk_nodes
from jaxrel.random import named_key
from jaxrel.registry import CUTS
from jaxrel.schedule import schedule_rows
from jaxrel.schema import missing_key
from jaxrel.tiles import Tile, tile_at
from jaxrel.times import moments, time_rows
from jaxrel.types import (
    NO_CUT,
    NO_ROW,
    NO_TABLE,
    SCM,
    TILE,
    Capacity,
    Interventions,
    Kind,
    LabelOrder,
    Links,
    NodeKind,
    Schema,
)

__all__ = ["State", "table_streams", "tile_inputs", "walk"]

_NODE_FIELDS = ("kind", "used", "width", "classes", "combine", "noise", "law", "spread")
_TABLE_FIELDS = (*SERIES_FIELDS, "gather_fk", "gather_export", "export_node", "edge_start", "pass2_start", "trait_table")


@struct.dataclass
class State:
    """What one tile hands to the next."""

    exports: Array  # f32[B, EXPORTS, W, rows]; where it holds the rows of resident tables only, its last tile takes what nobody reads
    aggregates: Array  # f32[B, AGGREGATES, W, R]
    lanes: Array  # f32[B, N, W + 1, TILE], the nodes of one tile; what an earlier tile left is written before it is read
    signals: Array  # f32[B, N, W, TILE] where they are asked for, else f32[B, 0, W, TILE]: nodes before their noise
    column_knots: Array  # f32[B, T, C, SCORES], calibration
    node_shift: Array  # f32[B, T, N, W]
    node_scale: Array  # f32[B, T, N, W]
    values: Array  # f32[B, C, rows]
    missing: Array  # bool[B, C, rows]
    time: Array  # i32[B, rows]
    told: tuple[Array, ...]  # lanes f32[B, N, W + 1, rows] and signals f32[B, N, W, rows] where they are asked for, else ()


def table_streams(key: Array, schema: Schema, link_key: Array, scm: SCM, tables: Array) -> TableStreams:
    """Random streams of the tables i32[B, n]; ``key`` and ``link_key`` u32[B, 2], other leaves lead with B."""

    def of_one(key: Array, schema: Schema, link_key: Array, scm: SCM, tables: Array) -> TableStreams:
        table_id, node = schema.table_id[tables, None], jnp.arange(scm.node_kind.shape[1], dtype=jnp.int32)
        child, fk = jnp.maximum(scm.trait_table[tables], 0), scm.trait_fk[tables]
        return TableStreams(
            noise=named_key(key, table_id, node),
            prototype=prototype_key(scm.key, table_id, node),
            trait=named_key(link_key, schema.table_id[child], schema.fk_id[child, fk]),
            missing=jax.vmap(lambda t: missing_key(schema, t))(tables),
            cut=jax.vmap(lambda t: cut_key(schema, scm, t))(tables),
        )

    return jax.vmap(of_one)(key, schema, link_key, scm, tables)


def _put(of_tables: Array, context: Context, own: Array) -> Array:
    """Calibrations [B, T, …] with those of each database's table at hand, [B, …], in their place."""
    table = context.tile.table
    if context.database is not None:
        measured = jnp.where(context.tile.measures, context.database, of_tables.shape[0])
        return of_tables.at[measured, table].set(own, mode="drop", unique_indices=True)
    if own.shape[0] == 1:
        return jax.lax.dynamic_update_index_in_dim(of_tables, own[:, None], table[0], 1)
    is_own = jnp.arange(of_tables.shape[1], dtype=jnp.int32)[None, :] == table[:, None]
    return jnp.where(is_own.reshape(*is_own.shape, *(1,) * (own.ndim - 1)), own[:, None], of_tables)


def _seen(schema: Schema, scm: SCM, tile: Tile, lanes: Array, W: int) -> Array:
    """The lane that each column of one database's tile observes (of a category that is not cut, its code), f32[C, TILE]."""
    kind, cut = schema.column_kind[tile.table], scm.column_cut[tile.table]
    coded = ((kind == Kind.CATEGORICAL) | (kind == Kind.BOOLEAN)) & (cut == NO_CUT)
    return lanes[scm.column_node[tile.table], jnp.where(coded, W, scm.column_lane[tile.table])]


def _cut(
    key: Array, schema: Schema, scm: SCM, tile: Tile, seen: Array, score: Array, knots: Array, most_points: Array, any_permuted: Array
) -> Array:
    """`_seen` with the codes of the columns that are cut."""
    t, lanes = tile.table, jax.lax.stop_gradient((seen, score))
    cut, law = scm.column_cut[t], (scm.column_shape[t], scm.column_order[t], schema.column_classes[t])
    codes = cut_codes(key, *lanes, knots, cut, *law, most_points, any_permuted)
    return jnp.where((cut != NO_CUT)[:, None], codes, seen)


def _observe(
    key: Array, schema: Schema, scm: SCM, tile: Tile, seen: Array, score: Array, any_marginal: Array, any_driver: Array
) -> tuple[Array, Array]:
    """Columns of one database's tile: values f32[C, TILE], missing bool[C, TILE]; ``key`` u32[C, 2] decides what is missing."""
    t = tile.table
    kind = schema.column_kind[t]
    labelled = (kind == Kind.CATEGORICAL) | (kind == Kind.BOOLEAN)
    shown = jax.lax.cond(any_marginal, lambda: from_score(seen, score, scm.column_marginal[t], scm.column_shape[t]), lambda: seen)
    real = scm.column_offset[t][:, None] + scm.column_scale[t][:, None] * shown
    values = jnp.where(labelled[:, None], seen, in_units(real, kind))
    exists = (jnp.arange(kind.shape[0], dtype=jnp.int32) < schema.column_count[t])[:, None] & tile.real[None, :]
    missing = missing_values(key, tile.rows, schema.column_null[t], scm.column_driver[t], score, any_driver) | ~exists
    return jnp.where(missing, 0.0, values), missing


def tile_inputs(
    named: TableStreams,
    schema: Schema,
    links: Links,
    scm: SCM,
    edges: Packed,
    interventions: Interventions,
    capacity: Capacity,
    exports: Array,
    aggregates: Array,
    j: Array,
    out_tile: Array,
    first_pass: Array,
    streams: bool,
    all_nodes: bool,
    database: Array | None,
) -> tuple[Schema, SCM, Context]:
    """What one tile in every database, or lane, is computed from. Arguments as `_step`'s; ``all_nodes``: unused ones too."""
    if database is not None:
        schema, scm, interventions = jax.tree.map(lambda x: x[database], (schema, scm, interventions))
    tile = jax.vmap(tile_at, (0, None if database is None else 0))(schema, j)
    position = jnp.take_along_axis(schema.row_offset, tile.table[:, None], axis=1) + tile.rows
    if streams:
        parent_row = jax.lax.dynamic_slice_in_dim(links.parent_row, out_tile * TILE, TILE, axis=2)
    else:
        parent_row = rows_at(links.parent_row, database, position)
    time = jax.vmap(time_rows)(schema, tile.table, tile.rows)
    nodes = {name: at_own(getattr(scm, f"node_{name}"), tile.table) for name in _NODE_FIELDS}
    nodes |= {name: at_own(getattr(scm, name), tile.table) for name in _TABLE_FIELDS}
    every = at_own(scm.node_count, tile.table)
    node = jnp.arange(capacity.nodes, dtype=jnp.int32)[None, :]
    count = jnp.where(first_pass, jnp.minimum(nodes["pass2_start"], every), every)
    nodes["used"] = (nodes["used"] | all_nodes) & (node < count[:, None])
    place = tile.table if named.noise.shape[1] > 1 else jnp.zeros_like(tile.table)
    context = Context(
        database=database,
        streams=jax.tree.map(lambda x: of_lane(x, database, place), named),
        tile=dataclasses.replace(tile, measures=tile.measures & ~scm.calibrated),
        time=time,
        moment=jax.vmap(moments)(schema, tile.table, tile.rows, time),
        position=position,
        parent_row=jnp.where(tile.real[:, None], parent_row, jnp.int32(NO_ROW)),
        nodes=nodes,
        edges=edges,
        exports=exports,
        aggregates=aggregates,
        interventions=interventions,
    )
    return schema, scm, context


def _step(
    named: TableStreams,
    schema: Schema,
    links: Links,
    scm: SCM,
    edges: Packed,
    interventions: Interventions,
    capacity: Capacity,
    state: State,
    j: Array,
    out_tile: Array,
    first_pass: Array,
    streams: bool,
    loop: Loop,
    database: Array | None = None,
) -> State:
    """One tile in every database (leaves lead with B): tile ``j`` of the row axis, written as tile ``out_tile`` of the outputs.

    In the first pass without the nodes that need aggregates. ``streams``: the links are those of the tiles of the outputs.
    ``database``: i32[B], whose tile each lane computes, ``j`` then being i32[B] too; None: its own.
    """
    schema, scm, context = tile_inputs(
        named,
        schema,
        links,
        scm,
        edges,
        interventions,
        capacity,
        state.exports,
        state.aggregates,
        j,
        out_tile,
        first_pass,
        streams,
        state.signals.shape[1] > 0,  # who asks for signals asks for all nodes
        database,
    )
    tile = context.tile
    given = (of_lane(state.node_shift, database, tile.table), of_lane(state.node_scale, database, tile.table))
    carry = state.lanes, state.signals, *given
    lanes, signals, shift, scale = walk_nodes(schema, context, carry, capacity, loop)

    seen = jax.vmap(functools.partial(_seen, W=capacity.width))(schema, scm, tile, lanes)
    own_table = at_own(scm.column_marginal, tile.table), at_own(scm.column_driver, tile.table)
    in_use = jnp.arange(capacity.columns, dtype=jnp.int32)[None, :] < jnp.take_along_axis(schema.column_count, tile.table[:, None], axis=1)
    own_cut = jnp.where(in_use, at_own(scm.column_cut, tile.table), NO_CUT)
    by_marginal, driver = (own_table[0] != 0) & in_use, jnp.where(in_use, own_table[1], -1)
    drives = jnp.any(driver[:, :, None] == jnp.arange(capacity.columns, dtype=jnp.int32)[None, None, :], axis=1)
    any_marginal, any_driver, any_cut = jnp.any(by_marginal), jnp.any(driver >= 0), jnp.any(own_cut != NO_CUT)
    ranked = by_marginal | drives | (own_cut != NO_CUT)
    wanted = ranked & tile.measures[:, None]
    knots = of_lane(state.column_knots, database, tile.table)
    knots = jax.lax.cond(jnp.any(wanted), lambda: measured_knots(seen, tile.real, wanted, knots, loop), lambda: knots)
    score = jax.lax.cond(jnp.any(ranked), lambda: jax.vmap(to_score)(seen, knots), lambda: jnp.zeros_like(seen))
    most_points = jnp.max(jnp.where(own_cut == CUTS.index("points"), at_own(schema.column_classes, tile.table), 0))
    any_permuted = jnp.any((own_cut != NO_CUT) & (at_own(scm.column_order, tile.table) == LabelOrder.PERMUTED))
    cut = jax.vmap(functools.partial(_cut, most_points=most_points, any_permuted=any_permuted))
    seen = jax.lax.cond(any_cut, lambda: cut(context.streams.cut, schema, scm, tile, seen, score, knots), lambda: seen)
    observe = jax.vmap(_observe, (0, 0, 0, 0, 0, 0, None, None))
    values, missing = observe(context.streams.missing, schema, scm, tile, seen, score, any_marginal, any_driver)
    exported = jax.vmap(lambda x, i: x[i, : capacity.width])(lanes, context.nodes["export_node"])
    return dataclasses.replace(
        state,
        exports=write_tile(state.exports, exported, database, j),
        lanes=lanes,
        signals=signals,
        column_knots=_put(state.column_knots, context, knots),
        node_shift=_put(state.node_shift, context, shift),
        node_scale=_put(state.node_scale, context, scale),
        values=write_tile(state.values, jnp.where(tile.is_pilot[:, None, None], 0.0, values), database, out_tile),
        missing=write_tile(state.missing, missing | tile.is_pilot[:, None, None], database, out_tile),
        time=write_tile(state.time, jnp.where(tile.real & ~tile.is_pilot[:, None], context.time, 0), database, out_tile),
        told=tuple(write_tile(out, x, database, out_tile) for out, x in zip(state.told, (lanes, signals), strict=False)),
    )


def _reads_itself(schema: Schema, scm: SCM) -> Array:
    """bool[T]: tables of one database that gather from earlier rows of their own."""
    table = jnp.arange(schema.row_count.shape[0], dtype=jnp.int32)[:, None]
    by_self = jnp.take_along_axis(schema.fk_parent, jnp.maximum(scm.gather_fk, 0), axis=1) == table
    return jnp.any((scm.node_kind == NodeKind.GATHER) & by_self, axis=1)


def _empty(capacity: Capacity, rows: int, scm: SCM, aggregates: Array, exports: Array, tells: bool) -> State:
    batch, W, N = aggregates.shape[0], capacity.width, capacity.nodes
    return State(
        exports=exports,
        aggregates=aggregates,
        lanes=jnp.zeros((batch, N, W + 1, TILE), jnp.float32),
        signals=jnp.zeros((batch, N if tells else 0, W, TILE), jnp.float32),
        column_knots=scm.column_knots,
        node_shift=scm.node_shift,
        node_scale=scm.node_scale,
        values=jnp.zeros((batch, capacity.columns, rows), jnp.float32),
        missing=jnp.ones((batch, capacity.columns, rows), bool),
        time=jnp.zeros((batch, rows), jnp.int32),
        told=tuple(jnp.zeros((batch, N, lanes, rows), jnp.float32) for lanes in (W + 1, W)) if tells else (),
    )


@functools.cache
def walk(capacity: Capacity, tiles: int, chunk: bool, tells: bool = False, streams: bool = False) -> Any:
    """The kernel over the row axis of a batch of databases: all of it in two passes, or a chunk of it in one.

    A chunk computes the tiles before ``prefix`` and then ``count`` tiles from ``first`` on, which are the ones it returns; all three are
    the batch's maximum, as the loop needs them unbatched. Its aggregates are given. Of a chunk that ``streams``, the exports of the tiles
    before are given too, and the links are its own, pilot included.
    """

    def run(
        key: Array,
        schema: Schema,
        links: Links,
        scm: SCM,
        edges: Packed,
        interventions: Interventions,
        aggregates: Array,
        exports: Array,
        prefix: Array,
        first: Array,
        count: Array,
        loop: Loop,
    ) -> State:
        prefix, first, count = jnp.max(prefix), jnp.max(first), jnp.max(count)  # every leaf leads with B
        state = _empty(capacity, tiles * TILE, scm, aggregates, exports, tells)
        every_table = jnp.broadcast_to(jnp.arange(capacity.tables, dtype=jnp.int32), schema.row_count.shape)
        only = jax.vmap(tile_at, (0, None))(schema, first).table[:, None]
        named = table_streams(key, schema, links.key, scm, only if streams else every_table)

        def visit(state: State, j: Array, place: Array, first_pass: Array, database: Array | None = None) -> State:
            return _step(named, schema, links, scm, edges, interventions, capacity, state, j, place, first_pass, streams, loop, database)

        if loop is fixed_loop:
            visit = jax.checkpoint(visit)  # what the way back needs of a tile is computed anew there, one tile at a time
        trips = prefix + jnp.minimum(count, tiles)
        if chunk:

            def one(i: Array, state: State) -> State:
                j = jnp.where(i < prefix, i, i - prefix + first)
                return visit(state, j, jnp.maximum(i - prefix, 0), jnp.asarray(False))

            return loop(0, trips, capacity.tiles, one, state)

        hears = scm.aggregate_table[:, :, 0] != NO_TABLE

        def in_step() -> Any:  # count and tiles of a pass, databases side by side
            every = jnp.arange(tiles, dtype=jnp.int32)
            tables = jax.vmap(lambda j: jax.vmap(tile_at, (0, None))(schema, j).table)(every)  # [tiles, B]
            again = jax.vmap(lambda t: jnp.any(at_own(hears, t)))(tables) & (every < trips)
            order = jnp.argsort(~again, stable=True).astype(jnp.int32)  # tiles of the second pass first
            most = jnp.sum(again, dtype=jnp.int32)
            return lambda second: (jnp.where(second, most, trips), lambda i: (jnp.where(second, order[i], i), None))

        def by_lanes() -> Any:
            of_itself, cost = jax.vmap(_reads_itself)(schema, scm), scm.edge_start[:, :, -1] - scm.edge_start[:, :, 0]

            def of_pass(second: Array) -> Any:
                plan = schedule_rows(schema, cost, hears | ~second, of_itself & ~second)
                work = functools.partial(plan.at, nowhere=capacity.tiles)
                return plan.count, lambda i: ((at := work(i)).tile, at.database)

            return of_pass

        of_pass = by_lanes() if key.shape[0] > 1 and loop is not fixed_loop else in_step()

        def one_pass(p: Array, state: State) -> State:  # both passes are one loop in another: the step is compiled once
            second = p == 1

            def sums(_: Array) -> Array:
                return aggregate_children(schema, links, scm, state.exports, capacity)

            state = dataclasses.replace(state, aggregates=jax.lax.cond(second, sums, lambda x: x, state.aggregates))
            steps, work = of_pass(second)

            def one(i: Array, state: State) -> State:
                j, database = work(i)
                return visit(state, j, j, ~second, database)

            return loop(0, steps, capacity.tiles, one, state)

        return loop(0, 1 + jnp.any(hears).astype(jnp.int32), 2, one_pass, state)

    return batched(functools.partial(run, loop=quick_loop), functools.partial(run, loop=fixed_loop))
