"""The cluster law of links: the hierarchical stochastic block model, exact and in closed form.

``P(parent a | child b) ∝ popularity[a] · Π_l M_l[a's cluster, b's cluster]``.
A row's cluster at each level is a digit of its index, so all children of one base cluster share one law, and it factorises along
the levels: with ``S_l[a_1…a_l, b_{l+1}…b_L]`` the weight of all parents below a prefix, the next digit has weight
``M_l[a_l, b_l] · S_l``. Each level has CLUSTERS^LEVELS such choices, whose probabilities are kept in 2^-31; a child row costs
O(levels + log parents), with no array of parents × children. All weights are integers: no float decides a link. Where parent and
child are timed, the cluster is drawn alike, and the row in it among those that exist at the child's time (`jaxrel.dealing`).

A key that *agrees* with an earlier one of its table takes that key's path: the same clusters of the same sizes, thresholds and words, so
that both parents of a child lie in the same base cluster, each in its own table; the row in the cluster is drawn by its own popularity.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrel import struct
from jaxrel.batching import by_platform
from jaxrel.dealing import candidates, cluster_span, is_dealt, row_of
from jaxrel.degrees import degree_weight, parent_weight
from jaxrel.random import below, mulhi, named_key, quotient, row_bits, row_pair, running_sum
from jaxrel.types import CLUSTERS, LEVELS, NO_TABLE, TILE, Capacity, LinkLaw, Links, Schema

__all__ = ["KeyTables", "Rare", "cluster_rows", "empty_tables", "halve", "key_streams", "key_tables"]

_BASE = CLUSTERS**LEVELS  # base clusters, most
_PLACE, _ANYONE = 17, 20  # lanes of a child row's words; 0…LEVELS - 1 are the levels, 19 `jaxrel.dealing`'s, others `jaxrel.links`'s


@struct.dataclass
class KeyTables:
    """What the cluster and degree laws need of one table's keys: built once a table, read by every row of it."""

    prefix: Array  # u32[K, R], weight of all parent rows before this one (index = its position, `jaxrel.dealing`; exclusive)
    blocks: Array  # u32[K, R / TILE], the same before every block of TILE rows, close together
    mass: Array  # u32[K], weight of all parent rows
    ends: Array  # u32[K, LEVELS, CLUSTERS - 1, CLUSTERS^LEVELS], P(the next digit is at most d) in 2^-31 at [prefix, suffix] flattened


@struct.dataclass
class Rare:
    """What some key of a batch needs, and most do not: unbatched, so that it costs nothing elsewhere."""

    slot: Array  # bool[], the slot law
    degree: Array  # bool[], the degree law
    zipf: Array  # bool[], Zipf's popularity
    trait: Array  # bool[], the trait law


def key_streams(links: Links, schema: Schema) -> Array:
    """u32[T, K, 2]: the stream of each key."""
    return named_key(links.key, schema.table_id[:, None], schema.fk_id)


def _cluster_index(digit_counts: Array, rows_of_side: Array) -> tuple[Array, Array]:
    """Base clusters of one side, i32[], and the rows of each (the last may be short), i32[]."""
    clusters = jnp.prod(digit_counts, dtype=jnp.int32)
    return clusters, jnp.maximum(-(-rows_of_side // clusters), 1)


def _scaled(x: Array) -> tuple[Array, Array]:
    """x = fraction · 2^exponent: u32[...] with its highest bit set, and i32[...]; of 0, which no sum may follow, a deep exponent."""
    lead = jax.lax.clz(x)
    return x << jnp.minimum(lead, 31), jnp.where(x == 0, -(2**20), -lead.astype(jnp.int32))


def _ratio(x: Array, total: Array) -> Array:
    """x / total in 2^-31, rounded down: u32[...], x <= total < 2^31, of which 27 bits count; 2^31 just where x = total, also 0 / 0."""
    x, total = x >> 4, total >> 4
    divisor = jnp.maximum(total, 1)

    def step(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:  # long division, four bits at a time
        ratio, rest = state
        digit = quotient(rest << 4, divisor)
        return (ratio << 4) | digit, (rest << 4) - digit * divisor

    ratio, _ = jax.lax.fori_loop(0, 8, step, (jnp.zeros_like(x), x))
    return jnp.where(x >= total, jnp.uint32(1 << 31), ratio >> 1)


def _level_ends(weight_below: Any, affinity: Array, counts: Array, n: Array, dealt: Array) -> Array:
    """The choices of one key, u32[LEVELS, CLUSTERS - 1, BASE]. ``weight_below(position)`` is the weight of all parents before it.

    Each S_l has a fraction and an exponent of its own, however small beside its neighbours. A level's sum loses less than 2^-25 of
    itself: its largest product is 2^27 or more, and each of three loses two units at most. Five levels stay far inside 1e-5.
    """
    flat = jnp.arange(_BASE, dtype=jnp.int32)
    index, valid = jnp.zeros_like(flat), jnp.ones_like(flat, dtype=bool)
    for level in range(LEVELS):
        digit = (flat // CLUSTERS ** (LEVELS - 1 - level)) % CLUSTERS
        index, valid = index * counts[level] + digit, valid & (digit < counts[level])
    low, high = cluster_span(index, jnp.prod(counts, dtype=jnp.int32), n, dealt)
    mass = jnp.where(valid, weight_below(high) - weight_below(low), jnp.uint32(0))
    strength, power = _scaled(affinity)

    def fold(i: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        fraction, exponent, sums = state
        level = LEVELS - 1 - i
        stride = jnp.asarray([CLUSTERS**p for p in range(LEVELS + 1)], jnp.int32)[LEVELS - 1 - level]  # suffixes after this level
        prefix, rest = flat[None] // (stride * CLUSTERS), flat[None] % (stride * CLUSTERS)
        b, suffix = rest // stride, rest % stride
        a = jnp.arange(CLUSTERS, dtype=jnp.int32)[:, None]
        below = (prefix * CLUSTERS + a) * stride + suffix
        weight = mulhi(strength[level, a, b], fraction[below]) >> 3  # 2^27 at least, and three of them below 2^31
        exponents = power[level, a, b] + exponent[below]
        peak = jnp.max(exponents, axis=0, keepdims=True)
        weight = weight >> jnp.minimum(peak - exponents, 31).astype(jnp.uint32)
        sums = jax.lax.dynamic_update_index_in_dim(sums, jnp.stack(list(itertools.accumulate(weight))), level, 0)
        fraction, lift = _scaled(sums[level, -1])
        return fraction, peak[0] + lift, sums

    start = (*_scaled(mass), jnp.zeros((LEVELS, CLUSTERS, _BASE), jnp.uint32))
    sums = jax.lax.fori_loop(0, LEVELS, fold, start)[2]
    return _ratio(sums[:, :-1], jnp.broadcast_to(sums[:, -1:], (LEVELS, CLUSTERS - 1, _BASE)))


def key_tables(
    schema: Schema, links: Links, capacity: Capacity, table: Array, streams: Array, tiles: Array, keys: Array, rare: Rare, old: KeyTables
) -> KeyTables:
    """Build the tables of the cluster and degree laws for every key of one table of each database.

    Args:
        schema: leaves lead with B, as do those of the others but for ``tiles``, ``keys`` and ``rare``.
        links: the link laws; ``parent_row`` is not read.
        capacity: static sizes.
        table: i32[B], the child tables.
        streams: u32[B, K, 2], of their keys.
        tiles: i32[], most tiles of a parent (a trip count).
        keys: i32[], most keys in use (a trip count).
        rare: what some key needs.
        old: tables whose memory is reused.
    """

    def on_chip() -> KeyTables:
        from jaxrel import onchip  # where there is a GPU

        return onchip.weigh_on_chip(schema, links, table, streams, old)

    def by_operators() -> KeyTables:
        of_one = functools.partial(_weigh_parents, tiles=tiles, keys=keys, rare=rare)
        return jax.vmap(of_one)(schema, links, table, streams, old=old)

    weighed = by_operators() if table.shape[0] == 1 else by_platform(on_chip, by_operators)
    choose = functools.partial(_choices, capacity=capacity, keys=keys)
    return jax.vmap(choose)(schema, links, table, weighed)


def _weigh_parents(
    schema: Schema, links: Links, table: Array, streams: Array, tiles: Array, keys: Array, rare: Rare, old: KeyTables
) -> KeyTables:
    """Prefix, blocks and mass of the keys of one table."""

    def one_key(k: Array, tables: KeyTables) -> KeyTables:
        n, dealt, clusters = _parent_of(schema, links, table, k)

        def one_tile(j: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            prefix, blocks, before = state
            rows = row_of(j * TILE + jnp.arange(TILE, dtype=jnp.int32), clusters, n, dealt)
            weight = parent_weight(streams[k], links.popularity[table, k], links.inactive[table, k], n, rows, rare.zipf)

            def counted(weight: Array) -> Array:
                degree = degree_weight(streams[k], links.degree_ends[table, k], n, rows)
                return jnp.where(schema.fk_law[table, k] == LinkLaw.DEGREE, degree, weight)

            weight = jax.lax.cond(rare.degree, counted, lambda x: x, weight)
            inclusive = _cumulate(weight)
            prefix = jax.lax.dynamic_update_slice(prefix, (before + inclusive - weight)[None], (k, j * TILE))
            blocks = jax.lax.dynamic_update_slice(blocks, before[None, None], (k, j))
            return prefix, blocks, before + inclusive[-1]

        prefix, blocks, mass = jax.lax.fori_loop(0, tiles, one_tile, (tables.prefix, tables.blocks, jnp.uint32(0)))
        mass = jax.lax.dynamic_update_index_in_dim(tables.mass, mass, k, 0)
        return dataclasses.replace(tables, prefix=prefix, blocks=blocks, mass=mass)

    return jax.lax.fori_loop(0, keys, one_key, old)


def _parent_of(schema: Schema, links: Links, table: Array, k: Array) -> tuple[Array, Array, Array]:
    """Rows of the parent of one key, 0 where there is none; whether they are dealt; and into how many clusters."""
    parent = schema.fk_parent[table, k]
    n = jnp.where(parent == NO_TABLE, 0, schema.row_count[jnp.maximum(parent, 0)])
    return n, is_dealt(schema, table)[k], jnp.prod(links.parent_clusters[table, k], dtype=jnp.int32)


def _choices(schema: Schema, links: Links, table: Array, tables: KeyTables, capacity: Capacity, keys: Array) -> KeyTables:
    """The tables with the choices of the keys of one table, of parents that are weighed."""

    def one_key(k: Array, ends: Array) -> Array:
        n, dealt, _ = _parent_of(schema, links, table, k)

        def weight_below(row: Array) -> Array:
            return jnp.where(row >= n, tables.mass[k], tables.prefix[k, jnp.clip(row, 0, capacity.rows - 1)])

        found = _level_ends(weight_below, links.affinity[table, k], links.parent_clusters[table, k], n, dealt)
        return jax.lax.dynamic_update_index_in_dim(ends, found, k, 0)

    return dataclasses.replace(tables, ends=jax.lax.fori_loop(0, keys, one_key, tables.ends))


def _cumulate(x: Array) -> Array:
    """Inclusive sums of u32[TILE] in two steps of its square root (``cumsum`` is slower on CPU and a larger program)."""
    inside = running_sum(x.reshape(-1, math.isqrt(TILE)))
    return (inside + (running_sum(inside[:, -1]) - inside[:, -1])[:, None]).reshape(-1)


def empty_tables(capacity: Capacity) -> KeyTables:
    keys = capacity.foreign_keys
    return KeyTables(
        prefix=jnp.zeros((keys, capacity.rows), jnp.uint32),
        blocks=jnp.zeros((keys, capacity.tiles), jnp.uint32),
        mass=jnp.zeros(keys, jnp.uint32),
        ends=jnp.zeros((keys, LEVELS, CLUSTERS - 1, _BASE), jnp.uint32),
    )


def _read(x: Array, at: Any) -> Array:
    """x[at], in bounds, or nobody reads what follows."""
    return x.at[at].get(mode="promise_in_bounds", wrap_negative_indices=False)


def halve(table: Array, k: Array, low: Array, high: Array, target: Array, steps: Any) -> Array:
    """i32[rows]: the last index in [low, high) before which the weight, ``table[k]``, is at most the target."""

    def step(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) >> 1
        go_up = (_read(table, (k, middle)) <= target) | (middle == low)
        return jnp.where(go_up, middle, low), jnp.where(go_up, high, middle)

    return jax.lax.fori_loop(0, steps, step, (low, high))[0]


def cluster_rows(
    schema: Schema,
    links: Links,
    tables: KeyTables,
    table: Array,
    k: Array,
    own: Array,
    streams: Array,
    rows: Array,
    n: Array,
    exist: Array,
    trips: Array,
) -> Array:
    """The cluster law: i32[rows] parents of some child rows. ``exist``: as `existing_rows`; ``own`` and ``trips``: as `_draw_rows`."""
    kept = own + k
    guide = links.agree[table, k]
    counts, child_counts = links.parent_clusters[table, k], links.child_clusters[table, k]
    child_clusters, child_size = _cluster_index(child_counts, schema.row_count[table])
    rest = jnp.minimum(quotient(rows, child_size), child_clusters - 1)
    suffix, stride = jnp.zeros_like(rows), 1
    for level in reversed(range(LEVELS)):  # the child's digits, in radix CLUSTERS
        higher = quotient(rest, child_counts[level])
        suffix = suffix + (rest - higher * child_counts[level]) * stride
        rest, stride = higher, stride * CLUSTERS
    ends = tables.ends[own + guide].reshape(-1)

    def choose(level: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        code, index = state
        stride = jnp.asarray([CLUSTERS**p for p in range(1, LEVELS + 1)], jnp.int32)[LEVELS - 1 - level]
        at = code * stride + suffix - quotient(suffix, stride) * stride + level * ((CLUSTERS - 1) * _BASE)
        x = row_bits(streams[guide], rows, level) >> 1
        chosen = sum((x >= _read(ends, at + d * _BASE)).astype(jnp.int32) for d in range(CLUSTERS - 1))
        return code * CLUSTERS + chosen, index * counts[level] + chosen

    _, index = jax.lax.fori_loop(0, trips[0], choose, (jnp.zeros_like(rows), jnp.zeros_like(rows)))
    clusters, dealt = jnp.prod(counts, dtype=jnp.int32), is_dealt(schema, table)[k]
    low, high = cluster_span(index, clusters, n, dealt)

    def weight_below(table: Array, at: Array, unit: int) -> Array:
        return jnp.where(at * unit >= n, tables.mass[kept], _read(table, (kept, at)))

    def narrow(low: Array, high: Array) -> tuple[Array, Array]:  # the first span of candidates that any weight is in
        spans = candidates(index, (low, high), clusters, links.window[table, k], exist[0], exist[1])
        for first, last in reversed(spans):
            some = dealt & (weight_below(tables.prefix, first, 1) != weight_below(tables.prefix, last, 1))
            low, high = jnp.where(some, first, low), jnp.where(some, last, high)
        return low, high

    low, high = jax.lax.cond(trips[4] > 0, narrow, lambda low, high: (low, high), low, high)
    start, end = weight_below(tables.prefix, low, 1), weight_below(tables.prefix, high, 1)
    barren = start == end  # on another key's path: this key has no active parent there, so it takes any
    low, high = jnp.where(barren, 0, low), jnp.where(barren, n, high)
    start, end = jnp.where(barren, jnp.uint32(0), start), jnp.where(barren, tables.mass[kept], end)
    to_block, to_row = row_pair(streams[k], rows, _PLACE)
    target = start + mulhi(to_block, end - start)
    block = halve(tables.blocks, kept, low // TILE, (high + TILE - 1) // TILE, target, trips[1])
    low, high = jnp.maximum(low, block * TILE), jnp.minimum(high, (block + 1) * TILE)
    start = jnp.maximum(start, weight_below(tables.blocks, block, TILE))  # weights below grow with the row
    end = jnp.minimum(end, weight_below(tables.blocks, block + 1, TILE))
    target = start + mulhi(to_row, end - start)
    position = jnp.minimum(halve(tables.prefix, kept, low, high, target, trips[2]), jnp.maximum(n - 1, 0))

    def by_time(position: Array) -> Array:  # where no candidate of the cluster exists yet: anyone who does
        row, alive = row_of(position, clusters, n, dealt), exist[1]
        return jnp.where(dealt & (row >= alive), below(row_bits(streams[k], rows, _ANYONE), alive), row)

    return jax.lax.cond(trips[4] > 0, by_time, lambda position: position, position)
