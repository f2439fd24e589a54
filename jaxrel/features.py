"""Relational features: what a row, its parents and their children say at a time, as one vector of fixed width.

*Depth 0*: the row's own columns. *Depth 1*: the columns of its parents, and of the children that refer to it, by each key that leads to
its table: how many they are, how long ago the last one came, and of each column mean, sum, smallest and largest value and standard
deviation (of a category, the commonest). *Depth 2*: the columns of its parents' parents, and the same of all children of its parents, the
row and its siblings among them. Nothing else: neither children of children nor parents of children.

*As of a time.* A row is seen from its time on (a row of a table without times: always). What is not seen leaves no trace: features of
a row, parent or child that does not exist yet are missing, or do not count it. Hidden columns are never seen; missing cells do not count.

*Rules.* Numbers are those of the arrays (categories as codes, dates in days). Mean, sum, extremes and deviation are of all
columns but categorical ones, the commonest value is of categorical and boolean ones; of several commonest values it is the lowest code.
The deviation is that of the population. Of no cell at all every statistic is missing, and a count is 0; what float32 cannot hold (squares
beyond 10^38) is missing too. Recency is in seconds.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxrel import struct
from jaxrel.children import as_targets, child_span, children_until, leading_keys, look
from jaxrel.totals import ChildTotals, span_totals, total_children
from jaxrel.types import NO_ROW, NO_TABLE, Capacity, Database, Kind

if TYPE_CHECKING:
    from jaxrel.catalog import Catalog

__all__ = ["STATISTICS", "Features", "feature_count", "feature_names", "row_features"]

STATISTICS = ("mean", "sum", "min", "max", "std", "mode")  # of each column of the children
DEPTHS = 2
SLOTS = 4  # keys that lead to a table, as many as are looked through unless told otherwise


@struct.dataclass
class Features:
    """Features of M rows, F each; a missing one is 0."""

    values: Array  # f32[M, F]
    missing: Array  # bool[M, F]


@dataclasses.dataclass(frozen=True)
class _Seen:
    """Some rows of one table."""

    table: Array  # i32[], or NO_TABLE
    row: Array  # i32[M]
    seen: Array  # bool[M], it exists at its seed time


def feature_count(capacity: Capacity, depth: int = DEPTHS, slots: int = SLOTS) -> int:
    """F of `row_features`: a function of the columns and foreign keys that a capacity holds."""
    C, K = capacity.columns, capacity.foreign_keys
    children = slots * (2 + len(STATISTICS) * C)
    return (C, C + K * C + children, C + K * C + children + K * (K * C + children))[_checked(depth, slots)]


def _checked(depth: int, slots: int) -> int:
    if depth not in range(DEPTHS + 1):
        raise ValueError(f"depth: {depth} is none of 0, 1 and 2")
    if slots < 1:
        raise ValueError(f"slots: {slots} is too few; give at least 1")
    return depth


def _look(db: Database, table: Array, row: Array, seed_time: Array) -> _Seen:
    """Rows as they are seen at the seed times; NO_ROW is not seen."""
    _, seen = look(db, table, row, seed_time)
    return _Seen(table, row, seen)


def _columns(db: Database, hidden: Array, rows: _Seen) -> Features:
    """Their columns, [C, M]."""
    place = jnp.where(rows.seen, db.schema.row_offset[jnp.maximum(rows.table, 0)] + rows.row, 0)
    missing = db.missing[:, place] | hidden[jnp.maximum(rows.table, 0)][:, None] | ~rows.seen[None, :]
    used = jnp.arange(db.values.shape[0], dtype=jnp.int32) < db.schema.column_count[jnp.maximum(rows.table, 0)]
    missing = missing | ~used[:, None]
    return Features(jnp.where(missing, 0.0, db.values[:, place]), missing)


def _parent(db: Database, rows: _Seen, fk: Array, seed_time: Array) -> _Seen:
    """The rows that some rows refer to by one key."""
    table = jnp.where(rows.table == NO_TABLE, NO_TABLE, db.schema.fk_parent[jnp.maximum(rows.table, 0), fk])
    place = jnp.where(rows.seen, db.schema.row_offset[jnp.maximum(rows.table, 0)] + rows.row, 0)
    return _look(db, table, jnp.where(rows.seen, db.links.parent_row[fk, place], NO_ROW), seed_time)


def _children(db: Database, totals: ChildTotals, hidden: Array, rows: _Seen, key: Array, seed_time: Array) -> Features:
    """What the children by one key (child table · K + slot, or -1) say: [2 + 6 C, M]."""
    schema, K, C = db.schema, db.schema.fk_parent.shape[1], db.values.shape[0]
    table, fk = jnp.where(key < 0, NO_TABLE, key // K), jnp.maximum(key, 0) % K
    there = jnp.maximum(table, 0)
    seen = rows.seen & (table != NO_TABLE)
    start, stop = child_span(totals.index, table, fk, jnp.where(seen, rows.row, NO_ROW))
    count = children_until(totals.index, fk, start, stop, seed_time)
    of = span_totals(db, totals, fk, start, start + count)
    last = totals.index.time[fk, jnp.maximum(start + count - 1, 0)]
    ago = jnp.where(count > 0, seed_time.astype(jnp.uint32) - last.astype(jnp.uint32), jnp.uint32(0)).astype(jnp.float32)
    kind = schema.column_kind[there]
    used = (jnp.arange(C, dtype=jnp.int32) < schema.column_count[there]) & ~hidden[there]
    number, code = used & (kind != Kind.CATEGORICAL), used & ((kind == Kind.CATEGORICAL) | (kind == Kind.BOOLEAN))
    some, n = of.count > 0, jnp.maximum(of.count, 1).astype(jnp.float32)
    statistics = (  # in the order of STATISTICS
        (of.sum[0] / n, number),
        (of.sum[0], number),
        (of.low, number),
        (of.high, number),
        (jnp.sqrt(of.squares[0] / n), number),
        (of.mode.astype(jnp.float32), code),
    )
    values = jnp.concatenate([count.astype(jnp.float32)[None], ago[None], *(x for x, _ in statistics)])
    known = [
        seen[None],
        (seen & (count > 0) & schema.has_time[there])[None],
        *(some & seen[None] & rule[:, None] for _, rule in statistics),
    ]
    missing = ~(jnp.concatenate(known) & jnp.isfinite(values))
    return Features(jnp.where(missing, 0.0, values), missing)


def row_features(
    db: Database,
    table: ArrayLike,
    rows: Array,
    seed_time: Array,
    totals: ChildTotals | None = None,
    *,
    depth: int = DEPTHS,
    slots: int = SLOTS,
    hidden: Array | None = None,
) -> Features:
    """Features of some rows of a table, each as of its own time.

    Args:
        db: one database, generated or real; under ``vmap``, many.
        table: i32[], may be traced.
        rows: i32[M], rows of the table; of NO_ROW, or a row that does not exist, all is missing.
        seed_time: i32[] or i32[M], seconds since 1970-01-01 UTC: nothing later is seen, nor a row of real data whose time is not known.
        totals: `total_children` of the database, for more calls than one; None: made here.
        depth: static, 0, 1 or 2.
        slots: static, keys that lead to one table; of more, those of the first child tables are looked through.
        hidden: bool[T, C], columns that must not be seen, what is to be predicted first of all; None: none.

    Returns:
        `Features` of width `feature_count`: own columns; for depth 1, the columns of the parent by each key slot, and for each key that
        leads here count, recency and each of `STATISTICS` over the columns; for depth 2, for each parent in turn, the same two of it.
        `feature_names` names them; those that a database has no use for are always missing.

    Raises:
        ValueError: if depth or slots are out of range, a shape is another one, or a table or time that is known before tracing cannot be.

    Reference:
        Kanter and Veeramachaneni, "Deep feature synthesis", DSAA 2015.

    Example:
        >>> import jax, jax.numpy as jnp, jaxrel
        >>> tiny = jaxrel.presets.load("tiny")
        >>> def of_first_rows(key):
        ...     db = jaxrel.sample_database(key, tiny.prior, tiny.capacity)
        ...     return jaxrel.row_features(db, 0, jnp.arange(8), jnp.full(8, 2**31 - 1))
        >>> jax.eval_shape(of_first_rows, jax.random.key(0)).values.shape == (8, jaxrel.feature_count(tiny.capacity))
        True
    """
    _checked(depth, slots)
    db = jax.tree.map(jnp.asarray, db)
    if jnp.ndim(table):
        raise ValueError(f"table: its shape is {jnp.shape(table)}; give one for all rows")
    table, rows, seed_time, hidden = as_targets(db, table, rows, seed_time, hidden)
    K, M = db.schema.fk_parent.shape[1], rows.shape[0]
    own = _look(db, table, rows, seed_time)
    parts = [_columns(db, hidden, own)]
    if depth:
        if totals is None:
            totals = total_children(db)
        slot = jnp.arange(K, dtype=jnp.int32)

        def parent(of: _Seen, fk: Array) -> tuple[Array, Array, Array]:
            up = _parent(db, of, fk, seed_time)
            return up.table, up.row, up.seen

        def origins(of: _Seen) -> _Seen:  # with a leading axis of key slots
            return _Seen(*jax.vmap(lambda fk: parent(of, fk))(slot))

        def columns(of: _Seen) -> Features:
            return jax.vmap(lambda *x: _columns(db, hidden, _Seen(*x)))(of.table, of.row, of.seen)

        parents = origins(own)
        every = _Seen(own.table[None], own.row[None], own.seen[None])
        if depth > 1:
            every = _Seen(*(jnp.concatenate([a, b]) for a, b in zip(_parts(every), _parts(parents), strict=True)))
        keys = jax.vmap(lambda t: leading_keys(db.schema.fk_parent, t, slots))(every.table)  # [origins, slots]

        def one(item: tuple[Array, Array]) -> Features:
            origin, key = item
            of = _Seen(every.table[origin], every.row[origin], every.seen[origin])
            width = 2 + len(STATISTICS) * db.values.shape[0]
            nothing = Features(jnp.zeros((width, M), jnp.float32), jnp.ones((width, M), bool))
            return jax.lax.cond(key < 0, lambda: nothing, lambda: _children(db, totals, hidden, of, key, seed_time))

        number = jnp.repeat(jnp.arange(keys.shape[0], dtype=jnp.int32), slots)
        children = jax.lax.map(one, (number, keys.reshape(-1)))  # [origins · slots, width, M]
        up = columns(parents)
        parts += [_flat(up), _flat(jax.tree.map(lambda x: x[:slots], children))]
        for k in range(K if depth > 1 else 0):
            above = columns(origins(_Seen(parents.table[k], parents.row[k], parents.seen[k])))
            parts += [_flat(above), _flat(jax.tree.map(lambda x, k=k: x[(k + 1) * slots : (k + 2) * slots], children))]
    return Features(jnp.concatenate([p.values for p in parts]).T, jnp.concatenate([p.missing for p in parts]).T)


def _parts(of: _Seen) -> tuple[Array, Array, Array]:
    return of.table, of.row, of.seen


def _flat(features: Features) -> Features:
    """[groups, width, M] → [groups · width, M]."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], x.shape[2]), features)


def feature_names(db: Database, table: int, catalog: Catalog | None = None, *, depth: int = DEPTHS, slots: int = SLOTS) -> tuple[str, ...]:
    """The names of the features of one table's rows, on the host.

    Args:
        db: one database; its schema is read.
        table: its number.
        catalog: its words; None stands for `Catalog.default`.
        depth: as in `row_features`.
        slots: the same.

    Returns:
        F names, such as ``price``, ``customer_id.age``, ``count(order.customer_id)``, ``mean(order.customer_id.price)``,
        ``customer_id.sum(order.customer_id.price)``; "" for features that the database has no use for.

    Raises:
        ValueError: if depth or slots are out of range, or there is no such table.
    """
    from jaxrel.convert import words_of

    _checked(depth, slots)
    if table not in range(int(db.schema.table_count)):
        raise ValueError(f"table: {table} is none of the {int(db.schema.table_count)} tables; give a number from 0")
    words, fk_parent = words_of(db, catalog).tables, np.asarray(db.schema.fk_parent)
    K, C = fk_parent.shape[1], db.values.shape[0]

    def padded(names: list[str], length: int) -> list[str]:
        return names[:length] + [""] * (length - len(names))

    def columns(t: int, prefix: str) -> list[str]:
        return padded([f"{prefix}{column.name}" for column in words[t].columns], C) if t != NO_TABLE else [""] * C

    def children(t: int, prefix: str) -> list[str]:
        names: list[str] = []
        for c, k in [] if t == NO_TABLE else np.argwhere(fk_parent == t)[:slots].tolist():
            key = f"{words[c].name}.{words[c].foreign_keys[k].name}"
            names += [f"{prefix}count({key})", f"{prefix}recency({key})" if words[c].time_column is not None else ""]
            for statistic in STATISTICS:
                suits = {
                    x.name: x.kind in (Kind.CATEGORICAL, Kind.BOOLEAN) if statistic == "mode" else x.kind != Kind.CATEGORICAL
                    for x in words[c].columns
                }
                names += padded([f"{prefix}{statistic}({key}.{name})" if yes else "" for name, yes in suits.items()], C)
        return padded(names, slots * (2 + len(STATISTICS) * C))

    def parents(t: int, prefix: str) -> list[tuple[int, str]]:
        known = [] if t == NO_TABLE else [(int(fk_parent[t, k]), f"{prefix}{fk.name}.") for k, fk in enumerate(words[t].foreign_keys)]
        return known + [(NO_TABLE, "")] * (K - len(known))

    def above(t: int, prefix: str) -> list[str]:
        return [name for parent in parents(t, prefix) for name in columns(*parent)] + children(t, prefix)

    names = columns(table, "")
    names += above(table, "") if depth else []
    names += [name for parent in parents(table, "") for name in above(*parent)] if depth > 1 else []
    return tuple(names)
