"""Stage two: foreign-key links by two laws, cluster and slot, and the tree law of self-references.

*Cluster law*: the hierarchical stochastic block model. ``P(parent a | child b) ∝ popularity[a] · Π_l M_l[a's cluster, b's cluster]``.
A row's cluster at each level is a digit of its index, so all children of one base cluster share one law, and it factorises along
the levels: with ``S_l[a_1…a_l, b_{l+1}…b_L]`` the weight of all parents below a prefix, the next digit has weight
``M_l[a_l, b_l] · S_l``. Each level has CLUSTERS^LEVELS such choices, whose probabilities are kept in 2^-31; a child row costs
O(levels + log parents), with no array of parents × children. All weights are integers: no float decides a link.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxrel import struct
from jaxrel.batching import batched
from jaxrel.prior import Prior, draw_choice, draw_flag, draw_integer, draw_integers, draw_share
from jaxrel.random import below, bits, chance, index_permutation, mulhi, named_key, reduce_key, row_bits, row_pair, running_sum
from jaxrel.tiles import tile_at, tile_count
from jaxrel.types import CLUSTERS, LEVELS, NO_ROW, NO_TABLE, TILE, Capacity, LinkLaw, Links, Popularity, Schema, tiles_of

__all__ = ["KeyTables", "key_tables", "link_rows", "parent_weight", "place_links", "sample_link_laws", "sample_links"]

_BASE = CLUSTERS**LEVELS  # base clusters, most
_UNIT = 256  # weight of a parent of popularity 1
# Pareto(2.5) quantiles in 1/_UNIT: 4,096 cells by the upper 12 bits of a word, and as many again inside the topmost cell
_PARETO = np.round(_UNIT * (1 - (np.arange(4096) + 0.5) / 4096) ** (-1 / 2.5)).astype(np.uint32)
_PARETO_TAIL = np.round(_UNIT * ((1 - (np.arange(4096) + 0.5) / 4096) / 4096) ** (-1 / 2.5)).astype(np.uint32)
_NULL, _PLACE, _TREE = 16, 17, 18  # lanes of a child row's words; 0…LEVELS - 1 are the levels


@struct.dataclass
class KeyTables:
    """What the cluster law needs of one table's keys: built once a table, read by every row of it."""

    prefix: Array  # u32[K, R], weight of all parent rows before this one (index = row id of the parent; exclusive)
    blocks: Array  # u32[K, R / TILE], the same before every block of TILE rows, close together
    mass: Array  # u32[K], weight of all parent rows
    ends: Array  # u32[K, LEVELS, CLUSTERS - 1, CLUSTERS^LEVELS], P(the next digit is at most d) in 2^-31 at [prefix, suffix] flattened


def _key_stream(links: Links, schema: Schema, table: Array) -> Array:
    """u32[K, 2]: the stream of each key of a table."""
    return named_key(links.key, schema.table_id[table], schema.fk_id[table])


def parent_weight(stream: Array, popularity: Array, inactive: Array, n: Array, rows: Array) -> Array:
    """u32[...]: how likely some parent rows of one key are, against each other. 0: inactive. One row of a table is always active."""
    word, activity = row_pair(stream, rows, "popularity")
    high, low = word >> 20, (word >> 8) & 0xFFF
    pareto = jnp.where(high == 4095, jnp.asarray(_PARETO_TAIL)[low], jnp.asarray(_PARETO)[high])
    shift = jnp.maximum(11 - jax.lax.clz(jnp.maximum(n, 1)), 0).astype(
        jnp.uint32
    )  # beyond 2^21 rows the unit shrinks: sums stay below 2^32
    weight = jnp.where(popularity == Popularity.PARETO, jnp.maximum(pareto >> shift, 1), jnp.uint32(1))
    always = below(bits(stream, 0, "always"), n)
    active = ~chance(activity, inactive) | (rows == always)
    return jnp.where(active & (rows < n), weight, jnp.uint32(0))


def _cluster_index(digit_counts: Array, rows_of_side: Array) -> tuple[Array, Array]:
    """Base clusters of one side, i32[], and the rows of each (the last may be short), i32[]."""
    clusters = jnp.prod(digit_counts, dtype=jnp.int32)
    return clusters, jnp.maximum(-(-rows_of_side // clusters), 1)


def _scaled(x: Array) -> tuple[Array, Array]:
    """x = fraction · 2^exponent: u32[...] with its highest bit set, and i32[...]; of 0, which no sum may follow, a deep exponent."""
    lead = jax.lax.clz(x)
    return x << jnp.minimum(lead, 31), jnp.where(x == 0, -(2**20), -lead.astype(jnp.int32))


def _quotient(x: Array, total: Array) -> Array:
    """x / total in 2^-31, rounded down: u32[...], x <= total < 2^31, of which 27 bits count; 2^31 just where x = total, also 0 / 0."""
    x, total = x >> 4, total >> 4
    divisor = jnp.maximum(total, 1)

    def step(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:  # long division, four bits at a time
        quotient, rest = state
        digit = (rest << 4) // divisor
        return (quotient << 4) | digit, (rest << 4) - digit * divisor

    quotient, _ = jax.lax.fori_loop(0, 8, step, (jnp.zeros_like(x), x))
    return jnp.where(x >= total, jnp.uint32(1 << 31), quotient >> 1)


def _level_ends(weight_below: Any, affinity: Array, counts: Array, n: Array) -> Array:
    """The choices of one key, u32[LEVELS, CLUSTERS - 1, BASE]. ``weight_below(row)`` is the weight of all parents before a row.

    Each S_l has a fraction and an exponent of its own, however small beside its neighbours. A level's sum loses less than 2^-25 of
    itself: its largest product is 2^27 or more, and each of three loses two units at most. Five levels stay far inside 1e-5.
    """
    flat = jnp.arange(_BASE, dtype=jnp.int32)
    index, valid = jnp.zeros_like(flat), jnp.ones_like(flat, dtype=bool)
    for level in range(LEVELS):
        digit = (flat // CLUSTERS ** (LEVELS - 1 - level)) % CLUSTERS
        index, valid = index * counts[level] + digit, valid & (digit < counts[level])
    _, size = _cluster_index(counts, n)
    low, high = jnp.minimum(index * size, n), jnp.minimum((index + 1) * size, n)
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
    return _quotient(sums[:, :-1], jnp.broadcast_to(sums[:, -1:], (LEVELS, CLUSTERS - 1, _BASE)))


def key_tables(schema: Schema, links: Links, capacity: Capacity, table: Array, tiles: Array, keys: Array, old: KeyTables) -> KeyTables:
    """Build the cluster law's tables for every key of one table.

    Args:
        schema: one schema.
        links: one database's link laws; ``parent_row`` is not read.
        capacity: static sizes.
        table: i32[], the child table.
        tiles: i32[], most tiles of a parent (a trip count).
        keys: i32[], most keys in use (a trip count).
        old: tables whose memory is reused.
    """
    streams = _key_stream(links, schema, table)

    def one_key(k: Array, tables: KeyTables) -> KeyTables:
        parent = schema.fk_parent[table, k]
        n = jnp.where(parent == NO_TABLE, 0, schema.row_count[jnp.maximum(parent, 0)])

        def one_tile(j: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            prefix, blocks, before = state
            rows = j * TILE + jnp.arange(TILE, dtype=jnp.int32)
            weight = parent_weight(streams[k], links.popularity[table, k], links.inactive[table, k], n, rows)
            inclusive = _cumulate(weight)
            prefix = jax.lax.dynamic_update_slice(prefix, (before + inclusive - weight)[None], (k, j * TILE))
            blocks = jax.lax.dynamic_update_slice(blocks, before[None, None], (k, j))
            return prefix, blocks, before + inclusive[-1]

        prefix, blocks, mass = jax.lax.fori_loop(0, tiles, one_tile, (tables.prefix, tables.blocks, jnp.uint32(0)))

        def weight_below(row: Array) -> Array:
            return jnp.where(row >= n, mass, prefix[k, jnp.clip(row, 0, capacity.rows - 1)])

        ends = _level_ends(weight_below, links.affinity[table, k], links.parent_clusters[table, k], n)
        put = jax.lax.dynamic_update_index_in_dim
        return KeyTables(prefix=prefix, blocks=blocks, mass=put(tables.mass, mass, k, 0), ends=put(tables.ends, ends, k, 0))

    return jax.lax.fori_loop(0, keys, one_key, old)


def _cumulate(x: Array) -> Array:
    """Inclusive sums of u32[TILE] in two steps of its square root (``cumsum`` is slower on CPU and a larger program)."""
    inside = running_sum(x.reshape(-1, math.isqrt(TILE)))
    return (inside + (running_sum(inside[:, -1]) - inside[:, -1])[:, None]).reshape(-1)


def _empty_tables(capacity: Capacity) -> KeyTables:
    keys = capacity.foreign_keys
    return KeyTables(
        prefix=jnp.zeros((keys, capacity.rows), jnp.uint32),
        blocks=jnp.zeros((keys, capacity.tiles), jnp.uint32),
        mass=jnp.zeros(keys, jnp.uint32),
        ends=jnp.zeros((keys, LEVELS, CLUSTERS - 1, _BASE), jnp.uint32),
    )


def _cluster_rows(
    schema: Schema, links: Links, tables: KeyTables, table: Array, k: Array, stream: Array, rows: Array, n: Array, trips: Array
) -> Array:
    """The cluster law: i32[rows] parents of some child rows. ``trips``: levels, halvings of blocks, of rows, i32[3]."""
    counts, child_counts = links.parent_clusters[table, k], links.child_clusters[table, k]
    child_clusters, child_size = _cluster_index(child_counts, schema.row_count[table])
    rest = jnp.minimum(rows // child_size, child_clusters - 1)
    suffix, stride = jnp.zeros_like(rows), 1
    for level in reversed(range(LEVELS)):  # the child's digits, in radix CLUSTERS
        suffix = suffix + (rest % child_counts[level]) * stride
        rest, stride = rest // child_counts[level], stride * CLUSTERS
    ends = tables.ends[k].reshape(-1)

    def read(x: Array, at: Any) -> Array:  # in bounds, or nobody reads what follows
        return x.at[at].get(mode="promise_in_bounds", wrap_negative_indices=False)

    def choose(level: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        code, index = state
        stride = jnp.asarray([CLUSTERS**p for p in range(1, LEVELS + 1)], jnp.int32)[LEVELS - 1 - level]
        at = code * stride + suffix % stride + level * ((CLUSTERS - 1) * _BASE)
        x = row_bits(stream, rows, level) >> 1
        chosen = sum((x >= read(ends, at + d * _BASE)).astype(jnp.int32) for d in range(CLUSTERS - 1))
        return code * CLUSTERS + chosen, index * counts[level] + chosen

    _, index = jax.lax.fori_loop(0, trips[0], choose, (jnp.zeros_like(rows), jnp.zeros_like(rows)))
    _, size = _cluster_index(counts, n)
    low, high = index * size, jnp.minimum((index + 1) * size, n)

    def weight_below(table: Array, at: Array, unit: int) -> Array:
        return jnp.where(at * unit >= n, tables.mass[k], read(table, (k, at)))

    # the block of TILE rows, then the row in it: the last one in [low, high) before which the weight is at most the target
    def halve(table: Array, low: Array, high: Array, target: Array, steps: Any) -> Array:
        def step(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) >> 1
            go_up = (read(table, (k, middle)) <= target) | (middle == low)
            return jnp.where(go_up, middle, low), jnp.where(go_up, high, middle)

        return jax.lax.fori_loop(0, steps, step, (low, high))[0]

    start, end = weight_below(tables.prefix, low, 1), weight_below(tables.prefix, high, 1)
    to_block, to_row = row_pair(stream, rows, _PLACE)
    target = start + mulhi(to_block, end - start)
    block = halve(tables.blocks, low // TILE, (high + TILE - 1) // TILE, target, trips[1])
    low, high = jnp.maximum(low, block * TILE), jnp.minimum(high, (block + 1) * TILE)
    start = jnp.maximum(start, weight_below(tables.blocks, block, TILE))  # weights below grow with the row
    end = jnp.minimum(end, weight_below(tables.blocks, block + 1, TILE))
    target = start + mulhi(to_row, end - start)
    return jnp.minimum(halve(tables.prefix, low, high, target, trips[2]), jnp.maximum(n - 1, 0))


def _slot_rows(schema: Schema, table: Array, streams: Array, rows: Array) -> Array:
    """The slot law: i32[K, rows] parents by unique sets of keys (rows of other keys are not meant to be read).

    A set's first key owns slots: ``share`` for each of its parent rows. Child rows take distinct slots by a keyed bijection; the
    j-th child of one owner takes the j-th combination of the other keys' parents in an order of its own. So no combination occurs twice.
    """
    parent, owner = schema.fk_parent[table], schema.fk_owner[table]
    n = jnp.maximum(jnp.where(parent == NO_TABLE, 1, schema.row_count[jnp.maximum(parent, 0)]), 1)
    slotted = (schema.fk_law[table] == LinkLaw.SLOT) & (parent != NO_TABLE)
    most = jnp.int32(2**31 - 1)
    keys = jnp.arange(streams.shape[0], dtype=jnp.int32)

    def one_key(k: Array) -> Array:
        first = owner[k]
        others = slotted & (owner == first) & (keys != first)

        def multiply(m: Array, product: Array) -> Array:
            return jnp.where(others[m], jnp.where(product <= most // n[m], product * n[m], most), product)

        combinations = jax.lax.fori_loop(0, keys.shape[0], multiply, jnp.int32(1))
        share = jnp.clip(4 * -(-schema.row_count[table] // n[first]), 1, jnp.minimum(combinations, most // n[first]))
        slot = index_permutation(named_key(streams[first], "slot"), rows, n[first] * share)
        mine = slot // share
        combination = index_permutation(named_key(streams[first], "combination", mine), slot % share, combinations)

        def decode(m: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            value, x = state
            return jnp.where(others[m] & (m == k), x % n[m], value), jnp.where(others[m], x // n[m], x)

        return jax.lax.fori_loop(0, keys.shape[0], decode, (mine, combination))[0]

    return jax.vmap(one_key)(keys)


def _draw_rows(schema: Schema, links: Links, tables: KeyTables, table: Array, rows: Array, trips: Array) -> Array:
    """The row function of links: parents of some rows of one table, by the cluster and tree laws.

    Args:
        schema: one schema.
        links: the laws; ``parent_row`` is not read.
        tables: `key_tables` of ``table``.
        table: i32[], the child table.
        rows: i32[rows], row ids.
        trips: i32[4], trip counts: levels, halvings of blocks, halvings of rows, keys.

    Returns:
        i32[K, rows], row in the parent table or NO_ROW.
    """
    streams = _key_stream(links, schema, table)

    def one_key(k: Array, out: Array) -> Array:
        parent = schema.fk_parent[table, k]
        n = jnp.where(parent == NO_TABLE, 0, schema.row_count[jnp.maximum(parent, 0)])
        cluster = _cluster_rows(schema, links, tables, table, k, streams[k], rows, n, trips)
        to_null, to_root = row_pair(streams[k], rows, _NULL)
        tree = below(row_bits(streams[k], rows, _TREE), rows)
        is_tree = schema.fk_law[table, k] == LinkLaw.TREE
        root = (rows == 0) | chance(to_root, links.roots[table, k])
        null = chance(to_null, schema.fk_null[table, k]) | (is_tree & root) | (n == 0)
        value = jnp.where(null, jnp.int32(NO_ROW), jnp.where(is_tree, tree, cluster))
        return jax.lax.dynamic_update_index_in_dim(out, value, k, 0)

    return jax.lax.fori_loop(0, trips[3], one_key, jnp.full((streams.shape[0], rows.shape[0]), NO_ROW, jnp.int32))


@functools.cache
def _walk(capacity: Capacity, tiles: int) -> Any:
    """The link stage over some tiles of the row axis, in a batch of databases: those from ``first`` on, at most ``tiles``."""

    def walk(schema: Schema, links: Links, first: Array) -> Array:  # every leaf leads with B
        batch = schema.table_count.shape[0]
        parents = jnp.maximum(schema.fk_parent, 0).reshape(batch, -1)
        rows = jnp.take_along_axis(schema.row_count, parents, axis=1).reshape(schema.fk_parent.shape)
        used = schema.fk_parent != NO_TABLE
        most_tiles = jnp.max(tiles_of(jnp.where(used, rows, 0)))
        base = jnp.prod(links.parent_clusters, axis=-1, dtype=jnp.int32)
        size = jnp.max(jnp.where(used & (schema.fk_law == LinkLaw.CLUSTER), -(-rows // base), 1))  # rows of the largest cluster
        spans = jnp.minimum(tiles_of(size) + 1, most_tiles)  # blocks that it may touch
        halvings = [32 - jax.lax.clz(jnp.maximum(x - 1, 0)) for x in (spans, jnp.minimum(size, TILE))]
        trips = jnp.stack([jnp.max(links.levels), *halvings, jnp.max(schema.fk_count)])
        any_slot = jnp.any((schema.fk_law == LinkLaw.SLOT) & used)
        last = jnp.minimum(jnp.max(jax.vmap(tile_count)(schema) - first), tiles)

        def step(i: Array, state: tuple[Array, KeyTables]) -> tuple[Array, KeyTables]:
            out, tables = state
            tile = jax.vmap(tile_at)(schema, first + i)
            enters = tile.measures | (i == 0)

            def build(tables: KeyTables) -> KeyTables:
                def one(schema: Schema, links: Links, table: Array, enters: Array, old: KeyTables) -> KeyTables:
                    new = key_tables(schema, links, capacity, table, most_tiles, trips[3], old)
                    return jax.tree.map(lambda a, b: jnp.where(enters, a, b), new, old)

                return jax.vmap(one)(schema, links, tile.table, enters, tables)

            tables = jax.lax.cond(jnp.any(enters), build, lambda x: x, tables)
            rows = jax.vmap(_draw_rows, (0, 0, 0, 0, 0, None))(schema, links, tables, tile.table, tile.rows, trips)

            def with_slots(rows: Array) -> Array:
                streams = jax.vmap(_key_stream)(links, schema, tile.table)
                slots = jax.vmap(_slot_rows)(schema, tile.table, streams, tile.rows)
                is_slot = jnp.take_along_axis(schema.fk_law, tile.table[:, None, None], axis=1)[:, 0] == LinkLaw.SLOT
                return jnp.where(is_slot[:, :, None] & (rows != NO_ROW), slots, rows)

            rows = jax.lax.cond(any_slot, with_slots, lambda x: x, rows)
            rows = jnp.where((tile.real & ~tile.is_pilot[:, None])[:, None, :], rows, jnp.int32(NO_ROW))
            return jax.lax.dynamic_update_slice(out, rows, (0, 0, i * TILE)), tables

        out = jnp.full((batch, capacity.foreign_keys, tiles * TILE), NO_ROW, jnp.int32)
        tables = jax.tree.map(lambda x: jnp.broadcast_to(x[None], (batch, *x.shape)), _empty_tables(capacity))
        return jax.lax.fori_loop(0, jnp.where(jnp.any(used), last, 0), step, (out, tables))[0]

    return batched(walk)


def link_rows(schema: Schema, links: Links, capacity: Capacity, table: ArrayLike, first_tile: ArrayLike, tiles: int) -> Array:
    """Links of some rows of one table alone: bit for bit those of `sample_links`.

    Args:
        schema: one schema.
        links: the laws, as `sample_links` returns them; ``parent_row`` is not read.
        capacity: static sizes.
        table: i32[], the child table.
        first_tile: i32[], first row in tiles of `TILE` rows.
        tiles: static, how many tiles.

    Returns:
        i32[K, tiles * TILE]: row in the parent table, or NO_ROW; past the table's last row unspecified.
    """
    first = schema.row_offset[table] // TILE + jnp.asarray(first_tile, jnp.int32)
    return _walk(capacity, tiles)(schema, links, first)


def sample_link_laws(key: ArrayLike, prior: Prior, schema: Schema, capacity: Capacity) -> Links:
    """Sample the laws of all foreign keys; ``parent_row`` is left NO_ROW everywhere."""
    key = named_key(reduce_key(key), "links")
    law = prior.links
    stream = named_key(key, schema.table_id[:, None], schema.fk_id)  # [T, K, 2]
    level = jnp.arange(LEVELS, dtype=jnp.int32)
    drawn = jnp.minimum(draw_integer(stream, "levels", law.levels), LEVELS)
    sizes = draw_integers(stream[:, :, None], {"parent clusters": law.clusters, "child clusters": law.clusters}, level)
    levels = jnp.where(draw_flag(stream, "uniform", law.uniform) | (schema.fk_law != LinkLaw.CLUSTER), 0, drawn)
    levels = jnp.where(schema.fk_parent == NO_TABLE, 0, levels)
    in_use = level[None, None, :] < levels[..., None]

    parent, child = (jnp.where(in_use, jnp.clip(drawn, 1, CLUSTERS), 1) for drawn in sizes.values())
    a, b = (jnp.arange(CLUSTERS, dtype=jnp.int32).reshape(1, 1, 1, *shape) for shape in ((-1, 1), (1, -1)))
    count_a, count_b = parent[..., None, None], child[..., None, None]
    matches = jnp.where(count_a <= count_b, a == b % count_a, b == a % count_b)  # cyclic: (i mod A, i mod B)
    strong = draw_flag(stream, "strong", law.strong)
    match = jnp.where(strong, jnp.uint32(round(0.9 * 2**24)), draw_share(stream, "match", law.match))
    other = draw_share(stream[:, :, None, None, None], "other", law.other, level.reshape(1, 1, -1, 1, 1) * 16 + a * CLUSTERS + b)
    affinity = jnp.minimum(jnp.where(matches, match[..., None, None, None], other), 2**24 - 1) << 8
    affinity = jnp.where((a < count_a) & (b < count_b), affinity, jnp.uint32(0))
    return Links(
        key=key,
        parent_row=jnp.full((capacity.foreign_keys, capacity.rows), NO_ROW, jnp.int32),
        levels=levels,
        parent_clusters=parent,
        child_clusters=child,
        affinity=affinity,
        popularity=draw_choice(stream, "popularity law", law.popularity),
        inactive=draw_share(stream, "inactive share", law.inactive),
        roots=draw_share(stream, "roots", law.roots),
    )


def sample_links(key: ArrayLike, prior: Prior, schema: Schema, capacity: Capacity) -> Links:
    """Sample the parent row of every child row, for every foreign key.

    Args:
        key: a PRNG key, typed or raw.
        prior: its ``links`` section is read.
        schema: one schema.
        capacity: static sizes.

    Returns:
        `Links`: every key a row that exists in its parent table, or NO_ROW where the key is nullable.

    Reference:
        The hierarchical stochastic block model of PluRel (arXiv 2602.04029), sampled exactly and in closed form; keyed bijections
        for unique keys; uniform recursive trees for self-references.

    Example:
        >>> import jax, jaxrel
        >>> tiny, key = jaxrel.presets.load("tiny"), jax.random.key(0)
        >>> schema = jaxrel.sample_schema(key, tiny.prior, tiny.capacity)
        >>> links = jaxrel.sample_links(key, tiny.prior, schema, tiny.capacity)
        >>> links.parent_row.shape == (tiny.capacity.foreign_keys, tiny.capacity.rows)
        True
    """
    return place_links(sample_link_laws(key, prior, schema, capacity), schema, capacity)


def place_links(links: Links, schema: Schema, capacity: Capacity) -> Links:
    """The parent row of every child row by laws that are given: `sample_links` without their draw."""
    return dataclasses.replace(links, parent_row=_walk(capacity, capacity.tiles)(schema, links, jnp.int32(0)))
