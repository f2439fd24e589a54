"""Rendered values satisfy what was declared, whatever the lanes, and are pure functions of the row."""

from __future__ import annotations

import re
import sqlite3
import uuid
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from jaxrel import words
from jaxrel.catalog import Catalog, ColumnWords, TableWords
from jaxrel.render import arrow_type, distinct_values, render_column, render_key
from jaxrel.sql import read_sql
from jaxrel.types import Kind

KEY = np.array([17, 23], np.uint32)
SCHOOL = (Path(__file__).parent.parent / "configs" / "school.sql").read_text()
HARD = np.array([0.0, 1e9, -1e9, np.inf, -np.inf, np.nan, 5.9, -5.9], np.float32)


def lanes(count: int, seed: int = 0) -> np.ndarray:
    """Standard normal scores, the hardest ones in front."""
    drawn = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    drawn[: len(HARD)] = HARD[:count]
    return drawn


def render(column: ColumnWords, count: int = 500, key: np.ndarray = KEY, rows: np.ndarray | None = None) -> pa.Array:
    values = lanes(count)
    if column.kind in (Kind.CATEGORICAL, Kind.BOOLEAN):
        values = np.arange(count, dtype=np.float32) % (len(column.vocabulary) or 2)
    return render_column(column, values, np.zeros(count, bool), key, rows=rows)


NUMBERS = [
    ColumnWords("price", Kind.NUMERIC, "decimal(8,2)", step=0.01),
    ColumnWords("amount", Kind.NUMERIC, "decimal(3,1)", low=0.1, high=99.9, step=0.1),
    ColumnWords("x", Kind.NUMERIC, "decimal(38,4)", step=0.0001),
    ColumnWords("x", Kind.NUMERIC, "real", low=0.1, high=0.3),
    ColumnWords("x", Kind.NUMERIC, "real", low=0.1),
    ColumnWords("x", Kind.NUMERIC, "double", high=-5.5),
    ColumnWords("price", Kind.NUMERIC, "double", low=900.0),
    ColumnWords("ratio", Kind.NUMERIC, "double", low=5.0),
    ColumnWords("x", Kind.NUMERIC, "double", low=0.0, high=1e-300),
    ColumnWords("level", Kind.INTEGER, "smallint", step=1.0),
    ColumnWords("salary", Kind.INTEGER, "smallint", step=1.0),
    ColumnWords("x", Kind.INTEGER, "bigint", low=2.0**40, step=1.0),
    ColumnWords("x", Kind.INTEGER, "integer", high=-7.0, step=1.0),
    ColumnWords("x", Kind.INTEGER, "integer", low=3.0, high=3.0, step=1.0),
    ColumnWords("academic_year", Kind.INTEGER, "smallint", low=1900.0, high=2100.0, step=1.0),
    ColumnWords("age", Kind.INTEGER, "smallint", low=0.0, high=150.0, step=1.0),
    ColumnWords("birth_date", Kind.DATE, "date", step=1.0),
    ColumnWords("day", Kind.DATE, "date", low=21915.0, step=1.0),
    ColumnWords("day", Kind.DATE, "date", high=-10000.0, step=1.0),
    ColumnWords("seen_at", Kind.TIMESTAMP, "timestamp", low=1.6e9, high=1.6e9 + 5, step=1.0),
]


@pytest.mark.parametrize("column", NUMBERS, ids=lambda column: f"{column.name}-{column.type}-{column.low}-{column.high}")
def test_numbers_keep_type_bounds_and_step(column):
    found = render(column)
    assert found.type == arrow_type(column) and found.null_count == 0
    raw = found
    if column.kind == Kind.DATE:
        raw = found.view(pa.int32())
    elif column.kind == Kind.TIMESTAMP:
        raw = pa.array([value // 1_000_000 for value in found.view(pa.int64()).to_pylist()])
    values = raw.to_pylist()
    if column.low is not None:
        assert float(min(values)) >= column.low
    if column.high is not None:
        assert float(max(values)) <= column.high
    if column.kind == Kind.NUMERIC and column.step:
        digits, scale = map(int, re.findall(r"\d+", column.type))
        assert all(abs(value) < 10 ** (digits - scale) for value in values)
    order = np.argsort(np.clip(np.nan_to_num(lanes(500), nan=0.0), -9, 9), kind="stable")
    assert (np.diff(np.array([float(value) for value in values])[order]) >= 0).all(), "the map of lanes to values is monotone"


def test_numbers_are_believable():
    def bounds(column: ColumnWords) -> tuple:
        found = render(column, 4000).to_pylist()
        return min(found), max(found)

    assert bounds(ColumnWords("season_year", Kind.INTEGER, "smallint", step=1.0)) == (2018, 2024)
    assert bounds(ColumnWords("academic_year", Kind.INTEGER, "smallint", low=1900.0, high=2100.0, step=1.0)) == (2018, 2024)
    assert bounds(ColumnWords("credits", Kind.INTEGER, "smallint", low=1.0, high=10.0, step=1.0)) == (1, 10)
    low, high = bounds(ColumnWords("hire_date", Kind.DATE, "date", low=10957.0, high=50000.0, step=1.0))
    assert (low.year, high.year) == (2000, 2024)
    assert len(set(render(ColumnWords("score", Kind.NUMERIC, "decimal(5,2)", step=0.01)).to_pylist())) > 200


@pytest.mark.parametrize(
    "name", "email phone city description code gender url postal_code zzz guardian_contact course_name vehicle_number".split()
)
@pytest.mark.parametrize(
    "type", ["text", "varchar(200)", "varchar(12)", "varchar(3)", "varchar(1)", "char(1)", "char(2)", "char(8)", "char(36)"]
)
def test_text_fits(name, type):
    digits = re.search(r"\d+", type)
    length = int(digits[0]) if digits else None
    column = ColumnWords(name, Kind.TEXT, type, length=length)
    values = render(column).to_pylist()
    assert all(value and value == value.strip() and (length is None or len(value) <= length) for value in values)
    if type == "char(8)":
        assert {len(value) for value in values} == {8}
    template = words.text_template(name, type, length, True, 30)
    unique = ColumnWords(name, Kind.TEXT, type, length=length, unique=True, format=template or "")
    assert template is not None
    made = render(unique, 30).to_pylist()
    assert len({value.lower() for value in made}) == 30 and all(length is None or len(value) <= length for value in made)


def test_only_reserved_numbers_and_domains():
    for unique in (False, True):
        for value in render(ColumnWords("email", Kind.TEXT, "text", unique=unique)).to_pylist():
            assert re.fullmatch(r"[a-z]+\.[a-z]+[.a-z0-9]*@example\.(com|org|net)", value)
        for value in render(ColumnWords("phone", Kind.TEXT, "text", unique=unique)).to_pylist():
            assert re.fullmatch(r"\+1-[2-9]\d\d-555-01\d\d(x[0-9A-Z]{6})?", value)


@pytest.mark.parametrize(
    "column",
    [
        ColumnWords("n", Kind.INTEGER, "smallint", step=1.0, unique=True),
        ColumnWords("n", Kind.INTEGER, "integer", low=5.0, high=504.0, step=1.0, unique=True),
        ColumnWords("n", Kind.NUMERIC, "decimal(3,1)", low=0.0, high=49.9, step=0.1, unique=True),
        ColumnWords("n", Kind.DATE, "date", low=0.0, high=499.0, step=1.0, unique=True),
        ColumnWords("n", Kind.TIMESTAMP, "timestamp", step=1.0, unique=True),
        ColumnWords("n", Kind.TEXT, "varchar(9)", length=9, unique=True),
        ColumnWords("n", Kind.TEXT, vocabulary=tuple(map(str, range(500))), unique=True),
        ColumnWords("n", Kind.UUID, "uuid", unique=True),
    ],
    ids=lambda column: f"{column.kind.name}-{column.type}",
)
def test_unique_columns_are_bijections_of_the_row(column):
    found = render(column).to_pylist()
    assert len(set(found)) == 500 <= distinct_values(column)
    other = render(column, key=np.array([18, 23], np.uint32)).to_pylist()
    assert found != other
    if column.low is not None and column.high is not None and column.kind == Kind.INTEGER:
        assert sorted(found) == list(range(5, 505))
        with pytest.raises(ValueError, match="n: 500 distinct values cannot number row 500"):
            render(column, 501)


def test_rows_are_addressable():
    """Rows [a, b) alone equal those rows of the whole."""
    rows = np.arange(300, 500)
    for column in [
        *NUMBERS,
        ColumnWords("email", Kind.TEXT, "text", unique=True),
        ColumnWords("url", Kind.TEXT),
        ColumnWords("u", Kind.UUID),
    ]:
        whole = render(column)
        part = render_column(column, lanes(500)[300:], np.zeros(200, bool), KEY, rows=rows)
        assert part.equals(whole.slice(300)), column


def test_missing_cells():
    missing = np.arange(500) % 7 == 0
    for column in [
        *NUMBERS,
        ColumnWords("c", Kind.CATEGORICAL, vocabulary=("a", "b")),
        ColumnWords("b", Kind.BOOLEAN),
        ColumnWords("t", Kind.TEXT),
    ]:
        found = render_column(column, np.zeros(500, np.float32), missing, KEY)
        assert found.type == arrow_type(column) and np.array_equal(np.array(found.is_null()), missing)


def test_labels():
    found = render(ColumnWords("c", Kind.CATEGORICAL, "text", vocabulary=("a", "b", "c")), 6)
    assert pa.types.is_dictionary(found.type) and found.to_pylist() == ["a", "b", "c", "a", "b", "c"]
    assert render(ColumnWords("c", Kind.CATEGORICAL, "smallint", vocabulary=("7", "9")), 3).to_pylist() == [7, 9, 7]
    assert render(ColumnWords("c", Kind.BOOLEAN, "boolean"), 3).to_pylist() == [False, True, False]
    assert render(ColumnWords("c", Kind.CATEGORICAL, "boolean", vocabulary=("true",)), 2).to_pylist() == [True, True]
    dates = render(ColumnWords("c", Kind.CATEGORICAL, "date", vocabulary=("2020-01-01",)), 1)
    assert dates.type == pa.date32() and str(dates[0].as_py()) == "2020-01-01"
    codes = render_column(ColumnWords("c", Kind.CATEGORICAL, "text", vocabulary=("a", "b")), np.array([-3.0, 9.0]), np.zeros(2, bool), KEY)
    assert codes.to_pylist() == ["a", "b"]


def test_text_keeps_the_signal():
    values = lanes(2000)
    city = render_column(ColumnWords("city", Kind.TEXT, "text"), values, np.zeros(2000, bool), KEY).to_pylist()
    index = np.array([words.POOLS["city"].index(value) for value in city])
    assert np.corrcoef(np.argsort(np.argsort(np.nan_to_num(values, posinf=9, neginf=-9))), index)[0, 1] > 0.99


def test_uuids():
    table = TableWords("students", "student_id", Kind.UUID, "uuid")
    rows = np.random.default_rng(1).integers(0, 2**31 - 1, 5000)
    found = render_key(table, rows, KEY)
    for value in found.to_pylist():
        parsed = uuid.UUID(value)
        assert parsed.version == 4 and parsed.variant == uuid.RFC_4122 and str(parsed) == value
    assert len(found.unique()) == len(np.unique(rows))
    bits = np.array([list(bin(uuid.UUID(value).int + (1 << 128))[3:]) for value in found.to_pylist()]).astype(int)
    free = [bit for bit in range(128) if bit not in (48, 49, 50, 51, 64, 65)]
    assert np.abs(bits[:, free].mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(5000)


@pytest.mark.parametrize("type", ["text", "varchar(40)", "varchar(8)", "varchar(3)", "char(4)", "char(10)", "char(36)"])
def test_text_keys(type):
    table = TableWords("courses", "course_code", Kind.TEXT, type)
    whole = render_key(table, np.arange(2000), KEY)
    assert len({value.lower() for value in whole.to_pylist()}) == 2000
    assert render_key(table, np.array([5, 3, 5]), KEY).to_pylist() == [whole[5].as_py(), whole[3].as_py(), whole[5].as_py()]
    digits = re.search(r"\d+", type)
    lengths = {len(value) for value in whole.to_pylist()}
    if digits:
        assert max(lengths) <= int(digits[0]) and (not type.startswith("char") or lengths == {int(digits[0])})


def test_templates():
    for name, (free, distinct) in words._RECIPES.items():
        for template in (*free, *distinct):
            assert words.template_length(template) > 0, name
        assert all(words.template_rows(template) == 1 for template in free)
        assert all(words.template_rows(template) > 1000 for template in distinct)
    for pool, labels in words.POOLS.items():
        assert len(set(labels)) == len(labels) and all(label.strip() == label for label in labels), pool


# the declared constraints, enforced by two databases


def keys_of(table: TableWords, rows: np.ndarray) -> list:
    if table.primary_key_kind == Kind.INTEGER:
        return (rows + 1).tolist()
    return render_key(table, rows, KEY).to_pylist()


def fake_tables(catalog: Catalog, counts: list[int]) -> dict[str, list[tuple]]:
    """Rows of every table with fake lanes: links of a unique set walk through all pairs."""
    sizes = dict(zip((table.name for table in catalog.tables), counts, strict=True))
    by_name = {table.name: table for table in catalog.tables}
    made = {}
    for table in catalog.tables:
        count = sizes[table.name]
        cells: dict[str, list] = {}
        if table.primary_key:
            cells[table.primary_key] = keys_of(table, np.arange(count))
        step = 1
        for foreign in table.foreign_keys:
            parents = np.arange(count) // step % sizes[foreign.parent]
            step *= sizes[foreign.parent]
            cells[foreign.name] = [None] * count if foreign.parent == table.name else keys_of(by_name[foreign.parent], parents)
        if table.time_column:
            kind = "date" if table.time_kind == Kind.DATE else "timestamp"
            words_of = ColumnWords(table.time_column, table.time_kind, kind, low=19724.0 * (1 if kind == "date" else 86400), step=1.0)
            cells[table.time_column] = [str(value) for value in render(words_of, count).to_pylist()]
            if table.time_column == "valid_from":
                cells[table.time_column] = ["2021-05-05"] * count
        for number, column in enumerate(table.columns):
            values = lanes(count, number)
            if column.kind in (Kind.CATEGORICAL, Kind.BOOLEAN):
                values = np.floor(np.random.default_rng(number).random(count) * (len(column.vocabulary) or 2))
            missing = (np.arange(count) % 11 == 5) & column.nullable
            cells[column.name] = [
                float(v) if type(v).__name__ == "Decimal" else str(v) if column.kind in (Kind.DATE, Kind.TIMESTAMP) and v is not None else v
                for v in render_column(column, values, missing, KEY).to_pylist()
            ]
        made[table.name] = list(zip(*(cells[name] for name in table.order), strict=True))
    return made


SHOP = """
CREATE TABLE shops (shop_code char(4) PRIMARY KEY, name varchar(12) NOT NULL UNIQUE, opened date UNIQUE,
    rank smallint UNIQUE CHECK (rank BETWEEN 1 AND 60), tax numeric(4, 3) UNIQUE CHECK (tax >= 0), phone varchar(14) UNIQUE);
CREATE TABLE sales (sale_id integer PRIMARY KEY, shop_code char(4) NOT NULL REFERENCES shops, replaces_id integer REFERENCES sales,
    paid double precision CHECK (paid > 0 AND paid < 0.001), share real CHECK (share >= 0.1), sold timestamp NOT NULL,
    stars smallint CHECK (stars IN (1, 2, 5)), refunded boolean, token uuid NOT NULL UNIQUE, note text CHECK (note <> ''));
"""


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
@pytest.mark.parametrize(("text", "base"), [(SCHOOL, 0.02), (SHOP, 0.05)], ids=["school", "shop"])
def test_databases_accept_the_values(engine, text, base):
    schema, catalog = read_sql(text, scale=base)
    made = fake_tables(catalog, np.asarray(schema.row_count).tolist())
    link = sqlite3.connect(":memory:") if engine == "sqlite" else duckdb.connect()
    try:
        if engine == "sqlite":
            link.execute("PRAGMA foreign_keys = ON")
            link.executescript(text)
        else:
            link.execute(text)
        for table in catalog.tables:
            marks = ", ".join("?" * len(table.order))
            link.execute("BEGIN")
            link.executemany(f"INSERT INTO {table.name} VALUES ({marks})", made[table.name])
            link.execute("COMMIT")
            assert link.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0] == len(made[table.name])
    finally:
        link.close()
