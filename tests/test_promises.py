"""The promises P1–P6 about every preset, and that a calibrated model gives its database again."""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import BATCH, databases, each, keys, large, program, small, spread, staged, stages, tables, wide

import jaxrel
from jaxrel.degrees import degree_weight
from jaxrel.prior import Range
from jaxrel.random import named_key
from jaxrel.times import time_rows
from jaxrel.types import NO_ROW, NO_TABLE, TILE, Database, Kind, LinkLaw


def slow(name: str) -> Any:
    """A preset for the slow tests, which go from one process to the next preset by preset; hoppe runs on default's programs."""
    return pytest.param(name, marks=[pytest.mark.slow, pytest.mark.xdist_group("default" if name == "hoppe" else name)])


QUICK = ("tiny", "default", "hoppe")
PLUREL, HOPPE = slow("plurel"), slow("hoppe")
PRESETS = (*QUICK, PLUREL)
KEYS_ALONE = {"tiny": 96, "default": 96, "plurel": 24, "hoppe": 48}
# A program of the whole pipeline compiles for half a minute, so each promise is quick where it is cheap or hard, and slow elsewhere.
TINY_QUICK = ("tiny", slow("default"), PLUREL, HOPPE)
DEFAULT_QUICK = (slow("tiny"), "default", PLUREL, HOPPE)


def crop(x: Any, like: Any) -> np.ndarray:
    """The corner of an array that another one covers."""
    return np.asarray(x)[tuple(slice(n) for n in np.shape(like))]


def assert_same(part: Any, whole: Any) -> None:
    """Every leaf of a pytree, padding included, is the corner of another's, bit for bit."""
    for (path, a), b in zip(jax.tree.leaves_with_path(part), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(np.asarray(a), crop(b, a), err_msg=jax.tree_util.keystr(path))


def assert_close(a: Database, b: Database, most: float = 1 / 10_000) -> None:
    """The same structure; values as near as two programs' rounding leaves them: all but one in 10,000 cells, or another share."""
    assert_same((a.schema, a.links, a.missing, a.time), (b.schema, b.links, b.missing, b.time))
    cells, wrong = 0, 0
    for one, other in zip(each(a), each(b), strict=True):
        for table in tables(one):
            there = crop(other.values, one.values)[: len(table.values), table.rows]
            kind = one.schema.column_kind[table.index, : len(table.values), None]
            # rounding, some thousand times as much at the end of a chain of steep mechanisms
            tolerance = np.where(kind == Kind.NUMERIC, 1e-4 * spread(table.values, table.missing)[:, None], 0.0)
            tolerance = np.where(kind == Kind.DATE, 1.0, tolerance)  # a day is a thousandth of what dates spread over
            wrong += int(np.sum(np.abs(table.values - there) > tolerance))
            cells += table.values.size
    assert wrong <= cells * most, f"{wrong} of {cells} cells differ"


def alone(name: str, capacity: Any) -> Database:
    """The databases of a preset one by one, stage by stage: what each costs, where a batch costs the largest of them."""
    made = [jax.device_get(staged(key, small(name).prior, capacity)) for key in keys(BATCH[name])]
    return jax.tree.map(lambda *x: np.stack(x), *made)


def more_rows(name: str) -> Any:
    """The preset's prior with activity tables of several tiles."""
    prior = small(name).prior
    rows = Range(low=jnp.int32(3500), high=jnp.int32(5000), power=jnp.float32(0))
    few = Range(low=jnp.int32(3), high=jnp.int32(3), power=jnp.float32(0))
    sums = Range(low=jnp.int32(1), high=jnp.int32(2), power=jnp.float32(0))
    itself = jnp.float32(0.8)  # a row that refers to another chunk of its own table is the hard case
    schema = dataclasses.replace(prior.schema, activity_rows=rows, tables=few, self_reference=itself)
    return dataclasses.replace(prior, schema=schema, scm=dataclasses.replace(prior.scm, aggregates=sums))


# ---------------------------------------------------------------- P1: pure


@pytest.mark.parametrize("name", QUICK)
def test_p1_the_same_key_gives_the_same_database(name: str) -> None:
    again = program(small(name).capacity)(keys(BATCH[name]), small(name).prior)
    assert_same(databases(name), again)
    assert np.asarray(again.fits).all()


def test_p1_other_keys_give_other_databases() -> None:
    db = databases("tiny")
    for leaf in (db.schema.row_count, db.schema.fk_parent, db.links.parent_row, db.scm.node_kind, db.values):
        flat = leaf.reshape(len(leaf), -1)
        assert len(np.unique(flat, axis=0)) > 0.5 * len(flat)
    assert len(np.unique(db.values.reshape(len(db.values), -1), axis=0)) == len(db.values)


def test_p1_neither_the_type_of_a_key_nor_a_flag_of_jax_s_moves_a_stream() -> None:
    tiny, key = small("tiny"), jax.random.key(11)
    from_words = stages(tiny.capacity)[0](jax.random.key_data(key), tiny.prior)
    with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
        assert_same(from_words, jax.jit(jaxrel.sample_schema, static_argnums=2)(key, tiny.prior, tiny.capacity))


# ---------------------------------------------------------------- P2: capacity


@pytest.mark.parametrize("name", TINY_QUICK)
def test_p2_room_for_more_structure_changes_no_bit(name: str) -> None:
    for key in keys(KEYS_ALONE[name]):
        db, roomy = (jax.device_get(staged(key, small(name).prior, capacity)) for capacity in (small(name).capacity, large(name)))
        assert_same((db.schema, db.links), (roomy.schema, roomy.links))
        assert_same((db.values, db.missing, db.time), (roomy.values, roomy.missing, roomy.time))
        assert roomy.missing[:, len(db.time) :].all() and not roomy.values[:, len(db.time) :].any()
        nodes = np.arange(db.scm.node_kind.shape[1]) < db.scm.node_count[:, None]
        of_nodes = ("kind", "width", "classes", "combine", "noise", "shift", "scale")
        for field in (*(f"node_{name}" for name in of_nodes), "gather_fk", "gather_export", "noise_knots"):
            mine, theirs = getattr(db.scm, field), crop(getattr(roomy.scm, field), getattr(db.scm, field))
            np.testing.assert_array_equal(mine[nodes], theirs[nodes], err_msg=field)


@pytest.mark.parametrize("name", TINY_QUICK)
def test_p2_room_for_wider_mechanisms_changes_rounding_alone(name: str) -> None:
    db = databases(name)
    cells = sum(t.values.size for one in each(db) for t in tables(one))
    assert name != "default" or cells > 1_000_000
    assert_close(db, alone(name, wide(name)))


# ---------------------------------------------------------------- P3: batches, and jit


@pytest.mark.parametrize("name", DEFAULT_QUICK)
def test_p3_side_by_side_or_alone_stage_by_stage_is_the_same(name: str) -> None:
    assert_close(databases(name), alone(name, large(name)))


# ---------------------------------------------------------------- P4: chunks


@pytest.mark.parametrize("name", DEFAULT_QUICK)
def test_p4_rows_in_chunks_are_those_of_the_whole(name: str) -> None:
    capacity, prior, span = large(name), more_rows(name), 2
    links_in = jax.jit(functools.partial(jaxrel.link_rows, capacity=capacity, tiles=span))
    rows_in = jax.jit(functools.partial(jaxrel.simulate_rows, capacity=capacity, tiles=span))
    own_parents, heard = 0, 0
    for seed in range(12):
        if seed > 2 and own_parents and (heard or name in ("plurel", "hoppe")):  # the two sum up nothing
            break
        key = keys(1, 1000 + seed)[0]
        db = jax.device_get(staged(key, prior, capacity))
        assert db.fits
        for table in tables(db):
            n = table.rows.stop - table.rows.start
            own_parents += int((np.asarray(db.schema.fk_parent[table.index]) == table.index).sum()) * (n > TILE)
            for first in range(0, -(-n // TILE), span):
                here = slice(first * TILE, min((first + span) * TILE, n))
                size, there = here.stop - here.start, slice(table.rows.start + here.start, table.rows.start + here.stop)
                chunk = {"table": jnp.int32(table.index), "first_tile": jnp.int32(first)}
                links = links_in(db.schema, db.links, **chunk)
                np.testing.assert_array_equal(np.asarray(links)[:, :size], db.links.parent_row[:, there])
                rows = rows_in(key, db.schema, db.links, db.scm, **chunk, aggregates=db.aggregates)
                for part, whole in ((rows.values, db.values), (rows.missing, db.missing), (rows.time, db.time)):
                    np.testing.assert_array_equal(np.asarray(part)[..., :size], whole[..., there])
                ids = jnp.arange(here.start, here.stop, dtype=jnp.int32)
                np.testing.assert_array_equal(time_rows(db.schema, jnp.int32(table.index), ids), db.time[there])
        heard += int((db.scm.aggregate_table >= 0).any())
    assert heard or name in ("plurel", "hoppe"), "no table sums up its children: choose other keys"
    assert own_parents, "no long table refers to itself: choose other keys"


# ---------------------------------------------------------------- P5: addresses


@pytest.mark.parametrize("name", QUICK)
def test_p5_a_database_does_not_know_its_neighbours(name: str) -> None:
    count = BATCH[name]
    mixed = jnp.concatenate([keys(1, 5000), keys(count)[::-1][: count - 1]])  # others beside it, at another place
    again = jax.device_get(program(small(name).capacity)(mixed, small(name).prior))
    assert_close(jax.tree.map(lambda x: x[1:], databases(name)), jax.tree.map(lambda x: x[1:][::-1], again))


# ---------------------------------------------------------------- P6: correct by construction


@functools.cache
def _degrees(rows: int) -> Any:
    def degrees(key: Any, table_id: Any, fk_id: Any, ends: Any, n: Any) -> Any:
        return degree_weight(named_key(key, table_id, fk_id), ends, n, jnp.arange(rows, dtype=jnp.int32))

    return jax.jit(degrees)


def assert_law_holds(db: Database, t: int, k: int, parent_rows: np.ndarray) -> str:
    """What the schema declares of a key holds for its links; the name of what it declares."""
    schema, null = db.schema, parent_rows[k] == NO_ROW
    parent, law = int(schema.fk_parent[t, k]), LinkLaw(schema.fk_law[t, k])
    n, children = int(schema.row_count[parent]), parent_rows.shape[1]
    counts = np.bincount(parent_rows[k][~null], minlength=n)
    if law in (LinkLaw.SLOT, LinkLaw.DEGREE):
        assert parent != t and not schema.has_time[parent]
    if law == LinkLaw.DEGREE:
        ends = db.links.degree_ends[t, k]
        degree = np.asarray(_degrees(len(db.time))(db.links.key, schema.table_id[t], schema.fk_id[t, k], ends, np.int32(n)), np.int64)[:n]
        share = degree * children / degree.sum()
        assert (counts <= np.ceil(share)).all() and (null.any() or (counts >= np.floor(share)).all())
        return "degree"
    if law == LinkLaw.SLOT:
        members = np.flatnonzero((schema.fk_law[t] == LinkLaw.SLOT) & (schema.fk_owner[t] == schema.fk_owner[t, k]))
        capacity = int(schema.fk_capacity[t, k])
        assert (len(members) > 1) != (capacity > 0)
        if len(members) > 1:
            assert members.tolist() == [0, 1] and not null.any() and schema.fk_parent[t, 0] != schema.fk_parent[t, 1]
            assert len(np.unique(parent_rows[members], axis=1).T) == children
            return "junction"
        assert counts.max() <= capacity and capacity * n >= children
        return "one to one" if capacity == 1 and schema.fk_null[t, k] == 0 else "capped"
    return law.name.lower()


@pytest.mark.parametrize("name", PRESETS)
def test_p6_keys_times_and_padding_are_right(name: str) -> None:
    seen: collections.Counter[str] = collections.Counter()
    batches = (0,) if name != "tiny" else (0, 10_000)
    for db in (one for start in batches for one in each(databases(name, start))):
        schema, real = db.schema, np.zeros(db.time.shape, bool)
        assert 1 <= schema.table_count <= len(schema.row_count)
        times = [table.time for table in tables(db)]
        for table in tables(db):
            t, n = table.index, table.rows.stop - table.rows.start
            assert not real[table.rows].any() and table.rows.start % TILE == 0
            real[table.rows] = True
            assert n > 0 and np.isfinite(table.values).all() and (table.values[table.missing] == 0).all()
            for k, parents in enumerate(table.parent_row):
                parent, null = int(schema.fk_parent[t, k]), parents == NO_ROW
                seen[assert_law_holds(db, t, k, table.parent_row)] += 1
                assert 0 <= parent <= t and parents.max() < schema.row_count[parent] and parents.min() >= NO_ROW
                if schema.has_time[parent]:
                    assert schema.has_time[t] and (times[parent][parents[~null]] <= table.time[~null]).all()
                    seen["after"] += parent != t
                if parent == t:
                    assert schema.fk_law[t, k] == LinkLaw.TREE and (parents < np.arange(n)).all() and null[0]
                    seen["self"] += 1
                else:
                    assert schema.fk_null[t, k] > 0 or not null.any()
                    seen["nulls"] += int(null.sum())
            referenced = (schema.fk_parent == t)[np.arange(len(schema.row_count)) != t].any()
            assert schema.is_activity[t] == (not referenced) and (schema.fk_parent[t] != NO_TABLE).sum() <= 5
            if schema.has_time[t]:
                seen["timed"] += 1
                assert (np.diff(table.time.astype(np.int64)) >= 0).all()
                assert schema.time_start[t] <= table.time[0] and table.time[-1] <= int(schema.time_start[t]) + int(schema.time_span[t])
                assert int(table.time[-1]) - int(table.time[0]) > (0.9 if name == "plurel" else 0.5) * schema.time_span[t]
            else:
                assert not table.time.any()
            classes, kind = schema.column_classes[t], schema.column_kind[t]
            for c, column in enumerate(table.values):
                if kind[c] in (Kind.CATEGORICAL, Kind.BOOLEAN):
                    assert np.isin(column, np.arange(classes[c])).all()
                elif kind[c] in (Kind.INTEGER, Kind.DATE):
                    assert (column == np.round(column)).all()
            assert db.missing[len(table.values) :, table.rows].all()
        assert (db.links.parent_row[:, ~real] == NO_ROW).all() and not db.time[~real].any()
        assert not db.values[:, ~real].any() and db.missing[:, ~real].all()
    of_all = {"timed", "cluster"}
    if name not in ("plurel", "hoppe"):
        of_all |= {"nulls", "self", "after", "tree", "trait", "degree", "junction", "capped", "one to one"}
    assert {what for what, count in seen.items() if count} == of_all, seen


# ---------------------------------------------------------------- P7, as far as it goes: the model behind the cells


@pytest.mark.parametrize("name", DEFAULT_QUICK)
def test_p7_the_calibrated_model_gives_its_database_again_and_another_noise_another(name: str) -> None:
    capacity, prior, key = large(name), small(name).prior, keys(1, 77)[0]
    db, simulate = staged(key, prior, capacity), stages(capacity)[3]
    assert bool(db.scm.calibrated)
    again = simulate(key, db.schema, db.links, db.scm)
    assert_same((db.values, db.missing, db.scm), (again.values, again.missing, again.scm))
    other = simulate(keys(1, 78)[0], db.schema, db.links, db.scm)
    assert_same((db.time, db.links, db.scm), (other.time, other.links, other.scm))
    assert np.any(np.asarray(other.values) != np.asarray(db.values))


def test_a_prior_too_large_for_its_capacity_says_so() -> None:
    tiny = small("tiny")
    rows = dataclasses.replace(tiny.prior.schema, activity_rows=Range(low=jnp.int32(4000), high=jnp.int32(9000), power=jnp.float32(0)))
    schema = stages(tiny.capacity)[0](keys(1)[0], dataclasses.replace(tiny.prior, schema=rows))
    assert bool(stages(tiny.capacity)[0](keys(1)[0], tiny.prior).fits)
    assert not bool(schema.fits) and int(jnp.sum(schema.row_count)) <= tiny.capacity.rows
