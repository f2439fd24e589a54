"""From a key or a SQL text to files, and from the files into real databases that enforce what was declared."""

from __future__ import annotations

import datetime
import decimal
import shutil
import sqlite3
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
import yaml

from jaxrel import engine, presets
from jaxrel.sql import read_sql
from jaxrel.types import MAX_FOREIGN_KEYS
from jaxrel.validate import validate

SCHOOL = (Path(__file__).parent.parent / "configs" / "school.sql").read_text(encoding="utf-8")
TINY = 4  # databases of the preset

Tables = Mapping[str, pa.Table]


def written(folder: Path) -> dict[str, pa.Table]:
    """The tables of one database folder, by name."""
    return {path.stem: pq.ParquetFile(path).read() for path in sorted((folder / "db").glob("*.parquet"))}


def load_duckdb(text: str, dialect: str, order: list[str], tables: Tables) -> duckdb.DuckDBPyConnection:
    """A DuckDB database made by the SQL itself; it refuses rows that violate a constraint."""
    connection = duckdb.connect()
    for statement in sqlglot.transpile(text, read=dialect, write="duckdb"):
        connection.execute(statement)
    for name in order:
        rows = tables[name]
        connection.register("rows_of_it", rows)
        columns = ", ".join(f'"{column}"' for column in rows.column_names)
        connection.execute(f'INSERT INTO "{name}" ({columns}) SELECT {columns} FROM rows_of_it')
        connection.unregister("rows_of_it")
    return connection


def load_sqlite(text: str, dialect: str, order: list[str], tables: Tables) -> sqlite3.Connection:
    """The same in SQLite, foreign keys on."""
    connection = sqlite3.connect(":memory:")
    connection.execute("PRAGMA foreign_keys = ON")
    for statement in sqlglot.transpile(text, read=dialect, write="sqlite"):
        connection.execute(statement)
    for name in order:
        columns = [[plain(value) for value in column.to_pylist()] for column in tables[name].columns]
        names = ", ".join(f'"{column}"' for column in tables[name].column_names)
        marks = ", ".join("?" * len(columns))
        connection.executemany(f'INSERT INTO "{name}" ({names}) VALUES ({marks})', zip(*columns, strict=True))
    connection.commit()
    return connection


def plain(value: Any) -> Any:
    """A value as SQLite keeps it."""
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    if isinstance(value, datetime.date):
        return value.isoformat()
    return str(value) if isinstance(value, decimal.Decimal) else value


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The school of 1,000 students on disk, and its tables, parents first."""
    schema, catalog = read_sql(SCHOOL, rows={"students": 1000})
    out = tmp_path_factory.mktemp("school")
    engine.generate((schema, catalog), out, prefix="school")
    return out / "school-0", [table.name for table in catalog.tables]


def test_school_has_the_rows_asked_for(school: tuple[Path, list[str]]) -> None:
    folder, order = school
    tables = written(folder)
    assert sorted(tables) == sorted(order) and len(order) == 10
    assert tables["students"].num_rows == 1000 and tables["marks"].num_rows > 1000
    assert validate(folder) == []


def test_school_loads_into_duckdb(school: tuple[Path, list[str]]) -> None:
    folder, order = school
    tables = written(folder)
    connection = load_duckdb(SCHOOL, "postgres", order, tables)
    for name in order:
        described = connection.execute(f"DESCRIBE {name}").fetchall()
        rows = connection.execute(f"SELECT * FROM {name}").fetchall()
        assert len(rows) == tables[name].num_rows
        for place, (column, kind, *_) in enumerate(described):
            values = [row[place] for row in rows if row[place] is not None]
            assert values, (name, column)
            if kind == "UUID":
                assert all(isinstance(value, uuid.UUID) and value.version == 4 for value in values)
            if kind == "DATE":
                assert all(isinstance(value, datetime.date) for value in values)


def test_school_loads_into_sqlite(school: tuple[Path, list[str]]) -> None:
    folder, order = school
    tables = written(folder)
    connection = load_sqlite(SCHOOL, "postgres", order, tables)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for name in order:
        assert connection.execute(f"SELECT count(*) FROM {name}").fetchone() == (tables[name].num_rows,)


def test_school_keeps_declared_types_lengths_and_pairs(school: tuple[Path, list[str]]) -> None:
    folder, order = school
    tables = written(folder)
    declared = {
        table.this.this.name: {column.name: column.args["kind"] for column in table.this.find_all(sqlglot.exp.ColumnDef)}
        for table in sqlglot.parse(SCHOOL, read="postgres")
        if table is not None
    }
    for name in order:
        assert tables[name].column_names == list(declared[name])
        for column, kind in declared[name].items():
            values = [value for value in tables[name][column].to_pylist() if value is not None]
            if kind.this == sqlglot.exp.DataType.Type.UUID:
                assert all(str(uuid.UUID(value)) == value and uuid.UUID(value).version == 4 for value in values)
            elif kind.this == sqlglot.exp.DataType.Type.DATE:
                assert pa.types.is_date(tables[name].schema.field(column).type)
            elif kind.expressions and kind.this in sqlglot.exp.DataType.TEXT_TYPES:
                assert max(map(len, values)) <= int(kind.expressions[0].name), (name, column)
    for name, pair in {"student_courses": ("student_id", "course_id"), "course_instructors": ("course_id", "teacher_id")}.items():
        pairs = list(zip(*(tables[name][column].to_pylist() for column in pair), strict=True))
        assert len(set(pairs)) == len(pairs)
    ridden = tables["transport_assignments"]["student_id"].to_pylist()
    assert len(set(ridden)) == len(ridden) and set(ridden) <= set(tables["students"]["student_id"].to_pylist())


def test_school_columns_vary(school: tuple[Path, list[str]]) -> None:
    tables = written(school[0])
    for name, table in tables.items():
        for column in table.column_names:
            assert len(set(table[column].to_pylist()) - {None}) > 1, f"{name}.{column} is constant"
    assert len(set(tables["teachers"]["experience_years"].to_pylist())) > 20  # the lane was not rounded before it was rendered
    assert len(set(tables["marks"]["score_obtained"].to_pylist())) > 200


def test_a_repeated_pair_is_found(school: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(school[0], tmp_path / "school-0"))
    path = folder / "db" / "student_courses.parquet"
    table = pq.ParquetFile(path).read()
    for name in ("student_id", "course_id"):
        values = table[name].to_pylist()
        table = table.set_column(table.column_names.index(name), name, pa.array([values[1], *values[1:]]))
    pq.write_table(table, path)
    assert validate(folder) == [
        "db/student_courses.parquet: student_id, course_id are declared unique together and repeat 1 times"
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few databases of the tiny preset."""
    out = tmp_path_factory.mktemp("tiny")
    engine.generate(presets.load("tiny"), out, databases=TINY, seed=3)
    return out


def test_a_corpus_is_valid(corpus: Path) -> None:
    assert validate(corpus) == []
    manifests = [(folder / "manifest.yaml").read_text(encoding="utf-8") for folder in sorted(corpus.iterdir())]
    assert len(manifests) == TINY
    tables = {tuple(yaml.safe_load(text)["tables"]) for text in manifests}
    assert len(tables) == TINY, "databases share their tables"


@pytest.mark.parametrize("index", range(TINY))
def test_duckdb_reads_a_corpus(corpus: Path, index: int) -> None:
    folder = corpus / f"jaxrel-{index}"
    specs = yaml.safe_load((folder / "manifest.yaml").read_text(encoding="utf-8"))["tables"]
    connection = duckdb.connect()
    for name in specs:
        path = str(folder / "db" / f"{name}.parquet")
        connection.execute(f"CREATE TABLE \"{name}\" AS SELECT *, row_number() OVER () - 1 AS place FROM read_parquet('{path}')")

    def count(query: str) -> int:
        found = connection.execute(query).fetchone()
        assert found is not None
        return int(found[0])

    for name, spec in specs.items():
        key, time = spec["pkey"], spec["time_col"]
        assert count(f'SELECT count(*) FROM "{name}"') > 0
        assert count(f'SELECT count(*) FROM "{name}" WHERE "{key}" IS DISTINCT FROM place') == 0
        assert len(spec["fkeys"]) <= MAX_FOREIGN_KEYS
        for column, parent in spec["fkeys"].items():
            orphan = f'SELECT 1 FROM "{parent}" p WHERE p."{specs[parent]["pkey"]}" = c."{column}"'
            assert count(f'SELECT count(*) FROM "{name}" c WHERE c."{column}" IS NOT NULL AND NOT EXISTS ({orphan})') == 0
            if time and specs[parent]["time_col"]:
                joined = f'"{name}" c JOIN "{parent}" p ON p."{specs[parent]["pkey"]}" = c."{column}"'
                assert count(f'SELECT count(*) FROM {joined} WHERE c."{time}" < p."{specs[parent]["time_col"]}"') == 0
        if time:
            steps = f'SELECT "{time}" < lag("{time}") OVER (ORDER BY place) AS back FROM "{name}"'
            assert count(f"SELECT count(*) FROM ({steps}) WHERE back") == 0
        for column, kind, *_ in connection.execute(f'DESCRIBE "{name}"').fetchall():
            if kind in ("FLOAT", "DOUBLE"):
                assert count(f'SELECT count(*) FROM "{name}" WHERE isinf("{column}") OR isnan("{column}")') == 0
