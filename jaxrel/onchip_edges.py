"""A mechanism node in the kernel of nodes (`jaxrel.onchip_nodes`): its edges, their weights and their fold."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas import triton

from jaxrel.edges import INTEGERS, REALS, folded
from jaxrel.mechanisms import (
    SHARE,
    WINNER,
    activate_one,
    first_weights,
    hidden_weights,
    out_weights,
    tied_weights,
)
from jaxrel.onchip import as_word
from jaxrel.onchip_tile import DATABASE, Arrays
from jaxrel.random import exp
from jaxrel.types import (
    ALL_LANES,
    CODE_LANE,
    DEEPEST,
    Combine,
    Form,
)

__all__ = ["mechanism"]


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


def _draw_edge(at: Arrays, b: Array, edge: dict[str, Any]) -> None:
    """Weights and biases of all layers of an edge, for the whole tile: into memory that is the program's own."""
    W, H, last = at.lanes, at.units, at.capacity.layers
    unit, lane = jnp.arange(H, dtype=jnp.int32), jnp.arange(W, dtype=jnp.int32)
    key, density, form = edge["key"], edge["density"], edge["form"]
    draw = functools.partial(first_weights, key, edge["width"], density, edge["gain"], edge["bias"], W=W, H=H)

    def tied(dense: tuple[Array, Array]) -> tuple[Array, Array]:
        return tied_weights(key, form, edge["width"], edge["depth"], edge["gain"], *dense, draw(partner=1)[0], W=W, H=H)

    weights, bias = jax.lax.cond(form != Form.DENSE, tied, lambda x: x, draw())
    triton.store(at["weights"].at[b, 0, unit[:, None], lane[None, :]], weights)
    triton.store(at["biases"].at[b, 0, unit], bias)

    def deeper(layer: Array, _: None) -> None:
        weights, bias = hidden_weights(key, layer, edge["hidden"], density, edge["gain"], edge["bias"], H=H)
        triton.store(at["weights"].at[b, layer, unit[:, None], unit[None, :]], weights)
        triton.store(at["biases"].at[b, layer, unit], bias)

    jax.lax.fori_loop(1, edge["layers"], deeper, None)
    weights = out_weights(key, edge["hidden"], density, form, W=W, H=H)
    triton.store(at["weights"].at[b, last, unit[None, :], lane[:, None]], weights)


def mechanism(at: Arrays, b: Array, n: Array, lanes_told: Array) -> None:
    """Signal of a mechanism node: its edges one after another, each folded into the node's lanes, where the fold is kept."""
    W, H, last = at.capacity.width, at.units, at.capacity.layers
    own, unit = at["tile"][b, DATABASE], jnp.arange(H, dtype=jnp.int32)
    first_edge, edges = at.node(b, n, "first_edge", "edges")
    integers, reals, lanes = at["edge_integers"], at["edge_reals"], at["lanes"]

    def one_edge(i: Array, _: None) -> None:
        e = jnp.minimum(first_edge + i, at.capacity.edges - 1)
        rule, begin = at.node(b, n, "combine", "begin")
        edge: dict[str, Any] = {name: integers[own, e, j] for j, name in enumerate(INTEGERS)}
        edge |= {name: reals[own, e, j] for j, name in enumerate(REALS)}
        density, *key = (as_word(integers[own, e, len(INTEGERS) + j]) for j in range(3))
        edge |= {"density": density, "key": tuple(key)}

        def activation(layer: Array | int) -> tuple[Array, Callable[[int], Any]]:
            code = integers[own, e, len(INTEGERS) + 3 + layer]
            return at["classes"][code], lambda j: at["activations"][code, j]

        def fold(w: Array, rows: Array, y: Array) -> None:
            total = jnp.where(i == 0, begin, lanes[b, n, w, rows])
            of_rule = (functools.partial(folded, soft, rule, scale=edge["scale"]) for soft in (True, False))
            triton.store(lanes.at[b, n, w, rows], jax.lax.cond(rule == Combine.LOGSUMEXP, *of_rule, total, y))

        def as_they_are() -> None:
            def block(rows: Array, _: None) -> None:
                jax.lax.fori_loop(0, lanes_told, lambda w, _: fold(w, rows, lanes[b, edge["parent"], w, rows]), None)

            at.blocks(block)

        def through_layers() -> None:
            _draw_edge(at, b, edge)
            at.wait()
            reads_all = edge["lane"] == ALL_LANES
            first = jnp.where(reads_all, 0, jnp.where(edge["lane"] == CODE_LANE, W, edge["lane"]))
            found, weight = activation(0)

            def block(rows: Array, _: None) -> None:
                def read(w: Array, z: Array) -> Array:
                    return z + at["weights"][b, 0, unit, w][:, None] * lanes[b, edge["parent"], first + w, rows][None, :]

                z = jax.lax.fori_loop(0, 1 + (W - 1) * reads_all.astype(jnp.int32), read, jnp.zeros((H, at.rows), jnp.float32))
                bias = at["biases"][b, 0, unit]
                h = activate_one(z, bias, found, weight)

                def grouped(h: Array) -> Array:
                    return h + _compete(z + bias[:, None], edge["depth"], weight(SHARE), weight(WINNER))

                h = jax.lax.cond(edge["depth"] > 0, grouped, lambda h: h, h)

                def deeper(layer: Array, h: Array) -> Array:
                    weights = at["weights"][b, layer, unit[:, None], unit[None, :]]
                    return activate_one(_product(weights, h), at["biases"][b, layer, unit], *activation(layer))

                h = jax.lax.fori_loop(1, edge["layers"], deeper, h)

                def tell(w: Array, _: None) -> None:
                    fold(w, rows, jnp.sum(at["weights"][b, last, unit, w][:, None] * h, axis=0))

                jax.lax.fori_loop(0, lanes_told, tell, None)

            at.blocks(block)
            at.wait()  # before the next edge's weights are written

        jax.lax.cond(edge["layers"] > 0, through_layers, as_they_are)

    jax.lax.fori_loop(0, edges, one_edge, None)

    def nothing(rows: Array, _: None) -> None:
        at.lanes_of(lambda w: triton.store(lanes.at[b, n, w, rows], jnp.zeros(rows.shape, jnp.float32)))

    jax.lax.cond(edges == 0, lambda: at.blocks(nothing), lambda: None)
