"""Aggregates: what the rows of a table hear from the child rows that refer to them.

An aggregate node sums up, lane by lane, one exported node of the rows of one child table by one key. Sums accumulate in fixed point and
extremes as integers in the order of the floats, so the order of rows, tiles and devices leaves no trace. The kernel calls this between its
two passes; only tables without time are summed up, since their rows have been there all along (no value hears of a later row).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrel import struct
from jaxrel.draws import draw_choice, draw_flag, draw_integer, draw_real
from jaxrel.prior import SCMPrior
from jaxrel.random import Words, below, bits, exp, running_sum
from jaxrel.tiles import tile_at, tile_count
from jaxrel.types import AGGREGATES, HUGE, NO_ROW, NO_TABLE, SCM, TILE, Aggregate, Capacity, Links, Schema, tiles_of

__all__ = ["aggregate_children", "as_ordered", "from_ordered", "sample_aggregates"]

_LOWEST = jnp.iinfo(jnp.int32).min
_MOST = 32.0  # lanes lie within it (the kernel cuts signals at 30)


def sample_aggregates(key: Array | Words, law: SCMPrior, schema: Schema, table: Array, exports: int) -> dict[str, Array]:
    """Choose what one table hears from its children.

    Args:
        key: u32[2], the table's stream.
        law: the ``scm`` section.
        schema: one schema.
        table: i32[], the parent table.
        exports: static, exported nodes of a table.

    Returns:
        The ``aggregate_*`` fields of `jaxrel.types.SCM`, each [AGGREGATES]; unused slots come last and hold NO_TABLE.
    """
    T, K = schema.fk_parent.shape
    t, slot = jnp.arange(T, dtype=jnp.int32), jnp.arange(AGGREGATES, dtype=jnp.int32)
    key = Words(key, ("aggregated key", "by recency", "aggregated export", "aggregate", "decay"), slot)
    leads_here = (schema.fk_parent == table) & (t != table)[:, None] & ~schema.has_time[:, None]
    flat = leads_here.reshape(-1)
    candidates = jnp.sum(flat, dtype=jnp.int32)
    small = jnp.sum(schema.row_count, dtype=jnp.int32) <= HUGE
    wanted = jnp.where((candidates > 0) & small, jnp.clip(draw_integer(key, "aggregates", law.aggregates), 0, AGGREGATES), 0)
    chosen = below(bits(key, slot, "aggregated key"), candidates)
    found = flat[None, :] & (running_sum(flat)[None, :] == chosen[:, None] + 1)
    index = jnp.sum(jnp.where(found, jnp.arange(T * K, dtype=jnp.int32)[None, :], 0), axis=1, dtype=jnp.int32)
    used = slot < wanted
    weighted = draw_flag(key, "by recency", law.recency, slot)
    return {
        "aggregate_table": jnp.where(used, index // K, NO_TABLE),
        "aggregate_fk": jnp.where(used, index % K, 0),
        "aggregate_export": below(bits(key, slot, "aggregated export"), exports),
        "aggregate_law": draw_choice(key, "aggregate", law.aggregate_laws, slot),
        "aggregate_decay": jnp.where(weighted, draw_real(key, "decay", law.decay, slot), 0.0),
    }


def as_ordered(x: Array) -> Array:
    """i32[...] in the order of f32[...]."""
    word = jax.lax.bitcast_convert_type(x, jnp.int32)
    return word ^ ((word >> 31) & 0x7FFFFFFF)


def from_ordered(x: Array) -> Array:
    """The inverse of `as_ordered`, f32[...]."""
    return jax.lax.bitcast_convert_type(x ^ ((x >> 31) & 0x7FFFFFFF), jnp.float32)


@struct.dataclass
class _Totals:
    sums: Array  # i32[AGGREGATES, W + 1, R], weighted lanes in fixed point, and the weights
    best: Array  # i32[AGGREGATES, W, R], highest value, or row id, so far


def _unit(rows: Array) -> Array:
    """f32[]: the power of two by which lanes become integers such that a sum over so many rows stays below 2^31."""
    spare = jax.lax.clz(jnp.maximum(rows, 1))  # rows < 2^(32 - spare)
    return jax.lax.bitcast_convert_type((jnp.clip(spare - 6, 0, 24) + 127) << 23, jnp.float32)  # 32 - spare + 5 + exponent <= 31


def _children(schema: Schema, scm: SCM, table: Array, slot: Array | int) -> tuple[Array, Array, Array]:
    """Child table of one aggregate, its first row on the row axis, and its rows; 0 rows where there is no aggregate."""
    child = scm.aggregate_table[table, slot]
    there = jnp.maximum(child, 0)
    return there, schema.row_offset[there], jnp.where(child == NO_TABLE, 0, schema.row_count[there])


def _add_tile(schema: Schema, links: Links, scm: SCM, exports: Array, pair: Array, j: Array, totals: _Totals) -> _Totals:
    """Add one tile of child rows to one aggregate, ``pair = table · AGGREGATES + slot``."""
    W, R = exports.shape[1:]
    table, slot = pair // AGGREGATES, pair % AGGREGATES
    child, offset, count = _children(schema, scm, table, slot)
    rows = j * TILE + jnp.arange(TILE, dtype=jnp.int32)
    start = jnp.minimum(offset + j * TILE, R - TILE)  # past the child's last tile nothing counts
    parent = jax.lax.dynamic_slice(links.parent_row, (scm.aggregate_fk[table, slot], start), (1, TILE))[0]
    counts = (rows < count) & (parent != NO_ROW)
    lanes = jax.lax.dynamic_slice(exports, (scm.aggregate_export[table, slot], 0, start), (1, W, TILE))[0]
    at = jnp.where(counts, schema.row_offset[table] + parent, R)  # R: dropped
    unit, law = _unit(count), scm.aggregate_law[table, slot]
    ago = 1.0 - (rows.astype(jnp.float32) + 1.0) / jnp.maximum(count, 1).astype(jnp.float32)  # 0: the last row
    weight = exp(-scm.aggregate_decay[table, slot] * jnp.clip(ago, 0.0, 1.0))
    weighted = jnp.concatenate([jnp.clip(lanes, -_MOST, _MOST) * weight[None, :], weight[None, :]])
    fixed = jnp.round(weighted * unit).astype(jnp.int32)
    sums = totals.sums.at[slot, :, at].add(fixed.T, mode="drop")
    key = jnp.where(law == Aggregate.LAST, rows[None, :], as_ordered(jnp.where(law == Aggregate.MIN, -lanes, lanes)))
    return _Totals(sums=sums, best=totals.best.at[slot, :, at].max(key.T, mode="drop"))


def _value(schema: Schema, scm: SCM, exports: Array, j: Array, slot: int, sums: Array, best: Array) -> Array:
    """What one aggregate says on tile ``j`` of the row axis, f32[W, TILE]; 0 where there is none.

    Args:
        schema: one schema.
        scm: which aggregates there are.
        exports: f32[EXPORTS, W, R].
        j: i32[], the tile.
        slot: which aggregate of the tile's table.
        sums: i32[W + 1, TILE], totals of the tile's rows.
        best: i32[W, TILE], the same.
    """
    tile = tile_at(schema, j)
    table = tile.table
    _, offset, count = _children(schema, scm, table, slot)
    law, unit, some = scm.aggregate_law[table, slot], _unit(count), best[:1] != _LOWEST
    total = sums.astype(jnp.float32) / unit

    at = jnp.clip(offset + best, 0, exports.shape[2] - 1)
    last = exports[scm.aggregate_export[table, slot], jnp.arange(best.shape[0], dtype=jnp.int32)[:, None], at]
    highest = from_ordered(best)
    out = jnp.broadcast_to(total[-1:], best.shape)  # a count
    for code, value in (
        (Aggregate.SUM, total[:-1]),
        (Aggregate.MEAN, total[:-1] / jnp.maximum(total[-1:], 1.0 / unit)),
        (Aggregate.MIN, -highest),
        (Aggregate.MAX, highest),
        (Aggregate.LAST, last),
    ):
        out = jnp.where(law == code, jnp.where(some, value, 0.0), out)
    told = tile.real & ~tile.is_pilot & (scm.aggregate_table[table, slot] != NO_TABLE)
    return jnp.where(told[None, :], out, 0.0)


def aggregate_children(schema: Schema, links: Links, scm: SCM, exports: Array, capacity: Capacity) -> Array:
    """All aggregates of a batch of databases.

    Args:
        schema: leaves lead with B, as do those of the others.
        links: every child row's parents.
        scm: which aggregates there are.
        exports: f32[B, EXPORTS, W, R], exported nodes of all rows.
        capacity: static sizes.

    Returns:
        f32[B, AGGREGATES, W, R]: at a row, what the aggregates of its table say; 0 where there are none. Rows without children count
        0, sum to 0, and have mean, extremes and last 0, the lanes' own mean. No gradient passes.
    """
    batch, _, W, R = exports.shape
    exports = jax.lax.stop_gradient(exports)
    pairs = capacity.tables * AGGREGATES
    active = scm.aggregate_table.reshape(batch, pairs) != NO_TABLE
    order = jnp.argsort(~active, axis=1, stable=True).astype(jnp.int32)  # the ones in use first
    trips = jnp.max(jnp.sum(active, axis=1, dtype=jnp.int32))

    def child_tiles(schema: Schema, scm: SCM, pair: Array) -> Array:
        return tiles_of(_children(schema, scm, pair // AGGREGATES, pair % AGGREGATES)[2])

    def compute(blank: Array) -> Array:
        start = _Totals(
            sums=jnp.zeros((batch, AGGREGATES, W + 1, R), jnp.int32), best=jnp.full((batch, AGGREGATES, W, R), _LOWEST, jnp.int32)
        )

        def one_pair(i: Array, totals: _Totals) -> _Totals:
            pair = jax.lax.dynamic_index_in_dim(order, i, 1, keepdims=False)

            def one_tile(j: Array, totals: _Totals) -> _Totals:
                return jax.vmap(_add_tile, (0, 0, 0, 0, 0, None, 0))(schema, links, scm, exports, pair, j, totals)

            return jax.lax.fori_loop(0, jnp.max(jax.vmap(child_tiles)(schema, scm, pair)), one_tile, totals)

        totals = jax.lax.fori_loop(0, trips, one_pair, start)
        value = jax.vmap(_value, (0, 0, 0, None, None, 0, 0))

        def write(j: Array, out: Array) -> Array:
            for slot in range(AGGREGATES):
                sums, best = (jax.lax.dynamic_slice_in_dim(x[:, slot], j * TILE, TILE, axis=2) for x in (totals.sums, totals.best))
                found = value(schema, scm, exports, j, slot, sums, best)[:, None]
                out = jax.lax.dynamic_update_slice(out, found, (0, slot, 0, j * TILE))
            return out

        return jax.lax.fori_loop(0, jnp.max(jax.vmap(tile_count)(schema)), write, blank)

    blank: Any = jnp.zeros((batch, AGGREGATES, W, R), jnp.float32)
    return jax.lax.cond(trips > 0, compute, lambda x: x, blank)
