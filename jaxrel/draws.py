"""Draws from the leaves of a prior. Those that decide structure (`draw_integer`, `draw_choice`, `draw_share`) use integers, single
divisions and square roots only, all of which every instruction set rounds alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrel.prior import Range, Weights
from jaxrel.random import below, bits, chance, divide, mulhi, name_id, pair, running_sum, square_root, uniform
from jaxrel.style import Style

__all__ = ["draw_choice", "draw_flag", "draw_integer", "draw_integers", "draw_real", "draw_share", "rate"]

_BUCKETS = 64  # integer ranges up to this many values are drawn by exact mass, wider ones by this many buckets


def _power(x: Array, power: Array) -> Array:
    """x ** -power for power a multiple of one half up to 4, by divisions and one square root (each rounded once, everywhere alike)."""
    halves = jnp.round(power * 2).astype(jnp.int32)
    one = jnp.ones_like(x)
    out = jnp.where(halves % 2 == 1, divide(one, square_root(x)), one)
    return jax.lax.fori_loop(1, 5, lambda i, out: jnp.where(halves >= 2 * i, divide(out, x), out), out)


@jax.jit
def _buckets(lows: Array, highs: Array, power: Array) -> tuple[Array, Array]:
    """Where the buckets of some integer laws begin, i32[law, bucket + 1], and their cumulative weights, u32[law, bucket]."""
    j = jnp.arange(_BUCKETS + 1, dtype=jnp.int32)[None, :]
    root = divide((highs + 1).astype(jnp.float32), jnp.maximum(lows, 1).astype(jnp.float32))
    root = jax.lax.fori_loop(0, 6, lambda _, root: square_root(root), root)  # the 64th root
    growth = jnp.ones_like(j, dtype=jnp.float32)
    for bit in range(6):
        growth = growth * jnp.where((j >> bit) & 1 == 1, root, jnp.float32(1.0))
        root = root * root
    geometric = jnp.clip((jnp.maximum(lows, 1).astype(jnp.float32) * growth).astype(jnp.int32), lows, highs)
    wide = jnp.where(j == 0, lows, jnp.where(j == _BUCKETS, highs + 1, geometric))
    edges = jnp.where(highs - lows < _BUCKETS, jnp.minimum(lows + j, highs + 1), wide)
    count = edges[:, 1:] - edges[:, :-1]
    middle = edges[:, :-1].astype(jnp.float32) + (jnp.maximum(count, 1) - 1).astype(jnp.float32) * jnp.float32(0.5)
    mass = count.astype(jnp.float32) * _power(jnp.maximum(middle, 0.5), power)
    weight = (divide(mass, jnp.max(mass, axis=1, keepdims=True)) * jnp.float32(2**24)).astype(jnp.uint32)
    cumulative = running_sum(weight)  # [law, bucket]
    return edges, cumulative


def draw_integers(key: Array, laws: Mapping[str, Range], i: ArrayLike = 0, style: Style | None = None) -> dict[str, Array]:
    """Draw several integers with mass proportional to ``n ** -power`` (exact up to 64 values, in 64 geometric buckets beyond).

    Args:
        key: u32[..., 2].
        laws: integer ranges by the name of the draw; a power is rounded to a multiple of 1/2 in 0…4.
        i: i32[...], number of the draw.
        style: of the draws' tables.

    Returns:
        By name, i32[...].
    """
    names = list(laws)
    lows = jnp.stack([laws[n].low for n in names]).astype(jnp.int32)[:, None]
    highs = jnp.maximum(jnp.stack([laws[n].high for n in names]).astype(jnp.int32)[:, None], lows)
    power = jnp.stack([laws[n].power for n in names])[:, None]
    edges, cumulative = _buckets(lows, highs, power)
    lanes = jnp.asarray([name_id(n) for n in names], jnp.uint32)
    word, inside = pair(key[..., None, :], jnp.asarray(i)[..., None], lanes)  # [..., law]
    if style is not None:
        word = jnp.stack([style.near(n, word[..., m]) for m, n in enumerate(names)], axis=-1)
    target = mulhi(word, cumulative[:, -1])[..., None]
    bucket = jnp.sum(jnp.expand_dims(cumulative, tuple(range(word.ndim - 1))) <= target, axis=-1, dtype=jnp.int32)
    law = jnp.broadcast_to(jnp.arange(len(names), dtype=jnp.int32), bucket.shape)
    value = edges[law, bucket] + below(inside, edges[law, bucket + 1] - edges[law, bucket])
    return {n: value[..., m] for m, n in enumerate(names)}


def draw_integer(key: Array, name: str, law: Range, i: ArrayLike = 0, style: Style | None = None) -> Array:
    """One draw of `draw_integers`, i32[...]."""
    return draw_integers(key, {name: law}, i, style)[name]


def _word(key: Array, name: str, i: ArrayLike, style: Style | None) -> Array:
    word = bits(key, i, name)
    return word if style is None else style.near(name, word)


def draw_real(key: Array, name: str, law: Range, i: ArrayLike = 0, style: Style | None = None) -> Array:
    """Draw f32[...] reals with density proportional to ``x ** -power``; for amplitudes, never for structure."""
    u = uniform(_word(key, name, i, style))
    low, high = law.low, jnp.maximum(law.high, law.low)
    q = 1.0 - law.power
    flat = jnp.abs(q) < 1e-3
    a, b = jnp.maximum(low, 1e-12), jnp.maximum(high, 1e-12)
    safe = jnp.where(flat, 1.0, q)
    power = jnp.exp(jnp.log((1.0 - u) * jnp.exp(safe * jnp.log(a)) + u * jnp.exp(safe * jnp.log(b))) / safe)
    logarithmic = jnp.exp(jnp.log(a) + u * (jnp.log(b) - jnp.log(a)))
    curved = jnp.where(flat, logarithmic, power)
    even = low + jnp.minimum(u * (high - low), high - low)  # the minimum keeps product and sum apart: fused, they would round otherwise
    return jnp.where(law.power == 0, even, jnp.clip(curved, low, high))


def draw_share(key: Array, name: str, law: Range, i: ArrayLike = 0, style: Style | None = None) -> Array:
    """Draw u32[...] shares in units of 2^-24, uniform between low and high."""
    low, high = (jnp.round(x * jnp.float32(2**24)).astype(jnp.uint32) for x in (law.low, law.high))
    return low + mulhi(_word(key, name, i, style), jnp.maximum(high, low) - low + 1)


def draw_choice(key: Array, name: str, law: Weights, i: ArrayLike = 0, style: Style | None = None) -> Array:
    """Draw i32[...] indices by weight (weights are rounded to multiples of 1/4096)."""
    cumulative = running_sum(jnp.round(law.weight * 4096).astype(jnp.uint32))
    word, second = pair(key, i, name)
    word = word if style is None else style.among(name, word, second)
    target = mulhi(word, cumulative[-1])[..., None]
    return jnp.sum(jnp.expand_dims(cumulative, tuple(range(target.ndim - 1))) <= target, axis=-1, dtype=jnp.int32)


def rate(share: Array) -> Array:
    """A probability f32[] as u32[] in units of 2^-24."""
    return jnp.round(share * jnp.float32(2**24)).astype(jnp.uint32)


def draw_flag(key: Array, name: str, share: Array, i: ArrayLike = 0, style: Style | None = None) -> Array:
    """bool[...], true with probability ``share``."""
    return chance(_word(key, name, i, style), rate(share))
