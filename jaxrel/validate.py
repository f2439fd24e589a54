"""Checks of written databases: one line for each thing that does not hold, never a traceback."""

from __future__ import annotations

import json
import keyword
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from jaxrel.errors import UserError
from jaxrel.files import DIGEST_FILE
from jaxrel.types import MAX_FOREIGN_KEYS, Kind

if TYPE_CHECKING:
    from jaxrel.sql_types import SqlType

__all__ = ["databases_in", "validate"]

_MANIFEST = {"name": str, "manifest_version": int, "description": str, "val_timestamp": str, "test_timestamp": str, "tables": dict}
_TABLE = {"pkey", "time_col", "fkeys"}
_TASK = {
    *("name", "kind", "task_type", "description", "entity_table", "entity_col", "target_col", "time_col", "timedelta", "sql"),
    *("src_entity_table", "src_entity_col", "dst_entity_table", "dst_entity_col", "eval_k", "num_eval_timestamps", "remove_columns"),
    "manifest_version",
}
_KINDS = {"forecast", "autocomplete", "external"}
_TASK_TYPES = {"regression", "binary_classification", "multiclass_classification", "multilabel_classification", "recommendation"}
_SCORES = {"is_source_node", "n_unique", "n_classes", "majority_frac", "std"}
_YEARS = np.array(["1902-01-01", "2038-01-01"], "datetime64[us]").astype(np.int64)  # what relational transformers can hold
_DAY = 86_400_000_000  # microseconds
_UUID = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"

Lines = Iterator[str]


def validate(folder: str | os.PathLike[str]) -> list[str]:
    """Check a database, or every database of a folder of databases.

    Args:
        folder: a RelBench dataset, a plain database, or a folder that holds some.

    Returns:
        One line for each thing that does not hold; [] if all does.

    Raises:
        UserError: if there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give one that holds a database")
    databases = databases_in(folder)
    if not databases:
        return ["holds no database"]
    return [line if d == folder else f"{d.name}: {line}" for d in databases for line in _database(d)]


def databases_in(folder: Path) -> list[Path]:
    """The folder itself where it is a database, else the databases inside it, in the order of their names."""

    def is_database(path: Path) -> bool:
        return any((path / name).exists() for name in ("manifest.yaml", DIGEST_FILE, "db"))

    if is_database(folder):
        return [folder]
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".") and is_database(child))


def _database(folder: Path) -> list[str]:
    digest, lines = _load(folder / DIGEST_FILE, json.loads)
    if not (folder / DIGEST_FILE).exists():  # other people's datasets have none
        return list(_guarded(partial(_relbench, folder), "the dataset"))
    if lines:
        return lines
    if not isinstance(digest, dict) or not isinstance(digest.get("digest"), dict) or digest.get("format") not in ("relbench", "plain"):
        return [f"{DIGEST_FILE}: does not say how the database was made"]
    return list(_guarded(partial(_relbench, folder) if digest["format"] == "relbench" else partial(_plain, folder, digest), "the database"))


def _guarded(check: Callable[[], Lines], what: str) -> Lines:
    """Turn anything unforeseen into a line: a validator that fails has found something."""
    try:
        yield from check()
    except Exception as error:
        yield f"{what}: cannot be checked ({_brief(error)})"


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text[:200] + "…" if len(text) > 200 else text) or type(error).__name__


def _load(path: Path, parse: Callable[[str], Any]) -> tuple[Any, list[str]]:
    try:
        return parse(path.read_text(encoding="utf-8")), []
    except FileNotFoundError:
        return None, [f"{path.name}: is missing"]
    except Exception as error:
        return None, [f"{path.name}: cannot be read ({_brief(error)})"]


def _read_tables(folder: Path, names: list[str]) -> tuple[dict[str, pa.Table], list[str]]:
    """The tables that can be read, and a line for each file that cannot, is missing or does not belong there."""
    tables, lines = {}, []
    db = folder / "db"
    for name in names:
        path = db / f"{name}.parquet"
        if not path.is_file():
            lines.append(f"db/{name}.parquet: is missing")
            continue
        try:
            tables[name] = pq.ParquetFile(path).read()
        except Exception as error:
            lines.append(f"db/{name}.parquet: cannot be read ({_brief(error)})")
    wanted = {f"{name}.parquet" for name in names}
    lines += [f"db/{path.name}: belongs to no table" for path in sorted(db.glob("*")) if path.name not in wanted]
    return tables, lines


# RelBench


def _relbench(folder: Path) -> Lines:
    manifest, lines = _load(folder / "manifest.yaml", yaml.safe_load)
    lines = lines or list(_manifest(folder, manifest))
    yield from lines
    if not isinstance(manifest, dict) or not isinstance(manifest.get("tables"), dict):
        return
    specs = {name: spec for name, spec in manifest["tables"].items() if isinstance(name, str) and not list(_spec(name, spec))}
    tables, lines = _read_tables(folder, list(manifest["tables"]))
    yield from lines
    for name in (name for name in tables if name in specs):
        yield from _guarded(partial(_table, name, specs[name], tables), f"db/{name}.parquet")
    yield from _guarded(partial(_timestamps, manifest, specs, tables), "manifest.yaml")
    yield from _guarded(partial(_scores, folder, specs, tables), "scores.json")
    for task in sorted((folder / "tasks").glob("*")):
        lines = list(_guarded(partial(_task, task, specs), f"tasks/{task.name}"))
        yield from lines or _guarded(partial(_labels, folder, task), f"tasks/{task.name}")


def _manifest(folder: Path, manifest: Any) -> Lines:
    """Exactly the known keys: relational transformers stop at an unknown one."""
    if not isinstance(manifest, dict):
        yield "manifest.yaml: is no mapping"
        return
    yield from (f"manifest.yaml: {key!r} is no key of the format" for key in manifest if key not in _MANIFEST)
    for key, kind in _MANIFEST.items():
        if key not in manifest and key != "description":
            yield f"manifest.yaml: {key!r} is missing"
        elif key in manifest and not isinstance(manifest[key], kind):
            yield f"manifest.yaml: {key} is {manifest[key]!r}, not of type {kind.__name__}"
    name = manifest.get("name")
    if name != Path(os.path.abspath(folder)).name:
        yield f"manifest.yaml: name is {name!r}, but the folder is called {Path(os.path.abspath(folder)).name!r}"
    if "synthetic" in str(name).lower():
        yield f"manifest.yaml: name {name!r} contains 'synthetic', and relational transformers skip such datasets"
    if manifest.get("manifest_version", 1) != 1:
        yield f"manifest.yaml: manifest_version is {manifest['manifest_version']!r}, not 1"
    tables = manifest.get("tables")
    if not isinstance(tables, dict):
        return
    for table, spec in tables.items():
        yield from _spec(table, spec)
        if isinstance(spec, dict) and isinstance(spec.get("fkeys"), dict):
            for key, parent in spec["fkeys"].items():
                if not isinstance(tables.get(parent), dict):
                    yield f"manifest.yaml: {table}.{key} refers to {parent!r}, which is no table"
                elif not tables[parent].get("pkey"):
                    yield f"manifest.yaml: {table}.{key} refers to {parent}, which has no primary key"


def _spec(table: Any, spec: Any) -> Lines:
    if not _is_name(table):
        yield f"manifest.yaml: table name {table!r} is no plain identifier"
    if not isinstance(spec, dict):
        yield f"manifest.yaml: table {table} is no mapping"
        return
    yield from (f"manifest.yaml: {key!r} of table {table} is no key of the format" for key in spec if key not in _TABLE)
    yield from (f"manifest.yaml: {key} of table {table} is missing" for key in sorted(_TABLE - set(spec)))
    for key in ("pkey", "time_col"):
        if not isinstance(spec.get(key), str | None):
            yield f"manifest.yaml: {key} of table {table} is {spec[key]!r}, not a column name or null"
    fkeys = spec.get("fkeys", {})
    if not isinstance(fkeys, dict) or not all(isinstance(x, str) for pair in fkeys.items() for x in pair):
        yield f"manifest.yaml: fkeys of table {table} is {fkeys!r}, not a mapping of column names to table names"
    elif len(fkeys) > MAX_FOREIGN_KEYS:
        yield f"manifest.yaml: table {table} has {len(fkeys)} foreign keys, more than {MAX_FOREIGN_KEYS}"


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def _table(name: str, spec: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> Lines:
    """Keys, order and types of one table, and its children's place in time."""
    table, at = tables[name], f"db/{name}.parquet"
    columns = table.column_names
    if len(set(columns)) < len(columns):
        yield f"{at}: has two columns of one name"
        return
    named = [spec["pkey"], spec["time_col"], *spec["fkeys"]]
    missing = [column for column in named if column is not None and column not in columns]
    yield from (f"{at}: column {column}, which the manifest names, is missing" for column in missing)
    for column in columns:
        if not _is_name(column) or (column == "identifier" and column not in named):
            yield f"{at}: column name {column!r} is not allowed; use a plain identifier other than 'identifier'"
        if column not in named:
            yield from _feature(f"{at}: {column}", table[column])
    if (key := spec["pkey"]) is not None and key not in missing:
        if not pa.types.is_integer(table[key].type):
            yield f"{at}: primary key {key} is of type {table[key].type}, not an integer"
        elif table[key].null_count:
            yield f"{at}: primary key {key} has {table[key].null_count} nulls"
        elif (wrong := np.flatnonzero(table[key].to_numpy() != np.arange(table.num_rows))).size:
            row = int(wrong[0])
            yield f"{at}: primary key {key} does not run from 0 to n - 1: row {row} has {table[key][row]} ({wrong.size} rows)"
    for column, parent in spec["fkeys"].items():
        if column not in missing and parent in tables:
            yield from _foreign_key(f"{at}: foreign key {column}", table[column], tables[parent].num_rows, parent)
    if (column := spec["time_col"]) is not None and column not in missing:
        yield from _time(f"{at}: time column {column}", table[column])


def _feature(at: str, column: pa.ChunkedArray) -> Lines:
    kind = column.type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = pa.types.is_string(value) or pa.types.is_large_string(value)
    plain = [pa.types.is_boolean, pa.types.is_integer, pa.types.is_float32, pa.types.is_float64, pa.types.is_timestamp, pa.types.is_date]
    if not text and (value != kind or not any(test(kind) for test in [*plain, pa.types.is_duration])):
        yield f"{at} is of type {kind}, which the clients cannot read"
    if pa.types.is_floating(kind) and (infinite := pc.sum(pc.is_inf(column)).as_py()):
        yield f"{at} has {infinite} infinite values"


def _foreign_key(at: str, column: pa.ChunkedArray, parents: int, parent: str) -> Lines:
    if not pa.types.is_integer(column.type):
        yield f"{at} is of type {column.type}, not an integer"
        return
    values = column.drop_null().to_numpy()
    if (dangling := np.count_nonzero((values < 0) | (values >= parents))) > 0:
        yield f"{at} has {dangling} values that are no row of {parent}, which has {parents} rows"


def _time(at: str, column: pa.ChunkedArray) -> Lines:
    if not pa.types.is_timestamp(column.type) or column.type.tz is not None:
        yield f"{at} is of type {column.type}, not a timestamp without time zone"
        return
    valid, time = _microseconds(column)
    if not valid[: np.count_nonzero(valid)].all():
        yield f"{at} has missing times before others"
    time = time[valid]
    if (steps := np.flatnonzero(np.diff(time) < 0)).size:
        yield f"{at} is not sorted: row {int(steps[0]) + 1} is earlier than the row before it ({steps.size} times)"
    if time.size and (time.min() < _YEARS[0] or time.max() >= _YEARS[1]):
        yield f"{at} has years outside 1902–2037"


def _microseconds(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Which times are there, bool[n], and all of them, i64[n]; 0 where missing."""
    time = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    return column.is_valid().to_numpy(), time.fill_null(0).to_numpy()


def _timestamps(manifest: Mapping[str, Any], specs: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> Lines:
    """Cuts strictly inside the events, and no child before its parent."""
    cuts = [manifest.get(key) for key in ("val_timestamp", "test_timestamp")]
    days = []
    for key, value in zip(("val_timestamp", "test_timestamp"), cuts, strict=True):
        if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
            yield f"manifest.yaml: {key} is {value!r}, not exactly YYYY-MM-DD"
        else:
            days.append(int(np.datetime64(value, "D").astype(np.int64)) * _DAY)
    times = {}
    for name, spec in specs.items():
        column = spec["time_col"]
        if column is not None and name in tables and column in tables[name].column_names:
            if pa.types.is_timestamp(tables[name][column].type):
                times[name] = _microseconds(tables[name][column])
    present = [time[valid] for valid, time in times.values() if valid.any()]
    if len(days) == 2 and days[0] >= days[1]:
        yield f"manifest.yaml: val_timestamp {cuts[0]} is not before test_timestamp {cuts[1]}"
    elif len(days) == 2 and present and all(spec["time_col"] is None or name in times for name, spec in specs.items()):
        first, last = min(time.min() for time in present), max(time.max() for time in present)
        if not first < days[0] or not days[1] < last:
            span = " … ".join(str(np.datetime64(int(t), "us").astype("datetime64[s]")) for t in (first, last))
            yield f"manifest.yaml: val_timestamp {cuts[0]} and test_timestamp {cuts[1]} do not lie inside the events, {span}"
    for name, spec in specs.items():
        for column, parent in spec["fkeys"].items():
            if name in times and parent in times and column in tables[name].column_names and pa.types.is_integer(tables[name][column].type):
                (valid, time), (parent_valid, parent_time) = times[name], times[parent]
                row = tables[name][column].cast(pa.int64()).fill_null(-1).to_numpy()
                linked = valid & (row >= 0) & (row < len(parent_time))
                linked[linked] &= parent_valid[row[linked]]
                if (early := np.count_nonzero(time[linked] < parent_time[row[linked]])) > 0:
                    yield f"db/{name}.parquet: {early} rows are older than the row of {parent} that {column} refers to"


def _scores(folder: Path, specs: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> Lines:
    scores, lines = _load(folder / "scores.json", json.loads)
    yield from lines
    if lines:
        return
    for name, entries in scores.items():
        if name not in specs:
            yield f"scores.json: {name} is no table"
        for column, entry in entries.items() if name in tables else ():
            if column not in tables[name].column_names:
                yield f"scores.json: {name}.{column} is no column"
            elif set(entry) != _SCORES:
                yield f"scores.json: {name}.{column} has the entries {', '.join(sorted(entry))} instead of {', '.join(sorted(_SCORES))}"


def _task(folder: Path, specs: Mapping[str, Any]) -> Lines:
    """One task's manifest and labels."""
    at = f"tasks/{folder.name}"
    task, lines = _load(folder / "manifest.yaml", yaml.safe_load)
    yield from (f"{at}/{line}" for line in lines)
    if lines:
        return
    yield from (f"{at}/manifest.yaml: {key!r} is no key of the format" for key in task if key not in _TASK)
    if task.get("name") != folder.name or folder.name in specs:
        yield f"{at}/manifest.yaml: name is {task.get('name')!r}; it must be the folder's name and no table's"
    if task.get("kind") not in _KINDS or task.get("task_type") not in _TASK_TYPES:
        yield f"{at}/manifest.yaml: kind {task.get('kind')!r} or task_type {task.get('task_type')!r} is unknown"
    for key in ("entity_table", "src_entity_table", "dst_entity_table"):
        if task.get(key) is not None and task[key] not in specs:
            yield f"{at}/manifest.yaml: {key} {task[key]!r} is no table"
    if task.get("kind") == "forecast":
        required = ["entity_table", "entity_col", "target_col", "time_col", "timedelta", "sql"]
        if task.get("task_type") == "recommendation":
            required = ["src_entity_table", "src_entity_col", "dst_entity_table", "dst_entity_col", "eval_k", "timedelta", "sql"]
        yield from (f"{at}/manifest.yaml: {key} is missing" for key in required if not task.get(key))
    labels = {}
    for split in ("train", "val", "test"):
        if (path := folder / f"{split}.parquet").exists():
            try:
                labels[split] = pq.ParquetFile(path).read()
            except Exception as error:
                yield f"{at}/{split}.parquet: cannot be read ({_brief(error)})"
    if labels and "train" not in labels:
        yield f"{at}: has labels, but none to train on"
    if len({tuple(table.column_names) for table in labels.values()}) > 1:
        yield f"{at}: the columns of its splits differ"
    order = [task.get("time_col"), task.get("entity_col") or task.get("src_entity_col")]
    for split, table in labels.items():
        if all(column in table.column_names for column in order):
            index = pc.sort_indices(table, sort_keys=[(column, "ascending") for column in order])
            if not table.select(order).take(index).equals(table.select(order)):
                yield f"{at}/{split}.parquet: is not sorted by {order[0]}, {order[1]}"


def _labels(folder: Path, task: Path) -> Lines:
    """The labels that are stored are those of the database. Other people's tasks may need what only RelBench gives them."""
    manifest = yaml.safe_load((task / "manifest.yaml").read_text(encoding="utf-8"))
    if manifest["kind"] == "external" or not (folder / DIGEST_FILE).exists():
        return
    from jaxrel.benchmark import SPLITS, regenerate_labels  # DuckDB loads only where there are tasks

    try:
        again = regenerate_labels(folder, manifest)
    except Exception as error:
        yield f"tasks/{task.name}: labels cannot be regenerated ({_brief(error)})"
        return
    for split in SPLITS:
        path = task / f"{split}.parquet"
        if not path.exists():
            yield f"tasks/{task.name}/{split}.parquet: is missing"
        elif pq.ParquetFile(path).read().to_pydict() != again[split].to_pydict():
            yield f"tasks/{task.name}/{split}.parquet: has other labels than the database says"


# plain


def _plain(folder: Path, digest: Mapping[str, Any]) -> Lines:
    """The declared columns, keys, bounds and labels, as ``jaxrel.json`` records them."""
    declared = digest["tables"]
    tables, lines = _read_tables(folder, list(declared))
    yield from lines
    for name in tables:
        yield from _guarded(partial(_plain_table, f"db/{name}.parquet", declared, name, tables), f"db/{name}.parquet")
    if digest.get("dialect"):
        yield from _guarded(partial(_sql, folder / "schema.sql", digest["dialect"], tables), "schema.sql")


def _sql(path: Path, dialect: str, tables: Mapping[str, pa.Table]) -> Lines:
    """What the SQL says and ``jaxrel.json`` does not: types, lengths, NOT NULL of keys."""
    from jaxrel.sql_parse import parse_sql  # the parser loads slowly

    for decl in parse_sql(path.read_text(encoding="utf-8"), dialect):
        at, table = f"db/{decl.name}.parquet", tables.get(decl.name)
        if table is None:
            continue  # a file that is missing has its line already
        names = [column.name for column in decl.columns.values()]
        if names != table.column_names:
            yield f"{at}: has the columns {', '.join(table.column_names)}, but schema.sql declares {', '.join(names)}"
            continue
        for column in decl.columns.values():
            yield from _declared_type(f"{at}: {column.name}", column.type, table[column.name])
            if column.not_null and table[column.name].null_count:
                yield f"{at}: {column.name} is NOT NULL in schema.sql and has {table[column.name].null_count} nulls"


def _declared_type(at: str, declared: SqlType, column: pa.ChunkedArray) -> Lines:
    values = _decoded(column)
    tests = {
        Kind.INTEGER: pa.types.is_integer,
        Kind.BOOLEAN: pa.types.is_boolean,
        Kind.DATE: pa.types.is_date,
        Kind.TIMESTAMP: pa.types.is_timestamp,
        Kind.NUMERIC: lambda kind: pa.types.is_floating(kind) or pa.types.is_decimal(kind),
    }
    if not tests.get(declared.kind, pa.types.is_string)(values.type):
        yield f"{at} is declared {declared.name} and holds {values.type}"
    elif declared.kind == Kind.UUID:
        if (wrong := len(values) - values.null_count - (pc.sum(pc.match_substring_regex(values, _UUID)).as_py() or 0)) > 0:
            yield f"{at} has {wrong} values that are no uuid"
    elif declared.length is not None and (longest := pc.max(pc.utf8_length(values)).as_py() or 0) > declared.length:
        yield f"{at} is declared {declared.name} and has a value of {longest} characters"


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _plain_table(at: str, declared: Mapping[str, Any], name: str, tables: Mapping[str, pa.Table]) -> Lines:
    table, words = tables[name], declared[name]
    if table.column_names != words["columns"]:
        yield f"{at}: has the columns {', '.join(table.column_names)} instead of {', '.join(words['columns'])}"
        return
    if table.num_rows != words["rows"]:
        yield f"{at}: has {table.num_rows} rows instead of {words['rows']}"
    required = [words["primary_key"], words["time_column"], *(c for c, fk in words["foreign_keys"].items() if not fk["nullable"])]
    required += [column for column, entry in words["features"].items() if not entry["nullable"]]
    for column in required:
        if column is not None and table[column].null_count:
            yield f"{at}: {column} is declared NOT NULL and has {table[column].null_count} nulls"
    unique = [words["primary_key"], *(column for column, entry in words["features"].items() if entry.get("unique"))]
    for column in unique:
        if column is not None:
            values = _decoded(table[column]).drop_null()
            if (repeated := len(values) - pc.count_distinct(values).as_py()) > 0:
                yield f"{at}: {column} is declared unique and repeats {repeated} values"
    for column, fk in words["foreign_keys"].items():
        parent, key = fk["parent"], declared[fk["parent"]]["primary_key"]
        if parent in tables and key in tables[parent].column_names:
            found = pc.is_in(table[column].drop_null(), value_set=tables[parent][key].combine_chunks())
            if (dangling := len(found) - pc.sum(found, min_count=0).as_py()) > 0:
                yield f"{at}: foreign key {column} has {dangling} values that are no {key} of {parent}"
        counts = pc.value_counts(table[column].drop_null())
        if "most" in fk and (worst := pc.max(counts.field("counts")).as_py() or 0) > fk["most"]:
            yield f"{at}: foreign key {column} gives one {parent} {worst} rows instead of {fk['most']} at most"
        members = fk.get("unique", [])
        if members[:1] == [column] and len(members) > 1:
            sets = table.select(members).drop_null()
            if (repeated := sets.num_rows - sets.group_by(members).aggregate([]).num_rows) > 0:
                yield f"{at}: {', '.join(members)} are declared unique together and repeat {repeated} times"
    for column, entry in words["features"].items():
        values = table[column].drop_null()
        if pa.types.is_floating(values.type) and (infinite := pc.sum(pc.is_inf(values)).as_py()):
            yield f"{at}: {column} has {infinite} infinite values"
        if entry.get("vocabulary") and not pa.types.is_boolean(values.type):
            labels = pc.unique(values.cast(pa.string())).to_pylist()
            yield from (f"{at}: {column} has the undeclared value {label!r}" for label in sorted(set(labels) - set(entry["vocabulary"])))
        yield from _bounds(f"{at}: {column}", values, entry.get("low"), entry.get("high"))


def _bounds(at: str, values: pa.ChunkedArray, low: float | None, high: float | None) -> Lines:
    if len(values) == 0 or pa.types.is_string(values.type) or pa.types.is_dictionary(values.type) or (low is None and high is None):
        return
    if pa.types.is_timestamp(values.type):
        values = pc.divide(values.cast(pa.timestamp("us")).cast(pa.int64()), 1e6)
    elif pa.types.is_date(values.type):
        values = values.cast(pa.date32()).cast(pa.int32())
    elif pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())  # exact decimals against a bound in binary would differ by a rounding
    limits = pc.min_max(values).as_py()
    if low is not None and limits["min"] < low or high is not None and limits["max"] > high:
        yield f"{at} goes from {limits['min']} to {limits['max']}, outside the declared {low} … {high}"
