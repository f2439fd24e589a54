"""The preset of two tables: always the same sizes, and a small table on which the large one depends."""

from __future__ import annotations

import jax
import networkx as nx
import numpy as np
from sampled import databases, each, keys, small

import jaxrel
from jaxrel.types import NO_TABLE


def test_every_seed_gives_two_tables_of_these_sizes_and_one_key() -> None:
    preset = jaxrel.presets.load("hoppe")
    schema = jax.jit(jax.vmap(lambda key: jaxrel.sample_schema(key, preset.prior, preset.capacity)))(keys(256))
    assert np.asarray(schema.fits).all() and (np.asarray(schema.table_count) == 2).all()
    assert (np.asarray(schema.row_count) == [500, 100_000]).all() and (np.asarray(schema.is_activity) == [False, True]).all()
    assert (np.asarray(schema.fk_parent)[:, 1] == [0, *[NO_TABLE] * (preset.capacity.foreign_keys - 1)]).all()
    assert (np.asarray(schema.fk_parent)[:, 0] == NO_TABLE).all() and not np.asarray(schema.fk_null).any()
    assert len(np.unique(np.asarray(schema.column_count))) > 3, "everything else is drawn"


def test_its_test_size_is_that_of_default_s_programs() -> None:
    assert small("hoppe").capacity == small("default").capacity


def test_columns_of_the_large_table_descend_from_the_small_one_alone_through_the_key() -> None:
    reached = []
    for db in each(databases("hoppe")):
        graph = jaxrel.to_networkx(db)["scm"]
        given = [node for node in graph if node[0] == 0 and graph.nodes[node]["columns"]]
        heard = set().union(*(nx.descendants(graph, node) for node in given))
        columns = [name for node, names in graph.nodes("columns") if node[0] == 1 and node in heard for name in names]
        reached.append(len(columns))
        assert any(graph.nodes[node]["kind"] == "gather" for node in heard)
    assert min(reached) >= 1 and np.mean(reached) > 4, (min(reached), np.mean(reached))


def test_rows_of_one_parent_are_alike_in_some_column() -> None:
    """The share of a rank's variance that lies between parents, adjusted for their number, in the column that hears most of them."""
    best = []
    for db in each(databases("hoppe")):
        schema = db.schema
        rows = slice(int(schema.row_offset[1]), int(schema.row_offset[1]) + int(schema.row_count[1]))
        row, shares = db.links.parent_row[0, rows], []
        count = np.bincount(row)
        for values in db.values[: int(schema.column_count[1]), rows]:
            y = np.unique(values, return_inverse=True)[1] / len(values)
            between = np.sum(count * (np.bincount(row, y) / np.maximum(count, 1) - y.mean()) ** 2) / max(len(y) * y.var(), 1e-12)
            shares.append(1 - (1 - between) * (len(y) - 1) / (len(y) - np.count_nonzero(count)))
        best.append(max(shares))
    assert np.mean(np.array(best) > 0.2) > 0.9, np.quantile(best, [0.05, 0.1, 0.5])
