"""Times: intensities, founders, `rows_at` against counting, parents that exist, delays, windows, and signals that drift."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from sampled import databases, each, keys, small, tables, traced_once
from scipy import stats
from test_links import KEY, TILES, Link, _draw, build
from test_mechanisms import KEYS, series

import jaxrel
from jaxrel.dealing import cluster_span, row_of
from jaxrel.degrees import parent_weight
from jaxrel.exogenous import exogenous_rows
from jaxrel.links import link_rows
from jaxrel.prior import Range
from jaxrel.random import named_key
from jaxrel.relbench import write_relbench
from jaxrel.times import _DAYS, _WEEKS, _sample_curve, _sample_week, moments, rows_at, time_rows
from jaxrel.types import HOURS, NO_ROW, NO_TABLE, SLICES, TILE, LinkLaw, Links, NodeKind, Popularity, Schema
from jaxrel.validate import validate

DAY, WEEK, YEAR = 86_400, 604_800, 31_557_600
TINY = small("tiny")
T, R = TINY.capacity.tables, TINY.capacity.rows
PROBES = 400


def share(low: float, high: float | None = None) -> Range:
    return Range(low=jnp.float32(low), high=jnp.float32(low if high is None else high), power=jnp.float32(0))


def integer(low: int, high: int | None = None) -> Range:
    return Range(low=jnp.int32(low), high=jnp.int32(low if high is None else high), power=jnp.float32(0))


FLAT = dataclasses.replace(
    TINY.prior.schema, timed_entity=jnp.float32(0), trend=share(0), season=share(0), bursts=integer(0), calendar=jnp.float32(0)
)
BUSY = dataclasses.replace(
    TINY.prior.schema, timed_entity=jnp.float32(0.7), late=share(0, 0.5), founders=share(0, 0.6), calendar=jnp.float32(0.8)
)
EAGER = dataclasses.replace(TINY.prior.links, delayed=jnp.float32(0.5), recent=jnp.float32(0.5), inactive=share(0, 0.9))


def _structure(key: jax.Array, prior: Any) -> Any:
    schema = jaxrel.sample_schema(key, prior, TINY.capacity)
    links = jaxrel.sample_links(key, prior, schema, TINY.capacity)

    def one(t: jax.Array) -> Any:
        span = schema.time_span[t]
        probes = schema.time_start[t] - span // 20 + jnp.arange(PROBES, dtype=jnp.int32) * (span // (PROBES - 40))
        return time_rows(schema, t, jnp.arange(R, dtype=jnp.int32)), probes, rows_at(schema, t, probes)

    return schema, links, *jax.vmap(one)(jnp.arange(T, dtype=jnp.int32))


_structures = traced_once(jax.vmap(_structure, (0, None)))


@functools.cache
def structures(busy: bool) -> list[tuple[Schema, Links, np.ndarray, np.ndarray, np.ndarray]]:
    """Schemas, links, times [T, R], probes [T, PROBES] and the rows that exist at them, of some hundred small databases."""
    prior = dataclasses.replace(TINY.prior, schema=BUSY if busy else FLAT, links=EAGER)
    found = jax.device_get(_structures(keys(320), prior))
    return [jax.tree.map(lambda x, b=b: x[b], found) for b in range(320)]


# ---------------------------------------------------------------- which tables are timed, and when


def test_tables_with_a_timed_parent_are_timed_and_start_after_it_and_all_end_together() -> None:
    entities, starts, founders = 0, set(), []
    for schema, _, times, _, _ in structures(True):
        timed = np.flatnonzero(schema.has_time)
        end = schema.time_start.astype(np.int64) + schema.time_span
        assert len(set(end[timed])) == 1 and (schema.time_span[timed] >= 30 * DAY).all()
        for t in range(int(schema.table_count)):
            n, first = int(schema.row_count[t]), int(schema.time_founders[t])
            parents = [p for p in schema.fk_parent[t] if p not in (NO_TABLE, t) and schema.has_time[p]]
            assert schema.has_time[t] or not (schema.is_activity[t] or parents)
            assert all(schema.time_start[t] >= schema.time_start[p] for p in parents)
            if not schema.has_time[t]:
                assert first == 0 and not times[t].any()
                continue
            assert (times[t, :first] == schema.time_start[t]).all() and (np.diff(times[t, :n].astype(np.int64)) >= 0).all()
            assert times[t, 0] >= schema.time_start[t] and times[t, n - 1] <= end[t]
            if not schema.is_activity[t]:
                assert 1 <= first <= n
                entities, founders = entities + 1, [*founders, first / n]
                starts.add(int(schema.time_start[t]) == int(schema.time_start[timed].min()))
            else:
                assert first == 0
    assert entities > 100 and len(starts) == 2 and np.min(founders) < 0.1 and abs(np.mean(founders) - 0.3) < 0.05


def test_flat_intensities_are_even_and_only_activity_tables_are_timed() -> None:
    for schema, _, times, _, _ in structures(False):
        assert (schema.has_time == schema.is_activity).all() and not schema.time_founders.any()
        for t in np.flatnonzero(schema.has_time):
            n, span = int(schema.row_count[t]), int(schema.time_span[t])
            stratum = (times[t, :n].astype(np.int64) - schema.time_start[t]) * n / span
            assert (np.abs(stratum - np.arange(n) - 0.5) <= 0.5 + 1e-3).all()


@pytest.mark.parametrize("busy", [False, True])
def test_the_rows_that_exist_at_a_time_are_those_counted(busy: bool) -> None:
    short = []
    for schema, _, times, probes, found in structures(busy):
        for t in range(int(schema.table_count)):
            n = int(schema.row_count[t])
            if not schema.has_time[t]:
                assert (found[t] == n).all()
                continue
            counted = np.searchsorted(times[t, :n], probes[t], side="right")
            assert (found[t] <= counted).all() and (np.diff(found[t]) >= 0).all()
            assert found[t][0] == 0 and found[t][-1] == n
            short.append(counted - found[t])
    assert np.concatenate(short).max() <= 2 and np.concatenate(short).mean() < 0.6


# ---------------------------------------------------------------- no child before its parent


def test_no_child_event_precedes_its_parent_in_hundreds_of_databases() -> None:
    links_seen, selves, static = 0, 0, 0
    for schema, links, times, _, _ in structures(True):
        for t in range(int(schema.table_count)):
            rows = slice(int(schema.row_offset[t]), int(schema.row_offset[t]) + int(schema.row_count[t]))
            for k, p in enumerate(schema.fk_parent[t]):
                if p == NO_TABLE:
                    continue
                parent, mine = links.parent_row[k, rows], times[t, : schema.row_count[t]]
                there = parent != NO_ROW
                assert parent.max() < schema.row_count[p] and (there.all() or schema.fk_null[t, k] or p == t)
                static += not schema.has_time[p]
                if schema.has_time[p]:
                    assert schema.has_time[t] and (times[p][parent[there]] <= mine[there]).all()
                    links_seen, selves = links_seen + int(there.sum()) * (p != t), selves + (p == t)
    assert links_seen > 50_000 and selves > 20 and static > 20


def test_a_cut_at_any_time_leaves_no_dangling_key() -> None:
    rng = np.random.default_rng(3)
    gone = 0
    for schema, links, times, _, _ in structures(True)[:120]:
        first, last = int(schema.time_start[schema.has_time].min()), int((schema.time_start + schema.time_span).max())
        for cut in rng.integers(first, last, 5):
            kept = [times[t, : schema.row_count[t]] <= cut if schema.has_time[t] else np.ones(schema.row_count[t], bool) for t in range(T)]
            for t in range(int(schema.table_count)):
                gone += int((~kept[t]).sum())
                offset = int(schema.row_offset[t])
                for k, p in enumerate(schema.fk_parent[t]):
                    if p != NO_TABLE:
                        parent = links.parent_row[k, offset : offset + int(schema.row_count[t])][kept[t]]
                        assert kept[p][parent[parent != NO_ROW]].all()
    assert gone > 10_000


# ---------------------------------------------------------------- intensities


N = 60_000


def one_table(**fields: Any) -> Schema:
    """A schema of one timed table of N rows."""
    schema, _, _ = build((N,), [], 80)
    return dataclasses.replace(schema, has_time=jnp.ones(1, bool), **fields)


_times = jax.jit(lambda schema: time_rows(schema, jnp.int32(0), jnp.arange(N, dtype=jnp.int32)))
_weeks = jax.jit(lambda prior: _sample_week(named_key(KEY, "week", jnp.arange(40, dtype=jnp.int32)), prior))


def test_hours_and_weekdays_follow_a_typical_profile() -> None:
    deep = dataclasses.replace(BUSY, calendar=jnp.float32(1), calendar_depth=share(1))
    monday, weeks = 4 * DAY, _weeks(deep)
    profiles = {(d, w): np.outer(_WEEKS[w], _DAYS[d]).ravel() for d in range(3) for w in range(3)}
    seen = set()
    for week in weeks[:20]:
        span = 40 * WEEK - 3 * DAY  # neither starts nor ends with a week
        schema = one_table(
            time_start=jnp.full(1, monday + 2 * DAY + 1500 * WEEK, jnp.int32), time_span=jnp.full(1, span, jnp.int32), time_week=week[None]
        )
        time = np.asarray(_times(schema), np.int64)
        assert (np.diff(time) >= 0).all() and time[0] >= schema.time_start[0] and time[-1] <= schema.time_start[0] + span
        inside = time[(time >= monday + 1501 * WEEK) & (time < monday + 1540 * WEEK)] - monday
        hours = np.bincount((inside % WEEK) // 3600, minlength=HOURS)
        p = {name: stats.chisquare(hours, profile / profile.sum() * hours.sum()).pvalue for name, profile in profiles.items()}
        best = max(p, key=lambda name: p[name])
        assert p[best] > 1e-4 and sorted(p.values())[-2] < 1e-4
        seen.add(best)
        within = inside % 3600
        assert stats.kstest(within / 3600, "uniform").statistic < 0.02
    assert len(seen) > 4


def test_quiet_hours_are_as_quiet_as_asked_and_a_share_of_tables_has_none() -> None:
    flat = np.arange(HOURS) * 3600
    half = np.asarray(_weeks(dataclasses.replace(BUSY, calendar=jnp.float32(0.5), calendar_depth=share(0.5))))
    even = (half == flat).all(axis=1)
    assert 8 <= even.sum() <= 32
    for week in half[~even]:
        load = np.diff(week, append=WEEK)
        assert load.min() > 0 and 2.0 < load.max() / load.min() < 4.1  # a half of a half at most
    assert (np.asarray(_weeks(dataclasses.replace(BUSY, calendar=jnp.float32(0)))) == flat).all()


_curves = jax.jit(lambda prior, start, span: _sample_curve(named_key(KEY, "curve", jnp.arange(24, dtype=jnp.int32)), prior, start, span))


def curves(**fields: Any) -> np.ndarray:
    """f64[24, SLICES]: intensity of each slice of 24 tables' spans of eight years, 1 on average."""
    start, span = jnp.full(24, 11_000 * DAY, jnp.int32), jnp.full(24, 8 * YEAR, jnp.int32)
    found = np.asarray(_curves(dataclasses.replace(FLAT, **fields), start, span), np.float64)
    return np.diff(found, axis=1, append=2.0**32) / 2**32 * SLICES


def test_trends_seasons_and_bursts_have_their_sizes() -> None:
    middle = (np.arange(SLICES) + 0.5) / SLICES
    np.testing.assert_allclose(curves(), 1, atol=1e-6)
    trend = curves(trend=share(0.8))
    up = trend[:, -1] > 1
    assert 4 <= up.sum() <= 20
    np.testing.assert_allclose(trend[up], np.broadcast_to(0.2 + 1.6 * middle, trend[up].shape), atol=0.01)
    np.testing.assert_allclose(trend[~up], np.broadcast_to(1.8 - 1.6 * middle, trend[~up].shape), atol=0.01)
    season = curves(season=share(0.5))
    wave = np.exp(2j * np.pi * 8 * middle)
    np.testing.assert_allclose(np.abs((season * wave).mean(1)) * 2, 0.5, atol=0.01)
    assert np.ptp(np.angle((season * wave).mean(1))) > 3
    np.testing.assert_allclose(season.min(1), 0.5, atol=0.02)
    one = curves(bursts=integer(1), burst_height=integer(10))
    np.testing.assert_allclose(one.max(1) / one.min(1), 11, atol=0.01)
    peak = one.argmax(1)
    assert len(set(peak)) > 15
    for row, at in zip(one, peak, strict=True):
        if 0 < at < SLICES - 1:
            np.testing.assert_allclose(row[at + 1] / row[at - 1], 6, atol=0.01)  # half as high a slice later, nothing before
    many = curves(bursts=integer(3), burst_height=integer(4))
    assert (((many / many.min(1, keepdims=True)) > 4.5).sum(1) >= 2).mean() > 0.8


def test_events_follow_their_curve() -> None:
    curve = np.asarray(
        _curves(dataclasses.replace(FLAT, trend=share(0.9), bursts=integer(2), burst_height=integer(8)), *([jnp.zeros(24, jnp.int32)] * 2))
    )
    span = 4000 * DAY
    for row in curve[:4]:
        schema = one_table(time_start=jnp.full(1, 0, jnp.int32), time_span=jnp.full(1, span, jnp.int32), time_curve=jnp.asarray(row)[None])
        time = np.asarray(_times(schema), np.float64)
        knots = np.append(row, 2.0**32) / 2**32
        passed = np.interp(time / span, np.arange(SLICES + 1) / SLICES, knots) * N
        assert (np.abs(passed - np.arange(N) - 0.5) < 0.6).all()  # each row in its stratum


# ---------------------------------------------------------------- which parents


PARENTS, CHILDREN, SPAN = 5_000, 10_000, 2000 * DAY
CASES = [
    Link(0, levels=2, popularity=Popularity.PARETO, inactive=0.5),
    Link(0),
    Link(0),
    Link(0, null=0.2),
    Link(3, law=LinkLaw.TREE, roots=0.1),
]


@functools.cache
def timed_links() -> tuple[Schema, Links, np.ndarray, np.ndarray, np.ndarray]:
    """A timed child of one timed parent by five keys: its parents, and the times of both."""
    schema, links, capacity = build((PARENTS, 5, 5, CHILDREN), CASES, TILES)
    schema = dataclasses.replace(
        schema,
        has_time=jnp.asarray([True, False, False, True]),
        time_start=jnp.asarray([DAY, 0, 0, DAY], jnp.int32),
        time_span=jnp.asarray([SPAN, 0, 0, SPAN], jnp.int32),
        time_founders=jnp.asarray([1, 0, 0, 0], jnp.int32),
    )
    links = dataclasses.replace(
        links,
        delay=links.delay.at[3].set(jnp.asarray([0, 0, SPAN // 20, 0, 0], jnp.int32)),
        window=links.window.at[3].set(jnp.asarray([2**24, 2**24, 1, round(0.1 * 2**24), 2**24], jnp.uint32)),
    )
    drawn = np.asarray(_draw(capacity)(schema, links))[:, int(schema.row_offset[3]) :][:, :CHILDREN]
    row = jnp.arange(CHILDREN, dtype=jnp.int32)
    times = [np.asarray(jax.jit(time_rows)(schema, jnp.int32(t), row)).astype(np.int64) for t in (0, 3)]
    return schema, links, drawn, times[0][:PARENTS], times[1]


def test_without_delay_or_window_every_row_that_exists_is_as_likely() -> None:
    _, _, drawn, parent_time, time = timed_links()
    exist = np.searchsorted(parent_time, time, side="right")
    assert (parent_time[drawn[1]] <= time).all()
    late = exist > 500
    assert stats.kstest((drawn[1][late] + 0.5) / exist[late], "uniform").pvalue > 1e-4
    tree = drawn[4]
    assert (tree < np.arange(CHILDREN)).all()


def test_clusters_are_kept_and_inactive_parents_are_left_alone() -> None:
    schema, links, drawn, parent_time, time = timed_links()
    clusters = 9
    mine = np.minimum(np.arange(CHILDREN) // -(-CHILDREN // clusters), clusters - 1)
    late = time > time[0] + SPAN // 10
    assert (parent_time[drawn[0]] <= time).all()
    matched = (drawn[0] % clusters == mine)[late]
    assert matched.mean() > 0.98  # affinity 0.9 against 0.002, twice
    weight = jax.jit(parent_weight)(
        named_key(links.key, schema.table_id[3], schema.fk_id[3, 0]),
        jnp.int32(Popularity.PARETO),
        links.inactive[3, 0],
        jnp.int32(PARENTS),
        jnp.arange(PARENTS, dtype=jnp.int32),
        jnp.asarray(False),
    )
    weight = np.asarray(weight).astype(float)
    assert (weight[drawn[0]][late] > 0).all() and (weight == 0).mean() > 0.45
    last = time > time[-1] - SPAN // 12  # nearly all parents exist: as popularity says, among the active ones of the cluster
    own = np.where(np.arange(PARENTS) % clusters == clusters - 1, weight, 0)
    top = np.isin(drawn[0], np.argsort(-own)[:50])[last & (drawn[0] % clusters == clusters - 1)]
    expected = np.sort(own)[-50:].sum() / own.sum()
    assert abs(top.mean() - expected) < 5 * np.sqrt(expected / last.sum()) + 0.05 * expected


def test_delays_are_exponential_and_windows_hold_the_latest_parents() -> None:
    _, _, drawn, parent_time, time = timed_links()
    late = time > time[0] + SPAN // 2  # ten mean delays: nobody waits for longer than there was
    age = (time - parent_time[drawn[2]])[late]
    assert age.min() >= 0 and stats.kstest(age, stats.expon(scale=SPAN / 20).cdf).pvalue > 1e-4
    there = drawn[3] != NO_ROW
    exist = np.searchsorted(parent_time, time, side="right")
    rank = (exist - 1 - drawn[3])[late & there] / exist[late & there]
    assert rank.min() >= 0 and rank.max() <= 0.1 + 3 / exist[late].min()
    assert stats.kstest(rank / 0.1, "uniform").statistic < 0.02


def test_a_chunk_of_timed_links_is_that_of_the_whole() -> None:
    schema, links, drawn, _, _ = timed_links()
    _, _, capacity = build((PARENTS, 5, 5, CHILDREN), CASES, TILES)
    chunk = jax.jit(lambda schema, links, first: link_rows(schema, links, capacity, 3, first, 2))
    for first in (0, 3, 7):
        rows = slice(first * TILE, (first + 2) * TILE)
        np.testing.assert_array_equal(np.asarray(chunk(schema, links, jnp.int32(first))), drawn[:, rows])


@pytest.mark.parametrize(("n", "clusters"), [(1, 1), (7, 9), (27, 9), (1000, 243), (1001, 6), (5, 1)])
@pytest.mark.parametrize("dealt", [False, True])
def test_positions_are_a_bijection_that_deals_rows_in_turn(n: int, clusters: int, dealt: bool) -> None:
    count, size, flag = jnp.int32(clusters), jnp.int32(n), jnp.asarray(dealt)
    row = np.asarray(row_of(jnp.arange(n + 5, dtype=jnp.int32), count, size, flag))
    assert sorted(row[:n]) == list(range(n)) and (row[n:] >= n).all()
    low, high = (np.asarray(x) for x in cluster_span(jnp.arange(clusters, dtype=jnp.int32), count, size, flag))
    assert low[0] == 0 and high[-1] == n and (low[1:] == high[:-1]).all()
    for c in range(clusters):
        mine = row[low[c] : high[c]]
        expected = np.arange(c, n, clusters) if dealt else np.arange(low[c], high[c])
        np.testing.assert_array_equal(mine, expected)


# ---------------------------------------------------------------- signals


def test_a_signal_follows_the_moment_and_the_calendar() -> None:
    B = KEYS.shape[0]
    rows = jnp.broadcast_to(jnp.arange(TILE, dtype=jnp.int32), (B, TILE))
    moment = jnp.square(rows.astype(jnp.float32) / TILE)
    time = rows * 7919 - 3 * YEAR
    node = series(series_trend=0.7, series_power=1.5, series_cycle=-0.4, series_noise=0.0)
    period = np.array([0, DAY, WEEK, YEAR])[np.arange(B) % 4]
    node |= {"series_calendar": jnp.asarray(period, jnp.int32)}
    found = np.asarray(jax.jit(exogenous_rows)(KEYS, node, rows, moment, time, jnp.asarray(False)))
    t, phase = np.asarray(moment, np.float64), np.asarray(node["series_phase"], np.float64)[:, None] / 2**32
    by_calendar = np.asarray(time, np.float64) % np.maximum(period, 1)[:, None] / np.maximum(period, 1)[:, None]
    turns = phase + np.where(period[:, None] > 0, by_calendar, 4 * t)
    np.testing.assert_allclose(found, 0.7 * t**1.5 - 0.4 * np.sin(2 * np.pi * turns), atol=1e-4)


def test_moments_run_over_the_span_of_timed_tables_and_over_the_rows_of_others() -> None:
    schema, _, _, parent_time, _ = timed_links()
    row = jnp.arange(PARENTS, dtype=jnp.int32)
    timed = np.asarray(moments(schema, jnp.int32(0), row, jnp.asarray(parent_time, jnp.int32)))
    np.testing.assert_allclose(timed, (parent_time - DAY) / SPAN, atol=1e-6)
    still = np.asarray(moments(schema, jnp.int32(1), jnp.arange(5, dtype=jnp.int32), jnp.zeros(5, jnp.int32)))
    np.testing.assert_allclose(still, [0.1, 0.3, 0.5, 0.7, 0.9], atol=1e-6)


def test_columns_drift_with_time() -> None:
    drifting, others, entities = [], [], 0
    for db in each(databases("default")):
        for table in tables(db):
            t = table.index
            if not db.schema.has_time[t] or len(set(table.time)) < 100:
                continue
            entities += not db.schema.is_activity[t]
            for c, column in enumerate(table.values):
                node = int(db.scm.column_node[t, c])
                if db.scm.node_kind[t, node] != NodeKind.EXOGENOUS or db.schema.column_classes[t, c]:
                    continue
                there = ~table.missing[c]
                if len(np.unique(column[there])) < 50:
                    continue
                rank = abs(stats.spearmanr(column[there], table.time[there]).statistic)
                trend, power, rho = (float(getattr(db.scm, f"series_{name}")[t, node]) for name in ("trend", "power", "rho"))
                if abs(trend) > 0.6 and power > 0.5:
                    drifting.append(rank)
                elif trend == 0 and rho == 0:
                    others.append(rank)
    assert entities > 5 and len(drifting) > 5 and len(others) > 20
    assert np.median(drifting) > 0.3 > 0.1 > np.median(others)


def test_databases_with_timed_entities_are_written_in_order_and_hold(tmp_path: Path) -> None:
    written = 0
    for i, db in enumerate(each(databases("tiny"))):
        if not (db.schema.has_time & ~db.schema.is_activity).any() or written == 6:
            continue
        folder = write_relbench(db, tmp_path / f"jaxrel-{i}")
        assert validate(folder) == []
        manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
        assert sum(spec["time_col"] is not None for spec in manifest["tables"].values()) == db.schema.has_time.sum()
        written += 1
    assert written == 6
