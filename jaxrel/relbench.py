"""Databases on disk: the RelBench format, and plain Parquet that holds exactly what SQL declared."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from jaxrel._version import __version__
from jaxrel.catalog import Catalog, TableWords
from jaxrel.causal import describe_graph
from jaxrel.convert import key_laws, key_text_column, to_arrow, words_of
from jaxrel.diagram import Box, draw
from jaxrel.errors import UserError
from jaxrel.files import atomic_folder, write_digest
from jaxrel.random import STREAM_VERSION
from jaxrel.types import MAX_FOREIGN_KEYS, Database, Kind, NodeKind

__all__ = ["write_plain", "write_relbench"]

_DAY = 86_400
_NO_TIME = ("2000-01-01", "2001-01-01")  # both clients want two dates, also where no table has a time; nothing is cut by them


def write_relbench(
    db: Database,
    folder: str | os.PathLike[str],
    catalog: Catalog | None = None,
    *,
    digest: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a database as a RelBench dataset, whole or not at all.

    Args:
        db: one database, without a batch axis.
        folder: to be made; its name becomes the dataset's name.
        catalog: its words; None stands for `Catalog.default`.
        digest: what the database was made from, kept in ``jaxrel.json``; JSON values only.
        overwrite: replace an existing folder.

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
    val, test = _cuts(db, catalog)
    tables = to_arrow(db, catalog, surrogate=True)
    keys = {
        words.name: {
            "pkey": words.primary_key,
            "time_col": words.time_column,
            "fkeys": {fk.name: fk.parent for fk in words.foreign_keys},
        }
        for words in catalog.tables
    }
    rows = sum(table.num_rows for table in tables.values())
    manifest = {
        "name": name,
        "manifest_version": 1,
        "description": f"Generated relational database: {len(tables)} tables, {rows} rows (jaxrel {__version__}).",
        "val_timestamp": val,
        "test_timestamp": test,
        "tables": keys,
    }
    with atomic_folder(folder, overwrite) as target:
        (target / "db").mkdir()
        for table_name, table in tables.items():
            spec = keys[table_name]
            metadata = {"fkey_col_to_pkey_table": spec["fkeys"], "pkey_col": spec["pkey"], "time_col": spec["time_col"]}
            table = table.replace_schema_metadata({k: json.dumps(v) for k, v in metadata.items()})  # what RelBench 1 reads
            _write_table(table, target / "db" / f"{table_name}.parquet")
        _write_text(target / "manifest.yaml", yaml.safe_dump(manifest, sort_keys=False, width=4096))
        _write_text(target / "scores.json", json.dumps(_scores(db, catalog, tables), indent=1) + "\n")
        _write_text(target / "README.md", _card(name, catalog, tables, digest))
        _write_text(target / "schema.svg", draw(_boxes(catalog, tables)))
        write_digest(target, dict(digest or {}), _provenance(db, catalog, tables, "relbench"))
    return folder


def write_plain(
    db: Database,
    folder: str | os.PathLike[str],
    catalog: Catalog | None = None,
    *,
    digest: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a database as Parquet with exactly the declared columns, types and natural keys, and the SQL beside it.

    Args:
        db: one database, without a batch axis.
        folder: to be made.
        catalog: its words, as `read_sql` returns them; None stands for `Catalog.default`.
        digest: what the database was made from, kept in ``jaxrel.json``; JSON values only.
        overwrite: replace an existing folder.

    Returns:
        The folder.

    Raises:
        UserError: if the database does not fit its capacity, or the folder cannot be written.
    """
    folder = Path(folder)
    catalog = _check(db, folder, catalog)
    tables = to_arrow(db, catalog)
    with atomic_folder(folder, overwrite) as target:
        (target / "db").mkdir()
        for table_name, table in tables.items():
            _write_table(table, target / "db" / f"{table_name}.parquet")
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


def _write_table(table: pa.Table, path: Path) -> None:
    """Parquet: a dictionary for codes and text only; for real numbers it costs three times as much and enlarges the file."""
    coded = [f.name for f in table.schema if pa.types.is_dictionary(f.type) or pa.types.is_string(f.type)]
    pq.write_table(table, path, use_dictionary=coded, compression="snappy")


def _cuts(db: Database, catalog: Catalog) -> tuple[str, str]:
    """Validation and test day: 80 % and 90 % of the span, strictly inside it and apart."""
    time, offset, count = (np.asarray(x) for x in (db.time, db.schema.row_offset, db.schema.row_count))
    timed = [t for t, words in enumerate(catalog.tables) if words.time_column is not None and count[t]]
    if not timed:
        return _NO_TIME
    low = min(int(time[offset[t]]) for t in timed)  # rows are in the order of time
    high = max(int(time[offset[t] + count[t] - 1]) for t in timed)
    last = -(-high // _DAY) - 1  # the last midnight before the last event
    test = min((low + (high - low) * 9 // 10) // _DAY, last)
    val = min((low + (high - low) * 8 // 10) // _DAY, test - 1)
    if val * _DAY <= low:
        raise UserError(
            f"the events of this database span {(high - low) // _DAY} days, and RelBench needs two midnights strictly between the first "
            "and the last, to cut at; ask for more rows, or write it plain (--format plain)"
        )
    return tuple(str(np.datetime64(day, "D")) for day in (val, test))  # type: ignore[return-value]


def _scores(db: Database, catalog: Catalog, tables: Mapping[str, pa.Table]) -> dict[str, dict[str, dict[str, Any]]]:
    """Statistics of every feature column, by which a pre-training task is kept or dropped."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for t, words in enumerate(catalog.tables):
        entry = scores[words.name] = {}
        for c, column in enumerate(words.columns):
            source = False
            if db.scm is not None:
                node = int(np.asarray(db.scm.column_node)[t, c])
                source = bool(np.asarray(db.scm.node_kind)[t, node] == NodeKind.EXOGENOUS)
            entry[column.name] = {"is_source_node": source, **_statistics(tables[words.name][column.name])}
        text = key_text_column(words)
        if text in tables[words.name].column_names:
            entry[text] = {"is_source_node": True, **_statistics(tables[words.name][text])}
    return scores


def _statistics(column: pa.ChunkedArray) -> dict[str, Any]:
    """Distinct values, classes, share of the commonest value and standard deviation of what is not missing."""
    array = column.combine_chunks().drop_null()
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
    ordered = np.sort(values)
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
    distinct, most = starts.size - 1, int(np.diff(starts).max())
    return {
        "n_unique": distinct,
        "n_classes": distinct if coded else 0,
        "majority_frac": round(most / values.size, 6),
        "std": float(f"{values.std(dtype=np.float64):.6g}"),
    }


def _boxes(catalog: Catalog, tables: Mapping[str, pa.Table]) -> dict[str, Box]:
    def kind(type: pa.DataType) -> str:
        return "category" if pa.types.is_dictionary(type) else "timestamp" if pa.types.is_timestamp(type) else str(type)

    return {
        words.name: Box(
            rows=tables[words.name].num_rows,
            columns={field.name: kind(field.type) for field in tables[words.name].schema},
            primary_key=words.primary_key,
            time_column=words.time_column,
            foreign_keys={fk.name: fk.parent for fk in words.foreign_keys},
        )
        for words in catalog.tables
    }


def _card(name: str, catalog: Catalog, tables: Mapping[str, pa.Table], digest: Mapping[str, Any] | None) -> str:
    lines = [f"# {name}", "", f"A relational database generated by jaxrel {__version__}; no real data was used.", ""]
    lines += ["![tables and keys](schema.svg)", ""]
    lines += ["| table | rows | columns | primary key | time | foreign keys |", "|---|---|---|---|---|---|"]
    for words in catalog.tables:
        table = tables[words.name]
        keys = ", ".join(f"`{fk.name}` → `{fk.parent}`" for fk in words.foreign_keys)
        sizes = f"{table.num_rows} | {table.num_columns}"
        lines.append(f"| `{words.name}` | {sizes} | {words.primary_key or ''} | {words.time_column or ''} | {keys} |")
    lines += ["", "```python", "import relbench", f'database = relbench.load_dataset("{name}").get_db()', "```", ""]
    lines += ["Made from, as `jaxrel.json` records together with the causal graph:", ""] if digest else []
    lines += [f"- {key}: `{value}`" for key, value in (digest or {}).items()]
    return "\n".join(lines).rstrip() + "\n"


def _provenance(db: Database, catalog: Catalog, tables: Mapping[str, pa.Table], format: str) -> dict[str, Any]:
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


def _table_entry(words: TableWords, laws: list[dict[str, Any]], table: pa.Table) -> dict[str, Any]:
    columns = {}
    for column in words.columns:
        entry = columns[column.name] = {"kind": Kind(column.kind).name.lower(), "nullable": column.nullable}
        if column.type:
            entry |= {"type": column.type, "unique": column.unique, "low": column.low, "high": column.high}
        if column.vocabulary:
            entry["vocabulary"] = list(column.vocabulary)
    return {
        "rows": table.num_rows,
        "columns": table.column_names,
        "primary_key": words.primary_key,
        "time_column": words.time_column,
        "foreign_keys": {
            fk.name: {"parent": fk.parent, "nullable": fk.nullable, **law} for fk, law in zip(words.foreign_keys, laws, strict=True)
        },
        "features": columns,
    }
