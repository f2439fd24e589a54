"""Databases on disk: the RelBench format, and plain Parquet that holds exactly what SQL declared."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from jaxrel._version import __version__
from jaxrel.catalog import Catalog, TableWords
from jaxrel.causal import describe_graph
from jaxrel.convert import Converter, TableRows, key_laws, key_text_column, table_rows, words_of
from jaxrel.diagram import Box, draw
from jaxrel.errors import UserError
from jaxrel.files import atomic_folder, json_lines, write_digest
from jaxrel.random import STREAM_VERSION
from jaxrel.splits import DAY, split_days
from jaxrel.tasks import Task
from jaxrel.types import MAX_FOREIGN_KEYS, NO_TIME, Database, Kind, NodeKind

__all__ = ["write_plain", "write_relbench"]

_GROUP = 1 << 20  # rows of a row group
_BATCH = 1 << 16  # values that are encoded at a time: of pyarrow's 1,024, each batch's overhead is a twentieth of the writer's time
_SAMPLE = 1 << 20  # rows of a table that its columns' statistics are taken from, most
_YAML = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's writes the same, ten times faster
_NO_TIME = ("2000-01-01", "2001-01-01")  # both clients want two dates, also where no table has a time; nothing is cut by them


def write_relbench(
    db: Database,
    folder: str | os.PathLike[str],
    catalog: Catalog | None = None,
    *,
    digest: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    rows: Iterable[TableRows] | None = None,
    tasks: Sequence[Task] = (),
) -> Path:
    """Write a database as a RelBench dataset, whole or not at all.

    Args:
        db: one database, without a batch axis.
        folder: to be made; its name becomes the dataset's name.
        catalog: its words; None stands for `Catalog.default`.
        digest: what the database was made from, kept in ``jaxrel.json``; JSON values only.
        overwrite: replace an existing folder.
        rows: of a database that is computed in passing, its rows table by table, each from its first row on; ``db`` needs no cells then.
        tasks: of the database, to be written as `jaxrel.benchmark.write_tasks` says.

    Returns:
        The folder.

    Raises:
        UserError: if the database does not fit its capacity or the format, or the folder cannot be written.
    """
    folder = Path(folder)
    catalog, name = _check(db, folder, catalog), Path(os.path.abspath(folder)).name
    if "synthetic" in name.lower():
        raise UserError(f"{folder}: relational transformers skip datasets whose name contains 'synthetic'; choose another folder name")
    for words in catalog.tables:
        if len(words.foreign_keys) > MAX_FOREIGN_KEYS:
            raise UserError(
                f"table {words.name}: {len(words.foreign_keys)} foreign keys, but RelBench's clients take {MAX_FOREIGN_KEYS}; "
                "drop some, or write it plain (--format plain)"
            )
    keys = {
        words.name: {
            "pkey": words.primary_key,
            "time_col": words.time_column,
            "fkeys": {fk.name: fk.parent for fk in words.foreign_keys},
        }
        for words in catalog.tables
    }
    names = {"fkey_col_to_pkey_table": "fkeys", "pkey_col": "pkey", "time_col": "time_col"}  # what RelBench 1 reads in every file
    metadata = {table: {name: json.dumps(spec[ours]) for name, ours in names.items()} for table, spec in keys.items()}
    with atomic_folder(folder, overwrite) as target:
        tables = _write_tables(target / "db", db, rows, catalog, False, metadata)
        val, test = _cuts(tables)
        total = sum(table.rows for table in tables.values())
        manifest = {
            "name": name,
            "manifest_version": 1,
            "description": f"Generated relational database: {len(tables)} tables, {total} rows (jaxrel {__version__}).",
            "val_timestamp": val,
            "test_timestamp": test,
            "tables": keys,
        }
        _write_text(target / "manifest.yaml", yaml.dump(manifest, Dumper=_YAML, sort_keys=False, width=4096))
        _write_text(target / "scores.json", json_lines(_scores(db, catalog, tables)))
        _write_text(target / "schema.svg", draw(_boxes(catalog, tables)))
        asked: dict[str, str] = {}
        if tasks:
            from jaxrel.benchmark import write_tasks  # DuckDB loads only when labels are asked for

            asked = write_tasks(target, tasks, db, catalog)
        _write_text(target / "README.md", _card(name, catalog, tables, digest, asked))
        write_digest(target, dict(digest or {}), _provenance(db, catalog, tables, "relbench"))
    return folder


def write_plain(
    db: Database,
    folder: str | os.PathLike[str],
    catalog: Catalog | None = None,
    *,
    digest: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    rows: Iterable[TableRows] | None = None,
) -> Path:
    """Write a database as Parquet with exactly the declared columns, types and natural keys, and the SQL beside it.

    Args:
        db: one database, without a batch axis.
        folder: to be made.
        catalog: its words, as `read_sql` returns them; None stands for `Catalog.default`.
        digest: what the database was made from, kept in ``jaxrel.json``; JSON values only.
        overwrite: replace an existing folder.
        rows: of a database that is computed in passing, its rows table by table, each from its first row on; ``db`` needs no cells then.

    Returns:
        The folder.

    Raises:
        UserError: if the database does not fit its capacity, or the folder cannot be written.
    """
    folder = Path(folder)
    catalog = _check(db, folder, catalog)
    with atomic_folder(folder, overwrite) as target:
        tables = _write_tables(target / "db", db, rows, catalog, bool(catalog.sql), {})
        if catalog.sql:
            _write_text(target / "schema.sql", catalog.sql)
        write_digest(target, dict(digest or {}), _provenance(db, catalog, tables, "plain"))
    return folder


def _check(db: Database, folder: Path, catalog: Catalog | None) -> Catalog:
    catalog = words_of(db, catalog)
    if not bool(db.fits):
        raise UserError(f"{folder}: the database does not fit its capacity; raise the capacity's rows, columns, nodes or edges")
    return catalog


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


@dataclasses.dataclass(frozen=True)
class _Written:
    """What is known of a table whose file is written."""

    rows: int
    schema: pa.Schema
    sample: pa.Table  # every row of a table of up to _SAMPLE rows, else as many at equal distances
    time: tuple[int, int] | None  # of the first and the last row, where they have one


def _write_tables(
    folder: Path, db: Database, rows: Iterable[TableRows] | None, catalog: Catalog, plain: bool, metadata: Mapping[str, Mapping[str, str]]
) -> dict[str, _Written]:
    """Write every table's file as its rows come; by name, what was written."""
    folder.mkdir()
    convert, written = Converter(db.schema, catalog, plain), dict[str, _Written]()
    for t, chunks in itertools.groupby(table_rows(db) if rows is None else rows, lambda chunk: chunk.table):
        words = catalog.tables[t]
        stride = max(-(-int(np.asarray(db.schema.row_count)[t]) // _SAMPLE), 1)
        keys = {words.primary_key, *(fk.name for fk in words.foreign_keys)} - {None}
        with _Parquet(folder / f"{words.name}.parquet", metadata.get(words.name), keys) as file:
            samples, times, count = list[pa.Table](), list[int](), 0
            for chunk in chunks:
                table = convert(chunk)
                file.write(table)
                samples.append(table if stride == 1 else table.take(np.arange(-chunk.first % stride, table.num_rows, stride)))
                known = chunk.time[chunk.time != NO_TIME] if words.time_column is not None else chunk.time[:0]
                times += [int(x) for x in known[[0, -1]]] if known.size else []
                count += table.num_rows
        time = (times[0], times[-1]) if times else None
        written[words.name] = _Written(count, samples[0].schema, pa.concat_tables(samples), time)
    return written


class _Parquet:
    """A Parquet file that grows table by table; how its rows came leaves no trace in it.

    A dictionary for codes and text only: for real numbers it costs three times as much and enlarges the file. Integer keys as differences:
    smaller, and sooner written. Not times or other integers, though they would gain too: fastparquet reads differences of more than 32 bits
    wrongly, and says nothing.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str] | None, keys: Collection[str]) -> None:
        self._path, self._metadata, self._keys = path, metadata, keys
        self._file: pq.ParquetWriter | None = None
        self._waiting, self._count = list[pa.Table](), 0

    def __enter__(self) -> _Parquet:
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows; a row group is written when it is full, at _GROUP rows."""
        if self._file is None:
            schema = table.schema if self._metadata is None else table.schema.with_metadata(self._metadata)
            coded = [f.name for f in schema if pa.types.is_dictionary(f.type) or pa.types.is_string(f.type)]
            numbers = {f.name: "DELTA_BINARY_PACKED" for f in schema if f.name in self._keys and pa.types.is_integer(f.type)}
            how = {"use_dictionary": coded, "column_encoding": numbers, "compression": "snappy", "write_batch_size": _BATCH}
            self._file = pq.ParquetWriter(self._path, schema, **how)
        self._waiting.append(table)
        self._count += table.num_rows
        while self._count >= _GROUP:
            self._write_group(_GROUP)

    def _write_group(self, rows: int) -> None:
        waiting = pa.concat_tables(self._waiting)
        self._waiting, self._count = [waiting.slice(rows)], self._count - rows
        if self._file is not None:
            self._file.write_table(waiting.slice(0, rows).combine_chunks(), _GROUP)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is not None:
            if kind is None and self._count:
                self._write_group(self._count)
            self._file.close()


def _cuts(tables: Mapping[str, _Written]) -> tuple[str, str]:
    """Validation and test day: 80 % and 90 % of the span, strictly inside it and apart."""
    timed = [table.time for table in tables.values() if table.time is not None]
    if not timed:
        return _NO_TIME
    low, high = min(first for first, _ in timed), max(last for _, last in timed)  # rows are in the order of time
    val, test, fine = (int(x[0]) for x in split_days(*(np.asarray([x], np.int32) for x in (low, high))))
    if not fine:
        raise UserError(
            f"the events of this database span {(high - low) // DAY} days, and RelBench needs two midnights strictly between the first "
            "and the last, to cut at; ask for more rows, or write it plain (--format plain)"
        )
    return tuple(str(np.datetime64(day, "D")) for day in (val, test))  # type: ignore[return-value]


def _scores(db: Database, catalog: Catalog, tables: Mapping[str, _Written]) -> dict[str, dict[str, dict[str, Any]]]:
    """Statistics of every feature column, by which a pre-training task is kept or dropped; of long tables, those of `_SAMPLE` rows."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    node, kind = (None, None) if db.scm is None else (np.asarray(db.scm.column_node), np.asarray(db.scm.node_kind))
    for t, words in enumerate(catalog.tables):
        entry = scores[words.name] = {}
        for c, column in enumerate(words.columns):
            source = node is not None and kind is not None and bool(kind[t, node[t, c]] == NodeKind.EXOGENOUS)
            entry[column.name] = {"is_source_node": source, **_statistics(tables[words.name].sample[column.name])}
        text = key_text_column(words)
        if text in tables[words.name].schema.names:
            entry[text] = {"is_source_node": True, **_statistics(tables[words.name].sample[text])}
    return scores


def _statistics(column: pa.ChunkedArray) -> dict[str, Any]:
    """Distinct values, classes, share of the commonest value and standard deviation of what is not missing."""
    array = column.combine_chunks()
    if array.null_count:
        array = array.drop_null()
    coded = pa.types.is_dictionary(array.type) or pa.types.is_boolean(array.type)
    if pa.types.is_string(array.type):
        array = array.dictionary_encode()
    if pa.types.is_dictionary(array.type):
        values = array.indices.to_numpy(zero_copy_only=False)
    elif pa.types.is_boolean(array.type):
        values = array.cast(pa.int8()).to_numpy()
    elif pa.types.is_date(array.type):
        values = array.cast(pa.int32()).to_numpy()
    elif pa.types.is_timestamp(array.type):
        values = array.cast(pa.int64()).to_numpy() / 1e6
    else:
        values = array.to_numpy()
    if not values.size:
        return {"n_unique": 0, "n_classes": 0, "majority_frac": 0.0, "std": 0.0}
    if coded:
        counts = np.bincount(values)
        codes = counts.nonzero()[0]
        distinct, most = codes.size, int(counts.max())
        weight = counts[codes]
        squares = weight * np.square(codes - (weight * codes).sum() / values.size)
    else:
        ordered = np.sort(values)
        new = ordered[1:] != ordered[:-1]
        distinct, most = int(np.count_nonzero(new)) + 1, 1
        if distinct < values.size:
            ends = np.concatenate(((-1,), new.nonzero()[0], (values.size - 1,)))  # of runs of equal values
            most = int((ends[1:] - ends[:-1]).max())
        squares = np.square(values - values.mean(dtype=np.float64))
    return {
        "n_unique": distinct,
        "n_classes": distinct if coded else 0,
        "majority_frac": round(most / values.size, 6),
        "std": float(f"{math.sqrt(squares.sum() / values.size):.6g}"),
    }


def _boxes(catalog: Catalog, tables: Mapping[str, _Written]) -> dict[str, Box]:
    def kind(type: pa.DataType) -> str:
        return "category" if pa.types.is_dictionary(type) else "timestamp" if pa.types.is_timestamp(type) else str(type)

    return {
        words.name: Box(
            rows=tables[words.name].rows,
            columns={field.name: kind(field.type) for field in tables[words.name].schema},
            primary_key=words.primary_key,
            time_column=words.time_column,
            foreign_keys={fk.name: fk.parent for fk in words.foreign_keys},
        )
        for words in catalog.tables
    }


def _card(name: str, catalog: Catalog, tables: Mapping[str, _Written], digest: Mapping[str, Any] | None, tasks: Mapping[str, str]) -> str:
    lines = [f"# {name}", "", f"A relational database generated by jaxrel {__version__}; no real data was used.", ""]
    lines += ["![tables and keys](schema.svg)", ""]
    lines += ["| table | rows | columns | primary key | time | foreign keys |", "|---|---|---|---|---|---|"]
    for words in catalog.tables:
        table = tables[words.name]
        keys = ", ".join(f"`{fk.name}` → `{fk.parent}`" for fk in words.foreign_keys)
        sizes = f"{table.rows} | {len(table.schema.names)}"
        lines.append(f"| `{words.name}` | {sizes} | {words.primary_key or ''} | {words.time_column or ''} | {keys} |")
    if tasks:
        lines += ["", "| task | what it asks |", "|---|---|", *(f"| `{task}` | {text} |" for task, text in tasks.items())]
    lines += ["", "```python", "import relbench", f'database = relbench.load_dataset("{name}").get_db()', "```", ""]
    lines += ["Made from, as `jaxrel.json` records together with the causal graph:", ""] if digest else []
    lines += [f"- {key}: `{value}`" for key, value in (digest or {}).items()]
    return "\n".join(lines).rstrip() + "\n"


def _provenance(db: Database, catalog: Catalog, tables: Mapping[str, _Written], format: str) -> dict[str, Any]:
    """What ``jaxrel.json`` holds beside the digest: versions, the meaning of every column, the causal graph."""
    return {
        "format": format,
        "dialect": catalog.dialect if catalog.sql else "",
        "jaxrel": __version__,
        "stream_version": STREAM_VERSION,
        "schema_key": np.asarray(db.schema.key).tolist(),
        "tables": {w.name: _table_entry(w, of, tables[w.name]) for w, of in zip(catalog.tables, key_laws(db, catalog), strict=True)},
        "causal_graph": None if db.scm is None else describe_graph(db, catalog),
    }


def _table_entry(words: TableWords, laws: list[dict[str, Any]], table: _Written) -> dict[str, Any]:
    columns = {}
    for column in words.columns:
        entry = columns[column.name] = {"kind": Kind(column.kind).name.lower(), "nullable": column.nullable}
        if column.type:
            entry |= {"type": column.type, "unique": column.unique, "low": column.low, "high": column.high}
        if column.vocabulary:
            entry["vocabulary"] = list(column.vocabulary)
    return {
        "rows": table.rows,
        "columns": table.schema.names,
        "primary_key": words.primary_key,
        "time_column": words.time_column,
        "foreign_keys": {
            fk.name: {"parent": fk.parent, "nullable": fk.nullable, **law} for fk, law in zip(words.foreign_keys, laws, strict=True)
        },
        "features": columns,
    }
