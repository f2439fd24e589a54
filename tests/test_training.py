"""Databases as training data: a new one in every step of a scanned, jitted loop, none of them on disk, nothing traced twice."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array
from sampled import staged, stages

import jaxrel
from jaxrel.families import FAMILIES
from jaxrel.prior import Weights
from jaxrel.registry import ACTIVATIONS, KINDS, MARGINALS

STEPS = 4


def examples(db: jaxrel.Database) -> tuple[Array, Array, Array]:
    """Column 0 of every table from the others: inputs f32[R, 2C - 2], targets f32[R], weights f32[R] (0 where padded or missing)."""
    rows = jnp.arange(db.time.shape[0], dtype=jnp.int32)
    start = db.schema.row_offset[:, None]
    real = jnp.any((rows[None, :] >= start) & (rows[None, :] < start + db.schema.row_count[:, None]), axis=0)
    values = jnp.tanh(jnp.where(db.missing, 0.0, db.values))
    inputs = jnp.concatenate([values[1:], db.missing[1:].astype(jnp.float32)]).T
    return inputs, values[0], (real & ~db.missing[0]).astype(jnp.float32)


class Model(nnx.Module):
    """Two dense layers."""

    def __init__(self, features: int, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(features, 16, rngs=rngs)
        self.out = nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.out(nnx.relu(self.hidden(x)))[:, 0]


KEYS = jnp.concatenate([jax.random.split(jax.random.key(0), STEPS), jax.random.split(jax.random.key(3), 1024 - STEPS)])


@pytest.fixture(scope="module")
def batch(tiny: Any) -> Any:
    """1,024 databases of one call, those of the training steps first, and what the call needs."""
    compiled = jax.jit(jax.vmap(lambda key: jaxrel.sample_database(key, tiny.prior, tiny.capacity))).lower(KEYS).compile()
    return jax.block_until_ready(compiled(KEYS)), compiled.memory_analysis()


def test_a_new_database_in_every_step_of_one_scan(tiny: Any, batch: Any) -> None:
    capacity, traces = tiny.capacity, []
    graph, params = nnx.split(Model(2 * capacity.columns - 2, nnx.Rngs(0)))
    optimiser = optax.sgd(0.05)

    def step(carry: Any, key: Array) -> tuple[Any, tuple[Array, Array, Array]]:
        params, state, prior = carry
        traces.append(1)
        db = jaxrel.sample_database(key, prior, capacity)
        inputs, targets, weights = examples(db)

        def loss(params: Any) -> Array:
            error = nnx.merge(graph, params)(inputs) - targets
            return jnp.sum(weights * error * error) / jnp.maximum(jnp.sum(weights), 1.0)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimiser.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state, prior), (value, db.schema.row_count, db.links.parent_row)

    @jax.jit
    def train(params: Any, state: Any, prior: Any, keys: Array) -> tuple[Any, tuple[Array, Array, Array]]:
        return jax.lax.scan(step, (params, state, prior), keys)

    state = optimiser.init(params)
    (trained, _, _), (losses, rows, parents) = train(params, state, tiny.prior, KEYS[:STEPS])
    traced = len(traces)
    assert np.isfinite(losses).all() and (np.asarray(losses) > 0).all()
    assert len({row.tobytes() for row in np.asarray(rows)}) == STEPS, "two steps saw the same database"
    np.testing.assert_array_equal(rows, batch[0].schema.row_count[:STEPS])  # each step saw the one that its key names
    np.testing.assert_array_equal(parents, batch[0].links.parent_row[:STEPS])
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), params, trained)
    assert any(jax.tree.leaves(moved)), "no parameter moved"

    quieter = jax.tree.map(lambda x: x / 2, tiny.prior.scm.noise)  # another prior is data too
    halved = dataclasses.replace(tiny.prior, scm=dataclasses.replace(tiny.prior.scm, noise=quieter))
    _, (others, _, _) = train(params, state, halved, KEYS[STEPS : 2 * STEPS])
    assert len(traces) == traced, "a second key or prior traced the step again"
    assert train._cache_size() == 1
    assert not np.array_equal(losses, others)


def test_a_thousand_databases_in_one_call(batch: Any) -> None:
    dbs, _ = batch
    assert np.asarray(dbs.fits).all()
    assert dbs.values.shape[0] == 1024
    seen = {row.tobytes() for row in np.asarray(dbs.schema.row_count)}
    assert len(seen) > 1000, "row counts repeat between seeds"
    assert np.isfinite(np.asarray(dbs.values)).all()


def test_a_thousand_databases_fit_in_four_gigabytes(batch: Any) -> None:
    _, memory = batch
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 4e9


def test_gradients_are_those_of_finite_differences(tiny: Any) -> None:
    """Of a prior without jumps: a difference counts cells that jump, a derivative does not."""
    preset, key = tiny.small or tiny, jax.random.key(3)
    capacity, scm, schema = preset.capacity, preset.prior.scm, preset.prior.schema

    def only(names: tuple[str, ...], *kept: str) -> Weights:
        return Weights(weight=jnp.asarray([float(name in kept) for name in names], jnp.float32))

    smooth = {
        "families": only(FAMILIES, "mlp", "matrix", "quadratic", "gaussian_process", "soft_assignment"),
        "activations": only(ACTIVATIONS, "identity", "sigmoid", "tanh", "sine", "gaussian", "softplus", "silu"),
        "marginals": only(MARGINALS, "identity", "normal", "lognormal"),
        "categorical": jnp.float32(0),
    }
    schema = dataclasses.replace(schema, kinds=only(KINDS, "numeric"))
    prior = dataclasses.replace(preset.prior, schema=schema, scm=dataclasses.replace(scm, **smooth))
    db = staged(key, prior, capacity)
    leaves = ("node_noise", "edge_scale", "edge_gain", "column_scale")

    def score(times: dict[str, Array], simulate: Any) -> Array:
        assert db.scm is not None
        scm = dataclasses.replace(db.scm, **{name: getattr(db.scm, name) * times[name] for name in leaves})
        return jnp.mean(jnp.tanh(0.2 * simulate(key, db.schema, db.links, scm).values))

    ones, h = {name: jnp.float32(1) for name in leaves}, 1e-3
    gradient = jax.jit(jax.grad(functools.partial(score, simulate=functools.partial(jaxrel.simulate, capacity=capacity))))(ones)
    for name in leaves:
        high, low = (float(score({**ones, name: jnp.float32(1 + sign * h)}, stages(capacity)[3])) for sign in (1, -1))
        np.testing.assert_allclose(gradient[name], (high - low) / (2 * h), rtol=0.02, atol=1e-6)
        assert abs(float(gradient[name])) > 1e-5


@pytest.mark.slow
def test_gradients_reach_the_prior_under_vmap(tiny: Any) -> None:
    preset = tiny.small or tiny

    def score(noise: Array, key: Array) -> Array:
        law = dataclasses.replace(preset.prior.scm.noise, low=noise, high=noise)
        prior = dataclasses.replace(preset.prior, scm=dataclasses.replace(preset.prior.scm, noise=law))
        return jnp.mean(jnp.square(jnp.tanh(jaxrel.sample_database(key, prior, preset.capacity).values)))

    slope = jax.jit(jax.vmap(jax.grad(score), (None, 0)))(jnp.float32(0.3), jax.random.split(jax.random.key(3), 4))
    assert np.isfinite(slope).all() and len(set(np.asarray(slope).tolist())) == 4
