"""A small database built by hand, with every key, kind and node that the host side has to write."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxrel.catalog import Catalog, ColumnWords, ForeignKeyWords, TableWords
from jaxrel.registry import DEGREES
from jaxrel.types import (
    AGGREGATES,
    EXPORTS,
    HOURS,
    NO_CUT,
    NO_ROW,
    NO_TABLE,
    SCM,
    SLICES,
    TILE,
    Database,
    Kind,
    LinkLaw,
    Links,
    NodeKind,
    Schema,
    row_offsets,
)

ROWS = (700, 500, 3000, 0)  # parent without time, timed parent, timed activity with four keys, padding
KINDS = (Kind.NUMERIC, Kind.INTEGER, Kind.CATEGORICAL, Kind.BOOLEAN, Kind.NUMERIC)
T, K, C, N = 4, 5, 6, 8


def fake_database(seed: int = 0, *, timed: bool = True) -> Database:
    """Three tables: 0 → 2, 1 → 2 (twice), 2 → 2; times in order, no child before its parent."""
    rng = np.random.default_rng(seed)
    rows = np.array(ROWS, np.int32)
    offset, end = (np.asarray(x) for x in row_offsets(rows))
    r = (int(end) + 1) * TILE
    has_time = np.array([False, timed, timed, False])
    time = np.zeros(r, np.int32)
    start = 1_300_000_000
    for t, first in ((1, start), (2, start + 40 * 86_400)):
        if timed:
            time[offset[t] : offset[t] + rows[t]] = np.sort(rng.integers(first, first + 30 * 86_400, rows[t]))
    column_kind = np.tile(np.array([*KINDS, Kind.NUMERIC], np.int32), (T, 1))
    values = rng.normal(size=(C, r)).astype(np.float32)
    values[1] = np.rint(values[1] * 10)
    values[2] = rng.integers(0, 4, r)
    values[3] = rng.integers(0, 2, r)
    missing = rng.random((C, r)) < np.array([0.1, 0.1, 0.1, 0.1, 0.0, 0.0])[:, None]
    parent_row = np.full((K, r), NO_ROW, np.int32)
    child = slice(offset[2], offset[2] + rows[2])
    fk_parent = np.full((T, K), NO_TABLE, np.int32)
    fk_parent[2, :4] = [0, 1, 1, 2]
    for k, p in enumerate(fk_parent[2, :3]):
        parent_row[k, child] = rng.integers(0, rows[p], rows[2])
    parent_row[0, child][::7] = NO_ROW
    parent_row[3, child] = rng.integers(0, np.maximum(np.arange(rows[2]), 1))  # a smaller row of the same table
    parent_row[3, child][:50] = NO_ROW
    fk_null = np.zeros((T, K), np.uint32)
    fk_null[2, 0] = 2**24 // 7
    fk_law, fk_capacity = np.full((T, K), LinkLaw.CLUSTER, np.int32), np.zeros((T, K), np.int32)
    fk_law[2, :4] = LinkLaw.CLUSTER, LinkLaw.SLOT, LinkLaw.DEGREE, LinkLaw.TREE
    fk_capacity[2, 1] = np.bincount(parent_row[1, child]).max()
    real = np.zeros(r, bool)
    for t in range(3):
        real[offset[t] : offset[t] + rows[t]] = True
    values[:, ~real], missing[:, ~real] = 0.0, True
    schema = _filled(
        Schema,
        key=np.array([7, seed], np.uint32),
        table_count=np.int32(3),
        table_id=np.arange(T, dtype=np.uint32),
        row_count=rows,
        row_offset=offset,
        is_activity=np.array([False, False, True, False]),
        has_time=has_time,
        time_founders=np.zeros(T, np.int32),
        time_curve=np.tile(np.arange(SLICES, dtype=np.uint32) << np.uint32(32 - 8), (T, 1)),
        time_week=np.tile(np.arange(HOURS, dtype=np.int32) * 3600, (T, 1)),
        column_count=np.array([5, 5, 5, 0], np.int32),
        column_id=np.tile(np.arange(C, dtype=np.uint32), (T, 1)),
        column_kind=column_kind,
        column_classes=np.where(column_kind == Kind.CATEGORICAL, 4, np.where(column_kind == Kind.BOOLEAN, 2, 0)).astype(np.int32),
        column_null=np.tile(np.array([1, 1, 1, 1, 0, 0], np.uint32), (T, 1)),
        column_binned=np.zeros((T, C), bool),
        fk_parent=fk_parent,
        fk_null=fk_null,
        fk_law=fk_law,
        fk_owner=np.tile(np.arange(K, dtype=np.int32), (T, 1)),
        fk_capacity=fk_capacity,
        fits=np.bool_(True),
    )
    no_wait, everyone = np.zeros((T, K), np.int32), np.full((T, K), 2**24, np.uint32)
    zipf = np.full((T, K), DEGREES.index("zipf"), np.int32)
    links = _filled(Links, parent_row=parent_row, delay=no_wait, window=everyone, degree=zipf)
    return Database(
        schema=schema,
        links=links,
        scm=_scm(),
        values=values,
        missing=missing,
        time=time,
        aggregates=np.zeros((AGGREGATES, 1, r), np.float32),
        fits=np.bool_(True),
    )


def _scm() -> SCM:
    """Every table: node 0 exogenous, then a chain 0 → 1 → 2 → 3 and 0 → 4; in table 2, node 5 gathers and node 6 hears it.

    Node 0 of tables 0 and 2 shows a trait of the first key between them.
    """
    kind = np.zeros((T, N), np.int32)
    kind[:, 1:5] = NodeKind.MECHANISM
    kind[2, 5:7] = NodeKind.GATHER, NodeKind.MECHANISM
    edge_start, edge_parent, at = np.zeros((T, N + 1), np.int32), np.zeros(15, np.int32), 0
    parents = [{1: 0, 2: 1, 3: 2, 4: 0}] * 2 + [{1: 0, 2: 1, 3: 2, 4: 0, 6: 5}] + [{}]
    for t in range(T):
        edge_start[t, 0] = at
        for n in range(N):
            if n in parents[t]:
                edge_parent[at] = parents[t][n]
                at += 1
            edge_start[t, n + 1] = at
    gather_fk = np.zeros((T, N), np.int32)
    gather_fk[2, 5] = 1
    trait_table = np.full((T, N), NO_TABLE, np.int32)
    trait_table[[0, 2], 0] = 2
    return _filled(
        SCM,
        node_count=np.array([5, 5, 7, 0], np.int32),
        node_kind=kind,
        node_width=np.ones((T, N), np.int32),
        node_classes=np.zeros((T, N), np.int32),
        node_noise=np.full((T, N), 0.1, np.float32),
        gather_fk=gather_fk,
        gather_export=np.zeros((T, N), np.int32),
        pass2_start=np.array([5, 5, 7, 0], np.int32),
        aggregate_table=np.full((T, AGGREGATES), NO_TABLE, np.int32),
        aggregate_fk=np.zeros((T, AGGREGATES), np.int32),
        aggregate_export=np.zeros((T, AGGREGATES), np.int32),
        aggregate_law=np.zeros((T, AGGREGATES), np.int32),
        export_node=np.tile(np.array([3, 1, 2], np.int32)[:EXPORTS], (T, 1)),
        edge_start=edge_start,
        edge_parent=edge_parent,
        edge_family=np.zeros_like(edge_parent),
        edge_scale=np.ones_like(edge_parent),
        edge_hidden=np.ones_like(edge_parent),
        edge_layers=np.ones_like(edge_parent),
        column_node=np.tile(np.array([0, 1, 2, 3, 4, 0], np.int32), (T, 1)),
        column_lane=np.zeros((T, C), np.int32),
        column_driver=np.tile(np.array([-1, 0, -1, 3, 2, -1], np.int32), (T, 1)),
        series_trend=np.zeros((T, N), np.float32),
        series_cycle=np.zeros((T, N), np.float32),
        series_rho=np.tile(np.float32([0.0, 0.0, 0.5, 0.0])[:, None], N),
        trait_table=trait_table,
        trait_fk=np.zeros((T, N), np.int32),
        column_cut=np.full((T, C), NO_CUT, np.int32),
        column_order=np.zeros((T, C), np.int32),
    )


def _filled(kind: Any, **known: Any) -> Any:
    """A record of the data model; fields that nothing on the host side reads are an empty array."""
    return kind(**{field.name: known.get(field.name, np.zeros(0, np.float32)) for field in dataclasses.fields(kind)})


_FEATURES = """{0}_price decimal(8,2) CHECK ({0}_price BETWEEN 0 AND 5000), {0}_count smallint CHECK ({0}_count BETWEEN 0 AND 100),
    {0}_size varchar(8) CHECK ({0}_size IN ('small', 'medium', 'large', 'huge')), {0}_open boolean, {0}_since double precision NOT NULL"""
_SQL = f"""CREATE TABLE shop (shop_price decimal(8,2) CHECK (shop_price BETWEEN 0 AND 5000), code uuid PRIMARY KEY,
    shop_count smallint CHECK (shop_count BETWEEN 0 AND 100), shop_size varchar(8), shop_open boolean,
    shop_since double precision NOT NULL);
CREATE TABLE seller (id integer PRIMARY KEY, hired date NOT NULL, {_FEATURES.format("seller")});
CREATE TABLE purchase (id bigint PRIMARY KEY, shop_code uuid REFERENCES shop, seller_id integer NOT NULL REFERENCES seller,
    helper_id integer NOT NULL REFERENCES seller, previous_id bigint REFERENCES purchase, placed timestamp NOT NULL,
    {_FEATURES.format("purchase")});
"""


def sql_catalog() -> Catalog:
    """What a SQL schema of the same shape would have declared: a natural key, dates, decimals, bounds, its own column order."""
    shop = TableWords(
        "shop",
        "code",
        primary_key_kind=Kind.UUID,
        primary_key_type="uuid",
        columns=_declared("shop"),
        order=("shop_price", "code", "shop_count", "shop_size", "shop_open", "shop_since"),
    )
    seller = TableWords("seller", "id", primary_key_type="integer", time_column="hired", time_kind=Kind.DATE, columns=_declared("seller"))
    order = TableWords(
        "purchase",
        "id",
        primary_key_type="bigint",
        time_column="placed",
        columns=_declared("purchase"),
        foreign_keys=(
            ForeignKeyWords("shop_code", "shop", True),
            ForeignKeyWords("seller_id", "seller"),
            ForeignKeyWords("helper_id", "seller"),
            ForeignKeyWords("previous_id", "purchase", True),
        ),
    )
    return Catalog((shop, seller, order), sql=_SQL, dialect="postgres")


def _declared(table: str) -> tuple[ColumnWords, ...]:
    return (
        ColumnWords(f"{table}_price", Kind.NUMERIC, "decimal(8,2)", low=0.0, high=5000.0, step=0.01),
        ColumnWords(f"{table}_count", Kind.INTEGER, "smallint", low=0.0, high=100.0, step=1.0),
        ColumnWords(f"{table}_size", Kind.CATEGORICAL, "varchar(8)", vocabulary=("small", "medium", "large", "huge")),
        ColumnWords(f"{table}_open", Kind.BOOLEAN, "boolean"),
        ColumnWords(f"{table}_since", Kind.NUMERIC, "double", nullable=False),
    )
