"""Stage one: tables, rows, columns, foreign keys and the laws of event times."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrel.draws import draw_choice, draw_flag, draw_integer, draw_integers, draw_share, tabulated
from jaxrel.layouts import sample_dag
from jaxrel.prior import Prior, SchemaPrior
from jaxrel.random import Words, below, bits, named_key, reduce_key, running_sum
from jaxrel.registry import KINDS
from jaxrel.rounding import divide
from jaxrel.style import SCHEMA_CHOICES, SCHEMA_RANGES, sample_style
from jaxrel.times import TABLE_TIME_DRAWS, sample_founders, sample_times
from jaxrel.types import MAX_FOREIGN_KEYS, NO_TABLE, TILE, Capacity, Kind, LinkLaw, Schema, row_offsets

__all__ = ["missing_key", "sample_schema"]

# Draws that are made together, of each foreign key and each column.
_OF_KEY = ("degree law", "capped", "occupancy", "nullable", "null", "homophily")
_OF_COLUMN = ("kind", "many", "binned", "classes", "many classes", "missing", "share")


def _foreign_keys(key: Array | Words, adjacency: Array, count: Array, prior: Prior, keys: int) -> tuple[Array, Array]:
    """Key slots of every table: i32[T, K] parents, and whether all found room.

    Parents come in table order, then a second key to one of them, then the self-reference; at most MAX_FOREIGN_KEYS in all.
    """
    tables = adjacency.shape[0]
    t = jnp.arange(tables, dtype=jnp.int32)
    key, real = Words(key, ("double", "again", "self"), t), t < count
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
    ordinal = running_sum(adjacency.T).T
    adjacency = adjacency & (ordinal <= MAX_FOREIGN_KEYS)
    is_activity = ~jnp.any(adjacency, axis=1)
    order = jnp.argsort(jnp.where(t < count, is_activity.astype(jnp.int32), 2), stable=True)
    return adjacency[order][:, order]


def _key_laws(
    table_key: Words, fk_key: Words, fk_parent: Array, has_time: Array, is_activity: Array, rows: Array, law: SchemaPrior
) -> tuple[Array, Array, Array, Array]:
    """The laws of all keys, and the rows that unique keys leave.

    Laws other than the cluster law ask for parents that all exist from the start, and for another table than their own.

    Args:
        table_key: u32[T, 2].
        fk_key: u32[T, K, 2].
        fk_parent: i32[T, K].
        has_time: bool[T].
        is_activity: bool[T].
        rows: i32[T], wished.
        law: the prior.

    Returns:
        `LinkLaw` i32[T, K]; the owner of each key's unique set i32[T, K]; which keys are unique or part of a unique pair bool[T, K];
        and rows i32[T]: at most the parent's, or one for each pair of parent rows.
    """
    tables, keys = fk_parent.shape
    k = jnp.arange(keys, dtype=jnp.int32)[None, :]
    is_self = fk_parent == jnp.arange(tables, dtype=jnp.int32)[:, None]
    free = (fk_parent != NO_TABLE) & ~is_self & ~has_time[jnp.maximum(fk_parent, 0)]
    first, second = fk_parent[:, 0], fk_parent[:, min(1, keys - 1)]  # of one key slot alone there is no pair
    pair = draw_flag(table_key, "junction", law.junction) & free[:, 0] & free[:, min(1, keys - 1)] & (first != second)
    alone = draw_flag(table_key, "one to one", law.one_to_one) & free[:, 0] & ~is_activity & ~pair
    unique = (pair[:, None] & (k < 2)) | (alone[:, None] & (k == 0))

    def cut(t: Array, rows: Array) -> Array:  # in topological order: the parents' rows are final
        a, b = (jnp.maximum(rows[jnp.maximum(parent[t], 0)], 1) for parent in (first, second))
        most = jnp.where(alone[t], a, jnp.where(pair[t] & (a <= rows[t] // b), a * b, rows[t]))
        return rows.at[t].set(jnp.minimum(rows[t], most))

    rows = jax.lax.fori_loop(0, tables, cut, rows)
    degree = draw_flag(fk_key, "degree law", law.degree_key) & free & ~unique
    capped = draw_flag(fk_key, "capped", law.capped_key) & free & ~unique & ~degree
    kind = jnp.where(is_self, jnp.int32(LinkLaw.TREE), jnp.where(degree, jnp.int32(LinkLaw.DEGREE), jnp.int32(LinkLaw.CLUSTER)))
    kind = jnp.where(unique | capped, jnp.int32(LinkLaw.SLOT), kind)
    return kind, jnp.where(unique, 0, k), unique, rows


def _key_capacity(fk_key: Words, fk_law: Array, unique: Array, rows: Array, parents: Array, law: SchemaPrior) -> Array:
    """i32[T, K]: most children of one parent row where the slot law limits them. ``parents``: i32[T, K], rows of the parent tables."""
    mean = -(-jnp.broadcast_to(rows[:, None], parents.shape) // jnp.maximum(parents, 1))
    occupancy = draw_share(fk_key, "occupancy", law.occupancy).astype(jnp.float32) * jnp.float32(2**-24)
    places = jnp.ceil(divide(mean.astype(jnp.float32), jnp.maximum(occupancy, jnp.float32(2**-7))))
    most = jnp.maximum(jnp.minimum(places, jnp.float32(2**30)).astype(jnp.int32), mean)
    alone = unique & (running_sum(unique)[:, -1:] == 1)
    return jnp.where(fk_law != LinkLaw.SLOT, 0, jnp.where(alone, 1, jnp.where(unique, 0, most)))


def sample_schema(key: ArrayLike, prior: Prior, capacity: Capacity) -> Schema:
    """Sample a schema: a connected DAG of tables with rows, columns, kinds, keys and time spans.

    Args:
        key: a PRNG key, typed or raw.
        prior: ``schema`` and ``layouts`` sections are read, and of ``links`` the share of homophilous keys.
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
        >>> schema = jax.jit(jaxrel.sample_schema, static_argnums=2)(jax.random.key(0), tiny.prior, tiny.capacity)
        >>> 2 <= int(schema.table_count) <= tiny.capacity.tables
        True
    """
    key, prior = named_key(reduce_key(key), "schema"), tabulated(prior)
    law, tables, columns = prior.schema, capacity.tables, capacity.columns
    t, c = jnp.arange(tables, dtype=jnp.int32), jnp.arange(columns, dtype=jnp.int32)
    of_all = Words(key, ("tables", "all binned"))
    drawn = draw_integer(of_all, "tables", law.tables)
    count = jnp.minimum(drawn, tables)
    real = t < count
    adjacency = _table_graph(named_key(key, "tables"), count, prior, tables)
    fk_parent, keys_fit = _foreign_keys(named_key(key, "keys"), adjacency, count, prior, capacity.foreign_keys)
    is_activity = real & ~jnp.any(adjacency, axis=1)

    table_key = named_key(key, "table", t)
    styles = sample_style(key, t.astype(jnp.uint32), law.style, SCHEMA_RANGES, SCHEMA_CHOICES)
    sizes = {"entity rows": law.entity_rows, "activity rows": law.activity_rows, "columns": law.columns}
    of_table = Words(table_key, (*sizes, "junction", "one to one", *TABLE_TIME_DRAWS))
    drawn_sizes = draw_integers(of_table, sizes, style=styles.of(t))
    wished = jnp.where(real, jnp.where(is_activity, drawn_sizes["activity rows"], drawn_sizes["entity rows"]), 0)
    k = jnp.arange(capacity.foreign_keys, dtype=jnp.int32)
    fk_key = Words(named_key(table_key[:, None], "key", k[None, :]), _OF_KEY)
    times = sample_times(named_key(key, "time"), of_table, law, fk_parent, is_activity, real)
    has_time = times["has_time"]
    fk_law, fk_owner, unique, wished = _key_laws(of_table, fk_key, fk_parent, has_time, is_activity, wished, law)
    offset, _ = row_offsets(wished)
    rows = jnp.clip(wished, 0, jnp.maximum(capacity.rows - offset, 0))
    rows_fit = jnp.all(rows == wished)
    offset = jnp.where(real, jnp.minimum(offset, capacity.rows - TILE), 0)  # of padding no capacity must show

    wished_columns = drawn_sizes["columns"]
    column_count = jnp.where(real, jnp.minimum(wished_columns, columns), 0)
    used = c[None, :] < column_count[:, None]
    column_key = Words(named_key(table_key[:, None], "column", c[None, :]), _OF_COLUMN)
    style = styles.of(t[:, None])
    kind_code = draw_choice(column_key, "kind", law.kinds, style=style)
    kind = jnp.asarray([Kind[name.upper()] for name in KINDS], jnp.int32)[kind_code]
    labelled = used & ((kind == Kind.CATEGORICAL) | (kind == Kind.BOOLEAN))
    many = draw_flag(column_key, "many", law.many) & (kind == Kind.CATEGORICAL)
    binned = draw_flag(column_key, "binned", law.binned, style=style) | draw_flag(of_all, "all binned", law.binned_database) | many
    numbers = draw_integers(column_key, {"classes": law.classes, "many classes": law.many_classes}, style=style)
    wished_classes = jnp.where(many, numbers["many classes"], numbers["classes"])
    classes = jnp.where(binned, wished_classes, jnp.minimum(wished_classes, capacity.classes))
    classes = jnp.where(kind == Kind.CATEGORICAL, classes, 2)
    some_missing = draw_flag(column_key, "missing", law.missing_column, style=style)
    missing = jnp.where(some_missing & used, draw_share(column_key, "share", law.missing, style=style), jnp.uint32(0))

    nullable = draw_flag(fk_key, "nullable", law.nullable_key) & (fk_parent != NO_TABLE) & (fk_law != LinkLaw.TREE) & ~unique
    fk_null = jnp.where(nullable, draw_share(fk_key, "null", law.null_key), jnp.uint32(0))
    timed_parent = has_time[jnp.maximum(fk_parent, 0)]
    alike = draw_flag(fk_key, "homophily", prior.links.homophily) & (fk_law == LinkLaw.CLUSTER) & (fk_parent != NO_TABLE) & ~timed_parent
    fk_law = jnp.where(alike, jnp.int32(LinkLaw.TRAIT), fk_law)
    fits = (drawn <= tables) & keys_fit & rows_fit & jnp.all(jnp.where(real, wished_columns, 0) <= columns)
    fits = fits & jnp.all(jnp.where(labelled & (kind == Kind.CATEGORICAL) & ~binned, wished_classes, 0) <= capacity.classes)
    return Schema(
        key=key,
        table_count=count,
        table_id=t.astype(jnp.uint32),
        row_count=rows,
        row_offset=offset,
        is_activity=is_activity,
        **times,
        time_founders=sample_founders(of_table, law, has_time & ~is_activity, rows),
        column_count=column_count,
        column_id=jnp.broadcast_to(c.astype(jnp.uint32), (tables, columns)),
        column_kind=jnp.where(used, kind, 0),
        column_classes=jnp.where(labelled, classes, 0),
        column_null=missing,
        column_binned=labelled & binned,
        fk_parent=fk_parent,
        fk_id=jnp.broadcast_to(k.astype(jnp.uint32), fk_parent.shape),
        fk_null=fk_null,
        fk_law=fk_law,
        fk_owner=fk_owner,
        fk_capacity=_key_capacity(fk_key, fk_law, unique, rows, rows[jnp.maximum(fk_parent, 0)], law),
        fits=fits,
    )


def missing_key(schema: Schema, table: Array) -> Array:
    """u32[C, 2]: the streams that decide which feature values of a table are missing."""
    return named_key(schema.key, "missing", schema.table_id[table], schema.column_id[table])
