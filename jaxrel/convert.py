"""Databases as Arrow tables, pandas frames and networkx graphs: padding removed, types kept, no loop over rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jaxrel.catalog import Catalog, ColumnWords, TableWords
from jaxrel.causal import describe_graph, to_digraph
from jaxrel.errors import UserError
from jaxrel.random import host_key
from jaxrel.registry import DEGREES
from jaxrel.types import NO_ROW, NO_TABLE, NO_TIME, Database, Kind, LinkLaw, Schema

if TYPE_CHECKING:  # both load slowly, and writing files needs neither
    import networkx as nx
    import pandas as pd

__all__ = ["Converter", "TableRows", "key_laws", "key_text_column", "table_rows", "to_arrow", "to_networkx", "to_pandas", "words_of"]

_KEY_TYPES = {"smallint": pa.int16(), "integer": pa.int32(), "bigint": pa.int64()}


def to_arrow(db: Database, catalog: Catalog | None = None, *, surrogate: bool = False) -> dict[str, pa.Table]:
    """Convert a database to Arrow tables.

    Keys are row indices 0…n-1. Where the catalog was read from SQL, tables have exactly the declared columns instead, in their order:
    integer keys run from 1 and natural keys are written as text.

    Args:
        db: one database, without a batch axis.
        catalog: its words; None stands for `Catalog.default`.
        surrogate: keep row indices as keys with SQL too; natural keys become feature columns beside them.

    Returns:
        Table by name, parents first.

    Raises:
        UserError: if the database has a batch axis, or the catalog describes another schema.
    """
    catalog = words_of(db, catalog)
    convert = Converter(db.schema, catalog, bool(catalog.sql) and not surrogate)
    return {catalog.tables[rows.table].name: convert(rows) for rows in table_rows(db)}


def to_pandas(db: Database, catalog: Catalog | None = None, *, surrogate: bool = False) -> dict[str, pd.DataFrame]:
    """Convert a database to data frames; integers and booleans with missing values take pandas' nullable types.

    Args:
        db: one database, without a batch axis.
        catalog: its words; None stands for `Catalog.default`.
        surrogate: as in `to_arrow`.

    Returns:
        Data frame by table name, parents first.

    Raises:
        UserError: as `to_arrow` does.
    """
    import pandas as pd

    nullable: dict[pa.DataType, Any] = {
        pa.bool_(): pd.BooleanDtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
    }

    def frame(table: pa.Table) -> pd.DataFrame:
        columns = zip(table.column_names, table.columns, strict=True)
        return pd.DataFrame({name: x.to_pandas(types_mapper=nullable.get if x.null_count else None) for name, x in columns})

    return {name: frame(table) for name, table in to_arrow(db, catalog, surrogate=surrogate).items()}


def to_networkx(db: Database, catalog: Catalog | None = None) -> dict[str, nx.DiGraph[Any]]:
    """Convert the structure of a database to graphs.

    Args:
        db: one database, without a batch axis; values are not read.
        catalog: its words; None stands for `Catalog.default`.

    Returns:
        ``"schema"``: nodes are table numbers (attributes name, rows, activity, time), edges parent → child (of their
        foreign_keys: the names; laws: what `key_laws` says of each).
        ``"scm"``, where the database has one: nodes are ``(table, node)``, as in the arrays (attributes table, kind, classes, width,
        noise, columns: names of the columns that observe it, and where it shows a trait of a link, trait: the child table and the name
        of its key); edges cause → effect, with family, scale, layers and hidden inside a
        table, and foreign_key (its slot) and name from a parent table's node to the gather node that reads it.

    Raises:
        UserError: as `to_arrow` does.
    """
    import networkx as nx

    catalog = words_of(db, catalog)
    schema: nx.DiGraph[int] = nx.DiGraph()
    laws = key_laws(db, catalog)
    fk_parent, row_count = np.asarray(db.schema.fk_parent), np.asarray(db.schema.row_count)
    is_activity, has_time = np.asarray(db.schema.is_activity), np.asarray(db.schema.has_time)
    for t, words in enumerate(catalog.tables):
        schema.add_node(t, name=words.name, rows=int(row_count[t]), activity=bool(is_activity[t]), time=bool(has_time[t]))
    for t, words in enumerate(catalog.tables):
        for k, fk in enumerate(words.foreign_keys):
            parent = int(fk_parent[t, k])
            edge = schema.edges[parent, t] if schema.has_edge(parent, t) else {"foreign_keys": (), "laws": ()}
            schema.add_edge(parent, t, foreign_keys=(*edge["foreign_keys"], fk.name), laws=(*edge["laws"], laws[t][k]))
    return {"schema": schema} if db.scm is None else {"schema": schema, "scm": to_digraph(describe_graph(db, catalog), catalog)}


def key_laws(db: Database, catalog: Catalog) -> list[list[dict[str, Any]]]:
    """How each foreign key of each table chooses parent rows, in words.

    Returns:
        By table and key: ``law``, a name of `LinkLaw`; of a degree law its ``degrees``, a name of `jaxrel.registry.DEGREES`; of a slot law
        ``most``, children of one parent row, where that is limited, and ``unique``, the keys that are unique together, where they are.
    """
    laws, owner, capacity, family = (np.asarray(x) for x in (db.schema.fk_law, db.schema.fk_owner, db.schema.fk_capacity, db.links.degree))
    out = []
    for t, words in enumerate(catalog.tables):
        keys: list[dict[str, Any]] = []
        for k in range(len(words.foreign_keys)):
            entry: dict[str, Any] = {"law": LinkLaw(laws[t, k]).name.lower()}
            if laws[t, k] == LinkLaw.DEGREE:
                entry["degrees"] = DEGREES[family[t, k]]
            if laws[t, k] == LinkLaw.SLOT:
                members = [fk.name for m, fk in enumerate(words.foreign_keys) if laws[t, m] == LinkLaw.SLOT and owner[t, m] == owner[t, k]]
                entry |= {"most": int(capacity[t, k])} if capacity[t, k] else {}
                entry |= {"unique": members} if len(members) > 1 or capacity[t, k] == 1 else {}
            keys.append(entry)
        out.append(keys)
    return out


def key_text_column(words: TableWords) -> str:
    """Name of the feature column that keeps a natural primary key beside its surrogate."""
    taken = {words.primary_key, words.time_column, *(c.name for c in words.columns), *(fk.name for fk in words.foreign_keys)}
    name = f"{words.primary_key}_text"
    while name in taken:
        name += "_"
    return name


def words_of(db: Database, catalog: Catalog | None) -> Catalog:
    """The catalog of one database, in which every table, column, key and label has its word.

    Args:
        db: to be named.
        catalog: its words; None stands for `Catalog.default`.

    Returns:
        The catalog.

    Raises:
        UserError: if the database has a batch axis, or the catalog describes another schema.
    """
    schema = db.schema
    if np.ndim(schema.table_count) != 0:
        shape = np.shape(schema.table_count)
        raise UserError(f"db: a batch of shape {shape} where one database is expected; take one with jax.tree.map(lambda x: x[0], db)")
    if catalog is None:
        return Catalog.default(schema)
    if len(catalog.tables) != int(schema.table_count):
        raise UserError(f"catalog: names {len(catalog.tables)} tables, but the schema has {int(schema.table_count)}; use its own catalog")
    column_count, fk_parent = np.asarray(schema.column_count), np.asarray(schema.fk_parent)
    classes = np.asarray(schema.column_classes)
    for t, words in enumerate(catalog.tables):
        parents = [catalog.tables[p].name for p in fk_parent[t] if p != NO_TABLE]
        if len(words.columns) != column_count[t] or [fk.parent for fk in words.foreign_keys] != parents:
            raise UserError(f"catalog: the columns or keys of table {words.name} are not those of the schema; use its own catalog")
        for c, column in enumerate(words.columns):
            if column.kind == Kind.CATEGORICAL and len(column.vocabulary) < classes[t, c]:
                raise UserError(
                    f"catalog: {words.name}.{column.name} has {len(column.vocabulary)} labels for {classes[t, c]} categories; add labels"
                )
    return catalog


@dataclasses.dataclass(frozen=True)
class TableRows:
    """Some rows of one table, on the host."""

    table: int
    first: int  # row id of the first
    values: np.ndarray  # f32[C, rows]
    missing: np.ndarray  # bool[C, rows]
    time: np.ndarray  # i32[rows]
    parent_row: np.ndarray  # i32[K, rows]


def table_rows(db: Database) -> Iterator[TableRows]:
    """The tables of one database, each whole, parents first."""
    offset, count = np.asarray(db.schema.row_offset).tolist(), np.asarray(db.schema.row_count).tolist()
    values, missing, time, parent_row = (np.asarray(x) for x in (db.values, db.missing, db.time, db.links.parent_row))
    for t in range(int(db.schema.table_count)):
        rows = slice(offset[t], offset[t] + count[t])
        yield TableRows(t, 0, values[:, rows], missing[:, rows], time[rows], parent_row[:, rows])


class Converter:
    """Rows of a database's tables as Arrow tables, in any chunks.

    Args:
        schema: of one database, concrete.
        catalog: its words.
        plain: exactly what SQL declared; else integer keys from 0, and natural keys beside them.
    """

    def __init__(self, schema: Schema, catalog: Catalog, plain: bool) -> None:
        self._catalog, self._plain = catalog, plain
        self._fk_parent, self._row_count = np.asarray(schema.fk_parent), np.asarray(schema.row_count).tolist()
        ids = np.asarray(schema.table_id)[:, None]
        self._column_key, self._table_key = None, None
        if any(c.type or c.kind >= Kind.TEXT for t in catalog.tables for c in t.columns):
            self._column_key = host_key(schema.key, "render", ids, schema.column_id)
        self._natural = {t for t, words in enumerate(catalog.tables) if words.primary_key and words.primary_key_kind != Kind.INTEGER}
        if self._natural:
            self._table_key = host_key(schema.key, "render", ids[:, 0])
        self._parents: dict[int, pa.Array] = {}  # natural keys of whole tables that keys lead to

    def __call__(self, rows: TableRows) -> pa.Table:
        """Convert some rows of one table."""
        t, plain, tables = rows.table, self._plain, self._catalog.tables
        words, n = tables[t], rows.time.shape[0]
        arrays: dict[str, pa.Array] = {}

        def key_type(declared: str) -> pa.DataType:
            return _KEY_TYPES.get(declared, pa.int64()) if plain else pa.int64()

        ids = np.arange(rows.first, rows.first + n, dtype=np.int64)
        if words.primary_key is not None:
            if plain and t in self._natural:
                arrays[words.primary_key] = self._natural_keys(t, ids)
            else:
                arrays[words.primary_key] = _integer_keys(ids, None, key_type(words.primary_key_type), plain, words.name)
        for k, fk in enumerate(words.foreign_keys):
            row, parent = rows.parent_row[k], int(self._fk_parent[t, k])
            null = row == NO_ROW
            if plain and parent in self._natural:
                if parent not in self._parents:
                    self._parents[parent] = self._natural_keys(parent, np.arange(self._row_count[parent], dtype=np.int64))
                arrays[fk.name] = self._parents[parent].take(_masked(row.astype(np.int64), null))
            else:
                arrays[fk.name] = _integer_keys(row, null, key_type(fk.type or tables[parent].primary_key_type), plain, fk.parent)
        if words.time_column is not None:
            arrays[words.time_column] = _times(rows.time, plain and words.time_kind == Kind.DATE)
        if not plain and t in self._natural:
            arrays[key_text_column(words)] = self._natural_keys(t, ids)
        for c, column in enumerate(words.columns):
            if column.type or column.kind >= Kind.TEXT:
                assert self._column_key is not None
                arrays[column.name] = _rendered(column, rows.values[c], rows.missing[c], self._column_key[t, c], ids, plain)
            else:
                arrays[column.name] = _column(column, rows.values[c], rows.missing[c])
        order = words.order if plain and words.order else tuple(arrays)
        return pa.table({name: arrays[name] for name in order})

    def _natural_keys(self, t: int, ids: np.ndarray) -> pa.Array:
        from jaxrel.render import render_key

        assert self._table_key is not None
        return render_key(self._catalog.tables[t], ids, self._table_key[t])


def _masked(values: np.ndarray, missing: np.ndarray | None) -> pa.Array:
    return pa.array(values, mask=missing if missing is not None and missing.any() else None)


def _integer_keys(row: np.ndarray, null: np.ndarray | None, kind: pa.DataType, plain: bool, table: str) -> pa.Array:
    """Row indices as keys: from 1 where SQL declared them, else from 0."""
    keys = row.astype(np.int64) + int(plain)
    if keys.size and keys.max() > np.iinfo(kind.to_pandas_dtype()).max:
        raise UserError(f"table {table}: a key of type {kind} cannot number {keys.max()} rows; declare a wider type or ask for fewer rows")
    return _masked(keys.astype(kind.to_pandas_dtype()), null)


def _times(seconds: np.ndarray, is_date: bool) -> pa.Array:
    """Seconds since 1970 as timestamps, or as days."""
    unknown = seconds == NO_TIME
    if is_date:
        return _masked((seconds // 86_400).astype(np.int32), unknown).view(pa.date32())
    return _masked(seconds.astype(np.int64) * 1_000_000, unknown).view(pa.timestamp("us"))


def _whole(column: ColumnWords, values: np.ndarray) -> np.ndarray:
    return np.rint(values).astype(np.int64) * column.unit + column.offset


def _column(column: ColumnWords, values: np.ndarray, missing: np.ndarray) -> pa.Array:
    """A feature column that no SQL declared."""
    match column.kind:
        case Kind.CATEGORICAL:
            codes = _masked(values.astype(np.int32), missing)
            return pa.DictionaryArray.from_arrays(codes, pa.array(column.vocabulary, pa.string()))
        case Kind.BOOLEAN:
            return _masked(values > 0.5, missing)
        case Kind.INTEGER:
            return _masked(_whole(column, values), missing)
        case Kind.TIMESTAMP:
            return _masked(_whole(column, values) * 1_000_000, missing).view(pa.timestamp("us"))
        case Kind.DATE:
            return _masked(_whole(column, values).astype(np.int32), missing).view(pa.date32())
        case _:
            return _masked(values, missing)


def _rendered(column: ColumnWords, values: np.ndarray, missing: np.ndarray, key: np.ndarray, ids: np.ndarray, plain: bool) -> pa.Array:
    """A declared column; beside surrogate keys in the types that RelBench's clients read: decimals as doubles, dates as timestamps."""
    from jaxrel.render import render_column

    array = render_column(column, values, missing, key, rows=ids)
    if not plain and pa.types.is_decimal(array.type):
        return array.cast(pa.float64())
    return array.cast(pa.timestamp("us")) if not plain and pa.types.is_date(array.type) else array
