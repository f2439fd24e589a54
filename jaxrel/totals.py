"""Running totals over the child rows of each parent row: sum, mean, variance, extremes and commonest category of every column.

The children that exist at a time are the first of their parent's, so every total as of a time is that of a prefix. Totals run along
the child index and start anew at each parent; they are kept at the end of every block of `BLOCK` rows, and a prefix is one block's end
and at most a block of rows on top: what a total costs does not depend on how many children there are.

No total is the difference of two others. Sums are carried in two floats (the second holds what the first rounds away), variances as
the sum of squares about a running mean that is carried likewise: both are right to a few units of the last place, however many rows
came before.

The commonest category of a prefix is a running total too: a row is the n-th of its category among its siblings, and the row with the
highest n (of several, the one with the lowest code) has the commonest category.

Reference: Knuth, TAOCP 2, 4.2.2 (exact addition); Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
sample variances", 1979.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrel import struct
from jaxrel.children import ChildIndex, index_children, row_table
from jaxrel.types import NO_TABLE, Database, Kind

__all__ = ["BLOCK", "ChildTotals", "Totals", "span_totals", "total_children"]

BLOCK = 16  # rows that a prefix may lie beyond a block's end; a block costs 11 numbers a column
_GROUPS = 64  # blocks lie in so many groups, whose totals run side by side


@struct.dataclass
class Totals:
    """Totals of some cells; those that are missing do not count. A sum or mean is the sum of its two floats."""

    count: Array  # i32[...]
    sum: tuple[Array, Array]  # f32[...], two
    mean: tuple[Array, Array]  # f32[...], two
    squares: tuple[Array, Array]  # f32[...], two, about the mean
    low: Array  # f32[...]
    high: Array  # f32[...]
    most: Array  # i32[...], how often the commonest category occurs; 0 where there is none
    mode: Array  # i32[...], its code; of several, the lowest


@struct.dataclass
class ChildTotals:
    """What `span_totals` reads."""

    index: ChildIndex
    ends: Totals  # [K, C, R / BLOCK], of the siblings up to the end of each block
    occurrence: Array  # i32[K, C, R], this row is the n-th of its parent's children in its category; 0: not a category, or missing


def _exact(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b as a rounded sum and what was rounded away."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    high, low = _exact(a[0], b[0])
    low = low + (a[1] + b[1])
    total = high + low
    return total, low - (total - high)


def _merge(a: Totals, b: Totals) -> Totals:
    """Totals of the cells of both."""
    count = a.count + b.count
    share = b.count.astype(jnp.float32) / jnp.maximum(count, 1).astype(jnp.float32)
    apart = _add(b.mean, (-a.mean[0], -a.mean[1]))[0]
    between = apart * apart * (a.count.astype(jnp.float32) * share)
    step = (apart * share, jnp.zeros_like(apart))
    first, commoner = a.count == 0, (b.most > a.most) | ((b.most == a.most) & (b.mode < a.mode))
    moved = _add(a.mean, step)
    squares = _add(_add(a.squares, b.squares), (between, jnp.zeros_like(between)))
    return Totals(
        count=count,
        sum=_add(a.sum, b.sum),
        mean=(jnp.where(first, b.mean[0], moved[0]), jnp.where(first, b.mean[1], moved[1])),
        squares=(jnp.where(first, b.squares[0], squares[0]), jnp.where(first, b.squares[1], squares[1])),
        low=jnp.minimum(a.low, b.low),
        high=jnp.maximum(a.high, b.high),
        most=jnp.where(commoner, b.most, a.most),
        mode=jnp.where(commoner, b.mode, a.mode),
    )


def _single(value: Array, there: Array, occurrence: Array) -> Totals:
    """Totals of one cell each: f32[...], whether it counts bool[...], and i32[...]."""
    x, zero = jnp.where(there, value, 0.0), jnp.zeros_like(value)
    return Totals(
        count=there.astype(jnp.int32),
        sum=(x, zero),
        mean=(x, zero),
        squares=(zero, zero),
        low=jnp.where(there, value, jnp.inf),
        high=jnp.where(there, value, -jnp.inf),
        most=jnp.where(there, occurrence, 0),
        mode=jnp.where(there & (occurrence > 0), value, 0.0).astype(jnp.int32),
    )


def _empty(shape: tuple[int, ...]) -> Totals:
    return _single(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, bool), jnp.zeros(shape, jnp.int32))


def _choose(condition: Array, a: Totals, b: Totals) -> Totals:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _occurrences(code: Array, starts: Array) -> Array:
    """i32[C, R]: how often each code has occurred since the last start, itself included; 0 for code 0.

    Args:
        code: i32[C, R], at least 0.
        starts: i32[R], place of the last start up to here.
    """
    R = code.shape[1]
    most = 2**32 // R - 1  # codes from here on are not told apart, and do not count
    place = jnp.arange(R, dtype=jnp.uint32)[None, :]
    word = jnp.minimum(code, most).astype(jnp.uint32) * jnp.uint32(R) + place
    ordered = jax.lax.sort(word, dimension=1, is_stable=False)  # by code, then place; one word sorts several times faster than a pair
    kind, at = ordered // jnp.uint32(R), (ordered % jnp.uint32(R)).astype(jnp.int32)
    start = starts[at]
    fresh = jnp.ones_like(at, bool).at[:, 1:].set((kind[:, 1:] != kind[:, :-1]) | (start[:, 1:] != start[:, :-1]))
    i = jnp.arange(R, dtype=jnp.int32)[None, :]
    count = i - jax.lax.cummax(jnp.where(fresh, i, 0), axis=1) + 1
    count = jnp.where((kind == 0) | (kind == most), 0, count)
    column = jnp.broadcast_to(jnp.arange(code.shape[0], dtype=jnp.int32)[:, None], at.shape)
    return jnp.zeros_like(code).at[column, at].set(count, unique_indices=True)


def _run(x: Totals, fresh: Array) -> tuple[Totals, Array]:
    """Running totals along the first axis, which start anew where ``fresh`` bool[n, 1, m]; and whether they have since the first place."""

    def step(carry: tuple[Totals, Array], item: tuple[Totals, Array]) -> tuple[tuple[Totals, Array], tuple[Totals, Array]]:
        item_, fresh_ = item
        total = _choose(fresh_, item_, _merge(carry[0], item_))
        since = carry[1] | fresh_
        return (total, since), (total, since)

    shape = x.count.shape[1:]
    return jax.lax.scan(step, (_empty(shape), jnp.zeros(fresh.shape[1:], bool)), (x, fresh))[1]


def _block_ends(x: Totals, fresh: Array) -> Totals:
    """Running totals at the end of each block, [C, blocks], of single cells [C, R] that start anew where ``fresh`` bool[R]."""
    C, R = x.count.shape
    blocks = R // BLOCK

    def fold(j: Array, carry: tuple[Totals, Array]) -> tuple[Totals, Array]:
        item = jax.tree.map(lambda leaf: leaf.reshape(C, blocks, BLOCK)[:, :, j], x)
        fresh_ = fresh.reshape(blocks, BLOCK)[None, :, j]
        return _choose(fresh_, item, _merge(carry[0], item)), carry[1] | fresh_

    inside, some = jax.lax.fori_loop(0, BLOCK, fold, (_empty((C, blocks)), jnp.zeros((1, blocks), bool)))

    def grouped(leaf: Array) -> Array:  # [C, blocks] → [blocks / _GROUPS, C, _GROUPS]: groups side by side
        return jnp.moveaxis(leaf.reshape(leaf.shape[0], _GROUPS, blocks // _GROUPS), 2, 0)

    within, since = _run(jax.tree.map(grouped, inside), grouped(some))

    def along(leaf: Array) -> Array:  # the last of each group, [_GROUPS, C, 1]
        return jnp.moveaxis(leaf[-1], 1, 0)[:, :, None]

    across, _ = _run(jax.tree.map(along, within), along(since))

    def before(leaf: Array, none: Array) -> Array:  # what came before each group, [1, C, _GROUPS]
        return jnp.moveaxis(jnp.concatenate([none[None], leaf[:-1]])[:, :, 0], 0, 1)[None]

    carried = jax.tree.map(before, across, _empty((C, 1)))
    total = _choose(since, within, _merge(carried, within))
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 2).reshape(C, blocks), total)


def total_children(db: Database, index: ChildIndex | None = None) -> ChildTotals:
    """Run totals over the children of every row of a database, for every key slot and column.

    Args:
        db: one database; under ``vmap``, many.
        index: its `index_children`; None: made here.

    Returns:
        `ChildTotals`, for any number of calls of `span_totals` and `row_features`. Codes from 2^32 / R - 2 on (65,534 on an axis of 65,536
        rows, 254 on one of 16 million) never are the commonest.
    """
    db = jax.tree.map(jnp.asarray, db)
    index = index_children(db) if index is None else index
    kind = db.schema.column_kind
    coded = (kind == Kind.CATEGORICAL) | (kind == Kind.BOOLEAN)  # [T, C]
    table, _ = row_table(db)
    C, R = db.values.shape

    def one_key(item: tuple[Array, Array]) -> tuple[Totals, Array]:
        row, key = item
        value, there = db.values[:, row], ~db.missing[:, row]
        fresh = jnp.ones(R, bool).at[1:].set(key[1:] != key[:-1])
        starts = jax.lax.cummax(jnp.where(fresh, jnp.arange(R, dtype=jnp.int32), 0))
        code = jnp.where(there & coded[table[row]].T, value, -1.0).astype(jnp.int32) + 1
        occurrence = _occurrences(code, starts)
        return _block_ends(_single(value, there, occurrence), fresh), occurrence

    def unless_unused(item: tuple[Array, Array, Array]) -> tuple[Totals, Array]:
        row, key, used = item
        none = _empty((C, R // BLOCK)), jnp.zeros((C, R), jnp.int32)
        return jax.lax.cond(used, lambda: one_key((row, key)), lambda: none)

    used = jnp.any(db.schema.fk_parent != NO_TABLE, axis=0)
    ends, occurrence = jax.lax.map(unless_unused, (index.row, index.key, used))
    return ChildTotals(index=index, ends=ends, occurrence=occurrence)


def span_totals(db: Database, totals: ChildTotals, fk: Array, start: Array, stop: Array) -> Totals:
    """Totals of the first children of some parent rows.

    Args:
        db: the database.
        totals: its `total_children`.
        fk: i32[], key slot.
        start: i32[M], of the parent's span, as `jaxrel.children.child_span` says.
        stop: i32[M], past the last child that counts.

    Returns:
        `Totals` [C, M] of every column of the child table.
    """
    R = db.time.shape[0]
    last = jnp.maximum(stop - 1, 0)
    block = last // BLOCK
    carried = jax.tree.map(lambda leaf: leaf[fk, :, jnp.maximum(block - 1, 0)].T, totals.ends)
    carried = _choose(((stop > start) & (start < block * BLOCK))[None, :], carried, _empty((db.values.shape[0], start.shape[0])))

    def fold(j: Any, total: Totals) -> Totals:
        at = block * BLOCK + j
        inside = (at >= start) & (at < stop)
        at = jnp.minimum(at, R - 1)
        row = totals.index.row[fk, at]
        return _merge(total, _single(db.values[:, row], ~db.missing[:, row] & inside[None, :], totals.occurrence[fk, :, at].T))

    return jax.lax.fori_loop(0, BLOCK, fold, carried)
