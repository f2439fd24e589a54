"""What one edge brings to its node: the universal mechanism ``A_out φ_L(… φ_1(A_0 x + b_0) …)``, weights drawn on the spot, and the fold.

Few operators and each of them whole: on CPU an operator costs microseconds to begin. So an edge arrives as one packed row, which is
unpacked where it is read, and what stands around an activation or the fold is written into it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxrel.batching import Loop, product, quick_loop
from jaxrel.mechanisms import activate, compete, first_weights, hidden_weights, out_weights, swapped, tied_weights
from jaxrel.random import log1p_exp
from jaxrel.types import ALL_LANES, CODE_LANE, SCM, TILE, Capacity, Combine, Form

__all__ = ["INTEGERS", "REALS", "Packed", "combine_edges", "edge_values", "empty_fold", "fits_on_chip", "folded", "pack_edges"]

INTEGERS = ("parent", "width", "hidden", "lane", "layers", "form", "depth")
REALS = ("scale", "gain", "bias")
_LOWEST = -1e30
_MOST_ON_CHIP = 64  # units, or lanes
Packed = tuple[Array, Array]


def pack_edges(scm: SCM) -> Packed:
    """All fields of an edge side by side: the edge loop reads two rows instead of a dozen arrays.

    Returns:
        i32[B, E, fields] and f32[B, E, fields] (apart, because a derivative does not survive a bitcast).
    """
    bits = jax.lax.bitcast_convert_type
    integers = [getattr(scm, f"edge_{name}")[..., None] for name in INTEGERS]
    integers += [bits(scm.edge_density, jnp.int32)[..., None], bits(scm.edge_key, jnp.int32), scm.edge_activation]
    reals = [getattr(scm, f"edge_{name}") for name in REALS]
    return jnp.concatenate(integers, axis=-1), jnp.stack(reals, axis=-1)


def _unpack(row: Packed) -> dict[str, Array]:
    """Fields of one edge of every database, from i32[B, fields] and f32[B, fields]."""
    integers, reals = row
    edge = {name: integers[:, i] for i, name in enumerate(INTEGERS)} | {name: reals[:, i] for i, name in enumerate(REALS)}
    words = jax.lax.bitcast_convert_type(integers[:, len(INTEGERS) : len(INTEGERS) + 3], jnp.uint32)
    return edge | {"density": words[:, 0], "key": words[:, 1:], "activation": integers[:, len(INTEGERS) + 3 :]}


def _of(lanes: Array, parent: Array) -> Array:
    """The parent's lanes in every database: f32[B, W, TILE] of f32[B, N, W + 1, TILE]."""
    node = jax.vmap(lambda x, i: jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False))(lanes, parent)
    return node[:, : lanes.shape[2] - 1]


def edge_values(row: Packed, lanes: Array, present: Array, H: int, L: int, loop: Loop = quick_loop) -> Array:
    """The universal mechanism of one edge in every database.

    Args:
        row: edges as `pack_edges` lays them out, without the axis E.
        lanes: f32[B, N, W + 1, TILE], the nodes' lanes.
        present: bool[B], edges that count; of others any value may come back.
        H: hidden units, most.
        L: layers, most.
        loop: how to loop over layers.

    Returns:
        f32[B, W, TILE].
    """
    W = lanes.shape[2] - 1
    edge = _unpack(row)

    draw = jax.vmap(functools.partial(first_weights, W=W, H=H))
    dense = draw(edge["key"], edge["width"], edge["density"], edge["gain"], edge["bias"])

    def tied(dense: tuple[Array, Array]) -> tuple[Array, Array]:
        edge = _unpack(row)  # here and below: a branch takes one row rather than a field after another
        tie = jax.vmap(functools.partial(tied_weights, W=W, H=H))
        return tie(edge["key"], edge["form"], edge["width"], edge["depth"], edge["gain"], *dense, jax.vmap(swapped)(dense[0]))

    weights, bias = jax.lax.cond(jnp.any((edge["form"] != Form.DENSE) & present), tied, lambda x: x, dense)

    def of_one(_: None) -> Array:  # every edge of the batch reads one lane: no matrix product
        edge = _unpack(row)
        lane = jnp.where(edge["lane"] == CODE_LANE, W, jnp.maximum(edge["lane"], 0))
        x = jax.vmap(lambda lanes, parent, lane: lanes[parent, lane])(lanes, edge["parent"], lane)
        return weights[:, :, :1] * x[:, None, :]

    def of_all(_: None) -> Array:
        edge = _unpack(row)
        z = product("bhw,bwr->bhr", weights, _of(lanes, edge["parent"]))
        return z if z.shape[0] == 1 else jnp.where((edge["lane"] == ALL_LANES)[:, None, None], z, of_one(None))

    z = jax.lax.cond(jnp.any((edge["lane"] == ALL_LANES) & present), of_all, of_one, None)
    code = edge["activation"][:, 0]
    h = activate(z, bias, code, present)
    h = compete(h, z, bias, jnp.where(present, edge["depth"], 0), code)

    def deeper(layer: Array, h: Array) -> Array:
        edge = _unpack(row)
        A, b = jax.vmap(functools.partial(hidden_weights, H=H), (0, None, 0, 0, 0, 0))(
            edge["key"], layer, edge["hidden"], edge["density"], edge["gain"], edge["bias"]
        )
        code = jax.lax.dynamic_index_in_dim(edge["activation"], layer, 1, keepdims=False)
        goes_on = (layer < edge["layers"]) & present
        new = activate(product("bhg,bgr->bhr", A, h), b, code, goes_on)
        return new if h.shape[0] == 1 else jnp.where(goes_on[:, None, None], new, h)  # the loop ends with the only edge

    if L > 1:
        h = loop(1, jnp.max(jnp.where(present, edge["layers"], 1)), L, deeper, h)
    out = jax.vmap(functools.partial(out_weights, W=W, H=H))(edge["key"], edge["hidden"], edge["density"], edge["form"])
    return product("bwh,bhr->bwr", out, h)


def empty_fold(combine: Array) -> Array:
    """What a fold begins with, f32[...] of `Combine`."""
    return jnp.where(combine == Combine.SUM, 0.0, jnp.where(combine == Combine.PRODUCT, 1.0, _LOWEST)).astype(jnp.float32)


def folded(soft: bool, code: Array, total: Array, y: Array, scale: Array) -> Array:
    """Fold what one edge brings, times its scale, into the node's running value, by the node's own rule.

    Args:
        soft: static, the rule may be the log of a sum of exponentials.
        code: i32, `Combine`, and ``scale`` f32, both as they broadcast to the others.
        total: f32[...].
        y: f32[...].
        scale: the edge's.
    """
    y = jnp.clip(y, -1e4, 1e4) * scale
    high = jnp.maximum(total, y)
    if soft:
        high = jnp.where(code == Combine.LOGSUMEXP, high + log1p_exp(-jnp.abs(total - y)), high)
    return jnp.where(code == Combine.SUM, total + y, jnp.where(code == Combine.PRODUCT, jnp.clip(total * y, -1e6, 1e6), high))


def _fold(code: Array, total: Array, y: Array, scale: Array, present: Array, any_soft: Array) -> Array:
    """`folded` in every database."""
    code, scale = code[:, None, None], scale[:, None, None]

    def fold(soft: bool, total: Array, y: Array) -> Array:
        out = folded(soft, code, total, y, scale)
        return out if code.shape[0] == 1 else jnp.where(present[:, None, None], out, total)  # the loop ends with the only node

    return jax.lax.cond(any_soft, functools.partial(fold, True), functools.partial(fold, False), total, y)


def fits_on_chip(capacity: Capacity) -> bool:
    """Whether `jaxrel.onchip_nodes` may do it: arrays there have powers of two as sizes, and groups of units must not be cut."""
    return capacity.hidden & (capacity.hidden - 1) == 0 and max(capacity.hidden, capacity.width) <= _MOST_ON_CHIP


def combine_edges(
    edges: Packed,
    database: Array | None,
    lanes: Array,
    start: Array,
    count: Array,
    combine: Array,
    capacity: Capacity,
    loop: Loop = quick_loop,
) -> Array:
    """Signal of one mechanism node in every database: its edges' values, combined.

    Args:
        edges: `pack_edges`.
        database: i32[B], whose edges each one reads; None: its own.
        lanes: f32[B, N, W + 1, TILE], the nodes' lanes.
        start: i32[B], first edge of the node.
        count: i32[B], edges of the node, 0 where the node is none.
        combine: i32[B], `Combine`.
        capacity: static sizes.
        loop: how to loop over edges and layers.

    Returns:
        f32[B, W, TILE], 0 where there are no edges.
    """
    any_soft = jnp.any((combine == Combine.LOGSUMEXP) & (count > 0))
    begin = empty_fold(combine)

    def one_edge(i: Array, total: Array) -> Array:
        present = i < count
        e = jnp.where(present, start + i, 0)  # an absent edge stands in as a real one: its slope is dropped, but must be finite
        e = jnp.minimum(e, capacity.edges - 1)
        row = jax.vmap(lambda x, j: (x[0][j], x[1][j]))(edges, e) if database is None else (edges[0][database, e], edges[1][database, e])
        has_layers = _unpack(row)["layers"] > 0

        def as_they_are(_: None) -> Array:
            return _of(lanes, _unpack(row)["parent"])

        def through_layers(_: None) -> Array:
            y = edge_values(row, lanes, has_layers & present, capacity.hidden, capacity.layers, loop)
            return y if lanes.shape[0] == 1 else jnp.where(has_layers[:, None, None], y, as_they_are(None))

        y = jax.lax.cond(jnp.any(has_layers & present), through_layers, as_they_are, None)
        return _fold(combine, total, y, _unpack(row)["scale"], present, any_soft)

    shape = (start.shape[0], capacity.width, TILE)
    total = loop(0, jnp.max(count), capacity.nodes, one_edge, jnp.broadcast_to(begin[:, None, None], shape))
    return jnp.where((count > 0)[:, None, None], total, 0.0)
