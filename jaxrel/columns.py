"""What a column shows of its node: a marginal by the rank of the node's lane, and which values are missing.

A lane becomes a normal score by its pilot: quantiles of the pilot's rows at SCORES, linear between them and beyond (so that a lane with a
normal tail gives exactly the tail that a marginal names). A marginal is a function of that score ``w``, of its rank ``u = Φ(w)`` and of
``E = -log(1 - u)``, or of the lane itself. All are computed side by side and one is taken: a code is data.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel.batching import Loop, by_platform
from jaxrel.draws import draw_choice, draw_flag, draw_real
from jaxrel.prior import SCMPrior
from jaxrel.random import Words, below, bits, chance, exp, log, pair, row_bits, uniform
from jaxrel.registry import MARGINALS
from jaxrel.style import Style
from jaxrel.types import FIRST_DAY, LAST_DAY, SCORES, Kind

__all__ = [
    "COLUMN_DRAWS",
    "from_score",
    "in_units",
    "knots_of",
    "log_survival",
    "measured_knots",
    "missing_values",
    "sample_columns",
    "to_score",
]

COLUMN_DRAWS = ("marginal", "shape", "scale", "offset", "driver", "own value", "not at random", "date")
_OWN_UNIT = ("count", "price", "bounded", "standard")  # their unit means something: no scale, no offset
_FROM_ZERO = ("lognormal", "exponential", "pareto", "zero_inflated", "bounded")  # scaled, not shifted
_PLAIN = MARGINALS.index("identity")
_PLACES = np.asarray([round(0.5 * (1 + math.erf(z / math.sqrt(2))) * 2**20) for z in SCORES], np.int32)  # ranks of SCORES, in 2^-20


def sample_columns(
    key: Array | Words, law: SCMPrior, kind: Array, count: Array, days: tuple[Array, Array], style: Style | None = None
) -> dict[str, Array]:
    """Sample marginals, their shapes, units, and the drivers of what is missing.

    Args:
        key: u32[T, C, 2], one key a column.
        law: the ``scm`` section.
        kind: i32[T, C], `Kind`.
        count: i32[T], columns of each table.
        days: i32[] and i32[], first day and days of the database's events.
        style: of the columns' tables.

    Returns:
        The ``column_*`` fields of `jaxrel.types.SCM` except node, lane and knots.
    """
    key = Words(key, ("offset", "date"), 1)
    real = (kind == Kind.NUMERIC) | (kind == Kind.INTEGER)
    marginal = jnp.where(real, draw_choice(key, "marginal", law.marginals, style=style), _PLAIN)
    u = _coarse(bits(key, 0, "shape"))
    shape = jnp.zeros_like(u)
    for name, value in (
        ("lognormal", 0.375 + 0.8125 * u),  # standard deviation of the logarithm
        ("pareto", 1.0 / (1.5 + 2.0 * u)),  # one over the tail index, which is 1.5…3.5
        ("count", 0.5 + 20.0 * (u * u)),  # mean
        ("zero_inflated", 0.125 + 0.6875 * u),  # share of zeros
        ("bounded", 0.25 + 0.5 * u),  # standard deviation, in units of the range
        ("price", 0.375 + 0.8125 * u),
    ):
        shape = jnp.where(marginal == MARGINALS.index(name), value, shape)

    is_date, date = kind == Kind.DATE, _dates(key, days)
    marginal, shape = jnp.where(is_date, date["marginal"], marginal), jnp.where(is_date, 0.5, shape)
    scale = draw_real(key, "scale", law.value_scale, style=style)
    scale = jnp.where(kind == Kind.INTEGER, jnp.maximum(scale, 3.0), scale)
    to_offset, shifted = uniform(bits(key, 0, "offset")), bits(key, 1, "offset") >> 31 == 1
    offset = jnp.where(shifted, (2.0 * to_offset - 1.0) * law.value_offset * scale, 0.0)
    own_unit, from_zero = jnp.zeros(marginal.shape, bool), jnp.zeros(marginal.shape, bool)
    for name in _OWN_UNIT:
        own_unit = own_unit | (marginal == MARGINALS.index(name))
    for name in _FROM_ZERO:
        from_zero = from_zero | (marginal == MARGINALS.index(name))
    own_unit = own_unit & ~((marginal == MARGINALS.index("bounded")) & (kind == Kind.INTEGER))  # counted in its unit, not in halves

    other = below(bits(key, 0, "driver"), count[:, None])
    itself = jnp.broadcast_to(jnp.arange(kind.shape[1], dtype=jnp.int32)[None, :], other.shape)
    driver = jnp.where(draw_flag(key, "own value", law.missing_by_itself, style=style), itself, other)
    driver = jnp.where(draw_flag(key, "not at random", law.missing_by_value, style=style), driver, -1)
    return {
        "column_marginal": marginal,
        "column_shape": shape,
        "column_scale": jnp.where(is_date, date["scale"], jnp.where(own_unit, 1.0, scale)),
        "column_offset": jnp.where(is_date, date["offset"], jnp.where(own_unit | from_zero, 0.0, offset)),
        "column_driver": driver,
    }


def _coarse(word: Array) -> Array:
    """f32[...]: one of 512 midpoints of (0, 1). Its products and sums with short constants are exact: every program rounds alike."""
    return ((word >> 23).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-9)


def _dates(key: Array | Words, days: tuple[Array, Array]) -> dict[str, Array]:
    """Marginals, scales and offsets in days of date columns: evenly over the events' span, most of them near its end, or around a year."""
    first, span = (x.astype(jnp.float32) for x in days)
    u, v = (_coarse(word) for word in pair(key, 0, "date"))
    law = below(bits(key, 1, "date"), 3)
    centre, deviation = -10957.0 + 18262.0 * u, 1000.0 + 3000.0 * v  # 1940 … 1989, 3 … 11 years: dates of birth, of foundation
    fade = span * (0.125 + 0.1875 * v)  # days by which their number falls to a third, backwards
    return {
        "marginal": jnp.asarray([MARGINALS.index(name) for name in ("uniform", "exponential", "normal")], jnp.int32)[law],
        "scale": jnp.where(law == 0, span - 1.0, jnp.where(law == 1, -fade, deviation)),
        "offset": jnp.where(law == 0, first, jnp.where(law == 1, first + span - 1.0, centre)),
    }


def knots_of(seen: Array, real: Array) -> Array:
    """Quantiles of some rows at SCORES.

    Args:
        seen: f32[C, rows], lanes.
        real: bool[rows], the rows that count.

    Returns:
        f32[C, SCORES]; 0 where no row counts.
    """
    word = jax.lax.bitcast_convert_type(jnp.where(real[None, :], seen, jnp.inf), jnp.int32)
    flip = functools.partial(jnp.bitwise_and, 0x7FFFFFFF)  # as integers in the order of the floats: a quarter of the time on CPU
    word = jax.lax.sort(word ^ flip(word >> 31), is_stable=False)
    ordered = jax.lax.bitcast_convert_type(word ^ flip(word >> 31), jnp.float32)
    count = jnp.sum(real, dtype=jnp.int32)
    place = _PLACES * (jnp.maximum(count, 1) - 1)
    low, part = place >> 20, (place & 0xFFFFF).astype(jnp.float32) * jnp.float32(2.0**-20)
    high = jnp.minimum(low + 1, jnp.maximum(count - 1, 0))
    gap = ordered[:, high] - ordered[:, low]
    knots = ordered[:, low] + jnp.minimum(gap * part[None, :], gap)  # the minimum keeps product and sum apart: fused, they round otherwise
    return jax.lax.stop_gradient(jnp.where(count > 0, knots, 0.0))


def measured_knots(seen: Array, real: Array, wanted: Array, knots: Array, loop: Loop) -> Array:
    """Knots of the columns of a batch, those that are wanted anew: a CPU sorts these columns alone, one after another.

    Args:
        seen: f32[B, C, rows], lanes.
        real: bool[B, rows], the rows that count.
        wanted: bool[B, C].
        knots: f32[B, C, SCORES], of the others.
        loop: how to loop.

    Returns:
        f32[B, C, SCORES].
    """

    def at_once() -> Array:
        return jnp.where(wanted[:, :, None], jax.vmap(knots_of)(seen, real), knots)

    def in_turn() -> Array:
        order = jnp.argsort(~wanted, axis=1, stable=True)

        def one(i: Array, knots: Array) -> Array:
            lane = jnp.take_along_axis(seen, order[:, i, None, None], axis=1)
            is_it = wanted & (jnp.arange(wanted.shape[1], dtype=order.dtype)[None] == order[:, i, None])
            return jnp.where(is_it[:, :, None], jax.vmap(knots_of)(lane, real), knots)

        done: Array = loop(0, jnp.max(jnp.sum(wanted, axis=1, dtype=jnp.int32)), wanted.shape[1], one, knots)
        return done

    measured: Array = by_platform(at_once, in_turn)
    return measured


def to_score(seen: Array, knots: Array) -> Array:
    """Normal scores f32[C, rows] of lanes f32[C, rows], by their quantiles f32[C, SCORES]; within ±5.

    A sum of ramps, one between each two knots, the outer two unbounded: no gather. An atom gets the middle of its ranks.
    """
    gap = knots[:, 1:] - knots[:, :-1]
    atom = gap <= 1e-3 * (1.0 + jnp.abs(knots[:, :-1]))  # a steeper ramp would blow up rounding
    slope = jnp.where(atom, 0.0, 1.0 / jnp.where(atom, 1.0, gap))
    total = jnp.zeros_like(seen)
    last = len(SCORES) - 2
    for k in range(last + 1):
        ahead = seen - knots[:, k, None]
        ramp = jnp.clip(ahead * slope[:, k, None], None if k == 0 else 0.0, None if k == last else 1.0)
        jump = jnp.where(ahead > 0, 1.0, jnp.where(ahead < 0, 0.0, 0.5))
        total = total + jnp.where(atom[:, k, None], jump, ramp)
    return jnp.clip(SCORES[0] + (SCORES[1] - SCORES[0]) * total, -5.0, 5.0)  # a lane with outliers shall not leave the marginal


def log_survival(w: Array) -> tuple[Array, Array]:
    """log(1 - Φ(w)) and log Φ(w), f32[...], within 2·10⁻⁶ relative, however far in a tail. Reference: Numerical Recipes, erfcc."""
    x = jnp.abs(w) * jnp.float32(np.sqrt(0.5))
    t = 1.0 / (1.0 + 0.5 * x)
    series = jnp.zeros_like(t)
    for c in (0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368):
        series = series * t + c
    tail = jnp.minimum(log(0.5 * t) - x * x - 1.26551223 + t * series, -jnp.float32(np.log(2.0)))
    rest = log(1.0 - exp(tail))
    return jnp.where(w > 0, tail, rest), jnp.where(w > 0, rest, tail)


def from_score(seen: Array, w: Array, marginal: Array, shape: Array) -> Array:
    """What columns show, in their own units.

    Args:
        seen: f32[C, rows], lanes.
        w: f32[C, rows], their normal scores.
        marginal: i32[C], index into `jaxrel.registry.MARGINALS`.
        shape: f32[C], its parameter.

    Returns:
        f32[C, rows].
    """
    E = -log_survival(w)[0]
    shape, code = shape[:, None], marginal[:, None]
    spread = exp(jnp.clip(shape * w, -20.0, 20.0))
    out = seen
    for name, value in (
        ("uniform", 1.0 - exp(-E)),
        ("normal", w),
        ("lognormal", spread),
        ("exponential", E),
        ("pareto", exp(jnp.clip(shape * E, 0.0, 40.0))),
        ("count", jnp.floor(E / log((shape + 1.0) / jnp.maximum(shape, 0.1)))),  # geometric of this mean
        ("zero_inflated", jnp.maximum(E + log(1.0 - jnp.clip(shape, 0.0, 0.99)), 0.0)),
        ("bounded", jnp.clip(0.5 + shape * w, 0.0, 1.0)),
        ("price", jnp.floor(10.0 * spread) + 0.99),
        ("signed_log", jnp.sign(seen) * log(1.0 + jnp.abs(seen))),
        ("signed_sqrt", jnp.sign(seen) * jnp.sqrt(jnp.abs(seen) + 1e-12)),
    ):
        out = jnp.where(code == MARGINALS.index(name), value, out)
    return out


def in_units(value: Array, kind: Array) -> Array:
    """Values f32[C, rows] of real columns as their kinds i32[C] hold them: integers and dates are whole, dates inside what files hold."""
    kind = kind[:, None]
    value = jnp.where((kind == Kind.INTEGER) | (kind == Kind.DATE), jnp.round(value), value)
    return jnp.where(kind == Kind.DATE, jnp.clip(value, FIRST_DAY, LAST_DAY), value)


def missing_values(key: Array, rows: Array, share: Array, driver: Array, w: Array, any_driver: Array) -> Array:
    """Which values are missing: at random, or the likelier the higher the driver's rank (share · 2u, so that the share is kept).

    Args:
        key: u32[C, 2], a stream for each column.
        rows: i32[rows], row ids.
        share: u32[C], share of missing values, in 2^-24.
        driver: i32[C], the column that decides, itself (not at random) or another (at random given it); -1: none.
        w: f32[C, rows], normal scores of all columns; read where a column has a driver.
        any_driver: bool[], one has.

    Returns:
        bool[C, rows].

    Reference:
        Rubin, "Inference and missing data", 1976: MCAR, MAR, MNAR.
    """

    def by_rank(share: Array) -> Array:
        rank = exp(log_survival(w)[1])[jnp.maximum(driver, 0)]
        wanted = share.astype(jnp.float32) * jnp.where(driver[:, None] < 0, 1.0, 2.0 * rank)
        return jnp.minimum(wanted, 2.0**24).astype(jnp.uint32)

    share = jax.lax.cond(any_driver, by_rank, lambda x: x, jnp.broadcast_to(share[:, None], w.shape))
    return chance(row_bits(key[:, None, :], rows[None, :]), share)
