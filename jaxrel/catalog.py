"""The words of a database: names, SQL types, vocabularies and key formats. Host side, frozen, outside every pytree."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from jaxrel import nouns
from jaxrel.types import NO_TABLE, Kind, Schema

__all__ = ["Catalog", "ColumnWords", "ForeignKeyWords", "TableWords"]


@dataclasses.dataclass(frozen=True)
class ColumnWords:
    """One feature column.

    Attributes:
        name: column name.
        kind: what the device computes for it.
        type: declared SQL type in canonical form ("smallint", "integer", "bigint", "real", "double", "decimal(8,2)", "boolean", "char(6)",
            "varchar(40)", "text", "date", "timestamp", "uuid"); "" for a column that no SQL declared.
        nullable: NULL is allowed.
        vocabulary: labels of a categorical column, by code.
        low: smallest allowed value (days since 1970-01-01 for dates, seconds for timestamps), or None.
        high: largest allowed value, or None.
        step: distance between allowed values (1 for integers, 10^-scale for decimals, 0 for reals).
        unique: no value occurs twice.
        format: how text is made: a recipe name of `jaxrel.words`, "" for none.
        length: most characters of a text value, or None.
        offset: whole numbers, timestamps (s) and dates (d) of real data that are beyond 2^24: the value is offset + unit * the number in
            the arrays.
        unit: see offset.
    """

    name: str
    kind: Kind
    type: str = ""
    nullable: bool = True
    vocabulary: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float = 0.0
    unique: bool = False
    format: str = ""
    length: int | None = None
    offset: int = 0
    unit: int = 1


@dataclasses.dataclass(frozen=True)
class ForeignKeyWords:
    """One foreign key, in the order of the schema's key slots."""

    name: str
    parent: str  # table name
    nullable: bool = False
    type: str = ""  # declared SQL type, "" where none


@dataclasses.dataclass(frozen=True)
class TableWords:
    """One table.

    Attributes:
        name: table name.
        primary_key: name of the key column, or None.
        primary_key_kind: INTEGER, UUID or TEXT (char).
        primary_key_type: declared SQL type, "" where none.
        time_column: name of the event-time column, or None.
        time_kind: TIMESTAMP or DATE.
        columns: feature columns, in the order of the schema's column slots.
        foreign_keys: in the order of the schema's key slots.
        order: all column names in declared order; () means primary key, foreign keys, time, features.
    """

    name: str
    primary_key: str | None
    primary_key_kind: Kind = Kind.INTEGER
    primary_key_type: str = ""
    time_column: str | None = None
    time_kind: Kind = Kind.TIMESTAMP
    columns: tuple[ColumnWords, ...] = ()
    foreign_keys: tuple[ForeignKeyWords, ...] = ()
    order: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Catalog:
    """All words of one database, tables in the schema's order."""

    tables: tuple[TableWords, ...]
    sql: str = ""  # the text it was read from
    dialect: str = ""

    @staticmethod
    def default(schema: Schema) -> Catalog:
        """Name everything in a schema that came without words.

        Names are a function of the schema's key and of the ids of its tables and columns: another database has other names, and a
        table keeps its name when others are added after it.

        Args:
            schema: of one database, with concrete arrays.

        Returns:
            Tables from a fixed word list, ``<table>_id``, ``<parent>_id``, ``event_time``, and two-word feature columns.
        """
        key = ".".join(str(int(word)) for word in np.asarray(schema.key).ravel())
        table_id, fk_parent = np.asarray(schema.table_id), np.asarray(schema.fk_parent)
        names: list[str] = []
        for t in range(int(schema.table_count)):
            names.append(_unused(_walk(nouns.TABLES, key, "table", table_id[t]), names))
        has_time, fk_null = np.asarray(schema.has_time), np.asarray(schema.fk_null)
        columns = np.stack([np.asarray(schema.column_id), np.asarray(schema.column_kind), np.asarray(schema.column_classes)], -1)
        counts, column_null = np.asarray(schema.column_count), np.asarray(schema.column_null)
        tables = []
        for t, name in enumerate(names):
            keys: list[ForeignKeyWords] = []
            for k in np.flatnonzero(fk_parent[t] != NO_TABLE):
                parent = int(fk_parent[t, k])
                stem = f"{names[parent]}_id" if parent != t else f"parent_{name}_id"
                taken = [f"{name}_id", *(other.name for other in keys)]
                keys.append(ForeignKeyWords(_unused(_numbered(stem), taken), names[parent], bool(fk_null[t, k]) or parent == t))
            used = [f"{name}_id", "event_time", *(other.name for other in keys)]
            features: list[ColumnWords] = []
            for c, (column, kind, classes) in enumerate(columns[t, : counts[t]].tolist()):
                word = _column_names(f"{key}.{table_id[t]}", column, Kind(kind))
                features.append(
                    ColumnWords(
                        name=_unused(word, used),
                        kind=Kind(kind),
                        nullable=bool(column_null[t, c]),
                        vocabulary=_labels(f"{key}.{table_id[t]}", column, classes) if kind == Kind.CATEGORICAL else (),
                    )
                )
                used.append(features[-1].name)
            time = "event_time" if has_time[t] else None
            tables.append(TableWords(name, f"{name}_id", time_column=time, columns=tuple(features), foreign_keys=tuple(keys)))
        return Catalog(tuple(tables))


def _draw(*names: object) -> int:
    """A stable 64-bit number of some names."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, names)).encode()).digest()[:8], "little")


def _unused(name_of: Callable[[int], str], taken: Sequence[str]) -> str:
    """The first of the names ``name_of(0)``, ``name_of(1)``, … that is not taken."""
    i = 0
    while name_of(i) in taken:
        i += 1
    return name_of(i)


def _numbered(stem: str) -> Callable[[int], str]:
    return lambda i: stem if i == 0 else f"{stem}_{i + 1}"


def _walk(words: Sequence[str], *names: object) -> Callable[[int], str]:
    """Words from a drawn start on; when all have been seen, numbered ones."""
    start, n = _draw(*names), len(words)
    return lambda i: words[(start + i) % n] + (f"_{i // n + 1}" if i >= n else "")


def _column_names(table: str, column: int, kind: Kind) -> Callable[[int], str]:
    """Two-word names of a feature column."""
    quality = _walk(nouns.QUALITIES, table, "quality", column)
    match kind:
        case Kind.NUMERIC | Kind.INTEGER:
            second = _walk(nouns.MEASURES, table, "measure", column)(0)
        case Kind.CATEGORICAL:
            second = _walk(nouns.GROUPS, table, "group", column)(0)
        case Kind.BOOLEAN:
            return lambda i: f"is_{quality(i)}"
        case _:
            second = {Kind.TIMESTAMP: "moment", Kind.DATE: "date", Kind.TEXT: "note"}.get(kind, "code")
    return lambda i: f"{quality(i)}_{second}"


def _labels(table: str, column: int, classes: int) -> tuple[str, ...]:
    """Distinct labels of a categorical column; numbered when there are more categories than words."""
    n, words = len(nouns.LABELS), nouns.LABELS
    start, step = _draw(table, "label", column), 1 + _draw(table, "step", column) % (n - 1)
    return tuple(words[(start + i * step) % n] + (str(i // n + 1) if i >= n else "") for i in range(classes))
