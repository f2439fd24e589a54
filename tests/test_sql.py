# ruff: noqa: E501 (a refused text and its message stand on one line)
"""A SQL schema becomes the stages' schema, and whatever cannot be kept is refused with one sentence."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrel.random import name_id
from jaxrel.sql import FIRST_SECOND, LAST_SECOND, NULL_COLUMN, NULL_KEY, read_sql
from jaxrel.types import NO_TABLE, TILE, Kind, LinkLaw

SCHOOL = (Path(__file__).parent.parent / "configs" / "school.sql").read_text()
CLINIC = """
CREATE TABLE doctors (doctor_id integer PRIMARY KEY, ward varchar(20) NOT NULL);
CREATE TABLE patients (patient_id integer PRIMARY KEY, born date);
"""


def columns(text: str, dialect: str = "postgres", table: int = 0) -> dict:
    """Feature columns of one table, by name."""
    return {column.name: column for column in read_sql(text, dialect)[1].tables[table].columns}


def one(declared: str, dialect: str = "postgres"):
    """The only feature column of a table that is declared so."""
    (column,) = columns(f"CREATE TABLE visits (visit_id integer PRIMARY KEY, {declared})", dialect).values()
    return column


@pytest.mark.parametrize(
    ("dialect", "written", "kind", "type", "low", "high", "step", "length"),
    [
        ("postgres", "smallint", Kind.INTEGER, "smallint", None, None, 1, None),
        ("postgres", "serial", Kind.INTEGER, "integer", None, None, 1, None),
        ("postgres", "bigint", Kind.INTEGER, "bigint", None, None, 1, None),
        ("postgres", "real", Kind.NUMERIC, "real", None, None, 0, None),
        ("postgres", "double precision", Kind.NUMERIC, "double", None, None, 0, None),
        ("postgres", "numeric(8,2)", Kind.NUMERIC, "decimal(8,2)", None, None, 0.01, None),
        ("postgres", "numeric", Kind.NUMERIC, "decimal(18,2)", None, None, 0.01, None),
        ("postgres", "boolean", Kind.BOOLEAN, "boolean", None, None, 1, None),
        ("postgres", "character(3)", Kind.TEXT, "char(3)", None, None, 0, 3),
        ("postgres", "character varying(30)", Kind.TEXT, "varchar(30)", None, None, 0, 30),
        ("postgres", "text", Kind.TEXT, "text", None, None, 0, None),
        ("postgres", "date", Kind.DATE, "date", None, None, 1, None),
        ("postgres", "timestamp(3) without time zone", Kind.TIMESTAMP, "timestamp", None, None, 1, None),
        ("postgres", "uuid", Kind.UUID, "uuid", None, None, 0, None),
        ("mysql", "int(11) unsigned", Kind.INTEGER, "integer", 0, None, 1, None),
        ("mysql", "tinyint", Kind.INTEGER, "smallint", -128, 127, 1, None),
        ("mysql", "tinyint(1)", Kind.BOOLEAN, "boolean", None, None, 1, None),
        ("mysql", "bool", Kind.BOOLEAN, "boolean", None, None, 1, None),
        ("mysql", "mediumint", Kind.INTEGER, "integer", -(2**23), 2**23 - 1, 1, None),
        ("mysql", "decimal(6,1)", Kind.NUMERIC, "decimal(6,1)", None, None, 0.1, None),
        ("mysql", "datetime(6)", Kind.TIMESTAMP, "timestamp", None, None, 1, None),
        ("mysql", "timestamp NULL", Kind.TIMESTAMP, "timestamp", None, None, 1, None),
        ("mysql", "longtext", Kind.TEXT, "text", None, None, 0, None),
        ("sqlite", "datetime", Kind.TIMESTAMP, "timestamp", None, None, 1, None),
        ("sqlite", "real", Kind.NUMERIC, "double", None, None, 0, None),
        ("duckdb", "decimal", Kind.NUMERIC, "decimal(18,3)", None, None, 0.001, None),
        ("duckdb", "utinyint", Kind.INTEGER, "smallint", 0, 255, 1, None),
    ],
)
def test_types(dialect, written, kind, type, low, high, step, length):
    column = one(f"reading {written}", dialect)
    assert (column.kind, column.type, column.length) == (kind, type, length)
    assert (column.low, column.high) == (low, high)
    if kind != Kind.BOOLEAN:
        assert column.step == pytest.approx(step)


@pytest.mark.parametrize("dialect", ["postgres", "duckdb"])
def test_enum_type(dialect):
    found = columns("CREATE TYPE mood AS ENUM ('calm', 'tense'); CREATE TABLE visits (visit_id int PRIMARY KEY, m mood)", dialect)
    assert found["m"].kind == Kind.CATEGORICAL and found["m"].vocabulary == ("calm", "tense")


def test_enum_inline():
    column = one("ward ENUM('east', 'west') NOT NULL", "mysql")
    assert column.vocabulary == ("east", "west") and not column.nullable


@pytest.mark.parametrize(
    ("declared", "low", "high"),
    [
        ("score int CHECK (score > 1 AND score < 10)", 2, 9),
        ("score int CHECK (1 <= score) CHECK (score <= 10)", 1, 10),
        ("score int CHECK (score BETWEEN -3 AND 4)", -3, 4),
        ("score int CHECK (score > 0.5)", 1, None),
        ("score int CHECK (score >= 0 AND score <> 0)", 1, None),
        ("score int CHECK (score IS NULL OR score >= 7)", 7, None),
        ("score int CHECK (((score)::bigint >= (5)::bigint))", 5, None),
        ("score numeric(5,2) CHECK (score > 0 AND score < 100)", 0.01, 99.99),
        ("score double precision CHECK (score > 0 AND score <= 1)", np.nextafter(0, 1), 1),
        ("seen date CHECK (seen >= '2020-01-01' AND seen < DATE '2021-01-01')", 18262, 18627),
        ("seen date CHECK (seen <= CURRENT_DATE)", None, 20088),
        ("seen timestamp CHECK (seen > '2020-01-01 10:00:00'::timestamp)", 18262 * 86400 + 36001, None),
    ],
)
def test_bounds(declared, low, high):
    column = one(declared)
    assert (column.low, column.high) == (low, high)


@pytest.mark.parametrize(
    ("declared", "labels"),
    [
        ("s text CHECK (s IN ('a', 'b'))", ("a", "b")),
        ("s varchar(9) CHECK (((s)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])))", ("a", "b")),
        ("s text CHECK (s = 'a' OR s = 'b')", ("a", "b")),
        ("s text CHECK (s IN ('a', 'b', 'c')) CHECK (s <> 'b')", ("a", "c")),
        ("s text CHECK (s = 'only')", ("only",)),
        ("s smallint CHECK (s IN (1, 2, 3) AND s > 1)", ("2", "3")),
        ("s numeric(3,1) CHECK (s IN (0.5, 1))", ("0.5", "1.0")),
        ("s date CHECK (s IN ('2020-01-01', '2021-01-01'))", ("2020-01-01", "2021-01-01")),
        ("s boolean CHECK (s = TRUE)", ("true",)),
    ],
)
def test_vocabularies(declared, labels):
    column = one(declared)
    assert column.kind == Kind.CATEGORICAL and column.vocabulary == labels


def test_long_list_is_text():
    labels = ", ".join(f"'label{i}'" for i in range(70))
    column = one(f"s text CHECK (s IN ({labels}))")
    assert column.kind == Kind.TEXT and len(column.vocabulary) == 70


def test_school():
    schema, catalog = read_sql(SCHOOL, rows={"students": 1000})
    assert int(schema.table_count) == 10
    names = [table.name for table in catalog.tables]
    assert set(names[:4]) == {"teachers", "students", "courses", "student_courses"}
    assert dict(zip(names, np.asarray(schema.row_count).tolist(), strict=True)) == {
        "teachers": 1000,
        "students": 1000,
        "courses": 3000,
        "student_courses": 9000,
        "marks": 27000,
        "fees": 3000,
        "games_participation": 3000,
        "canteen_transactions": 3000,
        "transport_assignments": 1000,
        "course_instructors": 9000,
    }
    assert all(table.primary_key_kind == Kind.UUID for table in catalog.tables)
    times = {table.name: table.time_column for table in catalog.tables if table.time_column}
    assert times["marks"] == "assessment_date" and times["canteen_transactions"] == "transaction_date" and "students" not in times
    junction = names.index("student_courses")
    assert np.asarray(schema.fk_law)[junction, :2].tolist() == [LinkLaw.SLOT] * 2
    assert np.asarray(schema.fk_owner)[junction, :2].tolist() == [0, 0]
    parents = np.asarray(schema.fk_parent)
    assert all(parents[t].max() < t for t in range(10))
    start = np.asarray(schema.time_start).astype(np.int64)[np.asarray(schema.has_time)]
    assert (start >= FIRST_SECOND).all() and (start + np.asarray(schema.time_span)[np.asarray(schema.has_time)] <= LAST_SECOND).all()


def test_arrays():
    text = CLINIC + (
        "CREATE TABLE visits (seen date NOT NULL, doctor_id int NOT NULL REFERENCES doctors, second_id int REFERENCES doctors(doctor_id),"
        " patient_id int NOT NULL, urgent boolean, FOREIGN KEY (patient_id) REFERENCES patients (patient_id) ON DELETE CASCADE);"
    )
    schema, catalog = read_sql(text, rows={"doctors": 7})
    assert [table.name for table in catalog.tables] == ["doctors", "patients", "visits"]
    assert np.asarray(schema.row_count).tolist() == [7, 1000, 3000]
    assert np.asarray(schema.row_offset).tolist() == [0, TILE, 3 * TILE]
    assert np.asarray(schema.fk_parent).tolist() == [[NO_TABLE] * 3, [NO_TABLE] * 3, [0, 0, 1]]
    assert np.asarray(schema.fk_null)[2].tolist() == [0, NULL_KEY, 0]
    assert np.asarray(schema.fk_id)[2].tolist() == [name_id("doctor_id"), name_id("second_id"), name_id("patient_id")]
    assert np.asarray(schema.column_count).tolist() == [1, 1, 1] and np.asarray(schema.column_null)[:, 0].tolist() == [
        0,
        NULL_COLUMN,
        NULL_COLUMN,
    ]
    assert np.asarray(schema.column_classes)[2, 0] == 2 and np.asarray(schema.is_activity).tolist() == [False, False, True]
    visits = catalog.tables[2]
    assert (visits.primary_key, visits.time_column, visits.time_kind) == (None, "seen", Kind.DATE)
    assert visits.order == ("seen", "doctor_id", "second_id", "patient_id", "urgent")
    assert visits.foreign_keys[1].nullable and visits.foreign_keys[1].parent == "doctors"


def test_order_is_topological_stable_and_entities_come_first():
    text = """CREATE TABLE logs (log_id int PRIMARY KEY); CREATE TABLE visits (visit_id int PRIMARY KEY, patient_id int REFERENCES patients);
    CREATE TABLE patients (patient_id int PRIMARY KEY, doctor_id int REFERENCES doctors); CREATE TABLE doctors (doctor_id int PRIMARY KEY)"""
    assert [table.name for table in read_sql(text)[1].tables] == ["doctors", "patients", "logs", "visits"]


def test_adding_a_table_moves_no_name():
    before, _ = read_sql(CLINIC)
    after, _ = read_sql("CREATE TABLE wards (ward_id int PRIMARY KEY, beds int);" + CLINIC)
    assert set(np.asarray(before.table_id).tolist()) < set(np.asarray(after.table_id).tolist())
    assert np.array_equal(before.key, after.key)


def test_self_reference():
    schema, catalog = read_sql("CREATE TABLE staff (staff_id int PRIMARY KEY, boss_id int REFERENCES staff, hired date NOT NULL)")
    assert int(schema.fk_law[0, 0]) == LinkLaw.TREE and int(schema.fk_parent[0, 0]) == 0 and bool(schema.is_activity[0])
    assert catalog.tables[0].time_column == "hired" and int(schema.row_count[0]) == 1000
    assert int(schema.fk_null[0, 0]) == 0 and catalog.tables[0].foreign_keys[0].nullable  # the roots of the tree are its nulls


def test_the_device_leaves_integers_to_the_renderer():
    schema, catalog = read_sql("CREATE TABLE staff (staff_id int PRIMARY KEY, age smallint, size int CHECK (size IN (1, 2)))")
    assert np.asarray(schema.column_kind)[0].tolist() == [Kind.NUMERIC, Kind.CATEGORICAL]
    assert [column.kind for column in catalog.tables[0].columns] == [Kind.INTEGER, Kind.CATEGORICAL]


def test_a_key_keeps_its_declared_type():
    text = "CREATE TABLE a (id bigint PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, a_id int REFERENCES a, b_id smallint REFERENCES b)"
    assert [key.type for key in read_sql(text)[1].tables[1].foreign_keys] == ["integer", "smallint"]


def test_unique_compiles_to_laws():
    text = CLINIC + (
        "CREATE TABLE visits (visit_id int PRIMARY KEY, doctor_id int REFERENCES doctors, patient_id int REFERENCES patients, code text UNIQUE,"
        " UNIQUE (patient_id, doctor_id), UNIQUE (visit_id, code), UNIQUE (code, doctor_id));"
        "CREATE TABLE badges (doctor_id int NOT NULL UNIQUE REFERENCES doctors, colour text)"
    )
    schema, catalog = read_sql(text, rows={"doctors": 20, "patients": 30})
    assert np.asarray(schema.fk_law).tolist()[2:] == [[LinkLaw.SLOT] * 2, [LinkLaw.SLOT, LinkLaw.CLUSTER]]
    assert np.asarray(schema.fk_owner).tolist()[2:] == [[0, 0], [0, 1]]
    assert np.asarray(schema.row_count).tolist() == [20, 30, 90, 20]
    assert catalog.tables[2].columns[0].unique
    with pytest.raises(ValueError, match=r"rows: visits=601 is too many, UNIQUE \(doctor_id, patient_id\) allows 600"):
        read_sql(text, rows={"doctors": 20, "patients": 30, "visits": 601})


def test_unique_index_and_alter_table():
    text = CLINIC + (
        "CREATE TABLE visits (visit_id int, doctor_id int, patient_id int, room int);"
        "ALTER TABLE ONLY visits ADD CONSTRAINT visits_pkey PRIMARY KEY (visit_id);"
        "ALTER TABLE visits ADD CONSTRAINT fk FOREIGN KEY (doctor_id) REFERENCES doctors(doctor_id) ON DELETE CASCADE;"
        "ALTER TABLE visits ADD FOREIGN KEY (patient_id) REFERENCES patients;"
        "ALTER TABLE visits ADD CHECK (room > 0);"
        "CREATE UNIQUE INDEX pairs ON visits (doctor_id, patient_id); CREATE INDEX rooms ON visits (room);"
    )
    schema, catalog = read_sql(text)
    assert np.asarray(schema.fk_law)[2].tolist() == [LinkLaw.SLOT] * 2 and catalog.tables[2].primary_key == "visit_id"
    assert catalog.tables[2].columns[0].low == 1


def test_harmless_statements_and_options():
    text = """SET client_encoding = 'UTF8'; CREATE EXTENSION IF NOT EXISTS pgcrypto; DROP TABLE IF EXISTS visits CASCADE; BEGIN;
    CREATE TABLE IF NOT EXISTS public.Visits (visit_id integer GENERATED BY DEFAULT AS IDENTITY (START WITH 10), paid numeric(8,2) DEFAULT 0,
    note text COLLATE "C", CONSTRAINT pk PRIMARY KEY (visit_id)); COMMENT ON TABLE visits IS 'x'; ALTER TABLE public.visits OWNER TO me;
    ALTER TABLE visits ALTER COLUMN paid SET DEFAULT 1; COMMIT;"""
    table = read_sql(text)[1].tables[0]
    assert table.name == "visits" and table.primary_key == "visit_id" and [column.name for column in table.columns] == ["paid", "note"]


def test_mysql_dump():
    text = """CREATE TABLE `Wards` (`id` int unsigned NOT NULL AUTO_INCREMENT, `name` varchar(40) NOT NULL COMMENT 'n', PRIMARY KEY (`id`),
    UNIQUE KEY `u` (`name`)) ENGINE=InnoDB AUTO_INCREMENT=3 DEFAULT CHARSET=utf8mb4;
    CREATE TABLE beds (id char(36) PRIMARY KEY, ward_id int unsigned NOT NULL, made datetime NOT NULL DEFAULT CURRENT_TIMESTAMP,
    KEY w (ward_id), CONSTRAINT f FOREIGN KEY (ward_id) REFERENCES wards (id));"""
    _, catalog = read_sql(text, "mysql")
    assert catalog.tables[0].name == "Wards" and catalog.tables[0].columns[0].unique and catalog.tables[1].time_column == "made"
    assert catalog.tables[1].foreign_keys[0].parent == "Wards" and catalog.tables[1].primary_key_type == "char(36)"


def test_sqlite_suffix():
    text = "PRAGMA foreign_keys = ON; CREATE TABLE wards (id INTEGER PRIMARY KEY AUTOINCREMENT, n TEXT) STRICT;"
    text += "CREATE TABLE beds (code TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID"
    assert [table.primary_key_kind for table in read_sql(text, "sqlite")[1].tables] == [Kind.INTEGER, Kind.TEXT]


@pytest.mark.parametrize(
    ("check", "first", "last"),
    [
        ("", FIRST_SECOND, LAST_SECOND),
        ("CHECK (seen >= '2020-01-01')", 18262 * 86400, LAST_SECOND),
        ("CHECK (seen >= '2030-01-01')", 21915 * 86400, None),
        ("CHECK (seen < '2000-01-01')", None, 10957 * 86400 - 1),
        ("CHECK (seen BETWEEN '2020-01-01' AND '2099-01-01')", 18262 * 86400, LAST_SECOND),
        ("CHECK (seen >= '1700-01-01')", None, LAST_SECOND),
    ],
)
def test_time_window(check, first, last):
    schema, _ = read_sql(f"CREATE TABLE visits (visit_id int PRIMARY KEY, seen date NOT NULL {check})")
    start, span = int(schema.time_start[0]), int(schema.time_span[0])
    assert first in (None, start) and last in (None, start + span) and span > 0 and start % 86400 == 0


def test_rows_scale_and_key():
    schema, _ = read_sql(SCHOOL, scale=0.02)
    assert np.asarray(schema.row_count).tolist()[:2] == [20, 60]
    schema, catalog = read_sql(SCHOOL, scale=2.0, rows={"teachers": 10, "MARKS": 5})
    counts = {table.name: int(count) for table, count in zip(catalog.tables, schema.row_count, strict=True)}
    assert (counts["teachers"], counts["students"], counts["courses"], counts["marks"], counts["course_instructors"]) == (10, 30, 30, 5, 90)
    assert not np.array_equal(read_sql(CLINIC, key=jax.random.key(1))[0].key, read_sql(CLINIC)[0].key)
    assert np.array_equal(read_sql(CLINIC, key=jax.random.key(0))[0].key, read_sql(CLINIC)[0].key)


def test_declared_limits_cap_the_default():
    text = "CREATE TABLE wards (ward_id smallint PRIMARY KEY, letter char(1) UNIQUE, level text UNIQUE CHECK (level IN ('a', 'b', 'c')))"
    assert int(read_sql(text)[0].row_count[0]) == 3
    assert int(read_sql("CREATE TABLE wards (ward_id char(2) PRIMARY KEY, beds int)", scale=5.0)[0].row_count[0]) == 1296


ID = "visit_id int PRIMARY KEY"
REFUSED = {
    # syntax
    "CREATE TABLE visits (\nvisit_id int,\nroom int room2 int)": "line 3",
    "CREATE TABLE visits (visit_id int,, room int)": "line 1",
    "CREATE TABLE visits (visit_id int,)": "after a comma",
    "CREATE TABLE visits (note text DEFAULT 'x)": "not closed",
    "CREATE TABEL visits (visit_id int)": "CREATE TABEL",
    "hello world": "not understood",
    "": "no table",
    "SELECT 1": "not understood",
    "CREATE VIEW v AS SELECT 1": "not understood",
    "CREATE TABLE visits AS SELECT 1": "not understood",
    "CREATE DOMAIN d AS text CHECK (VALUE <> '')": "CREATE DOMAIN",
    f"CREATE TABLE visits ({ID}); CREATE TABLE Visits (room int)": "visits: two tables",
    f"CREATE TABLE visits ({ID}); DROP TABLE visits": "visits: the table is dropped",
    f"CREATE TABLE visits ({ID}, room int, Room int)": "visits.room: two columns",
    "CREATE TABLE \"a/b\" (id int)": "cannot be a file",
    f"CREATE TABLE visits ({ID}) PARTITION BY RANGE (visit_id)": "visits: the table option",
    f"CREATE TABLE visits ({ID}) INHERITS (events)": "visits: the table option",
    "CREATE TABLE visits (LIKE events)": "visits: (LIKE events)",
    f"CREATE TABLE visits ({ID}); ALTER TABLE visits ADD COLUMN room int": "visits: ALTER TABLE",
    f"CREATE TABLE visits ({ID}); ALTER TABLE visits DROP CONSTRAINT c": "visits: ALTER TABLE",
    "ALTER TABLE visits ADD PRIMARY KEY (a)": "no table visits",
    # types
    **{
        f"CREATE TABLE visits ({ID}, reading {written})": "visits.reading"
        for written in ("json", "jsonb", "bytea", "int[]", "interval", "time", "money", "bit(3)", "inet", "integr", "xml", "numeric(50,2)", "timestamptz")
    },
    f"CREATE TABLE visits ({ID}, total int GENERATED ALWAYS AS (visit_id * 2) STORED)": "visits.total: a generated column",
    # keys
    "CREATE TABLE visits (a int, b int, PRIMARY KEY (a, b))": "visits: the composite primary key (a, b)",
    "CREATE TABLE visits (a int PRIMARY KEY, b int PRIMARY KEY)": "two primary keys",
    "CREATE TABLE visits (a date PRIMARY KEY)": "visits.a: a primary key of type date",
    f"CREATE TABLE visits ({ID} CHECK (visit_id > 3))": "visits.visit_id: a CHECK on a primary key",
    f"CREATE TABLE visits ({ID}, ward_id int REFERENCES wards)": "visits.ward_id: references the table wards, which does not exist; the tables are visits",
    "CREATE TABLE wards (n int); CREATE TABLE visits (n int REFERENCES wards)": "visits.n: references wards, which has no primary key",
    "CREATE TABLE wards (id int PRIMARY KEY, n int UNIQUE); CREATE TABLE visits (n int REFERENCES wards (n))": "not the primary key",
    "CREATE TABLE wards (id int PRIMARY KEY); CREATE TABLE visits (id int PRIMARY KEY REFERENCES wards)": "visits.id: a primary key that is",
    "CREATE TABLE wards (id uuid PRIMARY KEY); CREATE TABLE visits (n int REFERENCES wards)": "visits.n: is integer, but wards.id is uuid",
    "CREATE TABLE wards (id char(9) PRIMARY KEY); CREATE TABLE visits (n char(3) REFERENCES wards)": "visits.n: is char(3)",
    "CREATE TABLE wards (id int PRIMARY KEY); CREATE TABLE visits (n int REFERENCES wards REFERENCES wards)": "references two tables",
    "CREATE TABLE wards (id int PRIMARY KEY); CREATE TABLE visits (n int REFERENCES wards CHECK (n > 2))": "a CHECK on a foreign key",
    "CREATE TABLE wards (id int PRIMARY KEY); CREATE TABLE visits (a int, b int, FOREIGN KEY (a, b) REFERENCES wards)": "composite foreign key (a, b)",
    "CREATE TABLE wards (id int PRIMARY KEY); CREATE TABLE visits (a int, FOREIGN KEY (b) REFERENCES wards)": "no column b",
    "CREATE TABLE a (id int PRIMARY KEY, b int REFERENCES b); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a)": "a -> b -> a",
    "CREATE TABLE staff (id int PRIMARY KEY, boss int NOT NULL REFERENCES staff)": "staff.boss: a reference to its own table",
    "CREATE TABLE staff (id int PRIMARY KEY, boss int UNIQUE REFERENCES staff)": "UNIQUE (boss)",
    # unique
    f"CREATE TABLE visits ({ID}, room int, bed int, UNIQUE (room, bed))": "visits: UNIQUE (room, bed) mixes",
    f"CREATE TABLE visits ({ID}, share double precision UNIQUE)": "visits.share: a UNIQUE double",
    f"CREATE TABLE visits ({ID}, UNIQUE NULLS NOT DISTINCT (visit_id))": "NULLS NOT DISTINCT",
    f"CREATE TABLE visits ({ID}, name text); CREATE UNIQUE INDEX u ON visits (lower(name))": "visits: UNIQUE (LOWER(name))",
    f"CREATE TABLE visits ({ID}, name text); CREATE UNIQUE INDEX u ON visits (name) WHERE visit_id > 3": "partial",
    f"CREATE TABLE visits ({ID}, room int, EXCLUDE USING gist (room WITH =))": "visits: EXCLUDE",
    "CREATE TABLE w (id int PRIMARY KEY); CREATE TABLE v (a int REFERENCES w, b int REFERENCES w, c int REFERENCES w, UNIQUE (a, b), UNIQUE (b, c))": "shares",
    # checks
    **{
        f"CREATE TABLE visits ({ID}, low int, high int, name text, seen date, code uuid, ok boolean, CHECK ({check}))": place
        for check, place in {
            "low < high": "visits: CHECK (low < high)",
            "length(name) > 3": "visits: CHECK",
            "name LIKE 'a%'": "visits: CHECK",
            "low + 1 > 3": "visits: CHECK",
            "low > 3 OR high > 3": "visits: CHECK",
            "low > 3 OR low < 1": "visits: CHECK",
            "NOT low BETWEEN 1 AND 2": "visits: CHECK",
            "seen > CURRENT_DATE": "visits: CHECK",
            "low IN (1, high)": "visits: CHECK",
            "low IN (SELECT 1)": "visits: CHECK",
            "depth > 1": "visits: there is no column depth",
            "low > 'tall'": "visits.low: a CHECK compares integer with 'tall'",
            "seen > 'soon'": "visits.seen: a CHECK compares date with 'soon'",
            "name > 'a'": "visits.name",
            "name <> 'a'": "visits.name",
            "name = 3": "visits.name",
            "low <> 3": "visits.low",
            "low > 3 AND low < 4": "visits.low: its CHECKs leave no value",
            "name = 'a' AND name = 'b'": "visits.name: its CHECKs leave no value",
            "code = 'a'": "visits.code",
            "ok > FALSE": "visits.ok",
        }.items()
    },
    f"CREATE TABLE visits ({ID}, name varchar(2) CHECK (name IN ('abc')))": "longer than varchar(2)",
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_refused(text):
    with pytest.raises(ValueError) as caught:
        read_sql(text)
    message = str(caught.value)
    assert (
        REFUSED[text] in message
        and "\n" not in message
        and ": " in message
        and "; " in message
        or "line" in REFUSED[text]
        and "line" in message
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": {"nurses": 5}}, "rows: there is no table nurses; the tables are doctors, patients"),
        ({"rows": {"doctors": 0}}, "rows: doctors=0"),
        ({"rows": {"doctors": 2**31}}, "rows: doctors=2147483648"),
        ({"rows": {"doctors": 2**31 - 1}}, "too many"),
        ({"scale": 0.0}, "scale: expected a number above 0"),
        ({"scale": float("nan")}, "scale: expected a number above 0"),
        ({"dialect": "cobol"}, "dialect: 'cobol' is not known"),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError) as caught:
        read_sql(CLINIC, **arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dialect", "text", "message"),
    [
        ("sqlite", "CREATE TABLE visits (visit_id, room int)", "visits.visit_id: the column has no type"),
        ("mysql", "CREATE TABLE visits (tags SET('a', 'b'))", "visits.tags: type SET"),
        ("mysql", "CREATE TABLE visits (name varchar(90), UNIQUE KEY u (name(10)))", "visits: UNIQUE"),
        ("duckdb", "CREATE TABLE visits (place STRUCT(x int))", "visits.place: type STRUCT"),
    ],
)
def test_refused_in_other_dialects(dialect, text, message):
    with pytest.raises(ValueError) as caught:
        read_sql(text, dialect)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_narrow_keys_are_refused():
    text = "CREATE TABLE wards (id int PRIMARY KEY); CREATE TABLE beds (ward_id smallint REFERENCES wards)"
    with pytest.raises(ValueError, match="beds.ward_id: smallint cannot number 40000 rows of wards; widen it"):
        read_sql(text, rows={"wards": 40000})
    with pytest.raises(ValueError, match="rows: wards=40000 is too many, its primary key allows 32767"):
        read_sql("CREATE TABLE wards (id smallint PRIMARY KEY, n int)", rows={"wards": 40000})
    with pytest.raises(ValueError, match=r"rows: wards=40 is too many, UNIQUE \(code\) allows 36"):
        read_sql("CREATE TABLE wards (id int PRIMARY KEY, code char(1) UNIQUE)", rows={"wards": 40})
