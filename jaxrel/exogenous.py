"""Exogenous nodes: what a table's SCM takes as given, as a function of the row id and of time.

``value(r) = trend · t^power + cycle · sin(2π (phase + t / period)) + noise · Q(ar(r))``; ``t`` runs from 0 to 1, in a timed table over
its span, else over its rows; a timed cycle may follow the calendar's day, week or year instead. ``ar`` is a stationary
AR(1) of unit variance over counter-based normal innovations, cut after 128 steps; ``Q`` maps a normal score to the wished distribution,
piecewise linear between KNOTS scores. Every family is a choice of these numbers.

A node may show a trait of a link instead (`jaxrel.traits`): then its value is ``Q`` of the trait's normal score.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel.prior import SCMPrior, draw_choice, draw_flag, draw_real, draw_share
from jaxrel.random import below, bits, log, normals, pair, row_pair, sine_turns, uniform
from jaxrel.registry import EXOGENOUS
from jaxrel.style import Style
from jaxrel.tiles import SEGMENT
from jaxrel.traits import trait_scores
from jaxrel.types import KNOTS

__all__ = ["exogenous_rows", "sample_exogenous", "trait_rows"]

_CALENDAR = (86_400, 604_800, 31_557_600)  # seconds of a day, a week, a year
_SCORES = np.linspace(-4.0, 4.0, KNOTS).astype(np.float32)
_PROBABILITIES = np.array([0.5 * (1 + math.erf(z / math.sqrt(2))) for z in _SCORES], np.float32)
_GRID = 65  # points at which a distribution function is tabulated to be inverted


def _invert(grid: Array, cdf: Array) -> Array:
    """f32[..., KNOTS]: quantiles at the normal scores of a distribution tabulated as (grid, cdf), both f32[..., GRID]."""
    p = jnp.broadcast_to(jnp.asarray(_PROBABILITIES), (*cdf.shape[:-1], KNOTS))

    def count(g: Array, below: Array) -> Array:  # point by point: all at once would be an array of knots times points a node
        return below + (jax.lax.dynamic_index_in_dim(cdf, g, -1) < p).astype(jnp.int32)

    upper = jnp.clip(jax.lax.fori_loop(0, _GRID, count, jnp.zeros(p.shape, jnp.int32)), 1, _GRID - 1)
    c0, c1 = (jnp.take_along_axis(cdf, upper - d, axis=-1) for d in (1, 0))
    g0, g1 = (jnp.take_along_axis(grid, upper - d, axis=-1) for d in (1, 0))
    return g0 + (g1 - g0) * jnp.clip((p - c0) / jnp.maximum(c1 - c0, 1e-9), 0.0, 1.0)


def _beta_knots(key: Array) -> Array:
    """Quantiles of Beta(a, b), a and b uniform in 0.5…5; with x = sin²θ the density has no pole, so a trapezoid in θ suffices."""
    u, v = (uniform(word) for word in pair(key, 0, "beta"))
    a, b = 0.5 + 4.5 * u, 0.5 + 4.5 * v
    theta = jnp.linspace(1e-3, float(np.pi / 2) - 1e-3, _GRID, dtype=jnp.float32)
    theta = jnp.expand_dims(theta, tuple(range(a.ndim)))
    density = jnp.exp((2 * a[..., None] - 1) * jnp.log(jnp.sin(theta)) + (2 * b[..., None] - 1) * jnp.log(jnp.cos(theta)))
    steps = jnp.concatenate([jnp.zeros_like(density[..., :1]), density[..., 1:] + density[..., :-1]], axis=-1)
    cdf = jnp.matmul(steps, jnp.triu(jnp.ones((_GRID, _GRID), jnp.float32)), precision="highest")
    return _invert(jnp.broadcast_to(jnp.square(jnp.sin(theta)), cdf.shape), cdf / cdf[..., -1:])


def _mixture_knots(key: Array) -> Array:
    """Quantiles of a mixture of three logistic laws with uniform weights, means in ±3 and scales 0.15…0.6."""
    i = jnp.arange(3, dtype=jnp.int32)
    weight, mean = (uniform(word) for word in pair(key[..., None, :], i, "mixture"))
    spread = 0.15 + 0.45 * uniform(pair(key[..., None, :], i, "spread")[0])
    mean, weight = 6.0 * mean - 3.0, weight / jnp.sum(weight, axis=-1, keepdims=True)
    grid = jnp.linspace(-6.0, 6.0, _GRID, dtype=jnp.float32)
    parts = 0.5 + 0.5 * jnp.tanh(0.5 * (jnp.expand_dims(grid, (*range(mean.ndim - 1), -1)) - mean[..., None, :]) / spread[..., None, :])
    cdf = jnp.sum(weight[..., None, :] * parts, axis=-1)
    return _invert(jnp.broadcast_to(grid, cdf.shape), cdf)


def sample_exogenous(
    key: Array, prior: SCMPrior, is_activity: Array, has_time: Array, style: Style | None = None
) -> dict[str, Array]:
    """Sample the exogenous law of every node (used where the node is exogenous).

    Args:
        key: u32[..., 2], one key a node.
        prior: the ``scm`` section.
        is_activity: bool[...]; trends and cycles belong to activity tables and to timed ones, others get noise alone.
        has_time: bool[...]; cycles of the calendar belong to timed tables.
        style: of the nodes' tables.

    Returns:
        The ``series_*`` fields of `jaxrel.types.SCM` and ``noise_knots``.

    Reference:
        Time series of PluRel (arXiv 2602.04029): power-law trend, sine cycle, AR(1) noise.
    """
    family = draw_choice(key, "exogenous", prior.exogenous, style=style)
    is_series = family == EXOGENOUS.index("series")
    moves = is_series & (is_activity | has_time)
    calendar = jnp.asarray(_CALENDAR, jnp.int32)[below(bits(key, 0, "calendar"), len(_CALENDAR))]
    by_calendar = is_series & has_time & draw_flag(key, "by calendar", prior.calendar_cycle)
    to_trend, to_cycle = pair(key, 0, "amplitude")
    period = jnp.maximum(draw_share(key, "period", prior.period, style=style), 1 << 14)  # in 2^-24 of the span
    scores = jnp.asarray(_SCORES)
    flat = jnp.broadcast_to(scores, (*family.shape, KNOTS))
    even = jnp.broadcast_to(float(np.sqrt(3.0)) * (2.0 * jnp.asarray(_PROBABILITIES) - 1.0), flat.shape)
    knots = flat
    for name, value in (("uniform", even), ("beta", _beta_knots(key)), ("mixture", _mixture_knots(key))):
        knots = jnp.where((family == EXOGENOUS.index(name))[..., None], value, knots)
    return {
        "series_trend": jnp.where(moves, 2.0 * uniform(to_trend) - 1.0, 0.0),
        "series_power": draw_real(key, "trend power", prior.trend_power, style=style),
        "series_cycle": jnp.where(moves, 2.0 * uniform(to_cycle) - 1.0, 0.0),
        "series_period": period,
        "series_phase": pair(key, 0, "phase")[0],
        "series_noise": jnp.where(moves, prior.series_noise, jnp.float32(1.0)),
        "series_rho": jnp.where(is_series, draw_real(key, "rho", prior.rho, style=style), 0.0),
        "series_calendar": jnp.where(by_calendar, calendar, 0),
        "noise_knots": knots,
    }


def _interpolate(z: Array, knots: Array) -> Array:
    """Q(z): linear between the knots, continued beyond them."""
    position = jnp.clip((z + 4.0) * ((KNOTS - 1) / 8.0), 0.0, KNOTS - 1.0001)
    i = position.astype(jnp.int32)
    inside = (z + 4.0) * ((KNOTS - 1) / 8.0) - i.astype(jnp.float32)
    low, high = knots[i], knots[i + 1]
    return low + (high - low) * inside


def _autoregress(innovations: Array, rho: Array) -> Array:
    """Unit-variance AR(1) by doubling: f32[..., runs, 2 SEGMENT] innovations → the last SEGMENT values of each run."""
    x, factor, step = innovations, rho, 1
    while step < SEGMENT:
        x = x + factor * jnp.concatenate([jnp.zeros_like(x[..., :step]), x[..., :-step]], axis=-1)
        factor, step = factor * factor, step * 2
    return x[..., SEGMENT:] * jnp.sqrt(1.0 - rho * rho)


def exogenous_rows(key: Array, node: dict[str, Array], rows: Array, moment: Array, time: Array, any_memory: Array) -> Array:
    """Values of one exogenous node of every database at the rows of a tile.

    Args:
        key: u32[B, 2], the nodes' noise streams.
        node: fields of `sample_exogenous`, [B] (knots [B, KNOTS]).
        rows: i32[B, TILE], runs of SEGMENT consecutive row ids.
        moment: f32[B, TILE], their `jaxrel.times.moments`.
        time: i32[B, TILE], seconds since 1970-01-01 UTC, for cycles of the calendar.
        any_memory: bool[], some database's node is autoregressive.

    Returns:
        f32[B, TILE].
    """
    runs = rows.reshape(rows.shape[0], -1, SEGMENT)

    def innovations(ids: Array) -> Array:
        return normals(row_pair(key[:, None, None, :], ids))[0]

    def remember(_: Array) -> Array:
        past = runs[:, :, :1] - SEGMENT + jnp.arange(2 * SEGMENT, dtype=jnp.int32)[None, None, :]
        return _autoregress(innovations(past), node["series_rho"][:, None, None])

    z = jax.lax.cond(any_memory, remember, innovations, runs).reshape(rows.shape)
    field = {name: x[:, None] for name, x in node.items() if name != "noise_knots"}
    trend = jnp.exp(field["series_power"] * log(jnp.clip(moment, 1e-6, 1.0)))
    turns = moment * (jnp.float32(2**24) / field["series_period"].astype(jnp.float32))  # the period is in 2^-24 of the span
    calendar = jnp.maximum(field["series_calendar"], 1)
    by_calendar = jnp.remainder(time, calendar).astype(jnp.float32) / calendar.astype(jnp.float32)
    turns = jnp.where(field["series_calendar"] > 0, by_calendar, turns)
    turns = turns + (field["series_phase"] >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)
    smooth = field["series_trend"] * trend + field["series_cycle"] * sine_turns(turns)
    return smooth + field["series_noise"] * jax.vmap(_interpolate)(z, node["noise_knots"])


def trait_rows(stream: Array, is_parent: Array, knots: Array, n: Array, rows: Array) -> Array:
    """Values of one exogenous node of every database that shows a trait, at the rows of a tile.

    Args:
        stream: u32[B, 2], the streams of the keys.
        is_parent: bool[B], the rows are of the key's parent table.
        knots: f32[B, KNOTS], the node's ``noise_knots``.
        n: i32[B], rows of the tables.
        rows: i32[B, TILE].

    Returns:
        f32[B, TILE].
    """
    return jax.vmap(_interpolate)(trait_scores(stream, is_parent, rows, n), knots)
