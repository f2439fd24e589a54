"""Kernels for GPUs that keep on chip what XLA sends through memory from one operator to the next (Pallas, by way of Triton).

Beside each stands a program of XLA's, which is what other backends run, and the reference: integers are equal, floats but for rounding.
Pallas takes a while to import, so this module is imported where there is a GPU (`jaxrel.batching.by_platform`), not before.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxrel.edges import INTEGERS, REALS, Packed, empty_fold, folded
from jaxrel.mechanisms import (
    ACTIVATION_CLASS,
    ACTIVATION_TABLE,
    SHARE,
    WINNER,
    activate_one,
    first_weights,
    hidden_weights,
    out_weights,
    tied_weights,
)
from jaxrel.random import exp, walk_cycles
from jaxrel.types import ALL_LANES, CODE_LANE, DEEPEST, TILE, Capacity, Combine, Form

__all__ = ["combine_on_chip", "walk_on_chip"]

_LEAST = 16  # Triton multiplies matrices of 16 rows and columns or more
_BLOCK = 2048  # values of one array of a program: 16 in each of 128 threads (half as many were slower on an H100)


def _product(a: Array, b: Array) -> Array:
    return jax.lax.dot(a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _compete(x: Array, depth: Array, share: Array, winner: Array) -> Array:
    """`jaxrel.mechanisms.compete` of one edge: the first of the highest units of a group wins."""
    units, rows = x.shape
    unit = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)

    def among(level: int) -> Array:
        shape = (units >> level, 1 << level, rows)

        def over(reduce: Any, x: Array) -> Array:
            return jnp.broadcast_to(reduce(x.reshape(shape), axis=1)[:, None, :], shape).reshape(x.shape)

        highest = over(jnp.max, x)
        first = over(jnp.min, jnp.where(x == highest, unit, units))
        raised = exp(jnp.clip(x - highest, -80.0, 0.0))
        return winner * (unit == first).astype(jnp.float32) + share * raised / over(jnp.sum, raised)

    levels = [level for level in range(1, DEEPEST + 1) if 1 << level <= units]
    return jax.lax.switch(jnp.clip(depth - 1, 0, len(levels) - 1), [functools.partial(among, level) for level in levels])


def _edges_of_a_block(
    integers: Any,
    reals: Any,
    database: Any,
    start: Any,
    count: Any,
    combine: Any,
    begin: Any,
    table: Any,
    classes: Any,
    lanes: Any,
    out: Any,
    *,
    capacity: Capacity,
    rows: int,
) -> None:
    """One block of rows of one lane's tile: all edges of its node, one after another. Arguments as `combine_on_chip` hands them on."""
    W, H = capacity.width, capacity.hidden
    b = pl.program_id(0)
    at = pl.program_id(1) * rows + jnp.arange(rows, dtype=jnp.int32)
    units, most = max(H, _LEAST), max(1 << (W - 1).bit_length(), _LEAST)
    lane = jnp.arange(most, dtype=jnp.int32)
    own, first, its_edges, rule = database[b], start[b], count[b], combine[b]

    def one_edge(i: Array, total: Array) -> Array:
        e = jnp.minimum(first + i, capacity.edges - 1)
        edge = {name: integers[own, e, j] for j, name in enumerate(INTEGERS)} | {name: reals[own, e, j] for j, name in enumerate(REALS)}
        density, *key = (integers[own, e, len(INTEGERS) + j].astype(jnp.uint32) for j in range(3))

        def activation(layer: Array | int) -> tuple[Array, Any]:
            code = integers[own, e, len(INTEGERS) + 3 + layer]
            return classes[code], lambda j: table[code, j]

        def parent(_: None) -> Array:  # a node's lanes past its width are 0; so are weights past the last lane
            return lanes[b, edge["parent"], jnp.minimum(lane, W - 1)[:, None], at[None, :]]

        def first_layer(lanes_read: int) -> tuple[Array, Array]:
            draw = functools.partial(first_weights, tuple(key), edge["width"], density, edge["gain"], edge["bias"], W=lanes_read, H=units)

            def tied(dense: tuple[Array, Array]) -> tuple[Array, Array]:
                form = edge["form"], edge["width"], edge["depth"], edge["gain"]
                return tied_weights(tuple(key), *form, *dense, draw(partner=1)[0], W=lanes_read, H=units)

            return jax.lax.cond(edge["form"] != Form.DENSE, tied, lambda x: x, draw())

        def of_one(_: None) -> tuple[Array, Array]:
            weights, bias = first_layer(1)
            read = jnp.where(edge["lane"] == CODE_LANE, W, jnp.maximum(edge["lane"], 0))
            return weights * lanes[b, edge["parent"], read, at][None, :], bias

        def of_all(_: None) -> tuple[Array, Array]:
            weights, bias = first_layer(most)
            return _product(jnp.where(lane[None, :] < W, weights, 0.0), parent(None)), bias

        def through_layers(_: None) -> Array:
            z, bias = jax.lax.cond(edge["lane"] == ALL_LANES, of_all, of_one, None)
            found, weight = activation(0)
            h = activate_one(z, bias, found, weight)

            def grouped(h: Array) -> Array:
                return h + _compete(z + bias[:, None], edge["depth"], weight(SHARE), weight(WINNER))

            h = jax.lax.cond(edge["depth"] > 0, grouped, lambda h: h, h)

            def deeper(layer: Array, h: Array) -> Array:
                A, b = hidden_weights(tuple(key), layer, edge["hidden"], density, edge["gain"], edge["bias"], H=units)
                return activate_one(_product(A, h), b, *activation(layer))

            h = jax.lax.fori_loop(1, edge["layers"], deeper, h)
            return _product(out_weights(tuple(key), edge["hidden"], density, edge["form"], W=most, H=units), h)

        y = jax.lax.cond(edge["layers"] > 0, through_layers, parent, None)
        fold = (functools.partial(folded, soft, rule, scale=edge["scale"]) for soft in (True, False))
        return jax.lax.cond(rule == Combine.LOGSUMEXP, *fold, total, y)

    total = jax.lax.fori_loop(0, its_edges, one_edge, jnp.zeros((most, rows), jnp.float32) + begin[b])
    place = out.at[b, lane[:, None], at[None, :]]
    triton.store(place, jnp.where(its_edges > 0, total, 0.0), mask=jnp.broadcast_to((lane < W)[:, None], (most, rows)))


def combine_on_chip(
    edges: Packed,
    database: Array,
    lanes: Array,
    start: Array,
    count: Array,
    combine: Array,
    capacity: Capacity,
    interpret: bool = False,
) -> Array:
    """`jaxrel.edges.combine_edges` as one kernel: a program takes a block of rows of one tile through all edges of the node.

    So each lane goes through its own edges at its own pace, and hidden units are never written to memory.

    Args:
        edges: as there, as are the other arrays.
        database: i32[B].
        interpret: run it by XLA's operators, block by block, on any backend; for tests.
    """
    H, W = max(capacity.hidden, _LEAST), max(capacity.width, _LEAST)
    rows = max(min(_BLOCK // max(H, W), TILE), _LEAST)
    kernel = functools.partial(_edges_of_a_block, capacity=capacity, rows=rows)
    B = start.shape[0]
    tables = jnp.asarray(ACTIVATION_TABLE), jnp.asarray(ACTIVATION_CLASS)
    shape = jax.ShapeDtypeStruct((B, capacity.width, TILE), jnp.float32)
    return _call(kernel, shape, (B, TILE // rows), interpret, *edges, database, start, count, combine, empty_fold(combine), *tables, lanes)


def _walk_a_block(k0: Any, k1: Any, i: Any, n: Any, half: Any, out: Any, *, backwards: bool) -> None:
    def all_of(inside: Array) -> Array:
        return jnp.min(inside.astype(jnp.int32)) == 1

    out[...] = walk_cycles(k0[...], k1[...], i[...], n[...], half[...], backwards=backwards, every=all_of)


def walk_on_chip(k0: Array, k1: Array, i: Array, n: Array, half: Array, *, backwards: bool, interpret: bool = False) -> Array:
    """`jaxrel.random.walk_cycles` as one kernel: each block of indices walks until all of it is inside, and no host waits for it.

    Args:
        k0: u32[...], as are the others, of one shape.
        interpret: run it by XLA's operators, block by block, on any backend; for tests.
    """
    size = max(min(TILE, 1 << max(i.size - 1, 0).bit_length()), 1)
    blocks = -(-i.size // size)
    beyond = zip((k0, k1, i, n, half), (0, 0, 0, 1, 0), strict=True)  # 0 of 1 is inside
    flat = [jnp.pad(x.reshape(-1), (0, blocks * size - i.size), constant_values=np.uint32(value)) for x, value in beyond]
    spec = pl.BlockSpec((size,), lambda block: (block,))
    kernel = functools.partial(_walk_a_block, backwards=backwards)
    shape = jax.ShapeDtypeStruct((blocks * size,), jnp.uint32)
    return _call(kernel, shape, (blocks,), interpret, *flat, spec=spec)[: i.size].reshape(i.shape)


def _call(kernel: Any, shape: Any, grid: tuple[int, ...], interpret: bool, *operands: Array, spec: Any = pl.no_block_spec) -> Any:
    """A kernel whose programs read and write one block of every array, or where they like."""
    with warnings.catch_warnings():  # JAX 0.11 announces that it will part with Triton one day
        warnings.simplefilter("ignore", DeprecationWarning)
        return pl.pallas_call(
            kernel,
            out_shape=shape,
            grid=grid,
            in_specs=[spec] * len(operands),
            out_specs=spec,
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
            interpret=interpret,
        )(*operands)
