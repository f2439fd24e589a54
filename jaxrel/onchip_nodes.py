"""All nodes of a tile as one kernel for GPUs: from its first node to its last a tile stays on chip, or in a cache.

A program is one lane's tile. Its 128 threads go through the nodes of its table one after another, and through an edge's layers by blocks of
rows. What one thread writes and others read goes through memory that the program alone uses, between two barriers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxrel.categories import NO_BID, bid, prototypes, sharpened, winner
from jaxrel.edges import empty_fold
from jaxrel.exogenous import interpolate, series
from jaxrel.lanes import at_own
from jaxrel.mechanisms import (
    ACTIVATION_CLASS,
    ACTIVATION_TABLE,
)
from jaxrel.nodes import CLIP, FAINT, Context, is_dead
from jaxrel.noise import noise_of, uneven
from jaxrel.onchip import as_integers, as_word, call_kernel
from jaxrel.onchip_edges import mechanism
from jaxrel.onchip_tile import DATABASE, IS_PILOT, MEASURES, NODE_INTEGERS, NODE_REALS, NODES, SERIES, Arrays
from jaxrel.random import nearest, normals, row_pair
from jaxrel.registry import NOISES
from jaxrel.tiles import SEGMENT
from jaxrel.types import (
    AGGREGATES,
    ALL_LANES,
    CODE_LANE,
    INTERVENTIONS,
    NO_ROW,
    NO_TABLE,
    TILE,
    Capacity,
    NodeKind,
    Schema,
)

__all__ = ["walk_nodes_on_chip"]


def _exogenous(at: Arrays, b: Array, n: Array) -> None:
    """An exogenous node: lane 0 is its value, others are 0. What shows a trait is in its place already."""

    def remember() -> None:  # `jaxrel.exogenous._autoregress`, run by run
        i = jnp.arange(2 * SEGMENT, dtype=jnp.int32)  # SEGMENT rows before the run, and the run

        def one_run(run: Array, _: None) -> None:
            past = at["past"].at[b, run * (2 * SEGMENT) + i]
            x = normals(row_pair(at.key(b, n), at["rows"][b, run * SEGMENT] - SEGMENT + i), nearest=nearest)[0]

            def double(level: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
                x, factor = state
                triton.store(past, x)
                at.wait()
                sooner = i - (jnp.int32(1) << level)
                x = x + factor * jnp.where(sooner >= 0, at["past"][b, run * (2 * SEGMENT) + jnp.maximum(sooner, 0)], 0.0)
                at.wait()
                return x, factor * factor

            x, _ = jax.lax.fori_loop(0, SEGMENT.bit_length() - 1, double, (x, at.node(b, n, "series_rho")[0]))
            triton.store(past, x)

        jax.lax.fori_loop(0, TILE // SEGMENT, one_run, None)
        at.wait()

    def draw() -> None:
        remembers = at.node(b, n, "series_rho")[0] > 0
        jax.lax.cond(remembers, remember, lambda: None)

        def block(rows: Array, _: None) -> None:
            def remembered() -> Array:
                (rho,) = at.node(b, n, "series_rho")
                return at["past"][b, rows + (rows // SEGMENT + 1) * SEGMENT] * jnp.sqrt(1.0 - rho * rho)

            def new() -> Array:
                return normals(row_pair(at.key(b, n), at["rows"][b, rows]), nearest=nearest)[0]

            z = jax.lax.cond(remembers, remembered, new)
            noise = interpolate(z, lambda knot: at["reals"][b, n, len(NODE_REALS) + knot])
            field = dict(zip(SERIES, at.node(b, n, *SERIES), strict=True))
            field |= {name: as_word(field[name]) for name in ("series_phase", "series_period")}
            value = series(field, at["moment"][b, rows], at["time"][b, rows], noise, nearest)
            triton.store(at["lanes"].at[b, n, 0, rows], value)

        at.blocks(block)

    jax.lax.cond(at.node(b, n, "is_trait")[0] == 0, draw, lambda: None)

    def blank(rows: Array, _: None) -> None:
        at.lanes_of(lambda w: triton.store(at["lanes"].at[b, n, w, rows], jnp.zeros(rows.shape, jnp.float32)), first=1)

    at.blocks(blank)


def _gather(at: Arrays, b: Array, n: Array) -> None:
    """Lanes of a parent row's exported node, as `jaxrel.nodes._gather` says."""
    own, is_pilot, first_row = at["tile"][b, DATABASE], at["tile"][b, IS_PILOT] != 0, at["rows"][b, 0]
    lanes, size = at["lanes"], at["exports"].shape[-1]
    fk, slot, node, offset, is_self, length = at.node(b, n, "fk", "slot", "parent_node", "offset", "is_self", "run_length")

    def block(rows: Array, _: None) -> None:
        row = at["parent_row"][b, fk, rows]
        place = jnp.clip(offset + row, 0, size - 1)
        run = jnp.minimum(row // length, TILE // SEGMENT - 1)
        near = run * SEGMENT + jnp.clip(row - run * length, 0, SEGMENT - 1)
        inside = jnp.clip(jnp.where(is_pilot, near, row - first_row), 0, TILE - 1)
        from_tile = (is_self != 0) & (is_pilot | (row >= first_row))

        def one_lane(w: Array) -> None:
            value = jnp.where(from_tile, lanes[b, node, w, inside], at["exports"][own, slot, w, place])
            triton.store(lanes.at[b, n, w, rows], jnp.where(row != NO_ROW, value, 0.0))

        at.lanes_of(one_lane)

    at.blocks(block)


def _aggregate(at: Arrays, b: Array, n: Array) -> None:
    """What the rows of the tile hear from their child rows."""
    own, (slot,) = at["tile"][b, DATABASE], at.node(b, n, "aggregate")

    def block(rows: Array, _: None) -> None:
        place = jnp.clip(at["position"][b, rows], 0, at["aggregates"].shape[-1] - 1)
        at.lanes_of(lambda w: triton.store(at["lanes"].at[b, n, w, rows], at["aggregates"][own, slot, w, place]))

    at.blocks(block)


def _signal(at: Arrays, b: Array, n: Array, rows: Array) -> Array:
    """A block of a node's lanes, f32[lanes, rows]."""
    w = jnp.arange(at.lanes, dtype=jnp.int32)[:, None]
    return jnp.where(w < at.capacity.width, at["lanes"][b, n, jnp.minimum(w, at.capacity.width - 1), rows[None, :]], 0.0)


def _measure(at: Arrays, b: Array, n: Array) -> None:
    """Calibrate a node on this tile, as `jaxrel.nodes._standardise` does."""
    w, zero = jnp.arange(at.lanes, dtype=jnp.int32), jnp.zeros(at.lanes, jnp.float32)

    def total(of: Callable[[Array], Array]) -> Array:
        def of_real(rows: Array) -> Array:
            return jnp.where(at["real"][b, rows][None, :] != 0, of(_signal(at, b, n, rows)), 0.0)

        most = at.blocks(lambda rows, most: jnp.maximum(most, jnp.max(jnp.abs(of_real(rows)), axis=1)), zero)
        bits = jax.lax.bitcast_convert_type(jnp.maximum(most, 1e-30), jnp.int32) & 0x7F800000
        unit = jax.lax.bitcast_convert_type(bits, jnp.float32) * jnp.float32(2.0**-19)

        def add(rows: Array, total: Array) -> Array:
            return total + jnp.sum(nearest(of_real(rows) / unit[:, None]).astype(jnp.int32), axis=1)

        return at.blocks(add, jnp.zeros(at.lanes, jnp.int32)).astype(jnp.float32) * unit

    real = at.blocks(lambda rows, count: count + jnp.sum(at["real"][b, rows]), jnp.int32(0))
    count = jnp.maximum(real.astype(jnp.float32), 1.0)
    mean = total(lambda x: x) / count
    spread = jnp.sqrt(total(lambda x: jnp.square(x - mean[:, None])) / count)
    scale = jnp.where(is_dead(mean, spread), 0.0, 1.0 / jnp.maximum(spread, FAINT))
    gathered, place = at.node(b, n, "kind")[0] == NodeKind.GATHER, jnp.minimum(w, at.capacity.width - 1)
    triton.store(at["shift"].at[b, n, place], jnp.where(gathered, 0.0, mean), mask=w < at.capacity.width)
    triton.store(at["scale"].at[b, n, place], jnp.where(gathered, 1.0, scale), mask=w < at.capacity.width)


def _done_to(at: Arrays, b: Array, n: Array, value: Array, lane: Array | int, rows: Array) -> Array:
    """Lanes, numbered by ``lane``, after the interventions on the node; both broadcast to [lanes, rows]."""
    ids = at["rows"][b, rows] if value.ndim == 1 else at["rows"][b, rows][None, :]

    def one(i: Array, value: Array) -> Array:
        at_node, named, first, past = (at["done_integers"][b, n, i, j] for j in range(4))
        hit = (at_node != 0) & ((named == lane) | ((named == ALL_LANES) & (lane >= 0))) & (ids >= first) & (ids < past)
        return jnp.where(hit, at["done_reals"][b, i, 0] * value + at["done_reals"][b, i, 1], value)

    def all_of_them(value: Array) -> Array:
        return jax.lax.fori_loop(0, INTERVENTIONS, one, value)

    return jax.lax.cond(at.node(b, n, "is_done_to")[0] != 0, all_of_them, lambda x: x, value)


def _finish(at: Arrays, b: Array, n: Array) -> None:
    """From a node's signal to its lanes and its code: standardised, with noise, or the category's prototype."""
    W, w = at.capacity.width, jnp.arange(at.lanes, dtype=jnp.int32)
    shift, scale = (at[name][b, n, jnp.minimum(w, W - 1)] for name in ("shift", "scale"))
    kind, classes, width, law, amount, spread = at.node(b, n, "kind", "classes", "width", "law", "noise", "spread")
    key, in_width, is_noisy = at.key(b, n), w < width, (kind == NodeKind.MECHANISM) & (classes == 0)

    def prototype(c: Array) -> Array:
        return at["prototypes"][b, n, c, jnp.minimum(w, W - 1)]

    def block(rows: Array, _: None) -> None:
        ids = at["rows"][b, rows]

        def noise(value: Array) -> Array:
            words = row_pair(key, ids[None, :], w[:, None])
            laws = [functools.partial(noise_of, words, jnp.int32(0), (name,), nearest) for name in NOISES]
            deviation = jnp.where(scale == 0.0, 1.0, amount)[:, None] * uneven(value, spread)
            return value + deviation * jax.lax.switch(law, laws)

        def categorical(value: Array) -> tuple[Array, Array]:
            def challenge(c: Array, best: Array) -> Array:
                score = jnp.sum(jnp.where(in_width, sharpened(prototype(c), width), 0.0)[:, None] * value, axis=0)
                return jnp.maximum(best, bid(c, score, amount, key, ids))

            highest = jax.lax.fori_loop(0, classes, challenge, jnp.full(rows.shape, NO_BID, jnp.int32))
            code = _done_to(at, b, n, winner(highest).astype(jnp.float32), CODE_LANE, rows)
            code = jnp.clip(nearest(code), 0.0, (classes - 1).astype(jnp.float32))

            def show(c: Array, value: Array) -> Array:
                return jnp.where(code[None, :] == c.astype(jnp.float32), prototype(c)[:, None], value)

            return code, jax.lax.fori_loop(0, classes, show, jnp.zeros_like(value))

        value = jnp.clip((_signal(at, b, n, rows) - shift[:, None]) * scale[:, None], -CLIP, CLIP)
        value = jax.lax.cond(is_noisy, noise, lambda x: x, value)
        value = jnp.where(in_width[:, None], value, 0.0)
        no_code = jnp.zeros(rows.shape, jnp.float32)
        code, value = jax.lax.cond(classes > 0, categorical, lambda x: (no_code, x), value)
        value = _done_to(at, b, n, value, w[:, None], rows)
        mask = jnp.broadcast_to((w < W)[:, None], value.shape)
        triton.store(at["lanes"].at[b, n, jnp.minimum(w, W - 1)[:, None], rows[None, :]], value, mask=mask)
        triton.store(at["lanes"].at[b, n, W, rows], code)

    at.blocks(block)


def _nodes_of_a_tile(*refs: Any, names: tuple[str, ...], capacity: Capacity, interpret: bool) -> None:
    """One lane's tile: all nodes that its table uses, one after another."""
    at = Arrays(dict(zip(names, refs, strict=True)), capacity, interpret)
    b = pl.program_id(0)

    def one_node(n: Array, _: None) -> None:
        kind, used, width = at.node(b, n, "kind", "used", "width")
        measures = at["tile"][b, MEASURES] != 0

        def walk() -> None:
            kinds = {
                NodeKind.EXOGENOUS: functools.partial(_exogenous, at, b, n),
                NodeKind.GATHER: functools.partial(_gather, at, b, n),
                NodeKind.MECHANISM: functools.partial(mechanism, at, b, n, jnp.where(measures, capacity.width, width)),
                NodeKind.AGGREGATE: functools.partial(_aggregate, at, b, n),
            }
            jax.lax.switch(kind, [kinds[kind] for kind in NodeKind])
            at.wait()

            def measure() -> None:
                _measure(at, b, n)
                at.wait()

            jax.lax.cond(measures, measure, lambda: None)
            _finish(at, b, n)
            at.wait()

        jax.lax.cond(used != 0, walk, lambda: None)

    jax.lax.fori_loop(0, at["tile"][b, NODES], one_node, None)


def _fields(schema: Schema, context: Context, capacity: Capacity) -> tuple[Array, Array]:
    """What the kernel asks of a node, i32[B, N, fields] and f32[B, N, fields]: `NODE_INTEGERS`; `NODE_REALS` and the knots."""
    nodes, table = context.nodes, context.tile.table
    start, slot = nodes["edge_start"], nodes["gather_export"]
    parent = jnp.maximum(jnp.take_along_axis(at_own(schema.fk_parent, table), jnp.maximum(nodes["gather_fk"], 0), axis=1), 0)
    rows, n = jnp.take_along_axis(schema.row_count, parent, axis=1), jnp.arange(capacity.nodes, dtype=jnp.int32)[None, :]
    computed = {
        "first_edge": start[:, :-1],
        "edges": start[:, 1:] - start[:, :-1],
        "key_0": context.streams.noise[..., 0],
        "key_1": context.streams.noise[..., 1],
        "is_trait": nodes["trait_table"] != NO_TABLE,
        "fk": jnp.maximum(nodes["gather_fk"], 0),
        "slot": slot,
        "parent_node": jnp.take_along_axis(nodes["export_node"], jnp.maximum(slot, 0), axis=1),
        "offset": jnp.take_along_axis(schema.row_offset, parent, axis=1),
        "is_self": parent == table[:, None],
        "run_length": jnp.maximum(jnp.maximum(rows, 1) // (TILE // SEGMENT), 1),
        "aggregate": jnp.clip(n - nodes["pass2_start"][:, None], 0, AGGREGATES - 1),
        "is_done_to": jnp.any(_done_at(context, capacity), axis=2),
    }

    integers = jnp.stack([jnp.broadcast_to(as_integers((nodes | computed)[name]), parent.shape) for name in NODE_INTEGERS], axis=-1)
    reals = jnp.stack([(nodes | {"begin": empty_fold(nodes["combine"])})[name] for name in NODE_REALS], axis=-1)
    return integers, jnp.concatenate([reals, nodes["noise_knots"]], axis=-1)


def _done_at(context: Context, capacity: Capacity) -> Array:
    """bool[B, N, INTERVENTIONS]: which interventions are on which nodes of the tile's table."""
    done, n = context.interventions, jnp.arange(capacity.nodes, dtype=jnp.int32)[None, :, None]
    on_table = (done.table == context.tile.table[:, None]) & (done.table != NO_TABLE)
    return on_table[:, None, :] & (done.node[:, None, :] == n)


def walk_nodes_on_chip(
    schema: Schema, context: Context, lanes: Array, shift: Array, scale: Array, capacity: Capacity, interpret: bool = False
) -> tuple[Array, Array, Array]:
    """`jaxrel.nodes.walk_nodes` as one kernel: a program takes one lane's tile through all nodes of its table.

    So each lane goes through nodes and edges of its own at its own pace, an edge's weights are drawn once a tile, and hidden units are
    never written to memory.

    Args:
        schema: leaves lead with B, the lanes', as those of the others but for the edges, exports and aggregates, which are the databases'.
        context: the tile's inputs, whose ``database`` is given.
        lanes: f32[B, N, W + 1, TILE], with the traits in their places (`jaxrel.nodes.with_traits`).
        shift: f32[B, N, W], calibration.
        scale: f32[B, N, W].
        capacity: static sizes, of which `jaxrel.edges.fits_on_chip` is true.
        interpret: run it by XLA's operators, program by program, on any backend; for tests.

    Returns:
        Lanes, shift and scale.
    """
    tile, done, used = context.tile, context.interventions, context.nodes["used"]
    assert context.database is not None
    B, N = used.shape
    last = jnp.max(jnp.where(used, jnp.arange(1, N + 1, dtype=jnp.int32)[None, :], 0), axis=1)
    integers, reals = _fields(schema, context, capacity)
    spans = [jnp.broadcast_to(x[:, None, :], (B, N, INTERVENTIONS)) for x in (done.lane, done.first_row, done.past_row)]
    prototype = jax.vmap(lambda key, width: prototypes(key, width, capacity), 1, 1)(context.streams.prototype, context.nodes["width"])
    read = {
        "tile": jnp.stack([context.database, last, tile.measures.astype(jnp.int32), tile.is_pilot.astype(jnp.int32)], axis=1),
        "integers": integers,
        "reals": reals,
        "prototypes": prototype,
        "rows": tile.rows,
        "real": tile.real.astype(jnp.int32),
        "time": context.time,
        "moment": context.moment,
        "position": context.position,
        "parent_row": context.parent_row,
        "edge_integers": context.edges[0],
        "edge_reals": context.edges[1],
        "exports": context.exports,
        "aggregates": context.aggregates,
        "done_integers": jnp.stack([_done_at(context, capacity).astype(jnp.int32), *spans], axis=-1),
        "done_reals": jnp.stack([done.scale, done.shift], axis=-1),
        "activations": jnp.asarray(ACTIVATION_TABLE),
        "classes": jnp.asarray(ACTIVATION_CLASS),
    }
    at = Arrays({}, capacity, interpret)
    layers = capacity.layers + 1  # the last of them out
    own = {
        "weights": (B, layers, at.units, max(at.units, at.lanes)),
        "biases": (B, layers, at.units),
        "past": (B, 2 * TILE),
    }
    written = {"lanes": lanes, "shift": shift, "scale": scale}
    names = (*read, *(f"{name} before" for name in written), *written, *own)
    kernel = functools.partial(_nodes_of_a_tile, names=names, capacity=capacity, interpret=interpret)
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in written.values()]
    shapes += [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in own.values()]
    operands = (*read.values(), *written.values())
    found = call_kernel(kernel, shapes, (B,), interpret, *operands, aliases={len(read) + i: i for i in range(len(written))})
    return tuple(found[: len(written)])
