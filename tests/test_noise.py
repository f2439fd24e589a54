"""Noise laws: mean 0, variance 1, and the tails that their names say."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from scipy import stats

from jaxrel.noise import add_noise, noise_of, uneven
from jaxrel.random import normals, row_pair
from jaxrel.registry import NOISES

ROWS = 400_000
WORDS = row_pair(jnp.asarray([5, 6], jnp.uint32), jnp.arange(ROWS, dtype=jnp.int32))
LAWS: dict[str, Any] = {
    "gaussian": stats.norm(),
    "laplace": stats.laplace(scale=np.sqrt(0.5)),
    "uniform": stats.uniform(-np.sqrt(3), 2 * np.sqrt(3)),
    "beta": stats.beta(0.5, 0.5, -np.sqrt(2), 2 * np.sqrt(2)),
    "student": stats.t(4, scale=np.sqrt(0.5)),
}


def test_every_law_is_known_here() -> None:
    assert tuple(LAWS) == NOISES


@pytest.mark.parametrize("name", NOISES)
def test_a_law_is_what_its_name_says(name: str) -> None:
    drawn = np.asarray(jax.jit(noise_of)(tuple(w[None] for w in WORDS), jnp.asarray([NOISES.index(name)], jnp.int32)), np.float64)[0]
    assert stats.kstest(drawn, LAWS[name].cdf).pvalue > 1e-3
    assert abs(drawn.mean()) < 0.01 and abs(drawn.var() - 1) < 0.05


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_law_is_the_same_alone_and_beside_all_others(spread: float) -> None:
    laws, rows = jnp.arange(len(NOISES), dtype=jnp.int32), 1000
    words = tuple(jnp.broadcast_to(w[:rows], (len(NOISES), 1, rows)) for w in WORDS)
    signal, _ = normals(words)

    @jax.jit
    def noisy(laws: Array) -> Array:
        n = len(laws)
        at, present = (lambda: (words[0][:n], words[1][:n])), jnp.ones(n, bool)
        return add_noise(at, laws, signal[:n], jnp.full((n, 1), 0.5), jnp.full(n, spread), present)

    together = np.asarray(noisy(laws))
    expected = signal + 0.5 * noise_of(words, laws) * uneven(signal, jnp.float32(spread))
    np.testing.assert_allclose(together, expected, rtol=1e-5, atol=1e-5)
    for law in range(len(NOISES)):
        np.testing.assert_allclose(np.asarray(noisy(laws[law : law + 1]))[0], together[law], rtol=1e-5, atol=1e-5)


def test_noise_grows_with_the_signal_and_keeps_its_size() -> None:
    signal, _ = normals(WORDS)
    for spread in (0.0, 0.3, 0.7):
        factor = np.asarray(jax.jit(uneven)(signal, jnp.float32(spread)), np.float64)
        assert abs((factor**2).mean() - 1) < 0.1
        inside = np.abs(np.asarray(signal)) < 2
        np.testing.assert_allclose(np.polyfit(np.asarray(signal)[inside], np.log(factor[inside]), 1)[0], spread, atol=1e-3)
