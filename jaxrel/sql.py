"""A user's SQL schema as the same `Schema` that the random stage makes, with the catalog of its words.

What is declared holds in the data, or is refused: keys compile to link laws, comparisons to bounds, lists to categories. Everything
is decided on the host from the text alone; streams are named by table and column names, so adding a table moves no other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxrel import words
from jaxrel.catalog import Catalog, ColumnWords, ForeignKeyWords, TableWords
from jaxrel.errors import UserError
from jaxrel.random import host_key, name_id, named_key, reduce_key, seed_key
from jaxrel.render import distinct_values
from jaxrel.sql_parse import ForeignKeyDecl, TableDecl, parse_sql
from jaxrel.sql_types import ColumnDecl, resolve
from jaxrel.times import flat_times
from jaxrel.types import NO_TABLE, TILE, Kind, LinkLaw, Schema, row_offsets_host, tiles_of

__all__ = ["read_sql"]

BASE_ROWS = 1000  # rows of a table without parents
CHILD_ROWS = 3  # rows of a child table for one of its largest parent
NULL_COLUMN = round(0.05 * 2**24)  # believable shares of NULL where it is allowed
NULL_KEY = round(0.10 * 2**24)
FIRST_SECOND, LAST_SECOND = 16436 * 86400, 20088 * 86400 + 86399  # 2015-01-01 … 2024-12-31: never in the future
_INT32 = 2**31 - 1
_WIDTHS = {"smallint": 2**15 - 1, "integer": _INT32, "bigint": _INT32}


@dataclasses.dataclass
class _Key:
    """One foreign key after its reference is resolved."""

    column: ColumnDecl
    parent: str
    law: LinkLaw = LinkLaw.CLUSTER
    owner: int = 0


@dataclasses.dataclass
class _Table:
    """One table after all references are resolved."""

    decl: TableDecl
    keys: list[_Key] = dataclasses.field(default_factory=list)
    sets: list[list[int]] = dataclasses.field(default_factory=list)  # unique sets of keys, by slot
    unique: set[str] = dataclasses.field(default_factory=set)  # unique feature columns
    features: list[ColumnWords] = dataclasses.field(default_factory=list)
    time: ColumnWords | None = None
    rows: int = 0
    referenced: bool = False

    @property
    def name(self) -> str:
        return self.decl.name

    @property
    def parents(self) -> list[str]:
        """Tables that it references, itself left out."""
        return [key.parent for key in self.keys if key.parent != self.name]


def read_sql(
    text: str, dialect: str = "postgres", *, rows: Mapping[str, int] | None = None, scale: float = 1.0, key: ArrayLike | None = None
) -> tuple[Schema, Catalog]:
    """Read a SQL schema.

    Args:
        text: CREATE TABLE statements, with CREATE TYPE ... AS ENUM, unique indexes and ALTER TABLE ... ADD CONSTRAINT.
        dialect: "postgres", "mysql", "sqlite" or "duckdb".
        rows: rows of some tables, exact. Others: 1,000 without a parent, else 3 for each row of the largest parent, or as many as
            UNIQUE and the types allow.
        scale: multiplies the 1,000.
        key: the user's PRNG key; None is ``jax.random.key(0)``.

    Returns:
        The schema, with T tables, K keys and C columns exactly as declared (at least 1 each), and the catalog.

    Raises:
        UserError: a `ValueError` of one sentence for bad SQL, for anything declared that cannot be kept, and for bad row counts.

    >>> schema, catalog = read_sql("CREATE TABLE pets (id integer PRIMARY KEY, name text NOT NULL, owner uuid)")
    >>> [column.name for column in catalog.tables[0].columns], int(schema.row_count[0])
    (['name', 'owner'], 1000)
    """
    if not math.isfinite(scale) or scale <= 0:
        raise UserError(f"scale: expected a number above 0, got {scale!r}; 1 keeps the default rows")
    tables = _resolve_references(parse_sql(text, dialect))
    for table in tables.values():
        _resolve_unique(table)
        _resolve_columns(table)
    ordered = _in_order(tables)
    _count_rows(ordered, dict(rows or {}), float(scale))
    catalog = Catalog(tuple(_words(table) for table in ordered), text, dialect)
    return _schema(ordered, catalog, seed_key(0) if key is None else key), catalog


def _resolve_references(decls: list[TableDecl]) -> dict[str, _Table]:
    tables = {decl.name.lower(): _Table(decl) for decl in decls}
    for table in tables.values():
        for reference in table.decl.foreign_keys:
            table.keys.append(_resolve_reference(table, reference, tables))
    return tables


def _resolve_reference(table: _Table, reference: ForeignKeyDecl, tables: dict[str, _Table]) -> _Key:
    column = table.decl.column(reference.column)
    parent = tables.get(reference.parent.lower())
    if parent is None:
        known = ", ".join(other.name for other in tables.values())
        raise UserError(f"{column.place}: references the table {reference.parent}, which does not exist; the tables are {known}")
    target = parent.decl.primary_key
    if target is None:
        raise UserError(f"{column.place}: references {parent.name}, which has no primary key; declare one")
    if reference.parent_column is not None and parent.decl.column(reference.parent_column).name != target:
        wrong = f"{parent.name}.{reference.parent_column}"
        raise UserError(f"{column.place}: references {wrong}, which is not the primary key; reference {parent.name}.{target}")
    if any(key.column is column for key in table.keys):
        raise UserError(f"{column.place}: the column references two tables; keep one reference")
    if column.name == table.decl.primary_key:
        raise UserError(f"{column.place}: a primary key that is a foreign key is not supported; add another key and make this UNIQUE")
    if column.bounds or column.allowed or column.excluded:
        raise UserError(f"{column.place}: a CHECK on a foreign key is not supported; leave it out")
    if parent is table and column.not_null:
        raise UserError(f"{column.place}: a reference to its own table cannot be NOT NULL, since row one has no parent; make it nullable")
    mine, theirs = column.type, parent.decl.column(target).type
    if mine.kind != theirs.kind or (theirs.length or 0) > (mine.length or 2**31):
        raise UserError(f"{column.place}: is {mine.name}, but {parent.name}.{target} is {theirs.name}; declare both alike")
    if parent is not table:
        parent.referenced = True
    return _Key(column, parent.name, LinkLaw.TREE if parent is table else LinkLaw.CLUSTER)


def _resolve_unique(table: _Table) -> None:
    """Sort UNIQUE sets into unique columns and slot laws; drop what others imply."""
    decl = table.decl
    slots = {key.column.name: slot for slot, key in enumerate(table.keys)}
    sets = {frozenset(names) for names in decl.unique if decl.primary_key not in names}
    for key in table.keys:
        key.owner = slots[key.column.name]
    for names in sorted(sets, key=lambda names: (len(names), sorted(names))):
        shown = f"{decl.name}: UNIQUE ({', '.join(name for name in (c.name for c in decl.columns.values()) if name in names)})"
        if any(other < names for other in sets):
            continue  # a part of it is unique already
        if len(names) == 1 and not names <= set(slots):
            table.unique.add(next(iter(names)))
        elif not names <= set(slots):
            raise UserError(f"{shown} mixes in columns that are no foreign keys; make it UNIQUE on one column or on foreign keys")
        else:
            members = sorted(slots[name] for name in names)
            if any(table.keys[slot].law == LinkLaw.TREE for slot in members):
                raise UserError(f"{shown} holds a reference to its own table, which is not supported; leave that key out of it")
            if any(set(members) & set(other) for other in table.sets):
                raise UserError(f"{shown} shares a foreign key with another UNIQUE set, which is not supported; keep one of the two")
            table.sets.append(members)
            for slot in members:
                table.keys[slot].law, table.keys[slot].owner = LinkLaw.SLOT, members[0]


def _resolve_columns(table: _Table) -> None:
    """Feature columns and the time column."""
    decl, keys = table.decl, {key.column.name for key in table.keys}
    primary = None if decl.primary_key is None else decl.column(decl.primary_key)
    if primary is not None:
        if primary.type.kind not in (Kind.INTEGER, Kind.UUID, Kind.TEXT):
            raise UserError(
                f"{primary.place}: a primary key of type {primary.type.name} is not supported; make it integer, uuid or char(n)"
            )
        if primary.bounds or primary.allowed or primary.excluded:
            raise UserError(f"{primary.place}: a CHECK on a primary key is not supported; leave it out")
    for column in decl.columns.values():
        if column is primary or column.name in keys:
            continue
        found, unique = resolve(column), column.name in table.unique
        feature = ColumnWords(
            name=column.name,
            kind=found.kind,
            type=column.type.name,
            nullable=not column.not_null,
            vocabulary=found.vocabulary,
            low=found.low,
            high=found.high,
            step=found.step,
            unique=unique,
            length=column.type.length,
        )
        timely = feature.kind in (Kind.DATE, Kind.TIMESTAMP) and column.not_null and not unique and not feature.vocabulary
        if timely and table.time is None and not table.referenced:
            table.time = feature
        else:
            table.features.append(feature)


def _in_order(tables: dict[str, _Table]) -> list[_Table]:
    """Parents before children, referenced tables before all others, those that refer to themselves before the rest; ties as declared."""
    left = list(tables.values())
    placed: list[_Table] = []
    while left:
        names = {table.name for table in placed}
        ready = [table for table in left if set(table.parents) <= names]
        if not ready:
            raise UserError(f"{_cycle(left)}: references in a cycle are not supported; leave one of them out")
        chosen = min(ready, key=lambda table: 0 if table.referenced else 1 if any(key.parent == table.name for key in table.keys) else 2)
        placed.append(chosen)
        left.remove(chosen)
    return placed


def _cycle(left: list[_Table]) -> str:
    """One cycle among tables that all wait for each other, as ``a -> b -> a``."""
    waiting = {table.name: table for table in left}
    path = [left[0].name]
    while True:
        following = next(parent for parent in waiting[path[-1]].parents if parent in waiting)
        if following in path:
            return " -> ".join([*path[path.index(following) :], following])
        path.append(following)


def _count_rows(ordered: list[_Table], asked: dict[str, int], scale: float) -> None:
    """Set every table's rows, and the templates of its text columns."""
    by_name = {table.name: table for table in ordered}
    known = {table.name.lower(): table.name for table in ordered}
    wanted: dict[str, int] = {}
    for name, count in asked.items():
        if name.lower() not in known:
            raise UserError(f"rows: there is no table {name}; the tables are {', '.join(by_name)}")
        if int(count) != count or not 1 <= count <= _INT32:
            raise UserError(f"rows: {name}={count} is not a number of rows; ask for at least 1 and at most {_INT32}")
        wanted[known[name.lower()]] = int(count)
    for table in ordered:
        limits = [(_most_keys(table.decl), "its primary key")] if table.decl.primary_key else []
        for members in table.sets:
            columns = ", ".join(table.keys[slot].column.name for slot in members)
            limits.append((math.prod(by_name[table.keys[slot].parent].rows for slot in members), f"UNIQUE ({columns})"))
        limits += [(_most_values(table, column), f"UNIQUE ({column.name})") for column in table.features if column.unique]
        own = [key.column for key in table.keys if key.parent == table.name]
        limits += [(_WIDTHS.get(column.type.name, _INT32), f"the type of {column.name}") for column in own]
        most, why = min(limits, default=(_INT32, ""))
        default = max((by_name[parent].rows for parent in table.parents), default=0) * CHILD_ROWS or max(round(BASE_ROWS * scale), 1)
        table.rows = wanted.get(table.name, min(default, most))
        if table.rows > most:
            raise UserError(f"rows: {table.name}={table.rows} is too many, {why} allows {most}; ask for fewer or widen it")
        for key in table.keys:
            if by_name[key.parent].rows > _WIDTHS.get(key.column.type.name, _INT32):
                parent = by_name[key.parent]
                raise UserError(f"{key.column.place}: {key.column.type.name} cannot number {parent.rows} rows of {parent.name}; widen it")
        table.features = [_with_format(table, column) for column in table.features]
    tiles = sum(int(tiles_of(table.rows)) + 1 for table in ordered)
    if tiles * TILE > _INT32:
        total = sum(table.rows for table in ordered)
        raise UserError(f"rows: {total} rows of all tables together are too many; ask for fewer than {_INT32} with scale or rows")


def _most_keys(decl: TableDecl) -> int:
    """Rows that the primary key can number."""
    column = decl.column(decl.primary_key or "")
    if column.type.kind == Kind.INTEGER:
        return min(_WIDTHS[column.type.name], column.type.high or _INT32)
    if column.type.kind == Kind.UUID:
        return _INT32
    return min(words.template_rows(words.key_template(column.name, column.type.name, column.type.length)), _INT32)


def _most_values(table: _Table, column: ColumnWords) -> int:
    """Rows that a unique feature column can tell apart."""
    if column.kind == Kind.TEXT and not column.vocabulary:
        most = 2**31
        while most and words.text_template(column.name, column.type, column.length, True, most, table.name) is None:
            most //= 2
        found = words.text_template(column.name, column.type, column.length, True, most, table.name) if most else None
        return min(words.template_rows(found), _INT32) if found else 0
    most = distinct_values(column)
    if most == 0:
        raise UserError(f"{table.name}.{column.name}: a UNIQUE {column.type} is not supported; make it decimal or integer")
    return min(most, _INT32)


def _with_format(table: _Table, column: ColumnWords) -> ColumnWords:
    if column.kind != Kind.TEXT or column.vocabulary:
        return column
    template = words.text_template(column.name, column.type, column.length, column.unique, table.rows, table.name)
    if template is None:
        raise UserError(f"{table.name}.{column.name}: {column.type} cannot be UNIQUE in {table.rows} rows; declare a longer type")
    return dataclasses.replace(column, format=template)


def _words(table: _Table) -> TableWords:
    decl = table.decl
    primary = None if decl.primary_key is None else decl.column(decl.primary_key)
    return TableWords(
        name=decl.name,
        primary_key=None if primary is None else primary.name,
        primary_key_kind=Kind.INTEGER if primary is None else primary.type.kind,
        primary_key_type="" if primary is None else primary.type.name,
        time_column=None if table.time is None else table.time.name,
        time_kind=Kind.TIMESTAMP if table.time is None else table.time.kind,
        columns=tuple(table.features),
        foreign_keys=tuple(
            ForeignKeyWords(key.column.name, key.parent, not key.column.not_null, key.column.type.name) for key in table.keys
        ),
        order=tuple(column.name for column in decl.columns.values()),
    )


def _window(table: _Table) -> tuple[int, int]:
    """First and last second of the table's events."""
    column = table.time
    if column is None:
        return 0, 0
    unit, span = 86400 if column.kind == Kind.DATE else 1, LAST_SECOND - FIRST_SECOND
    first = None if column.low is None else int(column.low) * unit
    last = None if column.high is None else int(column.high) * unit + unit - 1
    if first is None:
        first = FIRST_SECOND if last is None or last > FIRST_SECOND else last - span
    if last is None:
        last = LAST_SECOND if first <= LAST_SECOND else first + span
    elif first <= LAST_SECOND:
        last = min(last, LAST_SECOND)
    days = _INT32 // 86400  # whole days on either side of 1970 that 32 bits of seconds hold
    first, last = max(first, -days * 86400), min(last, days * 86400 - 1)
    if first > last:
        raise UserError(f"{table.name}.{column.name}: its CHECKs leave no time between 1901-12-15 and 2038-01-18; widen them")
    return max(first, last - days * 86400 + 1), min(last - first, days * 86400 - 1)


def _schema(ordered: list[_Table], catalog: Catalog, key: ArrayLike) -> Schema:
    tables = len(ordered)
    keys, columns = max(1, *(len(table.keys) for table in ordered)), max(1, *(len(table.features) for table in ordered))
    place = {table.name: number for number, table in enumerate(ordered)}
    ints = {name: np.zeros((tables, columns), np.int32) for name in ("kind", "classes")}
    column_id, column_null = np.zeros((tables, columns), np.uint32), np.zeros((tables, columns), np.uint32)
    fk_parent, fk_law = np.full((tables, keys), NO_TABLE, np.int32), np.zeros((tables, keys), np.int32)
    fk_owner, fk_capacity = np.tile(np.arange(keys, dtype=np.int32), (tables, 1)), np.zeros((tables, keys), np.int32)
    fk_id, fk_null = np.zeros((tables, keys), np.uint32), np.zeros((tables, keys), np.uint32)
    for t, table in enumerate(ordered):
        for c, column in enumerate(table.features):
            real = column.kind in (Kind.INTEGER, Kind.DATE)  # `render` makes integers and dates of real lanes
            ints["kind"][t, c] = Kind.NUMERIC if real else column.kind
            ints["classes"][t, c] = {Kind.CATEGORICAL: len(column.vocabulary), Kind.BOOLEAN: 2}.get(column.kind, 0)
            column_id[t, c], column_null[t, c] = name_id(column.name), NULL_COLUMN if column.nullable else 0
        for k, link in enumerate(table.keys):
            fk_parent[t, k], fk_law[t, k], fk_owner[t, k] = place[link.parent], link.law, link.owner
            fk_id[t, k] = name_id(link.column.name)
            fk_capacity[t, k] = [k] in table.sets  # one child each
            fk_null[t, k] = 0 if link.column.not_null or link.law == LinkLaw.TREE else NULL_KEY  # a tree has its roots
    windows = [_window(table) for table in ordered]
    row_count = np.array([table.rows for table in ordered], np.int32)
    start, span = (np.array(ends, np.int32) for ends in zip(*windows, strict=True))
    stream = reduce_key(key)
    fields: dict[str, Any] = {
        "key": named_key(stream, "schema") if isinstance(stream, jax.core.Tracer) else host_key(stream, "schema"),
        "table_count": np.int32(tables),
        "table_id": np.array([name_id(table.name) for table in ordered], np.uint32),
        "row_count": row_count,
        "row_offset": row_offsets_host(row_count)[0].astype(np.int32),
        "is_activity": np.array([not table.referenced for table in ordered]),
        "has_time": np.array([table.time is not None for table in ordered]),
        "time_start": start,
        "time_span": span,
        **flat_times(tables),
        "column_count": np.array([len(table.features) for table in ordered], np.int32),
        "column_id": column_id,
        "column_kind": ints["kind"],
        "column_classes": ints["classes"],
        "column_null": column_null,
        "column_binned": np.zeros((tables, columns), bool),
        "fk_parent": fk_parent,
        "fk_id": fk_id,
        "fk_null": fk_null,
        "fk_law": fk_law,
        "fk_owner": fk_owner,
        "fk_capacity": fk_capacity,
        "fits": np.bool_(True),
    }
    return Schema(**jax.device_put(fields))  # at once: array by array, a dozen small programs would be compiled
