"""Stage two: foreign-key links by the cluster law and the tree law of self-references; slot, degree and trait laws stand beside it.

*Cluster law*: the hierarchical stochastic block model. ``P(parent a | child b) ∝ popularity[a] · Π_l M_l[a's cluster, b's cluster]``.
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
from jax.typing import ArrayLike

from jaxrel import struct
from jaxrel.batching import batched
from jaxrel.dealing import candidates, cluster_span, existing_rows, is_dealt, row_of
from jaxrel.degrees import child_point, degree_laws, degree_weight, means_of, parent_weight
from jaxrel.prior import Prior, draw_choice, draw_flag, draw_integer, draw_integers, draw_share
from jaxrel.random import below, bits, chance, mulhi, named_key, reduce_key, row_bits, row_pair, running_sum
from jaxrel.slots import slot_rows
from jaxrel.tiles import tile_at, tile_count
from jaxrel.traits import trait_parents
from jaxrel.types import CLUSTERS, LEVELS, NO_ROW, NO_TABLE, STRENGTH, TILE, Capacity, LinkLaw, Links, Popularity, Schema, tiles_of

__all__ = ["KeyTables", "Rare", "key_tables", "link_rows", "place_links", "sample_link_laws", "sample_links"]

_BASE = CLUSTERS**LEVELS  # base clusters, most
_NULL, _PLACE, _TREE, _ANYONE = 16, 17, 18, 20  # lanes of a child row's words; 0…LEVELS - 1 are the levels, 19 `jaxrel.dealing`'s


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


def _key_stream(links: Links, schema: Schema, table: Array) -> Array:
    """u32[K, 2]: the stream of each key of a table."""
    return named_key(links.key, schema.table_id[table], schema.fk_id[table])


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
    return _quotient(sums[:, :-1], jnp.broadcast_to(sums[:, -1:], (LEVELS, CLUSTERS - 1, _BASE)))


def key_tables(
    schema: Schema, links: Links, capacity: Capacity, table: Array, tiles: Array, keys: Array, rare: Rare, old: KeyTables
) -> KeyTables:
    """Build the tables of the cluster and degree laws for every key of one table.

    Args:
        schema: one schema.
        links: one database's link laws; ``parent_row`` is not read.
        capacity: static sizes.
        table: i32[], the child table.
        tiles: i32[], most tiles of a parent (a trip count).
        keys: i32[], most keys in use (a trip count).
        rare: what some key needs.
        old: tables whose memory is reused.
    """
    streams = _key_stream(links, schema, table)

    def one_key(k: Array, tables: KeyTables) -> KeyTables:
        parent = schema.fk_parent[table, k]
        n = jnp.where(parent == NO_TABLE, 0, schema.row_count[jnp.maximum(parent, 0)])
        dealt, clusters = is_dealt(schema, table)[k], jnp.prod(links.parent_clusters[table, k], dtype=jnp.int32)

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

        def weight_below(row: Array) -> Array:
            return jnp.where(row >= n, mass, prefix[k, jnp.clip(row, 0, capacity.rows - 1)])

        ends = _level_ends(weight_below, links.affinity[table, k], links.parent_clusters[table, k], n, dealt)
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


def _read(x: Array, at: Any) -> Array:
    """x[at], in bounds, or nobody reads what follows."""
    return x.at[at].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _halve(table: Array, k: Array, low: Array, high: Array, target: Array, steps: Any) -> Array:
    """i32[rows]: the last index in [low, high) before which the weight, ``table[k]``, is at most the target."""

    def step(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) >> 1
        go_up = (_read(table, (k, middle)) <= target) | (middle == low)
        return jnp.where(go_up, middle, low), jnp.where(go_up, high, middle)

    return jax.lax.fori_loop(0, steps, step, (low, high))[0]


def _cluster_rows(
    schema: Schema,
    links: Links,
    tables: KeyTables,
    table: Array,
    k: Array,
    streams: Array,
    rows: Array,
    n: Array,
    exist: Array,
    trips: Array,
) -> Array:
    """The cluster law: i32[rows] parents of some child rows. ``exist``: as `existing_rows`; ``trips``: as `_draw_rows`."""
    guide = links.agree[table, k]
    counts, child_counts = links.parent_clusters[table, k], links.child_clusters[table, k]
    child_clusters, child_size = _cluster_index(child_counts, schema.row_count[table])
    rest = jnp.minimum(rows // child_size, child_clusters - 1)
    suffix, stride = jnp.zeros_like(rows), 1
    for level in reversed(range(LEVELS)):  # the child's digits, in radix CLUSTERS
        suffix = suffix + (rest % child_counts[level]) * stride
        rest, stride = rest // child_counts[level], stride * CLUSTERS
    ends = tables.ends[guide].reshape(-1)

    def choose(level: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        code, index = state
        stride = jnp.asarray([CLUSTERS**p for p in range(1, LEVELS + 1)], jnp.int32)[LEVELS - 1 - level]
        at = code * stride + suffix % stride + level * ((CLUSTERS - 1) * _BASE)
        x = row_bits(streams[guide], rows, level) >> 1
        chosen = sum((x >= _read(ends, at + d * _BASE)).astype(jnp.int32) for d in range(CLUSTERS - 1))
        return code * CLUSTERS + chosen, index * counts[level] + chosen

    _, index = jax.lax.fori_loop(0, trips[0], choose, (jnp.zeros_like(rows), jnp.zeros_like(rows)))
    clusters, dealt = jnp.prod(counts, dtype=jnp.int32), is_dealt(schema, table)[k]
    low, high = cluster_span(index, clusters, n, dealt)

    def weight_below(table: Array, at: Array, unit: int) -> Array:
        return jnp.where(at * unit >= n, tables.mass[k], _read(table, (k, at)))

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
    start, end = jnp.where(barren, jnp.uint32(0), start), jnp.where(barren, tables.mass[k], end)
    to_block, to_row = row_pair(streams[k], rows, _PLACE)
    target = start + mulhi(to_block, end - start)
    block = _halve(tables.blocks, k, low // TILE, (high + TILE - 1) // TILE, target, trips[1])
    low, high = jnp.maximum(low, block * TILE), jnp.minimum(high, (block + 1) * TILE)
    start = jnp.maximum(start, weight_below(tables.blocks, block, TILE))  # weights below grow with the row
    end = jnp.minimum(end, weight_below(tables.blocks, block + 1, TILE))
    target = start + mulhi(to_row, end - start)
    position = jnp.minimum(_halve(tables.prefix, k, low, high, target, trips[2]), jnp.maximum(n - 1, 0))

    def by_time(position: Array) -> Array:  # where no candidate of the cluster exists yet: anyone who does
        row, alive = row_of(position, clusters, n, dealt), exist[1]
        return jnp.where(dealt & (row >= alive), below(row_bits(streams[k], rows, _ANYONE), alive), row)

    return jax.lax.cond(trips[4] > 0, by_time, lambda position: position, position)


def _degree_rows(schema: Schema, tables: KeyTables, table: Array, k: Array, streams: Array, rows: Array, trips: Array) -> Array:
    """The degree law: i32[rows] parents of some child rows by one key, of whose parents one has a child at least."""
    n = schema.row_count[jnp.maximum(schema.fk_parent[table, k], 0)]
    point = child_point(streams[k], rows, schema.row_count[table], tables.mass[k])
    zero = jnp.zeros_like(rows)
    block = _halve(tables.blocks, k, zero, zero + tiles_of(n), point, trips[1])
    row = _halve(tables.prefix, k, block * TILE, jnp.minimum((block + 1) * TILE, n), point, trips[2])
    return jnp.clip(row, 0, jnp.maximum(n - 1, 0))


def _constrained_rows(schema: Schema, links: Links, tables: KeyTables, table: Array, rows: Array, drawn: Array, trips: Array) -> Array:
    """i32[B, K, rows]: links of a batch's tiles with those of the slot and degree laws put in where they are not null.

    Both walk a keyed bijection, the dearest draw of a row, so keys that no database of the batch needs are passed over.
    """
    streams = jax.vmap(_key_stream)(links, schema, table)
    law = jax.vmap(lambda x, t: x[t])(schema.fk_law, table)

    def one_key(k: Array, out: Array) -> Array:
        def by(code: LinkLaw, draw: Any, out: Array) -> Array:
            is_law = law[:, k] == code

            def put(out: Array) -> Array:
                return out.at[:, k].set(jnp.where(is_law[:, None] & (out[:, k] != NO_ROW), draw(), out[:, k]))

            return jax.lax.cond(jnp.any(is_law), put, lambda x: x, out)

        slots = jax.vmap(slot_rows, (0, 0, None, 0, 0))
        degrees = jax.vmap(_degree_rows, (0, 0, 0, None, 0, 0, None))
        out = by(LinkLaw.SLOT, lambda: slots(schema, table, k, streams, rows), out)
        return by(LinkLaw.DEGREE, lambda: degrees(schema, tables, table, k, streams, rows, trips), out)

    return jax.lax.fori_loop(0, trips[3], one_key, drawn)


def _draw_rows(schema: Schema, links: Links, tables: KeyTables, table: Array, rows: Array, exist: Array, trips: Array) -> Array:
    """The row function of links: parents of some rows of one table, by the cluster and tree laws.

    Args:
        schema: one schema.
        links: the laws; ``parent_row`` is not read.
        tables: `key_tables` of ``table``.
        table: i32[], the child table.
        rows: i32[rows], row ids.
        exist: i32[K, 2, rows], `existing_rows`.
        trips: i32[5], trip counts: levels, halvings of blocks, halvings of rows, keys; 1 if any key of the batch depends on the time.

    Returns:
        i32[K, rows], row in the parent table or NO_ROW.
    """
    streams = _key_stream(links, schema, table)

    def one_key(k: Array, out: Array) -> Array:
        parent = schema.fk_parent[table, k]
        n = jnp.where(parent == NO_TABLE, 0, schema.row_count[jnp.maximum(parent, 0)])
        cluster = _cluster_rows(schema, links, tables, table, k, streams, rows, n, exist[k], trips)
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
        weighs = used & ((schema.fk_law == LinkLaw.CLUSTER) | (schema.fk_law == LinkLaw.DEGREE))
        alone = links.agree == jnp.arange(base.shape[-1], dtype=jnp.int32)[None, None, :]
        size = jnp.where(alone, -(-rows // base), rows)  # rows among which a parent is sought: a cluster's, or all
        size = jnp.max(jnp.where(weighs, size, 1))
        spans = jnp.minimum(tiles_of(size) + 1, most_tiles)  # blocks that it may touch
        halvings = [32 - jax.lax.clz(jnp.maximum(x - 1, 0)) for x in (spans, jnp.minimum(size, TILE))]
        dealt = jax.vmap(lambda schema: jax.vmap(functools.partial(is_dealt, schema))(jnp.arange(capacity.tables, dtype=jnp.int32)))(schema)
        trips = jnp.stack([jnp.max(links.levels), *halvings, jnp.max(schema.fk_count), jnp.any(dealt).astype(jnp.int32)])
        rare = Rare(
            slot=jnp.any((schema.fk_law == LinkLaw.SLOT) & used),
            degree=jnp.any((schema.fk_law == LinkLaw.DEGREE) & used),
            zipf=jnp.any((links.popularity == Popularity.ZIPF) & weighs),
            trait=jnp.any((schema.fk_law == LinkLaw.TRAIT) & used),
        )
        last = jnp.minimum(jnp.max(jax.vmap(tile_count)(schema) - first), tiles)

        def step(i: Array, state: tuple[Array, KeyTables]) -> tuple[Array, KeyTables]:
            out, tables = state
            tile = jax.vmap(tile_at)(schema, first + i)
            enters = tile.measures | (i == 0)

            def build(tables: KeyTables) -> KeyTables:
                def one(schema: Schema, links: Links, table: Array, enters: Array, old: KeyTables) -> KeyTables:
                    new = key_tables(schema, links, capacity, table, most_tiles, trips[3], rare, old)
                    return jax.tree.map(lambda a, b: jnp.where(enters, a, b), new, old)

                return jax.vmap(one)(schema, links, tile.table, enters, tables)

            tables = jax.lax.cond(jnp.any(enters), build, lambda x: x, tables)

            def existing(_: Array) -> Array:
                streams = jax.vmap(_key_stream)(links, schema, tile.table)
                return jax.vmap(existing_rows, (0, 0, 0, 0, 0, None))(schema, links, streams, tile.table, tile.rows, trips[3])

            nobody_asks = jnp.zeros((batch, capacity.foreign_keys, 2, TILE), jnp.int32)
            exist = jax.lax.cond(trips[4] > 0, existing, lambda x: x, nobody_asks)
            rows = jax.vmap(_draw_rows, (0, 0, 0, 0, 0, 0, None))(schema, links, tables, tile.table, tile.rows, exist, trips)

            def constrain(drawn: Array) -> Array:
                return _constrained_rows(schema, links, tables, tile.table, tile.rows, drawn, trips)

            def with_traits(rows: Array) -> Array:
                def own(x: Array) -> Array:  # [B, T, K] → [B, K, 1], the table at hand
                    return jnp.take_along_axis(x, tile.table[:, None, None], axis=1)[:, 0, :, None]

                parent = own(schema.fk_parent)
                count = jnp.take_along_axis(schema.row_count[:, :, None], jnp.maximum(parent, 0), axis=1)
                streams = jax.vmap(_key_stream)(links, schema, tile.table)
                alike = trait_parents(streams[:, :, None], own(links.strength), tile.rows[:, None], count)
                return jnp.where((own(schema.fk_law) == LinkLaw.TRAIT) & (rows != NO_ROW), alike, rows)

            rows = jax.lax.cond(rare.slot | rare.degree, constrain, lambda x: x, rows)
            rows = jax.lax.cond(rare.trait, with_traits, lambda x: x, rows)
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

    # a key that agrees follows the first clustered key of its table, in all but popularity
    k = jnp.arange(levels.shape[1], dtype=jnp.int32)[None, :]
    first = jnp.argmax(levels > 0, axis=1, keepdims=True).astype(jnp.int32)
    follows = draw_flag(stream, "agree", law.agree) & (schema.fk_law == LinkLaw.CLUSTER) & (schema.fk_parent != NO_TABLE)
    agree = jnp.where(follows & (k > first) & jnp.any(levels > 0, axis=1, keepdims=True), first, k)
    levels, parent, child, affinity = (
        jnp.take_along_axis(x, agree.reshape(*agree.shape, *(1,) * (x.ndim - 2)), axis=1) for x in (levels, parent, child, affinity)
    )
    lowest, highest = (jnp.round(x * STRENGTH).astype(jnp.int32) for x in (law.strength.low, law.strength.high))
    is_cluster = schema.fk_law == LinkLaw.CLUSTER
    parents = jnp.where(schema.fk_parent == NO_TABLE, 0, schema.row_count[jnp.maximum(schema.fk_parent, 0)])
    family, ends = degree_laws(stream, law, means_of(jnp.broadcast_to(schema.row_count[:, None], parents.shape), parents))
    is_degree = schema.fk_law == LinkLaw.DEGREE
    dealt = jax.vmap(functools.partial(is_dealt, schema))(jnp.arange(capacity.tables, dtype=jnp.int32))
    return Links(
        key=key,
        parent_row=jnp.full((capacity.foreign_keys, capacity.rows), NO_ROW, jnp.int32),
        levels=levels,
        parent_clusters=parent,
        child_clusters=child,
        affinity=affinity,
        popularity=jnp.where(is_cluster, draw_choice(stream, "popularity law", law.popularity), Popularity.EQUAL),
        inactive=jnp.where(is_cluster, draw_share(stream, "inactive share", law.inactive), jnp.uint32(0)),
        roots=draw_share(stream, "roots", law.roots),
        agree=agree,
        strength=lowest + below(bits(stream, 0, "strength"), jnp.maximum(highest, lowest) - lowest + 1),
        degree=jnp.where(is_degree, family, 0),
        degree_ends=jnp.where(is_degree[..., None], ends, jnp.uint32(0)),
        delay=jnp.where(dealt & draw_flag(stream, "delayed", law.delayed), draw_integer(stream, "delay", law.delay), 0),
        window=jnp.where(dealt & draw_flag(stream, "recent", law.recent), draw_share(stream, "window", law.window), jnp.uint32(2**24)),
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
