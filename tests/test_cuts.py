"""Binned columns: classes have the frequencies of their law, follow their lane or are permuted, and are cuts of it in a database."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import databases, each, keys, small, staged, stages
from scipy import stats

from jaxrel.columns import to_score
from jaxrel.cuts import _RAREST, _skew, cut_codes, permute_codes
from jaxrel.random import bits, named_key, normals, row_pair, uniform
from jaxrel.registry import CUTS
from jaxrel.types import NO_CUT, SCORES, Kind, LabelOrder

ROWS = 200_000
KEY = jnp.asarray([5, 6], jnp.uint32)
KNOTS = 2.0 + 5.0 * jnp.asarray(SCORES, jnp.float32)  # of lanes of mean 2 and deviation 5: ranks are exact


@jax.jit
def _cut(cut: jax.Array, shape: jax.Array, order: jax.Array, classes: jax.Array) -> tuple[jax.Array, ...]:
    """Lanes and codes f32[columns, ROWS] of some columns, and their keys."""
    key = named_key(KEY, jnp.arange(cut.shape[0], dtype=jnp.int32))
    lanes = 2.0 + 5.0 * normals(row_pair(key[:, None], jnp.arange(ROWS, dtype=jnp.int32)[None], 7))[0]
    knots = jnp.broadcast_to(KNOTS[None], (cut.shape[0], KNOTS.shape[0]))
    any_permuted = jnp.any(order == LabelOrder.PERMUTED)
    return lanes, cut_codes(key, lanes, to_score(lanes, knots), knots, cut, shape, order, classes, jnp.max(classes), any_permuted), key


def codes_of(
    name: str, shape: float, classes: list[int], order: LabelOrder = LabelOrder.ASCENDING
) -> tuple[np.ndarray, np.ndarray, jax.Array]:
    def full(value: float, dtype: type) -> jax.Array:
        return jnp.full(len(classes), value, dtype)

    lanes, codes, key = _cut(
        full(CUTS.index(name), jnp.int32), full(shape, jnp.float32), full(order, jnp.int32), jnp.asarray(classes, jnp.int32)
    )
    return np.asarray(lanes, np.float64), np.asarray(codes).astype(np.int64), key


def law_of(name: str, shape: float, q: int, key: jax.Array) -> np.ndarray:
    """Probabilities of the classes."""
    edges = np.arange(q + 1)
    if name == "zipf":
        return np.diff(((edges + 1.0) ** (1 - shape) - 1) / ((q + 1.0) ** (1 - shape) - 1))
    if name == "width":
        cdf = stats.norm.cdf(SCORES[0] + (SCORES[-1] - SCORES[0]) * edges / q)
        return np.diff(np.r_[0.0, cdf[1:-1], 1.0])
    if name == "points":
        points = np.sort(np.asarray(jax.vmap(lambda j: uniform(bits(key, 64 + j)))(jnp.arange(q - 1, dtype=jnp.int32)), np.float64))
        return np.diff(np.r_[0.0, points, 1.0])
    return np.diff((edges / q) ** (1 / shape))


CASES = [("equal", 1.0), ("skewed", 0.4), ("skewed", 3.0), ("zipf", 0.7), ("zipf", 1.5), ("width", 1.0), ("points", 1.0)]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_classes_have_the_frequencies_of_their_law(name: str, shape: float) -> None:
    sizes = [2, 3, 8, 2]
    _, codes, key = codes_of(name, shape, sizes)
    for c, q in enumerate(sizes):
        counts, law = np.bincount(codes[c], minlength=q), law_of(name, shape, q, key[c])
        assert counts.size == q and abs(law.sum() - 1) < 1e-9
        assert stats.chisquare(counts, ROWS * law).pvalue > 1e-4, (counts / ROWS, law)


def test_many_classes_follow_zipfs_law() -> None:
    for exponent in (0.8, 1.02, 1.4):
        counts = np.bincount(codes_of("zipf", exponent, [300, 20])[1][0], minlength=300)
        assert counts.size == 300 and (counts > 0).all()
        rank = np.arange(4, 60)
        slope = np.polyfit(np.log(rank + 1.5), np.log(counts[rank]), 1)[0]
        assert abs(slope + exponent) < 0.05, (exponent, slope)


@pytest.mark.parametrize("name", CUTS)
def test_labels_follow_the_lane_or_are_permuted(name: str) -> None:
    sizes = [8, 7, 2, 8]
    lanes, up, _ = codes_of(name, 0.9, sizes)
    down, mixed = (codes_of(name, 0.9, sizes, order)[1] for order in (LabelOrder.DESCENDING, LabelOrder.PERMUTED))
    disorder = 0
    for c, q in enumerate(sizes):
        assert (np.diff(up[c][np.argsort(lanes[c], kind="stable")]) >= 0).all()
        np.testing.assert_array_equal(down[c], q - 1 - up[c])
        pairs = {(int(a), int(b)) for a, b in zip(up[c], mixed[c], strict=True)}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) and max(b for _, b in pairs) < q
        disorder += len({b - a for a, b in pairs}) > 2 or q == 2
    assert disorder >= 3


def test_permutations_are_permutations_and_all_alike() -> None:
    n = jnp.arange(1, 301, dtype=jnp.uint32)
    code = jnp.minimum(jnp.arange(300, dtype=jnp.uint32)[None], n[:, None] - 1)
    found = np.asarray(jax.jit(permute_codes)(named_key(KEY, jnp.arange(300, dtype=jnp.int32)), code, n))
    for i in range(300):
        assert sorted(found[i, : i + 1].tolist()) == list(range(i + 1))
    for size in (2, 3, 4):
        draws = 6000
        start = jnp.broadcast_to(jnp.arange(size, dtype=jnp.uint32)[None], (draws, size))
        streams = named_key(KEY, jnp.arange(draws, dtype=jnp.int32))
        rows = np.asarray(jax.jit(permute_codes)(streams, start, jnp.full(draws, size, jnp.uint32)))
        counts = [int((rows == p).all(axis=1).sum()) for p in itertools.permutations(range(size))]
        assert sum(counts) == draws and stats.chisquare(counts).pvalue > 1e-4, counts


def test_a_binned_column_is_the_cut_of_its_lane() -> None:
    """The same model, once with its codes and once with the bare lanes that they cut."""
    preset, checked = small("tiny"), 0
    simulate = stages(preset.capacity)[3]

    @jax.jit
    def codes_of(schema: Any, scm: Any, t: Any, seen: Any) -> Any:
        laws = (scm.column_cut[t], scm.column_shape[t], scm.column_order[t], schema.column_classes[t])
        streams, knots = named_key(scm.key, "cut", schema.table_id[t], schema.column_id[t]), scm.column_knots[t]
        return cut_codes(streams, seen, to_score(seen, knots), knots, *laws, jnp.max(laws[3]), jnp.asarray(True))

    for key in keys(12):
        db = staged(key, preset.prior, preset.capacity)
        cut = db.scm.column_cut != NO_CUT
        if not bool(jnp.any(cut)):
            continue
        bare = dataclasses.replace(
            db.scm,
            column_cut=jnp.full_like(db.scm.column_cut, NO_CUT),
            column_marginal=jnp.where(cut, 0, db.scm.column_marginal),
            column_scale=jnp.where(cut, 1.0, db.scm.column_scale),
            column_offset=jnp.where(cut, 0.0, db.scm.column_offset),
        )
        kinds = jnp.where(cut, int(Kind.NUMERIC), db.schema.column_kind)
        lanes = simulate(key, dataclasses.replace(db.schema, column_kind=kinds), db.links, bare).values
        for t in range(int(db.schema.table_count)):
            rows = slice(int(db.schema.row_offset[t]), int(db.schema.row_offset[t]) + int(db.schema.row_count[t]))
            codes = np.asarray(codes_of(db.schema, db.scm, jnp.int32(t), lanes))[:, rows]
            for c in np.flatnonzero(np.asarray(cut[t])):
                there = ~np.asarray(db.missing[c])[rows]
                np.testing.assert_allclose(np.asarray(db.values[c])[rows][there], codes[c][there])
                assert there.any()
                checked += 1
    assert checked > 5


def test_sampled_columns_are_cut_in_every_way_and_some_have_many_classes() -> None:
    cuts, orders, most = set(), set(), 0
    for db in each(databases("default")):
        is_cut = db.scm.column_cut != NO_CUT
        assert (is_cut == db.schema.column_binned).all()
        assert db.schema.column_classes[~is_cut].max(initial=0) <= small("default").capacity.classes
        cuts |= set(db.scm.column_cut[is_cut].tolist())
        orders |= set(db.scm.column_order[is_cut].tolist())
        many = db.schema.column_classes > 8
        assert (db.scm.column_cut[many] == CUTS.index("zipf")).all()
        most = max(most, int(db.schema.column_classes.max()))
    assert cuts == set(range(len(CUTS))) and orders == set(LabelOrder) and most > 100


def test_skewed_cuts_make_one_class_rare() -> None:
    classes = jnp.tile(jnp.asarray([2, 3, 8], jnp.int32), 4000)
    exponent = np.asarray(jax.jit(_skew)(named_key(KEY, jnp.arange(12_000, dtype=jnp.int32)), classes), np.float64)
    q = np.asarray(classes, np.float64)
    first, last = q ** (-1 / exponent), -np.expm1(np.log1p(-1 / q) / exponent)
    assert 0.45 < np.mean(exponent < 1) < 0.55  # the first class is rare below 1, the last one above
    rare = np.where(exponent < 1, first, last)
    for size in (2, 3, 8):
        place = np.log(rare[q == size] / _RAREST) / np.log(1 / (size * _RAREST))
        assert stats.kstest(place, "uniform").pvalue > 1e-3


def test_a_lane_that_follows_a_category_is_cut_at_points_or_by_a_law() -> None:
    """In halves, or by its width, it would be that category again."""
    follows = 0
    for db in each(databases("default")):
        scm = db.scm
        for t, c in np.argwhere(db.schema.column_binned):
            node = scm.column_node[t, c]
            parents = scm.edge_parent[scm.edge_start[t, node] : scm.edge_start[t, node + 1]]
            if (scm.node_classes[t, parents] > 0).any():
                assert CUTS[scm.column_cut[t, c]] in ("points", "skewed", "zipf")
                follows += 1
    assert follows > 20
