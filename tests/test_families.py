"""What the peers' priors can say, ours says: how edges are combined, what a tree is, what `default` draws, row by row."""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import databases, each, small
from scipy import special

from jaxrel.edges import combine_edges, edge_values, pack_edges
from jaxrel.families import FAMILIES
from jaxrel.mechanisms import sample_edges
from jaxrel.prior import Range, Weights
from jaxrel.random import named_key
from jaxrel.registry import MARGINALS
from jaxrel.types import ALL_LANES, NO_TABLE, TILE, Combine, Form, Kind, LinkLaw, NodeKind

SMALL = small("default")
W, H, L = SMALL.capacity.width, SMALL.capacity.hidden, SMALL.capacity.layers
B = 32
KEYS = named_key(jnp.asarray([6, 1], jnp.uint32), jnp.arange(B, dtype=jnp.int32))


# ---------------------------------------------------------------- how edges are combined


@jax.jit
def _combine(lanes: jax.Array, scale: jax.Array, code: jax.Array) -> jax.Array:
    """Signals f32[b, W, TILE] of a node over edges that bring lanes f32[b, N, W + 1, TILE] as they are, times f32[b, N]."""
    b, n = scale.shape
    zero, one = jnp.zeros((b, n), jnp.int32), jnp.ones((b, n), jnp.float32)
    names = ("width", "hidden", "layers", "form", "depth")
    edge = {f"edge_{name}": zero for name in names} | {"edge_parent": jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[None], (b, n))}
    edge |= {
        "edge_scale": scale,
        "edge_gain": one,
        "edge_bias": one,
        "edge_density": zero.astype(jnp.uint32),
        "edge_lane": zero + ALL_LANES,
    }
    edge |= {"edge_key": jnp.zeros((b, n, 2), jnp.uint32), "edge_activation": jnp.zeros((b, n, L), jnp.int32)}
    start = jnp.zeros(b, jnp.int32)
    packed, capacity = pack_edges(types.SimpleNamespace(**edge)), dataclasses.replace(SMALL.capacity, edges=n)
    return combine_edges(packed, None, lanes, start, start + n, code, capacity)


@pytest.mark.parametrize("alone", [False, True])
def test_edges_are_summed_multiplied_maxed_or_softly_maxed(alone: bool) -> None:
    codes = np.array([Combine.SUM, Combine.PRODUCT, Combine.MAX, Combine.LOGSUMEXP], np.int32)
    rng = np.random.default_rng(1)
    lanes = rng.normal(size=(4, 3, W + 1, TILE)).astype(np.float32)
    scale = rng.uniform(0.5, 2.0, (4, 3)).astype(np.float32)
    brought = lanes[:, :, :W].astype(np.float64) * scale[:, :, None, None]
    expected = [brought[0].sum(0), brought[1].prod(0), brought[2].max(0), special.logsumexp(brought[3], axis=0)]
    some = [slice(b, b + 1) for b in range(4)] if alone else [slice(4)]
    found = np.concatenate([_combine(lanes[b], scale[b], codes[b]) for b in some])
    np.testing.assert_allclose(found[:3], np.stack(expected[:3]), atol=2e-5)
    np.testing.assert_allclose(found[3], expected[3], atol=2e-4)  # each edge within 5e-5: `jaxrel.random.log1p_exp`


# ---------------------------------------------------------------- oblivious trees


@functools.cache
def _trees(depth: int) -> dict[str, jax.Array]:
    """B single trees of one depth."""
    law = SMALL.prior.scm

    def fixed(n: int) -> Range:
        return Range(low=jnp.int32(n), high=jnp.int32(n), power=jnp.float32(0))

    weight = jnp.asarray([float(name == "tree") for name in FAMILIES], jnp.float32)
    law = dataclasses.replace(law, families=Weights(weight=weight), depth=fixed(depth), hidden=fixed(1 << depth))
    return _sample(law)


_sample = jax.jit(lambda law: sample_edges(KEYS, law, SMALL.capacity))


@jax.jit
def _values(edge: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """f32[B, W, TILE] at f32[B, W, TILE]."""
    ends = {"edge_parent": jnp.zeros(B, jnp.int32), "edge_lane": jnp.full(B, ALL_LANES, jnp.int32), "edge_width": jnp.full(B, W, jnp.int32)}
    row = pack_edges(types.SimpleNamespace(**edge, **ends, edge_key=KEYS))
    return edge_values(row, jnp.concatenate([x, x[:, :1]], axis=1)[:, None], jnp.ones(B, bool), H, L)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_tree_splits_lanes_at_thresholds_that_all_its_branches_share(depth: int) -> None:
    edge = _trees(depth)
    assert (np.asarray(edge["edge_form"]) == Form.TREE).all() and (np.asarray(edge["edge_depth"]) == depth).all()
    cloud = 2 * np.random.default_rng(2).normal(size=(B, W, TILE)).astype(np.float32)
    leaves = [len(np.unique(y.T.round(4), axis=0)) for y in np.asarray(_values(edge, jnp.asarray(cloud)))]
    assert max(leaves) == 2**depth and np.median(leaves) > 2 ** (depth - 1)  # two thresholds of one lane leave some leaves empty
    jumps = [set() for _ in range(B)]  # type: list[set[tuple[int, int]]]
    for start in range(6):  # along each lane from several points: a jump is where it is from every point, if it is there at all
        for lane in range(W):
            x = np.repeat(cloud[:, :, start : start + 1], TILE, axis=2)
            x[:, lane] = np.linspace(-6, 6, TILE, dtype=np.float32)
            y = np.asarray(_values(edge, jnp.asarray(x)))
            for b, at in np.argwhere((np.abs(np.diff(y)) > 1e-4).any(1)):
                jumps[b].add((lane, int(at)))
    splits = np.array([len(found) for found in jumps])
    assert (splits <= depth).all() and np.median(splits) == depth


# ---------------------------------------------------------------- what `default` draws


@functools.cache
def drawn() -> dict[str, np.ndarray]:
    """What stands in the databases of `default`, by its name here, of all nodes, edges, columns and keys together."""
    out: dict[str, list[np.ndarray]] = {}

    def add(**found: Any) -> None:
        for name, x in found.items():
            out.setdefault(name, []).append(np.asarray(x).reshape(-1))

    for db in each(databases("default")):
        schema, scm, links = db.schema, db.scm, db.links
        node = np.arange(scm.node_kind.shape[1]) < scm.node_count[:, None]
        mechanism = node & (scm.node_kind == NodeKind.MECHANISM)
        edge = slice(0, int(scm.edge_start[-1, -1]))
        column = np.arange(schema.column_kind.shape[1]) < schema.column_count[:, None]
        key, itself = schema.fk_parent != NO_TABLE, schema.fk_parent == np.arange(len(schema.fk_parent))[:, None]
        cluster = key & (schema.fk_law == LinkLaw.CLUSTER)
        add(combine=scm.node_combine[mechanism], noise=scm.node_noise[mechanism & (scm.node_classes == 0)], width=scm.node_width[mechanism])
        add(node_classes=scm.node_classes[mechanism], family=scm.edge_family[edge])
        of_family = {name: scm.edge_family[edge] == FAMILIES.index(name) for name in ("mlp", "tree")}
        add(hidden=scm.edge_hidden[edge][of_family["mlp"]], layers=scm.edge_layers[edge][of_family["mlp"]])
        add(depth=scm.edge_depth[edge][of_family["tree"]], trees=(scm.edge_hidden[edge] >> scm.edge_depth[edge])[of_family["tree"]])
        real = column & (schema.column_kind == Kind.NUMERIC)
        add(marginal=scm.column_marginal[real], gaps=schema.column_null[column] / 2**24, columns=schema.column_count[: schema.table_count])
        add(levels=links.levels[cluster], popularity=links.popularity[cluster], inactive=links.inactive[cluster] / 2**24)
        diagonal = np.where(links.levels[cluster] > 0, links.affinity[cluster][:, 0, 0, 0] / 2**32, np.nan)
        add(
            match=diagonal[~np.isnan(diagonal)],
            nulls=schema.fk_null[key & ~itself] / 2**24,
            itself=(key & itself).any(1)[: schema.table_count],
        )
        add(roots=links.roots[key & itself] / 2**24)
        gathered = [(scm.gather_fk[t] == k) & node[t] & (scm.node_kind[t] == NodeKind.GATHER) for t, k in np.argwhere(key & ~itself)]
        add(gathers=np.array([x.sum() for x in gathered]))
    return {name: np.concatenate(x) for name, x in out.items()}


# Of PluRel 2's list: the numbers between which a law is drawn, and the smallest share of its range that the draws must span.
RANGES = {
    "noise": (0.01, 0.5),
    "width": (1, 4),
    "hidden": (2, 16),
    "depth": (1, 4),
    "trees": (1, 8),
    "columns": (3, 12),
    "inactive": (0.0, 0.7),
    "roots": (0.05, 0.5),
    "gathers": (0, 3),
    "match": (0.4, 0.95),
}


@pytest.mark.parametrize("name", RANGES)
def test_draws_stay_inside_and_span_the_published_range(name: str) -> None:
    low, high = RANGES[name]
    found, slack = drawn()[name], 1e-5
    assert found.min() >= low - slack and found.max() <= high + slack
    assert np.ptp(found) >= 0.85 * (high - low)


def test_whatever_is_optional_is_there_sometimes_and_not_always() -> None:
    found = drawn()
    for name, low, high in (("gaps", 0.01, 0.1), ("nulls", 0.01, 0.3), ("levels", 1, 3), ("node_classes", 2, 8)):
        some = found[name][found[name] > 0]
        assert some.min() >= low - 1e-5 and some.max() <= high + 1e-5 and np.ptp(some) >= 0.85 * (high - low), name
        assert 0.05 < np.mean(found[name] > 0) < 0.95, name
    for name, share in (("popularity", 0.5), ("itself", 0.3)):
        assert 0.5 * share < np.mean(found[name] > 0) < min(2 * share, 0.95), name
    assert np.mean(np.abs(found["match"] - 0.9) < 1e-6) > 0.2  # strong ones, the others in between


def test_every_combination_family_and_marginal_comes_up() -> None:
    found = drawn()
    combine = np.bincount(found["combine"], minlength=len(Combine))
    assert combine.argmax() == Combine.SUM and (combine > 0.03 * combine.sum()).all()
    assert (np.bincount(found["family"], minlength=len(FAMILIES)) > 0).all()
    marginal = np.bincount(found["marginal"], minlength=len(MARGINALS))
    for name in ("identity", "uniform", "lognormal", "pareto", "exponential"):
        assert marginal[MARGINALS.index(name)] > 0.03 * marginal.sum(), name
    assert marginal.argmax() == MARGINALS.index("identity")
