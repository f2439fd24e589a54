"""P7, ground truth: aggregates are what their children say, interventions reach descendants alone, the oracle cannot be beaten."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from sampled import each, keys, small, staged, stages, tables, traced_once

import jaxrel
from jaxrel import interventions
from jaxrel.aggregates import as_ordered, from_ordered
from jaxrel.noise import noise_of
from jaxrel.oracle import noise_points
from jaxrel.prior import Range, Weights
from jaxrel.registry import AGGREGATE_LAWS, MARGINALS
from jaxrel.types import NO_CUT, NO_ROW, NO_TABLE, TILE, Aggregate, Kind, NodeKind

NAME = "default"


@functools.cache
def summing_prior() -> Any:
    """Every table with static children sums them up; no summaries."""
    prior = small(NAME).prior
    two = Range(low=jnp.int32(2), high=jnp.int32(2), power=jnp.float32(0))
    many = Range(low=jnp.int32(4), high=jnp.int32(4), power=jnp.float32(0))
    scm = dataclasses.replace(prior.scm, aggregates=two)
    return dataclasses.replace(prior, scm=scm, schema=dataclasses.replace(prior.schema, tables=many))


@functools.cache
def sampled(count: int = 10) -> list[Any]:
    """Databases in which some table sums up children, with their keys."""
    found = []
    for i in range(60):
        key = keys(1, 7000 + i)[0]
        db = jax.device_get(staged(key, summing_prior(), small(NAME).capacity))
        if (db.scm.aggregate_table >= 0).any():
            found.append((key, db))
        if len(found) == count:
            return found
    raise AssertionError("hardly any table sums up children")


@functools.cache
def explainer() -> Any:
    return jax.jit(functools.partial(jaxrel.explain_rows, capacity=small(NAME).capacity, tiles=1))


@functools.cache
def simulator() -> Any:
    """`simulate` with interventions, jitted once."""
    return traced_once(lambda key, db, done: jaxrel.simulate(key, db.schema, db.links, db.scm, small(NAME).capacity, done))


def explain(key: Any, db: Any, table: int, done: Any = None) -> Any:
    chunk = {"table": jnp.int32(table), "first_tile": jnp.int32(0), "aggregates": db.aggregates}
    done = interventions.join() if done is None else done
    return jax.device_get(explainer()(key, db.schema, db.links, db.scm, **chunk, interventions=done))


def nodes_of(key: Any, db: Any) -> dict[tuple[int, int], np.ndarray[Any, Any]]:
    """Lanes of every node of the first tile of every table."""
    out = {}
    for table in tables(db):
        truth = explain(key, db, table.index)
        n = min(TILE, table.rows.stop - table.rows.start)
        for node in range(int(db.scm.node_count[table.index])):
            out[table.index, node] = np.concatenate([truth.lanes[node, :, :n], truth.code[node, None, :n].astype(np.float32)])
    return out


def test_order_of_floats() -> None:
    x = jnp.asarray([-np.inf, -3.5, -1e-30, 0.0, 1e-30, 2.0, np.inf], jnp.float32)
    np.testing.assert_array_equal(np.sort(np.asarray(as_ordered(x))), np.asarray(as_ordered(x)))
    np.testing.assert_array_equal(from_ordered(as_ordered(x)), x)


def test_aggregates_are_what_their_children_say() -> None:
    """Against a plain computation over the children's own rows, for every law."""
    seen: set[int] = set()
    for key, db in sampled():
        scm, schema = db.scm, db.schema
        nodes = nodes_of(key, db)
        for t in range(int(schema.table_count)):
            for a in np.flatnonzero(scm.aggregate_table[t] != NO_TABLE).tolist():
                child, law = int(scm.aggregate_table[t, a]), int(scm.aggregate_law[t, a])
                assert not schema.has_time[child] and schema.fk_parent[child, scm.aggregate_fk[t, a]] == t
                m, n = int(schema.row_count[child]), int(schema.row_count[t])
                parent = db.links.parent_row[scm.aggregate_fk[t, a], schema.row_offset[child] :][:m]
                lanes = nodes[child, int(scm.export_node[child, scm.aggregate_export[t, a]])][:-1]
                decay = np.exp(-scm.aggregate_decay[t, a] * (1 - (np.arange(m) + 1.0) / m))
                want = np.zeros((len(lanes), n))
                for row in range(n):
                    mine = np.flatnonzero(parent == row)
                    if law == Aggregate.COUNT:
                        want[:, row] = decay[mine].sum()
                    elif len(mine):
                        x, w = lanes[:, mine], decay[mine]
                        want[:, row] = {
                            Aggregate.SUM: (x * w).sum(1),
                            Aggregate.MEAN: (x * w).sum(1) / w.sum(),
                            Aggregate.MIN: x.min(1),
                            Aggregate.MAX: x.max(1),
                            Aggregate.LAST: x[:, -1],
                        }[Aggregate(law)]
                got = db.aggregates[a, :, schema.row_offset[t] :][:, :n]
                np.testing.assert_allclose(got, want, atol=2e-3, rtol=1e-4)
                node = int(scm.pass2_start[t]) + a
                assert scm.node_kind[t, node] == NodeKind.AGGREGATE
                seen.add(law)
                assert (parent != NO_ROW).any()
    assert len(seen) >= 5, f"only {[AGGREGATE_LAWS[x] for x in sorted(seen)]} occurred"


def test_aggregates_are_the_last_nodes_and_reach_columns() -> None:
    reached = 0
    for _, db in sampled():
        graph = jaxrel.to_networkx(db)["scm"]
        assert nx.is_directed_acyclic_graph(graph)
        for t in range(int(db.schema.table_count)):
            start, count = int(db.scm.pass2_start[t]), int(db.scm.node_count[t])
            assert (db.scm.export_node[t] < start).all() and start <= count
            kinds = db.scm.node_kind[t, :count] == NodeKind.AGGREGATE
            assert kinds.sum() == (db.scm.aggregate_table[t] != NO_TABLE).sum() and not kinds[:start].any()
            for n in np.flatnonzero(kinds):
                heirs = nx.descendants(graph, (t, int(n)))
                reached += any(graph.nodes[x]["columns"] for x in heirs)
    assert reached > 5


def test_do_leaves_all_but_descendants_as_they_were() -> None:
    """On nodes of every table, over gathers and aggregates; every descendant that hears anything changes."""
    across, changed_at_all, descendants_at_all = 0, 0, 0
    for key, db in sampled()[:5]:
        graph = jaxrel.to_networkx(db)["scm"]
        before = nodes_of(key, db)
        rng = np.random.default_rng(int(key[1]))
        for _ in range(4):
            t = int(rng.integers(int(db.schema.table_count)))
            n = int(rng.integers(int(db.scm.node_count[t])))
            done = interventions.do(db, t, node=n, value=1.0)
            after_db = jax.device_get(simulator()(key, db, done))
            after = {}
            for table in tables(db):
                truth = explain(key, after_db, table.index, done)
                rows = before[table.index, 0].shape[1]
                for node in range(int(db.scm.node_count[table.index])):
                    code = truth.code[node, None, :rows].astype(np.float32)
                    after[table.index, node] = np.concatenate([truth.lanes[node, :, :rows], code])
            heirs = nx.descendants(graph, (t, n)) | {(t, n)}
            for node, lanes in before.items():
                same = np.array_equal(lanes, after[node])
                if node not in heirs:
                    assert same, f"{node} does not descend from {(t, n)}"
                elif node != (t, n):
                    descendants_at_all += 1
                    changed_at_all += not same
                    across += (node[0] != t) and not same
            np.testing.assert_array_equal(db.links.parent_row, after_db.links.parent_row)
            np.testing.assert_array_equal(db.time, after_db.time)
            set_to = after[t, n]
            width = int(db.scm.node_width[t, n])
            assert (set_to[-1] == 1.0).all() if db.scm.node_classes[t, n] else (set_to[:width] == 1.0).all()
    assert across > 20 and changed_at_all > 0.8 * descendants_at_all


def test_nothing_done_is_nothing_changed() -> None:
    """By the same program: `simulator` may be traced once."""
    key, db = sampled()[0]
    none = interventions.join()
    again = jax.device_get(simulator()(key, db, none))
    for name in ("values", "missing", "time", "aggregates"):
        np.testing.assert_array_equal(getattr(db, name), getattr(again, name))


def test_do_on_a_column_goes_back_through_its_marginal() -> None:
    """The column takes the value; what has no inverse is refused."""
    done_by: dict[str, int] = {}
    refused: set[str] = set()
    for key, db in sampled():
        for t in range(int(db.schema.table_count)):
            rows = slice(int(db.schema.row_offset[t]), int(db.schema.row_offset[t]) + int(db.schema.row_count[t]))
            for c in range(int(db.schema.column_count[t])):
                kind, marginal = int(db.schema.column_kind[t, c]), MARGINALS[int(db.scm.column_marginal[t, c])]
                if kind != Kind.NUMERIC or done_by.get(marginal, 0) >= 1 or marginal in refused:
                    continue
                present = db.values[c, rows][~db.missing[c, rows]]
                value = float(np.median(present))
                try:
                    done = interventions.do(db, t, column=c, value=value, rows=(3, 20))
                except ValueError as error:
                    assert marginal in str(error), error
                    refused.add(marginal)
                    continue
                after = jax.device_get(simulator()(key, db, done))
                got, hidden = after.values[c, rows][3:20], after.missing[c, rows][3:20]
                np.testing.assert_allclose(got[~hidden], value, rtol=2e-3, atol=2e-3 * present.std(), err_msg=marginal)
                np.testing.assert_array_equal(after.values[c, rows][20:40], db.values[c, rows][20:40])
                done_by[marginal] = done_by.get(marginal, 0) + 1
    assert {"identity", "lognormal", "exponential", "pareto"} <= done_by.keys(), done_by
    assert refused & {"count", "zero_inflated", "bounded", "price"} and not refused & {"identity", "lognormal", "exponential", "pareto"}


def test_bad_interventions_are_named() -> None:
    _, db = sampled()[0]
    for arguments, message in (
        ({"table": "nowhere", "node": 0, "value": 1.0}, "nowhere"),
        ({"table": 0, "node": 999, "value": 1.0}, "node 999"),
        ({"table": 0, "column": "nothing", "value": 1.0}, "nothing"),
        ({"table": 0, "node": 0}, "one of value and function"),
        ({"table": 0, "node": 0, "function": lambda x: x * x}, "not affine"),
    ):
        with pytest.raises(ValueError, match=message):
            interventions.do(db, **arguments)
    one = interventions.do(db, 0, node=0, value=1.0)
    with pytest.raises(ValueError, match="at most"):
        interventions.join(*[one] * 9)
    both = interventions.join(one, interventions.do(db, 0, node=1, function=lambda x: 2 * x + 1))
    assert both.table.tolist()[:3] == [0, 0, NO_TABLE] and both.scale.tolist()[:2] == [0.0, 2.0] and both.shift.tolist()[:2] == [1.0, 1.0]


def test_noise_points_are_the_laws() -> None:
    words = jax.random.bits(jax.random.key(0), (2, 1, 1 << 18), jnp.uint32)
    for law, points in enumerate(noise_points()):
        draws = np.sort(np.asarray(noise_of((words[0], words[1]), jnp.full(1, law, jnp.int32)))[0])
        bins = draws.reshape(len(points), -1).mean(axis=1)
        np.testing.assert_allclose(points[8:-8], bins[8:-8], atol=0.03)
        assert abs(points.mean()) < 1e-3


def test_the_oracle_is_calibrated() -> None:
    """Its mean is unbiased, its stated error is the error made, its probabilities are the frequencies; another draw of the noise agrees."""
    z, ratios, coded, kinds = [], [], [], {True: 0, False: 0}
    for key, db in sampled():
        for t in range(int(db.schema.table_count)):
            n = int(db.schema.row_count[t])
            if n > TILE or n < 100:
                continue
            truth = explain(key, db, t)
            rows = slice(int(db.schema.row_offset[t]), int(db.schema.row_offset[t]) + n)
            for c in range(int(db.schema.column_count[t])):
                oracle = jax.device_get(jaxrel.column_oracle(db, truth, t, c, small(NAME).capacity))
                there, y = ~db.missing[c, rows], db.values[c, rows].astype(np.float64)
                node = int(db.scm.column_node[t, c])
                if db.scm.node_kind[t, node] == NodeKind.EXOGENOUS or there.sum() < 100 or db.scm.column_driver[t, c] >= 0:
                    continue
                if db.scm.node_classes[t, node] or db.scm.column_cut[t, c] != NO_CUT:
                    p = oracle.probability[:n][there]
                    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-5)
                    hit = p[np.arange(len(p)), y[there].astype(int)]
                    expected, variance = (p**2).sum(1), (p**3).sum(1) - (p**2).sum(1) ** 2
                    kinds[bool(db.scm.node_classes[t, node])] += 1
                    coded.append((hit - expected).sum() / np.sqrt(max(variance.sum(), 0.0) + 1e-9))
                elif MARGINALS[int(db.scm.column_marginal[t, c])] in ("identity", "normal", "uniform", "lognormal"):
                    residual = y[there] - oracle.mean[:n][there]
                    if oracle.error > 1e-9 * y[there].var():
                        z.append(residual.sum() / np.sqrt(oracle.error * len(residual)))
                        ratios.append((residual**2).mean() / oracle.error)
    assert len(z) > 20 and len(coded) > 5 and min(kinds.values()) > 1, kinds
    assert np.abs(np.mean(np.square(z)) - 1) < 0.9 and abs(np.median(ratios) - 1) < 0.15, (np.mean(np.square(z)), np.median(ratios))
    assert np.mean(np.square(coded)) < 2.0, coded


def test_only_static_children_are_summed_up() -> None:
    for one in each(jax.tree.map(lambda *x: np.stack(x), *[db for _, db in sampled()])):
        for t in range(int(one.schema.table_count)):
            for child in one.scm.aggregate_table[t]:
                assert child == NO_TABLE or (not one.schema.has_time[child] and child > t)


def test_weights_of_laws_reach_the_model() -> None:
    prior = summing_prior()
    only = Weights(weight=jnp.asarray([float(name == "max") for name in AGGREGATE_LAWS], jnp.float32))
    prior = dataclasses.replace(prior, scm=dataclasses.replace(prior.scm, aggregate_laws=only))
    for i in range(10):
        schema = stages(small(NAME).capacity)[0](keys(1, 7000 + i)[0], prior)
        scm = stages(small(NAME).capacity)[2](keys(1, 7000 + i)[0], prior, schema)
        used = np.asarray(scm.aggregate_table) != NO_TABLE
        assert (np.asarray(scm.aggregate_law)[used] == Aggregate.MAX).all()
