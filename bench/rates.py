"""What a machine does in a second of what databases are made of, by the same operators that the kernel uses: work for `threads_rate`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrel import COMPILER_OPTIONS
from jaxrel.mechanisms import ACTIVATION_CLASS, activate
from jaxrel.random import row_pair
from jaxrel.types import TILE

__all__ = ["CLASSES", "machine_works"]

Work = tuple[Callable[[], Any], float]  # what is done, and how much of it that is
CLASSES = int(ACTIVATION_CLASS.max()) + 1  # of activations, by what is costly in them
_TRIPS = 200  # an operator's turns in one program: its start does not count
_LARGE = 1024
_COPIED = 1 << 27  # bytes, beyond any cache


def _program(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A compiled program on its arguments, as work without any."""
    compiled = jax.jit(function, compiler_options=COMPILER_OPTIONS).lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


def _product(rows: int, inner: int, columns: int, turns: int) -> Work:
    """Products as the kernel writes them, [rows, inner] by [inner, columns], each of the other's result, and their FLOPs."""
    left = jax.random.normal(jax.random.key(0), (1, inner, rows), jnp.float32) / np.float32(np.sqrt(rows))
    back = jax.random.normal(jax.random.key(1), (1, rows, inner), jnp.float32) / np.float32(np.sqrt(inner))
    start = jax.random.normal(jax.random.key(2), (1, rows, columns), jnp.float32)

    def run(left: Any, back: Any, start: Any) -> Any:
        def twice(_: Any, x: Any) -> Any:
            return jnp.einsum("bhg,bgr->bhr", back, jnp.einsum("bhg,bgr->bhr", left, x))

        return jax.lax.fori_loop(0, turns, twice, start)

    return _program(run, left, back, start), 4.0 * rows * inner * columns * turns


def _units(hidden: int, function: Callable[[Any], Any]) -> Work:
    """A function of all hidden units of a tile, again and again, and its evaluations."""
    start = jax.random.normal(jax.random.key(0), (1, hidden, TILE), jnp.float32)

    def run(start: Any) -> Any:
        return jax.lax.fori_loop(0, _TRIPS, lambda _, x: function(x), start)

    return _program(run, start), float(hidden * TILE * _TRIPS)


def _by_class(hidden: int, which: int, bias: Any) -> Work:
    code = jnp.asarray([int(np.flatnonzero(which == ACTIVATION_CLASS)[0])], jnp.int32)
    present = jnp.ones(1, bool)
    start = jax.random.normal(jax.random.key(0), (1, hidden, TILE), jnp.float32)

    def run(start: Any, bias: Any, code: Any, present: Any) -> Any:
        return jax.lax.fori_loop(0, _TRIPS, lambda _, x: activate(x, bias, code, present), start)

    return _program(run, start, bias, code, present), float(hidden * TILE * _TRIPS)


def _random_words(hidden: int) -> Work:
    rows, lane = jnp.arange(TILE, dtype=jnp.int32)[None, :], jnp.arange(hidden, dtype=jnp.int32)[:, None]

    def run(key: Any, rows: Any, lane: Any) -> Any:
        def draw(i: Any, x: Any) -> Any:
            return x ^ functools.reduce(jnp.bitwise_xor, row_pair(key, rows + i * TILE, lane))

        return jax.lax.fori_loop(0, _TRIPS, draw, jnp.zeros((hidden, TILE), jnp.uint32))

    return _program(run, jnp.asarray([1, 2], jnp.uint32), rows, lane), float(hidden * TILE * _TRIPS)


def _copies(threads: int) -> Work:
    """A copy from memory to memory, for each thread between arrays of its own, and the bytes read and written."""
    free = [(np.ones(_COPIED // 4, np.float32), np.ones(_COPIED // 4, np.float32)) for _ in range(threads)]

    def copy() -> None:
        source, target = free.pop()
        np.copyto(target, source)
        free.append((source, target))

    return copy, 2.0 * _COPIED


def machine_works(width: int, hidden: int, threads: int) -> dict[str, Work]:
    """Work by the name of what it is counted in; compiled once, to be timed again and again.

    Args:
        width: W, lanes of a node.
        hidden: H, hidden units.
        threads: most that do the same work at a time.

    Returns:
        FLOPs of products [H, W] by [W, TILE], of [H, H] by [H, TILE] and of large ones; ``activations_<class>`` of `activate`; tanh as JAX
        has it; draws (pairs of random words); bytes of a copy, what is read and what is written both counted.
    """
    bias = jax.random.normal(jax.random.key(3), (1, hidden), jnp.float32)
    return {
        "flop_narrow": _product(hidden, width, TILE, _TRIPS),
        "flop_hidden": _product(hidden, hidden, TILE, _TRIPS),
        "flop_large": _product(_LARGE, _LARGE, _LARGE, 2),
        **{f"activations_{which}": _by_class(hidden, which, bias) for which in range(CLASSES)},
        "tanh": _units(hidden, jnp.tanh),
        "draws": _random_words(hidden),
        "bytes": _copies(threads),
    }
