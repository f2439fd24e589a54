"""The child index against a search through all rows, and running totals against sums in double precision."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_database import fake_database
from sampled import databases, each, tables, traced_once

import jaxrel
from jaxrel.children import child_span, children_until, index_children
from jaxrel.totals import ChildTotals, span_totals, total_children
from jaxrel.types import NO_ROW, NO_TABLE, TILE, Database, Kind


@pytest.fixture(scope="module")
def some() -> list[Database]:
    return list(each(databases("tiny")))[:6]


def test_the_index_holds_the_children_of_every_row_in_the_order_of_time(some: list[Database]) -> None:
    index_of, span, until_ = traced_once(index_children), jax.jit(child_span), jax.jit(children_until)
    looked_at = 0
    for db in some:
        index = jax.device_get(index_of(db))
        for child in tables(db):
            for k in range(child.parent_row.shape[0]):
                parent = int(db.schema.fk_parent[child.index, k])
                n = int(db.schema.row_count[parent])
                start, stop = (np.asarray(x) for x in span(index, child.index, k, np.arange(n, dtype=np.int32)))
                times = np.random.default_rng(0).choice(np.concatenate([child.time, [-5, 2**31 - 1]]), n).astype(np.int32)
                until = np.asarray(until_(index, k, start, stop, times))
                for p in range(0, n, 7):
                    rows = np.flatnonzero(child.parent_row[k] == p)
                    np.testing.assert_array_equal(index.row[k, start[p] : stop[p]], child.rows.start + rows)
                    timed = bool(db.schema.has_time[child.index])
                    assert until[p] == ((child.time[rows] <= times[p]).sum() if timed else rows.size)
                    looked_at += rows.size
    assert looked_at > 1000


def test_nulls_and_tables_that_are_not_there_have_no_children() -> None:
    index = index_children(jax.tree.map(jnp.asarray, fake_database().replace(scm=None)))
    for table, row in ((2, NO_ROW), (NO_TABLE, 0)):
        start, stop = child_span(index, table, 1, jnp.full(3, row, jnp.int32))
        np.testing.assert_array_equal(start, stop)
        np.testing.assert_array_equal(children_until(index, 1, start, stop, jnp.full(3, 2**31 - 1, jnp.int32)), 0)


def test_batches_are_databases_side_by_side(some: list[Database]) -> None:
    batch = jax.tree.map(lambda *x: np.stack(x), *some)
    together = jax.device_get(jax.jit(jax.vmap(index_children))(batch))
    for b, db in enumerate(some):
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x, b=b: x[b], together), jax.device_get(index_children(db)))


def test_too_many_tables_and_rows_are_refused() -> None:
    db = fake_database().replace(scm=None)
    with pytest.raises(ValueError, match="more than the child index can number"):
        jax.eval_shape(index_children, db.replace(time=jax.ShapeDtypeStruct((2**29,), jnp.int32)))


def of_one_key(parent: np.ndarray, parents: int, columns: dict[str, np.ndarray]) -> tuple[Database, ChildTotals]:
    """A database of two tables, and its totals."""
    import pandas as pd

    child = pd.DataFrame({"p": parent, **columns})
    real = jaxrel.from_pandas(
        {"parent": pd.DataFrame({"id": range(parents)}), "child": child}, {"parent": "id"}, {"child": {"p": "parent"}}
    )
    return real.database, jax.jit(total_children)(real.database)


def test_totals_are_right_to_the_last_places_whatever_came_before() -> None:
    """Large beside small numbers, deviations far below the mean, cancelling sums: where differences of prefix sums fail."""
    rng = np.random.default_rng(3)
    n, parents = 20_000, 60
    parent = np.minimum(rng.zipf(1.3, n), parents) - 1
    columns = {
        "even": rng.normal(size=n),
        "heavy": np.sign(rng.normal(size=n)) * rng.pareto(0.4, n),
        "offset": 1e6 + 1e-1 * rng.normal(size=n),
        "scales": rng.normal(size=n) * 10.0 ** (parent % 12 - 6),
        "holes": np.where(rng.random(n) < 0.9, np.nan, rng.normal(size=n)),
        "class": rng.integers(0, 5, n).astype(str),
        "flag": rng.random(n) < 0.5,
    }
    db, totals = of_one_key(parent, parents, columns)
    start, stop = child_span(totals.index, 1, 0, jnp.arange(parents))
    for share in (10, 6, 1):
        taken = start + (stop - start) * share // 10
        of = jax.device_get(jax.jit(span_totals)(db, totals, jnp.int32(0), start, taken))
        for c, name in enumerate(columns):
            whole = np.asarray(db.values[c]).astype(np.float64), np.asarray(db.missing[c])
            for p in range(parents):
                rows = np.asarray(totals.index.row[0, int(start[p]) : int(taken[p])])
                x = whole[0][rows][~whole[1][rows]]
                assert of.count[c, p] == x.size
                if not x.size:
                    continue
                exact = float(np.sum(x.astype(np.longdouble)))
                np.testing.assert_allclose(of.sum[0][c, p], exact, rtol=2e-6, atol=1e-10 * np.abs(x).sum(), err_msg=f"{name} {p}")
                assert of.low[c, p] == x.min() and of.high[c, p] == x.max()
                deviation = np.sqrt(max(of.squares[0][c, p], 0) / x.size)
                np.testing.assert_allclose(deviation, x.std(), rtol=3e-6, atol=1e-12 * np.abs(x).max(), err_msg=f"{name} {p}")
                if name in ("class", "flag"):
                    counts = np.bincount(x.astype(int))
                    assert (of.mode[c, p], of.most[c, p]) == (np.argmax(counts), counts.max())


def test_totals_do_not_depend_on_what_follows() -> None:
    rng = np.random.default_rng(4)
    n = 3 * TILE
    parent, x, flag = np.sort(rng.integers(0, 20, n)), rng.normal(size=n), rng.random(n) < 0.5
    db, totals = of_one_key(parent, 20, {"x": x, "flag": flag})
    start, _ = child_span(totals.index, 1, 0, jnp.arange(20))
    stop = start + 37
    late = np.asarray(stop)[parent] + 2 * TILE <= np.arange(n) + 2 * TILE  # rows of the child table lie in the order of the index
    other, changed = of_one_key(parent, 20, {"x": np.where(late, 1e30, x), "flag": flag ^ late})
    a, b = (jax.device_get(span_totals(*pair, jnp.int32(0), start, stop)) for pair in ((db, totals), (other, changed)))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_kinds_without_categories_have_no_mode() -> None:
    db, totals = of_one_key(np.zeros(50, np.int64), 1, {"x": np.arange(50.0)})
    assert int(db.schema.column_kind[1, 0]) == Kind.NUMERIC
    start, stop = child_span(totals.index, 1, 0, jnp.zeros(1, jnp.int32))
    assert int(span_totals(db, totals, jnp.int32(0), start, stop).most[0, 0]) == 0


def test_traces_once(some: list[Database]) -> Any:
    total = traced_once(total_children)
    for db in some:
        jax.block_until_ready(total(db))
