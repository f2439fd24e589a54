"""Exogenous nodes: what a table's SCM takes as given, as a function of the row id and of time.

``value(r) = trend · t^power + cycle · sin(2π (phase + t / period)) + noise · Q(ar(r))``; ``t`` runs from 0 to 1, in a timed table over
its span, else over its rows; a timed cycle may follow the calendar's day, week or year instead. ``ar`` is a stationary
AR(1) of unit variance over counter-based normal innovations, cut after 128 steps; ``Q`` maps a normal score to the wished distribution,
piecewise linear between KNOTS scores. Every family is a choice of these numbers.

A node may show a trait of a link instead (`jaxrel.traits`): then its value is ``Q`` of the trait's normal score.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel.draws import draw_choice, draw_flag, draw_real, draw_share
from jaxrel.prior import SCMPrior
from jaxrel.random import Words, below, bits, log, normals, pair, row_pair, sine_turns, uniform
from jaxrel.registry import EXOGENOUS
from jaxrel.style import Style
from jaxrel.tiles import SEGMENT
from jaxrel.traits import trait_scores
from jaxrel.types import KNOTS

__all__ = ["EXOGENOUS_DRAWS", "exogenous_rows", "interpolate", "sample_exogenous", "series", "trait_rows"]

EXOGENOUS_DRAWS = ("exogenous", "calendar", "by calendar", "amplitude", "period", "law", "trend power", "phase", "rho")
_CALENDAR = (86_400, 604_800, 31_557_600)  # seconds of a day, a week, a year
_SCORES = np.linspace(-4.0, 4.0, KNOTS).astype(np.float32)
_PROBABILITIES = np.array([0.5 * (1 + math.erf(z / math.sqrt(2))) for z in _SCORES], np.float32)
_LAWS = 1024  # of each family, tabulated once
_GRID = 2049  # points at which a distribution function is tabulated to be inverted


def _invert(grid: np.ndarray, cdf: np.ndarray) -> np.ndarray:
    """f32[LAWS, KNOTS]: quantiles at the normal scores of distributions tabulated as (grid, cdf), f64[GRID] and f64[LAWS, GRID].

    In multiples of 2^-12: the tables are the same wherever they are made.
    """
    return np.round([np.interp(_PROBABILITIES, f, grid) * 4096 for f in cdf]).astype(np.float32) / 4096


@functools.cache
def _beta_knots() -> np.ndarray:
    """Quantiles of Beta(a, b), a and b on an even grid of 0.5…5; with x = sin²θ the density has no pole, so a trapezoid in θ suffices."""
    side = 0.5 + 4.5 * (np.arange(32) + 0.5) / 32
    a, b = (x.reshape(-1, 1) for x in np.meshgrid(side, side, indexing="ij"))
    theta = np.linspace(0.0, np.pi / 2, _GRID)
    density = np.sin(theta) ** (2 * a - 1) * np.cos(theta) ** (2 * b - 1)
    cdf = np.pad(np.cumsum(density[:, 1:] + density[:, :-1], axis=1), ((0, 0), (1, 0)))
    return _invert(np.sin(theta) ** 2, cdf / cdf[:, -1:])


@functools.cache
def _mixture_knots() -> np.ndarray:
    """Quantiles of mixtures of three logistic laws with uniform weights, means in ±3 and scales 0.15…0.6, spread evenly over these nine
    numbers by an additive recurrence (Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018)."""
    root = 1.0
    for _ in range(64):  # the root of x^10 = x + 1
        root = (1.0 + root) ** (1 / 10)
    place = np.modf(0.5 + np.arange(1, _LAWS + 1)[:, None] * root ** -np.arange(1.0, 10.0))[0]
    weight, mean, spread = place[:, :3], 6.0 * place[:, 3:6] - 3.0, 0.15 + 0.45 * place[:, 6:]
    grid = np.linspace(-6.0, 6.0, _GRID)
    parts = 0.5 + 0.5 * np.tanh(0.5 * (grid - mean[..., None]) / spread[..., None])
    return _invert(grid, np.einsum("lm,lmg->lg", weight / weight.sum(axis=1, keepdims=True), parts))


def sample_exogenous(
    key: Array | Words, prior: SCMPrior, is_activity: Array, has_time: Array, style: Style | None = None
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
    law = below(bits(key, 0, "law"), _LAWS)
    for name, value in (("uniform", even), ("beta", jnp.asarray(_beta_knots())[law]), ("mixture", jnp.asarray(_mixture_knots())[law])):
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


def interpolate(z: Array, knots: Callable[[Array], Array]) -> Array:
    """Q(z): linear between the knots, continued beyond them. ``knots``: of i32[...], the knots of these numbers, f32[...]."""
    position = jnp.clip((z + 4.0) * ((KNOTS - 1) / 8.0), 0.0, KNOTS - 1.0001)
    i = position.astype(jnp.int32)
    inside = (z + 4.0) * ((KNOTS - 1) / 8.0) - i.astype(jnp.float32)
    low, high = knots(i), knots(i + 1)
    return low + (high - low) * inside


def _autoregress(innovations: Array, rho: Array) -> Array:
    """Unit-variance AR(1) by doubling: f32[..., runs, 2 SEGMENT] innovations → the last SEGMENT values of each run."""
    none = jnp.zeros_like(innovations[..., :SEGMENT])

    def double(level: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:  # a loop: unrolled, XLA draws anew in every step
        x, factor = state
        step = jnp.int32(1) << level
        sooner = jax.lax.dynamic_slice_in_dim(jnp.concatenate([none, x], axis=-1), SEGMENT - step, x.shape[-1], axis=-1)
        return x + factor * sooner, factor * factor

    x, _ = jax.lax.fori_loop(0, SEGMENT.bit_length() - 1, double, (innovations, rho))
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
    return series(field, moment, time, _quantiles(z, node["noise_knots"]))


def _quantiles(z: Array, knots: Array) -> Array:
    """Q(z) of every database, f32[B, rows] of normal scores f32[B, rows] and knots f32[B, KNOTS]."""
    return jax.vmap(lambda z, knots: interpolate(z, lambda i: knots[i]))(z, knots)


def series(field: dict[str, Array], moment: Array, time: Array, noise: Array, nearest: Callable[[Array], Array] = jnp.round) -> Array:
    """Trend, cycle and noise of an exogenous node, f32[...].

    Args:
        field: the ``series_*`` fields of `sample_exogenous`, as they broadcast to the others.
        moment: f32[...], as `exogenous_rows`.
        time: i32[...], the same.
        noise: f32[...], of unit scale.
        nearest: how to round to an integer.
    """
    trend = jnp.exp(field["series_power"] * log(jnp.clip(moment, 1e-6, 1.0)))
    turns = moment * (jnp.float32(2**24) / field["series_period"].astype(jnp.float32))  # the period is in 2^-24 of the span
    calendar = jnp.maximum(field["series_calendar"], 1)
    by_calendar = jnp.remainder(time, calendar).astype(jnp.float32) / calendar.astype(jnp.float32)
    turns = jnp.where(field["series_calendar"] > 0, by_calendar, turns)
    turns = turns + (field["series_phase"] >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)
    smooth = field["series_trend"] * trend + field["series_cycle"] * sine_turns(turns, nearest)
    return smooth + field["series_noise"] * noise


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
    return _quantiles(trait_scores(stream, is_parent, rows, n), knots)
