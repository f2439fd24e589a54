"""Relational features against the SQL that says the same, and against the future, which must leave no trace."""

from __future__ import annotations

from typing import Any

import duckdb
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from fake_database import fake_database
from sampled import databases, each, later, small, tables, traced_once

from jaxrel.catalog import Catalog
from jaxrel.features import STATISTICS, Features, feature_count, feature_names, row_features
from jaxrel.real import from_pandas
from jaxrel.totals import total_children
from jaxrel.types import NO_ROW, NO_TIME, Database, Kind

ROWS = 40  # targets of each table


@pytest.fixture(scope="module")
def some() -> list[Database]:
    return list(each(databases("tiny")))[:5]


@pytest.fixture(scope="module")
def program() -> Any:
    """One program for all databases, tables, rows and times."""

    def features(db: Database, table: Any, rows: Any, seed: Any, hidden: Any) -> Features:
        return row_features(db, table, rows, seed, hidden=hidden)

    return traced_once(features)


def targets(db: Database, table: int, seed: int = 0, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a table, repeated ones too, and times of the database, some before the row's own."""
    rng = np.random.default_rng(seed)
    n, offset = int(db.schema.row_count[table]), int(db.schema.row_offset[table])
    row = rng.integers(0, n, rows).astype(np.int32)
    own = db.time[offset + row]
    any_time = rng.choice(np.concatenate([t.time for t in tables(db)]), rows)
    time = np.where(rng.random(rows) < 0.4, own, np.where(rng.random(rows) < 0.7, np.maximum(any_time, own), any_time))
    return row, time.astype(np.int32)


def no_secrets(db: Database) -> np.ndarray:
    return np.zeros(db.schema.column_kind.shape, bool)


class Sql:
    """What DuckDB says of the features of some rows."""

    def __init__(self, db: Database, table: int, rows: np.ndarray, time: np.ndarray) -> None:
        self.db, self.schema, self.table = db, db.schema, table
        self.sql = duckdb.connect()
        for t in tables(db):
            columns = {
                f"c{c}": pd.array(np.where(t.missing[c], None, t.values[c].astype(float)), "Float64") for c in range(t.values.shape[0])
            }
            keys = {f"k{k}": pd.array(np.where(row == NO_ROW, None, row), "Int64") for k, row in enumerate(t.parent_row)}
            frame = pd.DataFrame({"row": np.arange(t.time.size), "time": t.time.astype(np.int64), **keys, **columns})
            self.sql.register(f"t{t.index}", frame)
        self.sql.register("wanted", pd.DataFrame({"id": np.arange(rows.size), "row": rows, "seed": time.astype(np.int64)}))
        self.count = rows.size

    def seen(self, alias: str, t: int) -> str:
        return f"{alias}.time <= o.seed" if self.schema.has_time[t] else "true"

    def own(self) -> tuple[int, str]:
        t = self.table
        return t, f"(SELECT o.id, r.row, o.seed FROM wanted o JOIN t{t} r ON r.row = o.row AND {self.seen('r', t)})"

    def up(self, origin: tuple[int, str], k: int) -> tuple[int, str]:
        t, rows = origin
        p = int(self.schema.fk_parent[t, k])
        joined = f"{rows} o JOIN t{t} r ON r.row = o.row JOIN t{p} p ON p.row = r.k{k} AND {self.seen('p', p)}"
        return p, f"(SELECT o.id, p.row, o.seed FROM {joined})"

    def column(self, query: str) -> np.ndarray:
        """f64[M] by id; NaN where the query has none."""
        found = self.sql.execute(query).fetchnumpy()
        out = np.full(self.count, np.nan)
        out[found["id"]] = np.ma.filled(np.ma.asarray(found["x"]).astype(float), np.nan)
        return out

    def columns(self, origin: tuple[int, str], out: dict[str, np.ndarray], names: Any, prefix: str) -> None:
        t, rows = origin
        for c, column in enumerate(names[t].columns):
            out[f"{prefix}{column.name}"] = self.column(f"SELECT o.id, r.c{c} AS x FROM {rows} o JOIN t{t} r ON r.row = o.row")

    def children(self, origin: tuple[int, str], out: dict[str, np.ndarray], names: Any, prefix: str) -> None:
        t, rows = origin
        for c, k in np.argwhere(self.schema.fk_parent == t)[:4].tolist():
            key = f"{names[c].name}.{names[c].foreign_keys[k].name}"
            joined = f"FROM {rows} o LEFT JOIN t{c} r ON r.k{k} = o.row AND {self.seen('r', c)}"
            out[f"{prefix}count({key})"] = self.column(f"SELECT o.id, count(r.row) AS x {joined} GROUP BY o.id")
            if self.schema.has_time[c]:
                out[f"{prefix}recency({key})"] = self.column(f"SELECT o.id, any_value(o.seed) - max(r.time) AS x {joined} GROUP BY o.id")
            for i, column in enumerate(names[c].columns):
                laws = {"mean": "favg", "sum": "fsum", "min": "min", "max": "max", "std": "stddev_pop"}
                for name, law in laws.items() if column.kind != Kind.CATEGORICAL else ():
                    out[f"{prefix}{name}({key}.{column.name})"] = self.column(f"SELECT o.id, {law}(r.c{i}) AS x {joined} GROUP BY o.id")
                if column.kind in (Kind.CATEGORICAL, Kind.BOOLEAN):
                    counts = f"SELECT o.id, r.c{i} AS x, count(*) AS n {joined} WHERE r.c{i} IS NOT NULL GROUP BY o.id, x"
                    first = f"SELECT *, row_number() OVER (PARTITION BY id ORDER BY n DESC, x) AS place FROM ({counts})"
                    out[f"{prefix}mode({key}.{column.name})"] = self.column(f"SELECT id, x FROM ({first}) WHERE place = 1")

    def all(self, names: Any) -> dict[str, np.ndarray]:
        """Every feature of depth 2 by its name, NaN where it is missing."""
        out: dict[str, np.ndarray] = {}
        own = self.own()
        self.columns(own, out, names, "")
        self.children(own, out, names, "")
        for k, fk in enumerate(names[self.table].foreign_keys):
            parent = self.up(own, k)
            self.columns(parent, out, names, f"{fk.name}.")
            self.children(parent, out, names, f"{fk.name}.")
            for k_, fk_ in enumerate(names[parent[0]].foreign_keys):
                self.columns(self.up(parent, k_), out, names, f"{fk.name}.{fk_.name}.")
        return out


def compare(db: Database, table: int, found: Features, rows: np.ndarray, time: np.ndarray, catalog: Catalog | None = None) -> int:
    """Every feature with its SQL; how many cells were compared."""
    names, words = feature_names(db, table, catalog), (catalog or Catalog.default(db.schema)).tables
    expected, cells = Sql(db, table, rows, time).all(words), 0
    assert len(names) == found.values.shape[1]
    assert set(expected) == {name for name in names if name}
    for f, name in enumerate(names):
        values, missing = np.asarray(found.values[:, f]), np.asarray(found.missing[:, f])
        assert (values[missing] == 0).all()
        if not name:
            assert missing.all()
            continue
        np.testing.assert_array_equal(missing, np.isnan(expected[name]), err_msg=name)
        x = expected[name][~missing]
        if not any(f"{statistic}(" in name for statistic in ("mean", "sum", "std")):
            np.testing.assert_array_equal(values[~missing], x.astype(np.float32), err_msg=name)
        else:
            np.testing.assert_allclose(values[~missing], x, rtol=1e-5, atol=1e-9 * np.abs(x).max(initial=0), err_msg=name)
        cells += x.size
    return cells


def test_features_are_those_of_sql(some: list[Database], program: Any) -> None:
    cells = 0
    for db in some:
        for table in range(int(db.schema.table_count)):
            rows, time = targets(db, table)
            found = jax.device_get(program(db, table, rows, time, no_secrets(db)))
            assert found.values.shape == (ROWS, feature_count(small("tiny").capacity))
            cells += compare(db, table, found, rows, time)
    assert cells > 20_000, cells


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "plurel"])
def test_features_of_richer_priors_are_those_of_sql(name: str) -> None:
    features, cells = traced_once(row_features), 0
    for db in list(each(databases(name)))[:8]:
        for table in range(int(db.schema.table_count)):
            rows, time = targets(db, table)
            cells += compare(db, table, jax.device_get(features(db, table, rows, time)), rows, time)
    assert cells > 30_000, cells


@pytest.mark.parametrize("timed", [True, False])
def test_self_references_two_keys_to_one_parent_and_nulls(timed: bool) -> None:
    db = fake_database(timed=timed).replace(scm=None)
    for table in (1, 2):
        rows, time = targets(db, table, rows=60)
        found = jax.device_get(jax.jit(row_features)(db, table, rows, time))
        assert compare(db, table, found, rows, time) > 1000


def test_features_of_real_data() -> None:
    """Keys of text, keys to no row, times that are missing; of a row without a time nothing is ever seen."""
    rng = np.random.default_rng(1)
    shops = pd.DataFrame({"name": ["north", "south", "east"], "size": [3, 1, None]})
    moment = pd.Series(pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 10**6, 300), unit="s"))
    sales = pd.DataFrame(
        {
            "shop": rng.choice([*shops.name, "closed", None], 300),
            "at": moment.where(rng.random(300) < 0.8),
            "price": rng.lognormal(size=300),
            "kind": rng.choice(["a", "b", None], 300),
        }
    )
    real = from_pandas({"sale": sales, "shop": shops}, {"shop": "name"}, {"sale": {"shop": "shop"}}, {"sale": "at"})
    db = jax.device_get(real.database)
    for table, rows in ((0, np.arange(3)), (1, np.arange(300))):
        for at in (np.int32(np.quantile(moment.astype("int64") // 10**6, 0.5)), np.int32(NO_TIME)):
            time = np.full(rows.size, at, np.int32)
            found = jax.device_get(row_features(db, table, rows.astype(np.int32), time))
            assert compare(db, table, found, rows, np.minimum(time, NO_TIME - 1), real.catalog) > 10
    total = feature_names(db, 0, real.catalog).index("sum(sale.shop.price)")
    known = sales[sales["at"].notna()].groupby("shop").price.sum()
    found = row_features(db, 0, jnp.arange(3), jnp.full(3, NO_TIME, jnp.int32))
    np.testing.assert_allclose(found.values[:, total], known[shops.name], rtol=1e-6)


def test_the_future_leaves_no_trace(some: list[Database], program: Any) -> None:
    changed = 0
    for i, db in enumerate(some):
        span = np.concatenate([t.time for t in tables(db) if db.schema.has_time[t.index]] or [np.zeros(1, np.int32)])
        for table in range(int(db.schema.table_count)):
            rows, _ = targets(db, table, 1)
            for share in (0.3, 0.8):
                time = np.full(ROWS, np.quantile(span, share), np.int32)
                other = later(db, int(time[0]), np.random.default_rng(i))
                changed += int((other.values != db.values).sum())
                a, b = (jax.device_get(program(x, table, rows, time, no_secrets(db))) for x in (db, other))
                np.testing.assert_array_equal(a.missing, b.missing)
                np.testing.assert_allclose(a.values, b.values, rtol=1e-6)  # rows of the future move the blocks that sums are made of
    assert changed > 10_000


def test_the_past_does_leave_one(some: list[Database], program: Any) -> None:
    """So that the test above can fail."""
    for db in some:
        table = int(np.flatnonzero(np.asarray(db.schema.has_time))[-1])
        rows, _ = targets(db, table, 1)
        time = np.full(ROWS, db.time.max(), np.int32)
        other = later(db, int(np.median([t.time for t in tables(db) if t.index == table][0])), np.random.default_rng(0))
        a, b = (jax.device_get(program(x, table, rows, time, no_secrets(db))) for x in (db, other))
        assert not np.array_equal(a.values, b.values)


def test_hidden_columns_are_never_seen(some: list[Database], program: Any) -> None:
    for db in some[:3]:
        for hidden_table in range(int(db.schema.table_count)):
            hidden = no_secrets(db)
            hidden[hidden_table, 0] = True
            t = next(t for t in tables(db) if t.index == hidden_table)
            values, missing = np.array(db.values), np.array(db.missing)
            values[0, t.rows], missing[0, t.rows] = -7.0, np.arange(t.time.size) % 2 == 0
            other = db.replace(values=values, missing=missing)
            name = Catalog.default(db.schema).tables[hidden_table].columns[0].name
            for table in range(int(db.schema.table_count)):
                rows, time = targets(db, table, 2)
                a, b = (jax.device_get(program(x, table, rows, time, hidden)) for x in (db, other))
                jax.tree.map(np.testing.assert_array_equal, a, b)
                open_ = jax.device_get(program(db, table, rows, time, no_secrets(db)))
                gone = [n for n, x, y in zip(feature_names(db, table), a.missing.T, open_.missing.T, strict=True) if (x != y).any()]
                assert all(name in n for n in gone)
                assert gone or table != hidden_table


def test_shallower_features_are_the_first_of_the_deeper(some: list[Database]) -> None:
    db = some[0]
    features = jax.jit(row_features, static_argnames=("depth", "slots"))
    totals = jax.jit(total_children)(db)
    rows, time = targets(db, 0)
    deep = features(db, 0, rows, time, totals)
    for depth in (0, 1):
        found = features(db, 0, rows, time, depth=depth)
        width = feature_count(small("tiny").capacity, depth)
        assert found.values.shape == (ROWS, width) and len(feature_names(db, 0, depth=depth)) == width
        np.testing.assert_array_equal(found.missing, deep.missing[:, :width])
        np.testing.assert_allclose(found.values, deep.values[:, :width], rtol=1e-6)
    one = features(db, 0, rows, time, totals, depth=1, slots=1)
    names, all_names = feature_names(db, 0, depth=1, slots=1), feature_names(db, 0, depth=1)
    for f, name in enumerate(names):
        if name:
            np.testing.assert_allclose(one.values[:, f], deep.values[:, all_names.index(name)], rtol=1e-6)


def test_rows_that_are_not_there_say_nothing(some: list[Database], program: Any) -> None:
    db = some[0]
    rows = np.full(ROWS, NO_ROW, np.int32)
    rows[1] = db.schema.row_count[0]
    found = program(db, 0, rows, np.full(ROWS, 2**31 - 1, np.int32), no_secrets(db))
    assert np.asarray(found.missing).all() and not np.asarray(found.values).any()


def test_many_databases_side_by_side(some: list[Database], program: Any) -> None:
    batch = jax.tree.map(lambda *x: np.stack(x), *some[:3])
    rows, time = (np.stack(x) for x in zip(*(targets(db, 1) for db in some[:3]), strict=True))
    table = np.ones(3, np.int32)
    together = jax.jit(jax.vmap(lambda *x: row_features(*x)))(batch, table, rows, time)
    for b, db in enumerate(some[:3]):
        alone = program(db, 1, rows[b], time[b], no_secrets(db))
        np.testing.assert_array_equal(together.missing[b], alone.missing)
        np.testing.assert_allclose(together.values[b], alone.values, rtol=1e-6)


def test_arrays_of_numpy_one_time_for_all_and_no_rows(some: list[Database]) -> None:
    db, width = some[0], feature_count(small("tiny").capacity)
    for rows in ([0, 0], np.zeros(0, np.int64)):
        found = jax.eval_shape(lambda rows=rows: row_features(db, 0, rows, 5, hidden=no_secrets(db)))
        assert found.values.shape == found.missing.shape == (len(rows), width)


def test_what_cannot_be_asked_is_refused(some: list[Database]) -> None:
    db, rows = some[0], np.zeros(2, np.int32)
    for (table, row, time, more), match in (
        ((0, 0, 0, {}), r"rows: their shape is \(\); give one axis, i32\[M\]"),
        ((0, rows, np.zeros(3, np.int32), {}), r"seed_time: its shape is \(3,\); give one for all, or one for each of the 2 rows"),
        ((0, rows, np.array([10**18, 0]), {}), "seed_time: 0 … 1000000000000000000 is not in .*; give seconds since 1970"),
        ((9, rows, 0, {}), "table: 9 … 9 is not in -1 … 3; give the number of a table"),
        ((rows, rows, 0, {}), r"table: its shape is \(2,\); give one for all rows"),
        ((0, rows, 0, {"hidden": np.zeros((1, 1), bool)}), r"hidden: its shape is \(1, 1\); give bool\[T, C\], \(4, 6\)"),
    ):
        with pytest.raises(ValueError, match=match):
            row_features(db, table, row, time, **more)
    with pytest.raises(ValueError, match="table: 7 is none of the . tables"):
        feature_names(db, 7)


def test_bad_depths_are_refused(some: list[Database]) -> None:
    rows = jnp.zeros(1, jnp.int32)
    with pytest.raises(ValueError, match="depth: 3 is none of 0, 1 and 2"):
        row_features(some[0], 0, rows, rows, depth=3)
    with pytest.raises(ValueError, match="slots: 0 is too few"):
        feature_names(some[0], 0, slots=0)
    assert len(STATISTICS) == 6
