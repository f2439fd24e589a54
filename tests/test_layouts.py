"""Random DAGs: every layout at every size keeps its form, and the same graph comes out at any capacity."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrel import presets
from jaxrel.layouts import SAMPLERS, _connect, sample_dag
from jaxrel.prior import LayoutPrior, Range
from jaxrel.random import named_key, row_bits
from jaxrel.registry import LAYOUTS

SMALL, LARGE = 16, 27
PRIOR = presets.load("default").prior.layouts
KEYS = named_key(jnp.asarray([1, 2], jnp.uint32), jnp.arange(40, dtype=jnp.int32))
SIZES = jnp.arange(1, SMALL + 1, dtype=jnp.int32)


def fixed(**leaves: Any) -> LayoutPrior:
    """The prior with some ranges at one value."""

    def leaf(name: str, value: float) -> Any:
        old = getattr(PRIOR, name)
        if not isinstance(old, Range):
            return jnp.float32(value)
        return Range(low=jnp.asarray(value, old.low.dtype), high=jnp.asarray(value, old.high.dtype), power=jnp.float32(0))

    return dataclasses.replace(PRIOR, **{name: leaf(name, value) for name, value in leaves.items()})


def _all(capacity: int) -> Any:
    over_keys = jax.vmap(sample_dag, (0, None, None, None, None))
    over_sizes = jax.vmap(over_keys, (None, None, 0, None, None))
    return jax.jit(jax.vmap(over_sizes, (None, 0, None, None, None)), static_argnums=3)(
        KEYS, jnp.arange(len(LAYOUTS), dtype=jnp.int32), SIZES, capacity, PRIOR
    )


@pytest.fixture(scope="module")
def graphs() -> np.ndarray:
    """bool[layout, size, key, parent, child]."""
    return np.asarray(_all(SMALL))


def _plain(layout: str) -> Any:
    """One layout before components are joined, at size SMALL, for all keys."""

    def one(key: jax.Array, prior: LayoutPrior) -> jax.Array:
        i = jnp.arange(SMALL, dtype=jnp.int32)
        return SAMPLERS[layout](key, i, jnp.int32(SMALL), row_bits(named_key(key, "pair"), i[None, :], i[:, None]), prior)

    run = jax.jit(jax.vmap(one, (0, None)))
    return lambda **leaves: np.asarray(run(KEYS, fixed(**leaves)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_graph_is_a_connected_dag_of_its_size(graphs: np.ndarray, layout: str) -> None:
    found = graphs[LAYOUTS.index(layout)]
    assert not np.tril(found).any()
    for n in range(1, SMALL + 1):
        assert not found[n - 1, :, n:].any() and not found[n - 1, :, :, n:].any()
        both = (found[n - 1] | found[n - 1].swapaxes(1, 2))[:, :n, :n] | np.eye(n, dtype=bool)
        assert np.linalg.matrix_power(both.astype(np.int64), n).all() if n < 12 else _reaches_all(both)


def _reaches_all(both: np.ndarray) -> bool:
    reach = both.astype(float)
    for _ in range(4):
        reach = (reach @ reach > 0).astype(float)
    return bool(reach.all())


def test_capacity_and_vmap_change_no_graph(graphs: np.ndarray) -> None:
    larger = np.asarray(_all(LARGE))
    np.testing.assert_array_equal(larger[..., :SMALL, :SMALL], graphs)
    assert larger.sum() == graphs.sum()
    one = jax.jit(sample_dag, static_argnums=3)
    for layout in range(len(LAYOUTS)):
        np.testing.assert_array_equal(one(KEYS[3], jnp.int32(layout), SIZES[-1], SMALL, PRIOR), graphs[layout, -1, 3])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keys_give_different_graphs(graphs: np.ndarray, layout: str) -> None:
    drawn = graphs[LAYOUTS.index(layout), -1].reshape(len(KEYS), -1)
    assert len(np.unique(drawn, axis=0)) > len(KEYS) // 4


def test_trees_have_one_edge_less_than_nodes(graphs: np.ndarray) -> None:
    away, towards = graphs[LAYOUTS.index("random_tree")], graphs[LAYOUTS.index("reverse_random_tree")]
    for n in range(1, SMALL + 1):
        assert (away[n - 1].sum((1, 2)) == n - 1).all() and (towards[n - 1].sum((1, 2)) == n - 1).all()
        assert (away[n - 1].sum(1)[:, 1:n] == 1).all()  # one parent each
        assert (towards[n - 1].sum(2)[:, : n - 1] == 1).all()  # one child each


def test_random_trees_are_uniform_labelled_trees() -> None:
    keys = named_key(KEYS[0], jnp.arange(4000, dtype=jnp.int32))
    i, none = jnp.arange(SMALL, dtype=jnp.int32), jnp.zeros((SMALL, SMALL), jnp.uint32)
    sample = jax.jit(jax.vmap(lambda key: SAMPLERS["random_tree"](key, i, jnp.int32(SMALL), none, PRIOR)))
    degree = np.asarray(sample(keys)).astype(int)
    leaves = ((degree.sum(1) + degree.sum(2)) == 1).sum(1)
    expected = SMALL * (1 - 1 / SMALL) ** (SMALL - 2)  # each label is absent from a Prüfer sequence with this chance
    assert abs(leaves.mean() - expected) < 5 * leaves.std() / np.sqrt(len(keys))


@pytest.mark.parametrize("attach", [1, 2, 5])
def test_barabasi_albert_nodes_attach_to_so_many_and_prefer_hubs(attach: int) -> None:
    found = _barabasi(attach=attach, sink_drop=0.0)
    node = np.arange(SMALL)
    assert (found.sum(1) == np.where(node <= attach, np.minimum(node, 1), attach)).all()
    assert found[:, 0, 1 : attach + 1].all()  # the star that it grows from
    if attach == 2:
        degree = found.sum(1) + found.sum(2)
        assert degree.max(1).mean() > 8.2  # 9.1 on average; uniform attachment gives 7.3


def test_some_sinks_of_barabasi_albert_lose_one_of_their_parents() -> None:
    whole, thinned, all_thinned = (_barabasi(attach=2, sink_drop=share) for share in (0.0, 0.4, 1.0))
    may = ~whole.any(2) & (whole.sum(1) > 1)  # sinks with two parents
    assert not (thinned & ~whole).any()
    lost = (whole & ~thinned).sum(1)
    assert (lost[~may] == 0).all() and (lost <= 1).all()
    assert abs(lost.sum() - 0.4 * may.sum()) < 4 * np.sqrt(0.24 * may.sum())
    assert ((whole & ~all_thinned).sum(1) == may).all()


_barabasi, _erdos, _watts, _layers = (_plain(n) for n in ("barabasi_albert", "erdos_renyi", "watts_strogatz", "layered"))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.8, 1.0])
def test_erdos_renyi_has_its_share_of_edges(share: float) -> None:
    pairs = len(KEYS) * SMALL * (SMALL - 1) // 2
    either = 1 - (1 - share) ** 2  # a pair may be drawn in both orders
    assert abs(_erdos(probability=share).sum() - either * pairs) <= 5 * np.sqrt(either * (1 - either) * pairs)


@pytest.mark.parametrize("half", [1, 2, 3])
def test_watts_strogatz_is_a_ring_that_is_rewired(half: int) -> None:
    ring = _watts(neighbours=half, rewire=0.0)
    assert ((ring.sum(1) + ring.sum(2)) == 2 * half).all()
    distance = np.subtract.outer(np.arange(SMALL), np.arange(SMALL)) % SMALL
    near = np.minimum(distance, SMALL - distance) <= half
    assert (ring == np.triu(near, 1)).all()
    wired = _watts(neighbours=half, rewire=0.5)
    assert (wired.sum((1, 2)) == half * SMALL).all()  # edges move, none is lost
    moved = (wired & ~near).sum() / ring.sum()
    by_chance = 0.5 * (SMALL - 1 - 2 * half) / (SMALL - 1 - 2 * half + 0.5 * half)  # a free node is near where an edge has left it
    assert abs(moved - by_chance) < 0.08


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_layered_graphs_join_each_layer_to_the_next_only(depth: int) -> None:
    found, sparse = (_layers(depth=depth, drop=drop) for drop in (0.1, 1.0))
    edges = adjacent = 0
    sizes = []
    for graph, thin in zip(found, sparse, strict=True):
        layer = np.zeros(SMALL, int)
        for v in range(1, SMALL):  # every node but those of the first layer has a parent, in the layer before its own
            layer[v] = layer[np.flatnonzero(graph[:, v])].max(initial=-1) + 1
        assert (np.diff(layer) >= 0).all() and layer[-1] == depth - 1
        next_to = layer[:, None] + 1 == layer[None, :]
        assert not ((graph | thin) & ~next_to).any()
        for g in (graph, thin):
            assert g.any(0)[layer > 0].all() and g.any(1)[layer < depth - 1].all()
        edges, adjacent = edges + graph.sum(), adjacent + next_to.sum()
        sizes.append(np.bincount(layer, minlength=depth))
    assert 0.88 < edges / adjacent < (0.92 if depth < 8 else 0.97)  # thin layers get some of their edges back
    assert sparse.sum() < found.sum()
    sizes = np.asarray(sizes)
    spread = (SMALL - depth) * (1 - 1 / depth) / depth  # variance: one node each, the others fall anywhere
    assert 0.5 * spread < sizes.var(axis=0).mean() < 1.6 * spread


def test_components_are_joined_in_a_chain_by_random_members() -> None:
    pieces = np.kron(np.eye(4, dtype=bool), np.triu(np.ones((4, 4), bool), 1))  # four cliques of four
    i = jnp.arange(SMALL, dtype=jnp.int32)
    joined = np.asarray(jax.jit(jax.vmap(_connect, (0, None, None, None)))(KEYS, i, jnp.asarray(pieces), jnp.int32(SMALL)))
    added = joined & ~pieces
    assert (added.sum((1, 2)) == 3).all() and (joined & pieces == pieces).all()
    for k in range(3):
        assert (added[:, 4 * k : 4 * k + 4, 4 * k + 4 : 4 * k + 8].sum((1, 2)) == 1).all()
    assert added[:, :4].any(2).sum(0).min() > 2 and added[:, :, 4:8].any(1).sum(0).min() > 2  # any member may be the one


def test_cauchy_graphs_vary_in_density_and_have_hubs(graphs: np.ndarray) -> None:
    found = _plain("cauchy")()
    density = found.sum((1, 2)) / (SMALL * (SMALL - 1) / 2)
    assert density.std() > 0.15 and density.min() < 0.3 and density.max() > 0.7
    out = found.sum(2)[:, : SMALL // 2]
    assert (out.max(1) - out.min(1)).mean() > 5
