"""Every rule is broken once, and the line that says so is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fake_database import fake_database, sql_catalog

from jaxrel.catalog import Catalog
from jaxrel.relbench import write_plain, write_relbench
from jaxrel.validate import validate

FIRST, SECOND, CHILD = Catalog.default(fake_database().schema).tables


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_relbench(fake_database(), tmp_path_factory.mktemp("whole") / "jaxrel-0")


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "jaxrel-0"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_plain(fake_database(), tmp_path_factory.mktemp("plain") / "shop-0", sql_catalog())


def change(folder: Path, table: str, column: str, new: Callable[[pa.ChunkedArray], pa.Array], name: str | None = None) -> None:
    path = folder / "db" / f"{table}.parquet"
    old = pq.read_table(path)
    pq.write_table(old.set_column(old.column_names.index(column), name or column, new(old[column])), path)


def put(values: pa.ChunkedArray, row: int, value: object) -> pa.Array:
    array = values.to_pylist()
    array[row] = value
    return pa.array(array, values.type)


def swap(values: pa.ChunkedArray) -> pa.Array:
    order = np.arange(len(values))
    order[[3, 4]] = 4, 3
    return values.combine_chunks().take(pa.array(order))


def manifest(folder: Path, edit: Callable[[dict], object]) -> None:
    content = yaml.safe_load((folder / "manifest.yaml").read_text())
    edit(content)
    (folder / "manifest.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


TABLES = {
    "shuffled primary key": (CHILD.name, CHILD.primary_key, swap, "does not run from 0 to n - 1: row 3 has 4"),
    "null primary key": (CHILD.name, CHILD.primary_key, lambda x: put(x, 5, None), "has 1 nulls"),
    "text primary key": (CHILD.name, CHILD.primary_key, lambda x: x.cast(pa.string()), "not an integer"),
    "dangling key": (CHILD.name, CHILD.foreign_keys[1].name, lambda x: put(x, 9, 500), "1 values that are no row of"),
    "negative key": (CHILD.name, CHILD.foreign_keys[1].name, lambda x: put(x, 9, -1), "1 values that are no row of"),
    "float key": (CHILD.name, CHILD.foreign_keys[1].name, lambda x: x.cast(pa.float64()), "is of type double, not an integer"),
    "unsorted time": (CHILD.name, "event_time", lambda x: pa.array(x.to_numpy()[::-1].copy()), "is not sorted: row"),
    "missing time first": (CHILD.name, "event_time", lambda x: put(x, 0, None), "missing times before others"),
    "time zone": (CHILD.name, "event_time", lambda x: x.cast(pa.timestamp("us", "UTC")), "not a timestamp without time zone"),
    "date as time": (CHILD.name, "event_time", lambda x: x.cast(pa.date32(), safe=False), "not a timestamp without time zone"),
    "child first": (
        CHILD.name,
        "event_time",
        lambda x: pa.array(x.to_numpy() - np.timedelta64(40, "D")),
        f"are older than the row of {SECOND.name} that {SECOND.name}_id refers to",
    ),
    "year": (CHILD.name, "event_time", lambda x: pa.array(x.to_numpy() + np.timedelta64(365 * 40, "D")), "years outside 1902–2037"),
    "infinity": (FIRST.name, FIRST.columns[0].name, lambda x: put(x, 2, float("inf")), "has 1 infinite values"),
    "decimal": (FIRST.name, FIRST.columns[1].name, lambda x: x.cast(pa.decimal128(30, 2)), "which the clients cannot read"),
    "time of day": (FIRST.name, FIRST.columns[1].name, lambda x: pa.nulls(len(x), pa.time32("s")), "which the clients cannot read"),
}


def test_nothing_is_found_in_a_whole_database(whole, plain):
    assert validate(whole) == [] and validate(plain) == []


@pytest.mark.parametrize("case", TABLES)
def test_a_broken_table_is_found(folder, case):
    table, column, new, line = TABLES[case]
    change(folder, table, column, new)
    found = validate(folder)
    assert any(line in one and table in one for one in found), found


@pytest.mark.parametrize("name", ["identifier", "two words", "class", "größe"])
def test_a_bad_column_name_is_found(folder, name):
    change(folder, FIRST.name, FIRST.columns[4].name, lambda x: x, name)
    assert any("is not allowed" in line for line in validate(folder))


MANIFESTS = {
    "unknown key": (lambda m: m.update(license="MIT"), "'license' is no key"),
    "unknown table key": (lambda m: m["tables"][FIRST.name].update(rows=7), f"'rows' of table {FIRST.name} is no key"),
    "missing key": (lambda m: m.pop("val_timestamp"), "'val_timestamp' is missing"),
    "null keys": (lambda m: m["tables"][FIRST.name].update(fkeys=None), "not a mapping"),
    "name": (lambda m: m.update(name="jaxrel-1"), "the folder is called 'jaxrel-0'"),
    "version": (lambda m: m.update(manifest_version=2), "manifest_version is 2"),
    "time part": (lambda m: m.update(val_timestamp="2011-05-08 00:00:00"), "not exactly YYYY-MM-DD"),
    "swapped": (lambda m: m.update(val_timestamp=m["test_timestamp"], test_timestamp=m["val_timestamp"]), "is not before"),
    "outside": (lambda m: m.update(test_timestamp="2030-01-01"), "do not lie inside the events"),
    "no such date": (lambda m: m.update(test_timestamp="2011-02-31"), "cannot be checked"),
    "unknown parent": (lambda m: m["tables"][CHILD.name]["fkeys"].update(x="nowhere"), "refers to 'nowhere', which is no table"),
    "unknown column": (lambda m: m["tables"][FIRST.name].update(time_col="when"), "column when, which the manifest names, is missing"),
    "six keys": (lambda m: m["tables"][CHILD.name].update(fkeys={f"k{i}": FIRST.name for i in range(6)}), "6 foreign keys"),
    "missing table": (lambda m: m["tables"].update(extra={"pkey": None, "time_col": None, "fkeys": {}}), "db/extra.parquet: is missing"),
    "list": (lambda m: m.update(tables=[1]), "not of type dict"),
    "no table": (lambda m: m["tables"].update({FIRST.name: 3}), "is no mapping"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_broken_manifest_is_found(folder, case):
    edit, line = MANIFESTS[case]
    manifest(folder, edit)
    found = validate(folder)
    assert any(line in one for one in found), found


def test_broken_files_are_found(folder):
    path = folder / "db" / f"{CHILD.name}.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    (folder / "db" / "extra.parquet").write_bytes(b"")
    (folder / "db" / f"{FIRST.name}.parquet").unlink()
    (folder / "scores.json").write_text("{")
    lines = validate(folder)
    assert len(lines) == 4
    assert any(f"db/{CHILD.name}.parquet: cannot be read" in line for line in lines)
    assert "db/extra.parquet: belongs to no table" in lines and f"db/{FIRST.name}.parquet: is missing" in lines
    assert any("scores.json: cannot be read" in line for line in lines)


@pytest.mark.parametrize("name", ["manifest.yaml", "scores.json"])
def test_a_missing_file_is_found(folder, name):
    (folder / name).unlink()
    assert validate(folder) == [f"{name}: is missing"]


@pytest.mark.parametrize("text", ["", "[", "3", "{}", '{"digest": {}}'])
@pytest.mark.parametrize("name", ["manifest.yaml", "scores.json", "jaxrel.json"])
def test_unreadable_text_is_lines_and_no_traceback(folder, name, text):
    (folder / name).write_text(text)
    assert validate(folder) or (name, text) == ("scores.json", "{}")


def test_a_task_is_checked(folder):
    task = folder / "tasks" / "churn"
    task.mkdir(parents=True)
    content = {"name": "churn", "kind": "external", "task_type": "regression", "entity_table": FIRST.name, "entity_col": "who"}
    content |= {"target_col": "y", "time_col": "timestamp", "timedelta": "7 days", "sql": "SELECT 1", "manifest_version": 1}
    (task / "manifest.yaml").write_text(yaml.safe_dump(content))
    labels = pa.table({"timestamp": [1, 1, 2], "who": [0, 1, 0], "y": [0.0, 1.0, 2.0]})
    pq.write_table(labels, task / "train.parquet")
    assert validate(folder) == []
    pq.write_table(labels.take(pa.array([2, 1, 0])), task / "val.parquet")
    (task / "manifest.yaml").write_text(yaml.safe_dump({**content, "evaluator": "x", "entity_table": "nowhere"}))
    assert len(validate(folder)) == 3


def test_a_corpus_is_checked_database_by_database(folder):
    shutil.copytree(folder, folder.parent / "jaxrel-1")
    lines = validate(folder.parent)
    assert lines == ["jaxrel-1: manifest.yaml: name is 'jaxrel-0', but the folder is called 'jaxrel-1'"]


def test_folders_without_a_database(tmp_path):
    assert validate(tmp_path) == ["holds no database"]
    with pytest.raises(ValueError, match="there is no such folder"):
        validate(tmp_path / "nowhere")


PLAIN = {
    "repeated key": ("seller", "id", lambda x: put(x, 1, 1), "id is declared unique and repeats 1 values"),
    "null key": ("shop", "code", lambda x: put(x, 1, None), "code is declared NOT NULL"),
    "dangling natural key": ("purchase", "shop_code", lambda x: put(x, 1, "none"), "shop_code has 1 values that are no code of shop"),
    "dangling key": ("purchase", "helper_id", lambda x: put(x, 1, 0), "helper_id has 1 values that are no id of seller"),
    "too many children": ("purchase", "seller_id", lambda x: pa.repeat(x[0], len(x)), "seller_id gives one seller 3000 rows"),
    "null": ("shop", "shop_since", lambda x: put(x, 1, None), "shop_since is declared NOT NULL"),
    "bound": ("shop", "shop_count", lambda x: put(x, 1, 101), "outside the declared 0.0 … 100.0"),
    "label": ("shop", "shop_size", lambda x: put(x, 1, "tiny").dictionary_encode(), "undeclared value 'tiny'"),
    "infinity": ("shop", "shop_since", lambda x: put(x, 1, float("-inf")), "1 infinite values"),
    "column": ("shop", "shop_since", lambda x: x, "instead of"),
    "no uuid": ("shop", "code", lambda x: put(x, 1, "4711"), "code has 1 values that are no uuid"),
    "long text": ("shop", "shop_size", lambda x: put(x.cast(pa.string()), 1, "enormously"), "a value of 10 characters"),
    "another type": ("seller", "seller_open", lambda x: x.cast(pa.int16()), "seller_open is declared boolean and holds int16"),
}


@pytest.mark.parametrize("case", PLAIN)
def test_a_broken_plain_table_is_found(plain, tmp_path, case):
    folder = Path(shutil.copytree(plain, tmp_path / "shop-0"))
    table, column, new, line = PLAIN[case]
    if case == "label":
        change(folder, table, column, lambda x: put(x.cast(pa.string()), 1, "tiny"))
    else:
        change(folder, table, column, new, "renamed" if case == "column" else None)
    found = validate(folder)
    assert any(line in one and table in one for one in found), found
    assert json.loads((folder / "jaxrel.json").read_text())["format"] == "plain"


def test_a_repeated_pair_of_keys_is_found(plain, tmp_path):
    folder = Path(shutil.copytree(plain, tmp_path / "shop-0"))
    content = json.loads((folder / "jaxrel.json").read_text())
    keys = content["tables"]["purchase"]["foreign_keys"]
    keys["shop_code"]["unique"] = keys["helper_id"]["unique"] = ["shop_code", "helper_id"]
    (folder / "jaxrel.json").write_text(json.dumps(content))
    pairs = pq.read_table(folder / "db" / "purchase.parquet").select(["shop_code", "helper_id"]).drop_null().to_pylist()
    repeated = len(pairs) - len({tuple(pair.values()) for pair in pairs})
    line = f"shop_code, helper_id are declared unique together and repeat {repeated} times"
    assert repeated and any(line in one for one in validate(folder))
