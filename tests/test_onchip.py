"""Kernels for GPUs, interpreted: the same integers and, but for rounding, the same floats as XLA's operators."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrel
from jaxrel import onchip, onchip_nodes, random
from jaxrel.batching import quick_loop
from jaxrel.clusters import Rare, empty_tables, key_streams, key_tables
from jaxrel.edges import fits_on_chip, pack_edges
from jaxrel.kernel import table_streams, tile_inputs
from jaxrel.lanes import at_own
from jaxrel.links import sample_link_laws, sample_links
from jaxrel.nodes import TableStreams, walk_nodes, with_traits
from jaxrel.presets import Preset
from jaxrel.schema import sample_schema
from jaxrel.scm import sample_scm
from jaxrel.tiles import tile_count
from jaxrel.types import (
    AGGREGATES,
    ALL_LANES,
    CODE_LANE,
    EXPORTS,
    INTERVENTIONS,
    NO_TABLE,
    SCM,
    TILE,
    Interventions,
    LinkLaw,
    Links,
    NodeKind,
    Popularity,
    Schema,
    no_interventions,
)

B, POOL = 4, 16  # lanes, and databases whose tiles they compute


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("shape", [(), (7,), (3, 1024)])
def test_walks_end_at_the_same_places(shape: tuple[int, ...], backwards: bool) -> None:
    keys = jax.vmap(lambda i: jax.random.key_data(jax.random.key(i)))(jnp.arange(B))
    i = jnp.arange(int(np.prod(shape)), dtype=jnp.uint32).reshape(shape)

    def both(key: jax.Array, n: jax.Array) -> tuple[jax.Array, jax.Array]:
        half = (33 - jax.lax.clz(n - 1)) >> 1
        args = jnp.broadcast_arrays(key[0], key[1], i % n, n, half)
        return random.walk_cycles(*args, backwards=backwards), onchip.walk_on_chip(*args, backwards=backwards, interpret=True)

    both = jax.jit(jax.vmap(both, (0, None)))
    for n in (1, 2, 3, 1000, 70_000, 2**31 - 1):
        reference, kernel = both(keys, jnp.uint32(n))
        np.testing.assert_array_equal(kernel, reference)
        assert int(kernel.max()) < n


def lower(function: Any, *args: Any) -> str:
    """The program for a GPU that need not be there."""
    try:
        from jax._src.pallas.triton import gpu_info  # from 0.11 on Pallas asks which GPU
    except ImportError:
        return str(jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text())
    found = gpu_info.GpuInfo(gpu_version=None, arch_name="9.0", compute_capability=90)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_info, "get_gpu_info", lambda: found)
        return str(jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text())


def batch_of(preset: Preset, count: int) -> tuple[Any, Any]:
    """Some databases of a preset, and their keys."""
    keys = jax.vmap(lambda i: jax.random.key_data(jax.random.key(i)))(jnp.arange(count))
    capacity, prior = preset.capacity, preset.prior

    def structure(key: jax.Array) -> Any:
        schema = sample_schema(key, prior, capacity)
        return schema, sample_links(key, prior, schema, capacity), sample_scm(key, prior, schema, capacity)

    return keys, jax.vmap(structure)(keys)


def doing(dice: np.random.Generator, tables: np.ndarray) -> Interventions:
    """Interventions at random, of every sort."""
    shape = (len(tables), INTERVENTIONS)
    first = dice.integers(0, 300, shape)
    return Interventions(
        table=jnp.asarray(np.where(dice.random(shape) < 0.5, NO_TABLE, dice.integers(0, tables[:, None], shape)), jnp.int32),
        node=jnp.asarray(dice.integers(0, 6, shape), jnp.int32),
        lane=jnp.asarray(dice.choice([ALL_LANES, CODE_LANE, 0, 1], shape), jnp.int32),
        scale=jnp.asarray(dice.choice([0.0, 1.0, 2.0], shape), jnp.float32),
        shift=jnp.asarray(dice.choice([0.0, 1.0], shape), jnp.float32),
        first_row=jnp.asarray(first, jnp.int32),
        past_row=jnp.asarray(first + dice.integers(1, 1000, shape), jnp.int32),
    )


def unlike(kernel: np.ndarray, reference: np.ndarray) -> float:
    """Share of values that differ by more than a thousandth of their lane's deviation."""
    scale = reference.std(axis=-1, keepdims=True) + 1e-2
    return float(np.mean(np.abs(kernel - reference) > 1e-3 * scale))


def streams_of(keys: jax.Array, schema: Schema, links: Links, scm: SCM) -> TableStreams:
    tables = jnp.broadcast_to(jnp.arange(schema.row_count.shape[1], dtype=jnp.int32), schema.row_count.shape)
    return table_streams(keys, schema, links.key, scm, tables)


@pytest.mark.parametrize("name", ["default", "tiny"])
def test_nodes_come_out_the_same(name: str) -> None:
    preset = jaxrel.presets.load(name)
    preset = preset.small or preset
    capacity, dice = preset.capacity, np.random.default_rng(0)
    assert fits_on_chip(capacity)
    keys, (schema, links, scm) = jax.jit(lambda: batch_of(preset, POOL), compiler_options={"xla_backend_optimization_level": 0})()
    shape = (POOL, EXPORTS, capacity.width, capacity.rows)
    exports = jnp.asarray(np.clip(dice.normal(size=shape), -3, 3), jnp.float32)
    aggregates = jnp.asarray(np.clip(dice.normal(size=(POOL, AGGREGATES, *shape[2:])), -3, 3), jnp.float32)
    edges = pack_edges(scm)

    @functools.partial(jax.jit, static_argnames="calibrated")
    def both(database: jax.Array, j: jax.Array, done: Interventions, given: jax.Array, calibrated: bool) -> Any:
        own = dataclasses.replace(scm, calibrated=jnp.full(POOL, calibrated))
        inputs = schema, links, own, edges, done, capacity, exports, aggregates, j, j
        streams = streams_of(keys, schema, links, scm)
        its_schema, its_scm, context = tile_inputs(streams, *inputs, jnp.asarray(False), False, False, database)
        shift, scale = given[0] * jnp.ones_like(its_scm.node_shift[:, 0]), given[1] * jnp.ones_like(its_scm.node_scale[:, 0])
        lanes = jnp.zeros((B, capacity.nodes, capacity.width + 1, TILE), jnp.float32)
        signals = jnp.zeros((B, 0, capacity.width, TILE), jnp.float32)
        lanes_, _, shift_, scale_ = walk_nodes(its_schema, context, (lanes, signals, shift, scale), capacity, quick_loop)
        with_them = with_traits(its_schema, context, lanes)
        kernel = onchip_nodes.walk_nodes_on_chip(its_schema, context, with_them, shift, scale, capacity, interpret=True)
        return (lanes_, shift_, scale_), kernel, context.nodes["used"], context.nodes["kind"], context.tile.measures

    kinds = set[int]()
    tables = np.asarray(schema.table_count)
    used_tiles = np.asarray(jax.vmap(tile_count)(schema))
    done = doing(dice, tables)
    for trial in range(8):
        database = dice.integers(0, POOL, B)
        first = np.asarray(schema.row_offset)[database, dice.integers(0, tables[database])] // TILE
        j = first if trial % 2 else dice.integers(0, used_tiles[database])
        calibrated = trial in (2, 5)
        given = jnp.asarray([0.1, 0.7], jnp.float32)
        at = jnp.asarray(database, jnp.int32), jnp.asarray(j, jnp.int32), done, given
        reference, kernel, used, kind, measures = jax.tree.map(np.asarray, both(*at, calibrated))
        assert unlike(kernel[0][used], reference[0][used]) < 1e-4
        for a, b in zip(kernel[1:], reference[1:], strict=True):
            np.testing.assert_allclose(a[used], b[used], rtol=1e-4, atol=1e-5)
        kinds |= set(kind[used].tolist())
        assert not (calibrated and measures.any())
    assert kinds == {int(kind) for kind in NodeKind}


@pytest.mark.parametrize("name", ["default", "tiny"])
def test_parents_weigh_the_same(name: str) -> None:
    preset = jaxrel.presets.load(name)
    preset = preset.small or preset
    capacity = preset.capacity
    keys = jax.vmap(lambda i: jax.random.key_data(jax.random.key(i)))(jnp.arange(4 * POOL))

    @jax.jit
    def both(keys: jax.Array, table: jax.Array) -> Any:
        def laws(key: jax.Array) -> Any:
            schema = sample_schema(key, preset.prior, capacity)
            return schema, sample_link_laws(key, preset.prior, schema, capacity)

        schema, links = jax.vmap(laws)(keys)
        popularity = (links.popularity + jnp.arange(len(keys))[:, None, None]) % len(Popularity)  # each of them
        links = dataclasses.replace(links, popularity=jnp.where(schema.fk_parent == NO_TABLE, links.popularity, popularity))
        schema = dataclasses.replace(schema, row_count=jnp.minimum(4 * schema.row_count, capacity.rows))  # tiles, and not one
        old = jax.vmap(lambda _: empty_tables(capacity))(table)
        streams = at_own(jax.vmap(key_streams)(links, schema), table)
        rare = Rare(*(jnp.asarray(True),) * 4)
        tiles, most = jnp.int32(capacity.tiles), jnp.int32(capacity.foreign_keys)
        reference = key_tables(schema, links, capacity, table, streams, tiles, most, rare, old)
        kernel = onchip.weigh_on_chip(schema, links, table, streams, old, interpret=True)
        parent = at_own(schema.fk_parent, table)
        rows = jnp.where(parent == NO_TABLE, 0, jnp.take_along_axis(schema.row_count, jnp.maximum(parent, 0), axis=1))
        return reference, kernel, rows, at_own(schema.fk_law, table)

    laws, most = set[int](), 0
    for table in range(1, capacity.tables):
        reference, kernel, rows, law = jax.tree.map(np.asarray, both(keys, jnp.full(len(keys), table, jnp.int32)))
        np.testing.assert_array_equal(kernel.mass, np.where(rows > 0, reference.mass, 0))
        exists = np.arange(capacity.rows) < rows[..., None]
        np.testing.assert_array_equal(np.where(exists, kernel.prefix, 0), np.where(exists, reference.prefix, 0))
        exists = np.arange(capacity.tiles) * TILE < rows[..., None]
        np.testing.assert_array_equal(np.where(exists, kernel.blocks, 0), np.where(exists, reference.blocks, 0))
        laws, most = laws | set(law[rows > 0].tolist()), max(most, rows.max())
    assert LinkLaw.DEGREE in laws and most > 2 * TILE


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")  # JAX 0.12 says so when it lowers
@pytest.mark.parametrize("name", ["default", "tiny", "plurel"])
def test_kernels_are_made_for_gpus(name: str) -> None:
    preset = jaxrel.presets.load(name)
    capacity = preset.capacity

    def walk(j: jax.Array) -> Any:
        keys, (schema, links, scm) = batch_of(preset, B)
        exports = jnp.zeros((B, EXPORTS, capacity.width, capacity.rows), jnp.float32)
        aggregates = jnp.zeros((B, AGGREGATES, capacity.width, capacity.rows), jnp.float32)
        done = jax.tree.map(lambda x: jnp.broadcast_to(x[None], (B, *x.shape)), no_interventions())
        inputs = schema, links, scm, pack_edges(scm), done, capacity, exports, aggregates, j, j, jnp.asarray(False), False, False, j
        its_schema, its_scm, context = tile_inputs(streams_of(keys, schema, links, scm), *inputs)
        lanes = jnp.zeros((B, capacity.nodes, capacity.width + 1, TILE), jnp.float32)
        return its_schema, context, lanes, its_scm.node_shift[:, 0], its_scm.node_scale[:, 0]

    i = jax.ShapeDtypeStruct((B,), jnp.int32)
    assert fits_on_chip(capacity)
    assert "triton" in lower(functools.partial(onchip_nodes.walk_nodes_on_chip, capacity=capacity), *jax.eval_shape(walk, i))
    shapes = jax.eval_shape(lambda: (*batch_of(preset, B)[1][:2], jax.vmap(lambda _: empty_tables(capacity))(jnp.arange(B))))
    streams = jax.ShapeDtypeStruct((B, capacity.foreign_keys, 2), jnp.uint32)
    assert "triton" in lower(onchip.weigh_on_chip, *shapes[:2], i, streams, shapes[2])
    words = jax.ShapeDtypeStruct((B, 1000), jnp.uint32)
    assert "triton" in lower(functools.partial(onchip.walk_on_chip, backwards=True), *[words] * 5)
