"""Noise of a mechanism node: laws of mean 0 and variance 1, all of the same two random words."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel.random import exp, log, sine_turns, uniform
from jaxrel.registry import NOISES

__all__ = ["noise_of", "uneven"]


def noise_of(words: tuple[Array, Array], law: Array, any_other: Array) -> Array:
    """One draw of a law for every pair of words.

    Args:
        words: two u32[B, ...].
        law: i32[B], index into `jaxrel.registry.NOISES`.
        any_other: bool[], some law of the batch is not the Gaussian.

    Returns:
        f32[B, ...].

    Reference:
        Box and Muller (1958) for the Gaussian; Bailey (1994) for Student's t, of four degrees of freedom; Beta(1/2, 1/2) is the law
        of a sine at a random phase.
    """
    code = law.reshape(-1, *(1,) * (words[0].ndim - 1))

    def gaussian(words: tuple[Array, Array]) -> Array:
        return jnp.sqrt(-2.0 * log(uniform(words[0]))) * sine_turns(uniform(words[1]) + 0.25)

    def any_law(words: tuple[Array, Array]) -> Array:
        u, turn = uniform(words[0]), uniform(words[1])
        depth, cosine = -log(u), sine_turns(turn + 0.25)
        out = jnp.sqrt(2.0 * depth) * cosine
        for name, value in (
            ("laplace", jnp.where(turn < 0.5, -1.0, 1.0) * depth * float(np.sqrt(0.5))),
            ("uniform", (2.0 * u - 1.0) * float(np.sqrt(3.0))),
            ("beta", float(np.sqrt(2.0)) * cosine),
            ("student", jnp.sqrt(2.0 * (exp(0.5 * depth) - 1.0)) * cosine),
        ):
            out = jnp.where(code == NOISES.index(name), value, out)
        return out

    return jax.lax.cond(any_other, any_law, gaussian, words)


def uneven(value: Array, spread: Array) -> Array:
    """How much more or less noise a row gets where its signal is high, f32[...]: log-linear, of mean square near 1."""
    return exp(spread * jnp.clip(value, -2.0, 2.0) - 0.9 * jnp.square(spread))
