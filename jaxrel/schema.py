"""Stage one: tables, rows, columns, foreign keys and time spans; and `time_rows`, the row function of event times."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrel.layouts import sample_dag
from jaxrel.prior import Prior, draw_choice, draw_flag, draw_integer, draw_integers, draw_share
from jaxrel.random import below, bits, mulhi, named_key, pair, reduce_key, row_bits, running_sum
from jaxrel.registry import LAYOUTS
from jaxrel.types import MAX_FOREIGN_KEYS, NO_TABLE, TILE, Capacity, Kind, LinkLaw, Schema, row_offsets

__all__ = ["sample_schema", "time_rows"]

_DAY = 86_400


def _foreign_keys(key: Array, adjacency: Array, count: Array, prior: Prior, keys: int) -> tuple[Array, Array]:
    """Key slots of every table: i32[T, K] parents, and whether all found room.

    Parents come in table order, then a second key to one of them, then the self-reference; at most MAX_FOREIGN_KEYS in all.
    """
    tables = adjacency.shape[0]
    t = jnp.arange(tables, dtype=jnp.int32)
    real = t < count
    width = MAX_FOREIGN_KEYS
    position = running_sum(adjacency.T).T - 1  # slot of parent p in child c
    slot = jnp.arange(width, dtype=jnp.int32)
    is_slot = adjacency[:, :, None] & (position[:, :, None] == slot[None, None, :])  # [parent, child, slot]
    parents = jnp.sum(jnp.where(is_slot, t[:, None, None] - NO_TABLE, 0), axis=0, dtype=jnp.int32) + NO_TABLE
    used = jnp.minimum(jnp.sum(adjacency, axis=0, dtype=jnp.int32), width)
    double = draw_flag(key, "double", prior.schema.double_key, t) & (used > 0) & (used < width) & real
    again = jnp.take_along_axis(parents, below(bits(key, t, "again"), used)[:, None], axis=1)
    parents = jnp.where(double[:, None] & (slot[None, :] == used[:, None]), again, parents)
    used = used + double.astype(jnp.int32)
    itself = draw_flag(key, "self", prior.schema.self_reference, t) & (used < width) & real
    parents = jnp.where(itself[:, None] & (slot[None, :] == used[:, None]), t[:, None], parents)
    used = used + itself.astype(jnp.int32)
    padded = jnp.full((tables, max(keys, width)), NO_TABLE, jnp.int32).at[:, :width].set(parents)
    return padded[:, :keys], jnp.all(used <= keys)


def _table_graph(key: Array, count: Array, prior: Prior, tables: int) -> Array:
    """bool[T, T], ``[parent, child]``: referenced tables first, then the activity tables, both in topological order."""
    layout = draw_choice(key, "layout", prior.schema.layouts)
    adjacency = sample_dag(named_key(key, "graph"), layout, count, tables, prior.layouts)
    t = jnp.arange(tables, dtype=jnp.int32)
    is_sink = ~jnp.any(adjacency, axis=1)
    parents = jnp.sum(adjacency, axis=0, dtype=jnp.int32)
    drop = draw_flag(key, "drop", prior.schema.sink_drop, t) & is_sink & (parents > 1) & (layout == LAYOUTS.index("barabasi_albert"))
    which = below(bits(key, t, "which"), parents)
    dropped = adjacency & (running_sum(adjacency.T).T - 1 == which[None, :]) & drop[None, :]
    still_used = jnp.any(adjacency & ~dropped, axis=1)
    dropped = dropped & still_used[:, None]  # a table that would lose its only child keeps it
    adjacency = adjacency & ~dropped
    ordinal = running_sum(adjacency.T).T
    adjacency = adjacency & (ordinal <= MAX_FOREIGN_KEYS)
    is_activity = ~jnp.any(adjacency, axis=1)
    order = jnp.argsort(jnp.where(t < count, is_activity.astype(jnp.int32), 2), stable=True)
    return adjacency[order][:, order]


def _time_span(key: Array, prior: Prior) -> tuple[Array, Array]:
    """Start and length in seconds of the span of all events: between two random days, at least ``least_days`` apart."""
    low, high = prior.schema.days.low, prior.schema.days.high
    least = jnp.minimum(prior.schema.least_days.astype(jnp.int32), high - low)
    tries = jnp.arange(16, dtype=jnp.int32)
    words = pair(key, tries, "day")
    first, second = (low + below(word, high - low + 1) for word in words)
    start, days = jnp.minimum(first, second), jnp.abs(first - second)
    take = jnp.argmax(days >= least)  # the first try that is long enough
    good = jnp.any(days >= least)
    start, days = jnp.where(good, start[take], low), jnp.where(good, days[take], high - low)
    return start * _DAY, days * _DAY


def sample_schema(key: ArrayLike, prior: Prior, capacity: Capacity) -> Schema:
    """Sample a schema: a connected DAG of tables with rows, columns, kinds, keys and time spans.

    Args:
        key: a PRNG key, typed or raw.
        prior: ``schema`` and ``layouts`` sections are read.
        capacity: static sizes.

    Returns:
        A `Schema`. Tables past ``table_count`` are padding with no rows, columns or keys.

    Raises:
        TypeError: if ``key`` is not one PRNG key.

    Reference:
        PluRel (arXiv 2602.04029), section on schemas: tables as nodes of a random DAG, activity tables are its sinks.

    Example:
        >>> import jax, jaxrel
        >>> tiny = jaxrel.presets.load("tiny")
        >>> schema = jaxrel.sample_schema(jax.random.key(0), tiny.prior, tiny.capacity)
        >>> 2 <= int(schema.table_count) <= tiny.capacity.tables
        True
    """
    key = named_key(reduce_key(key), "schema")
    law, tables, columns = prior.schema, capacity.tables, capacity.columns
    t, c = jnp.arange(tables, dtype=jnp.int32), jnp.arange(columns, dtype=jnp.int32)
    drawn = draw_integer(key, "tables", law.tables)
    count = jnp.minimum(drawn, tables)
    real = t < count
    adjacency = _table_graph(named_key(key, "tables"), count, prior, tables)
    fk_parent, keys_fit = _foreign_keys(named_key(key, "keys"), adjacency, count, prior, capacity.foreign_keys)
    is_activity = real & ~jnp.any(adjacency, axis=1)

    table_key = named_key(key, "table", t)
    drawn_sizes = draw_integers(table_key, {"entity rows": law.entity_rows, "activity rows": law.activity_rows, "columns": law.columns})
    wished = jnp.where(real, jnp.where(is_activity, drawn_sizes["activity rows"], drawn_sizes["entity rows"]), 0)
    offset, _ = row_offsets(wished)
    rows = jnp.clip(wished, 0, jnp.maximum(capacity.rows - offset, 0))
    rows_fit = jnp.all(rows == wished)
    offset = jnp.minimum(offset, capacity.rows - TILE)

    wished_columns = drawn_sizes["columns"]
    column_count = jnp.where(real, jnp.minimum(wished_columns, columns), 0)
    used = c[None, :] < column_count[:, None]
    column_key = named_key(table_key[:, None], "column", c[None, :])
    kind_code = draw_choice(column_key, "kind", law.kinds)
    kind = jnp.asarray([Kind.NUMERIC, Kind.INTEGER, Kind.CATEGORICAL, Kind.BOOLEAN], jnp.int32)[kind_code]
    wished_classes = draw_integer(column_key, "classes", law.classes)
    classes = jnp.minimum(wished_classes, capacity.classes)
    classes = jnp.where(kind == Kind.CATEGORICAL, classes, jnp.where(kind == Kind.BOOLEAN, 2, 0))
    some_missing = draw_flag(column_key, "missing", law.missing_column)
    missing = jnp.where(some_missing & used, draw_share(column_key, "share", law.missing), jnp.uint32(0))

    k = jnp.arange(capacity.foreign_keys, dtype=jnp.int32)
    fk_key = named_key(table_key[:, None], "key", k[None, :])
    is_self = fk_parent == t[:, None]
    nullable = draw_flag(fk_key, "nullable", law.nullable_key) & (fk_parent != NO_TABLE) & ~is_self
    fk_null = jnp.where(nullable, draw_share(fk_key, "null", law.null_key), jnp.uint32(0))
    start, span = _time_span(named_key(key, "time"), prior)
    fits = (drawn <= tables) & keys_fit & rows_fit & jnp.all(jnp.where(real, wished_columns, 0) <= columns)
    fits = fits & jnp.all(jnp.where(used & (kind == Kind.CATEGORICAL), wished_classes, 0) <= capacity.classes)
    return Schema(
        key=key,
        table_count=count,
        table_id=t.astype(jnp.uint32),
        row_count=rows,
        row_offset=offset,
        is_activity=is_activity,
        has_time=is_activity,
        time_start=jnp.where(is_activity, start, 0),
        time_span=jnp.where(is_activity, span, 0),
        column_count=column_count,
        column_id=jnp.broadcast_to(c.astype(jnp.uint32), (tables, columns)),
        column_kind=jnp.where(used, kind, 0),
        column_classes=jnp.where(used, classes, 0),
        column_null=missing,
        fk_parent=fk_parent,
        fk_id=jnp.broadcast_to(k.astype(jnp.uint32), fk_parent.shape),
        fk_null=fk_null,
        fk_law=jnp.where(is_self, jnp.int32(LinkLaw.TREE), jnp.int32(LinkLaw.CLUSTER)),
        fk_owner=jnp.broadcast_to(k, fk_parent.shape),
        fits=fits,
    )


def _divide(n: Array) -> tuple[Array, Array]:
    """floor(2^32 / n) and the next 32 binary digits of 2^32 / n, by long division: u32[], u32[] (n at least 2)."""
    whole = jnp.uint32(0xFFFFFFFF) // n
    rest = jnp.uint32(0xFFFFFFFF) % n + 1
    whole, rest = jnp.where(rest == n, whole + 1, whole), jnp.where(rest == n, jnp.uint32(0), rest)

    def digit(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        quotient, rest = state
        over = rest >= n - rest  # 2 * rest >= n, without overflow
        return (quotient << 1) | over.astype(jnp.uint32), jnp.where(over, rest - (n - rest), rest + rest)

    digits, _ = jax.lax.fori_loop(0, 32, digit, (jnp.zeros_like(whole), rest))
    return whole, digits


def time_rows(schema: Schema, table: Array, rows: Array) -> Array:
    """Event times of some rows: row r of n falls into stratum r of the table's span, so times ascend with the row id.

    Args:
        schema: one schema.
        table: i32[], which table.
        rows: i32[...], row ids.

    Returns:
        i32[...], seconds since 1970-01-01 UTC; 0 where the table has no time. All in integers, hence equal everywhere.
    """
    n = jnp.maximum(schema.row_count[table], 2).astype(jnp.uint32)
    whole, digits = _divide(n)
    row = rows.astype(jnp.uint32)
    stratum = row * whole + mulhi(row, digits)  # floor-like r * 2^32 / n, never decreasing
    word = row_bits(named_key(schema.key, "time", schema.table_id[table]), row)
    fraction = stratum + mulhi(word, whole)
    seconds = schema.time_start[table] + mulhi(fraction, schema.time_span[table].astype(jnp.uint32)).astype(jnp.int32)
    return jnp.where(schema.has_time[table], seconds, 0)


def missing_key(schema: Schema, table: Array) -> Array:
    """u32[C, 2]: the streams that decide which feature values of a table are missing."""
    return named_key(schema.key, "missing", schema.table_id[table], schema.column_id[table])
