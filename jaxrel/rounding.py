"""Quotients and roots of floats, rounded once and alike on every backend: for what decides an integer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["divide", "exact_quotient", "exact_root", "square_root"]


@jax.jit
def divide(a: Array, b: Array) -> Array:
    """a / b of f32[...], a ≥ 0, b > 0, rounded once and alike on every backend; for what decides an integer.

    A CPU's division is that. On GPUs XLA's own is off by a unit in the last place now and then (in three of ten quotients, its square
    root in one of six, on an H100), so elsewhere than on CPUs integers correct it. No operand or result may be subnormal.
    """
    return jax.lax.platform_dependent(a, b, cpu=jnp.divide, default=exact_quotient)


@jax.jit
def square_root(x: Array) -> Array:
    """The square root of f32[...], x > 0 and not subnormal, rounded once and alike on every backend, as `divide` says."""
    return jax.lax.platform_dependent(x, cpu=jnp.sqrt, default=exact_root)


def exact_quotient(a: Array, b: Array) -> Array:
    """`divide` by integers: the remainder of a guess that is some units off fits a word, though the product does not."""
    x, y = (jax.lax.bitcast_convert_type(v, jnp.uint32) for v in (a, b))
    top, bottom = ((v & 0x7FFFFF) | 0x800000 for v in (x, y))
    less = (top < bottom).astype(jnp.uint32)
    exponent = (x >> 23).astype(jnp.int32) - ((y >> 23) + less).astype(jnp.int32)
    top, divisor, signed = top << less, bottom.astype(jnp.float32), bottom.astype(jnp.int32)  # the quotient is in [1, 2)
    guess = (top.astype(jnp.float32) / divisor * jnp.float32(2**24)).astype(jnp.uint32)
    rest = ((top << 24) - guess * bottom).astype(jnp.int32)
    more = jnp.floor(rest.astype(jnp.float32) / divisor).astype(jnp.int32)  # within one
    rest = rest - more * signed
    more = more + (rest >= signed).astype(jnp.int32) - (rest < 0).astype(jnp.int32)
    whole = (guess + more.astype(jnp.uint32) + 1) >> 1  # 24 binary digits; a tie cannot be
    return jnp.where(a == 0, 0.0, _times_power(whole, exponent - 23))


def exact_root(x: Array) -> Array:
    """`square_root` by integers, as `exact_quotient`."""
    word = jax.lax.bitcast_convert_type(x, jnp.uint32)
    exponent = (word >> 23).astype(jnp.int32) - 127
    odd = (exponent & 1).astype(jnp.uint32)
    mantissa = ((word & 0x7FFFFF) | 0x800000) << odd
    guess = (jnp.sqrt(mantissa.astype(jnp.float32)) * jnp.float32(2**12.5)).astype(jnp.uint32)  # of the mantissa times 2^25
    rest = ((mantissa << 25) - guess * guess).astype(jnp.int32)
    step = jnp.arange(-15, 17, dtype=jnp.int32).reshape(-1, *(1,) * x.ndim)
    more = jnp.sum((rest[None] >= 2 * step * guess.astype(jnp.int32)[None] + step * step).astype(jnp.int32), axis=0) - 16
    return _times_power((guess + more.astype(jnp.uint32) + 1) >> 1, (exponent - odd.astype(jnp.int32)) // 2 - 23)


def _times_power(whole: Array, exponent: Array) -> Array:
    """whole · 2^exponent, exactly."""
    return whole.astype(jnp.float32) * jax.lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)
