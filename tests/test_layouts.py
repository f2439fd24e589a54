"""Random DAGs: every layout at every size keeps its form, and the same graph comes out at any capacity."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrel import presets
from jaxrel.layouts import SAMPLERS, sample_dag
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
        return SAMPLERS[layout](key, jnp.int32(SMALL), row_bits(named_key(key, "pair"), i[None, :], i[:, None]), prior)

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
    sample = jax.jit(jax.vmap(lambda key: SAMPLERS["random_tree"](key, jnp.int32(SMALL), jnp.zeros((SMALL, SMALL), jnp.uint32), PRIOR)))
    degree = np.asarray(sample(keys)).astype(int)
    leaves = ((degree.sum(1) + degree.sum(2)) == 1).sum(1)
    expected = SMALL * (1 - 1 / SMALL) ** (SMALL - 2)  # each label is absent from a Prüfer sequence with this chance
    assert abs(leaves.mean() - expected) < 5 * leaves.std() / np.sqrt(len(keys))


@pytest.mark.parametrize("attach", [1, 2, 5])
def test_barabasi_albert_nodes_attach_to_so_many_and_prefer_hubs(attach: int) -> None:
    found = _barabasi(attach=attach)
    assert (found.sum(1) == np.minimum(np.arange(SMALL), attach)).all()
    if attach == 2:
        degree = found.sum(1) + found.sum(2)
        assert degree.max(1).mean() > 8.2  # 9.1 on average; uniform attachment gives 7.3


_barabasi, _erdos, _watts, _layers = (_plain(n) for n in ("barabasi_albert", "erdos_renyi", "watts_strogatz", "layered"))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.8, 1.0])
def test_erdos_renyi_has_its_share_of_edges(share: float) -> None:
    pairs = len(KEYS) * SMALL * (SMALL - 1) // 2
    assert abs(_erdos(probability=share).sum() - share * pairs) <= 5 * np.sqrt(share * (1 - share) * pairs)


@pytest.mark.parametrize("half", [1, 2, 3])
def test_watts_strogatz_is_a_ring_that_is_rewired(half: int) -> None:
    ring = _watts(neighbours=half, rewire=0.0)
    assert ((ring.sum(1) + ring.sum(2)) == 2 * half).all()
    distance = np.subtract.outer(np.arange(SMALL), np.arange(SMALL)) % SMALL
    near = np.minimum(distance, SMALL - distance) <= half
    assert (ring == np.triu(near, 1)).all()
    wired = _watts(neighbours=half, rewire=0.5)
    kept = (wired & near).sum() / ring.sum()
    by_chance = 0.5 + 0.5 * 2 * half / (SMALL - 1)  # a rewired edge may land near, or where an edge is
    assert 0.45 < kept < by_chance + 0.05 and (wired & ~near).sum() > 0


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_layered_graphs_join_each_layer_to_the_next_only(depth: int) -> None:
    found = _layers(depth=depth, drop=0.1)
    layer = np.arange(SMALL) * depth // SMALL
    adjacent = layer[:, None] + 1 == layer[None, :]
    assert not (found & ~adjacent).any()
    assert found.any(1)[:, layer > 0].all() and found.any(2)[:, layer < depth - 1].all()
    share = found.sum() / (adjacent.sum() * len(KEYS))
    assert 0.88 < share < (0.92 if depth < 8 else 0.95)  # thin layers get some of their edges back
    sparse = _layers(depth=depth, drop=1.0)
    assert sparse.any(1)[:, layer > 0].all() and sparse.sum() < found.sum()


def test_cauchy_graphs_vary_in_density_and_have_hubs(graphs: np.ndarray) -> None:
    found = _plain("cauchy")()
    density = found.sum((1, 2)) / (SMALL * (SMALL - 1) / 2)
    assert density.std() > 0.15 and density.min() < 0.3 and density.max() > 0.7
    out = found.sum(2)[:, : SMALL // 2]
    assert (out.max(1) - out.min(1)).mean() > 5
