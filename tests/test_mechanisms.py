"""Activations, mechanism families and exogenous series, each against what its name says."""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxrel import presets
from jaxrel.edges import edge_values, pack_edges
from jaxrel.exogenous import exogenous_rows, sample_exogenous
from jaxrel.families import FAMILIES
from jaxrel.mechanisms import activate, compete, first_weights, hidden_weights, out_weights, sample_edges, swapped, tied_weights
from jaxrel.prior import Range, Weights
from jaxrel.random import named_key
from jaxrel.registry import ACTIVATIONS, EXOGENOUS
from jaxrel.types import ALL_LANES, CODE_LANE, KNOTS, TILE, Form

SMALL = presets.load("default").small
assert SMALL is not None
W, H, L = SMALL.capacity.width, SMALL.capacity.hidden, SMALL.capacity.layers
B = 32
KEYS = named_key(jnp.asarray([3, 4], jnp.uint32), jnp.arange(B, dtype=jnp.int32))
X = np.linspace(-6, 6, 12_001)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


EXACT = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.1 * x),
    "abs": np.abs,
    "square": np.square,
    "step": lambda x: (x > 0).astype(float),
    "sign": lambda x: np.where(x > 0, 1.0, -1.0),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: 1.0507 * np.where(x > 0, x, 1.6733 * np.expm1(x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + special.erf(x / np.sqrt(2))),
    "sine": np.sin,
    "cosine": np.cos,
    "gaussian": lambda x: np.exp(-(x**2) / 2),
    "laplace_bump": lambda x: np.exp(-np.abs(x)),
    "hard_sigmoid": lambda x: np.clip(x / 4 + 0.5, 0, 1),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "log_sigmoid": lambda x: -np.logaddexp(0, -x),
    "relu6": lambda x: np.clip(x, 0, 6),
    "tanh_shrink": lambda x: x - np.tanh(x),
    "snake": lambda x: x + np.sin(x) ** 2,
    "signed_square": lambda x: x * np.abs(x),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
    "log_abs": lambda x: np.log1p(np.abs(x)),
    "signed_log": lambda x: np.sign(x) * np.log1p(np.abs(x)),
    "sine_ramp": lambda x: x + np.sin(x),
}
_activate = jax.jit(activate)


def test_every_activation_is_known_here() -> None:
    assert set(ACTIVATIONS) == {*EXACT, "winner", "share"} and len(ACTIVATIONS) >= 30


@pytest.mark.parametrize("name", EXACT)
def test_an_activation_is_near_its_exact_function(name: str) -> None:
    code = jnp.asarray([ACTIVATIONS.index(name)], jnp.int32)
    y = np.asarray(_activate(jnp.asarray(X, jnp.float32)[None, None], jnp.zeros((1, 1)), code, jnp.ones(1, bool)))[0, 0]
    exact = EXACT[name](X.astype(np.float32).astype(float))
    assert np.max(np.abs(y - exact) / np.maximum(1, np.abs(exact))) < 0.05


def test_activations_side_by_side_are_those_alone() -> None:
    codes = jnp.arange(len(ACTIVATIONS), dtype=jnp.int32)
    x = jnp.broadcast_to(jnp.asarray(X, jnp.float32), (len(codes), 1, X.size))
    together = np.asarray(jax.jit(activate)(x, jnp.zeros((len(codes), 1)), codes, jnp.ones(len(codes), bool)))
    for code in range(len(codes)):
        alone = _activate(x[:1], jnp.zeros((1, 1)), codes[code : code + 1], jnp.ones(1, bool))
        np.testing.assert_allclose(together[code], alone[0], atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_units_of_a_group_compete(depth: int) -> None:
    x = jax.random.normal(jax.random.key(depth), (3, 16, 50))
    groups = np.asarray(x, np.float64).reshape(3, 16 >> depth, 1 << depth, 50)
    depths = jnp.asarray([depth, depth, 0], jnp.int32)
    nothing, bias = jnp.zeros_like(x), jax.random.normal(jax.random.key(9), (3, 16))
    less = x - bias[:, :, None]
    groups = np.asarray(less + bias[:, :, None], np.float64).reshape(groups.shape)
    spoken = {
        name: np.asarray(jax.jit(compete)(nothing, less, bias, depths, jnp.full(3, code, jnp.int32))).reshape(groups.shape)
        for name, code in ((name, ACTIVATIONS.index(name)) for name in ("winner", "share", "tanh"))
    }
    for name, code in ((name, ACTIVATIONS.index(name)) for name in ("winner", "share")):  # alone, by a branch of its own
        alone = jax.jit(compete)(nothing[:1], less[:1], bias[:1], depths[:1], jnp.full(1, code, jnp.int32))
        np.testing.assert_array_equal(np.asarray(alone).reshape(groups[:1].shape), spoken[name][:1])
    assert not any(y[2].any() for y in spoken.values()) and not spoken["tanh"].any()
    assert (spoken["winner"][:2].sum(2) == 1).all()
    np.testing.assert_array_equal(spoken["winner"][:2].argmax(2), groups[:2].argmax(2))
    np.testing.assert_allclose(spoken["share"][:2], special.softmax(groups[:2], axis=2), atol=1e-5)


# ---------------------------------------------------------------- families


def only(family: str) -> Any:
    prior = SMALL.prior.scm
    weight = jnp.asarray([float(name == family) for name in FAMILIES], jnp.float32)
    return dataclasses.replace(prior, families=Weights(weight=weight))


_sample = jax.jit(lambda prior: sample_edges(KEYS, prior, SMALL.capacity))


@jax.jit
def _apply(edge: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    by_code = edge["edge_form"] == Form.LOOKUP  # lane W holds codes
    lane, width = jnp.where(by_code, CODE_LANE, ALL_LANES), jnp.where(by_code, 1, W)
    ends = {"edge_parent": jnp.zeros(B, jnp.int32), "edge_lane": lane, "edge_width": width}
    row = pack_edges(types.SimpleNamespace(**edge, **ends, edge_key=KEYS))
    codes = jnp.broadcast_to(jnp.arange(TILE, dtype=jnp.float32) // (TILE // 8), (B, 1, TILE))
    return edge_values(row, jnp.concatenate([x, codes], axis=1)[:, None], jnp.ones(B, bool), H, L)


@functools.cache
def along_a_ray(family: str, reach: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Parameters of B edges of a family, and their values f64[B, W, TILE] along random rays through the parent's lanes."""
    edge = _sample(only(family))
    direction = jax.random.normal(jax.random.key(1), (B, W, 1))
    x = direction * jnp.linspace(-reach, reach, TILE, dtype=jnp.float32)[None, None]
    return jax.device_get(edge), np.asarray(_apply(edge, x), np.float64)


def levels(y: np.ndarray) -> np.ndarray:
    """i64[B, W]: values that a piecewise constant function takes along its ray, counted by its jumps."""
    size = np.maximum(np.abs(y).max(-1, keepdims=True), 1e-3)
    return (np.abs(np.diff(y)) > 1e-5 * size).sum(-1) + 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_finite_values_that_differ(family: str) -> None:
    edge, y = along_a_ray(family, 3.0)
    assert (edge["edge_family"] == FAMILIES.index(family)).all() and edge["fits"].all()
    assert np.isfinite(y).all() and (y.std(-1) > 1e-4).any(1).mean() > 0.9
    assert len(np.unique(y.reshape(B, -1).round(5), axis=0)) > 0.9 * B


@pytest.mark.parametrize("family", ["linear", "matrix"])
def test_linear_edges_are_linear(family: str) -> None:
    _, y = along_a_ray(family, 3.0)
    assert np.abs(np.diff(y, 2)).max() < 1e-5 * np.abs(y).max()


def rank(family: str) -> np.ndarray:
    """i64[B]: dimensions that the values of B edges span over a cloud of points."""
    cloud = jax.random.normal(jax.random.key(5), (B, W, TILE))
    return np.linalg.matrix_rank(np.asarray(_apply(_sample(only(family)), cloud), np.float64), tol=1e-3)


def test_a_matrix_has_the_rank_that_a_linear_edge_lacks() -> None:
    assert rank("linear").max() == 1 and np.median(rank("matrix")) > 1


def test_products_vanish_with_either_factor() -> None:
    """Along a ray a product is a parabola through 0; and with one pair, its rank over all points is that of one product."""
    _, y = along_a_ray("product", 3.0)
    second = y[..., 400:600] - 2 * y[..., 200:400] + y[..., :200]
    assert (np.ptp(second, axis=-1) <= 1e-3 * np.abs(y).max(-1) + 1e-6).all() and np.abs(y[..., TILE // 2 - 1 : TILE // 2 + 1]).max() < 1e-3
    edge = _sample(dataclasses.replace(only("product"), hidden=Range(low=jnp.int32(2), high=jnp.int32(2), power=jnp.float32(0))))
    cloud = jax.random.normal(jax.random.key(5), (B, W, TILE))
    one = np.asarray(_apply(edge, cloud), np.float64)
    assert (np.asarray(edge["edge_hidden"]) == 2).all() and np.linalg.matrix_rank(one, tol=1e-3).max() == 1
    # (u · x)(v · x) takes both signs, as no sum of squares does
    lane = one[np.arange(B), np.abs(one).max(2).argmax(1)]
    assert ((lane.min(1) < 0) & (lane.max(1) > 0)).mean() > 0.8


def test_discretized_edges_take_one_value_a_cell_and_soft_ones_pass_between() -> None:
    edge, hard = along_a_ray("discretize", 3.0)
    assert (levels(hard) <= (1 << edge["edge_depth"])[:, None]).all() and levels(hard).max() > 2  # a line meets a cell once
    edge, soft = along_a_ray("soft_assignment", 3.0)
    assert levels(soft).max() > 100
    size = np.abs(soft).max(-1, keepdims=True)
    assert (np.abs(np.diff(soft)) < 0.2 * size + 1e-6).all()


def test_a_gaussian_process_is_smooth_at_its_length_scale() -> None:
    """The mean squared slope of a draw of length scale 1 / g is g² times its variance."""
    one = dataclasses.replace(only("gaussian_process"), gain=Range(low=jnp.float32(2), high=jnp.float32(2), power=jnp.float32(0)))
    direction = jnp.zeros((B, W, 1)).at[:, 0].set(1.0)
    reach = 40.0
    edge = _sample(dataclasses.replace(one, density=Range(low=jnp.float32(1), high=jnp.float32(1), power=jnp.float32(0))))
    y = np.asarray(_apply(edge, direction * jnp.linspace(-reach, reach, TILE, dtype=jnp.float32)[None, None]), np.float64)
    slope = np.diff(y) / (2 * reach / (TILE - 1))
    expected = (0.7 * 2.0) ** 2 / W  # weights are divided by the root of the lanes that are read
    np.testing.assert_allclose((slope**2).mean() / y.var(), expected, rtol=0.35)


def test_a_lookup_has_a_value_for_each_category() -> None:
    _, y = along_a_ray("lookup", 3.0)  # the codes 0…7 in equal runs
    assert (levels(y) <= 8).all() and np.median(levels(y)) == 8
    blocks = y.reshape(B, W, 8, TILE // 8)
    assert np.ptp(blocks, axis=-1).max() == 0


def test_quadratic_edges_have_constant_second_differences() -> None:
    _, y = along_a_ray("quadratic", 3.0)
    second = y[..., 400:600] - 2 * y[..., 200:400] + y[..., :200]  # wide steps, so that rounding is small against them
    size = np.abs(y).max(-1)
    assert (np.ptp(second, axis=-1) <= 1e-3 * size).all() and (np.abs(second).max(-1) > 0.05 * size).mean() > 0.5


def test_trees_are_piecewise_constant_with_as_many_values_as_leaves() -> None:
    edge, y = along_a_ray("tree", 3.0)
    trees = edge["edge_hidden"] >> edge["edge_depth"]
    assert (edge["edge_depth"] > 0).all() and (trees << edge["edge_depth"] == edge["edge_hidden"]).all()
    assert (levels(y) <= (trees * edge["edge_depth"] + 1)[:, None]).all()  # a ray crosses each threshold once
    assert levels(y).max() > 2


def test_threshold_edges_are_steps() -> None:
    edge, y = along_a_ray("threshold", 3.0)
    assert (levels(y) <= edge["edge_hidden"][:, None] + 1).all() and (edge["edge_depth"] == 0).all()
    assert levels(y).max() > 2


def test_fourier_edges_oscillate_and_stay_bounded() -> None:
    near, far = (along_a_ray("fourier", reach)[1] for reach in (3.0, 12.0))
    assert np.abs(far).max() < 1.5 * np.abs(near).max()
    turns = (np.diff(np.sign(np.diff(far)), axis=-1) != 0).sum(-1)
    assert np.median(turns) > 8


def test_mlps_bend() -> None:
    _, y = along_a_ray("mlp", 3.0)
    second = np.abs(y[..., 400:600] - 2 * y[..., 200:400] + y[..., :200]).max((1, 2))
    assert (second > 1e-2 * np.abs(y).max((1, 2))).mean() > 0.8


def test_weights_do_not_know_the_capacity() -> None:
    @functools.partial(jax.jit, static_argnums=(0, 1))
    def both(w: int, h: int, form: jax.Array) -> Any:
        width, hidden, depth = jnp.int32(3), jnp.int32(8), jnp.int32(2)
        density, gain, shift = jnp.uint32(2**23), jnp.float32(1.5), jnp.float32(0.5)
        dense, dense_bias = first_weights(KEYS[0], width, density, gain, shift, w, h)
        first, bias = tied_weights(KEYS[0], form, width, depth, gain, dense, dense_bias, swapped(dense), w, h)
        out = out_weights(KEYS[0], hidden, density, form, w, h)
        A, b = hidden_weights(KEYS[0], jnp.int32(1), hidden, density, gain, shift, h)
        return (first[:8, :3], bias[:8], out[:3, :8], A[:8, :8], b[:8]), out[:, 8:], A[:, 8:]

    for form in Form:
        (small, *_), (large, unused, later) = both(4, 16, jnp.int32(form)), both(8, 64, jnp.int32(form))
        for a, b in zip(small, large, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        assert not np.any(unused) and not np.any(later)


# ---------------------------------------------------------------- exogenous nodes


def series(**fields: Any) -> dict[str, jax.Array]:
    """B nodes of pure noise, with some fields set."""
    quiet = {"series_trend": 0.0, "series_power": 1.0, "series_cycle": 0.0, "series_noise": 1.0, "series_rho": 0.0} | fields
    node = {name: jnp.broadcast_to(jnp.asarray(value, jnp.float32), (B,)) for name, value in quiet.items()}
    node |= {"series_period": jnp.full(B, 1 << 22, jnp.uint32), "series_phase": jnp.arange(B, dtype=jnp.uint32) << 26}
    node |= {"series_calendar": jnp.zeros(B, jnp.int32)}
    return node | {"noise_knots": jnp.broadcast_to(jnp.linspace(-4, 4, KNOTS, dtype=jnp.float32), (B, KNOTS))}


@jax.jit
def _rows(node: dict[str, jax.Array], first: jax.Array) -> jax.Array:
    rows = first + jnp.broadcast_to(jnp.arange(TILE, dtype=jnp.int32), (B, TILE))
    moment = (rows.astype(jnp.float32) + 0.5) / 4096
    return exogenous_rows(KEYS, node, rows, moment, rows, jnp.any(node["series_rho"] > 0))


def whole(node: dict[str, jax.Array]) -> np.ndarray:
    return np.concatenate([np.asarray(_rows(node, jnp.int32(first)), np.float64) for first in range(0, 4096, TILE)], axis=1)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_autoregressive_noise_has_its_correlation_and_unit_variance(rho: float) -> None:
    z = whole(series(series_rho=rho))
    error = 5 * np.sqrt((1 + rho) / (1 - rho) / z.size)
    assert abs((z[:, 1:] * z[:, :-1]).mean() / z.var() - rho) < error
    assert abs((z[:, 3:] * z[:, :-3]).mean() / z.var() - rho**3) < error
    assert abs(z.var() - 1) < 2 * error and abs(z.mean()) < error
    seams = np.arange(128, 4096, 128)  # runs and tiles begin here; the series goes on
    assert abs(np.corrcoef(z[:, seams].ravel(), z[:, seams - 1].ravel())[0, 1] - rho) < 0.15


def test_trends_and_cycles_are_the_formula() -> None:
    node = series(series_trend=0.7, series_power=1.5, series_cycle=-0.4, series_noise=0.0)
    t = (np.arange(4096) + 0.5) / 4096
    phase = np.asarray(node["series_phase"], np.float64)[:, None] / 2**32
    np.testing.assert_allclose(whole(node), 0.7 * t**1.5 - 0.4 * np.sin(2 * np.pi * (phase + 4 * t)), atol=1e-4)


_laws = jax.jit(lambda prior, is_activity: sample_exogenous(KEYS, prior, is_activity, is_activity))


def laws(family: str, is_activity: bool = True) -> dict[str, jax.Array]:
    weight = jnp.asarray([float(name == family) for name in EXOGENOUS], jnp.float32)
    prior = dataclasses.replace(SMALL.prior.scm, exogenous=Weights(weight=weight), rho=Range(*map(jnp.float32, (0.3, 0.9, 0.0))))
    return _laws(prior, jnp.full(B, is_activity))


def test_series_belong_to_activity_tables() -> None:
    timed, still, normal = laws("series"), laws("series", False), laws("normal")
    assert np.all(timed["series_trend"] != 0) and np.all(timed["series_cycle"] != 0) and np.all(timed["series_noise"] == 0.5)
    assert not np.any(still["series_trend"]) and not np.any(still["series_cycle"]) and np.all(still["series_noise"] == 1)
    assert np.all(still["series_rho"] >= 0.3) and not np.any(normal["series_rho"]) and not np.any(normal["series_trend"])
    z = whole(timed)
    smooth = z.reshape(B, 16, -1).mean(-1)
    assert np.median(smooth.std(1)) > 0.25  # trend and cycle, beside noise of 0.5 that averages out
    assert np.abs(np.asarray(timed["series_trend"])).max() <= 1


@pytest.mark.parametrize("family", ["normal", "uniform"])
def test_plain_noise_follows_its_law(family: str) -> None:
    z = whole(laws(family))
    exact = stats.norm.cdf if family == "normal" else stats.uniform(-np.sqrt(3), 2 * np.sqrt(3)).cdf
    assert stats.ks_1samp(z.ravel(), exact).statistic < (0.005 if family == "normal" else 0.02)
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02


def test_beta_noise_is_a_beta_law() -> None:
    z = whole(laws("beta"))
    assert z.min() > -0.01 and z.max() < 1.01
    means = z.mean(1)
    for row, mean, var in zip(z, means, z.var(1), strict=True):
        size = mean * (1 - mean) / var - 1  # a + b, by moments
        assert 0.9 < size < 10.5
        assert stats.ks_1samp(row, stats.beta(mean * size, (1 - mean) * size).cdf).statistic < 0.06
    assert means.min() < 0.35 and means.max() > 0.65


def test_mixtures_have_several_modes_now_and_then() -> None:
    z = whole(laws("mixture"))
    assert np.abs(z).max() < 8 and 0.2 < z.std(1).min() and z.std(1).max() < 4
    two = [np.sum((h[1:-1] > h[:-2]) & (h[1:-1] > h[2:])) > 1 for h in (np.histogram(row, 12, (-5, 5))[0] for row in z)]
    assert 0.2 < np.mean(two)
    assert (np.diff(np.asarray(laws("mixture")["noise_knots"])) >= 0).all()
