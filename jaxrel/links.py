"""Stage two: foreign-key links. Each key has a law: the cluster law (`jaxrel.clusters`), the degree law (`jaxrel.degrees`), the slot law
(`jaxrel.slots`), the trait law (`jaxrel.traits`), or, of a self-reference, the tree law. All weights are integers: no float decides a link.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrel import struct
from jaxrel.batching import batched
from jaxrel.clusters import KeyTables, Rare, cluster_rows, empty_tables, halve, key_streams, key_tables
from jaxrel.dealing import existing_rows, is_dealt
from jaxrel.degrees import DEGREE_DRAWS, child_point, degree_laws, means_of
from jaxrel.draws import draw_choice, draw_flag, draw_integer, draw_integers, draw_share, tabulated
from jaxrel.lanes import at_own, write_tile
from jaxrel.prior import Prior
from jaxrel.random import Words, below, bits, chance, named_key, reduce_key, row_bits, row_pair
from jaxrel.schedule import schedule_tables
from jaxrel.slots import slot_rows
from jaxrel.tiles import Tile, tile_at, tile_count
from jaxrel.traits import trait_parents
from jaxrel.types import CLUSTERS, LEVELS, NO_ROW, NO_TABLE, STRENGTH, TILE, Capacity, LinkLaw, Links, Popularity, Schema, tiles_of

__all__ = ["link_rows", "link_tiles", "place_links", "sample_link_laws", "sample_links"]

# Draws of each foreign key that are made together.
_OF_KEY = (
    *("levels", "uniform", "strong", "match", "agree", "popularity law", "inactive share", "roots", "strength"),
    *("delayed", "delay", "recent", "window"),
)
_NULL, _TREE = 16, 18  # lanes of a child row's words; others are those of `jaxrel.clusters` and `jaxrel.dealing`


def _degree_rows(
    schema: Schema, tables: KeyTables, table: Array, k: Array, own: Array, streams: Array, rows: Array, trips: Array
) -> Array:
    """The degree law: i32[rows] parents of some child rows by one key, of whose parents one has a child at least."""
    n = schema.row_count[jnp.maximum(schema.fk_parent[table, k], 0)]
    children = jnp.where(schema.fk_law[table, k] == LinkLaw.DEGREE, schema.row_count[table], 1)  # for other laws nobody walks
    point = child_point(streams[k], rows, children, tables.mass[own + k])
    zero = jnp.zeros_like(rows)
    block = halve(tables.blocks, own + k, zero, zero + tiles_of(n), point, trips[1])
    row = halve(tables.prefix, own + k, block * TILE, jnp.minimum((block + 1) * TILE, n), point, trips[2])
    return jnp.clip(row, 0, jnp.maximum(n - 1, 0))


def _constrained_rows(
    schema: Schema, tables: KeyTables, table: Array, own: Array, streams: Array, rows: Array, drawn: Array, trips: Array
) -> Array:
    """i32[B, K, rows]: links of a batch's tiles with those of the slot and degree laws put in where they are not null.

    Both walk a keyed bijection, the dearest draw of a row, so keys that no database of the batch needs are passed over.
    """
    law = jax.vmap(lambda x, t: x[t])(schema.fk_law, table)

    def one_key(k: Array, out: Array) -> Array:
        def by(code: LinkLaw, draw: Any, out: Array) -> Array:
            is_law = law[:, k] == code

            def put(out: Array) -> Array:
                return out.at[:, k].set(jnp.where(is_law[:, None] & (out[:, k] != NO_ROW), draw(), out[:, k]))

            return jax.lax.cond(jnp.any(is_law), put, lambda x: x, out)

        slots = jax.vmap(slot_rows, (0, 0, None, 0, 0))
        degrees = jax.vmap(_degree_rows, (0, None, 0, None, 0, 0, 0, None))
        out = by(LinkLaw.SLOT, lambda: slots(schema, table, k, streams, rows), out)
        return by(LinkLaw.DEGREE, lambda: degrees(schema, tables, table, k, own, streams, rows, trips), out)

    return jax.lax.fori_loop(0, trips[3], one_key, drawn)


def _draw_rows(
    schema: Schema,
    links: Links,
    tables: KeyTables,
    table: Array,
    own: Array,
    streams: Array,
    rows: Array,
    exist: Array,
    trips: Array,
) -> Array:
    """The row function of links: parents of some rows of one table, by the cluster and tree laws.

    Args:
        schema: one schema.
        links: the laws; ``parent_row`` is not read.
        tables: `key_tables` of the tables at hand of a batch, keys of all databases on one axis.
        table: i32[], the child table.
        own: i32[], the place of its first key on that axis.
        streams: u32[K, 2], of its keys.
        rows: i32[rows], row ids.
        exist: i32[K, 2, rows], `existing_rows`.
        trips: i32[5], trip counts: levels, halvings of blocks, halvings of rows, keys; 1 if any key of the batch depends on the time.

    Returns:
        i32[K, rows], row in the parent table or NO_ROW.
    """

    def one_key(k: Array, out: Array) -> Array:
        parent = schema.fk_parent[table, k]
        n = jnp.where(parent == NO_TABLE, 0, schema.row_count[jnp.maximum(parent, 0)])
        cluster = cluster_rows(schema, links, tables, table, k, own, streams, rows, n, exist[k], trips)
        to_null, to_root = row_pair(streams[k], rows, _NULL)
        tree = below(row_bits(streams[k], rows, _TREE), rows)
        is_tree = schema.fk_law[table, k] == LinkLaw.TREE
        root = (rows == 0) | chance(to_root, links.roots[table, k])
        null = chance(to_null, schema.fk_null[table, k]) | (is_tree & root) | (n == 0)
        value = jnp.where(null, jnp.int32(NO_ROW), jnp.where(is_tree, tree, cluster))
        return jax.lax.dynamic_update_index_in_dim(out, value, k, 0)

    return jax.lax.fori_loop(0, trips[3], one_key, jnp.full((streams.shape[0], rows.shape[0]), NO_ROW, jnp.int32))


@struct.dataclass
class _Needs:
    """What the link stage of a batch loops to and branches on: unbatched."""

    most_tiles: Array  # i32[], tiles of the largest parent
    trips: Array  # i32[5], as `_draw_rows`; keys are those of the tables at hand
    rare: Rare


def _needs(schema: Schema, links: Links, capacity: Capacity) -> _Needs:
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
    return _Needs(most_tiles=most_tiles, trips=trips, rare=rare)


def _of_tables(needs: _Needs, schema: Schema, table: Array) -> _Needs:
    """The same for the tables at hand, i32[B]: no more keys than they have, no larger parents."""
    keys = jnp.max(jnp.take_along_axis(schema.fk_count, table[:, None], axis=1))
    parent = at_own(schema.fk_parent, table)
    rows = jnp.where(parent == NO_TABLE, 0, jnp.take_along_axis(schema.row_count, jnp.maximum(parent, 0), axis=1))
    return dataclasses.replace(needs, most_tiles=jnp.max(tiles_of(rows)), trips=needs.trips.at[3].set(keys))


def _tile_links(schema: Schema, links: Links, tables: KeyTables, own: Array, streams: Array, tile: Tile, needs: _Needs) -> Array:
    """i32[B, K, TILE]: parents of the rows of one tile in each lane. ``tables``, ``own``: as `_draw_rows`; ``streams``: u32[B, K, 2]."""
    trips, rare = needs.trips, needs.rare

    def existing(_: Array) -> Array:
        return jax.vmap(existing_rows, (0, 0, 0, 0, 0, None))(schema, links, streams, tile.table, tile.rows, trips[3])

    nobody_asks = jnp.zeros((own.shape[0], schema.fk_parent.shape[2], 2, TILE), jnp.int32)
    exist = jax.lax.cond(trips[4] > 0, existing, lambda x: x, nobody_asks)
    draw = jax.vmap(_draw_rows, (0, 0, None, 0, 0, 0, 0, 0, None))
    rows = draw(schema, links, tables, tile.table, own, streams, tile.rows, exist, trips)

    def constrain(drawn: Array) -> Array:
        return _constrained_rows(schema, tables, tile.table, own, streams, tile.rows, drawn, trips)

    def with_traits(rows: Array) -> Array:
        def of_table(x: Array) -> Array:  # [B, T, K] → [B, K, 1], the table at hand
            return jnp.take_along_axis(x, tile.table[:, None, None], axis=1)[:, 0, :, None]

        parent = of_table(schema.fk_parent)
        count = jnp.take_along_axis(schema.row_count[:, :, None], jnp.maximum(parent, 0), axis=1)
        by_trait = of_table(schema.fk_law) == LinkLaw.TRAIT
        alike = trait_parents(streams[:, :, None], of_table(links.strength), tile.rows[:, None], jnp.where(by_trait, count, 1))
        return jnp.where(by_trait & (rows != NO_ROW), alike, rows)

    rows = jax.lax.cond(rare.slot | rare.degree, constrain, lambda x: x, rows)
    return jax.lax.cond(rare.trait, with_traits, lambda x: x, rows)


def _flat(tables: KeyTables) -> KeyTables:
    """Keys of all databases on one axis."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tables)


@functools.cache
def _walk(capacity: Capacity, tiles: int, whole: bool, streams: bool = False) -> Any:
    """The link stage over some tiles of the row axis, in a batch of databases: ``tiles`` of them from ``first`` on.

    A tile before a table's rows is left NO_ROW. The ``whole`` axis is shared by the lanes of a batch as `jaxrel.schedule` says. A walk that
    ``streams`` takes ``count`` tiles, at most ``tiles``, and the key tables of the tiles before, which it hands on; and the tile before a
    table's rows holds the links of its pilot.
    """
    keys = capacity.foreign_keys

    def walk(schema: Schema, links: Links, first: Array, count: Array | None = None, before: KeyTables | None = None) -> Any:  # leading B
        batch = schema.table_count.shape[0]
        needs, links = _needs(schema, links, capacity), dataclasses.replace(links, parent_row=jnp.zeros((batch, keys, 0), jnp.int32))
        any_key = jnp.any(schema.fk_parent != NO_TABLE)
        out = jnp.full((batch, keys, tiles * TILE), NO_ROW, jnp.int32)
        tables = before or jax.tree.map(lambda x: jnp.broadcast_to(x[None], (batch, *x.shape)), empty_tables(capacity))
        place = jnp.arange(batch, dtype=jnp.int32) * keys
        every_stream = jax.vmap(key_streams)(links, schema)

        def build(needs: _Needs, table: Array, tables: KeyTables) -> KeyTables:
            streams = at_own(every_stream, table)
            return key_tables(schema, links, capacity, table, streams, needs.most_tiles, needs.trips[3], needs.rare, tables)

        def in_step(i: Array, state: tuple[Array, KeyTables]) -> tuple[Array, KeyTables]:
            out, tables = state
            tile = jax.vmap(tile_at)(schema, first + i)
            now, enters = _of_tables(needs, schema, tile.table), tile.measures | ((i == 0) & (not streams))

            def entered(tables: KeyTables) -> KeyTables:
                new = build(now, tile.table, tables)
                if batch == 1:
                    return new
                return jax.tree.map(lambda a, b: jnp.where(enters.reshape(-1, *(1,) * (a.ndim - 1)), a, b), new, tables)

            tables = jax.lax.cond(jnp.any(enters), entered, lambda x: x, tables)
            rows = _tile_links(schema, links, _flat(tables), place, at_own(every_stream, tile.table), tile, now)
            shown = tile.real if streams else tile.real & ~tile.is_pilot[:, None]
            rows = jnp.where(shown[:, None, :], rows, jnp.int32(NO_ROW))
            return write_tile(out, rows, None, i), tables

        if batch == 1 or not whole:
            last = jnp.minimum(jnp.max(jax.vmap(tile_count)(schema) - first), tiles if count is None else jnp.max(count))
            out, tables = jax.lax.fori_loop(0, jnp.where(any_key, last, 0), in_step, (out, tables))
            return (out, tables) if streams else out

        plan = schedule_tables(schema, schema.fk_count)

        def by_lanes(i: Array, state: tuple[Array, KeyTables]) -> tuple[Array, KeyTables]:
            out, tables = state
            work = plan.at(i, tiles)
            now = _of_tables(needs, schema, jnp.full(batch, work.wave))
            tables = jax.lax.cond(work.is_first, functools.partial(build, now, jnp.full(batch, work.wave)), lambda x: x, tables)
            its_schema, its_links = jax.tree.map(lambda x: x[work.database], (schema, links))
            tile = jax.vmap(tile_at)(its_schema, work.tile)
            streams = every_stream[work.database, tile.table]
            rows = _tile_links(its_schema, its_links, _flat(tables), work.database * keys, streams, tile, now)
            rows = jnp.where(tile.real[:, None, :], rows, jnp.int32(NO_ROW))
            return write_tile(out, rows, work.database, work.tile), tables

        return jax.lax.fori_loop(0, jnp.where(any_key, plan.count, 0), by_lanes, (out, tables))[0]

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
    return _walk(capacity, tiles, False)(schema, links, first)


def link_tiles(
    schema: Schema, links: Links, tables: KeyTables, capacity: Capacity, first: ArrayLike, count: ArrayLike, tiles: int
) -> tuple[Array, KeyTables]:
    """Links of the next tiles of the row axis, of which all are asked for in order.

    Args:
        schema: one schema.
        links: the laws; ``parent_row`` is not read.
        tables: what the call before returned; at first `jaxrel.clusters.empty_tables`. A table's are built at its first tile.
        capacity: static sizes.
        first: i32[], first tile on the row axis.
        count: i32[], how many tiles; at most ``tiles``.
        tiles: static, tiles of the result.

    Returns:
        i32[K, tiles * TILE], as `link_rows` says, pilots too; and the tables.
    """
    first, count = jnp.asarray(first, jnp.int32), jnp.asarray(count, jnp.int32)
    found: tuple[Array, KeyTables] = _walk(capacity, tiles, False, streams=True)(schema, links, first, count, tables)
    return found


def sample_link_laws(key: ArrayLike, prior: Prior, schema: Schema, capacity: Capacity) -> Links:
    """Sample the laws of all foreign keys; ``parent_row`` is left NO_ROW everywhere."""
    key, law = named_key(reduce_key(key), "links"), tabulated(prior).links
    stream = Words(named_key(key, schema.table_id[:, None], schema.fk_id), (*_OF_KEY, *DEGREE_DRAWS))  # [T, K, 2]
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
        >>> schema = jax.jit(jaxrel.sample_schema, static_argnums=2)(key, tiny.prior, tiny.capacity)
        >>> links = jax.jit(jaxrel.sample_links, static_argnums=3)(key, tiny.prior, schema, tiny.capacity)
        >>> links.parent_row.shape == (tiny.capacity.foreign_keys, tiny.capacity.rows)
        True
    """
    return place_links(sample_link_laws(key, prior, schema, capacity), schema, capacity)


def place_links(links: Links, schema: Schema, capacity: Capacity) -> Links:
    """The parent row of every child row by laws that are given: `sample_links` without their draw."""
    return dataclasses.replace(links, parent_row=_walk(capacity, capacity.tiles, True)(schema, links, jnp.int32(0)))
