"""Draws from the leaves of a prior. Those that decide structure (`draw_integer`, `draw_choice`, `draw_share`) use integers, single
divisions and square roots only, all of which every instruction set rounds alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrel import struct
from jaxrel.prior import Prior, Range, Weights
from jaxrel.random import Words, below, bits, chance, mulhi, pair, pairs, running_sum, uniform
from jaxrel.rounding import divide, square_root
from jaxrel.style import Style

__all__ = ["draw_choice", "draw_flag", "draw_integer", "draw_integers", "draw_real", "draw_share", "rate", "tabulated"]

_BUCKETS = 64  # integer ranges up to this many values are drawn by exact mass, wider ones by this many buckets


def _power(x: Array, power: Array) -> Array:
    """x ** -power for power a multiple of one half up to 4, by divisions and one square root (each rounded once, everywhere alike)."""
    halves = jnp.round(power * 2).astype(jnp.int32)
    one = jnp.ones_like(x)
    out = jnp.where(halves % 2 == 1, divide(one, square_root(x)), one)
    return jax.lax.fori_loop(1, 5, lambda i, out: jnp.where(halves >= 2 * i, divide(out, x), out), out)


@struct.dataclass
class _Tabulated(Range):
    """An integer law with its buckets."""

    edges: Array  # i32[bucket + 1], where they begin
    cumulative: Array  # u32[bucket], their weights


def tabulated(prior: Prior) -> Prior:
    """The same prior, with the buckets of all its integer laws made at once: for each draw anew, they are most of its program."""
    names = [
        (section.name, field.name)
        for section in dataclasses.fields(prior)
        for field in dataclasses.fields(getattr(prior, section.name))
        if field.metadata["spec"].kind == "integer"
    ]
    laws = [getattr(getattr(prior, section), name) for section, name in names]
    edges, cumulative = _buckets(laws)
    sections = {section.name: getattr(prior, section.name) for section in dataclasses.fields(prior)}
    for n, ((section, name), law) in enumerate(zip(names, laws, strict=True)):
        table = _Tabulated(low=law.low, high=law.high, power=law.power, edges=edges[n], cumulative=cumulative[n])
        sections[section] = dataclasses.replace(sections[section], **{name: table})
    return Prior(**sections)


def _buckets(laws: Sequence[Range]) -> tuple[Array, Array]:
    """Where the buckets of some integer laws begin, i32[law, bucket + 1], and their cumulative weights, u32[law, bucket]."""
    known = [law for law in laws if isinstance(law, _Tabulated)]
    if len(known) == len(laws):
        return jnp.stack([law.edges for law in known]), jnp.stack([law.cumulative for law in known])
    lows = jnp.stack([law.low for law in laws]).astype(jnp.int32)[:, None]
    highs = jnp.maximum(jnp.stack([law.high for law in laws]).astype(jnp.int32)[:, None], lows)
    edges, cumulative = _count_buckets(lows, highs, jnp.stack([law.power for law in laws])[:, None])
    return edges, cumulative


@jax.jit
def _count_buckets(lows: Array, highs: Array, power: Array) -> tuple[Array, Array]:
    j = jnp.arange(_BUCKETS + 1, dtype=jnp.int32)[None, :]
    root = divide((highs + 1).astype(jnp.float32), jnp.maximum(lows, 1).astype(jnp.float32))
    root = jax.lax.fori_loop(0, 6, lambda _, root: square_root(root), root)  # the 64th root

    def square(bit: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        growth, root = state
        return growth * jnp.where((j >> bit) & 1 == 1, root, jnp.float32(1.0)), root * root

    # a loop, for XLA would repeat its steps in every operator that reads the edges
    growth, _ = jax.lax.fori_loop(0, 6, square, (jnp.ones((lows.shape[0], _BUCKETS + 1), jnp.float32), root))
    geometric = jnp.clip((jnp.maximum(lows, 1).astype(jnp.float32) * growth).astype(jnp.int32), lows, highs)
    wide = jnp.where(j == 0, lows, jnp.where(j == _BUCKETS, highs + 1, geometric))
    edges = jnp.where(highs - lows < _BUCKETS, jnp.minimum(lows + j, highs + 1), wide)
    count = edges[:, 1:] - edges[:, :-1]
    middle = edges[:, :-1].astype(jnp.float32) + (jnp.maximum(count, 1) - 1).astype(jnp.float32) * jnp.float32(0.5)
    mass = count.astype(jnp.float32) * _power(jnp.maximum(middle, 0.5), power)
    weight = (divide(mass, jnp.max(mass, axis=1, keepdims=True)) * jnp.float32(2**24)).astype(jnp.uint32)
    cumulative = running_sum(weight)  # [law, bucket]
    return edges, cumulative


def draw_integers(key: Array | Words, laws: Mapping[str, Range], i: ArrayLike = 0, style: Style | None = None) -> dict[str, Array]:
    """Draw several integers with mass proportional to ``n ** -power`` (exact up to 64 values, in 64 geometric buckets beyond).

    Args:
        key: u32[..., 2]; here and below it may come with words drawn ahead.
        laws: integer ranges by the name of the draw; a power is rounded to a multiple of 1/2 in 0…4. Of a prior that is `tabulated`,
            their buckets are known.
        i: i32[...], number of the draw.
        style: of the draws' tables.

    Returns:
        By name, i32[...].
    """
    names = list(laws)
    edges, cumulative = _buckets(list(laws.values()))
    word, inside = pairs(key, i, names)  # [..., law]
    if style is not None:
        word = jnp.stack([style.near(n, word[..., m]) for m, n in enumerate(names)], axis=-1)
    target = mulhi(word, cumulative[:, -1])[..., None]
    bucket = jnp.sum(jnp.expand_dims(cumulative, tuple(range(word.ndim - 1))) <= target, axis=-1, dtype=jnp.int32)
    law = jnp.broadcast_to(jnp.arange(len(names), dtype=jnp.int32), bucket.shape)
    value = edges[law, bucket] + below(inside, edges[law, bucket + 1] - edges[law, bucket])
    return {n: value[..., m] for m, n in enumerate(names)}


def draw_integer(key: Array | Words, name: str, law: Range, i: ArrayLike = 0, style: Style | None = None) -> Array:
    """One draw of `draw_integers`, i32[...]."""
    return draw_integers(key, {name: law}, i, style)[name]


def _word(key: Array | Words, name: str, i: ArrayLike, style: Style | None) -> Array:
    word = bits(key, i, name)
    return word if style is None else style.near(name, word)


def draw_real(key: Array | Words, name: str, law: Range, i: ArrayLike = 0, style: Style | None = None) -> Array:
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


def draw_share(key: Array | Words, name: str, law: Range, i: ArrayLike = 0, style: Style | None = None) -> Array:
    """Draw u32[...] shares in units of 2^-24, uniform between low and high."""
    low, high = (jnp.round(x * jnp.float32(2**24)).astype(jnp.uint32) for x in (law.low, law.high))
    return low + mulhi(_word(key, name, i, style), jnp.maximum(high, low) - low + 1)


def draw_choice(key: Array | Words, name: str, law: Weights, i: ArrayLike = 0, style: Style | None = None) -> Array:
    """Draw i32[...] indices by weight (weights are rounded to multiples of 1/4096)."""
    cumulative = running_sum(jnp.round(law.weight * 4096).astype(jnp.uint32))
    word, second = pair(key, i, name)
    word = word if style is None else style.among(name, word, second)
    target = mulhi(word, cumulative[-1])[..., None]
    return jnp.sum(jnp.expand_dims(cumulative, tuple(range(target.ndim - 1))) <= target, axis=-1, dtype=jnp.int32)


def rate(share: Array) -> Array:
    """A probability f32[] as u32[] in units of 2^-24."""
    return jnp.round(share * jnp.float32(2**24)).astype(jnp.uint32)


def draw_flag(key: Array | Words, name: str, share: Array, i: ArrayLike = 0, style: Style | None = None) -> Array:
    """bool[...], true with probability ``share``."""
    return chance(_word(key, name, i, style), rate(share))
