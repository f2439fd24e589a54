"""The child index: the rows that refer to a row, of every table and key, in the order of time.

One sort for each key slot. Since the rows of a table are in the order of time, and the sort is stable, the children of one parent row
lie side by side and in the order of time: those that exist at a time are the first of them.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxrel import struct
from jaxrel.types import NO_ROW, NO_TABLE, NO_TIME, Database

__all__ = [
    "ChildIndex",
    "as_targets",
    "child_span",
    "children_until",
    "first_place",
    "index_children",
    "leading_keys",
    "look",
    "row_table",
]

_PADDING = 2**31 - 1
_ALWAYS = -(2**31)  # the time of a row that has none: it has been there all along


@struct.dataclass
class ChildIndex:
    """The rows of all tables, for each key slot in the order of (table, parent row, row).

    Rows whose key is null come after those of all parents of their table; rows of tables without that key, and padding, at the end.
    """

    row: Array  # i32[K, R], place on the row axis
    key: Array  # i32[K, R], ascending: first_key of the child table + parent row
    time: Array  # i32[K, R], of that row, seconds
    first_key: Array  # i32[K, T]


def row_table(db: Database) -> tuple[Array, Array]:
    """The table of each place on the row axis.

    Args:
        db: one database.

    Returns:
        i32[R], and bool[R]: there is a row.
    """
    place = jnp.arange(db.time.shape[0], dtype=jnp.int32)[None, :]
    start = db.schema.row_offset[:, None]
    inside = (place >= start) & (place < start + db.schema.row_count[:, None])
    return jnp.argmax(inside, axis=0).astype(jnp.int32), jnp.any(inside, axis=0)


def look(db: Database, table: Array, row: Array, seed_time: Array) -> tuple[Array, Array]:
    """Where some rows lie on the row axis, and whether they are seen at a time.

    Args:
        db: one database.
        table: i32[...], or NO_TABLE.
        row: i32[...], row of the table; NO_ROW, or one that does not exist, is not seen. All three broadcast.
        seed_time: i32[...], seconds since 1970: nothing later is seen.

    Returns:
        i32[...], 0 for rows that do not exist, and bool[...].
    """
    there = jnp.maximum(table, 0)
    exists = (table != NO_TABLE) & (row >= 0) & (row < db.schema.row_count[there])
    place = jnp.where(exists, db.schema.row_offset[there] + row, 0)
    return place, exists & (~db.schema.has_time[there] | (db.time[place] <= seed_time))


def as_targets(
    db: Database, table: ArrayLike, rows: ArrayLike, seed_time: ArrayLike, hidden: ArrayLike | None
) -> tuple[Array, Array, Array, Array]:
    """What is asked of which rows, as arrays.

    Args:
        db: one database.
        table: i32[] or i32[M], or NO_TABLE.
        rows: i32[M].
        seed_time: i32[] or i32[M], seconds since 1970.
        hidden: bool[T, C], or None: no column.

    Returns:
        i32[] or i32[M], i32[M], i32[M], at most NO_TIME - 1, and bool[T, C].

    Raises:
        ValueError: if a shape is another one, or a number that is known before tracing is out of range.
    """
    shape, (T, _) = np.shape(rows), db.schema.column_kind.shape
    if len(shape) != 1:
        raise ValueError(f"rows: their shape is {shape}; give one axis, i32[M]")
    for name, x, least, most, unit in (
        ("table", table, NO_TABLE, T - 1, "the number of a table"),
        ("seed_time", seed_time, -(2**31), 2**31 - 1, "seconds since 1970"),
    ):
        if np.shape(x) not in ((), shape):
            raise ValueError(f"{name}: its shape is {np.shape(x)}; give one for all, or one for each of the {shape[0]} rows")
        if not isinstance(x, jax.Array) and np.size(x) and not (least <= np.min(x) and np.max(x) <= most):
            raise ValueError(f"{name}: {np.min(x)} … {np.max(x)} is not in {least} … {most}; give {unit}")
    if hidden is not None and np.shape(hidden) != db.schema.column_kind.shape:
        raise ValueError(f"hidden: its shape is {np.shape(hidden)}; give bool[T, C], {db.schema.column_kind.shape}")
    times = jnp.broadcast_to(jnp.minimum(jnp.asarray(seed_time, jnp.int32), NO_TIME - 1), shape)
    secret = jnp.zeros(db.schema.column_kind.shape, bool) if hidden is None else jnp.asarray(hidden, bool)
    return jnp.asarray(table, jnp.int32), jnp.asarray(rows, jnp.int32), times, secret


def leading_keys(fk_parent: Array, table: Array, slots: int) -> Array:
    """i32[slots]: which keys lead to a table, as child table · K + key slot, the first ones; -1 where there are no more."""
    leads = (fk_parent == table).reshape(-1) & (table != NO_TABLE)
    return jnp.nonzero(leads, size=slots, fill_value=-1)[0].astype(jnp.int32)


def index_children(db: Database) -> ChildIndex:
    """Sort the rows of a database by what they refer to.

    Args:
        db: one database, generated or real; under ``vmap``, many.

    Returns:
        A `ChildIndex`.

    Raises:
        ValueError: if tables and rows are so many that a parent of a key cannot be numbered in 31 bits.

    Example:
        >>> import jax, jaxrel
        >>> tiny = jaxrel.presets.load("tiny")
        >>> jax.eval_shape(jaxrel.index_children, jax.eval_shape(
        ...     lambda key: jaxrel.sample_database(key, tiny.prior, tiny.capacity), jax.random.key(0))).row.shape[0]
        5
    """
    db = jax.tree.map(jnp.asarray, db)
    schema = db.schema
    T, R = schema.fk_parent.shape[0], db.time.shape[0]
    if T * (R + 1) >= _PADDING:
        raise ValueError(f"db: {T} tables on a row axis of {R} rows are more than the child index can number; use a smaller capacity")
    table, real = row_table(db)
    parent = schema.fk_parent.T  # [K, T]
    kinds = jnp.where(parent == NO_TABLE, 0, schema.row_count[jnp.maximum(parent, 0)] + 1)  # one more, for null
    first_key = jnp.cumsum(kinds, axis=1, dtype=jnp.int32) - kinds
    row = db.links.parent_row
    at = first_key[:, table] + jnp.where(row == NO_ROW, kinds[:, table] - 1, row)
    at = jnp.where(real[None, :] & (kinds[:, table] > 0), at, _PADDING)
    place = jnp.broadcast_to(jnp.arange(R, dtype=jnp.int32)[None, :], at.shape)
    key, order = jax.lax.sort((at, place), dimension=1, is_stable=True, num_keys=1)
    time = jnp.where(schema.has_time[table], db.time, _ALWAYS)
    return ChildIndex(row=order, key=key, time=time[order], first_key=first_key)


def first_place(fails: Callable[[Array], Array], low: Array, high: Array, most: int) -> Array:
    """The first place of [low, high) at which a condition that holds up to some place fails, or high; ``most`` bounds high - low."""

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        after = fails(middle) | (low >= high)
        return jnp.where(after, low, middle + 1), jnp.where(after, middle, high)

    return jax.lax.fori_loop(0, most.bit_length(), halve, (low, high))[0]


def child_span(index: ChildIndex, table: ArrayLike, fk: ArrayLike, parent_row: Array) -> tuple[Array, Array]:
    """Where the children of parent rows lie in the index.

    Args:
        index: of the database.
        table: i32[...], child table, or NO_TABLE.
        fk: i32[...], its key slot, one that it uses.
        parent_row: i32[...], rows of the table that the key leads to, or NO_ROW. All three broadcast.

    Returns:
        i32[...] and i32[...]: children are at ``index.row[fk, start:stop]``, in the order of time; start = stop where there are none.
    """
    table, fk, row = jnp.broadcast_arrays(jnp.asarray(table, jnp.int32), jnp.asarray(fk, jnp.int32), parent_row)
    R, keys, first_key = index.key.shape[1], jnp.asarray(index.key), jnp.asarray(index.first_key)
    key = first_key[fk, jnp.maximum(table, 0)] + jnp.maximum(row, 0)
    zero, most = jnp.zeros_like(key), jnp.full_like(key, R)
    start = first_place(lambda at: keys[fk, jnp.minimum(at, R - 1)] >= key, zero, most, R)
    stop = first_place(lambda at: keys[fk, jnp.minimum(at, R - 1)] > key, start, most, R)
    return start, jnp.where((table == NO_TABLE) | (row == NO_ROW), start, stop)


def children_until(index: ChildIndex, fk: ArrayLike, start: Array, stop: Array, time: Array) -> Array:
    """How many of some children exist at a time.

    Args:
        index: of the database.
        fk: i32[...], key slot.
        start: i32[...], as `child_span` says.
        stop: i32[...].
        time: i32[...], seconds since 1970. All four broadcast.

    Returns:
        i32[...]: the first so many children of the span exist; all, where their table has no time.
    """
    fk, start, stop, time = jnp.broadcast_arrays(jnp.asarray(fk, jnp.int32), start, stop, time)
    R, times = index.time.shape[1], jnp.asarray(index.time)
    return first_place(lambda at: times[fk, jnp.minimum(at, R - 1)] > time, start, stop, R) - start
