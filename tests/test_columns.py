"""Marginals and missing values: each is what its name says, from a pilot of a thousand rows to a million."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from sampled import databases, each, tables
from scipy import stats

from jaxrel import columns, presets
from jaxrel.batching import fixed_loop, quick_loop
from jaxrel.columns import from_score, knots_of, log_survival, measured_knots, missing_values, sample_columns, to_score
from jaxrel.convert import to_arrow
from jaxrel.random import named_key, normals, row_pair
from jaxrel.registry import MARGINALS
from jaxrel.types import FIRST_DAY, LAST_DAY, SCORES, TILE, Kind

ROWS = 1_000_000
KEY = jnp.asarray([1, 2], jnp.uint32)


@jax.jit
def _lanes(shift: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A pilot of TILE rows, f32[1, TILE], and ROWS others, f32[1, ROWS], of one normal law that is not the standard one."""
    z, _ = normals(row_pair(KEY, jnp.arange(ROWS + TILE, dtype=jnp.int32)))
    x = (shift + scale * z)[None]
    return x[:, :TILE], x[:, TILE:]


def shown(name: str, shape: float) -> np.ndarray:
    """f64[ROWS]: a marginal of normal lanes, ranked by the pilot alone."""

    @jax.jit
    def show(pilot: jax.Array, x: jax.Array, shape: jax.Array) -> jax.Array:
        w = to_score(x, knots_of(pilot, jnp.ones(TILE, bool)))
        return from_score(x, w, jnp.full(1, MARGINALS.index(name), jnp.int32), shape[None])

    pilot, x = _lanes(jnp.float32(2.0), jnp.float32(5.0))
    return np.asarray(show(pilot, x, jnp.float32(shape)), np.float64)[0]


def test_log_survival_is_accurate_in_both_tails() -> None:
    w = np.linspace(-8, 8, 10_001).astype(np.float32)
    above, below = (np.asarray(x, np.float64) for x in jax.jit(log_survival)(w))
    np.testing.assert_allclose(above, stats.norm.logsf(w.astype(float)), rtol=3e-6, atol=1e-7)
    np.testing.assert_allclose(below, stats.norm.logcdf(w.astype(float)), rtol=3e-6, atol=1e-7)


def test_scores_of_a_normal_lane_are_nearly_its_own_units() -> None:
    pilot, x = _lanes(jnp.float32(2.0), jnp.float32(5.0))
    w = np.asarray(jax.jit(lambda p, x: to_score(x, knots_of(p, jnp.ones(TILE, bool))))(pilot, x))[0]
    z = (np.asarray(x)[0] - 2) / 5
    assert np.abs(w - z)[np.abs(z) < 2].max() < 0.25 and np.abs(w - z).max() < 1.0
    assert np.diff(w[np.argsort(z)]).min() > -1e-5  # in order, to rounding


EXACT: dict[str, tuple[float, Any]] = {
    "uniform": (0.0, stats.uniform()),
    "normal": (0.0, stats.norm()),
    "lognormal": (0.8, stats.lognorm(0.8)),
    "exponential": (0.0, stats.expon()),
    "pareto": (0.5, stats.pareto(2.0)),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_marginal_has_its_distribution(name: str) -> None:
    shape, law = EXACT[name]
    assert stats.kstest(shown(name, shape)[:200_000], law.cdf).statistic < 0.05  # a pilot of 1,024 rows errs by 0.03


@pytest.mark.parametrize("index", [1.5, 2.0, 3.5])
def test_a_pareto_tail_has_its_index(index: float) -> None:
    """Hill's estimate over the top 2 % of a million rows."""
    y = np.sort(shown("pareto", 1 / index))[-ROWS // 50 :]
    assert abs(1 / np.mean(np.log(y[1:] / y[0])) / index - 1) < 0.25


def test_marginals_with_atoms() -> None:
    shapes = {"count": 4.0, "zero_inflated": 0.3, "bounded": 0.6, "price": 0.8}
    count, zeros, bounded, price = (shown(name, shape) for name, shape in shapes.items())
    assert (count == np.round(count)).all() and count.min() == 0 and abs(count.mean() / 4 - 1) < 0.1
    assert abs(np.var(count) / (4 * 5) - 1) < 0.25  # geometric
    assert abs((zeros == 0).mean() - 0.3) < 0.04 and stats.kstest(zeros[zeros > 0][:100_000], "expon").statistic < 0.05
    assert bounded.min() == 0 and bounded.max() == 1 and abs((bounded == 0).mean() - stats.norm.cdf(-0.5 / 0.6)) < 0.03
    np.testing.assert_allclose(price - np.floor(price), 0.99, atol=1e-3)
    assert price.min() > 0


@pytest.mark.parametrize(("name", "function"), [("identity", lambda x: x), ("signed_log", lambda x: np.sign(x) * np.log1p(np.abs(x))),
                                                ("signed_sqrt", lambda x: np.sign(x) * np.sqrt(np.abs(x)))])  # fmt: skip
def test_marginals_that_need_no_rank(name: str, function: Any) -> None:
    x = np.asarray(_lanes(jnp.float32(2.0), jnp.float32(5.0))[1], np.float64)[0]
    np.testing.assert_allclose(shown(name, 0.0), function(x), rtol=1e-5, atol=1e-5)


def test_an_atom_gets_the_middle_of_its_ranks_and_padding_counts_for_nothing() -> None:
    pilot = jnp.asarray(np.r_[np.zeros(300), np.ones(100), np.full(TILE - 400, 9.0)][None], jnp.float32)
    knots = jax.jit(knots_of)(pilot, jnp.arange(TILE, dtype=jnp.int32) < 400)
    assert float(knots.max()) == 1.0
    w = np.asarray(jax.jit(to_score)(jnp.asarray([[0.0, 1.0]]), knots))[0]
    assert w[0] < 0.68 < w[1] and np.isfinite(w).all()


def test_knots_are_measured_where_they_are_wanted_in_turn_or_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(0)
    seen, given = (jnp.asarray(dice.normal(size=(3, 5, n)), jnp.float32) for n in (TILE, len(SCORES)))
    real, wanted = jnp.arange(TILE, dtype=jnp.int32)[None] < jnp.asarray([[TILE], [700], [1]]), jnp.asarray(dice.random((3, 5)) < 0.5)
    assert 0 < int(wanted.sum()) < wanted.size
    measured = jax.jit(measured_knots, static_argnames="loop")
    in_turn = np.asarray(measured(seen, real, wanted, given, loop=quick_loop))
    np.testing.assert_array_equal(np.asarray(measured(seen, real, wanted, given, loop=fixed_loop)), in_turn)
    monkeypatch.setattr(columns, "by_platform", lambda kernel, operators: kernel())  # as on a GPU
    np.testing.assert_array_equal(np.asarray(jax.jit(lambda: measured_knots(seen, real, wanted, given, quick_loop))()), in_turn)
    alone = np.asarray(jax.vmap(jax.jit(knots_of))(seen, real))
    np.testing.assert_array_equal(in_turn, np.where(np.asarray(wanted)[:, :, None], alone, np.asarray(given)))


def test_missing_at_random_given_another_value_and_by_the_value_itself() -> None:
    rows = jnp.arange(200_000, dtype=jnp.int32)
    streams = named_key(KEY, jnp.arange(3, dtype=jnp.int32))
    w, _ = normals(row_pair(streams[:, None, :], rows[None, :], 7))
    share = jnp.full(3, round(0.2 * 2**24), jnp.uint32)
    driver = jnp.asarray([-1, 0, 2], jnp.int32)

    def draw(w: jax.Array) -> jax.Array:
        return missing_values(streams, rows, share, driver, w, jnp.asarray(True))

    missing = np.asarray(jax.jit(draw)(w))
    np.testing.assert_array_equal(jax.jit(jax.vmap(draw))(w[None])[0], missing)
    np.testing.assert_allclose(missing.mean(1), 0.2, atol=0.005)
    dependence = np.corrcoef(np.r_[missing, np.asarray(w)])[:3, 3:]  # of each column's gaps on each column's values
    assert (dependence[[1, 2], [0, 2]] > 0.2).all()
    dependence[[1, 2], [0, 2]] = 0
    assert np.abs(dependence).max() < 0.01


def test_dates_are_days_inside_their_law_and_arrow_types() -> None:
    laws, dates = set(), 0
    for db in each(databases("default")):
        schema, scm = db.schema, db.scm
        timed = np.flatnonzero(schema.has_time)
        first = int(schema.time_start[timed].min()) // 86_400
        last = int((schema.time_start[timed] + schema.time_span[timed]).max()) // 86_400
        arrow = list(to_arrow(db).values())
        for table in tables(db):
            for c in np.flatnonzero(schema.column_kind[table.index, : len(table.values)] == Kind.DATE):
                law = MARGINALS[scm.column_marginal[table.index, c]]
                laws.add(law)
                day = table.values[c][~table.missing[c]].astype(np.float64)
                assert (day == np.round(day)).all() and FIRST_DAY <= day.min() and day.max() <= LAST_DAY
                if law == "uniform":
                    assert first <= day.min() and day.max() <= last
                elif law == "exponential":
                    assert day.max() <= last
                else:
                    assert law == "normal" and -11_000 < scm.column_offset[table.index, c] < 7_400
                column = arrow[table.index].column(arrow[table.index].num_columns - len(table.values) + int(c))
                assert column.type == pa.date32() and column.null_count == table.missing[c].sum()
                np.testing.assert_array_equal(column.drop_null().cast(pa.int32()).to_numpy(), day)
                dates += 1
    assert laws == {"uniform", "exponential", "normal"} and dates > 50


def test_a_date_follows_its_lane() -> None:
    """Monotone: the law of a date is a function of the rank."""
    days = (jnp.int32(9000), jnp.int32(2000))
    streams = named_key(KEY, jnp.arange(60, dtype=jnp.int32))[None]
    prior = presets.load("tiny").prior.scm
    drawn = sample_columns(streams, prior, jnp.full((1, 60), int(Kind.DATE), jnp.int32), jnp.full(1, 60, jnp.int32), days)
    scale, offset, marginal = (np.asarray(drawn[f"column_{name}"])[0] for name in ("scale", "offset", "marginal"))
    even, fading, around = (marginal == MARGINALS.index(name) for name in ("uniform", "exponential", "normal"))
    assert even.any() and fading.any() and around.any() and (even | fading | around).all()
    assert (offset[even] == 9000).all() and (scale[even] == 1999).all()
    assert (offset[fading] == 10_999).all() and (scale[fading] < 0).all() and (scale[fading] >= -600).all()
    assert (np.abs(offset[around] + 1826) < 9132).all() and (scale[around] >= 1000).all() and (scale[around] <= 4000).all()
