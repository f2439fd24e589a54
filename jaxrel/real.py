"""Databases that are not ours as the same arrays: pandas frames and RelBench folders in, a `Database` and its `Catalog` out.

What becomes of a column:

- booleans, integers, floats, timestamps and dates keep their kind; decimals, durations (in seconds) and times of day (in seconds) become
  reals. Integers, timestamps and dates beyond 2^24 are stored from an offset and in a unit (`ColumnWords`), exactly where the range
  allows; infinite values are missing.
- Text and pandas categories become categorical columns. One of more than ``labels`` distinct values keeps the most frequent ones and calls
  the others "other"; where most of its cells hold what no other cell holds, it is left out as free text.
- Lists, structs and bytes are left out.

Keys become row numbers, over one column or several; a key that matches no row becomes null. Rows of a timed table are sorted by time
(those without a time come last and stay invisible). Where keys lead round in a circle of tables, the one of them that links the
fewest rows is left out. Whatever the arrays do not hold is counted in `Real.losses`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from jaxrel.arrays import Keys, RealTable, lay_out, least_capacity
from jaxrel.catalog import Catalog, ForeignKeyWords, TableWords
from jaxrel.encoding import Loss, combined, comparable_types, encode_column, key_codes, to_seconds, unused_name
from jaxrel.errors import UserError
from jaxrel.files import DIGEST_FILE
from jaxrel.types import NO_ROW, NO_TIME, Capacity, Database

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LABELS", "Loss", "Real", "from_pandas", "from_relbench"]

LABELS = 256  # most labels of a column of text, unless told otherwise

Columns = str | Sequence[str]


@dataclasses.dataclass(frozen=True)
class Real:
    """A database that was read.

    Attributes:
        database: its arrays, without an SCM; rows lie as in generated databases, tables parents first.
        catalog: its words, so that ``to_arrow(database, catalog)`` gives the data back, with row numbers as keys.
        capacity: what the arrays are padded to.
        order: by table name, i64[rows]: the place of each row in the table that was given.
        losses: what the arrays do not hold.
    """

    database: Database
    catalog: Catalog
    capacity: Capacity
    order: dict[str, np.ndarray]
    losses: tuple[Loss, ...]


def from_pandas(
    tables: Mapping[str, pd.DataFrame],
    primary_keys: Mapping[str, Columns] | None = None,
    foreign_keys: Mapping[str, Mapping[Any, str]] | None = None,
    time_columns: Mapping[str, str] | None = None,
    *,
    capacity: Capacity | None = None,
    labels: int = LABELS,
) -> Real:
    """Read pandas frames as a database.

    Args:
        tables: frames by table name; their indexes are not read.
        primary_keys: by table, the column that numbers or names its rows, or several columns that do so together. Values must be
            distinct. A table without one can have no child.
        foreign_keys: by table, the parent table of each key column, or of each tuple of columns, in the order of the parent's key.
        time_columns: by table, the column of timestamps or dates at which a row comes into being.
        capacity: what to pad to; None: the smallest that holds the database.
        labels: most labels of a column of text.

    Returns:
        A `Real`.

    Raises:
        UserError: if a table is no frame, a table or column is not there, a primary key repeats or is missing, types of keys cannot be
            compared, a time column holds no times, or the capacity is too small.

    Example:
        >>> import pandas as pd, jaxrel
        >>> shop = pd.DataFrame({"name": ["a", "b"]})
        >>> sale = pd.DataFrame({"shop": ["b", "b", "c"], "price": [1.0, 2.0, 3.0]})
        >>> real = jaxrel.from_pandas({"sale": sale, "shop": shop}, {"shop": "name"}, {"sale": {"shop": "shop"}})
        >>> [table.name for table in real.catalog.tables], str(real.losses[0])
        (['shop', 'sale'], 'sale.shop: 1 keys to no row, now null')
        >>> jaxrel.to_arrow(real.database, real.catalog)["sale"]["shop"].to_pylist()
        [1, 1, None]
    """
    import pandas as pd

    primary, foreign, times = primary_keys or {}, foreign_keys or {}, time_columns or {}
    for argument, given in (("primary_keys", primary), ("foreign_keys", foreign), ("time_columns", times)):
        for name in given:
            if name not in tables:
                raise UserError(f"{argument}: there is no table {name!r}; the tables are {', '.join(map(str, tables))}")
    arrow, keys = {}, {}
    for name, frame in tables.items():
        if not isinstance(frame, pd.DataFrame):
            raise UserError(f"tables: {name} is a {type(frame).__name__}; give a pandas.DataFrame")
        leads = foreign.get(name, {})
        if not isinstance(leads, Mapping):
            raise UserError(f"foreign_keys: those of {name} are {leads!r}; give a mapping of columns to the tables they lead to")
        arrow[str(name)] = _from_frame(str(name), frame)
        parents = tuple((_names(columns), str(parent)) for columns, parent in leads.items())
        keys[str(name)] = Keys(_names(primary.get(name, ())), parents, str(times[name]) if name in times else None)
    return _read(arrow, keys, {}, capacity, labels)


def from_relbench(folder: str | os.PathLike[str], *, capacity: Capacity | None = None, labels: int = LABELS) -> Real:
    """Read a database in the RelBench format: what `jaxrel generate` writes, or anyone's ``db/*.parquet``.

    Args:
        folder: of one database. Keys and times are taken from its ``manifest.yaml``; without one, from the metadata of the
            Parquet files (RelBench 1) or from ``jaxrel.json`` (``--format plain``). Tasks are not read.
        capacity: what to pad to; None: the smallest that holds the database.
        labels: most labels of a column of text.

    Returns:
        A `Real`; categories of a generated database keep their codes.

    Raises:
        UserError: if there is no such database, a file cannot be read, or as `from_pandas` does.
    """
    folder = Path(folder)
    files = {path.stem: path for path in sorted((folder / "db").glob("*.parquet"))}
    if not files:
        raise UserError(f"{folder}: there is no db/*.parquet in it; give the folder of one database in the RelBench format")
    with _reading(folder / DIGEST_FILE, "cannot be read", "delete it, or write the database again"):
        about = _about(folder / DIGEST_FILE)
        vocabularies = {
            (name, column): tuple(entry["vocabulary"])
            for name, table in about.items()
            for column, entry in table.get("features", {}).items()
            if "vocabulary" in entry
        }
    specs = _specs(folder, files, about)
    arrow = {}
    for name in specs:
        if name not in files:
            raise UserError(f"{folder}: db/{name}.parquet is missing, which the manifest names; copy the whole folder")
        arrow[name] = _parquet(files[name])
    return _read(arrow, specs, vocabularies, capacity, labels)


@contextlib.contextmanager
def _reading(path: Path, fault: str, remedy: str) -> Iterator[None]:
    """What a file holds in an unforeseen form is one sentence."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError, pa.ArrowException) as error:
        raise UserError(f"{path}: {fault} ({type(error).__name__}: {' '.join(str(error).split())}); {remedy}") from None


def _about(path: Path) -> dict[str, Any]:
    """The tables of a digest, {} where there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8")).get("tables", {})) if path.exists() else {}


def _parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: is no Parquet file that can be read ({error})") from None


def _specs(folder: Path, files: Mapping[str, Path], about: Mapping[str, Any]) -> dict[str, Keys]:
    """The keys of every table, from whichever source the folder has."""
    manifest = folder / "manifest.yaml"
    if manifest.exists():
        with _reading(manifest, "is no manifest of RelBench", "write the dataset again"):
            tables = yaml.safe_load(manifest.read_text(encoding="utf-8"))["tables"]
            return {str(name): _spec(spec["pkey"], spec["fkeys"] or {}, spec["time_col"]) for name, spec in tables.items()}
    if about:
        with _reading(folder / DIGEST_FILE, "does not say the keys", "write the database again"):
            return {
                name: _spec(t["primary_key"], {fk: entry["parent"] for fk, entry in t["foreign_keys"].items()}, t["time_column"])
                for name, t in about.items()
            }
    specs = {}
    for name, path in files.items():
        with _reading(path, "is no Parquet file that can be read", "write it again"):
            metadata = pq.read_schema(path).metadata or {}
        wanted = [key.encode() for key in ("pkey_col", "fkey_col_to_pkey_table", "time_col")]
        if not all(key in metadata for key in wanted):
            raise UserError(f"{folder}: there is no manifest.yaml, and {path.name} does not say its keys; write a manifest")
        with _reading(path, "says its keys in no form of RelBench's", "write a manifest"):
            primary, foreign, time = (json.loads(metadata[key]) for key in wanted)
            specs[name] = _spec(primary, foreign or {}, time)
    return specs


def _spec(primary: str | Sequence[str] | None, foreign: Mapping[str, str], time: str | None) -> Keys:
    texts = [*([primary] if isinstance(primary, str) else primary or []), *foreign, *foreign.values(), "" if time is None else time]
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is no name")
    return Keys(_names(primary or ()), tuple((_names(column), parent) for column, parent in foreign.items()), time)


def _names(columns: Any) -> tuple[str, ...]:
    """The names of one column or of several, as text."""
    return tuple(map(str, columns)) if isinstance(columns, Sequence) and not isinstance(columns, str) else (str(columns),)


def _from_frame(name: str, frame: pd.DataFrame) -> pa.Table:
    """A frame as an Arrow table; objects that Arrow does not know become their text."""
    twice = [column for column, count in Counter(map(str, frame.columns)).items() if count > 1]
    if twice:
        raise UserError(f"table {name}: the column {twice[0]} is there twice; rename one")
    columns = {}
    for column, series in frame.items():
        try:
            array = pa.array(series, from_pandas=True)
        except (pa.ArrowException, OverflowError):  # objects of several types
            array = pa.array([None if x else str(value) for value, x in zip(series, series.isna(), strict=True)], pa.string())
        columns[str(column)] = array
    return pa.table(columns) if columns else pa.table({"": pa.nulls(len(frame))}).select([])


def _read(
    arrow: Mapping[str, pa.Table],
    keys: Mapping[str, Keys],
    vocabularies: Mapping[tuple[str, str], tuple[str, ...]],
    capacity: Capacity | None,
    labels: int,
) -> Real:
    if not arrow:
        raise UserError("tables: there is none; give at least one")
    if labels < 2:
        raise UserError(f"labels: {labels} is too few; give at least 2")
    losses: list[Loss] = []
    _check(arrow, keys)
    tables = [RealTable(name, table, keys[name], [], None, np.arange(table.num_rows), []) for name, table in arrow.items()]
    by_name = {table.name: table for table in tables}
    for table in tables:
        table.parents = _link(table, by_name, losses)
    _break_circles(tables, losses)
    for table in tables:
        _sort_by_time(table, losses)
    for table in tables:
        table.parents = [(columns, p, _renumbered(rows[table.order], by_name[p].order)) for columns, p, rows in table.parents]
    for table in tables:
        taken = {table.keys.time, *(columns[0] for columns, _ in table.keys.foreign if len(columns) == 1)}
        taken |= {*table.keys.primary} if len(table.keys.primary) == 1 else set()  # parts of a key are features too
        for column in table.arrow.column_names:
            if column not in taken:
                array = combined(table.arrow[column])
                encoded = encode_column(table.name, column, array, vocabularies.get((table.name, column)), labels, losses)
                if encoded is not None:
                    values, missing = encoded.values[table.order], encoded.missing[table.order]
                    table.columns.append(dataclasses.replace(encoded, values=values, missing=missing))
    tables = _parents_first(tables)
    capacity = least_capacity(tables, capacity)
    return Real(
        database=lay_out(tables, capacity),
        catalog=Catalog(tuple(_words(table, tables) for table in tables)),
        capacity=capacity,
        order={table.name: table.order for table in tables},
        losses=tuple(losses),
    )


def _check(arrow: Mapping[str, pa.Table], keys: Mapping[str, Keys]) -> None:
    """Every table and column that a key names is there."""
    for name, spec in keys.items():
        there = arrow[name].column_names
        times = () if spec.time is None else (spec.time,)
        for column in (*spec.primary, *times, *(column for columns, _ in spec.foreign for column in columns)):
            if column not in there:
                raise UserError(f"table {name}: there is no column {column!r} for its keys; it has {', '.join(there) or 'none'}")
        for columns, parent in spec.foreign:
            key = f"table {name}: the foreign key {', '.join(columns)}"
            if parent not in arrow:
                raise UserError(f"{key} leads to a table {parent!r}, which is not there; the tables are {', '.join(arrow)}")
            if not keys[parent].primary:
                raise UserError(f"{key} leads to {parent}, which has no primary key; name its column")
            if len(keys[parent].primary) != len(columns):
                raise UserError(f"{key} has {len(columns)} columns, but that of {parent} has {len(keys[parent].primary)}; name as many")
            if spec.time in columns and len(columns) == 1:
                raise UserError(f"{key} is its time column too; leave it out of one of them")
        if spec.primary:
            codes = key_codes([combined(arrow[name][column]) for column in spec.primary])
            what = f"table {name}: the primary key {', '.join(spec.primary)}"
            if (codes < 0).any():
                raise UserError(f"{what} is missing in {int((codes < 0).sum())} rows; fill it in, or name another key")
            repeated = codes.size - np.unique(codes).size
            if repeated:
                raise UserError(f"{what} repeats a value in {repeated} rows; drop them, or name more columns")


def _link(table: RealTable, by_name: Mapping[str, RealTable], losses: list[Loss]) -> list[tuple[tuple[str, ...], str, np.ndarray]]:
    """The parent row of each row, by key, in the order in which rows were given."""
    links = []
    for columns, parent in table.keys.foreign:
        key, n = ", ".join(columns), table.arrow.num_rows
        ours = [combined(table.arrow[column]) for column in columns]
        theirs = [combined(by_name[parent].arrow[column]) for column in by_name[parent].keys.primary]
        for a, b, column in zip(ours, theirs, columns, strict=True):
            if n and len(b) and not comparable_types(a.type, b.type):
                raise UserError(f"table {table.name}: {column} holds {a.type}, but the key of {parent} is {b.type}; give both one type")
        theirs = [b if len(b) else a.slice(0, 0) for a, b in zip(ours, theirs, strict=True)]  # none to compare with: all are lost
        ours = [a if n and not pa.types.is_null(a.type) else pa.nulls(n, b.type) for a, b in zip(ours, theirs, strict=True)]
        codes = key_codes(ours, theirs)
        row = np.full(codes.max(initial=-1) + 2, NO_ROW, np.int64)  # by code; of null, which is code -1, the last entry
        row[codes[n:]] = np.arange(codes.size - n)
        row[-1] = NO_ROW
        found = row[codes[:n]]
        lost = int(((found == NO_ROW) & (codes[:n] >= 0)).sum())
        if lost:
            losses.append(Loss(table.name, key, lost, "keys to no row, now null"))
        links.append((columns, parent, found))
    return links


def _break_circles(tables: Sequence[RealTable], losses: list[Loss]) -> None:
    """Leave out keys until no table descends from itself; keys of a table to itself may stay."""
    import networkx as nx

    while True:
        graph = nx.DiGraph((p, table.name) for table in tables for _, p, _ in table.parents if p != table.name)
        circle = next((part for part in nx.strongly_connected_components(graph) if len(part) > 1), None)
        if circle is None:
            return
        inside = [
            (int((rows != NO_ROW).sum()), -i, -k)
            for i, table in enumerate(tables)
            for k, (_, p, rows) in enumerate(table.parents)
            if table.name in circle and p in circle and p != table.name
        ]
        links, i, k = min(inside)
        columns, parent, _ = tables[-i].parents.pop(-k)
        names = " and ".join(sorted(circle))
        losses.append(Loss(tables[-i].name, ", ".join(columns), links, f"keys to {parent} left out, since {names} refer to each other"))


def _sort_by_time(table: RealTable, losses: list[Loss]) -> None:
    if table.keys.time is None:
        return
    array, name = combined(table.arrow[table.keys.time]), table.keys.time
    seconds, null, split = to_seconds(array, f"table {table.name}: the time column {name}")
    if split:
        losses.append(Loss(table.name, name, split, "times cut down to whole seconds"))
    if null.any():
        losses.append(Loss(table.name, name, int(null.sum()), "times missing; these rows come last and are never visible"))
    least, most = -(2**31), NO_TIME - 1
    outside = ((seconds < least) | (seconds > most)) & ~null
    if outside.any():
        losses.append(Loss(table.name, name, int(outside.sum()), "times before 1901 or after 2038, moved to the nearest that can be held"))
    table.time = np.where(null, NO_TIME, np.clip(seconds, least, most))
    table.order = np.argsort(table.time, kind="stable")
    table.time = table.time[table.order]


def _renumbered(rows: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rows of a table that is sorted by ``order``."""
    place = np.full(order.size + 1, NO_ROW, np.int64)  # NO_ROW, the last entry, stays
    place[order] = np.arange(order.size)
    return place[rows]


def _parents_first(tables: Sequence[RealTable]) -> list[RealTable]:
    """Referenced tables in topological order, then those that no other refers to; else as they were given."""
    referenced = {p for table in tables for _, p, _ in table.parents if p != table.name}
    waiting, out = list(tables), list[RealTable]()
    while waiting:
        names = {table.name for table in waiting}
        ready = [table for table in waiting if not any(p in names and p != table.name for _, p, _ in table.parents)]
        out.append(ready[0])
        waiting.remove(ready[0])
    return [table for table in out if table.name in referenced] + [table for table in out if table.name not in referenced]


def _words(table: RealTable, tables: Sequence[RealTable]) -> TableWords:
    primary = {other.name: other.keys.primary for other in tables}
    single = {columns[0] for columns, _, _ in table.parents if len(columns) == 1}
    taken = {*table.arrow.column_names}
    name: str | None = None
    if table.keys.primary:
        alone = len(table.keys.primary) == 1 and table.keys.primary[0] not in {*single, table.keys.time}
        name = table.keys.primary[0] if alone else unused_name(f"{table.name}_id", taken)
        taken.add(name)
    keys = []
    for columns, parent, rows in table.parents:
        assert primary[parent]
        key = columns[0] if len(columns) == 1 else unused_name(f"{parent}_id", taken)
        taken.add(key)
        keys.append(ForeignKeyWords(key, parent, bool((rows == NO_ROW).any())))
    features = tuple(column.words for column in table.columns)
    return TableWords(table.name, name, time_column=table.keys.time, columns=features, foreign_keys=tuple(keys))
