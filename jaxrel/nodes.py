"""The nodes of a table's SCM on one tile, in every database or lane: where each takes its value from, its scale, its noise, its code."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrel import struct
from jaxrel.batching import Loop, by_platform, product, quick_loop
from jaxrel.categories import classify, prototypes
from jaxrel.edges import Packed, combine_edges, fits_on_chip
from jaxrel.exogenous import exogenous_rows, trait_rows
from jaxrel.lanes import row_lanes
from jaxrel.noise import add_noise
from jaxrel.random import quotient, row_pair
from jaxrel.tiles import SEGMENT, Tile
from jaxrel.types import (
    AGGREGATES,
    ALL_LANES,
    CODE_LANE,
    INTERVENTIONS,
    NO_ROW,
    NO_TABLE,
    TILE,
    Capacity,
    Interventions,
    NodeKind,
    Schema,
)

__all__ = ["CLIP", "FAINT", "SERIES_FIELDS", "Carry", "Context", "TableStreams", "is_dead", "walk_nodes", "with_traits"]

CLIP = 30.0  # standardised signals beyond it are cut
FAINT = 2e-3  # a signal that varies less is not blown up to unit variance, and its rounding with it
SERIES_FIELDS = (*(f"series_{name}" for name in ("trend", "power", "cycle", "period", "phase", "noise", "rho", "calendar")), "noise_knots")

Carry = tuple[Array, Array, Array, Array]


@struct.dataclass
class TableStreams:
    """Random streams of ``n`` tables of each database, found by their names before the loop, not at every tile."""

    noise: Array  # u32[B, n, N, 2], of each node
    prototype: Array  # u32[B, n, N, 2], of each node's categories
    trait: Array  # u32[B, n, N, 2], of the key whose trait a node shows
    missing: Array  # u32[B, n, C, 2], of each column
    cut: Array  # u32[B, n, C, 2]


@struct.dataclass
class Context:
    """One tile's inputs for all databases, or lanes."""

    database: Array | None  # i32[B], whose tile each lane computes; None: its own
    streams: TableStreams  # of the tile's table, without the axis n
    tile: Tile
    time: Array  # i32[B, TILE]
    moment: Array  # f32[B, TILE]
    position: Array  # i32[B, TILE], its rows on the row axis
    parent_row: Array  # i32[B, K, TILE]
    nodes: dict[str, Array]  # [B, N, …], the table's slice of the SCM's node fields
    edges: Packed
    exports: Array  # f32[B, EXPORTS, W, R], of the databases
    aggregates: Array  # f32[B, AGGREGATES, W, R], of the databases
    interventions: Interventions


def _gather(schema: Schema, context: Context, lanes: Array, n: Array) -> Array:
    """Lanes of a parent row's exported node: f32[B, W, TILE], 0 where the key is null."""

    def source(schema: Schema, tile: Tile, nodes: dict[str, Array], parent_row: Array) -> tuple[Array, ...]:
        fk, slot = nodes["gather_fk"][n], nodes["gather_export"][n]
        parent, row = jnp.maximum(schema.fk_parent[tile.table, fk], 0), parent_row[fk]
        return slot, nodes["export_node"][slot], parent, row, schema.row_offset[parent] + row

    slot, node, parent, row, at = jax.vmap(source)(schema, context.tile, context.nodes, context.parent_row)
    from_tables = row_lanes(context.exports, context.database, slot, at)

    def one(schema: Schema, tile: Tile, node: Array, parent: Array, row: Array, from_table: Array, lanes: Array) -> Array:
        # a self-reference: rows of this very tile are not exported yet; a pilot takes its own nearest row for the parent
        is_self = parent == tile.table
        count = jnp.maximum(schema.row_count[parent], 1)
        run_length = jnp.maximum(count // (TILE // SEGMENT), 1)
        run = jnp.minimum(quotient(row, run_length), TILE // SEGMENT - 1)
        near = run * SEGMENT + jnp.clip(row - run * run_length, 0, SEGMENT - 1)
        inside = jnp.where(tile.is_pilot, near, row - tile.rows[0])
        from_tile = lanes[node, : from_table.shape[0]][:, jnp.clip(inside, 0, TILE - 1)]
        value = jnp.where(is_self & (tile.is_pilot | (row >= tile.rows[0])), from_tile, from_table)
        return jnp.where(row != NO_ROW, value, 0.0)

    return jax.vmap(one)(schema, context.tile, node, parent, row, from_tables, lanes)


def _total(x: Array) -> Array:
    """Sums f32[B, W] of f32[B, W, TILE] to 2⁻¹⁹ of the largest |x|, in integers: every program adds them up to the same bits."""
    most = jnp.maximum(jnp.max(jnp.abs(x), axis=-1, keepdims=True), 1e-30)
    unit = jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(most, jnp.int32) & 0x7F800000, jnp.float32) * jnp.float32(2.0**-19)
    return jnp.sum(jnp.round(x / unit).astype(jnp.int32), axis=-1).astype(jnp.float32) * unit[..., 0]


def is_dead(mean: Array, spread: Array) -> Array:
    """Whether what varies so little is, for the most part, rounding."""
    return spread <= 1e-5 + 1e-3 * jnp.abs(mean)


def _standardise(signal: Array, given: tuple[Array, Array], context: Context, n: Array) -> tuple[Array, Array, Array]:
    """Signal in units of its pilot, and the calibration used; measured where this tile is the table's pilot."""
    measures = context.tile.measures[:, None]
    gathered = (context.nodes["kind"][:, n] == NodeKind.GATHER)[:, None]

    def measure(signal: Array) -> tuple[Array, Array]:
        real = context.tile.real[:, None, :]
        count = jnp.maximum(jnp.sum(real, axis=-1, dtype=jnp.float32), 1.0)
        mean = _total(jnp.where(real, signal, 0.0)) / count
        spread = jnp.sqrt(_total(jnp.where(real, jnp.square(signal - mean[..., None]), 0.0)) / count)
        scale = jnp.where(is_dead(mean, spread), 0.0, 1.0 / jnp.maximum(spread, FAINT))
        shift, scale = jnp.where(gathered, 0.0, mean), jnp.where(gathered, 1.0, scale)
        return jnp.where(measures, shift, given[0]), jnp.where(measures, scale, given[1])

    shift, scale = jax.lax.cond(jnp.any(measures), measure, lambda _: given, jax.lax.stop_gradient(signal))
    return jnp.clip((signal - shift[..., None]) * scale[..., None], -CLIP, CLIP), shift, scale


def _done_to(value: Array, lane: Array, context: Context, n: Array) -> Array:
    """Lanes f32[B, lanes, TILE] (numbered by ``lane`` i32[lanes]) after the interventions on node ``n`` of the tile's table."""
    done, tile = context.interventions, context.tile
    at_node = (done.table == tile.table[:, None]) & (done.node == n) & (done.table != NO_TABLE)  # [B, INTERVENTIONS]

    def one(i: Array, value: Array) -> Array:
        rows = (tile.rows >= done.first_row[:, i, None]) & (tile.rows < done.past_row[:, i, None])
        named = done.lane[:, i, None]
        lanes = (named == lane[None, :]) | ((named == ALL_LANES) & (lane[None, :] >= 0))
        hit = (at_node[:, i, None] & lanes)[:, :, None] & rows[:, None, :]
        return jnp.where(hit, done.scale[:, i, None, None] * value + done.shift[:, i, None, None], value)

    def all_of_them(value: Array) -> Array:
        return jax.lax.fori_loop(0, INTERVENTIONS, one, value)

    return jax.lax.cond(jnp.any(at_node), all_of_them, lambda x: x, value)


def _trait(schema: Schema, context: Context, n: Array, shows: Array) -> Array:
    """Values f32[B, TILE] of node ``n`` where it shows the trait of a key's rows."""
    child, stream = jnp.maximum(context.nodes["trait_table"][:, n], 0), context.streams.trait[:, n]
    is_parent = shows & (child != context.tile.table)
    row_count = jnp.take_along_axis(schema.row_count, context.tile.table[:, None], axis=1)[:, 0]
    return trait_rows(stream, is_parent, context.nodes["noise_knots"][:, n], row_count, context.tile.rows)


def _node(schema: Schema, context: Context, order: Array, i: Array, carry: Any, capacity: Capacity, loop: Loop) -> Any:
    """One node of one tile in every database, number ``order[i]``: its lanes, and in lane W the code of a categorical node."""
    n = order[i]
    lanes, signals, shift, scale = carry
    W = capacity.width
    kind = context.nodes["kind"][:, n]
    exists = context.nodes["used"][:, n]
    width = context.nodes["width"][:, n]
    batch = lanes.shape[0]
    blank = jnp.zeros((batch, W, TILE), jnp.float32)

    def has(code: NodeKind) -> Array:
        return (kind == code) & exists

    def exogenous(blank: Array) -> Array:
        series = {name: context.nodes[name][:, n] for name in SERIES_FIELDS}
        any_memory = jnp.any((series["series_rho"] > 0) & has(NodeKind.EXOGENOUS))
        value = exogenous_rows(context.streams.noise[:, n], series, context.tile.rows, context.moment, context.time, any_memory)
        shows = (context.nodes["trait_table"][:, n] != NO_TABLE) & has(NodeKind.EXOGENOUS)

        def trait(value: Array) -> Array:
            return jnp.where(shows[:, None], _trait(schema, context, n, shows), value)

        value = jax.lax.cond(jnp.any(shows), trait, lambda x: x, value)
        return blank.at[:, 0].set(value)

    signal = jax.lax.cond(jnp.any(has(NodeKind.EXOGENOUS)), exogenous, lambda x: x, blank)
    gathered = jax.lax.cond(jnp.any(has(NodeKind.GATHER)), lambda x: _gather(schema, context, lanes, n), lambda x: x, blank)

    def aggregated(_: Array) -> Array:
        slot = jnp.clip(n - context.nodes["pass2_start"], 0, AGGREGATES - 1)
        return row_lanes(context.aggregates, context.database, slot, context.position)

    summed = jax.lax.cond(jnp.any(has(NodeKind.AGGREGATE)), aggregated, lambda x: x, blank)

    def mechanism(_: Array) -> Array:
        start = context.nodes["edge_start"]
        count = jnp.where(has(NodeKind.MECHANISM), start[:, n + 1] - start[:, n], 0)
        combine = context.nodes["combine"][:, n]
        return combine_edges(context.edges, context.database, lanes, start[:, n], count, combine, capacity, loop)

    computed = jax.lax.cond(jnp.any(has(NodeKind.MECHANISM)), mechanism, lambda x: x, blank)
    pick = kind[:, None, None]
    for code, value in ((NodeKind.MECHANISM, computed), (NodeKind.GATHER, gathered), (NodeKind.AGGREGATE, summed)):
        signal = jnp.where(pick == code, value, signal)

    in_width = jnp.arange(W, dtype=jnp.int32)[None, :, None] < width[:, None, None]
    value, node_shift, node_scale = _standardise(signal, (shift[:, n], scale[:, n]), context, n)

    noiseless = jnp.where(in_width & exists[:, None, None], value, 0.0)
    is_noisy = has(NodeKind.MECHANISM) & (context.nodes["classes"][:, n] == 0)  # a categorical node's noise is in its choice

    def noise(value: Array) -> Array:
        def words() -> tuple[Array, Array]:
            lane = jnp.arange(W, dtype=jnp.int32)  # one draw a lane: interleaving the two of a pair would not vectorise
            return row_pair(context.streams.noise[:, n, None, None, :], context.tile.rows[:, None, :], lane[:, None])

        deviation = jnp.where(node_scale == 0.0, 1.0, context.nodes["noise"][:, n, None])  # a dead signal becomes pure noise
        return add_noise(words, context.nodes["law"][:, n], value, deviation, context.nodes["spread"][:, n], is_noisy)

    value = jnp.where(is_noisy[:, None, None], jax.lax.cond(jnp.any(is_noisy), noise, lambda x: x, value), value)
    value = jnp.where(in_width & exists[:, None, None], value, 0.0)

    classes = jnp.where(exists, context.nodes["classes"][:, n], 0)

    def categorical(value: Array) -> tuple[Array, Array]:
        prototype = prototypes(context.streams.prototype[:, n], context.nodes["width"][:, n], capacity)
        nodes = context.nodes
        noise_key = context.streams.noise[:, n]
        code = classify(value, prototype, nodes["width"][:, n], nodes["classes"][:, n], nodes["noise"][:, n], noise_key, context.tile.rows)
        code = _done_to(code.astype(jnp.float32)[:, None], jnp.full(1, CODE_LANE, jnp.int32), context, n)[:, 0]
        code = jnp.clip(jnp.round(code), 0.0, jnp.maximum(classes - 1, 0).astype(jnp.float32)[:, None])
        q = jnp.arange(capacity.classes, dtype=jnp.int32)
        shown = (code[:, None, :] == q.astype(jnp.float32)[None, :, None]).astype(jnp.float32)
        return code, jnp.where((classes > 0)[:, None, None], product("bqw,bqr->bwr", prototype, shown), value)

    no_code = jnp.zeros((batch, TILE), jnp.float32)
    code, value = jax.lax.cond(jnp.any(classes > 0), categorical, lambda v: (no_code, v), value)
    value = _done_to(value, jnp.arange(W, dtype=jnp.int32), context, n)
    both = jnp.concatenate([value, code[:, None]], axis=1)
    put = jax.lax.dynamic_update_index_in_dim
    if signals.shape[1]:
        signals = put(signals, noiseless, n, 1)
    return put(lanes, both, n, 1), signals, put(shift, node_shift, n, 1), put(scale, node_scale, n, 1)


def walk_nodes(schema: Schema, context: Context, carry: Carry, capacity: Capacity, loop: Loop) -> Carry:
    """All nodes of one tile in every database or lane, in their order: of a batch, what any of its databases uses.

    Args:
        schema: leaves lead with B, the lanes'.
        context: the tile's inputs.
        carry: f32[B, N, W + 1, TILE] lanes, f32[B, N or 0, W, TILE] signals where they are asked for, f32[B, N, W] shift and scale.
        capacity: static sizes.
        loop: how to loop.

    Returns:
        The same, computed.
    """
    used = context.nodes["used"]

    def by_operators() -> Carry:
        order = jnp.argsort(~jnp.any(used, axis=0), stable=True).astype(jnp.int32)
        node = functools.partial(_node, schema, context, order, capacity=capacity, loop=loop)
        done: Carry = loop(0, jnp.sum(jnp.any(used, axis=0), dtype=jnp.int32), capacity.nodes, node, carry)
        return done

    if context.database is None or loop is not quick_loop or carry[1].shape[1] or not fits_on_chip(capacity):
        return by_operators()

    def on_chip() -> Carry:
        from jaxrel import onchip_nodes  # where there is a GPU

        lanes, signals, shift, scale = carry
        lanes, shift, scale = onchip_nodes.walk_nodes_on_chip(schema, context, with_traits(schema, context, lanes), shift, scale, capacity)
        return lanes, signals, shift, scale

    walked: Carry = by_platform(on_chip, by_operators)
    return walked


def with_traits(schema: Schema, context: Context, lanes: Array) -> Array:
    """``lanes`` with those of the nodes that show traits, which are the first of their table."""
    shows = context.nodes["used"] & (context.nodes["kind"] == NodeKind.EXOGENOUS) & (context.nodes["trait_table"] != NO_TABLE)
    n = jnp.arange(shows.shape[1], dtype=jnp.int32)

    def show(n: Array, lanes: Array) -> Array:
        shown = jnp.where(shows[:, n, None], _trait(schema, context, n, shows[:, n]), 0.0)
        return jax.lax.dynamic_update_slice(lanes, shown[:, None, None], (0, n, 0, 0))

    return jax.lax.fori_loop(0, jnp.max(jnp.where(shows, n + 1, 0)), show, lanes)
