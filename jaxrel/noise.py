"""Noise of a mechanism node: laws of mean 0 and variance 1, all of the same two random words."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel.random import exp, log, sine_turns, uniform
from jaxrel.registry import NOISES

__all__ = ["add_noise", "noise_of", "uneven"]


def noise_of(
    words: tuple[Array, Array], law: Array, names: tuple[str, ...] = NOISES, nearest: Callable[[Array], Array] = jnp.round
) -> Array:
    """One draw of a law for every pair of words.

    Args:
        words: two u32[B, ...].
        law: i32[B], index into `jaxrel.registry.NOISES`.
        names: the laws that may occur; others cost nothing.
        nearest: how to round to an integer.

    Returns:
        f32[B, ...].

    Reference:
        Box and Muller (1958) for the Gaussian; Bailey (1994) for Student's t, of four degrees of freedom; Beta(1/2, 1/2) is the law
        of a sine at a random phase.
    """
    u, turn = uniform(words[0]), uniform(words[1])
    cosine = sine_turns(turn + 0.25, nearest)
    by_law: dict[str, Array] = {"uniform": (2.0 * u - 1.0) * float(np.sqrt(3.0)), "beta": float(np.sqrt(2.0)) * cosine}
    if not set(names) <= set(by_law):
        depth = -log(u)
        by_law |= {
            "gaussian": jnp.sqrt(2.0 * depth) * cosine,
            "laplace": jnp.where(turn < 0.5, -1.0, 1.0) * depth * float(np.sqrt(0.5)),
            "student": jnp.sqrt(2.0 * (exp(0.5 * depth) - 1.0)) * cosine,
        }
    out = by_law[names[0]]
    for name in names[1:]:
        out = jnp.where(law.reshape(-1, *(1,) * (u.ndim - 1)) == NOISES.index(name), by_law[name], out)
    return out


def add_noise(
    draw: Callable[[], tuple[Array, Array]], law: Array, signal: Array, deviation: Array, spread: Array, present: Array
) -> Array:
    """Signals with noise, of which there is more or less where the signal is high.

    What only some laws need is computed where any database of the batch needs it; words are drawn where they are read, since a
    program that hands two words on computes each from the key anew.

    Args:
        draw: the words, two u32[B, W, rows].
        law: i32[B], index into `jaxrel.registry.NOISES`.
        signal: f32[B, W, rows].
        deviation: f32[B, W], the noise's scale.
        spread: f32[B], how much it grows with the signal (`uneven`).
        present: bool[B], noise that counts; elsewhere any value may come back.

    Returns:
        f32[B, W, rows].
    """

    def part(names: tuple[str, ...], even: bool) -> Callable[[Array], Array]:
        def apply(signal: Array) -> Array:
            # the factor first: where it is 1, an uneven neighbour in the batch changes no rounding
            amount = deviation[..., None] if even else deviation[..., None] * uneven(signal, spread[:, None, None])
            return signal + amount * noise_of(draw(), law, names)

        return apply

    def only(names: tuple[str, ...]) -> Array:
        return jnp.all(functools.reduce(jnp.logical_or, [law == NOISES.index(name) for name in names]) | ~present)

    kinds = [("gaussian",), ("uniform", "beta"), NOISES]
    kind = jnp.where(only(kinds[0]), 0, jnp.where(only(kinds[1]), 1, 2))
    grows = jnp.any((spread != 0) & present)
    index = jnp.where(grows, jnp.where(kind == 0, 3, 4), kind)
    branches = [*(part(names, True) for names in kinds), part(kinds[0], False), part(kinds[2], False)]
    return jax.lax.switch(index, branches, signal)


def uneven(value: Array, spread: Array) -> Array:
    """How much more or less noise a row gets where its signal is high, f32[...]: log-linear, of mean square near 1."""
    return exp(spread * jnp.clip(value, -2.0, 2.0) - 0.9 * jnp.square(spread))
