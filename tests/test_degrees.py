"""How many children parents get: popularities, degree laws and capacities against the laws that they are named after."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import small
from scipy import optimize, stats
from test_links import KEY, RARE, TILES, Link, build, draw

from jaxrel.degrees import _FIRST, _MEANS, _SELDOM, _VARIANTS, EDGES, _ends, child_point, degree_laws, degree_weight, parent_weight
from jaxrel.links import _walk, link_rows
from jaxrel.prior import Weights
from jaxrel.random import named_key
from jaxrel.registry import DEGREES
from jaxrel.types import NO_ROW, TILE, LinkLaw, Popularity

SIZES = [size for sizes in _VARIANTS.values() for size in sizes]
MANY = [name for name in DEGREES if name != "few"]  # whose mean many parents share
HISTOGRAM = np.array([20, 30, 18, 11, 7, 4, 3, 2, 1, 0, 2, 0, 1, 0, 0, 1], float)


@functools.cache
def _laws() -> Any:
    histogram = Weights(weight=jnp.asarray(HISTOGRAM, jnp.float32))
    prior = dataclasses.replace(small("tiny").prior.links, histogram=histogram)
    return jax.jit(lambda weight, *where: degree_laws(where[0], dataclasses.replace(prior, degrees=Weights(weight=weight)), where[1]))


def laws_of(name: str, means: list[float]) -> np.ndarray:
    """u32[means, DEGREES - 1]: laws of one family, each of another key."""
    weight = jnp.asarray(np.eye(len(DEGREES), dtype=np.float32)[DEGREES.index(name)])
    streams = named_key(KEY, "laws", jnp.arange(len(means), dtype=jnp.int32))
    family, ends = _laws()(weight, streams, jnp.asarray(means, jnp.float32))
    assert (np.asarray(family) == DEGREES.index(name)).all()
    return np.asarray(ends)


def below(law: np.ndarray) -> np.ndarray:
    """f64[DEGREES]: P(degree < end of each bucket)."""
    return np.append(law / 2.0**32, 1.0)


def mean_of(law: np.ndarray) -> float:
    """Mean of a law, whose buckets are even inside."""
    return float(np.diff(below(law), prepend=0.0) @ ((EDGES[:-1] + EDGES[1:] - 1) / 2))


def exact(size: float, mean: float) -> Any:
    """The distribution function that a variant is named after, by scipy."""
    if size == 1.0:
        return lambda x: stats.geom.cdf(np.asarray(x) + 1, 1 / (1 + mean))
    if size:
        return lambda x: stats.nbinom.cdf(x, size, size / (size + mean))
    within = max(mean, 1.25)
    degrees = np.arange(1.0, min(max(int(64 * within), 64), 16384))
    s = optimize.brentq(lambda s: (degrees ** (1 - s)).sum() / (degrees**-s).sum() - within, 0.01, 9)
    cdf = np.append(0.0, np.cumsum(degrees**-s) / (degrees**-s).sum())
    return lambda x: 1 - (1 - cdf[np.minimum(x, len(cdf) - 1)]) * mean / within


# ---------------------------------------------------------------- the laws


@pytest.mark.parametrize("mean", [0.25, 2.0, 16.0, 128.0])
def test_tables_hold_the_distributions_that_they_are_named_after(mean: float) -> None:
    step = int(np.flatnonzero(_MEANS == mean)[0])
    for variant, size in enumerate(SIZES):
        expected = exact(size, mean)(EDGES[1:-1] - 1)
        np.testing.assert_allclose(_ends()[variant, step] / 2.0**32, expected, atol=2e-4, err_msg=str(size))


@pytest.mark.parametrize("name", MANY)
def test_laws_have_the_mean_of_their_table(name: str) -> None:
    means = np.geomspace(1.2 if name == "empirical" else 0.6, 400, 40)  # four parents in five have a child, and so one at least
    for mean, law in zip(means, laws_of(name, means.tolist()), strict=True):
        assert (np.diff(law.astype(np.int64)) >= -1).all()
        rounding = 0.08 if name == "empirical" and mean < 4 else 0.03  # a histogram squeezed below its own mean, to whole degrees
        assert abs(mean_of(law) / mean - 1) < rounding, (mean, mean_of(law))


def test_the_histogram_is_the_law_where_it_has_the_mean_and_stretched_keeps_its_childless_parents() -> None:
    p = HISTOGRAM / HISTOGRAM.sum()
    own = float(p @ np.arange(16))
    same, wider = laws_of("empirical", [own, 7 * own])
    np.testing.assert_allclose(np.diff(below(same), prepend=0.0)[:16], p, atol=2e-5)
    assert below(wider)[0] == pytest.approx(p[0], abs=1e-6)
    stretch = (7 * own / (1 - p[0]) - 0.5) / (own / (1 - p[0]) - 0.5)
    for d in range(1, 16):  # the same quantiles, so many times further out
        edge = 1 + d * stretch
        assert np.interp(edge, EDGES[1:], below(wider)) == pytest.approx(p[: d + 1].sum(), abs=4e-3)  # even inside a bucket


def test_few_parents_have_all_the_children() -> None:
    n, mean = 900, 25.0
    laws = laws_of("few", [mean] * 60)
    some = 1 - np.array([below(law)[0] for law in laws])
    for share in _SELDOM:
        assert (np.abs(some * share - 1) < 1e-3).any(), share
    assert all((np.abs(some * np.array(_SELDOM)[:, None] - 1) < 1e-3).any(axis=0))
    assert mean_of(laws[int(some.argmax())]) == pytest.approx(mean, rel=0.03)  # rarer ones are longer than the buckets
    degree = jax.jit(jax.vmap(lambda ends: degree_weight(KEY, ends, jnp.int32(n), jnp.arange(n, dtype=jnp.int32))))(jnp.asarray(laws))
    with_children = (np.asarray(degree) > 0).sum(axis=1)
    assert with_children.min() >= 1 and with_children.max() < 30 and 1 <= np.median(with_children) < 10


def test_degrees_are_drawn_by_their_law() -> None:
    n = 1_000_000
    draw_degrees = jax.jit(lambda ends: degree_weight(KEY, ends, jnp.int32(n), jnp.arange(n, dtype=jnp.int32)))
    for name in DEGREES:
        for mean, law in zip((0.7, 5.0, 60.0), laws_of(name, [0.7, 5.0, 60.0]), strict=True):
            degree = np.asarray(draw_degrees(jnp.asarray(law)))
            seen = np.bincount(np.searchsorted(EDGES, degree, "right") - 1, minlength=len(EDGES) - 1)
            expected = np.diff(below(law), prepend=0.0) * n
            few = expected < 5
            assert seen[few].sum() <= expected[few].sum() + 6 * np.sqrt(expected[few].sum()) + 5
            statistic = ((seen - expected)[~few] ** 2 / expected[~few]).sum()
            assert stats.chi2.sf(statistic, max((~few).sum() - 1, 1)) > 1e-4, (name, mean)


def test_sums_stay_below_32_bits() -> None:
    heads = sum(int((_FIRST // np.arange(a, a + 2**22, dtype=np.int64)).sum()) for a in range(1, 2**26, 2**22))
    assert heads + 2**30 < 2**32  # Zipf's weights of 2^30 rows: one unit beyond rank 2^26
    rows = jnp.arange(1000, dtype=jnp.int32)
    for bits in (27, 30):
        nothing_small = jnp.zeros(len(EDGES) - 2, jnp.uint32)  # every degree in the last bucket
        most = np.asarray(degree_weight(KEY, nothing_small, jnp.int32(1 << bits), rows)).max()
        assert 1 <= most and int(most) << bits < 2**32
    points = child_point(KEY, rows, jnp.int32(1000), jnp.uint32(2**32 - 5))
    assert np.array_equal(np.sort(np.asarray(points)), (np.arange(1000) + 0.5) * (2**32 - 5) // 1000)


# ---------------------------------------------------------------- what links are drawn from


def test_zipf_s_popularity_is_one_over_the_rank() -> None:
    n, children = 2_500, 120_000
    made = [Link(0, popularity=p) for p in (Popularity.ZIPF, Popularity.LOGNORMAL, Popularity.EQUAL)]
    ordered, noisy, alone = draw((n, children), made, 124)[:3]
    seen = np.sort(np.bincount(ordered, minlength=n))[::-1]
    expected = children / np.arange(1, n + 1) / (1 / np.arange(1, n + 1)).sum()
    slope = np.polyfit(np.log(np.arange(6, 501)), np.log(seen[5:500]), 1)[0]
    assert abs(slope + 1) < 0.05
    weight = _weights(Popularity.ZIPF, n)
    assert np.array_equal(np.sort(weight)[::-1], _FIRST // np.arange(1, n + 1))
    counts = np.bincount(ordered, minlength=n)
    statistic = ((counts - weight / weight.sum() * children) ** 2 / (weight / weight.sum() * children)).sum()
    assert stats.chi2.sf(statistic, n - 1) > 1e-4 and abs(seen[0] / expected[0] - 1) < 0.05
    spread = np.bincount(noisy, minlength=n)
    assert np.bincount(alone, minlength=n).std() < 0.3 * spread.std()
    order = np.argsort(weight)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.1  # ranks are no function of the row


def _weights(popularity: Popularity, n: int) -> np.ndarray:
    stream = named_key(named_key(KEY, "links"), jnp.uint32(1), jnp.uint32(0))
    rows = jnp.arange(n, dtype=jnp.int32)
    return np.asarray(jax.jit(parent_weight)(stream, jnp.int32(popularity), jnp.uint32(0), jnp.int32(n), rows, RARE.zipf)).astype(float)


def test_log_normal_popularity_is_log_normal() -> None:
    logs = np.log(_weights(Popularity.LOGNORMAL, 200_000) / 256)
    assert abs(logs.mean()) < 0.01 and abs(logs.std() - 1) < 0.01
    assert stats.kstest(logs + np.random.default_rng(0).normal(0, 1e-3, len(logs)), "norm").statistic < 0.02
    assert abs(np.mean(logs > 3) / stats.norm.sf(3) - 1) < 0.25  # the tail has cells of its own


# ---------------------------------------------------------------- links of a degree law


@functools.cache
def _drawn() -> tuple[np.ndarray, list[np.ndarray], int, int]:
    """Links of 20,000 parents to 110,000 children by four laws, and the laws."""
    n, children = 20_000, 110_000
    laws = [laws_of(name, [children / n])[0] for name in MANY]
    made = [Link(0, law=LinkLaw.DEGREE, ends=law) for law in laws] + [Link(0, law=LinkLaw.DEGREE, ends=laws[0], null=0.2)]
    return draw((n, children), made, 130), laws, n, children


def test_every_parent_gets_its_degree() -> None:
    drawn, laws, n, children = _drawn()
    stream = named_key(named_key(KEY, "links"), jnp.uint32(1), jnp.arange(5, dtype=jnp.uint32))
    rows = jnp.arange(n, dtype=jnp.int32)
    weigh = jax.jit(jax.vmap(lambda s, ends: degree_weight(s, ends, jnp.int32(n), rows)))
    degree = np.asarray(weigh(stream, jnp.asarray(np.stack([*laws, laws[0]])))).astype(np.int64)
    for k, name in enumerate((*MANY, "nullable")):
        counts = np.bincount(drawn[k][drawn[k] != NO_ROW], minlength=n)
        exact_share = degree[k] * children / degree[k].sum()
        assert abs(degree[k].sum() / children - 1) < 0.1, name
        assert (counts <= np.ceil(exact_share)).all() and (name == "nullable" or (counts >= np.floor(exact_share)).all()), name
        assert not counts[degree[k] == 0].any()
        if name == "nullable":
            assert abs(counts.sum() / children - 0.8) < 0.01
            continue
        law = np.interp(np.arange(2000) + 1, np.append(0, EDGES[1:]), np.append(0.0, below(laws[k])))
        gap = np.abs(np.cumsum(np.bincount(counts, minlength=2000))[:2000] / n - law).max()
        assert gap < 0.03, (name, gap)  # of sampling 0.01, of the scale D / n the rest
        middle = counts[: n // 2].sum() / children
        assert abs(middle - 0.5) < 0.05
        assert abs(np.corrcoef(drawn[k], np.arange(children))[0, 1]) < 5 / np.sqrt(children)


@pytest.mark.parametrize("children", [6999, 7000, 40])
def test_no_parent_has_more_children_than_its_capacity(children: int) -> None:
    slot = functools.partial(Link, law=LinkLaw.SLOT)
    made = [slot(0, capacity=7), slot(0, capacity=7, null=0.3), slot(1, capacity=7000)]
    tight, nullable, wide = draw((1000, 1, 10, children), made, TILES)[:3]
    for drawn in (tight, nullable):
        assert np.bincount(drawn[drawn != NO_ROW]).max() <= 7
    assert (tight != NO_ROW).all() and (children < 7000 or (np.bincount(tight) == 7).all())
    assert not wide.any()
    assert children > 100 or len(set(tight.tolist())) > 30


def test_a_first_key_of_a_pair_may_have_a_capacity() -> None:
    a, b = draw((60, 40, 10, 300), [Link(0, law=LinkLaw.SLOT, owner=0, capacity=5), Link(1, law=LinkLaw.SLOT, owner=0)], TILES)[:2]
    assert (np.bincount(a) == 5).all() and len(set(zip(a.tolist(), b.tolist(), strict=True))) == 300


# ---------------------------------------------------------------- the same in chunks and side by side


def _mixed() -> list[list[Link]]:
    zipf, geometric = laws_of("zipf", [3.0])[0], laws_of("geometric", [3.0])[0]
    return [
        [Link(0, law=LinkLaw.DEGREE, ends=zipf), Link(0, popularity=Popularity.ZIPF, levels=2), Link(1, law=LinkLaw.SLOT, capacity=3000)],
        [Link(0, levels=1), Link(1, law=LinkLaw.DEGREE, ends=geometric, null=0.1), Link(2)],
    ]


def test_chunks_and_neighbours_change_no_link() -> None:
    rows = (1500, 4, 10, 4100)
    cases = [build(rows, made, TILES) for made in _mixed()]
    capacity, start = cases[0][2], int(cases[0][0].row_offset[-1])
    alone = [draw(rows, made, TILES) for made in _mixed()]
    schemas, links = (jax.tree.map(lambda *x: jnp.stack(x), *(case[i] for case in cases)) for i in (0, 1))
    both = jax.jit(jax.vmap(lambda s, l: _walk(capacity, capacity.tiles, True)(s, l, jnp.int32(0))))(schemas, links)
    for b in range(2):
        np.testing.assert_array_equal(np.asarray(both)[b, :, start : start + rows[-1]], alone[b])
    chunk = jax.jit(functools.partial(link_rows, capacity=capacity, tiles=2))
    for first in (0, 2, 4):
        part = np.asarray(chunk(cases[0][0], cases[0][1], table=jnp.int32(3), first_tile=jnp.int32(first)))
        size = min(rows[-1] - first * TILE, 2 * TILE)
        np.testing.assert_array_equal(part[:, :size], alone[0][:, first * TILE : first * TILE + size])
