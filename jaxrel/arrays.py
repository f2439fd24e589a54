"""Tables of real data laid out as generated ones are: one row axis, tables from tile to tile, laws that were never drawn left empty."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from jaxrel.encoding import Encoded
from jaxrel.errors import UserError
from jaxrel.random import name_id
from jaxrel.types import (
    CLUSTERS,
    DEGREES,
    HOURS,
    LEVELS,
    NO_ROW,
    NO_TABLE,
    NO_TIME,
    SLICES,
    TILE,
    Capacity,
    Database,
    LinkLaw,
    Links,
    Schema,
    tiles_of,
)

__all__ = ["Keys", "RealTable", "lay_out", "least_capacity"]


@dataclasses.dataclass(frozen=True)
class Keys:
    """The keys of one table by column names."""

    primary: tuple[str, ...] = ()
    foreign: tuple[tuple[tuple[str, ...], str], ...] = ()  # columns, parent table
    time: str | None = None


@dataclasses.dataclass
class RealTable:
    """One table on its way."""

    name: str
    arrow: pa.Table
    keys: Keys
    parents: list[tuple[tuple[str, ...], str, np.ndarray]]  # columns, parent table, i64 row in it or NO_ROW
    time: np.ndarray | None  # i64 seconds, NO_TIME where missing
    order: np.ndarray  # i64, place in the given table of each row
    columns: list[Encoded]


def least_capacity(tables: Sequence[RealTable], given: Capacity | None) -> Capacity:
    """The smallest capacity that holds some tables, or the one that is given.

    Raises:
        UserError: if that is too small.
    """
    rows = [table.arrow.num_rows for table in tables]
    needed = {
        "tables": len(tables),
        "foreign_keys": max(1, *(len(table.parents) for table in tables)),
        "columns": max(1, *(len(table.columns) for table in tables)),
        "rows": max(TILE, TILE * int(sum(t + (t > 1) for t in map(tiles_of, rows)))),
        "classes": max([2, *(column.classes for table in tables for column in table.columns)]),
    }
    if needed["rows"] >= 2**31:
        raise UserError(f"tables: {sum(rows)} rows are more than one row axis can number; read fewer")
    if given is None:
        return Capacity(**needed, nodes=1, edges=1, width=1, hidden=1, layers=1)
    for name, least in needed.items():
        if getattr(given, name) < least and name != "classes":  # those of columns are not limited by an SCM's
            raise UserError(f"capacity.{name}: {getattr(given, name)} is too small for this database; give at least {least}")
    return given


def lay_out(tables: Sequence[RealTable], capacity: Capacity) -> Database:
    """The arrays of a database, on the device; tables parents first."""
    T, K, C, R = capacity.tables, capacity.foreign_keys, capacity.columns, capacity.rows
    place = {table.name: t for t, table in enumerate(tables)}
    count = np.zeros(T, np.int32)
    count[: len(tables)] = [table.arrow.num_rows for table in tables]
    tiles = tiles_of(count)
    offset = ((np.cumsum(tiles + (tiles > 1)) - tiles) * TILE).astype(np.int32)
    values, missing, time = np.zeros((C, R), np.float32), np.ones((C, R), bool), np.zeros(R, np.int32)
    parent_row, fk_parent = np.full((K, R), NO_ROW, np.int32), np.full((T, K), NO_TABLE, np.int32)
    kind, classes, ids = np.zeros((T, C), np.int32), np.zeros((T, C), np.int32), np.zeros((T, C), np.uint32)
    column_null, fk_null, fk_id = np.zeros((T, C), np.uint32), np.zeros((T, K), np.uint32), np.zeros((T, K), np.uint32)
    has_time, start, span = np.zeros(T, bool), np.zeros(T, np.int32), np.zeros(T, np.int32)
    for t, table in enumerate(tables):
        rows = slice(int(offset[t]), int(offset[t] + count[t]))
        for c, column in enumerate(table.columns):
            values[c, rows], missing[c, rows] = np.where(column.missing, np.float32(0), column.values), column.missing
            kind[t, c], classes[t, c] = column.words.kind, column.classes
            ids[t, c], column_null[t, c] = name_id(column.words.name), _share(column.missing)
        for k, (columns, parent, row) in enumerate(table.parents):
            parent_row[k, rows] = row
            fk_parent[t, k], fk_null[t, k], fk_id[t, k] = place[parent], _share(row == NO_ROW), name_id(",".join(columns))
        if table.time is not None:
            has_time[t], time[rows] = True, table.time
            known = table.time[table.time != NO_TIME]
            start[t] = known[0] if known.size else 0
            span[t] = min(int(known[-1] - known[0]), 2**31 - 1) if known.size else 0
    every = np.arange(T)
    used = every < len(tables)
    leads = (fk_parent[None] == every[:, None, None]) & (every[None, :, None] != every[:, None, None])  # [parent, child, key]
    schema: dict[str, Any] = dict(
        key=np.zeros(2, np.uint32),  # nothing is drawn
        table_count=np.int32(len(tables)),
        table_id=np.array([name_id(table.name) for table in tables] + [0] * (T - len(tables)), np.uint32),
        row_count=count,
        row_offset=np.where(used, np.minimum(offset, R - TILE), 0).astype(np.int32),
        is_activity=used & ~np.any(leads, axis=(1, 2)),
        has_time=has_time,
        time_start=start,
        time_span=span,
        time_founders=np.zeros(T, np.int32),
        time_curve=np.tile((np.arange(SLICES, dtype=np.uint64) * 2**32 // SLICES).astype(np.uint32), (T, 1)),
        time_week=np.tile(np.arange(HOURS, dtype=np.int32) * 3600, (T, 1)),
        column_count=np.array([len(table.columns) for table in tables] + [0] * (T - len(tables)), np.int32),
        column_id=ids,
        column_kind=kind,
        column_classes=classes,
        column_null=column_null,
        column_binned=np.zeros((T, C), bool),
        fk_parent=fk_parent,
        fk_id=fk_id,
        fk_null=fk_null,
        fk_law=np.full((T, K), LinkLaw.CLUSTER, np.int32),
        fk_owner=np.tile(np.arange(K, dtype=np.int32), (T, 1)),
        fk_capacity=np.zeros((T, K), np.int32),
        fits=np.bool_(True),
    )
    zero, share, none = np.zeros((T, K), np.int32), np.zeros((T, K), np.uint32), np.zeros((T, K, LEVELS), np.int32)
    links: dict[str, Any] = dict(
        key=np.zeros(2, np.uint32),
        parent_row=parent_row,
        levels=zero,
        parent_clusters=none,
        child_clusters=none,
        affinity=np.zeros((T, K, LEVELS, CLUSTERS, CLUSTERS), np.uint32),
        popularity=zero,
        inactive=share,
        roots=share,
        agree=schema["fk_owner"],
        strength=zero,
        degree=zero,
        degree_ends=np.zeros((T, K, DEGREES - 1), np.uint32),
        delay=zero,
        window=np.full((T, K), 2**24, np.uint32),
    )
    cells: dict[str, Any] = dict(values=values, missing=missing, time=time, fits=np.bool_(True))
    return jax.tree.map(jnp.asarray, Database(schema=Schema(**schema), links=Links(**links), scm=None, aggregates=None, **cells))


def _share(flags: np.ndarray) -> int:
    """Share of a set in 2^-24; 0 of none alone."""
    some = int(np.count_nonzero(flags))
    return max(1, some * 2**24 // flags.size) if some else 0
