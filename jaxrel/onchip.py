"""Kernels for GPUs that keep on chip what XLA sends through memory from one operator to the next (Pallas, by way of Triton).

Beside each stands a program of XLA's, which is what other backends run, and the reference: integers are equal, floats but for rounding.
Pallas takes a while to import, so this module is imported where there is a GPU (`jaxrel.batching.by_platform`), not before.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxrel.categories import NO_BID, bid, prototypes, sharpened, winner
from jaxrel.edges import INTEGERS, REALS, empty_fold, folded
from jaxrel.exogenous import interpolate, series
from jaxrel.lanes import at_own
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
from jaxrel.nodes import CLIP, FAINT, SERIES_FIELDS, Context, is_dead
from jaxrel.noise import noise_of, uneven
from jaxrel.random import exp, normals, row_pair, walk_cycles
from jaxrel.registry import NOISES
from jaxrel.tiles import SEGMENT
from jaxrel.types import (
    AGGREGATES,
    ALL_LANES,
    CODE_LANE,
    DEEPEST,
    INTERVENTIONS,
    NO_ROW,
    NO_TABLE,
    TILE,
    Capacity,
    Combine,
    Form,
    NodeKind,
    Schema,
)

__all__ = ["walk_nodes_on_chip", "walk_on_chip"]

_LEAST = 16  # Triton multiplies matrices of 16 rows and columns or more
_BLOCK = 2048  # values of one array of a program: 16 in each of 128 threads
_WARPS = 4
_DATABASE, _NODES, _MEASURES, _IS_PILOT = range(4)  # fields of a tile
_NODE_INTEGERS = (
    *("kind", "used", "width", "classes", "combine", "law", "first_edge", "edges", "key_0", "key_1"),
    *("series_period", "series_phase", "series_calendar", "is_trait", "is_done_to"),
    *("fk", "slot", "parent_node", "offset", "is_self", "run_length", "aggregate"),
)
_SERIES = tuple(name for name in SERIES_FIELDS if name != "noise_knots")
_NODE_REALS = ("noise", "spread", "series_trend", "series_power", "series_cycle", "series_noise", "series_rho", "begin")


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


@dataclasses.dataclass(frozen=True)
class _Arrays:
    """What a program reads and writes, by name; and the sizes of its blocks."""

    refs: dict[str, Any]
    capacity: Capacity
    interpret: bool

    @property
    def lanes(self) -> int:
        """Lanes of a node, as a power of two."""
        return 1 << (self.capacity.width - 1).bit_length()

    @property
    def units(self) -> int:
        """Hidden units, as many as Triton multiplies."""
        return max(self.capacity.hidden, _LEAST)

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return max(min(_BLOCK // max(self.units, self.lanes), SEGMENT), _LEAST)

    def __getitem__(self, name: str) -> Any:
        return self.refs[name]

    def wait(self) -> None:
        """What any thread of the program wrote, all of them may read from here on."""
        if not self.interpret:
            triton.debug_barrier()

    def blocks(self, body: Callable[[Array, Any], Any], init: Any = None) -> Any:
        """``body(rows, x)`` for one block of rows of the tile after another, from ``init`` on."""
        rows = jnp.arange(self.rows, dtype=jnp.int32)
        return jax.lax.fori_loop(0, TILE // self.rows, lambda i, x: body(i * self.rows + rows, x), init)

    def node(self, b: Array, n: Array, *names: str) -> list[Any]:
        """Some fields of one node, read where they are asked for: what all of them are would fill the registers."""
        return [
            self["integers"][b, n, _NODE_INTEGERS.index(name)] if name in _NODE_INTEGERS else self["reals"][b, n, _NODE_REALS.index(name)]
            for name in names
        ]

    def key(self, b: Array, n: Array) -> tuple[Array, Array]:
        """The stream of a node's noise."""
        first, second = self.node(b, n, "key_0", "key_1")
        return _word(first), _word(second)


def _nearest(x: Array) -> Array:  # Triton has no `round`
    return jnp.floor(x + 0.5)


def _word(x: Array) -> Array:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _draw_edge(at: _Arrays, b: Array, edge: dict[str, Any]) -> None:
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


def _mechanism(at: _Arrays, b: Array, n: Array, lanes_told: Array) -> None:
    """Signal of a mechanism node: its edges one after another, each folded into the node's lanes, where the fold is kept."""
    W, H, last = at.capacity.width, at.units, at.capacity.layers
    own, unit = at["tile"][b, _DATABASE], jnp.arange(H, dtype=jnp.int32)
    first_edge, edges = at.node(b, n, "first_edge", "edges")
    integers, reals, lanes = at["edge_integers"], at["edge_reals"], at["lanes"]

    def one_edge(i: Array, _: None) -> None:
        e = jnp.minimum(first_edge + i, at.capacity.edges - 1)
        rule, begin = at.node(b, n, "combine", "begin")
        edge: dict[str, Any] = {name: integers[own, e, j] for j, name in enumerate(INTEGERS)}
        edge |= {name: reals[own, e, j] for j, name in enumerate(REALS)}
        density, *key = (_word(integers[own, e, len(INTEGERS) + j]) for j in range(3))
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
        for w in range(W):
            triton.store(lanes.at[b, n, w, rows], jnp.zeros(rows.shape, jnp.float32))

    jax.lax.cond(edges == 0, lambda: at.blocks(nothing), lambda: None)


def _exogenous(at: _Arrays, b: Array, n: Array) -> None:
    """An exogenous node: lane 0 is its value, others are 0. What shows a trait is in its place already."""

    def remember() -> None:  # `jaxrel.exogenous._autoregress`, run by run
        i = jnp.arange(2 * SEGMENT, dtype=jnp.int32)  # SEGMENT rows before the run, and the run

        def one_run(run: Array, _: None) -> None:
            past = at["past"].at[b, run * (2 * SEGMENT) + i]
            x = normals(row_pair(at.key(b, n), at["rows"][b, run * SEGMENT] - SEGMENT + i), nearest=_nearest)[0]

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
                return normals(row_pair(at.key(b, n), at["rows"][b, rows]), nearest=_nearest)[0]

            z = jax.lax.cond(remembers, remembered, new)
            noise = interpolate(z, lambda knot: at["reals"][b, n, len(_NODE_REALS) + knot])
            field = dict(zip(_SERIES, at.node(b, n, *_SERIES), strict=True))
            field |= {name: _word(field[name]) for name in ("series_phase", "series_period")}
            value = series(field, at["moment"][b, rows], at["time"][b, rows], noise, _nearest)
            triton.store(at["lanes"].at[b, n, 0, rows], value)

        at.blocks(block)

    jax.lax.cond(at.node(b, n, "is_trait")[0] == 0, draw, lambda: None)

    def blank(rows: Array, _: None) -> None:
        for w in range(1, at.capacity.width):
            triton.store(at["lanes"].at[b, n, w, rows], jnp.zeros(rows.shape, jnp.float32))

    at.blocks(blank)


def _gather(at: _Arrays, b: Array, n: Array) -> None:
    """Lanes of a parent row's exported node, as `jaxrel.nodes._gather` says."""
    own, is_pilot, first_row = at["tile"][b, _DATABASE], at["tile"][b, _IS_PILOT] != 0, at["rows"][b, 0]
    lanes, size = at["lanes"], at["exports"].shape[-1]
    fk, slot, node, offset, is_self, length = at.node(b, n, "fk", "slot", "parent_node", "offset", "is_self", "run_length")

    def block(rows: Array, _: None) -> None:
        row = at["parent_row"][b, fk, rows]
        place = jnp.clip(offset + row, 0, size - 1)
        run = jnp.minimum(row // length, TILE // SEGMENT - 1)
        near = run * SEGMENT + jnp.clip(row - run * length, 0, SEGMENT - 1)
        inside = jnp.clip(jnp.where(is_pilot, near, row - first_row), 0, TILE - 1)
        from_tile = (is_self != 0) & (is_pilot | (row >= first_row))
        for w in range(at.capacity.width):
            value = jnp.where(from_tile, lanes[b, node, w, inside], at["exports"][own, slot, w, place])
            triton.store(lanes.at[b, n, w, rows], jnp.where(row != NO_ROW, value, 0.0))

    at.blocks(block)


def _aggregate(at: _Arrays, b: Array, n: Array) -> None:
    """What the rows of the tile hear from their child rows."""
    own, (slot,) = at["tile"][b, _DATABASE], at.node(b, n, "aggregate")

    def block(rows: Array, _: None) -> None:
        place = jnp.clip(at["position"][b, rows], 0, at["aggregates"].shape[-1] - 1)
        for w in range(at.capacity.width):
            triton.store(at["lanes"].at[b, n, w, rows], at["aggregates"][own, slot, w, place])

    at.blocks(block)


def _signal(at: _Arrays, b: Array, n: Array, rows: Array) -> Array:
    """A block of a node's lanes, f32[lanes, rows]."""
    w = jnp.arange(at.lanes, dtype=jnp.int32)[:, None]
    return jnp.where(w < at.capacity.width, at["lanes"][b, n, jnp.minimum(w, at.capacity.width - 1), rows[None, :]], 0.0)


def _measure(at: _Arrays, b: Array, n: Array) -> None:
    """Calibrate a node on this tile, as `jaxrel.nodes._standardise` does."""
    w, zero = jnp.arange(at.lanes, dtype=jnp.int32), jnp.zeros(at.lanes, jnp.float32)

    def total(of: Callable[[Array], Array]) -> Array:
        def of_real(rows: Array) -> Array:
            return jnp.where(at["real"][b, rows][None, :] != 0, of(_signal(at, b, n, rows)), 0.0)

        most = at.blocks(lambda rows, most: jnp.maximum(most, jnp.max(jnp.abs(of_real(rows)), axis=1)), zero)
        bits = jax.lax.bitcast_convert_type(jnp.maximum(most, 1e-30), jnp.int32) & 0x7F800000
        unit = jax.lax.bitcast_convert_type(bits, jnp.float32) * jnp.float32(2.0**-19)

        def add(rows: Array, total: Array) -> Array:
            return total + jnp.sum(_nearest(of_real(rows) / unit[:, None]).astype(jnp.int32), axis=1)

        return at.blocks(add, jnp.zeros(at.lanes, jnp.int32)).astype(jnp.float32) * unit

    real = at.blocks(lambda rows, count: count + jnp.sum(at["real"][b, rows]), jnp.int32(0))
    count = jnp.maximum(real.astype(jnp.float32), 1.0)
    mean = total(lambda x: x) / count
    spread = jnp.sqrt(total(lambda x: jnp.square(x - mean[:, None])) / count)
    scale = jnp.where(is_dead(mean, spread), 0.0, 1.0 / jnp.maximum(spread, FAINT))
    gathered, place = at.node(b, n, "kind")[0] == NodeKind.GATHER, jnp.minimum(w, at.capacity.width - 1)
    triton.store(at["shift"].at[b, n, place], jnp.where(gathered, 0.0, mean), mask=w < at.capacity.width)
    triton.store(at["scale"].at[b, n, place], jnp.where(gathered, 1.0, scale), mask=w < at.capacity.width)


def _done_to(at: _Arrays, b: Array, n: Array, value: Array, lane: Array | int, rows: Array) -> Array:
    """Lanes, numbered by ``lane``, after the interventions on the node; both broadcast to [lanes, rows]."""
    ids = at["rows"][b, rows] if value.ndim == 1 else at["rows"][b, rows][None, :]

    def one(i: Array, value: Array) -> Array:
        at_node, named, first, past = (at["done_integers"][b, n, i, j] for j in range(4))
        hit = (at_node != 0) & ((named == lane) | ((named == ALL_LANES) & (lane >= 0))) & (ids >= first) & (ids < past)
        return jnp.where(hit, at["done_reals"][b, i, 0] * value + at["done_reals"][b, i, 1], value)

    def all_of_them(value: Array) -> Array:
        return jax.lax.fori_loop(0, INTERVENTIONS, one, value)

    return jax.lax.cond(at.node(b, n, "is_done_to")[0] != 0, all_of_them, lambda x: x, value)


def _finish(at: _Arrays, b: Array, n: Array) -> None:
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
            laws = [functools.partial(noise_of, words, jnp.int32(0), (name,), _nearest) for name in NOISES]
            deviation = jnp.where(scale == 0.0, 1.0, amount)[:, None] * uneven(value, spread)
            return value + deviation * jax.lax.switch(law, laws)

        def categorical(value: Array) -> tuple[Array, Array]:
            def challenge(c: Array, best: Array) -> Array:
                score = jnp.sum(jnp.where(in_width, sharpened(prototype(c), width), 0.0)[:, None] * value, axis=0)
                return jnp.maximum(best, bid(c, score, amount, key, ids))

            highest = jax.lax.fori_loop(0, classes, challenge, jnp.full(rows.shape, NO_BID, jnp.int32))
            code = _done_to(at, b, n, winner(highest).astype(jnp.float32), CODE_LANE, rows)
            code = jnp.clip(_nearest(code), 0.0, (classes - 1).astype(jnp.float32))

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
    at = _Arrays(dict(zip(names, refs, strict=True)), capacity, interpret)
    b = pl.program_id(0)

    def one_node(n: Array, _: None) -> None:
        kind, used, width = at.node(b, n, "kind", "used", "width")
        measures = at["tile"][b, _MEASURES] != 0

        def walk() -> None:
            kinds = {
                NodeKind.EXOGENOUS: functools.partial(_exogenous, at, b, n),
                NodeKind.GATHER: functools.partial(_gather, at, b, n),
                NodeKind.MECHANISM: functools.partial(_mechanism, at, b, n, jnp.where(measures, capacity.width, width)),
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

    jax.lax.fori_loop(0, at["tile"][b, _NODES], one_node, None)


def _fields(schema: Schema, context: Context, capacity: Capacity) -> tuple[Array, Array]:
    """What the kernel asks of a node, i32[B, N, fields] and f32[B, N, fields]: `_NODE_INTEGERS`; `_NODE_REALS` and the knots."""
    nodes, table = context.nodes, context.tile.table
    start, slot = nodes["edge_start"], nodes["gather_export"]
    parent = jnp.maximum(jnp.take_along_axis(at_own(schema.fk_parent, table), jnp.maximum(nodes["gather_fk"], 0), axis=1), 0)
    rows, n = jnp.take_along_axis(schema.row_count, parent, axis=1), jnp.arange(capacity.nodes, dtype=jnp.int32)[None, :]
    computed = {
        "first_edge": start[:, :-1],
        "edges": start[:, 1:] - start[:, :-1],
        "key_0": context.noise_key[..., 0],
        "key_1": context.noise_key[..., 1],
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

    def as_integers(name: str) -> Array:
        x = computed[name] if name in computed else nodes[name]
        x = jax.lax.bitcast_convert_type(x, jnp.int32) if x.dtype == jnp.uint32 else x.astype(jnp.int32)
        return jnp.broadcast_to(x, parent.shape)

    integers = jnp.stack([as_integers(name) for name in _NODE_INTEGERS], axis=-1)
    reals = jnp.stack([(nodes | {"begin": empty_fold(nodes["combine"])})[name] for name in _NODE_REALS], axis=-1)
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
    prototype = jax.vmap(lambda key, width: prototypes(key, width, capacity), 1, 1)(context.weight_key, context.nodes["width"])
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
    at = _Arrays({}, capacity, interpret)
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
    found = _call(kernel, shapes, (B,), interpret, *operands, aliases={len(read) + i: i for i in range(len(written))})
    return tuple(found[: len(written)])


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


def _call(
    kernel: Any,
    shape: Any,
    grid: tuple[int, ...],
    interpret: bool,
    *operands: Array,
    spec: Any = pl.no_block_spec,
    aliases: dict[int, int] | None = None,
) -> Any:
    """A kernel whose programs read and write one block of every array, or where they like."""
    with warnings.catch_warnings():  # JAX 0.11 announces that it will part with Triton one day
        warnings.simplefilter("ignore", DeprecationWarning)
        return pl.pallas_call(
            kernel,
            out_shape=shape,
            grid=grid,
            in_specs=[spec] * len(operands),
            out_specs=jax.tree.map(lambda _: spec, shape),
            input_output_aliases=aliases or {},
            compiler_params=triton.CompilerParams(num_warps=_WARPS, num_stages=1),
            interpret=interpret,
        )(*operands)
