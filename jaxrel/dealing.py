"""How the rows of a parent table lie in clusters, and which of them a child row may be linked to.

The links of one key know a parent row by its *position*: clusters end to end, each in the order of its rows. The rows of a table
without times fill one cluster after another, so a position is a row id. Those of a timed table are dealt to the clusters in turn
(row r goes to cluster r mod clusters), so that the rows which exist at a time are a prefix of every cluster.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel.random import mulhi, quotient, row_bits
from jaxrel.times import rows_at, time_rows
from jaxrel.types import NO_TABLE, LinkLaw, Links, Schema

__all__ = ["candidates", "cluster_span", "existing_rows", "is_dealt", "row_of"]

_DELAY = 19  # lane of a child row's words
_WAIT = np.round(-4096 * np.log1p(-(np.arange(4096) + 0.5) / 4096)).astype(np.uint32)  # quantiles of an exponential of mean 1, in 2^-12


def is_dealt(schema: Schema, table: Array) -> Array:
    """bool[K]: keys of a timed table to timed ones by the cluster law, whose parents depend on the time."""
    parent = schema.fk_parent[table]
    timed = (parent != NO_TABLE) & schema.has_time[jnp.maximum(parent, 0)] & schema.has_time[table]
    return timed & (schema.fk_law[table] == LinkLaw.CLUSTER)


def cluster_span(index: Array, clusters: Array, n: Array, dealt: Array) -> tuple[Array, Array]:
    """First and last position (exclusive) of base clusters.

    Args:
        index: i32[...], clusters.
        clusters: i32[], how many there are.
        n: i32[], rows.
        dealt: bool[], rows are dealt in turn.

    Returns:
        i32[...], i32[...].
    """
    size = jnp.maximum(-(-n // clusters), 1)
    share, rest = n // clusters, n % clusters
    low = jnp.where(dealt, index * share + jnp.minimum(index, rest), jnp.minimum(index * size, n))
    high = jnp.where(dealt, low + share + (index < rest).astype(jnp.int32), jnp.minimum((index + 1) * size, n))
    return low, high


def row_of(position: Array, clusters: Array, n: Array, dealt: Array) -> Array:
    """The row at some positions, i32[...]: a bijection of [0, n); positions from n on stay what they are."""
    share, rest = n // clusters, n % clusters
    of_long = rest * (share + 1)  # the first clusters have one row more
    short = rest + quotient(position - of_long, jnp.maximum(share, 1))
    index = jnp.where(position < of_long, quotient(position, share + 1), short)
    low, _ = cluster_span(index, clusters, n, dealt)
    return jnp.where(dealt & (position < n), (position - low) * clusters + index, position)


def candidates(
    index: Array, span: tuple[Array, Array], clusters: Array, window: Array, mature: Array, alive: Array
) -> tuple[tuple[Array, Array], ...]:
    """Spans of positions to choose a parent from, best first; any may be empty, or hold inactive rows alone.

    Args:
        index: i32[...], the cluster of each child row's parent.
        span: its positions, as `cluster_span` gives them of a dealt table.
        clusters: i32[], how many there are.
        window: u32[], the latest share of the old enough rows, in 2^-24.
        mature: i32[...], parent rows that are old enough.
        alive: i32[...], parent rows that exist.

    Returns:
        The latest of those old enough, all of those, all that exist.
    """
    low, high = span

    def first(rows: Array) -> Array:  # positions of the cluster's rows among the table's first ones
        return jnp.clip(low + quotient(jnp.maximum(rows - index + clusters - 1, 0), clusters), low, high)

    old, any_age = first(mature), first(alive)
    left_out = mulhi((jnp.uint32(2**24) - jnp.maximum(window, 1)) << 8, old - low).astype(jnp.int32)
    return (low + left_out, old), (low, old), (low, any_age)


def existing_rows(schema: Schema, links: Links, streams: Array, table: Array, rows: Array, keys: Array) -> Array:
    """How many parent rows are old enough for each child row, and how many exist at its time.

    Args:
        schema: one schema.
        links: the laws; ``parent_row`` is not read.
        streams: u32[K, 2], the stream of each key.
        table: i32[], the child table.
        rows: i32[rows], row ids.
        keys: i32[], keys to look at (a trip count).

    Returns:
        i32[K, 2, rows]; all rows of the parent where the key is not dealt.
    """
    dealt, time = is_dealt(schema, table), time_rows(schema, table, rows)

    def one_key(k: Array, out: Array) -> Array:
        parent = jnp.maximum(schema.fk_parent[table, k], 0)
        word, mean = row_bits(streams[k], rows, _DELAY), links.delay[table, k].astype(jnp.uint32)
        wait = mulhi(jnp.asarray(_WAIT)[word >> 20] << 16, mean << 4).astype(jnp.int32)
        wait = jnp.minimum(wait, jnp.maximum(time - schema.time_start[parent], 0))  # founders are as old as it takes
        count = jnp.where(dealt[k], rows_at(schema, parent, jnp.stack([time - wait, time])), schema.row_count[parent])
        return jax.lax.dynamic_update_index_in_dim(out, count, k, 0)

    return jax.lax.fori_loop(0, keys, one_key, jnp.zeros((streams.shape[0], 2, rows.shape[0]), jnp.int32))
