"""The slot law: unique keys, unique sets of keys, and limits to the children of one parent row.

A set's first key owns slots: so many for each of its parent rows. Child rows take distinct slots by a keyed bijection; the j-th child of
one owner takes the j-th combination of the other keys' parents, in an order of its own. So no combination occurs twice, and no parent
has more children than slots.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxrel.random import index_permutation, named_key
from jaxrel.types import NO_TABLE, LinkLaw, Schema

__all__ = ["slot_rows"]

_MOST = 2**31 - 1


def slot_rows(schema: Schema, table: Array, k: Array, streams: Array, rows: Array) -> Array:
    """Parents of some child rows by one key of the slot law.

    Args:
        schema: one schema.
        table: i32[], the child table.
        k: i32[], the key; what comes back for one of another law is not meant to be read.
        streams: u32[K, 2], of the table's keys.
        rows: i32[rows], row ids.

    Returns:
        i32[rows], rows of the parent table.
    """
    parent, owner, capacity = schema.fk_parent[table], schema.fk_owner[table], schema.fk_capacity[table]
    n = jnp.maximum(jnp.where(parent == NO_TABLE, 1, schema.row_count[jnp.maximum(parent, 0)]), 1)
    keys = jnp.arange(streams.shape[0], dtype=jnp.int32)
    first = owner[k]
    others = (schema.fk_law[table] == LinkLaw.SLOT) & (parent != NO_TABLE) & (owner == first) & (keys != first)

    def multiply(m: Array, product: Array) -> Array:
        return jnp.where(others[m], jnp.where(product <= _MOST // n[m], product * n[m], _MOST), product)

    combinations = jax.lax.fori_loop(0, keys.shape[0], multiply, jnp.int32(1))
    # A set leaves an owner as many slots as there are combinations; four times the mean are enough for the children to vary freely.
    free = jnp.minimum(jnp.maximum(4 * -(-schema.row_count[table] // n[first]), 1), combinations)
    share = jnp.clip(jnp.where(capacity[first] > 0, capacity[first], free), 1, _MOST // n[first])
    slots = jnp.where(schema.fk_law[table, k] == LinkLaw.SLOT, n[first] * share, 1)  # for other laws nobody walks
    slot = index_permutation(named_key(streams[first], "slot"), rows, slots)
    mine = slot // share
    combination = index_permutation(named_key(streams[first], "combination", mine), slot % share, combinations)

    def decode(m: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        value, x = state
        return jnp.where(others[m] & (m == k), x % n[m], value), jnp.where(others[m], x // n[m], x)

    return jax.lax.fori_loop(0, keys.shape[0], decode, (mine, combination))[0]
