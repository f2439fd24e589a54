"""Kernels for GPUs, interpreted: the same integers and, but for rounding, the same floats as XLA's operators."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrel
from jaxrel import onchip, random
from jaxrel.edges import combine_edges, fits_on_chip, pack_edges
from jaxrel.presets import Preset
from jaxrel.schema import sample_schema
from jaxrel.scm import sample_scm
from jaxrel.types import TILE, Combine, Form

B, POOL = 4, 32  # lanes, and databases whose edges they read


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


def scms(preset: Preset) -> Any:
    """SCMs of the pool's databases."""
    keys = jax.vmap(lambda i: jax.random.key_data(jax.random.key(i)))(jnp.arange(POOL))

    def one(key: jax.Array) -> Any:
        return sample_scm(key, preset.prior, sample_schema(key, preset.prior, preset.capacity), preset.capacity)

    return jax.vmap(one)(keys)


@pytest.mark.parametrize("name", ["default", "tiny"])
def test_edges_bring_the_same(name: str) -> None:
    preset = jaxrel.presets.load(name)
    preset = preset.small or preset
    capacity = preset.capacity
    scm = jax.jit(lambda: scms(preset), compiler_options={"xla_backend_optimization_level": 0})()
    assert fits_on_chip(capacity)
    edges, used = pack_edges(scm), np.asarray(scm.edge_start).max(axis=(1, 2))
    dice = np.random.default_rng(0)
    lanes = np.clip(dice.normal(size=(B, capacity.nodes, capacity.width + 1, TILE)), -3, 3).astype(np.float32)
    lanes[:, :, -1] = np.round(np.abs(lanes[:, :, -1]) * 2)  # codes

    @jax.jit
    def both(*args: jax.Array) -> tuple[jax.Array, jax.Array]:
        database, start, count, combine = args
        at_hand = edges, database, jnp.asarray(lanes), start, count, combine, capacity
        return combine_edges(*at_hand), onchip.combine_on_chip(*at_hand, interpret=True)

    form = np.where(np.arange(capacity.edges) < used[:, None], np.asarray(scm.edge_form), -1)
    for trial in range(12):
        of_form = np.argwhere(form == trial % len(Form))
        database, start = of_form[dice.integers(0, len(of_form), B)].T
        count = np.minimum(np.roll([0, 1, 2, 5], trial // len(Form)), used[database] - start)
        combine = (np.arange(B) + trial) % len(Combine)
        reference, kernel = map(np.asarray, both(*(jnp.asarray(x, jnp.int32) for x in (database, start, count, combine))))
        assert np.all(kernel[count == 0] == 0)
        scale = reference.std(axis=-1, keepdims=True) + 1e-2
        assert np.max(np.abs(kernel - reference) / scale) < 1e-4


@pytest.mark.parametrize("name", ["default", "tiny", "plurel"])
def test_kernels_are_made_for_gpus(name: str) -> None:
    preset = jaxrel.presets.load(name)
    capacity = preset.capacity
    edges = jax.eval_shape(lambda: pack_edges(scms(preset)))
    lanes = jax.ShapeDtypeStruct((B, capacity.nodes, capacity.width + 1, TILE), jnp.float32)
    i = jax.ShapeDtypeStruct((B,), jnp.int32)
    assert "triton" in lower(functools.partial(onchip.combine_on_chip, capacity=capacity), edges, i, lanes, i, i, i)
    words = jax.ShapeDtypeStruct((B, 1000), jnp.uint32)
    assert "triton" in lower(functools.partial(onchip.walk_on_chip, backwards=True), *[words] * 5)
