"""Reading and writing what a batch of databases keeps, by the databases side by side or by lanes that work for any of them.

``database`` is i32[B], whose tile each lane computes (`jaxrel.schedule`), or None: each its own, and all write at the same place.
Lanes read by one gather, whatever the size of what they read from, and write whole tiles.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxrel.types import TILE

__all__ = ["at_own", "of_lane", "row_lanes", "rows_at", "write_tile"]


def at_own(x: Array, i: Array) -> Array:
    """x[b, i[b]] of every database: [B, …]."""
    return jax.vmap(lambda row, j: jax.lax.dynamic_index_in_dim(row, j, 0, keepdims=False))(x, i)


def of_lane(x: Array, database: Array | None, i: Array) -> Array:
    """The same of every lane's database."""
    return at_own(x, i) if database is None else x[database, i]


def row_lanes(x: Array, database: Array | None, slot: Array, at: Array) -> Array:
    """x[b, slot[b], :, at[b]] of the lanes' databases: f32[B, W, TILE] of f32[B, slots, W, R], i32[B] and i32[B, TILE]."""
    at = jnp.clip(at, 0, x.shape[-1] - 1)
    if database is None:
        return jax.vmap(lambda x, slot, at: x[slot][:, at])(x, slot, at)
    w = jnp.arange(x.shape[2], dtype=jnp.int32)  # one gather: the rows of a slot are not copied first
    return x[database[:, None, None], slot[:, None, None], w[None, :, None], at[:, None, :]]


def rows_at(x: Array, database: Array | None, at: Array) -> Array:
    """x[b, :, at[b]] of the lanes' databases: [B, K, TILE] of [B, K, R] and i32[B, TILE]."""
    at = jnp.clip(at, 0, x.shape[-1] - 1)
    if database is None:
        return jax.vmap(lambda x, at: x[:, at])(x, at)
    k = jnp.arange(x.shape[1], dtype=jnp.int32)
    return x[database[:, None, None], k[None, :, None], at[:, None, :]]


def write_tile(out: Array, x: Array, database: Array | None, tile: Array) -> Array:
    """``out`` with tile ``x[..., TILE]`` of each lane in its place on the last axis; a tile past the end is dropped."""
    if database is None:
        return jax.lax.dynamic_update_slice(out, x, (*(jnp.int32(0),) * (out.ndim - 1), tile * TILE))
    tiles = out.reshape(*out.shape[:-1], -1, TILE)
    places = (database, *(slice(None),) * (out.ndim - 2), tile)
    return tiles.at[places].set(x, mode="drop", unique_indices=True).reshape(out.shape)
