"""Written databases in words: a summary for the terminal and one as a page."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from jaxrel.diagram import Box, draw
from jaxrel.errors import UserError
from jaxrel.files import DIGEST_FILE, read_digest
from jaxrel.validate import databases_in

__all__ = ["inspect", "inspect_html"]

_TOP = 3  # categories shown of a column
_STYLE = """body{font:14px/1.5 Helvetica,Arial,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#222;background:#fff}
table{border-collapse:collapse;margin-bottom:1.5em}td,th{padding:.15em .8em;border-bottom:1px solid #ddd;text-align:left}
svg{max-width:100%;height:auto}"""


@dataclasses.dataclass(frozen=True)
class _Table:
    name: str
    box: Box
    columns: list[tuple[str, str, str, str]]  # name, type and role, share of missing values, what it holds


def inspect(folder: str | os.PathLike[str]) -> str:
    """Describe a database, or list those of a folder.

    Args:
        folder: a RelBench dataset, a plain database, or a folder of databases.

    Returns:
        Tables, keys and columns, with the share of missing values and the mean and deviation or the commonest values; and tasks.

    Raises:
        UserError: if there is no database, or a file of it cannot be read.
    """
    folder = Path(folder)
    databases = _databases(folder)
    if databases != [folder]:
        lines = [f"{folder}: {len(databases)} database{'s' * (len(databases) > 1)}"]
        for path in databases:
            boxes = _boxes(path)
            rows = sum(box.rows for box in boxes.values())
            lines.append(f"  {path.name}: {len(boxes)} tables, {rows:,} rows: {', '.join(boxes)}")
        return "\n".join(lines)
    lines = [_title(folder)]
    for table in _summary(folder):
        keys = [f"{key} → {parent}" for key, parent in table.box.foreign_keys.items()]
        lines += ["", f"{table.name}: {table.box.rows:,} rows" + "".join(f", {key}" for key in keys)]
        width = [max((len(row[i]) for row in table.columns), default=0) for i in range(3)]
        for row in table.columns:
            padded = [x.ljust(w) for x, w in zip(row[:3], width, strict=True)]
            lines.append("  ".join(["", *padded, row[3]]).rstrip())
    if tasks := _tasks(folder):
        lines += ["", f"{len(tasks)} task{'s' * (len(tasks) > 1)}:", *(f"  {name}: {text}" for name, text in tasks.items())]
    return "\n".join(lines)


def inspect_html(folder: str | os.PathLike[str]) -> str:
    """Describe a database as one HTML page that needs no other file.

    Args:
        folder: a RelBench dataset, a plain database, or a folder of databases.

    Returns:
        The page, with a diagram of tables and keys.

    Raises:
        UserError: as `inspect` does.
    """
    folder = Path(folder)
    if _databases(folder) != [folder]:
        body = f"<pre>{escape(inspect(folder))}</pre>"
    else:
        tables = _summary(folder)
        parts = [f"<h1>{escape(_title(folder))}</h1>", draw({table.name: table.box for table in tables})]
        for table in tables:
            cells = "\n".join("<tr>" + "".join(f"<td>{escape(x)}</td>" for x in row) + "</tr>" for row in table.columns)
            parts.append(f"<h2>{escape(table.name)}</h2>\n<p>{table.box.rows:,} rows</p>")
            parts.append(f"<table><tr><th>column</th><th>type</th><th>missing</th><th>values</th></tr>\n{cells}</table>")
        if tasks := _tasks(folder):
            parts.append(
                "<h2>Tasks</h2>\n<ul>" + "".join(f"<li>{escape(task)}: {escape(text)}</li>" for task, text in tasks.items()) + "</ul>"
            )
        body = "\n".join(parts)
    name = escape(folder.resolve().name)
    head = f'<head><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style></head>'
    return f'<!doctype html>\n<html lang="en">{head}\n<body>{body}</body></html>\n'


def _databases(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give one that holds a database")
    databases = databases_in(folder)
    if not databases:
        raise UserError(f"{folder}: holds no database; give a folder that jaxrel or RelBench wrote")
    return databases


def _title(folder: Path) -> str:
    digest = read_digest(folder) or {}
    made = ", ".join(f"{key} {digest[key]}" for key in ("seed", "index") if key in digest)
    return folder.resolve().name + (f" ({made})" if made else "")


def _keys(folder: Path) -> dict[str, tuple[str | None, str | None, dict[str, str]]]:
    """Primary key, time column and foreign keys of each table."""
    try:
        if (folder / "manifest.yaml").exists():
            tables = yaml.safe_load((folder / "manifest.yaml").read_text(encoding="utf-8"))["tables"]
            return {name: (spec["pkey"], spec["time_col"], dict(spec["fkeys"])) for name, spec in tables.items()}
        tables = json.loads((folder / DIGEST_FILE).read_text(encoding="utf-8"))["tables"]
        found = {}
        for name, spec in tables.items():
            found[name] = (spec["primary_key"], spec["time_column"], {key: fk["parent"] for key, fk in spec["foreign_keys"].items()})
        return found
    except Exception as error:
        raise UserError(f"{folder}: its manifest cannot be read ({' '.join(str(error).split())}); see jaxrel validate") from error


def _tasks(folder: Path) -> dict[str, str]:
    """By name, what each task of a RelBench dataset asks."""
    found = {}
    for path in sorted(folder.glob("tasks/*/manifest.yaml")):
        try:
            manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
            found[str(manifest["name"])] = str(manifest.get("description", ""))
        except Exception as error:
            raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); see jaxrel validate") from error
    return found


def _boxes(folder: Path) -> dict[str, Box]:
    boxes = {}
    for name, (primary_key, time_column, foreign_keys) in _keys(folder).items():
        path = folder / "db" / f"{name}.parquet"
        try:
            schema, rows = pq.read_schema(path), pq.read_metadata(path).num_rows
        except Exception as error:
            raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); see jaxrel validate") from error
        boxes[name] = Box(rows, {field.name: _type(field.type) for field in schema}, primary_key, time_column, foreign_keys)
    return boxes


def _type(kind: pa.DataType) -> str:
    return "category" if pa.types.is_dictionary(kind) else "timestamp" if pa.types.is_timestamp(kind) else str(kind)


def _summary(folder: Path) -> list[_Table]:
    tables = []
    for name, box in _boxes(folder).items():
        path, columns = folder / "db" / f"{name}.parquet", []
        for column, kind in box.columns.items():
            try:
                values = pq.ParquetFile(path).read([column])[column]
            except Exception as error:
                raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); see jaxrel validate") from error
            role = {"pk": "primary key", "fk": f"→ {box.foreign_keys.get(column)}", "time": "time"}.get(box.role(column), "")
            missing = f"{values.null_count / len(values):.1%} missing" if values.null_count else ""
            columns.append((column, f"{kind} {role}".strip(), missing, "" if role[:1] in ("p", "→") else _holds(values)))
        tables.append(_Table(name, box, columns))
    return tables


def _holds(column: pa.ChunkedArray) -> str:
    """Mean and deviation, the ends of a time, or the commonest values."""
    values, kind = column.drop_null(), column.type
    if len(values) == 0:
        return "nothing"
    if pa.types.is_temporal(kind):
        ends: Mapping[str, Any] = pc.min_max(values).as_py()
        return f"{ends['min']} … {ends['max']}"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = values.cast(pa.float64(), safe=False).to_numpy()
        return f"mean {np.mean(numbers):.4g}, std {np.std(numbers):.4g}, {np.min(numbers):.4g} … {np.max(numbers):.4g}"
    counts = pc.value_counts(values.cast(pa.string())).to_pylist()
    counts.sort(key=lambda entry: (-entry["counts"], entry["values"]))
    shown = ", ".join(f"{entry['values']} {entry['counts'] / len(values):.0%}" for entry in counts[:_TOP])
    return shown + (f", … ({len(counts):,} values)" if len(counts) > _TOP else "")
