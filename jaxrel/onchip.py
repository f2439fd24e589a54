"""Kernels for GPUs that keep on chip what XLA sends through memory from one operator to the next (Pallas, by way of Triton).

Beside each stands a program of XLA's, which is what other backends run, and the reference: integers are equal, floats but for rounding.
Pallas takes a while to import, so this module is imported where there is a GPU (`jaxrel.batching.by_platform`), not before.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxrel.clusters import KeyTables
from jaxrel.dealing import is_dealt, row_of
from jaxrel.degrees import EDGES, WEIGHTS, count_children, weigh
from jaxrel.lanes import at_own
from jaxrel.random import below, bits, half_bits, named_key, walk_cycles
from jaxrel.types import (
    NO_TABLE,
    TILE,
    LinkLaw,
    Links,
    Popularity,
    Schema,
)

__all__ = ["as_integers", "as_word", "call_kernel", "walk_on_chip", "weigh_on_chip"]


def call_kernel(
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
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
            interpret=interpret,
        )(*operands)


def as_integers(x: Array) -> Array:
    """Of words their bits, of others their value: i32[...], to lie side by side."""
    return jax.lax.bitcast_convert_type(x, jnp.int32) if x.dtype == jnp.uint32 else x.astype(jnp.int32)


def as_word(x: Array) -> Array:
    """The bits of i32[...] or f32[...], u32[...]."""
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _all_of(inside: Array) -> Array:
    return jnp.min(inside.astype(jnp.int32)) == 1


def _walk_a_block(k0: Any, k1: Any, i: Any, n: Any, half: Any, out: Any, *, backwards: bool) -> None:
    out[...] = walk_cycles(k0[...], k1[...], i[...], n[...], half[...], backwards=backwards, every=_all_of)


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
    return call_kernel(kernel, shape, (blocks,), interpret, *flat, spec=spec)[: i.size].reshape(i.shape)


def _weigh_a_key(integers: Any, ends: Any, weights: Any, edges: Any, _: Any, __: Any, prefix: Any, blocks: Any, mass: Any) -> None:
    """One key: the weights of its parent rows, tile by tile, each with the sum of those before."""
    b, k = pl.program_id(0), pl.program_id(1)
    n, popularity, inactive, is_degree, dealt, clusters, always, half = (integers[b, k, i] for i in range(8))
    stream, order = ((as_word(integers[b, k, i]), as_word(integers[b, k, i + 1])) for i in (8, 10))

    def one_tile(j: Array, before: Array) -> Array:
        position = j * TILE + jnp.arange(TILE, dtype=jnp.int32)
        rows = row_of(position, clusters, n, dealt != 0)

        def rank(size: Array) -> Array:
            i = jnp.minimum(rows.astype(jnp.uint32), size.astype(jnp.uint32) - 1)
            own = jnp.where(size > 1, half, 0)  # half of the bits
            k0, k1 = (jnp.broadcast_to(x, rows.shape) for x in order)
            found = walk_cycles(k0, k1, i, size.astype(jnp.uint32), own.astype(jnp.uint32), backwards=False, every=_all_of)
            return found.astype(jnp.int32)

        def popular() -> Array:
            law = stream, popularity, as_word(inactive), n, rows, popularity == Popularity.ZIPF
            return weigh(*law, always, rank, lambda place: weights[place.astype(jnp.int32)])

        def counted() -> Array:
            return count_children(stream, n, rows, always, lambda i: ends[b, k, i], lambda i: edges[i])

        weight = jax.lax.bitcast_convert_type(jax.lax.cond(is_degree != 0, counted, popular), jnp.int32)
        triton.store(prefix.at[b, k, position], as_word(before + jnp.cumsum(weight) - weight))
        triton.store(blocks.at[b, k, j], as_word(before))
        return before + jnp.sum(weight)

    triton.store(mass.at[b, k], as_word(jax.lax.fori_loop(0, (n + TILE - 1) // TILE, one_tile, jnp.int32(0))))


def weigh_on_chip(schema: Schema, links: Links, table: Array, streams: Array, old: KeyTables, interpret: bool = False) -> KeyTables:
    """The weights of `jaxrel.clusters.key_tables` as one kernel: a program goes through the parent rows of one key, and no further.

    Args:
        schema: leaves lead with B, as do those of the others.
        links: the link laws.
        table: i32[B], the child tables.
        streams: u32[B, K, 2], of their keys.
        old: tables whose memory is reused.
        interpret: run it by XLA's operators, program by program, on any backend; for tests.

    Returns:
        ``old`` with other prefix, blocks and mass; past the rows of a key's parent what was there.
    """
    parent = at_own(schema.fk_parent, table)
    n = jnp.where(parent == NO_TABLE, 0, jnp.take_along_axis(schema.row_count, jnp.maximum(parent, 0), axis=1))
    order = named_key(streams, "popularity rank")
    facts = [
        n,
        at_own(links.popularity, table),
        at_own(links.inactive, table),
        at_own(schema.fk_law, table) == LinkLaw.DEGREE,
        jax.vmap(is_dealt)(schema, table),
        jnp.prod(at_own(links.parent_clusters, table), axis=-1, dtype=jnp.int32),
        below(bits(streams, 0, "always"), n),
        half_bits(jnp.maximum(n, 1)),
        *(streams[..., 0], streams[..., 1], order[..., 0], order[..., 1]),
    ]
    integers = jnp.stack([as_integers(x) for x in facts], axis=-1)
    looked_up = at_own(links.degree_ends, table), jnp.asarray(WEIGHTS), jnp.asarray(EDGES)
    shapes = [jax.ShapeDtypeStruct(x.shape, jnp.uint32) for x in (old.prefix, old.blocks, old.mass)]
    operands = integers, *looked_up, old.prefix, old.blocks
    prefix, blocks, mass = call_kernel(_weigh_a_key, shapes, parent.shape, interpret, *operands, aliases={4: 0, 5: 1})
    return dataclasses.replace(old, prefix=prefix, blocks=blocks, mass=mass)
