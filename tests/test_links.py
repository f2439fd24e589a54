"""Foreign keys: the closed form against the dense formula, the slot and tree laws, and the same links on every instruction set."""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import databases, digest, each, tables
from scipy import stats

from jaxrel.clusters import KeyTables, Rare, empty_tables, key_streams, key_tables
from jaxrel.degrees import parent_weight
from jaxrel.links import _walk, link_rows
from jaxrel.random import named_key
from jaxrel.times import flat_times
from jaxrel.traits import trait_parents
from jaxrel.types import (
    CLUSTERS,
    DEGREES,
    LEVELS,
    NO_ROW,
    NO_TABLE,
    STRENGTH,
    TILE,
    Capacity,
    LinkLaw,
    Links,
    Popularity,
    Schema,
    row_offsets,
    tiles_of,
)

KEY = jnp.asarray([8, 15], jnp.uint32)
K = 5
RARE = Rare(*[jnp.asarray(True)] * 4)
TILES = 20  # of the small cases, which share a program


@dataclasses.dataclass(frozen=True)
class Link:
    """One foreign key of the table under test, the last one."""

    parent: int
    law: LinkLaw = LinkLaw.CLUSTER
    levels: int = 0
    popularity: Popularity = Popularity.EQUAL
    inactive: float = 0.0
    null: float = 0.0
    roots: float = 0.0
    owner: int | None = None
    agree: int | None = None
    strength: int = 0
    capacity: int = 0
    ends: np.ndarray | None = None  # of a degree law


LAWS = {
    f"{levels} levels, {popularity.name.lower()}, {inactive:.0%} inactive": Link(0, levels=levels, popularity=popularity, inactive=inactive)
    for levels in (1, 5)
    for popularity in Popularity
    for inactive in (0.0, 0.7)
}


def capacity_of(rows: tuple[int, ...], tiles: int) -> Capacity:
    return Capacity(len(rows), K, 1, tiles * TILE, 1, 1, 1, 1, 1, 1)


def build(rows: tuple[int, ...], made: list[Link], tiles: int) -> tuple[Schema, Links, Capacity]:
    """A schema of tables with so many rows, of which the last has the given keys."""
    capacity, T, child = capacity_of(rows, tiles), len(rows), len(rows) - 1
    counts = jnp.asarray(rows, jnp.int32)
    offset, used = row_offsets(counts)
    assert int(used) <= tiles

    def per_key(values: list[int], fill: int, dtype: Any = jnp.int32) -> jax.Array:
        row = jnp.asarray(values + [fill] * (K - len(values)), dtype)
        return jnp.full((T, K), fill, dtype).at[child].set(row)

    fk_parent = per_key([m.parent for m in made], NO_TABLE)
    blank = jnp.zeros((T, 1), jnp.int32)
    schema = Schema(
        key=named_key(KEY, "schema"),
        table_count=jnp.int32(T),
        table_id=jnp.arange(T, dtype=jnp.uint32),
        row_count=counts,
        row_offset=offset,
        is_activity=jnp.arange(T) == child,
        has_time=jnp.zeros(T, bool),
        time_start=blank[:, 0],
        time_span=blank[:, 0],
        **flat_times(T),
        column_count=blank[:, 0],
        column_id=blank.astype(jnp.uint32),
        column_kind=blank,
        column_classes=blank,
        column_null=blank.astype(jnp.uint32),
        column_binned=blank > 0,
        fk_parent=fk_parent,
        fk_id=jnp.broadcast_to(jnp.arange(K, dtype=jnp.uint32), (T, K)),
        fk_null=per_key([round(m.null * 2**24) for m in made], 0, jnp.uint32),
        fk_law=per_key([int(m.law) for m in made], 0),
        fk_owner=per_key([k if m.owner is None else m.owner for k, m in enumerate(made)], 0),
        fk_capacity=per_key([m.capacity for m in made], 0),
        fits=jnp.asarray(True),
    )
    words = np.random.default_rng(5).integers(0.001 * 2**24, 0.002 * 2**24, (T, K, LEVELS, CLUSTERS, CLUSTERS))
    affinity = np.where(np.eye(CLUSTERS, dtype=bool), round(0.9 * 2**24), words).astype(np.uint32) << 8
    affinity[:, 1, :, :, -1] = words[:, 1, :, :, -1] << 8  # of the second key, the last child cluster of a level matches no parents
    levels = per_key([m.levels for m in made], 0)
    in_use = np.arange(LEVELS) < np.asarray(levels)[..., None]
    clusters = jnp.asarray(np.where(in_use, CLUSTERS, 1), jnp.int32)
    first = np.zeros((CLUSTERS, CLUSTERS), bool)
    first[0, 0] = True
    affinity = np.where(in_use[..., None, None] | first, affinity, 0)
    agree = np.tile(np.arange(K), (T, 1))
    agree[child, : len(made)] = [k if m.agree is None else m.agree for k, m in enumerate(made)]
    ends = np.zeros((T, K, DEGREES - 1), np.uint32)
    for k, m in enumerate(made):
        ends[child, k] = 0 if m.ends is None else m.ends
    links = Links(
        key=named_key(KEY, "links"),
        parent_row=jnp.full((K, capacity.rows), NO_ROW, jnp.int32),
        levels=levels,
        parent_clusters=clusters,
        child_clusters=clusters,
        affinity=jnp.asarray(affinity, jnp.uint32),
        popularity=per_key([int(m.popularity) for m in made], 0),
        inactive=per_key([round(m.inactive * 2**24) for m in made], 0, jnp.uint32),
        roots=per_key([round(m.roots * 2**24) for m in made], 0, jnp.uint32),
        agree=jnp.asarray(agree, jnp.int32),
        strength=per_key([m.strength for m in made], 0),
        degree=per_key([0], 0),
        degree_ends=jnp.asarray(ends),
        delay=per_key([], 0),
        window=per_key([], 2**24, jnp.uint32),
    )
    return schema, links, capacity


@functools.cache
def _draw(capacity: Capacity) -> Any:
    return jax.jit(lambda schema, links: _walk(capacity, capacity.tiles, True)(schema, links, jnp.int32(0)))


def draw(rows: tuple[int, ...], made: list[Link], tiles: int) -> np.ndarray:
    """i32[K, rows]: parents of the last table's rows."""
    schema, links, capacity = build(rows, made, tiles)
    start = int(schema.row_offset[-1])
    return np.asarray(_draw(capacity)(schema, links))[:, start : start + rows[-1]]


# ---------------------------------------------------------------- the dense formula


def digits(n: int, clusters: np.ndarray) -> np.ndarray:
    """i64[LEVELS, n]: cluster of each row at each level."""
    base = int(clusters.prod())
    rest = np.minimum(np.arange(n) // max(-(-n // base), 1), base - 1)
    out = np.zeros((LEVELS, n), np.int64)
    for level in reversed(range(LEVELS)):
        out[level], rest = rest % clusters[level], rest // clusters[level]
    return out


def dense(weight: np.ndarray, parents: np.ndarray, child: np.ndarray, affinity: np.ndarray) -> np.ndarray:
    """f64[n]: popularity times the product of affinities, for one child's digits."""
    p = weight.astype(np.float64)
    for level in range(LEVELS):
        p = p * (affinity[level, :, child[level]].astype(np.float64) / 2**32)[parents[level]]
    return p / p.sum()


def words_below(x: np.ndarray, total: np.ndarray) -> np.ndarray:
    """f64[...]: share of all 32-bit words w with w * total >> 32 below x."""
    x, total = np.asarray(x, np.uint64), np.maximum(np.asarray(total, np.uint64), np.uint64(1))
    return ((x << np.uint64(32)) + total - np.uint64(1)) // total / 2.0**32


class Sampler:
    """Exact probabilities of the sampler, from its own integer tables, by counting words."""

    def __init__(self, prefix: np.ndarray, mass: int, ends: np.ndarray, clusters: np.ndarray, n: int) -> None:
        self.ends, self.clusters, self.n = np.minimum(ends / 2.0**31, 1), clusters, n
        self.prefix = np.append(prefix[:n], mass).astype(np.uint64)
        base = int(clusters.prod())
        self.size = max(-(-n // base), 1)
        self.low = np.minimum(np.arange(base) * self.size, n)
        self.high = np.minimum(self.low + self.size, n)
        self.inside = self._inside()

    def _inside(self) -> np.ndarray:
        """f64[n]: probability of each row in its cluster: the block of TILE rows, then the row."""
        row, below = np.arange(self.n), self.prefix
        cluster, block = row // self.size, row // TILE
        low, high = self.low[cluster], self.high[cluster]
        first, past = np.maximum(low, block * TILE), np.minimum(high, (block + 1) * TILE)

        def share(a: np.ndarray, b: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
            total = below[end] - below[start]
            return words_below(below[b] - below[start], total) - words_below(below[a] - below[start], total)

        return share(first, past, low, high) * share(row, row + 1, first, past)

    def clusters_of(self, child: np.ndarray) -> np.ndarray:
        """f64[base clusters]: probability of each parent cluster, level by level, for one child's digits."""
        code, p = np.zeros(1, np.int64), np.ones(1)
        index = np.zeros(1, np.int64)
        for level in range(LEVELS):
            stride = CLUSTERS ** (LEVELS - 1 - level)
            suffix = sum(child[m] * CLUSTERS ** (LEVELS - 1 - m) for m in range(level, LEVELS))
            codes = code[:, None] * CLUSTERS + np.arange(CLUSTERS)
            ends = self.ends[level][:, code * CLUSTERS * stride + suffix]
            chance = np.diff(ends, axis=0, prepend=0.0, append=1.0).T
            code, p = codes.reshape(-1), (p[:, None] * chance).reshape(-1)
            index = (index[:, None] * self.clusters[level] + np.arange(CLUSTERS)).reshape(-1)
            real = np.tile(np.arange(CLUSTERS) < self.clusters[level], len(codes))
            assert not p[~real].any()
            code, p, index = code[real], p[real], index[real]
        out = np.zeros(len(self.low))
        out[index] = p
        return out


def samplers(n: int, made: list[Link]) -> tuple[list[Sampler], list[np.ndarray], Links]:
    """For each key of a child table with n parents: its sampler and the parents' popularity."""
    schema, links, capacity = build((n, 1000), made, int(tiles_of(n)) + 3)

    def build_tables(schema: Schema, links: Links) -> KeyTables:
        streams, tiles = key_streams(links, schema)[1], tiles_of(jnp.int32(n))
        batch = jax.tree.map(lambda x: x[None], (schema, links, jnp.int32(1), streams, empty_tables(capacity)))
        found = key_tables(*batch[:2], capacity, *batch[2:4], tiles, jnp.int32(K), RARE, batch[4])
        return jax.tree.map(lambda x: x[0], found)

    tables = jax.device_get(jax.jit(build_tables)(schema, links))
    out, popularity = [], []
    for k, m in enumerate(made):
        stream = named_key(links.key, schema.table_id[1], schema.fk_id[1, k])
        rows = jnp.arange(n, dtype=jnp.int32)
        weight = jax.jit(parent_weight)(stream, jnp.int32(m.popularity), links.inactive[1, k], jnp.int32(n), rows, RARE.zipf)
        popularity.append(np.asarray(weight))
        clusters = np.asarray(links.parent_clusters[1, k])
        out.append(Sampler(tables.prefix[k], int(tables.mass[k]), tables.ends[k], clusters, n))
    return out, popularity, links


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("n", [1_000, 1_000_000])
def test_the_closed_form_has_the_dense_formula_s_probabilities(n: int, quarter: int) -> None:
    made = list(LAWS.values())[4 * quarter : 4 * quarter + 4]
    found, popularity, links = samplers(n, made)
    for k, (sampler, weight) in enumerate(zip(found, popularity, strict=True)):
        parents = digits(n, sampler.clusters)
        cluster = np.arange(n) // sampler.size
        mass = np.bincount(cluster, weight.astype(np.float64), len(sampler.low))
        flat = weight / np.maximum(mass, 1)[cluster]  # where a cluster has no mass, both sides are 0
        children = np.stack(np.meshgrid(*(np.arange(c) for c in sampler.clusters), indexing="ij")).reshape(LEVELS, -1)
        affinity = np.asarray(links.affinity[1, k])
        starts = np.minimum(sampler.low, n - 1)
        for child in children.T:
            ours = sampler.clusters_of(child)
            assert abs(ours.sum() - 1) < 1e-12 and not ours[mass == 0].any()
            exact = mass.copy()
            for level in range(LEVELS):
                exact *= affinity[level, :, child[level]][parents[level, starts]] / 2**32
            exact /= exact.sum()
            if n <= 10_000 or child.max() == child.min():  # row by row
                expected = dense(weight, parents, child, affinity)
                np.testing.assert_allclose(expected, exact[cluster] * flat, rtol=1e-9, atol=1e-300)
                variation = 0.5 * np.abs(ours[cluster] * sampler.inside - expected).sum()
            else:  # by the triangle inequality: the clusters' part, and the rows' part below
                rows = np.bincount(cluster, np.abs(sampler.inside - flat), len(ours))
                variation = 0.5 * np.abs(ours - exact).sum() + 0.5 * (ours * rows).sum()
            assert variation <= 1e-5, (made[k], child, variation)


def test_draws_follow_the_dense_formula() -> None:
    n, children = 2_500, 120_000
    made = [LAWS["5 levels, pareto, 70% inactive"], LAWS["1 levels, equal, 0% inactive"], Link(0), Link(0, levels=2)]
    drawn = draw((n, children), made, 124)
    _, popularity, links = samplers(n, made)
    for k in range(len(made)):
        clusters = np.asarray(links.parent_clusters[1, k])
        parents, mine = digits(n, clusters), digits(children, clusters)
        assert drawn[k].min() >= 0
        statistic, freedom = 0.0, 0
        codes, first = np.unique(mine.T, axis=0, return_index=True)
        for row in first:
            here = (mine == mine[:, row : row + 1]).all(0)
            expected = dense(popularity[k], parents, mine[:, row], np.asarray(links.affinity[1, k])) * here.sum()
            seen = np.bincount(drawn[k][here], minlength=n).astype(float)
            order = np.argsort(-expected)
            cell = np.minimum(np.cumsum(expected[order]) // 20, 400).astype(int)  # cells of at least some twenty draws
            e, o = np.bincount(cell, expected[order]), np.bincount(cell, seen[order])
            e, o = e[e > 5], o[e > 5]
            statistic, freedom = statistic + ((o - e) ** 2 / e).sum(), freedom + len(e) - 1
        assert freedom > 50
        assert stats.chi2.sf(statistic, freedom) > 1e-4, (made[k], statistic / freedom)
        assert not np.isin(drawn[k], np.flatnonzero(popularity[k] == 0)).any()


def test_draws_from_a_million_parents_follow_the_dense_formula_too() -> None:
    n, children = 1_000_000, 60_000
    made = [LAWS["1 levels, pareto, 70% inactive"], Link(0)]
    drawn = draw((n, children), made, 1040)
    _, popularity, links = samplers(n, made)
    for k in range(2):
        clusters = np.asarray(links.parent_clusters[1, k])
        parents, mine = digits(n, clusters), digits(children, clusters)
        for row in (0, children - 1):
            here = (mine == mine[:, row : row + 1]).all(0)
            expected = dense(popularity[k], parents, mine[:, row], np.asarray(links.affinity[1, k]))
            quantile = np.cumsum(expected) - 0.5 * expected
            assert stats.kstest(quantile[drawn[k][here]], "uniform").pvalue > 1e-4


# ---------------------------------------------------------------- what links are drawn from


@pytest.mark.parametrize("inactive", [0.0, 0.7])
def test_popularity_is_pareto_and_so_many_parents_are_inactive(inactive: float) -> None:
    n = 200_000
    rows, share = jnp.arange(n, dtype=jnp.int32), jnp.uint32(round(inactive * 2**24))
    weight = np.asarray(jax.jit(parent_weight)(KEY, jnp.int32(Popularity.PARETO), share, jnp.int32(n), rows, RARE.zipf)).astype(float)
    active = weight[weight > 0]
    assert abs((weight == 0).mean() - inactive) <= 5 * np.sqrt(inactive * (1 - inactive) / n)
    for top in (0.05, 0.005):
        tail = np.sort(active)[-int(top * len(active)) :]
        hill = 1 / np.log(tail / tail[0]).mean()
        assert abs(hill / 2.5 - 1) < 0.25
    assert stats.ks_1samp(active / active.min(), stats.pareto(2.5).cdf).statistic < 0.02
    equal = np.asarray(jax.jit(parent_weight)(KEY, jnp.int32(Popularity.EQUAL), share, jnp.int32(n), rows, RARE.zipf))
    assert set(equal.tolist()) <= {0, 1}


def test_one_parent_is_always_active() -> None:
    everyone = jnp.uint32(2**24)
    for n in (1, 2, 50):
        weight = jax.jit(parent_weight)(KEY, jnp.int32(0), everyone, jnp.int32(n), jnp.arange(50, dtype=jnp.int32), RARE.zipf)
        assert np.sum(np.asarray(weight)) == 1 and not np.asarray(weight)[n:].any()


def test_nulls_and_trees() -> None:
    n = 12_000
    made = [Link(0, null=0.2), Link(0), Link(3, law=LinkLaw.TREE, roots=0.1), Link(3, law=LinkLaw.TREE)]
    nullable, never, some_roots, one_root, unused = draw((700, 10, 10, n), made, TILES)
    assert abs((nullable == NO_ROW).mean() - 0.2) < 5 * np.sqrt(0.16 / n)
    assert never.min() >= 0 and stats.chisquare(np.bincount(never, minlength=700)).pvalue > 1e-4
    assert (unused == NO_ROW).all()
    row = np.arange(n)
    assert abs((some_roots == NO_ROW).mean() - 0.1) < 5 * np.sqrt(0.09 / n)
    assert one_root[0] == NO_ROW and (one_root[1:] >= 0).all() and (one_root[1:] < row[1:]).all() and (some_roots < row).all()
    assert stats.kstest((one_root[1000:] + 0.5) / row[1000:], "uniform").pvalue > 1e-4


# ---------------------------------------------------------------- keys that agree


def test_keys_that_agree_lead_to_the_same_cluster_and_others_do_not_care() -> None:
    rows, levels = (2000, 1500, 10, 10_000), 3
    pareto = {"levels": levels, "popularity": Popularity.PARETO}
    made = [Link(0, **pareto), Link(1, **pareto, agree=0), Link(1, levels=levels), Link(0, levels=levels, agree=0)]
    schema, links, capacity = build(rows, made, TILES)
    indifferent = dataclasses.replace(links, affinity=jnp.where(links.affinity > 0, jnp.uint32(2**31), jnp.uint32(0)))
    here = slice(int(schema.row_offset[-1]), int(schema.row_offset[-1]) + rows[-1])
    alone = dataclasses.replace(indifferent, agree=jnp.broadcast_to(jnp.arange(K, dtype=jnp.int32), links.agree.shape))
    a, b, c, d, _ = np.asarray(_draw(capacity)(schema, indifferent))[:, here]
    np.testing.assert_array_equal(a, np.asarray(_draw(capacity)(schema, alone))[0, here])  # who is followed knows nothing of it
    base = CLUSTERS**levels
    cluster = {name: x // -(-n // base) for name, x, n in (("a", a, 2000), ("b", b, 1500), ("c", c, 1500), ("d", d, 2000))}
    np.testing.assert_array_equal(cluster["a"], cluster["b"])
    np.testing.assert_array_equal(cluster["a"], cluster["d"])
    assert (a != d).mean() > 0.9  # the cluster is the same, the row is not
    for x, y in (("a", "c"), ("b", "c")):
        table = np.zeros((base, base))
        np.add.at(table, (cluster[x], cluster[y]), 1)
        table = table[table.sum(1) > 0][:, table.sum(0) > 0]
        assert table.shape == (base, base) and stats.chi2_contingency(table).pvalue > 1e-4
    assert stats.chi2_contingency(np.stack([np.bincount(cluster[x], minlength=base) for x in "ab"])).pvalue == pytest.approx(1)
    inside = b % -(-1500 // base), a % -(-2000 // base)
    assert abs(stats.spearmanr(*inside).statistic) < 5 / np.sqrt(rows[-1])


def test_a_key_without_an_active_parent_in_the_cluster_takes_any_active_one() -> None:
    rows, levels = (2000, 200, 10, 10_000), 4
    made = [Link(0, levels=levels), Link(1, levels=levels, inactive=0.7, agree=0), Link(1, levels=levels, null=0.5, agree=0)]
    a, b, c = draw(rows, made, TILES)[:3]
    schema, links, _ = build(rows, made, TILES)
    stream = named_key(links.key, schema.table_id[-1], schema.fk_id[-1, 1])
    weight = np.asarray(
        jax.jit(parent_weight)(stream, jnp.int32(0), links.inactive[-1, 1], jnp.int32(200), jnp.arange(200, dtype=jnp.int32), RARE.zipf)
    )
    assert b.min() >= 0 and (weight[b] > 0).all()
    base = CLUSTERS**levels
    mine, size = a // -(-2000 // base), -(-200 // base)
    has = np.add.reduceat(np.pad(weight, (0, base * size - 200)), np.arange(base) * size)[mine] > 0
    assert has.any() and (~has).any()
    np.testing.assert_array_equal((b // size)[has], mine[has])
    assert abs((c == NO_ROW).mean() - 0.5) < 5 * np.sqrt(0.25 / rows[-1])


# ---------------------------------------------------------------- the trait law


def test_the_trait_law_links_row_by_row_whatever_the_chunk() -> None:
    rows, n = (2000, 700, 10, 9_000), 9_000
    made = [Link(0, law=LinkLaw.TRAIT, strength=STRENGTH // 2), Link(1, law=LinkLaw.TRAIT, strength=-STRENGTH, null=0.2), Link(0, levels=2)]
    schema, links, capacity = build(rows, made, TILES)
    whole = draw(rows, made, TILES)
    for k in range(2):
        stream = named_key(links.key, schema.table_id[-1], schema.fk_id[-1, k])
        expected = jax.jit(trait_parents)(stream, links.strength[-1, k], jnp.arange(n, dtype=jnp.int32), jnp.int32(rows[k]))
        linked = whole[k] != NO_ROW
        np.testing.assert_array_equal(whole[k][linked], np.asarray(expected)[linked])
        assert linked.all() if k == 0 else abs(linked.mean() - 0.8) < 5 * np.sqrt(0.16 / n)
    some = jax.jit(functools.partial(link_rows, capacity=capacity, tiles=2))(schema, links, table=jnp.int32(3), first_tile=jnp.int32(3))
    np.testing.assert_array_equal(some, whole[:, 3 * TILE : 5 * TILE])


# ---------------------------------------------------------------- the slot law

_SLOT = functools.partial(Link, law=LinkLaw.SLOT)


@pytest.mark.parametrize("children", [1, 1500, 2999, 3000])
def test_one_to_one_keys_are_injective(children: int) -> None:
    drawn = draw((3000, 10, 10, children), [_SLOT(0, null=0.0)], TILES)[0]
    assert drawn.min() >= 0 and drawn.max() < 3000 and len(set(drawn.tolist())) == children
    assert children < 100 or abs(np.corrcoef(drawn, np.arange(children))[0, 1]) < 0.1


def test_nullable_one_to_one_keys_are_injective_where_they_are_not_null() -> None:
    drawn = draw((3000, 10, 10, 3000), [_SLOT(0, null=0.3)], TILES)[0]
    kept = drawn[drawn != NO_ROW]
    assert len(set(kept.tolist())) == len(kept) and abs(len(kept) / 3000 - 0.7) < 5 * np.sqrt(0.21 / 3000)


@pytest.mark.parametrize("sizes", [(60, 40, 2400), (60, 40, 2399), (60, 40, 300), (40, 60, 1100), (1, 3000, 3000), (3000, 1, 2500)])
def test_pairs_of_keys_are_unique(sizes: tuple[int, int, int]) -> None:
    rows = (*sizes[:2], 10, sizes[2])
    a, b = draw(rows, [_SLOT(0, owner=0), _SLOT(1, owner=0)], TILES)[:2]
    assert a.min() >= 0 and b.min() >= 0 and a.max() < rows[0] and b.max() < rows[1]
    assert len(set(zip(a.tolist(), b.tolist(), strict=True))) == rows[-1]
    if rows[-1] == rows[0] * rows[1]:
        assert (np.bincount(a) == rows[1]).all() and (np.bincount(b) == rows[0]).all()


@pytest.mark.parametrize("children", [1800, 1799, 250, 9])
def test_triples_of_keys_are_unique_beside_other_keys(children: int) -> None:
    sizes, alone = (10, 12, 15, children), children <= 10
    made = [Link(0, levels=1), _SLOT(0, owner=1), _SLOT(1, owner=1), _SLOT(2, owner=1)] + [_SLOT(1)] * alone
    free, *unique = draw(sizes, made, TILES)
    triples = np.stack(unique[:3])
    assert (triples >= 0).all() and (triples.max(1) < sizes[:3]).all()
    assert len(np.unique(triples, axis=1).T) == children and set(free.tolist()) <= set(range(10))
    if alone:
        assert len(set(unique[3].tolist())) == children


# ---------------------------------------------------------------- the same everywhere

SIXTEEN = 16


def test_links_schemas_and_times_of_one_key_never_move() -> None:
    db = databases("tiny")
    schema, links, time = (jax.tree.map(lambda x: x[:SIXTEEN], part) for part in (db.schema, db.links, db.time))
    assert digest(schema, links, time) == GOLDEN, "a stream moved: raise STREAM_VERSION, say so in the change log, and renew this value"


def test_another_instruction_set_gives_the_same_links() -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the flag that chooses an instruction set is known on x86 only")
    here = Path(__file__).parent
    flags = f"{os.environ['XLA_FLAGS']} --xla_cpu_max_isa=SSE4_2"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    code = f"from sampled import digest_of_structure as d; print(d('default', {SIXTEEN}))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    db = jax.tree.map(lambda x: x[:SIXTEEN], databases("default"))
    assert done.stdout.split() == [digest((db.schema, db.links), [[table.time for table in tables(one)] for one in each(db)])]


GOLDEN = "0f37731285c76d315dc335a7d9089fa3f65c79d3eade9bf3e962537940cfdb2c"
