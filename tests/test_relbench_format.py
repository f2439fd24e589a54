"""What is on disk is RelBench's format, read back with other readers."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree
from datetime import date

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fake_database import ROWS, fake_database, sql_catalog

from jaxrel import relbench
from jaxrel.catalog import Catalog
from jaxrel.convert import to_arrow
from jaxrel.files import read_digest
from jaxrel.inspect import inspect, inspect_html
from jaxrel.relbench import write_plain, write_relbench
from jaxrel.validate import validate


@pytest.fixture(scope="module")
def db():
    return fake_database()


@pytest.fixture(scope="module")
def written(db, tmp_path_factory):
    return write_relbench(db, tmp_path_factory.mktemp("corpus") / "jaxrel-0", digest={"seed": 3, "index": 0})


def test_manifest(db, written):
    manifest = yaml.safe_load((written / "manifest.yaml").read_text())
    assert list(manifest) == ["name", "manifest_version", "description", "val_timestamp", "test_timestamp", "tables"]
    assert manifest["name"] == "jaxrel-0" and manifest["manifest_version"] == 1
    val, test = date.fromisoformat(manifest["val_timestamp"]), date.fromisoformat(manifest["test_timestamp"])
    first, last = (date.fromisoformat(str(np.datetime64(int(t), "s"))[:10]) for t in (db.time[db.time > 0].min(), db.time.max()))
    assert first < val < test < last
    assert 0.75 < (val - first) / (last - first) < 0.82 and 0.85 < (test - first) / (last - first) < 0.92
    child = Catalog.default(db.schema).tables[2]
    assert manifest["tables"][child.name] == {
        "pkey": child.primary_key,
        "time_col": "event_time",
        "fkeys": {fk.name: fk.parent for fk in child.foreign_keys},
    }


def test_tables_are_read_back_as_they_were(db, written):
    tables = to_arrow(db)
    assert {path.stem for path in (written / "db").iterdir()} == set(tables)
    for name, table in tables.items():
        assert pq.read_table(written / "db" / f"{name}.parquet").cast(table.schema).equals(table)
        count = duckdb.sql(f"SELECT count(*) FROM '{written / 'db' / name}.parquet'").fetchall()
        assert count == [(table.num_rows,)]
    child = list(tables)[2]
    metadata = pq.read_schema(written / "db" / f"{child}.parquet").metadata
    assert json.loads(metadata[b"pkey_col"]) == f"{child}_id" and json.loads(metadata[b"time_col"]) == "event_time"
    assert len(json.loads(metadata[b"fkey_col_to_pkey_table"])) == 4


def test_codes_have_a_dictionary_and_keys_are_stored_as_differences(db, written):
    for words, (name, table) in zip(Catalog.default(db.schema).tables, to_arrow(db).items(), strict=True):
        keys = {words.primary_key, *(fk.name for fk in words.foreign_keys)}
        group = pq.ParquetFile(written / "db" / f"{name}.parquet").metadata.row_group(0)
        for c in range(group.num_columns):
            column = group.column(c)
            assert ("RLE_DICTIONARY" in column.encodings) == pa.types.is_dictionary(table[column.path_in_schema].type)
            assert ("DELTA_BINARY_PACKED" in column.encodings) == (column.path_in_schema in keys)


def test_scores(db, written):
    scores, catalog = json.loads((written / "scores.json").read_text()), Catalog.default(db.schema)
    for t, words in enumerate(catalog.tables):
        assert list(scores[words.name]) == [column.name for column in words.columns]
        entries, rows = list(scores[words.name].values()), slice(db.schema.row_offset[t], db.schema.row_offset[t] + ROWS[t])
        assert [entry["is_source_node"] for entry in entries] == [True, False, False, False, False]
        real = db.values[0, rows][~db.missing[0, rows]]
        assert entries[0]["n_unique"] == np.unique(real).size and entries[0]["n_classes"] == 0
        assert entries[0]["std"] == pytest.approx(real.std(), rel=1e-4)
        counts = np.bincount(db.values[2, rows][~db.missing[2, rows]].astype(int))
        assert entries[2]["n_classes"] == 4 and entries[2]["majority_frac"] == pytest.approx(counts.max() / counts.sum(), abs=1e-5)
        assert entries[3]["n_classes"] == 2


def test_provenance(db, written):
    assert read_digest(written) == {"seed": 3, "index": 0}
    content, child = json.loads((written / "jaxrel.json").read_text()), Catalog.default(db.schema).tables[2]
    keys = [content["tables"][child.name]["foreign_keys"][fk.name] for fk in child.foreign_keys]
    assert [key["law"] for key in keys] == ["cluster", "slot", "degree", "tree"] and keys[0]["nullable"]
    assert keys[1]["most"] == db.schema.fk_capacity[2, 1] and keys[2]["degrees"] == "zipf"
    graph = content["causal_graph"][child.name]
    assert [5, 6, "linear"] in [edge[:3] for edge in graph["edges"]] and len(graph["nodes"]) == 7
    assert graph["gathers"] == [
        {"node": 5, "foreign_key": child.foreign_keys[1].name, "parent": child.foreign_keys[1].parent, "parent_node": 3}
    ]
    assert graph["traits"] == [{"node": 0, "table": child.name, "foreign_key": child.foreign_keys[0].name}]
    assert content["causal_graph"][child.foreign_keys[0].parent]["traits"] == graph["traits"]
    names = [column.name for column in child.columns]
    assert graph["columns"] == {name: [c, 0] for c, name in enumerate(names)}
    assert graph["missing"] == {names[1]: names[0], names[3]: names[3]}, "column 4 has a driver, but no missing values"
    series = {table: [n for n, node in enumerate(part["nodes"]) if "series" in node] for table, part in content["causal_graph"].items()}
    assert list(series.values()) == [[0], [], [0]], "only exogenous nodes are series: what the key's trait shows, of either end"


def test_card_and_diagram(db, written):
    card = (written / "README.md").read_text()
    assert all(f"`{table.name}`" in card for table in Catalog.default(db.schema).tables) and "seed: `3`" in card
    xml.etree.ElementTree.parse(written / "schema.svg")


def test_same_database_same_bytes(db, written, tmp_path):
    again = write_relbench(db, tmp_path / "jaxrel-0", digest={"seed": 3, "index": 0})
    files = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((written / path).read_bytes() == (again / path).read_bytes() for path in files)
    assert str(tmp_path).encode() not in b"".join((again / path).read_bytes() for path in files)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("catalog", [None, sql_catalog()])
def test_every_rule_holds(timed, catalog, tmp_path):
    if not timed and catalog is not None:
        catalog = dataclasses.replace(catalog, tables=tuple(dataclasses.replace(t, time_column=None) for t in catalog.tables))
    assert validate(write_relbench(fake_database(timed=timed), tmp_path / "jaxrel-1", catalog)) == []


def test_refusals_leave_nothing(db, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="does not fit its capacity"):
        write_relbench(db.replace(fits=np.bool_(False)), tmp_path / "a-0")
    with pytest.raises(ValueError, match="synthetic"):
        write_relbench(db, tmp_path / "synthetic-0")
    with pytest.raises(ValueError, match="span 0 days"):
        write_relbench(db.replace(time=np.where(db.time > 0, 1_300_000_000, 0).astype(np.int32)), tmp_path / "a-0")
    monkeypatch.setattr(relbench, "MAX_FOREIGN_KEYS", 3)
    with pytest.raises(ValueError, match="4 foreign keys"):
        write_relbench(db, tmp_path / "a-0")
    monkeypatch.setattr(relbench, "_card", lambda *_: 1 / 0)
    monkeypatch.setattr(relbench, "MAX_FOREIGN_KEYS", 5)
    with pytest.raises(ZeroDivisionError):
        write_relbench(db, tmp_path / "deep" / "a-0")
    assert not list(tmp_path.iterdir())


def test_plain_holds_what_was_declared(db, tmp_path):
    folder = write_plain(db, tmp_path / "shop-0", sql_catalog(), digest={"seed": 1})
    assert (folder / "schema.sql").read_text() == sql_catalog().sql and read_digest(folder) == {"seed": 1}
    orphans = duckdb.sql(
        f"SELECT count(*) FROM '{folder}/db/purchase.parquet' WHERE shop_code NOT IN (SELECT code FROM '{folder}/db/shop.parquet')"
    ).fetchall()
    assert orphans == [(0,)]
    assert validate(folder) == []


def test_inspection_names_everything(db, written, tmp_path):
    text, page = inspect(written), inspect_html(written)
    for table in Catalog.default(db.schema).tables:
        assert all(word in text and word in page for word in (table.name, *(column.name for column in table.columns)))
    assert "<svg" in page and "jaxrel-0: 3 tables, 4,200 rows" in inspect(written.parent)
    assert "purchase" in inspect(write_plain(db, tmp_path / "shop-0", sql_catalog()))
    with pytest.raises(ValueError, match="no such folder"):
        inspect(tmp_path / "nowhere")
