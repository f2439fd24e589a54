"""Arrow tables, data frames and graphs say what the arrays say."""

from __future__ import annotations

import dataclasses
import keyword

import duckdb
import jax
import networkx as nx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from fake_database import KINDS, ROWS, fake_database, sql_catalog

from jaxrel import nouns
from jaxrel.catalog import Catalog
from jaxrel.convert import to_arrow, to_networkx, to_pandas
from jaxrel.types import NO_ROW, Kind


@pytest.fixture(scope="module")
def db():
    return fake_database()


def test_default_names_are_identifiers_and_distinct(db):
    catalog = Catalog.default(db.schema)
    assert len({table.name for table in catalog.tables}) == 3
    for table in catalog.tables:
        names = [table.primary_key, table.time_column, *(fk.name for fk in table.foreign_keys), *(c.name for c in table.columns)]
        names = [name for name in names if name is not None]
        assert len(set(names)) == len(names)
        assert all(name.isidentifier() and not keyword.iskeyword(name) and name != "identifier" for name in names)
        assert table.primary_key == f"{table.name}_id"
        for column in table.columns:
            assert len(set(column.vocabulary)) == len(column.vocabulary) == (4 if column.kind == Kind.CATEGORICAL else 0)
    first, second, child = catalog.tables
    assert [fk.name for fk in child.foreign_keys] == [
        f"{first.name}_id",
        f"{second.name}_id",
        f"{second.name}_id_2",
        f"parent_{child.name}_id",
    ]
    assert [fk.nullable for fk in child.foreign_keys] == [True, False, False, True]


def test_default_names_follow_key_and_id_alone(db):
    names = [table.name for table in Catalog.default(db.schema).tables]
    assert names == [table.name for table in Catalog.default(db.schema).tables]
    assert names != [table.name for table in Catalog.default(fake_database(1).schema).tables]
    fewer = db.schema.replace(table_count=np.int32(2))
    assert [table.name for table in Catalog.default(fewer).tables] == names[:2]


def test_word_lists_are_fit_for_names():
    assert len(set(nouns.TABLES)) == len(nouns.TABLES) >= 320
    reserved = {word for (word,) in duckdb.sql("SELECT keyword_name FROM duckdb_keywords()").fetchall()}
    assert not reserved & set(nouns.TABLES)
    n = len(nouns.LABELS)
    assert all(n % i for i in range(2, n)) and len(set(nouns.LABELS)) == n
    for words in (nouns.TABLES, nouns.QUALITIES, nouns.MEASURES, nouns.GROUPS, nouns.LABELS):
        assert all(word.isidentifier() and word.islower() and not keyword.iskeyword(word) for word in words)


def test_arrow_holds_the_real_rows_of_every_kind(db):
    catalog, tables = Catalog.default(db.schema), to_arrow(db)
    types = [pa.float32(), pa.int64(), pa.dictionary(pa.int32(), pa.string()), pa.bool_(), pa.float32()]
    for t, words in enumerate(catalog.tables):
        table, rows = tables[words.name], slice(db.schema.row_offset[t], db.schema.row_offset[t] + ROWS[t])
        assert table.num_rows == ROWS[t]
        assert table[words.primary_key].to_pylist() == list(range(ROWS[t]))
        for c, column in enumerate(words.columns):
            array, missing, values = table[column.name].combine_chunks(), db.missing[c, rows], db.values[c, rows]
            assert array.type == types[c]
            np.testing.assert_array_equal(array.is_null().to_numpy(zero_copy_only=False), missing)
            if KINDS[c] == Kind.CATEGORICAL:
                assert array.dictionary.to_pylist() == list(column.vocabulary)
                array = array.indices
            found = array.drop_null().cast(pa.float32()).to_numpy(zero_copy_only=False)
            np.testing.assert_array_equal(found, values[~missing])
        for k, fk in enumerate(words.foreign_keys):
            expected = [None if row == NO_ROW else int(row) for row in db.links.parent_row[k, rows]]
            assert table[fk.name].to_pylist() == expected and table[fk.name].type == pa.int64()
        if words.time_column is not None:
            assert table[words.time_column].type == pa.timestamp("us")
            seconds = table[words.time_column].to_numpy().astype("datetime64[s]").astype(np.int64)
            np.testing.assert_array_equal(seconds, db.time[rows])


def test_pandas_keeps_types_and_missing_values(db):
    for frame, table in zip(to_pandas(db).values(), to_arrow(db).values(), strict=True):
        kinds = [frame[name].dtype for name in frame.columns[-5:]]
        assert kinds[0] == np.float32 and kinds[1] == pd.Int64Dtype() and isinstance(kinds[2], pd.CategoricalDtype)
        assert kinds[3] == pd.BooleanDtype() and kinds[4] == np.float32
        assert frame.iloc[:, 0].dtype == np.int64
        assert frame.isna().sum().tolist() == [column.null_count for column in table.columns]


def test_a_batch_is_refused(db):
    batch = jax.tree.map(lambda x: np.stack([x, x]), db)
    for convert in (to_arrow, to_pandas, to_networkx):
        with pytest.raises(ValueError, match="batch of shape"):
            convert(batch)


def test_a_catalog_of_another_schema_is_refused(db):
    catalog = Catalog.default(db.schema)
    with pytest.raises(ValueError, match="names 2 tables"):
        to_arrow(db, Catalog(catalog.tables[:2]))
    with pytest.raises(ValueError, match="are not those of the schema"):
        to_arrow(db, Catalog((catalog.tables[2], *catalog.tables[:2])))


def test_networks(db):
    graphs = to_networkx(db)
    schema, scm = graphs["schema"], graphs["scm"]
    assert set(schema.edges) == {(0, 2), (1, 2), (2, 2)} and len(schema.edges[1, 2]["foreign_keys"]) == 2
    laws = schema.edges[0, 2]["laws"] + schema.edges[1, 2]["laws"] + schema.edges[2, 2]["laws"]
    most = int(db.schema.fk_capacity[2, 1])
    assert laws == ({"law": "cluster"}, {"law": "slot", "most": most}, {"law": "degree", "degrees": "zipf"}, {"law": "tree"})
    assert nx.is_directed_acyclic_graph(scm) and len(scm) == 17
    assert set(scm.predecessors((2, 5))) == {(1, 3)} and scm.edges[(1, 3), (2, 5)]["foreign_key"] == 1
    assert set(scm.predecessors((2, 6))) == {(2, 5)} and scm.edges[(2, 5), (2, 6)]["family"] == "linear"
    assert scm.nodes[2, 5]["kind"] == "gather" and scm.nodes[0, 0]["kind"] == "exogenous"
    trait = 2, Catalog.default(db.schema).tables[2].foreign_keys[0].name
    assert dict(scm.nodes("trait")) == {node: trait if node in ((0, 0), (2, 0)) else None for node in scm}
    observed = [name for _, columns in scm.nodes("columns") for name in columns]
    assert observed == [column.name for table in Catalog.default(db.schema).tables for column in table.columns]
    assert set(to_networkx(db.replace(scm=None))) == {"schema"}


def test_sql_names_types_order_and_natural_keys(db):
    catalog, tables = sql_catalog(), to_arrow(db, sql_catalog())
    shop, seller, purchase = tables.values()
    assert tuple(shop.column_names) == catalog.tables[0].order
    assert shop["shop_price"].type == pa.decimal128(8, 2) and shop["shop_count"].type == pa.int16()
    assert shop["code"].type == pa.string() and pc.count_distinct(shop["code"]).as_py() == ROWS[0]
    assert seller["hired"].type == pa.date32() and purchase["placed"].type == pa.timestamp("us")
    assert seller["id"].type == purchase["seller_id"].type == pa.int32() and purchase["id"].type == pa.int64()
    assert seller["id"].to_pylist() == list(range(1, ROWS[1] + 1))
    row = db.links.parent_row[:, db.schema.row_offset[2] : db.schema.row_offset[2] + ROWS[2]]
    codes = shop["code"].to_pylist()
    assert purchase["shop_code"].to_pylist() == [None if r == NO_ROW else codes[r] for r in row[0]]
    assert purchase["helper_id"].to_pylist() == (row[2] + 1).tolist()


def test_a_foreign_key_has_its_own_declared_type(db):
    catalog = sql_catalog()
    keys = tuple(dataclasses.replace(fk, type="bigint" if fk.name == "seller_id" else "") for fk in catalog.tables[2].foreign_keys)
    catalog = dataclasses.replace(catalog, tables=(*catalog.tables[:2], dataclasses.replace(catalog.tables[2], foreign_keys=keys)))
    purchase = to_arrow(db, catalog)["purchase"]
    assert purchase["seller_id"].type == pa.int64() and purchase["helper_id"].type == pa.int32()


def test_surrogates_keep_natural_keys_as_text(db):
    tables, plain = to_arrow(db, sql_catalog(), surrogate=True), to_arrow(db, sql_catalog())
    shop, _, purchase = tables.values()
    assert shop["code"].to_pylist() == list(range(ROWS[0])) and shop["code_text"].equals(plain["shop"]["code"])
    assert purchase["shop_code"].type == pa.int64() and shop["shop_price"].type == pa.float64()


def test_conversion_is_fast(db):
    """A loop over rows would take seconds for a million cells; the bound leaves room for a busy machine."""
    import time

    offset = np.array([0, 200_704, 401_408, 602_112], np.int32)
    wide = {"values": np.zeros((6, 602_112), np.float32), "missing": np.zeros((6, 602_112), bool), "time": np.zeros(602_112, np.int32)}
    links = db.links.replace(parent_row=np.zeros((5, 602_112), np.int32))
    large = db.replace(schema=db.schema.replace(row_count=np.array([200_000] * 3 + [0]), row_offset=offset), links=links, **wide)
    to_arrow(large)
    start = time.perf_counter()
    tables = to_arrow(large)
    seconds = time.perf_counter() - start
    assert sum(table.num_rows * table.num_columns for table in tables.values()) > 4_000_000
    assert seconds < 1.0
