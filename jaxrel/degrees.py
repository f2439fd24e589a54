"""How many children a parent row gets: popularities, which weigh the parents, and degree laws, which count the children.

*Popularity* is a weight: children choose among parents one by one, so that a parent's children vary around its share. A *degree law*
gives the number itself. Every parent draws a degree; the degrees, end to end, make a line of ``D`` places, and the n children take the
points ``(p + 1/2) D / n`` of it, p a keyed bijection of the child rows. So a parent of degree d gets d n / D children, rounded up or
down; and D is near n, since the mean of the law is that of the table. All in integers.

A degree law of a key is data: the distribution function at the ends of DEGREES buckets, single values up to 63 and an eighth of an
octave each beyond, in which all values are alike. A family is a way to fill that table.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel.draws import draw_choice
from jaxrel.prior import LinkPrior
from jaxrel.random import Key, Words, below, bits, chance, index_permutation, mulhi, named_key, row_pair, running_sum
from jaxrel.registry import DEGREES as NAMES
from jaxrel.rounding import divide
from jaxrel.types import DEGREES, Popularity

__all__ = [
    "DEGREE_DRAWS",
    "EDGES",
    "WEIGHTS",
    "child_point",
    "count_children",
    "degree_laws",
    "degree_weight",
    "means_of",
    "parent_weight",
    "weigh",
]

DEGREE_DRAWS = ("degrees", "degree size", "seldom")  # of `degree_laws`

_UNIT = 256  # weight of a parent of popularity 1
_FIRST = 1 << 26  # Zipf's weight of the most popular parent: with one unit at least for each of 2^30 rows, the sum is below 2^32


def _quantiles(quantile: Callable[[float], float]) -> np.ndarray:
    """u32[2 · 4096], in 1/_UNIT, by the upper 12 bits of a word; and as many again inside the topmost cell. ``quantile`` of 1 - p."""
    upper = 1 - (np.arange(4096) + 0.5) / 4096
    return np.array([round(_UNIT * quantile(p)) for p in (*upper, *(upper / 4096))], np.uint32)


# Pareto's tail index is 2.5; the log-normal's sigma 1. Means of 427 and 422 units.
WEIGHTS = np.concatenate([_quantiles(lambda p: p ** (-1 / 2.5)), _quantiles(lambda p: math.exp(-statistics.NormalDist().inv_cdf(p)))])


def parent_weight(stream: Array, popularity: Array, inactive: Array, n: Array, rows: Array, any_zipf: Array) -> Array:
    """How likely some parent rows of one key are, against each other. One row of a table is always active.

    Args:
        stream: u32[2], the key's stream.
        popularity: i32[], `Popularity`.
        inactive: u32[], share of rows that weigh nothing, in 2^-24.
        n: i32[], rows of the parent table.
        rows: i32[...], row ids.
        any_zipf: bool[], unbatched: some key of the batch needs ranks.

    Returns:
        u32[...], 0 for inactive rows and past the last one; all of a table sum up to less than 2^32.
    """

    def rank(size: Array) -> Array:
        return index_permutation(named_key(stream, "popularity rank"), rows, size)

    always = below(bits(stream, 0, "always"), n)
    return weigh(stream, popularity, inactive, n, rows, any_zipf, always, rank, lambda place: jnp.asarray(WEIGHTS)[place])


def weigh(
    stream: Key,
    popularity: Array,
    inactive: Array,
    n: Array,
    rows: Array,
    any_zipf: Array,
    always: Array,
    rank: Callable[[Array], Array],
    weights: Callable[[Array], Array],
) -> Array:
    """`parent_weight`, of what it looks up.

    Args:
        always: i32[], the row that is always active.
        rank: of i32[...], sizes of a domain, the rows' ranks in it by popularity.
        weights: of u32[...], entries of `WEIGHTS`.
    """
    word, activity = row_pair(stream, rows, "popularity")
    high, low = word >> 20, (word >> 8) & 0xFFF
    place = jnp.where(high == 4095, low + 4096, high) + (popularity == Popularity.LOGNORMAL).astype(jnp.uint32) * 8192
    # beyond 2^21 rows the unit shrinks: sums stay below 2^32
    shift = jnp.maximum(11 - jax.lax.clz(jnp.maximum(n, 1)), 0).astype(jnp.uint32)
    drawn = (popularity == Popularity.PARETO) | (popularity == Popularity.LOGNORMAL)
    weight = jnp.where(drawn, jnp.maximum(weights(place) >> shift, 1), jnp.uint32(1))

    def ranked(weight: Array) -> Array:
        size = jnp.where((popularity == Popularity.ZIPF) & (rows < n), n, 1)  # nobody walks for a rank that is not read
        by_rank = jnp.maximum(jnp.uint32(_FIRST) // (rank(size).astype(jnp.uint32) + 1), 1)
        return jnp.where(popularity == Popularity.ZIPF, by_rank, weight)

    weight = jax.lax.cond(any_zipf, ranked, lambda x: x, weight)
    active = ~chance(activity, inactive) | (rows == always)
    return jnp.where(active & (rows < n), weight, jnp.uint32(0))


# ---------------------------------------------------------------- degree laws

_SINGLE = 64  # degrees below this one have a bucket each
EDGES = np.where(
    np.arange(DEGREES + 1) < _SINGLE,
    np.arange(DEGREES + 1),
    np.round(_SINGLE * 2.0 ** ((np.arange(DEGREES + 1) - _SINGLE) / 8)),
).astype(np.int32)  # buckets are [edge, next edge)
_MEANS = (2.0 ** (np.arange(49) / 4 - 3)).astype(np.float32)  # 1/8 … 512; a mean between two is a mixture, one beyond is rescaled
_VARIANTS = {"geometric": (1.0,), "negative_binomial": (0.5, 2.0, 4.0), "zipf": (0.0,)}  # sizes of the negative binomials; 0: Zipf's
_EMPIRICAL, _FEW = NAMES.index("empirical"), NAMES.index("few")
_SELDOM = (100, 400, 1600)  # one parent in so many has children at all: a list of all airports, of which few are departed from


# The tables below are made of sums in order, products, quotients and square roots alone, which every machine rounds alike.


def _negative_binomial(size: float, mean: float) -> np.ndarray:
    """f64[degrees]: probabilities of 0, 1, …: of a sum of ``size`` geometric variables; below size 1 more uneven than one."""
    d = np.arange(1, min(int(64 * mean) + 64, int(EDGES[-1])))
    none = size / (size + mean)
    first = np.sqrt(none) if size < 1 else np.prod([none] * int(size))
    return np.cumprod(np.append(first, (size + d - 1) / d * (mean / (size + mean))))


def _zipf(mean: float) -> np.ndarray:
    """f64[degrees]: probabilities of 0, 1, …, 64 means: proportional to d^-s with the exponent s that gives the mean.

    Means below 1.25 are a share of parents without children, beside Zipf's law of mean 1.25.
    """
    within = max(mean, 1.25)
    degrees = np.arange(1, min(max(int(64 * within), 64), int(EDGES[-1])), dtype=np.float64)
    p, power = np.ones_like(degrees), 1 / (degrees * degrees * degrees * degrees)
    for _ in range(30):  # the binary digits of s, from 4 down
        trial = p * power
        p = trial if np.cumsum(trial * degrees)[-1] > within * np.cumsum(trial)[-1] else p
        power = np.sqrt(power)
    share = min(mean / within, 1.0)
    return np.append(1 - share, share * p / np.cumsum(p)[-1])


@functools.cache
def _ends() -> np.ndarray:
    """u32[variant, mean, DEGREES - 1]: P(degree < EDGES[j + 1]) in 2^-32."""
    out = []
    for size in (size for sizes in _VARIANTS.values() for size in sizes):
        for mean in _MEANS.astype(np.float64):
            p = np.cumsum(_negative_binomial(size, mean) if size else _zipf(mean))
            out.append(p[np.minimum(EDGES[1:-1], len(p)) - 1] / p[-1])
    ends = np.minimum(np.round(np.array(out) * 2.0**32), 2.0**32 - 1).astype(np.uint32)
    return ends.reshape(-1, len(_MEANS), DEGREES - 1)


def _fraction(rest: Array, n: Array) -> Array:
    """u32[...]: rest / n in 2^-32, rounded down, for rest < n < 2^31, by long division."""

    def digit(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        quotient, rest = state
        over = rest + rest >= n
        return (quotient << 1) | over.astype(jnp.uint32), jnp.where(over, rest + rest - n, rest + rest)

    rest, n = jnp.broadcast_arrays(rest, n)
    return jax.lax.fori_loop(0, 32, digit, (jnp.zeros_like(rest), rest))[0]


def means_of(children: Array, parents: Array) -> Array:
    """f32[...]: children of one parent row; i32[...] counts, of which the second may be 0. Rounded once."""
    return divide(children.astype(jnp.float32), jnp.maximum(parents, 1).astype(jnp.float32))


def degree_laws(stream: Array | Words, law: LinkPrior, mean: Array) -> tuple[Array, Array]:
    """Draw the degree laws of some keys.

    Args:
        stream: u32[..., 2], the keys' streams.
        law: weights of the families, and the histogram of the empirical one.
        mean: f32[...], children of one parent row.

    Returns:
        Family i32[...], index into `jaxrel.registry.DEGREES`; and u32[..., DEGREES - 1]: P(degree < end of the bucket) in 2^-32.
    """
    family = draw_choice(stream, "degrees", law.degrees)
    counts = np.array([len(_VARIANTS.get(name, ())) for name in NAMES], np.int32)
    first = np.cumsum(counts, dtype=np.int32) - counts
    variant = jnp.asarray(first)[family] + below(bits(stream, 0, "degree size"), jnp.asarray(counts)[family])
    variant = jnp.minimum(variant, int(counts.sum()) - 1)
    means = jnp.asarray(_MEANS)
    mean = jnp.clip(mean, means[0], means[-1])
    reached = jnp.sum(jnp.expand_dims(means, tuple(range(mean.ndim))) <= mean[..., None], axis=-1, dtype=jnp.int32)
    step = jnp.clip(reached - 1, 0, len(_MEANS) - 2)
    between = divide(mean - means[step], means[step + 1] - means[step])
    part = jnp.round(between * jnp.float32(2**24)).astype(jnp.uint32)[..., None]
    part = jnp.where(part >> 24 == 1, jnp.uint32(0xFFFFFFFF), part << 8)
    a, b = jnp.asarray(_ends())[variant, step], jnp.asarray(_ends())[variant, step + 1]
    ends = jnp.where(a >= b, a - mulhi(a - b, part), a + mulhi(b - a, part))

    seldom = jnp.asarray(_SELDOM, jnp.uint32)[below(bits(stream, 0, "seldom"), len(_SELDOM))][..., None]
    degree = jnp.arange(law.histogram.weight.shape[0], dtype=jnp.int32)
    few = jnp.where(degree == 0, seldom - 1, (degree == 1).astype(jnp.uint32))
    histogram = jnp.where((family == _FEW)[..., None], few, jnp.round(law.histogram.weight * 4096).astype(jnp.uint32))
    stretched = jnp.vectorize(_stretched, signature="(d),()->(e)")(histogram, mean)
    return family, jnp.where(((family == _EMPIRICAL) | (family == _FEW))[..., None], stretched, ends)


def _stretched(weight: Array, mean: Array) -> Array:
    """u32[DEGREES - 1]: a histogram of degrees 0, 1, …, u32[degrees], as a degree law of another mean, f32[].

    The share without children stays; degree d becomes 1 + (d - 1) f … 1 + d f, evenly, f such that the mean comes out: 1 where the
    histogram has that mean itself.
    """
    mass, degree = running_sum(weight), jnp.arange(weight.shape[0], dtype=jnp.uint32)
    all_ones = jnp.uint32(0xFFFFFFFF)
    ends = jnp.where(mass < mass[-1], _fraction(mass, jnp.maximum(mass[-1], 1)), all_ones)
    some = jnp.maximum(all_ones - ends[0], 1).astype(jnp.float32) * jnp.float32(2**-32)
    own = means_of(jnp.sum(degree * weight, dtype=jnp.uint32), mass[-1] - mass[0])
    # Both means are of parents that have children. The factor is kept in 2^-8, beyond what rounding moves; from it on, integers.
    stretch = jnp.clip(divide(jnp.maximum(divide(mean, some) - 0.5, 0.0625), jnp.maximum(own - 0.5, 0.0625)), 2**-8, 2**16)
    divisor = jnp.round(stretch * 256).astype(jnp.uint32)
    edge = jnp.asarray((EDGES[1:-1] - 1) * 256, jnp.uint32)
    at, part = (edge // divisor).astype(jnp.int32), _fraction(edge % divisor, divisor)
    low, high = (ends[jnp.minimum(at + step, weight.shape[0] - 1)] for step in (0, 1))
    return low + mulhi(high - low, part)


def degree_weight(stream: Array, ends: Array, n: Array, rows: Array) -> Array:
    """u32[...]: the degrees that some parent rows of one key draw. One row of a table has a child at least.

    Args:
        stream: u32[2], the key's stream.
        ends: u32[DEGREES - 1], its degree law.
        n: i32[], rows of the parent table.
        rows: i32[...], row ids; those past the last have no children.
    """
    always, edges = below(bits(stream, 0, "always"), n), jnp.asarray(EDGES)
    return count_children(stream, n, rows, always, lambda i: ends[i], lambda i: edges[i])


def count_children(
    stream: Key, n: Array, rows: Array, always: Array, ends: Callable[[Array], Array], edges: Callable[[Array], Array]
) -> Array:
    """`degree_weight`, of what it looks up.

    Args:
        always: i32[], the row that has a child in any case.
        ends: of i32[...], entries of the degree law.
        edges: of i32[...], entries of `EDGES`.
    """
    word, inside = row_pair(stream, rows, "degree")

    def halve(i: Array, low: Array) -> Array:  # the last bucket whose lower end is at most the word
        middle = low + (jnp.int32(DEGREES) >> (i + 1))
        return jnp.where(ends(middle - 1) <= word, middle, low)

    bucket = jax.lax.fori_loop(0, DEGREES.bit_length() - 1, halve, jnp.zeros(rows.shape, jnp.int32))
    low = edges(bucket)
    degree = low + below(inside, edges(bucket + 1) - low)
    all_ones = jnp.uint32(0xFFFFFFFF)
    most = jnp.where(n >= 1 << 27, all_ones // jnp.maximum(n, 1).astype(jnp.uint32), all_ones)  # a sum below 2^32
    degree = jnp.minimum(jnp.maximum(degree, (rows == always).astype(jnp.int32)).astype(jnp.uint32), most)
    return jnp.where(rows < n, degree, jnp.uint32(0))


def child_point(stream: Array, rows: Array, children: Array, mass: Array) -> Array:
    """u32[...] below ``mass``: the place that some child rows of one key take on the line of their parents' degrees.

    Args:
        stream: u32[2], the key's stream.
        rows: i32[...], child row ids.
        children: i32[], rows of the child table.
        mass: u32[], sum of the degrees.
    """
    n = jnp.maximum(children, 1).astype(jnp.uint32)
    place = index_permutation(named_key(stream, "degree place"), rows, n).astype(jnp.uint32)
    whole, part = mass // n, _fraction(mass % n, n)  # a child's stretch: mass / n = whole + part
    half = ((whole & 1) << 31) | (part >> 1)
    carry = (place * part + half < half).astype(jnp.uint32)
    return place * whole + (whole >> 1) + mulhi(place, part) + carry
